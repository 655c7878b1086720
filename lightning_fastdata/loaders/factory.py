"""One planned loader for any dataset, inside any DataModule: the Trainer is only asked, never changed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_fastdata.compat.rank_zero import log_rank_zero, warn_rank_zero
from lightning_fastdata.errors import FastDataError, check_bool, check_choice, check_int
from lightning_fastdata.hardware.detect import Hardware, probe
from lightning_fastdata.loaders.build import LoaderRequest, build_loader, check_kwargs
from lightning_fastdata.loaders.dataset_traits import DatasetTraits, length_of, traits_of
from lightning_fastdata.loaders.footprint import files_per_batch
from lightning_fastdata.loaders.native_threads import RestoreAffinity, chain_init_fns
from lightning_fastdata.loaders.order import padding
from lightning_fastdata.loaders.planned import PlannedDataLoader, identity_collate
from lightning_fastdata.loaders.sharding import SetShard, iterable_warning, workers_of_engine
from lightning_fastdata.loaders.state.attributes import DEPTH, MOST_OBJECTS
from lightning_fastdata.loaders.state.handles import reduced_file
from lightning_fastdata.loaders.state.held_data import data_attribute
from lightning_fastdata.loaders.state.held_generators import FoundGenerators, find_generators
from lightning_fastdata.loaders.state.worker_lifetime import part_that_hides
from lightning_fastdata.loaders.state.worker_safety import looked_at, rehearsed
from lightning_fastdata.loaders.trainer_context import requested_split, trainer_context
from lightning_fastdata.planning.describe import plan_lines
from lightning_fastdata.planning.plan import LoaderOptions, LoaderPlan, Planning, Split, Workload
from lightning_fastdata.planning.start_method import default_start_method, fork_problem, pickles_beyond, spawn_problem

__all__ = ["auto_dataloader", "check_seed", "log_plan", "make_loader"]

SPLITS: tuple[Split, ...] = ("train", "val", "test", "predict")
SENT_TO_WORKERS = ("collate_fn", "worker_init_fn")
"""Arguments that travel to a worker process beside the dataset."""
PICKLED_SHARE = 0.1
"""Share of the free memory that a dataset may take where it is pickled for each worker."""


def check_seed(seed: int | None) -> int | None:
    """Refuse a seed that is neither None nor a whole number >= 0; returns it as Python's int."""
    return None if seed is None else int(check_int("seed", seed, 0, fix="pass seed=42, or seed=None."))


def log_plan(split: str, plan: LoaderPlan) -> None:
    """Log the plan in a few lines, on rank 0, through Lightning's own messages."""
    log_rank_zero("\n".join(plan_lines(split, plan)))


def auto_dataloader(
    dataset: Any, *, trainer: Any = None, split: Split | None = None, loaders: int = 1, **dataloader_kwargs: Any
) -> DataLoader[Any]:
    """A DataLoader configured for this machine, for a DataModule or LightningModule of your own.

    Use it where ``DataLoader(...)`` stands in a ``*_dataloader`` hook::

        def train_dataloader(self):
            return auto_dataloader(self.train_set, trainer=self.trainer, batch_size=64)

    Args:
        dataset: Any torch dataset.
        trainer: The Trainer (``self.trainer``), from which the device, the ranks and the epoch are read. Without it
            the ranks come from the environment and memory is not pinned.
        split: "train", "val", "test" or "predict"; None takes it from what the Trainer is doing, else from the
            ``*_dataloader`` hook that calls. Training is shuffled unless ``shuffle=False``, as the plan says. Where
            nothing tells the split, nothing is shuffled unless ``shuffle=True``, as by torch's DataLoader.
        loaders: Loaders that this hook returns (count), each made by its own call. Those of training are read together
            and share the workers that one alone would have; those of evaluation follow each other.
        **dataloader_kwargs: Arguments of ``torch.utils.data.DataLoader``; ``num_workers``, ``prefetch_factor``,
            ``pin_memory``, ``persistent_workers`` and ``multiprocessing_context`` may be "auto", which is their
            default. Also ``seed``: an int, or None for one number of ``generator``, else the seed of
            ``seed_everything``, else one number of torch's default generator in each run; ``deterministic``: False
            leaves the random generators alone instead of seeding them for every sample; and ``eval_repeats``: False
            leaves validation and test samples unrepeated, so that some ranks may get one less.

    Returns:
        A torch ``DataLoader`` that Lightning can rebuild. Its plan is logged once.

    Raises:
        FastDataError: An unknown split or argument, or values that cannot work; see ``make_plan``.
    """
    check_choice("split", split, (*SPLITS, None), fix='pass split="train".')
    context, arguments = trainer_context(trainer), dict(dataloader_kwargs)
    split = split or requested_split(trainer)
    orders = "shuffle" in arguments or any(arguments.get(name) is not None for name in ("sampler", "batch_sampler"))
    if split is None and not orders:
        arguments["shuffle"] = False
    request = LoaderRequest(
        dataset,
        split or "train",
        label=split or "this loader",
        seed=check_seed(arguments.pop("seed", None)),
        deterministic=check_bool("deterministic", arguments.pop("deterministic", True)),
        eval_repeats=check_bool("eval_repeats", arguments.pop("eval_repeats", True)),
        arguments=arguments,
        trainer=trainer,
        context=context,
        loaders=check_int("loaders", loaders, 1, fix="pass how many loaders the hook returns."),
        concurrent_pool=trainer is not None and context.fitting and context.validates and split in ("train", "val"),
    )

    def on_plan(plan: LoaderPlan) -> None:
        if context.epoch == 0 or not context.reload_every_n_epochs:  # a reloaded one was logged when it was first made
            shuffled = () if split != "train" or orders else ("training is shuffled; shuffle=False keeps the order",)
            log_plan(request.label, replace(plan, warnings=(*shuffled, *plan.warnings)))

    return make_loader(request, on_plan)


def make_loader(request: LoaderRequest, on_plan: Callable[[LoaderPlan], None]) -> PlannedDataLoader:
    """Check, plan and build one loader; every loader of this package is made here.

    Args:
        request: The loader that is wanted.
        on_plan: Gets the plan before the loader is built.

    Returns:
        The loader.

    Raises:
        FastDataError: An unknown argument, a loader without a single batch, or see ``make_plan``.
    """
    options = check_kwargs(request.arguments, request.context.world_size)
    traits = traits_of(request.dataset)
    samples = _samples_drawn(request, traits)
    hardware = probe(local_world_size=request.context.local_world_size)
    request = replace(request, arguments={**request.arguments, **_worker_arguments(request, traits, hardware)})
    planning = _planning(request, options, traits, hardware, samples)
    planning = _checked(planning, request, traits)
    found = _held_generators(request, traits)
    if found.derived:
        traits = replace(traits, uses_global_rng=True)
    plan = planning.plan()
    repeats: tuple[str, ...] = ()
    if samples is not None and traits.length is not None and request.arguments.get("sampler") is None:
        repeats = _repeats_line(request, traits.length)
    plan = replace(plan, warnings=(*plan.warnings, *found.lines(), *repeats))
    on_plan(plan)
    ranks, workers = request.context.world_size, plan.num_workers
    # Evaluation without repeats has nothing to promise.
    if traits.is_iterable and (request.split == "train" or ranks > 1 or workers > 1):
        warn_rank_zero(iterable_warning(request.dataset, ranks=ranks, workers=workers))
    return build_loader(request, plan, traits=traits, planning=planning)


def _checked(planning: Planning, request: LoaderRequest, traits: DatasetTraits) -> Planning:
    """Where "auto" would take workers: whether the dataset is the same in one, and what loading a sample takes."""
    dataset, known = request.dataset, planning.workload
    # What was assumed of a batch must not keep it from being measured.
    known = replace(known, batch_bytes=known.batch_bytes or 0, tensors_per_batch=known.tensors_per_batch or 0)
    plan = replace(planning, workload=known).plan()
    if plan.num_workers == 0 or traits.is_iterable:
        return planning
    start_method = plan.multiprocessing_context or planning.workload.start_method
    seen = looked_at(dataset, request.arguments, start_method)
    problem = seen.against_workers
    opened = seen.reopened_in_words if problem is None else None
    planning = replace(planning, workload=replace(planning.workload, reopened_files=opened))
    if planning.options.num_workers != "auto":
        for reason in seen.reasons:
            warn_rank_zero(f"{request.label}: num_workers={plan.num_workers} was set by you, but {reason}.")
        return _hiding(planning, request)
    problem = problem or _too_large_to_pickle(request, start_method, planning.hardware)
    tried = rehearsed(dataset, request.arguments, traits, start_method) if problem is None else None
    if tried is not None and tried.problem is not None:
        problem = f"{tried.problem}; {tried.remedy}"
    for large in seen.large if problem is None else ():
        log_rank_zero(f"{request.label}: {large}; {large.remedy}.")
    bound = f"looked at {MOST_OBJECTS:,} objects and {DEPTH} levels at most, not beyond {seen.stopped_at}"
    workload = replace(
        planning.workload,
        worker_problem=problem,
        walk_stopped_at=None if seen.stopped_at is None else bound,
        rehearsed=tried if tried is not None and tried.samples else None,
        data_attribute=None if tried is None else data_attribute(dataset, traits.length),
    )
    planning = replace(planning, workload=workload)
    return _hiding(planning, request) if problem is None else planning


def _hiding(planning: Planning, request: LoaderRequest) -> Planning:
    """Where "auto" would keep workers: whether every change of the dataset could be seen."""
    if planning.options.persistent_workers != "auto" or not planning.plan().persistent_workers:
        return planning
    parts = {"dataset": request.dataset, "collate_fn": request.arguments.get("collate_fn")}
    hides = part_that_hides(parts, generators=not request.deterministic)
    return planning.without_persistence(f"{hides} may change unseen: new workers for each pass") if hides else planning


def _too_large_to_pickle(request: LoaderRequest, start_method: str, hardware: Hardware) -> str | None:
    """Why not even one process is given the dataset: where nothing is forked, pickle makes a copy of it for each."""
    if start_method == "fork" or hardware.ram_available_bytes is None:
        return None
    most = round(PICKLED_SHARE * hardware.ram_available_bytes)
    for name, part in _sent(request).items():
        if pickles_beyond(part, most, reduced_file):
            return (
                f"under {start_method} the {name} is pickled for each worker, which takes more than "
                f"{most / 2**20:,.0f} MiB, a tenth of the free memory; keep the data in a file (np.load(..., "
                'mmap_mode="r") at the first __getitem__), or num_workers=4 if it fits'
            )
    return None


def _held_generators(request: LoaderRequest, traits: DatasetTraits) -> FoundGenerators:
    """The random generators that seed, epoch and sample will decide, beside the global ones."""
    if traits.is_iterable or not request.deterministic:
        return FoundGenerators()
    return find_generators({"dataset": request.dataset, "collate_fn": request.arguments.get("collate_fn")})


def _planning(
    request: LoaderRequest, options: LoaderOptions, traits: DatasetTraits, hardware: Hardware, samples: int | None
) -> Planning:
    """What a loader's plan is made from: the options, the machine and the work.

    Args:
        request: The loader that is wanted.
        options: Its loader options.
        traits: The traits of its dataset.
        hardware: What this process may use.
        samples: Samples this rank draws in an epoch (count); None where that is not known.
    """
    context, split = request.context, request.split
    start_method, fork_risk = default_start_method(), fork_problem()
    spawns = options.multiprocessing_context in ("spawn", "forkserver")
    may_spawn = options.num_workers != 0 and (spawns or start_method != "fork" or fork_risk)
    workload = Workload(
        split=split,
        samples=samples,
        batch_size=request.batch_size,
        batch_bytes=traits.batch_bytes(request.batch_size),
        tensors_per_batch=files_per_batch(),
        in_memory=traits.in_memory,
        is_iterable=traits.is_iterable,
        worker_problem=workers_of_engine(request.dataset) if traits.is_iterable else None,
        loaders=request.loaders,
        concurrent_pool=request.concurrent_pool,
        other_pool=request.other_pool,
        other_pool_started=request.other_pool_started,
        validates_after=context.validates_after,
        replaces_loader=context.reload_every_n_epochs > 0 and context.epoch > 0,
        device_type=context.device_type,
        training_threads=torch.get_num_threads() if context.device_type == "cpu" else None,
        reload_every_n_epochs=context.reload_every_n_epochs if context.fitting else 0,
        single_pass=not context.fitting or (context.max_epochs == 1 and split == "train"),
        start_method=start_method,
        spawn_problem=_spawn_problem(request, traits) if may_spawn else None,
        fork_problem=fork_risk,
    )
    return Planning(options, hardware, workload)


def _sent(request: LoaderRequest) -> dict[str, Any]:
    """What is pickled for a worker that is not forked, by the name the user knows it under."""
    return {"dataset": request.dataset, **{name: request.arguments.get(name) for name in SENT_TO_WORKERS}}


def _spawn_problem(request: LoaderRequest, traits: DatasetTraits) -> str | None:
    """Why workers could not start under spawn or forkserver; the loader sends the files of map-style data itself."""
    dataset, collate_fn, init = request.dataset, request.arguments.get("collate_fn"), "worker_init_fn"
    reduce = None if traits.is_iterable else reduced_file
    problem = spawn_problem({"dataset": dataset, "collate_fn": collate_fn}, reduce=reduce)
    return problem or spawn_problem({init: request.arguments.get(init)})


def _worker_arguments(request: LoaderRequest, traits: DatasetTraits, hardware: Hardware) -> dict[str, Any]:
    """What workers need and cannot find out themselves, before what the user's own ``worker_init_fn`` does."""
    context, own = request.context, request.arguments
    arguments: dict[str, Any] = {}
    if own.get("collate_fn") is None and traits.batched_fetch:
        arguments["collate_fn"] = identity_collate
    set_shard = SetShard(context.rank, context.world_size) if traits.is_iterable and context.world_size > 1 else None
    restore_affinity = RestoreAffinity(hardware.taken_cpus) if hardware.taken_cpus else None
    init = chain_init_fns(set_shard, restore_affinity, own.get("worker_init_fn"))
    return arguments if init is None else {**arguments, "worker_init_fn": init}


def _samples_drawn(request: LoaderRequest, traits: DatasetTraits) -> int | None:
    """Samples this rank draws in an epoch (count), at least a batch; None where only the run will show."""
    if request.arguments.get("batch_sampler") is not None:
        return None
    if traits.length == 0:
        raise FastDataError(
            f"{request.label}: the dataset ({type(request.dataset).__name__}) has 0 samples.",
            expected="at least one sample.",
            fix="look at the path or the filter it was made with, or leave the split out (None).",
        )
    sampler, batch_size = request.arguments.get("sampler"), request.batch_size
    drawn = traits.length if sampler is None else length_of(sampler)
    if drawn is None or traits.is_iterable:
        return None
    ranks = request.share[1] if request.share else 1
    dropped = request.drop_last and sampler is None  # the shares of a user's sampler are filled up by Lightning
    samples = drawn // ranks if dropped else -(-drawn // ranks)
    if request.drop_last and batch_size is not None and samples < batch_size:  # it would end a run in silence
        raise FastDataError(
            f"{request.label}: batch_size={batch_size} with drop_last=True, but only {samples} samples per rank.",
            expected="at least one full batch.",
            fix=f"pass batch_size={samples} or less, or drop_last=False.",
        )
    return samples


def _repeats_line(request: LoaderRequest, length: int) -> tuple[str, ...]:
    """Repeated samples are the one thing that a number of ranks changes: they are said, with the plan.

    Args:
        request: The loader that is wanted.
        length: Samples in its dataset (count).

    Raises:
        FastDataError: Without repeats, ranks of a fit would make unequally many steps.
    """
    if request.share is None or request.batch_size is None or request.drop_last:
        return ()
    ranks, size, repeats = request.share[1], request.batch_size, padding(length, request.share[1])
    if repeats and request.repeats:
        option = "drop_last=True" if request.split == "train" else "eval_repeats=False"
        return (f"{repeats} of {length} samples repeat, so that {ranks} ranks get equally many; not with {option}",)
    if not request.repeats and request.context.fitting and _steps_differ(length, ranks, size):
        # DDP exchanges buffers in every step: what one rank sends would meet another step of the others.
        fitting = (other for other in range(1, length + 1) if not _steps_differ(length, ranks, other))
        fits = min(fitting, key=lambda other: abs(other - size), default=None)
        change = "" if fits is None else f"eval_batch_size={fits} (batch_size={fits} to auto_dataloader), or "
        raise FastDataError(
            f"{request.label}: eval_repeats=False with {length} samples, batch_size={size} and {ranks} ranks: some "
            "ranks would make a step less than others.",
            expected="equally many steps on each rank in a fit, where DDP synchronizes in every step.",
            fix=f"pass {change}eval_repeats=True.",
        )
    return ()


def _steps_differ(length: int, ranks: int, batch_size: int) -> bool:
    """Whether the last global batch, without repeats, has too few samples for a step on each rank."""
    return 0 < length % (ranks * batch_size) < ranks
