"""All ranks' steps on one scale: how a rank's steps become bytes, and what the ranks together say.

``callbacks/monitor/rank_exchange.py`` carries the bytes from one process to another.

Where ranks wait for each other in every step, the slowest rank stalls all ranks: a rank that loads fast spends the rest
of the step in the all-reduce, and that stall shows up as compute. So each step counts with the largest wait of any
rank. Steps are matched by epoch and step index; only steps that every rank present has are compared.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from lightning_fastdata.results.quantiles import Quantiles
from lightning_fastdata.results.stats import RankTimes

__all__ = ["MOST_STEPS", "Message", "RankMerge", "RankSteps", "excess", "pack", "unpack"]

MOST_STEPS = 10_000
"""Steps in one message, and in one block of what is not compared yet (count)."""

# Four blocks hold the running epoch and at least the two before it, also where one of them lies across a border.
_BLOCKS = 4
# Below these a difference is noise, and no rank counts as the straggler of the step.
_STALL_S = 1e-3
_STALL_SHARE = 0.05

_MOST_HOST = 255
_COLUMNS = (("steps", "<i8"), ("wait_s", "<f4"), ("step_s", "<f4"))

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
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

    def select(self, chosen: npt.NDArray[Any]) -> "RankSteps":
        """Some of the steps, by a mask or by positions."""
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
    """Whether it is the rank's last message."""
    steps: RankSteps
    """Its steps; the last message may have none."""


@dataclass(frozen=True)
class _Wire:
    """A message as it travels; the columns are little-endian arrays."""

    number: Count
    last: bool
    rank: Count
    host: Annotated[str, msgspec.Meta(max_length=_MOST_HOST)]
    epoch: Count
    steps: bytes
    wait_s: bytes
    step_s: bytes


def pack(message: Message) -> bytes:
    """The message as bytes.

    Args:
        message: What to send.
    """
    sent = message.steps
    columns = {name: getattr(sent, name).astype(kind).tobytes() for name, kind in _COLUMNS}
    wire = _Wire(message.number, message.last, sent.rank, sent.host, sent.epoch, **columns)
    return msgspec.msgpack.encode(wire)


def unpack(data: Any, *, rank: int) -> Message | None:
    """The message that ``pack`` made of it; None for anything else, whatever it is.

    Args:
        data: Bytes that came from another process.
        rank: Whose they should be (index).
    """
    try:
        wire = msgspec.msgpack.decode(data, type=_Wire)
        steps, wait_s, step_s = (np.frombuffer(getattr(wire, name), dtype=kind) for name, kind in _COLUMNS)
    except Exception:  # nothing that another process sends may be an error here
        return None
    if wire.rank != rank or not len(steps) == len(wait_s) == len(step_s) <= MOST_STEPS:
        return None
    if not (_are_times(wait_s).all() and _are_times(step_s).all()):
        return None
    if len(steps) and (steps[0] < 0 or not (np.diff(steps) > 0).all()):
        return None
    return Message(wire.number, wire.last, RankSteps(rank, wire.host, wire.epoch, steps, wait_s, step_s))


@dataclass
class _Sums:
    """Everything that was compared so far."""

    steps: int = 0
    largest_s: float = 0.0
    mean_s: float = 0.0
    step_s: float = 0.0
    lost_s: float = 0.0
    stalls: dict[int, int] = field(default_factory=dict)
    waited_s: dict[int, float] = field(default_factory=dict)
    took_s: dict[int, float] = field(default_factory=dict)
    largest: Quantiles = field(default_factory=Quantiles)

    def add(self, present: Mapping[int, RankSteps]) -> None:
        """The steps that all of ``present`` have; there is no comparison with one rank alone."""
        ranks = [present[rank] for rank in sorted(present)]
        common = ranks[0].steps
        for one in ranks[1:]:
            if not np.array_equal(one.steps, common):
                common = np.intersect1d(one.steps, common, assume_unique=True)
        if len(ranks) < 2 or not len(common):
            return
        shared = [one.select(np.searchsorted(one.steps, common)) for one in ranks]
        waits = np.stack([one.wait_s for one in shared], dtype=np.float64)
        times = np.stack([one.step_s for one in shared], dtype=np.float64)
        largest, step_s, lost = waits.max(axis=0), times.max(axis=0), excess(waits)
        self.steps += len(common)
        self.largest_s += float(largest.sum())
        self.mean_s += float(waits.mean(axis=0).sum())
        self.step_s += float(step_s.sum())
        self.lost_s += float(lost.sum())
        for value in largest.tolist():
            self.largest.add(value)
        stalled_by = waits.argmax(axis=0)[(lost > _STALL_S) & (lost > _STALL_SHARE * step_s)]
        for row, rank in enumerate(sorted(present)):
            self.stalls[rank] = self.stalls.get(rank, 0) + int((stalled_by == row).sum())
            self.waited_s[rank] = self.waited_s.get(rank, 0.0) + float(waits[row].sum())
            self.took_s[rank] = self.took_s.get(rank, 0.0) + float(times[row].sum())


def excess(waits: Floats) -> Floats:
    """How much longer the slowest rank waited in each step than the others: what a typical other rank lost to it (s).

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
    the oldest is compared over the ranks that arrived, added to running sums, and dropped.

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
        """Add steps of one rank, at any time and in any number of parts.

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
            added = steps.select(numbers == number)
            before = block.get(steps.rank)
            block[steps.rank] = added if before is None else before.joined(added)
        self._compare(_BLOCKS)

    def close(self) -> None:
        """Compare the rest and drop it; nothing more comes."""
        self._compare(0)

    def _compare(self, keep: int) -> None:
        while len(self._blocks) > keep:
            self._sums.add(self._blocks.pop(min(self._blocks)))

    def times(self) -> RankTimes | None:
        """All ranks together, so far; None where no two ranks have a step in common. It changes nothing."""
        sums = copy.deepcopy(self._sums)
        for block in sorted(self._blocks):
            sums.add(self._blocks[block])
        if not sums.steps:
            return None
        ranks = sorted(sums.waited_s)
        slowest = max(ranks, key=lambda rank: sums.stalls[rank])  # of equals the first
        stalls = sums.stalls[slowest]
        return RankTimes(
            ranks=len(ranks),
            world_size=self._world_size,
            steps=sums.steps,
            wait_share=_share(sums.largest_s, sums.step_s),
            wait_s_max_mean=sums.largest_s / sums.steps,
            wait_s_max_p95=sums.largest.quantile(0.95) or 0.0,
            imbalance=sums.largest_s / sums.mean_s if sums.mean_s > 0 else None,
            slowest_rank=slowest if stalls else None,
            slowest_host=self._hosts[slowest] if stalls else "",
            slowest_share=stalls / sums.steps,
            lost_s=sums.lost_s,
            rank_wait_share=tuple(
                (rank, self._hosts[rank], _share(sums.waited_s[rank], sums.took_s[rank])) for rank in ranks
            ),
            missing=tuple(rank for rank in range(self._world_size) if rank not in self._arrived),
        )


def _share(wait_s: float, step_s: float) -> float:
    """Ratio of the sums, 0..1."""
    return min(1.0, wait_s / step_s) if step_s > 0 else 0.0
