"""How many workers, and how many batches ahead: cores first, then what memory and open files allow."""

import math
from typing import NamedTuple

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware import Hardware
from lightning_fastdata.options import LoaderOptions, Reason, Workload

__all__ = ["WorkerChoice", "decide_workers"]

TRAINING_CPUS = 1.0
"""CPUs kept for the training process itself: it launches kernels and must never queue behind a decoder."""
SYSTEM_CPUS = 0.5
"""CPUs left to the operating system, loggers and the pinning thread."""
MOST_AUTO_WORKERS = 16
"""Cap on what "auto" takes without a measurement: beyond it, start-up and memory cost more than they usually give."""
BATCHES_IN_FLIGHT = 4
"""Fewest batches under way (workers x prefetch): at 70 % load the queue model of docs/plan.md gives 6 % stall."""
ASSUMED_SAMPLE_BYTES = 3 * 224 * 224 * 4
"""Stand-in for an unknown sample size: one 224 x 224 RGB image as float32."""
ASSUMED_WORKER_BYTES = 512 * 2**20
"""Allowance for the private memory of one worker until it is measured."""
USED_SHARE = 0.5
"""Share of free memory, shared memory and file descriptors that "auto" may take; the rest is for everybody else."""
FILES_PER_WORKER = 8
"""Pipes and sockets one worker process holds open in the training process (count, rounded up)."""
FILES_PER_BATCH = 4
"""Descriptors a batch in flight may hold: one per tensor under torch's file-descriptor sharing (count, rounded up)."""


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
        workers, reason = _at_least_one_if_asked(options, workload, workers, reason, problem)
    else:
        workers, reason = options.num_workers, Reason("user", "set by you")
        if workers > 0 and problem and start_method != "fork":
            raise FastDataError(
                f"num_workers={workers} for the {workload.split} loader, but {problem}.",
                expected="worker processes that can be started.",
                fix='mend what is named above, or pass num_workers="auto" (it will take 0).',
            )
    if workers == 0:
        return WorkerChoice(0, None, reason, NOTHING_AHEAD)
    prefetch, prefetch_reason = _decide_prefetch(options, workers)
    if options.num_workers == "auto":
        choice = WorkerChoice(workers, prefetch, reason, prefetch_reason)
        return _fit_memory(choice, options, hardware, workload)
    _refuse_what_cannot_run(hardware, workload, workers, prefetch)
    return WorkerChoice(workers, prefetch, reason, prefetch_reason)


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
    cpus = hardware.cpus_per_rank
    kept, kept_text = _kept_for_training(workload)
    spare = cpus - kept
    ranks = "one rank" if hardware.local_world_size == 1 else f"{hardware.local_world_size} ranks on this node"
    cores = f"{cpus:.3g} usable cores ({hardware.rank_binding_limit.source}, {ranks})"
    if spare < SYSTEM_CPUS:
        return 0, Reason("hardware", f"{cores}, {kept_text}: {_nothing_to_spare(cpus, workload)}")
    pool, share_text = _pool(spare, workload)
    workers, reason = pool, Reason("hardware", f"{cores}, {kept_text}{share_text}")
    if workload.is_iterable and workers > 1:
        workers = 1
        reason = Reason("rule", "an IterableDataset repeats its data in every worker unless it uses shard(); set it")
    batches = _batches(workload)
    if batches is not None and workers > batches:
        workers, reason = batches, Reason("rule", f"no more workers than the {batches} batches of this split")
    return workers, reason


def _pool(spare: float, workload: Workload) -> tuple[int, str]:
    """Workers of one loader out of ``spare`` CPUs, and the arithmetic in words.

    Alone, a split takes what the training process and the system leave. Beside another pool the two share one
    process per core that training does not need: a quarter for validation, the rest for training.
    """
    alone = max(1, math.floor(spare - SYSTEM_CPUS))
    text = ", 0.5 left to the system" if spare - SYSTEM_CPUS >= 1 else ""
    if workload.beside_other_pool:
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


def _at_least_one_if_asked(
    options: LoaderOptions, workload: Workload, workers: int, reason: Reason, problem: str | None
) -> tuple[int, Reason]:
    """A user's persistent_workers=True or prefetch_factor=n wins over an "auto" that would take 0 workers."""
    for name, wish in (
        ("persistent_workers", options.persistent_workers is True),
        ("prefetch_factor", isinstance(options.prefetch_factor, int)),
    ):
        if wish and workers == 0:
            if problem:
                raise FastDataError(
                    f"{name}={getattr(options, name)!r} for the {workload.split} loader, but {problem}.",
                    expected="worker processes that can be started.",
                    fix=f'mend what is named above, or leave {name} at "auto".',
                )
            return 1, Reason("user", f"your {name} needs a worker (on its own, auto would take 0: {reason.text})")
    return workers, reason


def _decide_prefetch(options: LoaderOptions, workers: int) -> tuple[int, Reason]:
    wish = options.prefetch_factor
    if isinstance(wish, int):
        return wish, Reason("user", "set by you")
    if wish is None:
        return 2, Reason("user", "set by you: torch's default")
    prefetch = max(2, math.ceil(BATCHES_IN_FLIGHT / workers))
    if prefetch == 2:
        return 2, Reason("rule", "torch's default; deeper only helps uneven loading times")
    return prefetch, Reason("rule", f"with {workers} worker, {prefetch} batches ahead ride out a slow one")


def _batches(workload: Workload) -> int | None:
    if workload.samples is None or not workload.batch_size:
        return None
    return math.ceil(workload.samples / workload.batch_size)


def _batch_bytes(workload: Workload) -> tuple[int, str]:
    if workload.batch_bytes is not None:
        return workload.batch_bytes, f"a batch is {_mib(workload.batch_bytes)}"
    assumed = ASSUMED_SAMPLE_BYTES * (workload.batch_size or 32)
    return assumed, f"a batch is assumed to be {_mib(assumed)} (its size is not known)"


def _most_in_flight(hardware: Hardware, workload: Workload) -> tuple[int, str] | None:
    """Batches that may be under way within this rank's share of /dev/shm; None when that is not known."""
    if hardware.shm_free_bytes is None:
        return None
    per_batch, text = _batch_bytes(workload)
    pools = 2 if workload.beside_other_pool else 1
    share = hardware.shm_free_bytes * USED_SHARE / hardware.local_world_size / pools
    fits = int(share // max(1, per_batch))
    wanted = f"{_mib(hardware.shm_free_bytes)} free in /dev/shm, {text}"
    return fits, f"{wanted}: enlarge it with docker run --shm-size=8g (Kubernetes: an emptyDir of medium: Memory)"


def _most_workers(hardware: Hardware, workload: Workload, prefetch: int) -> list[tuple[int, str]]:
    """For memory and open files, how many workers fit and the sentence to say when that binds."""
    pools = 2 if workload.beside_other_pool else 1
    limits = []
    if hardware.ram_available_bytes is not None:
        per_worker = ASSUMED_WORKER_BYTES + 2 * prefetch * _batch_bytes(workload)[0]
        share = hardware.ram_available_bytes * USED_SHARE / hardware.local_world_size / pools
        text = f"{_mib(hardware.ram_available_bytes)} of memory available, about {_mib(per_worker)} per worker"
        limits.append((int(share // per_worker), text))
    if hardware.open_file_limit is not None:
        share = hardware.open_file_limit * USED_SHARE / pools
        limits.append((int(share // _files(1, prefetch)), f"{hardware.open_file_limit} open files: raise ulimit -n"))
    return limits


def _fit_memory(choice: WorkerChoice, options: LoaderOptions, hardware: Hardware, workload: Workload) -> WorkerChoice:
    """Lower an automatic prefetch first, then the workers, until everything fits."""
    workers, prefetch, reason, prefetch_reason = choice
    assert prefetch is not None  # there are workers, so a prefetch was decided
    in_flight = _most_in_flight(hardware, workload)
    if in_flight is not None and workers * prefetch > in_flight[0]:
        fits, text = in_flight
        if options.prefetch_factor == "auto":
            prefetch, prefetch_reason = max(1, min(prefetch, fits // workers)), Reason("hardware", text)
        if workers * prefetch > fits:
            workers, reason = fits // prefetch, Reason("hardware", text)
    for fits, text in _most_workers(hardware, workload, prefetch):
        if workers > fits:
            workers, reason = fits, Reason("hardware", text)
    if workers > 0:
        return WorkerChoice(workers, prefetch, reason, prefetch_reason)
    for name in ("persistent_workers", "prefetch_factor"):
        if getattr(options, name) not in ("auto", None, False):
            raise FastDataError(
                f"{name}={getattr(options, name)!r} needs a worker process, but none fits: {reason.text}.",
                fix=f'make room as named above, or leave {name} at "auto".',
            )
    return WorkerChoice(0, None, reason, NOTHING_AHEAD)


def _refuse_what_cannot_run(hardware: Hardware, workload: Workload, workers: int, prefetch: int) -> None:
    """The user's own workers are never lowered; what would end in a bus error or EMFILE is refused beforehand."""
    if workload.batch_bytes is not None and hardware.shm_free_bytes is not None:
        needed = workers * prefetch * workload.batch_bytes
        if needed > hardware.shm_free_bytes:
            raise FastDataError(
                f"num_workers={workers} x prefetch_factor={prefetch} x {_mib(workload.batch_bytes)} a batch "
                f"= {_mib(needed)} of shared memory.",
                expected=f"at most the {_mib(hardware.shm_free_bytes)} free in /dev/shm (else a bus error).",
                fix='docker run --shm-size=8g, a smaller prefetch_factor, or num_workers="auto".',
            )
    if hardware.open_file_limit is not None and _files(workers, prefetch) > hardware.open_file_limit:
        raise FastDataError(
            f"num_workers={workers} with prefetch_factor={prefetch} may hold {_files(workers, prefetch)} files open.",
            expected=f"at most the limit of {hardware.open_file_limit} (else 'too many open files').",
            fix='ulimit -n 65536, or num_workers="auto".',
        )


def _files(workers: int, prefetch: int) -> int:
    return workers * (FILES_PER_WORKER + FILES_PER_BATCH * prefetch)


def _mib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"
