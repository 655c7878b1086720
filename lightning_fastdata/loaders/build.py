"""Plan + dataset -> torch DataLoader: the one place where a DataLoader is made."""

import contextlib
import difflib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    Sampler,
    Subset,
    TensorDataset,
    default_collate,
)

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.batch_fetch import TransformedDataset, accepts_seeds
from lightning_fastdata.loaders.order import derive_seed, loader_seed
from lightning_fastdata.loaders.planned import PlannedDataLoader, identity_collate
from lightning_fastdata.loaders.resumable import Determinism, ResumableDataLoader, no_trainer
from lightning_fastdata.loaders.samplers import EpochSampler, RankSampler
from lightning_fastdata.loaders.seeded_dataset import uses_global_rng
from lightning_fastdata.planning.options import FIELDS, LoaderOptions, LoaderPlan
from lightning_fastdata.planning.plan import Planning

__all__ = [
    "RestoreAffinity",
    "build_loader",
    "check_kwargs",
    "is_in_memory",
]


def build_loader(
    dataset: Any,
    plan: LoaderPlan,
    *,
    batch_size: int | None = 1,
    shuffle: bool = False,
    drop_last: bool = False,
    seed: int = 42,
    epoch: int = 0,
    rank: int = 0,
    share: tuple[int, int] | None = None,
    deterministic: bool = True,
    counts_epochs: bool = True,
    part: str | None = None,
    trainer: Callable[[], Any] = no_trainer,
    planning: Planning | None = None,
    **kwargs: Any,
) -> PlannedDataLoader:
    """Build the loader that a plan describes.

    Args:
        dataset: Any torch dataset, map-style or iterable.
        plan: The decided options.
        batch_size: Samples per batch and rank (count).
        shuffle: Whether the order changes from epoch to epoch; left aside with a sampler or an IterableDataset.
        drop_last: Whether an incomplete last batch is left out.
        seed: Decides the order, and the random numbers of every sample, >= 0.
        epoch: Epoch to begin with.
        rank: Global rank.
        share: (rank, ranks) when this rank takes only its part of the data; None takes all of it, or leaves the
            dealing to Lightning.
        deterministic: Seed Python's, NumPy's and torch's generators for every sample; see ``seeded.SeededDataset``.
        counts_epochs: Whether random numbers differ from epoch to epoch, as in training.
        part: The loader's name where several are read together, which then draw orders of their own; None = alone.
        trainer: Gives the Trainer that will use the loader, or None.
        planning: What the plan was made from; None where nobody will want to make another.
        **kwargs: Further arguments of ``torch.utils.data.DataLoader``: ``sampler``, ``batch_sampler``,
            ``collate_fn``, ``timeout``, ...

    Returns:
        The loader, a torch ``DataLoader``: one that resumes in mid-epoch, unless the dataset is iterable.
    """
    kwargs = {**plan.as_kwargs(), **kwargs}
    if plan.num_workers == 0:
        _leave_out_timeout(plan, kwargs)
    if kwargs.get("batch_sampler") is None:
        size = None if batch_size is None else int(batch_size)  # torch knows no whole numbers but Python's
        kwargs.update(batch_size=size, drop_last=drop_last)
        if kwargs.get("sampler") is None and not isinstance(dataset, IterableDataset):
            kwargs["sampler"] = _sampler(
                dataset, derive_seed(seed, part), epoch, share, size or 1, shuffle=shuffle, drop_last=drop_last
            )
    # A generator of its own: otherwise the loader draws from torch's global one, and how often it does so depends
    # on persistent_workers. That would shift dropout and initialization with a setting that should change nothing.
    if kwargs.get("generator") is None:
        kwargs["generator"] = torch.Generator().manual_seed(loader_seed(derive_seed(seed, part), epoch, rank))
    if isinstance(dataset, IterableDataset):
        return PlannedDataLoader(dataset, **kwargs)
    sameness = Determinism(
        seed=seed,
        part=part,
        # A collate function of the user's may draw too, MixUp for instance.
        seeds_samples=deterministic
        and (uses_global_rng(dataset) or accepts_seeds(dataset) or _collates_own(kwargs.get("collate_fn"))),
        counts_epochs=counts_epochs,
        ranks=share[1] if share else 1,
        rank=rank,
        trainer=trainer,
    )
    return ResumableDataLoader(dataset, sameness=sameness, planning=planning, **kwargs)


def _collates_own(collate_fn: Any) -> bool:
    return collate_fn not in (None, identity_collate, default_collate)


def _sampler(
    dataset: Any,
    seed: int,
    epoch: int,
    share: tuple[int, int] | None,
    batch_size: int,
    *,
    shuffle: bool,
    drop_last: bool,
) -> Sampler[int] | None:
    length = _length(dataset)
    if share is not None:
        rank, ranks = share
        return RankSampler(
            length, seed, ranks, rank, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, epoch=epoch
        )
    return EpochSampler(length, seed, epoch) if shuffle else None


def _leave_out_timeout(plan: LoaderPlan, kwargs: dict[str, Any]) -> None:
    """A timeout without workers stops torch; whether there are any is the machine's affair under "auto"."""
    timeout = kwargs.pop("timeout", 0)
    if timeout and plan.reasons["num_workers"].source == "user":
        raise FastDataError(
            f"num_workers=0 together with timeout={timeout!r}.",
            expected="a timeout only with worker processes: it is how long to wait for one.",
            fix='pass num_workers="auto" (or at least 1), or leave timeout out.',
        )


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except TypeError as error:
        raise FastDataError(
            f"{type(dataset).__name__} has no length, so its samples cannot be numbered.",
            expected="a dataset with __len__, or a sampler of your own.",
            fix="add __len__, or make it an IterableDataset.",
        ) from error


def check_kwargs(kwargs: Mapping[str, Any], world_size: int = 1) -> None:
    """Refuse loader arguments that cannot work, or that Lightning would silently turn into something else.

    Args:
        kwargs: Arguments for ``torch.utils.data.DataLoader``.
        world_size: Ranks of the run (count).

    Raises:
        FastDataError: An unknown name, the dataset, a value torch would refuse, two that exclude each other, or a
            plain BatchSampler under several ranks.
    """
    known = set(inspect.signature(DataLoader.__init__).parameters) - {"self", "dataset"}
    for name in kwargs:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            raise FastDataError(
                f"dataloader_kwargs has {name!r}.",
                expected=f"an argument of torch's DataLoader other than dataset: {', '.join(sorted(known))}.",
                fix=f"did you mean {' or '.join(near)}?" if near else "remove it.",
            )
    LoaderOptions(**{name: kwargs[name] for name in FIELDS if name in kwargs})
    _check_batching(kwargs)
    if world_size > 1 and type(kwargs.get("batch_sampler")) is BatchSampler:
        raise FastDataError(
            f"a plain torch BatchSampler on {world_size} ranks.",
            expected="a subclass of BatchSampler: Lightning rebuilds the plain class as batches of one sample.",
            fix="`class MyBatchSampler(BatchSampler): pass` is enough, or pass batch_size and sampler instead.",
        )


def _check_batching(kwargs: Mapping[str, Any]) -> None:
    size, timeout = kwargs.get("batch_size", 1), kwargs.get("timeout", 0)
    if size is not None and (isinstance(size, bool) or not isinstance(size, Integral) or int(size) < 1):
        raise FastDataError(f"batch_size={size!r}.", expected="a whole number >= 1.", fix="pass batch_size=32.")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout < 0:
        raise FastDataError(f"timeout={timeout!r}.", expected="seconds, >= 0.", fix="pass timeout=60, or leave it out.")
    for name, excluded in (
        ("batch_sampler", ("batch_size", "shuffle", "sampler", "drop_last")),
        ("sampler", ("shuffle",)),
    ):
        for other in excluded if kwargs.get(name) is not None else ():
            if kwargs.get(other):
                raise FastDataError(
                    f"{name} together with {other}={kwargs[other]!r}.",
                    expected=f"one of the two: a {name} decides that itself.",
                    fix=f"leave out {other}.",
                )


@dataclass(frozen=True)
class RestoreAffinity:
    """A ``worker_init_fn`` for a process that an OpenMP binding has moved onto one CPU, which workers inherit."""

    cpus: tuple[int, ...]
    """The CPUs that the process was given (numbers)."""
    then: Callable[[int], Any] | None = None
    """The user's own ``worker_init_fn``."""

    def __call__(self, worker_id: int) -> None:
        """Run in the worker, before it loads anything."""
        with contextlib.suppress(OSError):  # a cpuset may have become narrower meanwhile
            os.sched_setaffinity(0, self.cpus)
        if self.then is not None:
            self.then(worker_id)


def is_in_memory(dataset: object) -> bool:
    """Whether samples are only indexed out of memory, so that a worker process could but copy them.

    Args:
        dataset: Any dataset. torch's own views (``Subset``, ``ConcatDataset``) are looked through, wrappers of the
            user's are not: they may compute. An attribute ``in_memory = True`` on a dataset says it as well.

    Returns:
        True where that is known.
    """
    if isinstance(dataset, (Subset, TransformedDataset)):
        return is_in_memory(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return all(is_in_memory(part) for part in dataset.datasets)
    return isinstance(dataset, TensorDataset) or getattr(dataset, "in_memory", False) is True
