"""Where a cache lies and how large it may become, with the reason and the bytes; never what it holds."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from lightning_fastdata.datamodules.images.cache.blob_file import CAN_ADD, CacheFile, Held
from lightning_fastdata.datamodules.images.cache.folder import CacheHeader, open_folder
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware
from lightning_fastdata.planning.options import Reason

__all__ = ["CachePlan", "cache_in_memory_error", "default_cache_dir", "open_cache"]

DISK_SHARE = 0.9
"""Of what is free on the disk: a disk without a byte left stops checkpoints, too."""


@dataclass(frozen=True)
class CachePlan:
    """Whether there is a cache, where, how large, and why."""

    kind: Literal["disk"] | None
    """Where entries are kept; None: nowhere, every sample is read from its file each time."""
    folder: str | None
    """The folder of the cache; None without one."""
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


class Opened(NamedTuple):
    """A cache that was opened, or was not."""

    plan: CachePlan
    """What was decided."""
    file: CacheFile | None
    """The cache; None where there is none."""


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/lightning_fastdata/cache``, or below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lightning_fastdata" / "cache"


def cache_in_memory_error(needed_bytes: int, hardware: Hardware) -> FastDataError:
    """What to say to ``cache="ram"``, which earlier versions had.

    Args:
        needed_bytes: What all samples would take (bytes).
        hardware: The machine.
    """
    rooms = [room for room in (hardware.shm_free_bytes, hardware.ram_available_bytes) if room is not None]
    free = min(rooms) if hardware.shm_free_bytes is not None else 0
    known = f"{bytes_text(free)} of memory are free in /dev/shm" if free else "/dev/shm has no room"
    folder = "/dev/shm/lightning_fastdata"
    fix = 'pass cache="disk": the system buffers it, so it is as fast where all of it fits into memory.'
    if needed_bytes <= DISK_SHARE * free:
        fix += (
            f' Only where the disk is slow or too small, add cache_dir="{folder}": that memory stays in use until'
            f" `lightning-fastdata cache clear --all --cache-dir {folder}`."
        )
    return FastDataError(
        f'cache="ram" was removed: all samples need about {bytes_text(needed_bytes)}; {known}.',
        expected='None or "disk".',
        fix=fix,
    )


def open_cache(
    header: CacheHeader,
    *,
    needed: Callable[[], int],
    cache_dir: Path | None = None,
    cache_bytes: int | None = None,
) -> Opened:
    """Open the cache of some files, or say why there is none: a run goes on without.

    Args:
        header: What it is of.
        needed: Finds out what all samples would take (bytes); only asked where the cache holds nothing that says it.
        cache_dir: Holds caches; None = ``default_cache_dir()``.
        cache_bytes: What the user allows (bytes); None = what is free, less a reserve.

    Returns:
        The plan, which says where, how large and why, and the cache; None where there is none.
    """
    try:
        if not CAN_ADD:
            raise FastDataError(f"not on {sys.platform}.", expected="Linux or macOS.", fix="Leave cache out.")
        return _on_disk(header, needed, cache_dir or default_cache_dir(), cache_bytes)
    except FastDataError as error:
        return _without(header, f"{error.what} {error.fix}")
    except OSError as error:
        return _without(header, str(error))


def _on_disk(header: CacheHeader, needed: Callable[[], int], cache_dir: Path, requested: int | None) -> Opened:
    files = open_folder(cache_dir, header, 0)
    held = CacheFile(files).held()
    free = shutil.disk_usage(cache_dir).free
    most = held.file_bytes + int(DISK_SHARE * free)
    budget = most if requested is None else min(requested, most)
    # By the entries that are there, if any.
    expected = held.entry_bytes * header.samples // held.entries if held.entries else needed()
    file = CacheFile(replace(files, budget_bytes=budget))
    folder = str(Path(files.entries).parent)
    text = f"on disk in {folder}: {_figures(expected, free, budget, requested, held, header.samples)}"
    if not files.writable:
        text += "; it cannot be written to, so nothing is added"
    reason = Reason("user" if requested is not None and requested <= most else "hardware", text)
    plan = CachePlan("disk", folder, budget, expected, free, held, header.samples, reason)
    return Opened(plan, file)


def _without(header: CacheHeader, text: str) -> Opened:
    reason = Reason("hardware", f'no cache, though cache="disk": {text}')
    plan = CachePlan(None, None, 0, None, None, Held(0, 0, 0), header.samples, reason)
    return Opened(plan, None)


def _figures(needed: int, free: int, budget: int, requested: int | None, held: Held, samples: int) -> str:
    text = f"all samples need about {bytes_text(needed)}"
    if held.entries == samples:
        return f"{text} and all {samples} are there already"
    asked = f"{bytes_text(budget)} may be used" + ("" if requested is None else f" (cache_bytes={requested})")
    fits = "all of them fit" if needed <= budget else f"about {max(0, budget) / max(1, needed):.0%} of them fit"
    text = f"{text}; {bytes_text(free)} on that disk are free and {asked}, so {fits}"
    return f"{text}; {held.entries} of {samples} samples are there already" if held.entries else text


def bytes_text(count: int) -> str:
    """A number of bytes for people."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
