"""The folder of a cache: made whole or not at all, and never taken for that of other files or other settings.

``cache_dir/<name>/`` has ``entries.bin``, ``table.bin`` and ``header.json``. The name follows from the image folder and
the settings, the fingerprint in the header from every file's path, size and time as well. A folder that is not what it
should be (of files that have changed since, cut off, foreign) is replaced.
"""

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from lightning_fastdata.datamodules.file_lock import file_lock
from lightning_fastdata.datamodules.images.cache.blob_file import LINE_BYTES, CacheFile, StoredFiles
from lightning_fastdata.errors import FastDataError

__all__ = [
    "CacheHeader",
    "clear_folders",
    "file_stamps",
    "find_folders",
    "fingerprint_of",
    "open_folder",
    "read_header",
]

FORMAT = "lightning_fastdata cache"
VERSION = 1
"""Of the files; a cache of another version is replaced."""
LOCK_WAIT_S = 120.0
"""How long to wait for a process that makes or deletes a cache (s): seconds, but for a large one on a slow disk."""
_HEADER, _ENTRIES, _TABLE, _LOCK = "header.json", "entries.bin", "table.bin", ".lock"
_MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class CacheHeader:
    """What a cache was made of."""

    root: str
    """The image folder, absolute."""
    samples: int
    """Files listed in it (count)."""
    settings: dict[str, Any]
    """What decides the bytes of an entry: format, short side, quality, versions of the codecs."""
    fingerprint: str
    """BLAKE2b of all of this and of every file's path, size and time, 64 hexadecimal digits."""
    format: str = FORMAT
    """Says what the file is."""
    version: int = VERSION
    """Of the format of the files."""

    @property
    def name(self) -> str:
        """Name of the folder: that of the image folder, and a digest of its path, the settings and the user."""
        identity = json.dumps([self.version, self.root, self.settings, os.geteuid()], sort_keys=True)
        readable = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in Path(self.root).name)
        return f"{readable[:40] or 'images'}-{blake2b(identity.encode(), digest_size=8).hexdigest()}"


def file_stamps(paths: Iterable[str], root: str) -> Iterator[bytes]:
    """For each file its path below ``root``, size and time of the last change, as bytes for a fingerprint.

    Args:
        paths: The files, in order.
        root: What they lie in.
    """
    prefix = os.path.join(root, "")
    for path in paths:
        try:
            status = os.stat(path)
            size, changed_ns = status.st_size, status.st_mtime_ns
        except OSError:  # reading it will say so
            size = changed_ns = -1
        yield os.fsencode(path.removeprefix(prefix)) + f"\0{size} {changed_ns}\0".encode()


def fingerprint_of(root: str, settings: dict[str, Any], stamps: Iterable[bytes]) -> str:
    """The fingerprint of a cache.

    Args:
        root: The image folder, absolute.
        settings: What decides the bytes of an entry.
        stamps: See ``file_stamps``.

    Returns:
        64 hexadecimal digits.
    """
    digest = blake2b(json.dumps([VERSION, root, settings], sort_keys=True).encode(), digest_size=32)
    for stamp in stamps:
        digest.update(stamp)
    return digest.hexdigest()


def open_folder(cache_dir: Path, header: CacheHeader, budget_bytes: int) -> StoredFiles:
    """Find the cache of this header below ``cache_dir``, or make an empty one.

    Args:
        cache_dir: Holds caches; made where it is missing, for this user alone.
        header: What the cache is of.
        budget_bytes: What its blob may grow to.

    Returns:
        Its files. Where the folder cannot be written but holds this very cache, they are ``writable=False``.

    Raises:
        FastDataError: The folder can neither be made nor used; training works without the cache.
    """
    folder = cache_dir / header.name
    try:
        cache_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file_lock(cache_dir / _LOCK, LOCK_WAIT_S):
            _sweep(cache_dir, header.name)
            if not is_intact(folder, header):
                _replace(folder, header)
    except OSError as error:
        if is_intact(folder, header):
            return _files(folder, header, budget_bytes, writable=False)
        raise FastDataError(
            f"cache_dir={str(cache_dir)!r}: {error.strerror or error}.",
            expected="a folder on a disk of this machine that can be written.",
            fix="pass cache_dir=..., or cache=None.",
        ) from error
    return _files(folder, header, budget_bytes, writable=os.access(folder / _ENTRIES, os.W_OK))


def make_files(folder: Path, samples: int) -> None:
    """Empty files for so many samples."""
    for name, size in ((_ENTRIES, 0), (_TABLE, samples * LINE_BYTES)):
        _write_new(folder / name, b"", size)


def is_intact(folder: Path, header: CacheHeader) -> bool:
    """Whether a folder is the cache of this header, whole, and this user's alone.

    Args:
        folder: Where it should be.
        header: What it should be of.
    """
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if _is_ours(folder) and read_header(folder) == header:
            table_bytes = (folder / _TABLE).stat().st_size
            return table_bytes == header.samples * LINE_BYTES and (folder / _ENTRIES).is_file()
    return False


def read_header(folder: Path) -> CacheHeader:
    """Read what a cache is of.

    Args:
        folder: Its folder.

    Returns:
        The header, checked.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no header of a cache.
    """
    with (folder / _HEADER).open("rb") as file:
        text = file.read(_MAX_HEADER_BYTES)
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ValueError(f"{folder / _HEADER} is no header of a cache")
    kinds = {"root": str, "samples": int, "settings": dict, "fingerprint": str, "version": int}
    for name, kind in kinds.items():
        if type(fields.get(name)) is not kind:
            raise ValueError(f"{folder / _HEADER}: {name}={fields.get(name)!r}")
    return CacheHeader(**{name: fields[name] for name in (*kinds, "format")})


def find_folders(cache_dir: Path) -> dict[Path, CacheHeader]:
    """The caches below a folder, of any file and setting, sorted by name; whatever else lies there is left out.

    Args:
        cache_dir: Holds caches.
    """
    headers = {}
    for folder in sorted(cache_dir.iterdir()) if cache_dir.is_dir() else []:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if _is_ours(folder):
                headers[folder] = read_header(folder)
    return {folder: header for folder, header in headers.items() if header.name == folder.name}


def clear_folders(folders: Iterable[Path]) -> int:
    """Delete caches. A run that uses one goes on with what it has opened, and keeps nothing new.

    Args:
        folders: Folders of caches, as ``find_folders`` gave them.

    Returns:
        What they took on the disk (bytes).
    """
    freed = 0
    for folder in folders:
        with file_lock(folder.parent / _LOCK, LOCK_WAIT_S):
            freed += sum(file.stat().st_blocks * 512 for file in folder.iterdir())
            _remove(folder)
    return freed


def cache_of(folder: Path, header: CacheHeader) -> CacheFile:
    """A cache to be looked at, nothing is added."""
    return CacheFile(_files(folder, header, 0, writable=False))


def key_of(header: CacheHeader) -> int:
    """32 bits of the fingerprint, which every line of the table is summed with."""
    return int(header.fingerprint[:8], 16)


def _files(folder: Path, header: CacheHeader, budget_bytes: int, *, writable: bool) -> StoredFiles:
    entries, table = str(folder / _ENTRIES), str(folder / _TABLE)
    return StoredFiles(entries, table, header.samples, key_of(header), budget_bytes, writable)


def _write_new(path: Path, content: bytes, size: int | None = None) -> None:
    """Write a file of this user's alone, filled up with zeros to its size (bytes), and have it on the disk."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
        file.truncate(size)
        os.fsync(file.fileno())


def _is_ours(folder: Path) -> bool:
    """A folder of this user's that no other can write to; a link to one is none."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _replace(folder: Path, header: CacheHeader) -> None:
    """Put a new, empty cache in the folder's place: whole, or not at all."""
    made = Path(tempfile.mkdtemp(prefix=f"{folder.name}.new-", dir=folder.parent))
    try:
        make_files(made, header.samples)
        _write_new(made / _HEADER, f"{json.dumps(asdict(header), indent=2)}\n".encode())
        if os.path.lexists(folder):
            _remove(folder)
        os.rename(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    _sync_folder(folder.parent)


def _remove(folder: Path) -> None:
    """Move away first, so that no process opens what is half deleted; a link or a file is only unlinked."""
    aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.old-", dir=folder.parent)) / "cache"
    os.rename(folder, aside)
    shutil.rmtree(aside.parent, ignore_errors=True)


def _sweep(cache_dir: Path, name: str) -> None:
    """What a process that was killed has left half made or half deleted; called under the lock."""
    for pattern in (f"{name}.new-*", f"{name}.old-*"):
        for left in cache_dir.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
