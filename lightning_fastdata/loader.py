"""Plan + dataset -> torch DataLoader: the one place where a DataLoader is made."""

import contextlib
import difflib
import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, IterableDataset, Sampler, Subset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from lightning_fastdata import internals
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.options import FIELDS, LoaderOptions, LoaderPlan
from lightning_fastdata.order import epoch_order, loader_seed

__all__ = [
    "EpochSampler",
    "GiveBackCpus",
    "PlannedDataLoader",
    "RankSampler",
    "as_it_is",
    "build_loader",
    "check_kwargs",
    "gives_whole_batches",
    "is_in_memory",
]


class PlannedDataLoader(DataLoader[Any]):
    """A torch DataLoader whose workers were planned.

    It keeps no state of its own and hands every argument on, so Lightning can build it again with another sampler.
    The one difference: Lightning's hint "does not have many workers", which knows nothing of cgroup limits, other
    ranks or data in memory, is not given for it. Other loaders keep theirs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            # torch counts the CPUs of the affinity mask only; an override or a repaired mask knows better.
            warnings.filterwarnings("ignore", message="This DataLoader will create .* worker processes")
            super().__init__(*args, **kwargs)
        internals.skip_worker_hint(self)


class EpochSampler(Sampler[int]):
    """Shuffled indices that depend on seed and epoch alone.

    torch's RandomSampler draws from a generator whose state depends on what ran before, so that keeping workers
    alive, or restarting, changes the order. This one does not.

    Args:
        length: Samples in the dataset (count).
        seed: The run's seed, >= 0.
        epoch: Epoch to begin with; Lightning calls ``set_epoch`` before each later one. Where nobody does, as in a
            loop of one's own, every pass is the next epoch.
    """

    def __init__(self, length: int, seed: int, epoch: int = 0) -> None:
        self.length, self.seed, self.epoch = length, seed, epoch
        self._counts_itself = True

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of every epoch."""
        self.epoch, self._counts_itself = epoch, False

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.seed, self.epoch, self.length)
        if self._counts_itself:
            self.epoch += 1
        return iter(order.tolist())

    def __len__(self) -> int:
        return self.length


class RankSampler(DistributedSampler[int]):
    """One rank's share of an epoch, dealt out of the order that a single process would follow.

    Rank r of n takes every n-th sample, so that the ranks' k-th batches together are the k-th batch of one process
    with the n-fold batch size. Lightning leaves a DistributedSampler as it is; its own would shuffle once more, also
    where the user said ``shuffle=False``.

    Args:
        length: Samples in the dataset (count).
        seed: The run's seed, >= 0.
        ranks: Ranks that share the data (count).
        rank: Which of them this is.
        shuffle: Whether the order changes from epoch to epoch.
        epoch: Epoch to begin with.
    """

    def __init__(self, length: int, seed: int, ranks: int, rank: int, *, shuffle: bool, epoch: int = 0) -> None:
        samples: Any = range(length)  # torch only asks a dataset for its length here
        super().__init__(samples, num_replicas=ranks, rank=rank, shuffle=shuffle, seed=seed)
        self.length, self.epoch = length, epoch

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.seed, self.epoch, self.length) if self.shuffle else np.arange(self.length)
        # Ranks must make the same number of steps: the first samples come again until the share is even.
        even = np.resize(order, self.total_size)
        return iter(even[self.rank :: self.num_replicas].tolist())


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
    **kwargs: Any,
) -> PlannedDataLoader:
    """Build the loader that a plan describes.

    Args:
        dataset: Any torch dataset, map-style or iterable.
        plan: The decided options.
        batch_size: Samples per batch and rank (count).
        shuffle: Whether the order changes from epoch to epoch; left aside with a sampler or an IterableDataset.
        drop_last: Whether an incomplete last batch is left out.
        seed: Decides the order and the workers' random state, >= 0.
        epoch: Epoch to begin with.
        rank: Global rank; decides, with the seed, the workers' random state.
        share: (rank, ranks) when this rank takes only its part of the data; None takes all of it, or leaves the
            dealing to Lightning.
        **kwargs: Further arguments of ``torch.utils.data.DataLoader``: ``sampler``, ``batch_sampler``,
            ``collate_fn``, ``timeout``, ...

    Returns:
        The loader, a torch ``DataLoader``.
    """
    kwargs = {**plan.as_kwargs(), **kwargs}
    if plan.num_workers == 0:
        _leave_out_timeout(plan, kwargs)
    if kwargs.get("batch_sampler") is None:
        size = None if batch_size is None else int(batch_size)  # torch knows no whole numbers but Python's
        kwargs.update(batch_size=size, drop_last=drop_last)
        if kwargs.get("sampler") is None and not isinstance(dataset, IterableDataset):
            kwargs["sampler"] = _sampler(dataset, seed, epoch, share, shuffle=shuffle)
    # A generator of its own: otherwise the loader draws from torch's global one, and how often it does so depends
    # on persistent_workers. That would shift dropout and initialisation with a setting that should change nothing.
    kwargs.setdefault("generator", torch.Generator().manual_seed(loader_seed(seed, epoch, rank)))
    return PlannedDataLoader(dataset, **kwargs)


def _sampler(
    dataset: Any, seed: int, epoch: int, share: tuple[int, int] | None, *, shuffle: bool
) -> Sampler[int] | None:
    length = _length(dataset)
    if share is not None:
        rank, ranks = share
        return RankSampler(length, seed, ranks, rank, shuffle=shuffle, epoch=epoch)
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
class GiveBackCpus:
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
    if isinstance(dataset, Subset):
        return is_in_memory(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return all(is_in_memory(part) for part in dataset.datasets)
    return isinstance(dataset, TensorDataset) or getattr(dataset, "in_memory", False) is True


def gives_whole_batches(dataset: object) -> bool:
    """Whether torch gets finished batches from a dataset's ``__getitems__`` (``whole_batches = True``).

    Args:
        dataset: Any dataset. A ``Subset`` hands ``__getitems__`` on; a ``ConcatDataset`` asks sample by sample.

    Returns:
        True where the batches must not be collated again.
    """
    if isinstance(dataset, Subset):
        return gives_whole_batches(dataset.dataset)
    return getattr(dataset, "whole_batches", False) is True


def as_it_is(batch: Any) -> Any:
    """The collate function for a dataset that returns finished batches."""
    return batch
