"""One planned loader for any dataset, inside any DataModule: the Trainer is only asked, never changed."""

import logging
import os
import weakref
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware, probe
from lightning_fastdata.loaders.batch_fetch import fetches_batches
from lightning_fastdata.loaders.build import RestoreAffinity, build_loader, check_kwargs, is_in_memory
from lightning_fastdata.loaders.footprint import batch_bytes_of, files_per_batch
from lightning_fastdata.loaders.order import padding
from lightning_fastdata.loaders.planned import PlannedDataLoader, identity_collate
from lightning_fastdata.loaders.resumable import no_trainer
from lightning_fastdata.loaders.samplers import length_of
from lightning_fastdata.loaders.sharding import SetShard, iterable_warning
from lightning_fastdata.loaders.trainer_context import TrainerContext, trainer_context
from lightning_fastdata.planning.describe import plan_lines
from lightning_fastdata.planning.options import FIELDS, Pool
from lightning_fastdata.planning.plan import LoaderOptions, LoaderPlan, Planning, Split, Workload
from lightning_fastdata.planning.start_method import default_start_method, fork_problem, spawn_problem

__all__ = [
    "auto_dataloader",
    "log_plan",
    "log_rank_zero",
    "make_loader",
    "planning_for",
    "resolve_seed",
]

SPLITS: tuple[Split, ...] = ("train", "val", "test", "predict")
DEFAULT_SEED = 42


def resolve_seed(seed: int | None, environ: Mapping[str, str] | None = None) -> int:
    """The seed in force: the given one, else that of ``seed_everything`` (``PL_GLOBAL_SEED``), else 42.

    Args:
        seed: The user's seed, or None.
        environ: Environment variables; None: those of this process.

    Returns:
        A whole number >= 0.

    Raises:
        FastDataError: The given seed is none.
    """
    if seed is not None:
        if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
            raise FastDataError(f"seed={seed!r}.", expected="a whole number >= 0.", fix="pass seed=42, or seed=None.")
        return int(seed)
    value = (os.environ if environ is None else environ).get("PL_GLOBAL_SEED", "")
    return int(value) if value.isdecimal() else DEFAULT_SEED


def planning_for(
    dataset: Any,
    facts: TrainerContext,
    split: Split,
    requested: Mapping[str, Any],
    *,
    batch_size: int | None,
    parts: Mapping[str, Any],
    hardware: Hardware,
    samples: int | None = None,
    loaders: int = 1,
    concurrent_pool: bool = False,
    other_pool: Pool | None = None,
    other_pool_started: bool = False,
) -> Planning:
    """What a loader's plan is made from.

    Args:
        dataset: The dataset it will serve.
        facts: What is known of the Trainer.
        split: Which part of the data.
        requested: Loader options by name, "auto" or the user's value; those not named are "auto".
        batch_size: Samples per batch and rank (count).
        parts: What else a worker receives, by name (``collate_fn``, ``worker_init_fn``).
        loaders: Loaders of this split (count).
        concurrent_pool: Whether the workers of another split live at the same time.
        other_pool: Those workers, where the user has set their number.
        other_pool_started: Whether they may have been started already.
        hardware: What this process may use.
        samples: Samples this rank draws in an epoch (count); None where that is not known.

    Returns:
        The wishes, the machine and the work; ``plan`` decides.

    Raises:
        FastDataError: A wish that cannot be meant.
    """
    options = LoaderOptions(**{name: requested[name] for name in FIELDS if name in requested})
    start_method, fork_risk = default_start_method(), fork_problem()
    spawns = options.multiprocessing_context in ("spawn", "forkserver")
    may_spawn = options.num_workers != 0 and (spawns or start_method != "fork" or fork_risk)
    is_iterable = isinstance(dataset, IterableDataset)
    workload = Workload(
        split=split,
        samples=samples,
        batch_size=batch_size,
        batch_bytes=batch_bytes_of(dataset, batch_size),
        tensors_per_batch=files_per_batch(),
        in_memory=is_in_memory(dataset),
        is_iterable=is_iterable,
        loaders=loaders,
        concurrent_pool=concurrent_pool,
        other_pool=other_pool,
        other_pool_started=other_pool_started,
        validates_after=facts.validates_after,
        replaces_loader=facts.reload_every_n_epochs > 0 and facts.epoch > 0,
        device_type=facts.device_type,
        training_threads=torch.get_num_threads() if facts.device_type == "cpu" else None,
        reload_every_n_epochs=facts.reload_every_n_epochs if facts.fitting else 0,
        single_pass=not facts.fitting or (facts.max_epochs == 1 and split == "train"),
        start_method=start_method,
        spawn_problem=spawn_problem({"dataset": dataset, **parts}) if may_spawn else None,
        fork_problem=fork_risk,
    )
    return Planning(options, hardware, workload)


def log_plan(split: str, plan: LoaderPlan) -> None:
    """Say the plan in a few lines, on rank 0, through Lightning's own messages."""
    log_rank_zero("\n".join(plan_lines(split, plan)))


def log_rank_zero(text: str) -> None:
    """Say something on rank 0, through Lightning's own messages."""
    from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only

    if getattr(rank_zero_only, "rank", None) is None:  # without Lightning nobody has said which rank this is
        logging.getLogger(__name__).info(text)
    else:
        rank_zero_info(text)


def auto_dataloader(
    dataset: Any, *, trainer: Any = None, split: Split = "train", loaders: int = 1, **dataloader_kwargs: Any
) -> DataLoader[Any]:
    """A DataLoader configured for this machine, for a DataModule or LightningModule of your own.

    Use it where ``DataLoader(...)`` stands in a ``*_dataloader`` hook::

        def train_dataloader(self):
            return auto_dataloader(self.train_set, trainer=self.trainer, batch_size=64)

    Args:
        dataset: Any torch dataset.
        trainer: The Trainer (``self.trainer``), from which the device, the ranks and the epoch are read. Without it
            the ranks come from the environment and memory is not pinned.
        split: "train", "val", "test" or "predict". Training is shuffled unless ``shuffle=False``.
        loaders: Loaders that this hook gives (count), each made by its own call. Those of training are read together
            and share the workers that one alone would have; those of evaluation follow each other.
        **dataloader_kwargs: Arguments of ``torch.utils.data.DataLoader``; ``num_workers``, ``prefetch_factor``,
            ``pin_memory``, ``persistent_workers`` and ``multiprocessing_context`` may be "auto", which is their
            default. Also ``seed``: an int, or None to follow ``seed_everything``; and ``deterministic``: False leaves
            the random generators alone instead of seeding them for every sample.

    Returns:
        A torch ``DataLoader`` that Lightning can rebuild. Its plan is told once.

    Raises:
        FastDataError: An unknown split or argument, or values that cannot work; see ``make_plan``.
    """
    if split not in SPLITS:
        raise FastDataError(f"split={split!r}.", expected=f"one of {', '.join(SPLITS)}.", fix='pass split="train".')
    if isinstance(loaders, bool) or not isinstance(loaders, Integral) or loaders < 1:
        raise FastDataError(
            f"loaders={loaders!r}.", expected="a whole number >= 1.", fix="pass how many loaders the hook gives."
        )
    kwargs = dict(dataloader_kwargs)
    seed = resolve_seed(kwargs.pop("seed", None))
    deterministic = kwargs.pop("deterministic", True)
    facts = trainer_context(trainer)
    beside = trainer is not None and facts.fitting and facts.validates and split in ("train", "val")

    def on_plan(plan: LoaderPlan) -> None:
        if facts.epoch == 0 or not facts.reload_every_n_epochs:  # a loader made anew was told when it was first made
            log_plan(split, plan)

    return make_loader(
        dataset,
        facts,
        split,
        kwargs,
        where=split,
        seed=seed,
        deterministic=deterministic,
        trainer=trainer,
        loaders=int(loaders),
        concurrent_pool=beside,
        on_plan=on_plan,
    )


def make_loader(
    dataset: Any,
    facts: TrainerContext,
    split: Split,
    kwargs: Mapping[str, Any],
    *,
    where: str,
    seed: int,
    on_plan: Callable[[LoaderPlan], None],
    deterministic: bool = True,
    trainer: Any = None,
    part: str | None = None,
    loaders: int = 1,
    concurrent_pool: bool = False,
    other_pool: Pool | None = None,
    other_pool_started: bool = False,
) -> PlannedDataLoader:
    """Check, plan and build one loader; every loader of this package is made here.

    Args:
        dataset: The dataset it will serve.
        facts: What is known of the Trainer.
        split: Which part of the data.
        kwargs: Arguments of torch's DataLoader, where the loader options may be "auto".
        where: Names the loader in messages.
        seed: Decides the order and the random numbers of every sample, >= 0.
        on_plan: Gets the plan before the loader is built.
        deterministic: Whether random generators are seeded for every sample.
        trainer: The Trainer, or None; the loader asks it where training is.
        part: Its name among several loaders of the split; None = the only one.
        loaders: Loaders of this split (count).
        concurrent_pool: Whether the workers of another split live at the same time.
        other_pool: Those workers, where the user has set their number.
        other_pool_started: Whether they may have been started already.

    Returns:
        The loader.

    Raises:
        FastDataError: An unknown argument, a loader without a single batch, or see ``make_plan``.
    """
    check_kwargs(kwargs, facts.world_size)
    rest = dict(kwargs)
    requested = {name: rest.pop(name) for name in FIELDS if name in rest}
    batch_size, drop_last = rest.pop("batch_size", 1), rest.pop("drop_last", False)
    if rest.get("batch_sampler") is not None:
        samples = batch_size = None
    else:
        samples = _samples_drawn(where, dataset, rest.get("sampler"), facts, drop_last=drop_last)
        _check_batches(where, samples, batch_size, drop_last)
    hardware = probe(local_world_size=facts.local_world_size)
    rest.update(_worker_parts_of_ours(dataset, facts, hardware, rest))
    planning = planning_for(
        dataset,
        facts,
        split,
        requested,
        samples=samples,
        batch_size=batch_size,
        parts=worker_parts(rest),
        loaders=loaders,
        concurrent_pool=concurrent_pool,
        other_pool=other_pool,
        other_pool_started=other_pool_started,
        hardware=hardware,
    )
    plan = planning.plan()
    on_plan(plan)
    share = None if split == "predict" else facts.share  # there Lightning deals, and keeps track of the indices
    if isinstance(dataset, IterableDataset):
        _say_iterable(dataset, split, facts.world_size, plan.num_workers)
    elif share and samples is not None and rest.get("sampler") is None and batch_size is not None:
        _say_padding(where, dataset, share[1], batch_size, drop_last=drop_last)
    return build_loader(
        dataset,
        plan,
        batch_size=batch_size,
        shuffle=rest.pop("shuffle", split == "train"),
        drop_last=drop_last,
        seed=seed,
        epoch=facts.epoch,
        rank=facts.rank,
        share=share,
        deterministic=deterministic,
        counts_epochs=split == "train",
        part=part,
        trainer=no_trainer if trainer is None else weakref.ref(trainer),
        planning=planning,
        **rest,
    )


def _worker_parts_of_ours(
    dataset: Any, facts: TrainerContext, hardware: Hardware, given: Mapping[str, Any]
) -> dict[str, Any]:
    """What workers get beside the dataset and cannot find out themselves, around what the user gave them."""
    parts: dict[str, Any] = {}
    if given.get("collate_fn") is None and fetches_batches(dataset):
        parts["collate_fn"] = identity_collate
    init = given.get("worker_init_fn")
    if hardware.taken_cpus:
        init = RestoreAffinity(hardware.taken_cpus, init)
    if isinstance(dataset, IterableDataset) and facts.world_size > 1:
        init = SetShard(facts.rank, facts.world_size, init)
    return parts if init is None else {**parts, "worker_init_fn": init}


def _samples_drawn(where: str, dataset: Any, sampler: Any, facts: TrainerContext, *, drop_last: bool) -> int | None:
    """Samples this rank draws in an epoch (count); None where only the run will tell."""
    length = length_of(dataset)
    if length == 0:
        raise FastDataError(
            f"{where}: the dataset ({type(dataset).__name__}) has 0 samples.",
            expected="at least one sample.",
            fix="look at the path or the filter it was made with, or leave the split out (None).",
        )
    if isinstance(dataset, IterableDataset):
        return None
    drawn = length if sampler is None else length_of(sampler)
    ranks = facts.share[1] if facts.share else 1
    if drawn is None:
        return None
    dropped = drop_last and sampler is None  # the shares of a user's sampler are filled up by Lightning
    return drawn // ranks if dropped else -(-drawn // ranks)


def _check_batches(where: str, samples: int | None, batch_size: int | None, drop_last: bool) -> None:
    """A loader without a single batch ends a run in silence; say so first."""
    if drop_last and batch_size is not None and samples is not None and samples < batch_size:
        raise FastDataError(
            f"{where}: batch_size={batch_size} with drop_last=True, but only {samples} samples per rank.",
            expected="at least one full batch.",
            fix=f"pass batch_size={samples} or less, or drop_last=False.",
        )


def _say_padding(where: str, dataset: Any, ranks: int, batch_size: int, *, drop_last: bool) -> None:
    """Repeated samples are the one thing that a number of ranks changes; never do it silently."""
    from lightning_utilities.core.rank_zero import rank_zero_info

    repeats = padding(len(dataset), ranks, batch_size, drop_last=drop_last)
    if repeats:
        rank_zero_info(
            f"{where}: the last batch is {repeats} short of a sample for each of the {ranks} ranks, and all must make "
            f"equally many steps: {repeats} of its samples are repeats. drop_last=True leaves that batch out."
        )


def _say_iterable(dataset: object, split: Split, ranks: int, workers: int) -> None:
    """What cannot be promised; evaluation without repeats has nothing to promise."""
    from lightning_utilities.core.rank_zero import rank_zero_warn

    if split == "train" or ranks > 1 or workers > 1:
        rank_zero_warn(iterable_warning(dataset, ranks=ranks, workers=workers))


def worker_parts(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that travel to a worker process beside the dataset."""
    return {name: kwargs[name] for name in ("collate_fn", "worker_init_fn") if kwargs.get(name) is not None}
