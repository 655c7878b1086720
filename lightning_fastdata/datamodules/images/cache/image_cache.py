"""The cache of an image folder: from the user's options to sources that read through it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lightning_fastdata.datamodules.images.cache.cached_source import CachedSource, CacheNotes, estimated_bytes
from lightning_fastdata.datamodules.images.cache.entry_format import EntryFormat
from lightning_fastdata.datamodules.images.cache.folder import CacheHeader, file_stamps, fingerprint_of
from lightning_fastdata.datamodules.images.cache.placement import (
    bytes_text,
    cache_in_memory_error,
    open_cache,
)
from lightning_fastdata.datamodules.images.sources import FileSource
from lightning_fastdata.errors import FastDataError, check_int
from lightning_fastdata.hardware.detect import probe

__all__ = ["CacheOptions", "ImageCache", "header_of"]

Paths = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class CacheOptions:
    """What the user asks for."""

    kind: Literal["disk"] | None = None
    """"disk", or None for no cache. "ram" passes until ``ImageCache`` can say what it would take."""
    cache_dir: str | None = None
    """Holds caches on disk; None = the user's cache folder."""
    cache_bytes: int | None = None
    """What the cache may grow to (bytes); None = what is free, less a reserve."""
    entry_format: EntryFormat = field(default_factory=EntryFormat)
    """What is kept of an image."""

    def __post_init__(self) -> None:
        kind = self.kind
        if kind not in (None, "ram", "disk"):
            raise FastDataError(f"cache={kind!r}.", expected='None or "disk".', fix='pass cache="disk".')
        check_int("cache_bytes", self.cache_bytes, 0, allow=(None,), fix="pass cache_bytes=20 * 2**30 for 20 GiB.")
        if kind is None and self.entry_format.kind != "original":
            raise FastDataError(
                f"cache_format={self.entry_format.kind!r} without a cache.",
                expected="a format of what is cached: it changes what the model sees, cached or not.",
                fix='pass cache="disk", with cache_bytes=0 if nothing is to be kept; or leave it out.',
            )
        if kind is None and self.cache_dir is not None:
            raise FastDataError(
                f"cache_dir={self.cache_dir!r} without a cache.",
                expected="a folder only for a cache.",
                fix='pass cache="disk", or leave cache_dir out.',
            )


class ImageCache:
    """A cache of all files of an image folder, whatever split they are in.

    Args:
        header: What it is known by, see ``header_of``.
        paths: Files by the name of the folder they are listed from, in the order of its list.
        options: What the user asks for; not one for no cache.

    Raises:
        FastDataError: The user asks for a cache in memory.
    """

    def __init__(self, header: CacheHeader, paths: Paths, options: CacheOptions) -> None:
        self.options = options
        self.header = header
        self.notes = CacheNotes()
        self._first = {}
        first = 0
        for name in sorted(paths):
            self._first[name], first = first, first + len(paths[name])
        files = [(FileSource(listed), len(listed)) for listed in paths.values()]
        if options.kind != "disk":
            raise cache_in_memory_error(estimated_bytes(files, options.entry_format), probe())
        self.plan, self._file = open_cache(
            self.header,
            needed=lambda: estimated_bytes(files, options.entry_format),
            cache_dir=None if options.cache_dir is None else Path(options.cache_dir).expanduser(),
            cache_bytes=options.cache_bytes,
        )

    def source(self, name: str, paths: Sequence[str]) -> CachedSource:
        """The images of one list.

        Args:
            name: The folder it is the list of.
            paths: Its files, as they were given for this name.
        """
        return CachedSource(FileSource(paths), self.options.entry_format, self._file, self._first[name], self.notes)

    def sync(self) -> None:
        """Have the system write everything to the disk before this returns."""
        if self._file is not None:
            self._file.sync()

    def lines(self) -> list[str]:
        """What it holds now and what happened since it was opened, for people."""
        if self._file is None:
            return []
        held = self._file.held()
        text = f"{held.entries} of {self.header.samples} samples are cached, {bytes_text(held.entry_bytes)}"
        return [text, *self.notes.lines()]


def header_of(root: str, paths: Paths, entry_format: EntryFormat) -> CacheHeader:
    """What a cache of these files and settings is known by; asks for the size and time of every file.

    Args:
        root: The image folder.
        paths: Files by the name of the folder they are listed from, in the order of its list; all below ``root``.
        entry_format: What is kept of an image.
    """
    absolute, settings = os.path.abspath(root), entry_format.settings()
    stamps = (stamp for name in sorted(paths) for stamp in file_stamps(paths[name], root))
    samples = sum(map(len, paths.values()))
    return CacheHeader(absolute, samples, settings, fingerprint_of(absolute, settings, stamps))
