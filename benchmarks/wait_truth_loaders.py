"""Loaders that know how long the training process really waited for them; nothing in here reads a profiler label.

A batch is one plain number, so that handing it over from a worker costs little: with a tensor that is 1 to 3 ms, after
the batch was ready. The number says where on the board the batch's times stand, in memory that all processes share.

The truth is ``max(0, ready - asked)``: ``ready`` is stamped as the last thing in collating, by the worker where there
is one, ``asked`` where Lightning calls ``next`` on the loader's iterator. A loader without torch measures its own work.
Host clocks of all processes on one machine are the same. Beside it stands the whole time in that ``next``, also taken
one layer below Lightning: it holds what comes after ``ready`` as well, handing the batch over.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from torch.utils.data.dataloader import _BaseDataLoaderIter

from lightning_fastdata.hardware.detect import probe
from lightning_fastdata.loaders.batch_requests import Batches
from lightning_fastdata.loaders.build import LoaderRequest, build_loader
from lightning_fastdata.planning.options import LoaderOptions
from lightning_fastdata.planning.plan import Workload, make_plan

DELAYS = ("0 ms", "2 ms", "20 ms", "100 ms", "300 ms in 12", "50 ms boundary")
BATCHES = {"0 ms": 48, "2 ms": 48, "20 ms": 20, "100 ms": 8, "300 ms in 12": 24, "50 ms boundary": 24}
_SECOND = 1000
"""Where the numbers of the second of two loaders begin."""


class Board:
    """Times by batch, in shared memory; and the waits that were true."""

    def __init__(self) -> None:
        self.ready = torch.zeros(2 * _SECOND, dtype=torch.float64).share_memory_()
        self.work = torch.zeros(2 * _SECOND, dtype=torch.float64).share_memory_()
        self.truth: list[float] = []
        self.next_s = 0.0
        """All time in the loaders' ``next``, one layer below Lightning."""
        self.batches = self.second = 0
        self.comes_round = False
        self.boundary_s = 0.0
        """Time of beginning a pass that was made slow on purpose, without the first epoch's."""

    def note(self, number: int, waited_s: float, next_s: float) -> None:
        """One batch was given to Lightning; one from each of two loaders are one batch."""
        self.truth.append(waited_s)
        self.next_s += next_s
        self.batches += number < _SECOND
        self.second += number >= _SECOND

    def note_begin(self, took_s: float) -> None:
        """A pass began, slowly."""
        if self.comes_round and self.second < self.batches:  # the shorter of two, within a fetch
            self.truth.append(took_s)
            self.next_s += took_s
        elif self.batches:
            self.boundary_s += took_s


def delay_of(delay: str, number: int, factor: float = 1.0) -> float:
    """How long a batch takes (s)."""
    if delay == "300 ms in 12":
        return factor * (0.3 if number % 12 == 11 else 0.002)
    return factor * {"0 ms": 0.0, "2 ms": 0.002, "20 ms": 0.02, "100 ms": 0.1, "50 ms boundary": 0.002}[delay]


class _Making:
    """What both kinds of dataset do."""

    def __init__(self, board: Board, delay: str, batches: int, first: int = 0, factor: float = 1.0) -> None:
        self.work, self.delay, self.batches, self.first, self.factor = board.work, delay, batches, first, factor

    def make(self, index: int) -> int:
        start = time.perf_counter()
        seconds = delay_of(self.delay, index, self.factor)
        if seconds:
            time.sleep(seconds)
        self.work[self.first + index] = time.perf_counter() - start
        return self.first + index


class Items(_Making, Dataset[int]):
    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> int:
        return self.make(index)


class Stream(_Making, IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, self.batches, step):
            yield self.make(index)


class Stamp:
    """Collates one number, and says when."""

    def __init__(self, board: Board) -> None:
        self.ready = board.ready

    def __call__(self, numbers: list[int]) -> int:
        self.ready[numbers[0]] = time.perf_counter()
        return numbers[0]


class Generated:
    """A loader without any torch in it."""

    def __init__(self, board: Board, making: _Making) -> None:
        self.board, self.making = board, making

    def __len__(self) -> int:
        return self.making.batches

    def __iter__(self) -> Iterator[int]:
        begin(self.board, self.making.delay)
        return self._batches()

    def _batches(self) -> Iterator[int]:
        for index in range(self.making.batches):
            number = self.making.make(index)
            own_s = float(self.board.work[number])
            self.board.note(number, own_s, own_s)
            yield number


def begin(board: Board, delay: str) -> None:
    """The part of beginning a pass that is made slow on purpose."""
    start = time.perf_counter()
    if delay == "50 ms boundary":
        time.sleep(0.05)
        board.note_begin(time.perf_counter() - start)


class Loader(DataLoader[int]):
    """torch's loader; its iterator is torch's own."""

    board: Board
    delay: str

    def __iter__(self) -> Any:
        begin(self.board, self.delay)
        return super().__iter__()


def make_loader(kind: str, board: Board, delay: str, batches: int, first: int = 0, factor: float = 1.0) -> Any:
    """A loader of one of the kinds in ``KINDS``."""
    if kind.startswith("two, "):
        board.comes_round = kind.endswith("max_size_cycle")
        second = make_loader("sized, inline", board, delay, max(2, batches // 3), _SECOND, factor)
        return CombinedLoader([make_loader("sized, inline", board, delay, batches, first, factor), second], kind[5:])
    making = (Stream if kind.startswith("unsized") else Items)(board, delay, batches, first, factor)
    if kind == "generator":
        return Generated(board, making)
    workers = 0 if "inline" in kind else 2
    if kind.startswith("ours"):
        plan = make_plan(
            LoaderOptions(num_workers=workers, persistent_workers="persistent" in kind), probe(), Workload()
        )
        arguments = {"collate_fn": Stamp(board), "shuffle": False}
        return build_loader(LoaderRequest(making, arguments=arguments, seed=1), plan)
    options: dict[str, Any] = {"num_workers": workers, "collate_fn": Stamp(board)}
    if workers:
        options["multiprocessing_context"] = "spawn" if "spawn" in kind else "fork"
        options["persistent_workers"] = "persistent" in kind
    # Lightning builds a loader again on several ranks and keeps the class's attributes only, so these two are some.
    cls = type("Loader", (Loader,), {"board": board, "delay": delay}) if "spawn" not in kind else DataLoader
    return cls(making, batch_size=1, **options)


KINDS = (
    *("sized, inline", "unsized, inline", "generator", "sized, fork", "sized, fork, persistent", "unsized, fork"),
    *("ours, inline", "ours, fork", "ours, fork, persistent", "two, min_size", "two, max_size_cycle", "two, max_size"),
)
SPAWN_KINDS = ("sized, spawn", "sized, spawn, persistent")


@contextlib.contextmanager
def stamped(board: Board) -> Iterator[None]:
    """Take down the truth of each ``next`` that Lightning makes on a loader of torch's or of ours."""
    classes: tuple[Any, ...] = (_BaseDataLoaderIter, Batches)
    originals = [cls.__next__ for cls in classes]
    depth = [0]

    def stamping(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def __next__(self: Any) -> Any:  # noqa: N807
            asked = time.perf_counter()
            depth[0] += 1
            try:
                number = original(self)
            finally:
                depth[0] -= 1
            next_s = time.perf_counter() - asked
            if not depth[0]:  # ours has an iterator of torch's within
                board.note(number, max(0.0, float(board.ready[number]) - asked), next_s)
            return number

        return __next__

    for cls, original in zip(classes, originals, strict=True):
        cls.__next__ = stamping(original)
    try:
        yield
    finally:
        for cls, original in zip(classes, originals, strict=True):
            cls.__next__ = original
