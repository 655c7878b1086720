"""All ranks' steps on one scale: how a rank's steps become bytes, and what the ranks together say.

Standard library and NumPy only; how the bytes get from one process to another is ``monitor.exchange``'s business.

Where ranks wait for each other in every step, the waiting of one of them is everybody's: a rank that loads fast spends
the rest of the step in the all-reduce and believes that it computes. So each step counts with the largest wait of any
rank. Steps are matched by epoch and step index; only steps that every rank present has are compared.
"""

import copy
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_fastdata.results.quantiles import Quantiles
from lightning_fastdata.results.stats import RankTimes

__all__ = ["MOST_STEPS", "Message", "RankMerge", "RankSteps", "excess", "pack", "unpack"]

MOST_STEPS = 10_000
"""Steps in one message, and in one block of what is not compared yet (count)."""

# Four blocks hold the running epoch and at least the two before it, also where one of them lies across a border.
_BLOCKS = 4
# Below these nobody is said to have held the others up: it is noise.
_HELD_UP_S = 1e-3
_HELD_UP_SHARE = 0.05

_MAGIC = b"LFD1"
_PREFIX = struct.Struct("<4sI")
_MOST_HEADER = 8192  # bytes; a host name takes up to 12 a character
_MOST_HOST = 255
_COLUMNS = (("steps", "<i8"), ("wait_s", "<f4"), ("step_s", "<f4"))

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RankSteps:
    """Steps of one rank in one epoch."""

    rank: int
    """Whose they are (index)."""
    host: str
    """Its machine."""
    epoch: int
    """Epoch, from 0 (count)."""
    steps: npt.NDArray[np.int64]
    """Index of each step, increasing."""
    wait_s: npt.NDArray[np.float32]
    """Wait of each (s)."""
    step_s: npt.NDArray[np.float32]
    """Wall time of each: wait, transfer, compute and the rest (s)."""

    @classmethod
    def of(cls, rank: int, host: str, epoch: int, steps: Sequence[tuple[int, float, float]]) -> "RankSteps":
        """The last 10,000 of ``steps``, less those without a time.

        Args:
            rank: Whose they are (index).
            host: Its machine.
            epoch: Epoch, from 0 (count).
            steps: (step index, wait in s, wall time in s), in step order.
        """
        rows = steps[-MOST_STEPS:]
        indices = np.array([row[0] for row in rows], dtype=np.int64)
        times = np.array([row[1:] for row in rows], dtype=np.float32).reshape(-1, 2)
        good = _are_times(times).all(axis=1)
        return cls(rank, host[:_MOST_HOST], epoch, indices[good], times[good, 0], times[good, 1])

    def part(self, chosen: npt.NDArray[np.bool_]) -> "RankSteps":
        """The steps for which ``chosen`` is True."""
        return RankSteps(self.rank, self.host, self.epoch, self.steps[chosen], self.wait_s[chosen], self.step_s[chosen])

    def joined(self, more: "RankSteps") -> "RankSteps":
        """These steps and ``more`` of the same epoch; a step that is in both counts once, as ``more`` has it."""
        steps = np.concatenate([more.steps, self.steps])
        steps, first = np.unique(steps, return_index=True)
        wait_s = np.concatenate([more.wait_s, self.wait_s])[first]
        return RankSteps(
            self.rank, more.host, self.epoch, steps, wait_s, np.concatenate([more.step_s, self.step_s])[first]
        )


def _are_times(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    return np.isfinite(values) & (values >= 0)


@dataclass(frozen=True, eq=False)
class Message:
    """What one rank sends."""

    number: int
    """Messages of this rank before it (count)."""
    last: bool
    """Whether the rank says goodbye."""
    steps: RankSteps
    """Its steps; a goodbye may have none."""


def pack(message: Message) -> bytes:
    """The message as bytes: a magic word, a short JSON header, three little-endian arrays.

    Args:
        message: What is to be sent.
    """
    sent = message.steps
    header = {
        "number": message.number,
        "last": message.last,
        "rank": sent.rank,
        "host": sent.host,
        "epoch": sent.epoch,
        "count": len(sent.steps),
    }
    text = json.dumps(header).encode("ascii")
    arrays = (getattr(sent, name).astype(kind).tobytes() for name, kind in _COLUMNS)
    return b"".join((_PREFIX.pack(_MAGIC, len(text)), text, *arrays))


def unpack(data: Any, *, rank: int) -> Message | None:
    """The message that ``pack`` made of it; None for anything else, whatever it is.

    Args:
        data: Bytes that came from another process.
        rank: Whose they should be (index).
    """
    try:
        return _unpack(data, rank)
    except Exception:  # nothing that another process sends may be an error here
        return None


def _unpack(data: bytes, rank: int) -> Message | None:
    magic, length = _PREFIX.unpack_from(data)
    if magic != _MAGIC or length > _MOST_HEADER:
        return None
    start = _PREFIX.size + length
    header = json.loads(data[_PREFIX.size : start].decode("ascii"))
    numbers = [header[name] for name in ("number", "rank", "epoch", "count")]
    host, last = header["host"], header["last"]
    if any(type(number) is not int or not 0 <= number < 2**62 for number in numbers) or type(last) is not bool:
        return None
    number, sender, epoch, count = numbers
    if sender != rank or type(host) is not str or len(host) > _MOST_HOST or count > MOST_STEPS:
        return None
    if len(data) != start + count * sum(np.dtype(kind).itemsize for _, kind in _COLUMNS):
        return None
    arrays = []
    for _, kind in _COLUMNS:
        arrays.append(np.frombuffer(data, dtype=kind, count=count, offset=start))
        start += arrays[-1].nbytes
    steps, wait_s, step_s = arrays
    if not (_are_times(wait_s).all() and _are_times(step_s).all()):
        return None
    if count and (steps[0] < 0 or not (np.diff(steps) > 0).all()):
        return None
    return Message(number, last, RankSteps(rank, host, epoch, steps, wait_s, step_s))


@dataclass
class _Sums:
    """Everything that was compared so far."""

    steps: int = 0
    largest_s: float = 0.0
    mean_s: float = 0.0
    step_s: float = 0.0
    lost_s: float = 0.0
    held_up: dict[int, int] = field(default_factory=dict)
    waited_s: dict[int, float] = field(default_factory=dict)
    took_s: dict[int, float] = field(default_factory=dict)
    largest: Quantiles = field(default_factory=Quantiles)

    def add(self, present: Mapping[int, RankSteps]) -> None:
        """The steps that all of ``present`` have; one rank alone has nobody to be compared with."""
        parts = [present[rank] for rank in sorted(present)]
        common = parts[0].steps
        for part in parts[1:]:
            if not np.array_equal(part.steps, common):
                common = np.intersect1d(part.steps, common, assume_unique=True)
        if len(parts) < 2 or not len(common):
            return
        places = [np.searchsorted(part.steps, common) for part in parts]
        waits = np.stack([part.wait_s[place].astype(np.float64) for part, place in zip(parts, places, strict=True)])
        times = np.stack([part.step_s[place].astype(np.float64) for part, place in zip(parts, places, strict=True)])
        largest, step_s, lost = waits.max(axis=0), times.max(axis=0), excess(waits)
        self.steps += len(common)
        self.largest_s += float(largest.sum())
        self.mean_s += float(waits.mean(axis=0).sum())
        self.step_s += float(step_s.sum())
        self.lost_s += float(lost.sum())
        for value in largest.tolist():
            self.largest.add(value)
        holds = waits.argmax(axis=0)[(lost > _HELD_UP_S) & (lost > _HELD_UP_SHARE * step_s)]
        for row, part in enumerate(parts):
            rank = part.rank
            self.held_up[rank] = self.held_up.get(rank, 0) + int((holds == row).sum())
            self.waited_s[rank] = self.waited_s.get(rank, 0.0) + float(waits[row].sum())
            self.took_s[rank] = self.took_s.get(rank, 0.0) + float(times[row].sum())


def excess(waits: Floats) -> Floats:
    """How much longer the slowest rank waited in each step than the others: what a typical one of these lost (s).

    The largest wait less the median of the *other* ranks' waits. With many ranks that is the largest less the median of
    all. With two it is the difference between them, where the median of all would be halfway and give half of it.

    Args:
        waits: One row a rank, at least two, one column a step (s).
    """
    ordered = np.sort(waits, axis=0)
    others = len(waits) - 1
    median = (ordered[(others - 1) // 2] + ordered[others // 2]) / 2
    return np.asarray(ordered[-1] - median, dtype=np.float64)


class RankMerge:
    """Compares the ranks of a run, in memory that does not grow with the run.

    Steps wait in blocks of one epoch and up to 10,000 step indices until they are compared. Of more than four blocks
    the oldest is compared over the ranks that are there, added to running sums, and dropped.

    Args:
        world_size: Ranks of the run (count).
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._sums = _Sums()
        self._blocks: dict[tuple[int, int], dict[int, RankSteps]] = {}
        self._hosts: dict[int, str] = {}
        self._newest = -1
        self._arrived: set[int] = set()

    def add(self, steps: RankSteps) -> None:
        """Take over steps of one rank, at any time and in any number of parts.

        Args:
            steps: They are kept, not copied.
        """
        if not len(steps.steps):
            return
        self._hosts[steps.rank] = steps.host
        if steps.epoch > self._newest:
            self._newest, self._arrived = steps.epoch, set()
        if steps.epoch == self._newest:
            self._arrived.add(steps.rank)
        numbers = steps.steps // MOST_STEPS
        for number in np.unique(numbers).tolist():
            block = self._blocks.setdefault((steps.epoch, number), {})
            part = steps.part(numbers == number)
            before = block.get(steps.rank)
            block[steps.rank] = part if before is None else before.joined(part)
        self._compare(_BLOCKS)

    def close(self) -> None:
        """Nothing more will come: compare the rest and drop it."""
        self._compare(0)

    def _compare(self, keep: int) -> None:
        while len(self._blocks) > keep:
            self._sums.add(self._blocks.pop(min(self._blocks)))

    @property
    def kept_steps(self) -> int:
        """Steps of all ranks that are held in memory (count)."""
        return sum(len(part.steps) for block in self._blocks.values() for part in block.values())

    def times(self) -> RankTimes | None:
        """All ranks together, so far; None where no two ranks had a step in common. It changes nothing."""
        sums = copy.deepcopy(self._sums)
        for place in sorted(self._blocks):
            sums.add(self._blocks[place])
        if not sums.steps:
            return None
        ranks = sorted(sums.waited_s)
        slowest = max(ranks, key=lambda rank: sums.held_up[rank])  # of equals the first
        held = sums.held_up[slowest]
        return RankTimes(
            ranks=len(ranks),
            world_size=self._world_size,
            steps=sums.steps,
            wait_share=_share(sums.largest_s, sums.step_s),
            wait_s_max_mean=sums.largest_s / sums.steps,
            wait_s_max_p95=sums.largest.quantile(0.95) or 0.0,
            imbalance=sums.largest_s / sums.mean_s if sums.mean_s > 0 else None,
            slowest_rank=slowest if held else None,
            slowest_host=self._hosts[slowest] if held else "",
            slowest_share=held / sums.steps,
            lost_s=sums.lost_s,
            rank_wait_share=tuple(
                (rank, self._hosts[rank], _share(sums.waited_s[rank], sums.took_s[rank])) for rank in ranks
            ),
            missing=tuple(rank for rank in range(self._world_size) if rank not in self._arrived),
        )


def _share(wait_s: float, step_s: float) -> float:
    """Ratio of the sums, 0..1."""
    return min(1.0, wait_s / step_s) if step_s > 0 else 0.0
