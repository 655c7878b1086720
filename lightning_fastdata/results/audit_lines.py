"""A line of an audit file: what is known of one epoch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["SCHEMA", "EpochDigest"]

SCHEMA = 1
"""Version of the lines; a higher one is refused on reading."""


@dataclass(frozen=True)
class EpochDigest:
    """Which samples the global batches of an epoch held, by digest."""

    epoch: int
    """Epoch number, from 0."""
    first_batch: int
    """The batch the digests begin with; not 0 where a run on several ranks was resumed in mid-epoch."""
    batches: int
    """Global batches in the digests (count)."""
    samples: int | None
    """Samples in them over all ranks, padding included (count); None: not measured."""
    digest: str | None
    """Which samples, 16 hexadecimal digits; None: not measured."""
    content: str | None
    """Which bytes, 16 hexadecimal digits; None: not measured."""
    stride: int
    """Batches between two marks (count), a power of two."""
    marks: tuple[str, ...]
    """Low 32 bits of ``digest`` as it was at each multiple of ``stride`` after ``first_batch``, 8 digits each."""
    content_marks: tuple[str, ...]
    """The same for ``content``."""

    @property
    def next_batch(self) -> int:
        """The batch after the last."""
        return self.first_batch + self.batches

    def to_dict(self) -> dict[str, Any]:
        """The line as it is written."""
        return {"kind": "epoch", "schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, line: Mapping[str, Any]) -> "EpochDigest":
        """Read what ``to_dict`` gave; entries of other names are left aside.

        Raises:
            KeyError: An entry is missing.
            TypeError, ValueError: An entry is something else.
        """
        read = cls(
            epoch=int(line["epoch"]),
            first_batch=int(line["first_batch"]),
            batches=int(line["batches"]),
            samples=None if line["samples"] is None else int(line["samples"]),
            digest=None if line["digest"] is None else _hexadecimal(line["digest"], 16),
            content=None if line["content"] is None else _hexadecimal(line["content"], 16),
            stride=int(line["stride"]),
            marks=tuple(_hexadecimal(mark, 8) for mark in line["marks"]),
            content_marks=tuple(_hexadecimal(mark, 8) for mark in line["content_marks"]),
        )
        if min(read.epoch, read.first_batch, read.batches) < 0 or read.stride < 1:
            raise ValueError("a negative number")
        positions = read.next_batch // read.stride - read.first_batch // read.stride
        for name, digest, marks in (
            ("marks", read.digest, read.marks),
            ("content_marks", read.content, read.content_marks),
        ):
            if len(marks) != (0 if digest is None else positions):
                raise ValueError(f"{len(marks)} {name} instead of {positions}")
        return read


def _hexadecimal(text: Any, digits: int) -> str:
    if not isinstance(text, str) or len(text) != digits:
        raise ValueError(f"{text!r} instead of {digits} hexadecimal digits")
    int(text, 16)
    return text
