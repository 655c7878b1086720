"""Iterable datasets: which elements belong to this rank and this worker, and what cannot be promised for them.

torch gives every worker of every rank a copy of an IterableDataset and lets each read all of it. Dealing the elements
out is up to the dataset; ``shard`` is the one line that does it. The page: ``docs/iterable.md``.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from typing import Any, TypeVar

from torch import distributed
from torch.utils.data import get_worker_info

from lightning_fastdata.errors import FastDataError

__all__ = ["SetShard", "iterable_warning", "shard", "workers_of_engine"]

T = TypeVar("T")

ENGINES = {
    (
        "datasets",
        "IterableDataset",
    ): "num_workers up to its num_shards: Hugging Face gives each worker shards of its own",
    (
        "litdata",
        "StreamingDataset",
    ): "num_workers=2 or more together with LitData's StreamingDataLoader, which knows them",
    ("streaming", "StreamingDataset"): "num_workers=2 or more: MosaicML Streaming gives each worker its own samples",
    (
        "webdataset",
        "WebDataset",
    ): "num_workers up to the number of shards: WebDataset gives each worker shards of its own",
    ("torch", "IterDataPipe"): "num_workers=2 or more if it has a sharding_filter(): torch gives each worker its part",
}
"""What engines that deal their elements out to workers document about them, by module and class."""
SHARE_ATTRIBUTE = "fastdata_share"
"""The attribute of a worker's dataset under which ``SetShard`` leaves (rank, ranks)."""

END: Any = object()


def shard(items: Iterable[T], *, share: tuple[int, int] | None = None, even: bool = False) -> Iterator[T]:
    """Yield the elements that belong to this rank and this worker, each to exactly one of them.

    Use it once, in ``__iter__`` of an ``IterableDataset``::

        def __iter__(self):
            for path in shard(self.paths):
                yield from read(path)

    Element i goes to rank ``i % ranks``, and within the rank to worker ``(i // ranks) % workers``. So it takes the same
    elements in the same order in every process: sort what ``glob`` returns, shuffle with a seed that all share.

    Args:
        items: The elements, all of them. A stream is read as far as the next own element, with ``even`` at most one
            round over the ranks (``ranks`` elements) further than without.
        share: (rank, ranks). None asks, in this order: what a loader of this package left in its worker, else
            ``torch.distributed`` where it is initialized, else ``RANK`` and ``WORLD_SIZE`` of the environment; without
            any of them there is one rank.
        even: Leave out the last round over the ranks if it is incomplete (at most ranks - 1 elements, the same ones
            whatever the workers), so that every rank gets equally many elements. Under DDP a rank that makes one step
            more than the others waits for them forever.

    Returns:
        An iterator; rank and worker are read when its first element is, so that a forked copy counts as its own worker.

    Raises:
        FastDataError: ``items`` is not iterable, a single text or a set; a share that cannot be; a worker of one of
            several ranks that cannot find out which.
    """
    _check_items(items)
    return _own(items, None if share is None else _checked(share, "share"), even)


def _own(items: Iterable[T], share: tuple[int, int] | None, even: bool) -> Iterator[T]:
    info = get_worker_info()
    worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
    rank, ranks = _find_share() if share is None else share
    iterator = iter(items)
    # The share of a (rank, worker) is every step-th element. islice passes over the others without Python in between:
    # with 8 workers on 64 ranks there are 511 of them for each of ours.
    step = ranks * workers
    rest = ranks - 1 - rank if even else 0  # how many must follow ours in its round to show that the round is complete
    skip = worker * ranks + rank
    while (item := _nth(iterator, skip)) is not END and (rest == 0 or _nth(iterator, rest - 1) is not END):
        yield item
        skip = step - 1 - rest


def _nth(iterator: Iterator[Any], number: int) -> Any:
    """Pass over ``number`` elements and take the next, or END."""
    return next(islice(iterator, number, None), END)


def _find_share() -> tuple[int, int]:
    """(rank, ranks) of this process; what ``SetShard`` left outweighs what can be found out."""
    info = get_worker_info()
    share = None if info is None else getattr(info.dataset, "__dict__", {}).get(SHARE_ATTRIBUTE)
    if share is not None:
        return _checked(share, SHARE_ATTRIBUTE)
    if distributed.is_available() and distributed.is_initialized():  # also in a forked worker: a copy of its rank
        return distributed.get_rank(), distributed.get_world_size()
    rank, ranks = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is not None and ranks is not None:
        numbers = tuple(int(text) if text.isdecimal() else text for text in (rank, ranks))
        return _checked(numbers, "(RANK, WORLD_SIZE)")
    # Lightning's launchers leave these two without a RANK: a spawned worker then has a rank but cannot know it, and
    # "one rank" would repeat the data in silence.
    several = ranks != "1" if ranks is not None else "LOCAL_RANK" in os.environ
    if info is not None and several:
        raise FastDataError(
            f"worker {info.id} of {info.num_workers} belongs to one of several ranks and cannot find out which.",
            expected="a loader of this package, torch.distributed, RANK and WORLD_SIZE, or share=.",
            fix="DataLoader(worker_init_fn=lightning_fastdata.loaders.sharding.SetShard(rank, ranks), ...).",
        )
    return 0, 1


def _check_items(items: Any) -> None:
    kind = type(items).__name__
    if isinstance(items, (str, bytes)):
        what = f"shard({items[:40]!r}) would deal out single characters."
        expected = "the elements: a list of paths, an open file, any iterable."
        fix = "pass [path], or open(path) for its lines."
    elif isinstance(items, (set, frozenset)):
        what = f"shard() got a {kind}."
        expected = "the same order in every process; that of a set differs from process to process."
        fix = "pass sorted(items)."
    elif not isinstance(items, Iterable):
        what = f"shard() got a {kind}, which is not iterable."
        expected = "the elements: a list of paths, an open stream, any iterable."
        fix = "pass range(len(...)) for something with an index: it yields the indices of this rank and worker."
    else:
        return
    raise FastDataError(what, expected=expected, fix=fix)


def _checked(share: Any, name: str) -> tuple[int, int]:
    """The share as two Python ints, if it can be one."""
    pair = tuple(share) if isinstance(share, (tuple, list)) else ()
    if len(pair) == 2 and all(isinstance(number, Integral) and not isinstance(number, bool) for number in pair):
        rank, ranks = (int(number) for number in pair)
        if 0 <= rank < ranks:
            return rank, ranks
    raise FastDataError(
        f"{name}={share!r}.",
        expected="(rank, ranks), whole numbers with 0 <= rank < ranks.",
        fix="pass share=(trainer.global_rank, trainer.world_size), or leave it out.",
    )


@dataclass(frozen=True)
class SetShard:
    """A ``worker_init_fn`` that gives ``shard`` the rank: a spawned worker knows no torch.distributed.

    It leaves ``fastdata_share = (rank, ranks)`` on the worker's own copy of the dataset.
    """

    rank: int
    """Global rank, 0 <= rank < ranks."""
    ranks: int
    """Ranks that share the data (count)."""

    def __post_init__(self) -> None:
        _checked((self.rank, self.ranks), "(rank, ranks)")

    def __call__(self, worker_id: int) -> None:
        """Run in the worker, before it reads anything.

        Raises:
            FastDataError: The dataset takes no attributes.
        """
        info = get_worker_info()
        if info is None:
            return
        try:
            # Past a __setattr__ of the user's, such as that of a frozen dataclass. torch's own Dataset classes have a
            # __dict__, so only a foreign class with __slots__ refuses.
            object.__setattr__(info.dataset, SHARE_ATTRIBUTE, (int(self.rank), int(self.ranks)))
        except (AttributeError, TypeError) as error:
            raise FastDataError(
                f"{type(info.dataset).__name__} takes no attributes, so its workers cannot know their rank.",
                expected="a dataset with a __dict__.",
                fix="inherit from torch.utils.data.IterableDataset, or leave out __slots__.",
            ) from error


def workers_of_engine(dataset: object) -> str | None:
    """Why a stream of a known engine gets no workers by itself, and which it may have; None for any other.

    Even there another number of workers gives other batches, and what is mapped over the stream is the user's code.

    Args:
        dataset: An IterableDataset.
    """
    for kind in type(dataset).__mro__:
        advice = ENGINES.get((str(kind.__module__).partition(".")[0], kind.__name__))
        if advice is not None:
            return f"an IterableDataset gives other batches with another number of workers; set {advice}"
    return None


def iterable_warning(dataset: object, *, ranks: int, workers: int) -> str:
    """What cannot be promised for an iterable dataset, and what to do about it.

    Args:
        dataset: The dataset.
        ranks: Ranks of the run (count).
        workers: Worker processes of each rank's loader (count); 0 loads in the training process.

    Returns:
        Two or three sentences.
    """
    readers = [f"{count} {name}" for count, name in ((ranks, "ranks"), (workers, "workers")) if count > 1]
    repeats = f"Unless it deals itself out, each of the {' x '.join(readers)} reads all of it. " if readers else ""
    return (
        f"{type(dataset).__name__} is an IterableDataset: order and random values are its own, another number of "
        f"workers or ranks gives other batches, and a restart in mid-epoch begins the stream again. {repeats}"
        "lightning_fastdata.shard() in its __iter__ gives each element to one rank and worker; only a map-style "
        "dataset keeps order and place as well."
    )
