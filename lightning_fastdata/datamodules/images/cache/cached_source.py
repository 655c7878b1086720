"""Bytes of images out of a cache that fills itself; see ``sources`` for what a source is."""

import contextlib
import os
from collections.abc import Iterable
from typing import Any

import torch

from lightning_fastdata.datamodules.images.cache.blob_file import CacheFile
from lightning_fastdata.datamodules.images.cache.entry_format import EntryFormat
from lightning_fastdata.datamodules.images.sources import Kind, Source

__all__ = ["CacheNotes", "CachedSource", "estimated_bytes"]

SAMPLED = 12
"""Images that are encoded to see how large entries become (count)."""


class CacheNotes:
    """What workers leave for the training process to say; in memory that all of them share."""

    def __init__(self) -> None:
        self._numbers = torch.zeros(3, dtype=torch.int32)
        self._numbers.share_memory_()  # type: ignore[no-untyped-call]

    def failed(self, error: Exception) -> None:
        """The cache can no longer be read or added to."""
        self._numbers[0] = getattr(error, "errno", None) or -1

    def full(self) -> None:
        """An entry did not fit."""
        self._numbers[1] = 1

    def damaged(self) -> None:
        """An entry was not what had been stored."""
        self._numbers[2] = 1

    def lines(self) -> list[str]:
        """What happened, for people; nothing where all went well."""
        failed, full, damaged = self._numbers.tolist()
        reason = os.strerror(failed) if failed > 0 else "an error of the system"
        events = {
            f"no more was kept after: {reason}": failed,
            "entries beyond its budget were not kept": full,
            "damaged entries were found and replaced": damaged,
        }
        return [event for event, happened in events.items() if happened]


class CachedSource:
    """Images as a cache keeps them, read through to the files where it has none yet.

    A sample takes the same way in either case, so batches are the same whether nothing, some or all of it is cached,
    or nothing can be.

    Args:
        source: Gives the bytes of the files.
        entry_format: What becomes of them.
        file: The cache; None keeps nothing.
        first: Place of the source's first image in the cache.
        notes: Where to leave what should be said; None = notes of its own.
    """

    def __init__(
        self,
        source: Source,
        entry_format: EntryFormat,
        file: CacheFile | None,
        first: int = 0,
        notes: CacheNotes | None = None,
    ) -> None:
        self.source = source
        self.entry_format = entry_format
        self.file = file
        self.first = first
        self.notes = notes or CacheNotes()

    @property
    def kind(self) -> Kind:
        """What the bytes are."""
        return self.entry_format.kind

    def read(self, index: int) -> bytes | memoryview:
        """The bytes of one image, kept for the next time if there is room.

        Args:
            index: Its place in the source's list.

        Raises:
            Exception: It cannot be read or decoded; see ``EntryFormat.encode``.
        """
        kept: memoryview | None = self._call("get", index)
        if kept is not None:
            return kept
        made = self.entry_format.encode(self.source.read(index))
        if self.file is not None and not self._call("put", index, made):
            self._say_why()
        return made

    def _call(self, name: str, index: int, *arguments: Any) -> Any:
        """Ask the cache; one that cannot be opened any more is left alone from then on, by this process."""
        if self.file is None:
            return None
        number = self.first + index
        try:
            answer = getattr(self.file, name)(number, *arguments)
            if name == "get" and answer is None and self.file.is_damaged(number):
                self.notes.damaged()
            return answer
        except (OSError, ValueError) as error:  # ValueError: a map of a file that has just been cut off
            self.notes.failed(error)
            self.file = None
            return None

    def _say_why(self) -> None:
        """An entry was not kept."""
        if self.file is None or not self.file.files.writable:
            return
        if self.file.problem is not None:
            self.notes.failed(self.file.problem)
        else:
            self.notes.full()


def estimated_bytes(sources: Iterable[tuple[Source, int]], entry_format: EntryFormat) -> int:
    """Size of the entries of all images, from a few of them.

    Args:
        sources: Sources, each with the number of its images.
        entry_format: What becomes of an image.

    Returns:
        Bytes; 0 where none of the few can be read.
    """
    sources = list(sources)
    samples = sum(count for _, count in sources)
    sizes = []
    for step in range(min(SAMPLED, samples)):
        number = step * samples // min(SAMPLED, samples)
        for source, count in sources:
            if number < count:
                with contextlib.suppress(Exception):  # it is reported when it is its turn
                    sizes.append(len(entry_format.encode(source.read(number))))
                break
            number -= count
    return samples * sum(sizes) // len(sizes) if sizes else 0
