"""A cache in anonymous shared memory: no file system limits it, and it is gone with the last process that uses it.

Docker gives /dev/shm 64 MiB; memory from ``memfd_create`` lies on no mount and is bounded by the memory of the machine
or container alone. A killed run leaves nothing behind. Workers open it as ``/proc/<pid>/fd/<n>``; the ranks of a node
find each other's through a small file.
"""

import contextlib
import json
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

from lightning_fastdata.datamodules.images.cache.blob_file import LINE_BYTES, StoredFiles
from lightning_fastdata.datamodules.images.cache.folder import CacheHeader, key_of, locked
from lightning_fastdata.errors import FastDataError

__all__ = ["SharedMemory"]

_MAX_NOTE_BYTES = 4096


class SharedMemory:
    """The two files of a cache in memory, held open by this process.

    Another process of this user on this machine that asks for the same header gets the same memory.

    Args:
        header: What the cache is of.
        meeting: Folder in which processes leave word of what they hold; None = one of this user's.

    Raises:
        FastDataError: The system has no anonymous shared memory, or no room for the table.
    """

    def __init__(self, header: CacheHeader, meeting: Path | None = None) -> None:
        self.header = header
        self.pid = os.getpid()
        self._descriptors: tuple[int, int] = (-1, -1)
        self.shared_with_ranks = True
        if not hasattr(os, "memfd_create"):
            raise FastDataError(
                f'cache="ram" on {sys.platform}.', expected="Linux.", fix='pass cache="disk", which the system buffers.'
            )
        try:
            folder = meeting or meeting_folder()
            with locked(folder):
                self._meet(folder / f"{header.name}.json")
        except OSError:  # nowhere to meet: each rank has its own
            self.shared_with_ranks = False
            if self._descriptors[0] < 0:
                self._make()

    def files(self, budget_bytes: int) -> StoredFiles:
        """The cache, for this process and its workers.

        Args:
            budget_bytes: What the blob may grow to.
        """
        entries, table = (f"/proc/{self.pid}/fd/{descriptor}" for descriptor in self._descriptors)
        return StoredFiles(entries, table, self.header.samples, key_of(self.header), budget_bytes)

    @property
    def file_bytes(self) -> int:
        """Size of the blob now (bytes)."""
        return os.fstat(self._descriptors[0]).st_size

    def close(self) -> None:
        """Let go of the memory; it is freed when all processes have."""
        descriptors, self._descriptors = self._descriptors, (-1, -1)
        for descriptor in descriptors:
            if descriptor >= 0 and self.pid == os.getpid():
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> Any:
        return _nothing, ()  # a worker has the paths; what it unpickles holds no memory

    def _meet(self, note: Path) -> None:
        """Take what another process holds, or hold some and leave word; called under the lock."""
        if not self._join(note):
            self._make()
        text = json.dumps({"pid": self.pid, "descriptors": self._descriptors})
        made = note.with_name(f"{note.name}.{self.pid}")
        made.write_text(text)
        made.replace(note)

    def _join(self, note: Path) -> bool:
        opened: list[int] = []
        try:
            with note.open("rb") as file:
                word = json.loads(file.read(_MAX_NOTE_BYTES))
            pid, descriptors = int(word["pid"]), [int(number) for number in word["descriptors"]]
            for name, number in zip(self._names(), descriptors, strict=True):
                path = f"/proc/{pid}/fd/{number}"
                # The name holds the fingerprint, so neither another cache nor a number used again passes for this.
                if os.readlink(path) != f"/memfd:{name} (deleted)":
                    raise ValueError(path)
                opened.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            if os.fstat(opened[1]).st_size != self.header.samples * LINE_BYTES:
                raise ValueError("table")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            for descriptor in opened:
                os.close(descriptor)
            return False
        self._descriptors = opened[0], opened[1]
        return True

    def _make(self) -> None:
        entries, table = (os.memfd_create(name, os.MFD_CLOEXEC) for name in self._names())
        self._descriptors = entries, table
        os.ftruncate(table, self.header.samples * LINE_BYTES)

    def _names(self) -> tuple[str, str]:
        short = self.header.fingerprint[:32]
        return f"lightning_fastdata-{short}-entries", f"lightning_fastdata-{short}-table"


def meeting_folder() -> Path:
    """A folder of this user's alone, on this machine.

    Raises:
        OSError: It cannot be made, or is another's.
    """
    folder = Path(tempfile.gettempdir()) / f"lightning_fastdata-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone")
    return folder


def _nothing() -> None:
    return None
