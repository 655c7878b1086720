"""What the batches of an epoch held, in 64 bits: sums that ranks can add and a checkpoint can keep.

Every sample is hashed together with its position: epoch, loader, cycle and batch. The digest of an epoch is the sum of
these hashes modulo 2**64. So the order of batches counts and the order within a batch does not, ranks only have to
add their sums, and the sum up to a batch is known all along, in constant memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lightning_fastdata.loaders.progress import RULES
from lightning_fastdata.loaders.sample_keys import sample_number
from lightning_fastdata.loaders.splitmix import WORD, Words, mix, mix_all
from lightning_fastdata.results.audit_file import EpochDigest

__all__ = ["BatchSums", "EpochSums", "NotMeasured", "read_vector", "sum_of_samples", "sum_of_words"]

MOST_MARKS = 100
"""Marks of an epoch at most (count); one more, and every second is dropped and the stride doubled."""
LOW = 2**32 - 1
"""Marks keep the low 32 bits of a sum, so that their differences are right as well."""

HEAD = ("has_samples", "has_order", "has_content", "first_batch", "next_batch", "samples", "order", "content")
"""What a rank's vector begins with; the marks of both tracks follow, padded to ``MOST_MARKS``."""


class NotMeasured(Exception):  # noqa: N818 - it is no error: the reason goes into a warning, the rest goes on
    """Something about a batch is not known; the text says why."""


def sum_of_words(position: Iterable[int], words: Words) -> int:
    """Hash words together with their position in the run, and add the hashes.

    Args:
        position: Numbers such as (epoch, loader, cycle, batch).
        words: The words at that position, uint64, shape (words,).

    Returns:
        The sum of ``mix(start + word)`` modulo 2**64, where ``start = mix(mix(position[0]) + position[1])`` and so on.
    """
    start = 0
    for number in position:
        start = mix(start + number)
    return int(mix_all(words + np.uint64(start)).sum(dtype=np.uint64))


def sum_of_samples(position: Iterable[int], indices: Sequence[Any]) -> int:
    """``sum_of_words`` for the samples of a batch.

    Args:
        position: (epoch, loader, cycle, batch), each a number from 0.
        indices: The samples as the sampler yielded them; ``sample_number`` makes a number of any key.

    Returns:
        An integer in [0, 2**64), whatever the order of the samples.
    """
    words = np.fromiter((sample_number(index) & WORD for index in indices), np.uint64, len(indices))
    return sum_of_words(position, words)


@dataclass(frozen=True)
class BatchSums:
    """What one rank's batch adds to its epoch."""

    batch: int
    """The Trainer's number of the batch within the epoch, from 0."""
    samples: int | None
    """Samples of this rank (count); None: not known."""
    order: int | None
    """Sum of the hashes of which samples it held; None: not measured."""
    content: int | None
    """Sum of the hashes of its bytes; None: not measured."""


@dataclass
class Track:
    """One running sum, and what it was at every ``stride``-th batch."""

    total: int = 0
    marks: list[int] = field(default_factory=list)


@dataclass
class EpochSums:
    """The running sums of one epoch on one rank. Memory is constant.

    The newest batch is kept apart (``pending``): a checkpoint that is written in its midst will see it again, one
    written after it will not.
    """

    epoch: int
    """Epoch number, from 0."""
    first_batch: int = 0
    """The batch these sums begin with."""
    next_batch: int = -1
    """The batch after those in the sums; -1 stands for ``first_batch``."""
    stride: int = 1
    """Batches between two marks (count), a power of two; marks stand at its multiples."""
    samples: int | None = 0
    """Samples so far (count); None once that is not known."""
    order: Track | None = field(default_factory=Track)
    """Which samples; None once they were not known."""
    content: Track | None = field(default_factory=Track)
    """Which bytes; None once they were not known."""
    pending: BatchSums | None = None
    """The newest batch."""

    def __post_init__(self) -> None:
        if self.next_batch < 0:
            self.next_batch = self.first_batch

    def note(self, batch: BatchSums) -> None:
        """Take in a batch; the same number again replaces the newest.

        Args:
            batch: A batch that ``continues_with`` accepts, or a later one: what is left out counts as empty.
        """
        if self.pending is not None and batch.batch > self.pending.batch:
            self.settle()
        self.pending = batch

    def continues_with(self, batch: int) -> bool:
        """Whether this batch is the next one, or the newest once more."""
        if self.pending is None:
            return batch == self.next_batch
        return batch - self.pending.batch in (0, 1)

    def settle(self) -> None:
        """Count the newest batch; it will not come again."""
        batch, self.pending = self.pending, None
        if batch is None:
            return
        while self.next_batch < batch.batch:
            self._step()
        self.samples = None if None in (self.samples, batch.samples) else (self.samples or 0) + (batch.samples or 0)
        self.order = _added(self.order, batch.order)
        self.content = _added(self.content, batch.content)
        self._step()

    def _step(self) -> None:
        self.next_batch += 1
        if self.next_batch % self.stride:
            return
        tracks = [track for track in (self.order, self.content) if track is not None]
        for track in tracks:
            track.marks.append(track.total & LOW)
        if self.next_batch // self.stride - self.first_batch // self.stride > MOST_MARKS:
            first = self.first_batch // self.stride + 1
            for track in tracks:
                track.marks = [mark for number, mark in enumerate(track.marks, first) if number % 2 == 0]
            self.stride *= 2

    def vector(self) -> Words:
        """All sums as one vector of a fixed length; the vectors of ranks are added modulo 2**64.

        Returns:
            uint64, shape (208,): what ``HEAD`` names, then the marks of both tracks.
        """
        order, content = self.order or Track(), self.content or Track()
        has = [int(known is not None) for known in (self.samples, self.order, self.content)]
        head = [*has, self.first_batch, self.next_batch, self.samples or 0, order.total, content.total]
        marks = [[*track.marks, *[0] * (MOST_MARKS - len(track.marks))] for track in (order, content)]
        return np.array([*head, *marks[0], *marks[1]], dtype=np.uint64)

    def to_state(self) -> dict[str, Any]:
        """The fields as text and numbers, for a checkpoint; the newest batch is still apart."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "EpochSums":
        """Read what ``to_state`` gave.

        Raises:
            KeyError, TypeError: It was written by something else.
        """
        tracks = {name: Track(**state[name]) if state[name] else None for name in ("order", "content")}
        pending = BatchSums(**state["pending"]) if state["pending"] else None
        return cls(**{**state, **tracks, "pending": pending})


def _added(track: Track | None, value: int | None) -> Track | None:
    if track is None or value is None:
        return None
    track.total = (track.total + value) & WORD
    return track


def read_vector(added: Words, ranks: int, own: EpochSums) -> EpochDigest:
    """The line of an epoch, from the added vectors of all ranks.

    Args:
        added: The sum of ``EpochSums.vector`` over the ranks, uint64.
        ranks: Ranks whose vectors are in it (count). One that measured nothing has added zeros.
        own: The sums of the rank that asks; all ranks have made the same number of batches.

    Returns:
        What goes into the file; what was not measured on every rank, for the same batches, is None.
    """
    head = dict(zip(HEAD, map(int, added), strict=False))
    same = head["first_batch"] == own.first_batch * ranks and head["next_batch"] == own.next_batch * ranks
    number = own.next_batch // own.stride - own.first_batch // own.stride
    starts = {"order": len(HEAD), "content": len(HEAD) + MOST_MARKS}

    def marks(name: str) -> tuple[str, ...]:
        start = starts[name]
        return tuple(f"{int(mark) & LOW:08x}" for mark in added[start : start + number])

    measured = {name: same and head[f"has_{name}"] == ranks for name in ("samples", "order", "content")}
    return EpochDigest(
        epoch=own.epoch,
        first_batch=own.first_batch,
        batches=own.next_batch - own.first_batch,
        samples=head["samples"] if measured["samples"] else None,
        digest=f"{head['order']:016x}" if measured["order"] else None,
        content=f"{head['content']:016x}" if measured["content"] else None,
        stride=own.stride,
        marks=marks("order") if measured["order"] else (),
        content_marks=marks("content") if measured["content"] else (),
        rules=RULES,
    )
