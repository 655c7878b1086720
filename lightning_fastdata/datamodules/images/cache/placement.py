"""Where a cache lies and how large it may become, with the reason and the bytes; never what it holds."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from lightning_fastdata.datamodules.images.cache.blob_file import CacheFile, Held
from lightning_fastdata.datamodules.images.cache.cache_memory import SharedMemory
from lightning_fastdata.datamodules.images.cache.folder import CacheHeader, open_folder
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.planning.options import Reason

__all__ = ["CacheKind", "CachePlan", "default_cache_dir", "open_cache"]

CacheKind = Literal["ram", "disk"]
DISK_SHARE = 0.9
"""Of what is free on the disk: a disk without a byte left stops checkpoints, too."""
RAM_SHARE = 0.5
"""Of what is available, unless the user says how much: model, optimizer and workers have yet to take theirs."""
RAM_MOST = 0.9
"""Of what is available, whatever the user says."""


@dataclass(frozen=True)
class CachePlan:
    """Whether there is a cache, where, how large, and why."""

    kind: CacheKind | None
    """Where entries are kept; None: nowhere, every sample is read anew."""
    place: str
    """The folder, or what kind of memory, for people."""
    budget_bytes: int
    """What it may grow to (bytes)."""
    needed_bytes: int | None
    """What all samples would take (bytes), by the sizes of some of them; None where that was not asked."""
    free_bytes: int | None
    """What was free there (bytes), without what the cache holds already; None = not known."""
    held: Held
    """What it held when the run began."""
    samples: int
    """Samples it is for (count)."""
    reason: Reason
    """Why, with the bytes."""

    def __str__(self) -> str:
        return str(self.reason)


@dataclass
class Opened:
    """A cache that was opened, or was not."""

    plan: CachePlan
    """What was decided."""
    file: CacheFile | None
    """The cache; None where there is none."""
    memory: SharedMemory | None = field(default=None, repr=False)
    """Holds the memory of a cache in memory."""


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/lightning_fastdata/cache``, or below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lightning_fastdata" / "cache"


def open_cache(
    kind: CacheKind,
    header: CacheHeader,
    *,
    needed: Callable[[], int],
    cache_dir: Path | None = None,
    cache_bytes: int | None = None,
    ram_available_bytes: int | None = None,
) -> Opened:
    """Open the cache of some files, or say why there is none: a run goes on without.

    Args:
        kind: "ram" or "disk".
        header: What it is of.
        needed: Finds out what all samples would take (bytes); only asked where the cache holds nothing that says it.
        cache_dir: Holds caches on disk; None = ``default_cache_dir()``.
        cache_bytes: What the user allows (bytes); None = what is free, less a reserve.
        ram_available_bytes: Memory that can still be taken (bytes); None = not known.

    Returns:
        The cache and the plan, which says where, how large and why.
    """
    try:
        if not hasattr(os, "geteuid"):  # nor file locks, which come with it
            raise FastDataError(f"not on {sys.platform}.", expected="Linux or macOS.", fix="Leave cache out.")
        if kind == "disk":
            return _on_disk(header, needed, cache_dir or default_cache_dir(), cache_bytes)
        return _in_memory(header, needed, cache_bytes, ram_available_bytes)
    except FastDataError as error:
        return _without(header, f'no cache, though cache="{kind}": {error.what} {error.fix}')
    except OSError as error:
        return _without(header, f'no cache, though cache="{kind}": {error}')


def _on_disk(header: CacheHeader, needed: Callable[[], int], cache_dir: Path, requested: int | None) -> Opened:
    files = open_folder(cache_dir, header, 0)
    held = CacheFile(files).held()
    free = shutil.disk_usage(cache_dir).free
    most = held.file_bytes + int(DISK_SHARE * free)
    budget = most if requested is None else min(requested, most)
    expected = _expected(held, header.samples, needed)
    file = CacheFile(replace(files, budget_bytes=budget))
    place = str(Path(files.entries).parent)
    text = f"on disk in {place}: {_figures(expected, free, budget, requested, 'on that disk', held, header.samples)}"
    if not files.writable:
        text += "; it cannot be written to, so nothing is added"
    plan = CachePlan("disk", place, budget, expected, free, held, header.samples, _reason(requested, most, text))
    return Opened(plan, file)


def _in_memory(header: CacheHeader, needed: Callable[[], int], requested: int | None, available: int | None) -> Opened:
    if available is None and requested is None:
        raise FastDataError(
            "how much memory is available cannot be found out.", expected="a budget.", fix="Pass cache_bytes."
        )
    memory = SharedMemory(header)
    held = CacheFile(memory.files(0)).held()
    most = requested or 0
    if available is not None:
        most = held.file_bytes + int((RAM_SHARE if requested is None else RAM_MOST) * available)
    budget = most if requested is None else min(requested, most)
    place = "anonymous shared memory"
    expected = _expected(held, header.samples, needed)
    shared = "which all processes of the node share" if memory.shared_with_ranks else "which each rank has for itself"
    figures = _figures(expected, available, budget, requested, "of memory", held, header.samples)
    text = f"in {place}, {shared} and /dev/shm does not limit: {figures}"
    plan = CachePlan("ram", place, budget, expected, available, held, header.samples, _reason(requested, most, text))
    return Opened(plan, CacheFile(memory.files(budget)), memory)


def _expected(held: Held, samples: int, needed: Callable[[], int]) -> int:
    """Size of all entries (bytes), by those that are there, if any."""
    return held.entry_bytes * samples // held.entries if held.entries else needed()


def _without(header: CacheHeader, text: str) -> Opened:
    plan = CachePlan(None, "nowhere", 0, None, None, Held(0, 0, 0), header.samples, Reason("hardware", text))
    return Opened(plan, None)


def _reason(requested: int | None, most: int, text: str) -> Reason:
    return Reason("user" if requested is not None and requested <= most else "hardware", text)


def _figures(
    needed: int, free: int | None, budget: int, requested: int | None, where: str, held: Held, samples: int
) -> str:
    text = f"all samples need about {bytes_text(needed)}"
    if held.entries == samples:
        return f"{text} and all {samples} are there already"
    known = f"{where} is not known" if free is None else f"{bytes_text(free)} {where} are free"
    asked = f"{bytes_text(budget)} may be used" + ("" if requested is None else f" (cache_bytes={requested})")
    fits = "all of them fit" if needed <= budget else f"about {max(0, budget) / max(1, needed):.0%} of them fit"
    text = f"{text}; {known} and {asked}, so {fits}"
    return f"{text}; {held.entries} of {samples} samples are there already" if held.entries else text


def bytes_text(count: int) -> str:
    """A number of bytes for people."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
