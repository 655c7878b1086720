"""How many workers, and how many batches ahead: cores first, then what memory and open files allow."""

import math
from dataclasses import replace
from typing import NamedTuple

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware
from lightning_fastdata.planning.options import (
    PINNING_DEVICES,
    LoaderOptions,
    Pool,
    Reason,
    Rehearsed,
    Workload,
    needs_workers,
)
from lightning_fastdata.planning.preflight import (
    FAILURE_MODES,
    FIXES,
    LABELS,
    Resource,
    ResourceCaps,
    amount,
    preflight,
    resource_caps,
)

__all__ = ["WorkerChoice", "decide_workers"]

TRAINING_CPUS = 1.0
"""CPUs kept for the training process itself: it launches kernels and must never queue behind a decoder."""
SYSTEM_CPUS = 0.5
"""CPUs left to the operating system, loggers and the pinning thread."""
MOST_AUTO_WORKERS = 16
"""Cap on what "auto" takes without a measurement: beyond it, start-up and memory cost more than they usually give."""
BATCHES_IN_FLIGHT = 4
"""Fewest batches under way (workers x prefetch): at 70 % load the queue model of docs/plan.md gives 6 % stall."""
HANDOVER_S = 0.4e-3
"""What this process needs to take over a batch from a worker (s), where the rehearsal did not take less."""
HANDOVER_TENSOR_S = 0.25e-3
"""The same for each tensor in it (s); both from benchmarks/handing_over.py."""
CHEAP_SHARE = 1.0
"""Loading a batch here is cheap up to this share of the time of taking one over from a worker."""
CHEAP_SHARE_IN_MEMORY = 4.0
"""The same for data in memory: a worker would save a few milliseconds a step, for its start and a copy of the data."""
UNEVEN = 4.0
"""Times the limit for the quickest sample that the mean one may take (ratio): beyond it some samples are dear."""


class WorkerChoice(NamedTuple):
    """The two options that share one budget."""

    num_workers: int
    """Worker processes (count)."""
    prefetch_factor: int | None
    """Batches per worker prepared ahead (count); None with 0 workers."""
    workers_reason: Reason
    """Why that many workers."""
    prefetch_reason: Reason
    """Why that many batches."""
    warnings: tuple[str, ...] = ()
    """What comes near a limit of the machine, a line each."""


WIN_A_WORKER = ("persistent_workers", "prefetch_factor")
"""Options of the user for which "auto" starts a worker where it would take none."""
STREAM = (
    "an IterableDataset decides itself what each worker loads, and may continue where it stopped: num_workers=2 if it "
    "gives each worker a part of its own (shard())"
)
NOTHING_AHEAD = Reason("rule", "0 workers prefetch nothing")


def decide_workers(options: LoaderOptions, hardware: Hardware, workload: Workload, start_method: str) -> WorkerChoice:
    """Decide ``num_workers`` and ``prefetch_factor``.

    Args:
        options: What the user asked for.
        hardware: What this process may use.
        workload: What the loader has to do.
        start_method: How worker processes would be started.

    Returns:
        Both values with their reasons.

    Raises:
        FastDataError: The user's workers could not be started, or could not run on this machine.
    """
    problem = _start_problem(workload, start_method)
    if options.num_workers == "auto":
        workers, reason = _auto_workers(hardware, workload, problem)
        if workers == 0:
            workers, reason = _one_if_asked(options, workload, reason, problem)
    else:
        workers, reason = options.num_workers, Reason("user", "set by you")
        if workers > 0 and problem and start_method != "fork":
            raise FastDataError(
                f"num_workers={workers} for the {workload.split} loader, but {problem}.",
                expected="worker processes that can be started.",
                fix='mend what is named above, or pass num_workers="auto" (it will take 0).',
            )
    if workers == 0:
        return _with_bound(WorkerChoice(0, None, reason, NOTHING_AHEAD), options, workload)
    prefetch, prefetch_reason = _decide_prefetch(options, workers)
    choice = WorkerChoice(workers, prefetch, reason, prefetch_reason)
    if options.num_workers == "auto":
        choice, lowered = _fit(choice, options, workload, _caps_of_auto(options, hardware, workload))
    else:
        choice, lowered = _fit_prefetch(choice, options, hardware, workload)
    return _with_bound(_run_preflight(choice, options, hardware, workload, lowered), options, workload)


def _with_bound(choice: WorkerChoice, options: LoaderOptions, workload: Workload) -> WorkerChoice:
    """The reason says where the look at the dataset ended, if it did not see everything."""
    if options.num_workers != "auto" or workload.walk_stopped_at is None:
        return choice
    source, text = choice.workers_reason.source, choice.workers_reason.text
    return choice._replace(workers_reason=Reason(source, f"{text} ({workload.walk_stopped_at})"))


def _start_problem(workload: Workload, start_method: str) -> str | None:
    """Why worker processes must not be started this way; None when they may."""
    if start_method == "fork":
        return workload.fork_problem
    return f"under {start_method}, {workload.spawn_problem}" if workload.spawn_problem else None


def _auto_workers(hardware: Hardware, workload: Workload, problem: str | None) -> tuple[int, Reason]:
    if workload.in_memory:
        return 0, Reason("rule", "the data is in memory: a worker would only copy it")
    if problem:
        return 0, Reason("rule", f"worker processes cannot be started safely: {problem}")
    if workload.is_iterable:
        return 0, Reason("rule", workload.worker_problem or STREAM)
    if workload.worker_problem:
        return 0, Reason("rule", workload.worker_problem)
    if cheap := _cheap(workload):
        return 0, Reason("measured", cheap)
    cpus = hardware.cpus_per_rank
    kept, kept_text = _kept_for_training(workload)
    spare = cpus - kept
    ranks = "one rank" if hardware.local_world_size == 1 else f"{hardware.local_world_size} ranks on this node"
    cores = f"{cpus:.3g} usable cores ({hardware.rank_binding_limit.source}, {ranks})"
    if spare < SYSTEM_CPUS:
        return 0, Reason("hardware", f"{cores}, {kept_text}: {_nothing_to_spare(cpus, workload)}")
    pool, share_text = _pool(spare, workload)
    workers, reason = pool, Reason("hardware", f"{cores}, {kept_text}{share_text}")
    batches = _batches(workload)
    if batches is not None and workers > batches:
        workers, reason = batches, Reason("rule", f"no more workers than the {batches} batches of this split")
    return workers, reason


def _cheap(workload: Workload) -> str | None:
    """Why loading here costs less than taking batches over from workers; None where it costs more, or is not known.

    The quickest sample decides: the first ones of a new process are slower than those that follow.
    """
    tried, attribute = workload.rehearsed, workload.data_attribute
    if tried is None or not workload.batch_size or tried.quickest_s is None or tried.sample_wall_s is None:
        return None
    rule_of_thumb = HANDOVER_S + HANDOVER_TENSOR_S * (tried.batch_tensors or 0)
    transfer_s = rule_of_thumb if tried.transfer_s is None else min(tried.transfer_s, rule_of_thumb)
    most_s = transfer_s * CHEAP_SHARE * (CHEAP_SHARE_IN_MEMORY if attribute else 1.0)
    batch_s, mean_s = (workload.batch_size * sample_s for sample_s in (tried.quickest_s, tried.sample_wall_s))
    if batch_s > most_s or mean_s > UNEVEN * most_s:
        return None
    where = f"the data is in memory ({attribute}) and cheap" if attribute else "the data is cheap"
    return (
        f"{where}: a batch takes about {1e3 * batch_s:.2g} ms here, "
        f"and {1e3 * transfer_s:.2g} ms to take over from a worker"
    )


def _pool(spare: float, workload: Workload) -> tuple[int, str]:
    """Workers of one loader out of ``spare`` CPUs, and the arithmetic in words.

    Alone, a split takes what the training process and the system leave. Beside another pool the two share one
    process per core that training does not need: a quarter for validation, the rest for training.
    """
    alone = max(1, math.floor(spare - SYSTEM_CPUS))
    text = ", 0.5 left to the system" if spare - SYSTEM_CPUS >= 1 else ""
    if workload.concurrent_pool:
        processes = min(MOST_AUTO_WORKERS, max(1, math.floor(spare)))
        for_validation = max(1, processes // 4) if processes > 1 else 0
        pool = for_validation if workload.split == "val" else min(alone, processes - for_validation)
        other = "training" if workload.split == "val" else "validation"
        if pool == 0:
            text += f"; the one worker that fits serves {other}"
        elif pool < alone:
            text += f"; {processes} workers shared with {other}"
    else:
        pool = alone
    if pool > MOST_AUTO_WORKERS:
        pool, text = MOST_AUTO_WORKERS, f"{text}; never more than {MOST_AUTO_WORKERS} without a measurement"
    if workload.split == "train" and workload.loaders > 1:
        pool, text = pool // workload.loaders, f"{text}; {pool} shared by {workload.loaders} training loaders"
    return pool, text


def _kept_for_training(workload: Workload) -> tuple[float, str]:
    """CPUs that training itself needs: one process, or as many as it has threads when the CPU computes the model.

    A worker on a core that one of torch's threads computes on makes all of them wait for that thread: on two cores,
    two threads and one worker were slower than no worker at all (docs/decisions.md).
    """
    threads = workload.training_threads
    if threads is None or threads <= TRAINING_CPUS:
        return TRAINING_CPUS, "1 kept for the training process"
    return float(threads), f"{threads} kept for the threads that train on the CPU"


def _nothing_to_spare(cpus: float, workload: Workload) -> str:
    fewer = max(1, math.ceil(cpus / 2))
    if workload.training_threads is None or workload.training_threads <= fewer or cpus - fewer < SYSTEM_CPUS:
        return "nothing to spare for workers"
    return f"torch.set_num_threads({fewer}) before training would leave some for workers"


def _one_if_asked(
    options: LoaderOptions, workload: Workload, reason: Reason, problem: str | None
) -> tuple[int, Reason]:
    """A user's persistent_workers=True or prefetch_factor=n wins over an "auto" that would take 0 workers."""
    for name in WIN_A_WORKER:
        if needs_workers(options, name):
            if problem:
                raise FastDataError(
                    f"{name}={getattr(options, name)!r} for the {workload.split} loader, but {problem}.",
                    expected="worker processes that can be started.",
                    fix=f'mend what is named above, or leave {name} at "auto".',
                )
            return 1, Reason("user", f"your {name} needs a worker (on its own, auto would take 0: {reason.text})")
    return 0, reason


def _decide_prefetch(options: LoaderOptions, workers: int) -> tuple[int, Reason]:
    requested = options.prefetch_factor
    if isinstance(requested, int):
        return requested, Reason("user", "set by you")
    if requested is None:
        return 2, Reason("user", "set by you: torch's default")
    prefetch = max(2, math.ceil(BATCHES_IN_FLIGHT / workers))
    if prefetch == 2:
        return 2, Reason("rule", "torch's default; deeper only helps uneven loading times")
    return prefetch, Reason("rule", f"with {workers} worker, {prefetch} batches ahead ride out a slow one")


def _batches(workload: Workload) -> int | None:
    if workload.samples is None or not workload.batch_size:
        return None
    return math.ceil(workload.samples / workload.batch_size)


def _caps_of_auto(options: LoaderOptions, hardware: Hardware, workload: Workload) -> ResourceCaps:
    """What a loader may take whose workers "auto" decides."""
    pools = 2 if workload.concurrent_pool and workload.other_pool is None else 1
    together = workload.loaders if workload.split == "train" else 1  # those of evaluation follow each other
    return resource_caps(hardware, _workers_of(options, workload), workload.other_pool, shared_by=pools * together)


def _workers_of(options: LoaderOptions, workload: Workload, num_workers: int = 1, prefetch_factor: int = 1) -> Pool:
    """Workers of a loader, and what they and their batches take: what was declared, else what was tried."""
    automatic, tried = options.pin_memory == "auto", workload.rehearsed or Rehearsed()
    declared = {"batch_bytes": workload.batch_bytes, "tensors_per_batch": workload.tensors_per_batch}
    measured = {"batch_bytes": tried.batch_bytes, "tensors_per_batch": tried.batch_tensors}
    sizes = {name: measured[name] if size is None else size for name, size in declared.items()}
    return Pool(
        num_workers,
        prefetch_factor,
        **sizes,
        measured=tuple(name for name, size in sizes.items() if declared[name] is None and size is not None),
        worker_bytes=workload.worker_bytes,
        pin_memory=workload.device_type in PINNING_DEVICES if automatic else bool(options.pin_memory),
        batch_size=workload.batch_size,
        batches=_batches(workload),
    )


def _fit(
    choice: WorkerChoice, options: LoaderOptions, workload: Workload, limits: ResourceCaps
) -> tuple[WorkerChoice, set[Resource | None]]:
    """Lower an automatic prefetch first, then the workers, until everything fits; and what made that necessary."""
    workers, prefetch, reason, prefetch_reason, _ = choice
    assert prefetch is not None  # there are workers, so a prefetch was decided
    lowered: set[Resource | None] = set()
    automatic = options.prefetch_factor == "auto"
    lowest = max(1, min(prefetch, limits.prefetch(workers).most)) if automatic else prefetch
    most = limits.workers(lowest)
    if workers > most.most:
        workers, reason = most.most, Reason("hardware", most.reason)
        lowered.add(most.name)
    if workers == 0:
        _one_if_asked(options, workload, reason, f"no worker process fits: {reason.text}")
        return WorkerChoice(0, None, reason, NOTHING_AHEAD), lowered
    if automatic:
        prefetch, prefetch_reason = _decide_prefetch(options, workers)
        deepest = limits.prefetch(workers)
        if prefetch > deepest.most:
            prefetch, prefetch_reason = max(1, deepest.most), Reason("hardware", deepest.reason)
            lowered.add(deepest.name)
    return WorkerChoice(workers, prefetch, reason, prefetch_reason), lowered


def _fit_prefetch(
    choice: WorkerChoice, options: LoaderOptions, hardware: Hardware, workload: Workload
) -> tuple[WorkerChoice, set[Resource | None]]:
    """The user's workers are never lowered; an automatic prefetch is, where the size of a batch is known."""
    sizes = _workers_of(options, workload)
    if options.prefetch_factor != "auto" or sizes.batch_bytes is None:
        return choice, set()
    known = replace(workload, worker_bytes=workload.worker_bytes or 0, tensors_per_batch=sizes.tensors_per_batch or 0)
    deepest = _caps_of_auto(options, hardware, known).prefetch(choice.num_workers)
    if choice.prefetch_factor is None or choice.prefetch_factor <= deepest.most:
        return choice, set()
    lowered = choice._replace(prefetch_factor=max(1, deepest.most), prefetch_reason=Reason("hardware", deepest.reason))
    return lowered, {deepest.name}


def _run_preflight(
    choice: WorkerChoice,
    options: LoaderOptions,
    hardware: Hardware,
    workload: Workload,
    lowered: set[Resource | None],
) -> WorkerChoice:
    """Refuse a choice that is sure to end in a bus error, EMFILE or OOM; add a warning for each limit that is near."""
    workers, prefetch = choice.num_workers, choice.prefetch_factor
    if workers == 0 or prefetch is None:
        return choice
    pool = _workers_of(options, workload, workers, prefetch)
    other = None if workload.other_pool_started else workload.other_pool
    together = other is not None and _full_together(workload, pool, other)
    demands = preflight(hardware, pool, other, filled_together=together)
    fatal = next((demand for demand in demands if demand.fatal), None)
    if fatal is not None and options.num_workers != "auto" and not workload.replaces_loader:
        others = "training's" if workload.split == "val" else "validation's"
        beside = f" beside {others} {other.num_workers}" if other and together else ""
        raise FastDataError(
            f"num_workers={workers} with prefetch_factor={prefetch} for the {workload.split} loader{beside}: "
            f"{LABELS[fatal.name]} would have to hold {amount(fatal.name, fatal.least)} ({fatal.sure}).",
            expected=f"at most {amount(fatal.name, fatal.allowed)}; more ends in {FAILURE_MODES[fatal.name]}.",
            fix=f'{FIXES[fatal.name]}; or a smaller prefetch_factor, or num_workers="auto".',
        )
    lines = [demand.line for demand in demands if demand.name in lowered or demand.verdict != "fits"]
    return choice._replace(warnings=tuple(lines))


def _full_together(workload: Workload, pool: Pool, other: Pool) -> bool:
    """Whether validation surely finds the training queue full: in mid-epoch, with enough of the epoch left."""
    training = pool if workload.split == "train" else other
    if workload.validates_after is None or training.batches is None:
        return False
    return training.num_workers * training.prefetch_factor <= (1 - workload.validates_after) * training.batches
