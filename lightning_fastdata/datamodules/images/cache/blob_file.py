"""The cache as files: one blob of entries, a table of where each is, a JSON header. Nothing in it is ever executed.

``entries.bin`` holds the entries one after the other. ``table.bin`` has 24 bytes for every sample, whether it is held
or not: offset, length and CRC-32 of its entry, and a CRC-32 of these with the sample's number and the fingerprint. Both
are mapped into memory, so that all workers and ranks of a node read one copy of them, and any number of processes may
add entries at once: space is reserved under a lock that a killed process gives up, the entry is written into it, and
only then its line of the table. Whatever is cut short at any moment leaves an empty line, or one whose sum is wrong.
"""

import mmap
import os
import platform
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["CAN_ADD", "LINE_BYTES", "CacheFile", "Held", "StoredFiles"]

CAN_ADD = fcntl is not None and hasattr(os, "geteuid")
"""Whether the system has what caches need: file locks and users."""
_LINE = struct.Struct("<QIIII")
LINE_BYTES = _LINE.size
"""Size of a line of the table (bytes)."""
_CHECKED = LINE_BYTES - 4
"""Bytes of a line that its own sum is taken of."""
_SCAN_LINES = 65_536
"""Lines that are looked at together when entries are counted."""
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if platform.machine() in ("x86_64", "aarch64") else 0)
"""Linux's MAP_NORESERVE, which Python names from 3.13 on: a private map larger than the memory is refused without."""


@dataclass(frozen=True)
class StoredFiles:
    """Where a cache lies and what may be done with it; it travels to workers, which open the files themselves."""

    entries: str
    """Path of the blob."""
    table: str
    """Path of the table."""
    samples: int
    """Samples that it has a line for (count)."""
    key: int
    """32 bits of the fingerprint: no line of another cache passes for one of this."""
    budget_bytes: int
    """What the blob may grow to; entries beyond are not kept."""
    writable: bool = True
    """False: entries are served, none are added."""


@dataclass(frozen=True)
class Held:
    """What a cache holds."""

    entries: int
    """Samples with an entry (count)."""
    entry_bytes: int
    """Size of those entries (bytes)."""
    file_bytes: int
    """Size of the blob (bytes); more than that of the entries where a process was killed, or an entry replaced."""


class CacheFile:
    """Entries by sample number, read and added by any number of processes and threads.

    It pickles as paths, and a forked process opens the files for itself: a lock that came with the fork would be
    shared with the parent.

    Args:
        files: Where they are.
    """

    def __init__(self, files: StoredFiles) -> None:
        self.files = files
        self._opened: _Opened | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "_opened": None}

    @property
    def problem(self) -> OSError | None:
        """Why this process has stopped to add entries; None = it has not."""
        return self._mine().problem

    def get(self, number: int) -> memoryview | None:
        """The entry of a sample.

        Args:
            number: Its place in the file list that the cache was made for.

        Returns:
            The bytes, in place in the mapped file, not to be written to; None where there are none or they are
            damaged. An entry's sum is checked when a process first reads it.

        Raises:
            OSError: The files cannot be opened.
        """
        return self._mine().get(number)

    def put(self, number: int, entry: bytes | bytearray | memoryview) -> bool:
        """Keep the entry of a sample, if there is room.

        A disk that is full or fails ends the adding for this process, see ``problem``; it is no error.

        Args:
            number: Its place in the file list.
            entry: Its bytes, at least one.

        Returns:
            Whether it was kept.

        Raises:
            OSError: The files cannot be opened.
        """
        return self._mine().put(number, memoryview(entry))

    def is_damaged(self, number: int) -> bool:
        """Whether a line of the table is neither empty nor one of this cache, or its entry is not what was stored."""
        opened = self._mine()
        return opened.line(number) != bytes(LINE_BYTES) and opened.get(number) is None

    def held(self) -> Held:
        """Count what is there; reads the table, not the entries."""
        return self._mine().held()

    def sync(self) -> None:
        """Have the system write everything to the disk before this returns."""
        opened = self._mine()
        for descriptor in (opened.entries, opened.table):
            os.fsync(descriptor)

    def _mine(self) -> "_Opened":
        opened = self._opened
        if opened is None or opened.pid != os.getpid():
            opened = self._opened = _Opened(self.files)
        return opened


class _Opened:
    """The files as one process has them open."""

    def __init__(self, files: StoredFiles) -> None:
        self.files = files
        self.pid = os.getpid()
        self.problem: OSError | None = None
        self.mutex = threading.Lock()  # flock does not keep the threads of a process apart
        self.entries = self.table = -1
        flags = (os.O_RDWR if files.writable else os.O_RDONLY) | os.O_CLOEXEC
        self.entries = os.open(files.entries, flags)
        self.table = os.open(files.table, flags)
        expected = files.samples * LINE_BYTES
        if os.fstat(self.table).st_size < expected:
            raise OSError(f"{files.table} is shorter than {expected} bytes")
        self.lines = mmap.mmap(self.table, expected, access=mmap.ACCESS_READ)
        self.view = memoryview(b"")
        self.checked = bytearray(files.samples)

    def __del__(self) -> None:
        for descriptor in (self.entries, self.table):
            if descriptor >= 0:
                os.close(descriptor)

    def line(self, number: int) -> bytes:
        if not 0 <= number < self.files.samples:
            raise IndexError(number)
        return self.lines[number * LINE_BYTES : (number + 1) * LINE_BYTES]

    def get(self, number: int) -> memoryview | None:
        line = self.line(number)
        offset, length, entry_sum, _, line_sum = _LINE.unpack(line)
        if not length or line_sum != _line_sum(line, number, self.files.key):
            return None
        view = self.view
        if offset + length > len(view):
            view = self.map_again()
            if offset + length > len(view):  # the blob was cut off
                return None
        entry = view[offset : offset + length]
        if not self.checked[number]:
            if zlib.crc32(entry) != entry_sum:
                return None
            self.checked[number] = 1
        return entry

    def map_again(self) -> memoryview:
        """Map what the blob has grown to; maps that are still read stay until then."""
        with self.mutex:
            size = os.fstat(self.entries).st_size
            if size > len(self.view):
                self.view = memoryview(_map_privately(self.entries, size))
            return self.view

    def put(self, number: int, entry: memoryview) -> bool:
        if not self.files.writable or self.problem is not None or not entry.nbytes:
            return False
        try:
            offset = self.reserve(entry.nbytes)
            if offset is None:
                return False
            _write_all(self.entries, entry, offset)
            head = _LINE.pack(offset, entry.nbytes, zlib.crc32(entry), 0, 0)[:_CHECKED]
            line = head + _line_sum(head, number, self.files.key).to_bytes(4, "little")
            _write_all(self.table, memoryview(line), number * LINE_BYTES)
        except OSError as error:
            self.problem = error
            return False
        self.checked[number] = 1
        return True

    def reserve(self, length: int) -> int | None:
        """The offset of room for an entry, reserved for this process; None beyond the budget."""
        with self.mutex:
            fcntl.flock(self.entries, fcntl.LOCK_EX)
            try:
                end = os.fstat(self.entries).st_size
                if end + length > self.files.budget_bytes:
                    return None
                os.ftruncate(self.entries, end + length)
                return end
            finally:
                fcntl.flock(self.entries, fcntl.LOCK_UN)

    def held(self) -> Held:
        entries = entry_bytes = 0
        size = os.fstat(self.entries).st_size
        for start in range(0, self.files.samples, _SCAN_LINES):
            stop = min(start + _SCAN_LINES, self.files.samples)
            block = self.lines[start * LINE_BYTES : stop * LINE_BYTES]
            for position, (offset, length, _, _, line_sum) in enumerate(_LINE.iter_unpack(block)):
                if not length or offset + length > size:
                    continue
                line = block[position * LINE_BYTES : (position + 1) * LINE_BYTES]
                if line_sum == _line_sum(line, start + position, self.files.key):
                    entries, entry_bytes = entries + 1, entry_bytes + length
        return Held(entries, entry_bytes, size)


def _map_privately(descriptor: int, size: int) -> mmap.mmap:
    """A map that NumPy and torch take for writable, without a warning; what they might write goes nowhere."""
    try:
        return mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError:  # a system that grants no more than it has (vm.overcommit_memory=2)
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)


def _line_sum(line: bytes, number: int, key: int) -> int:
    return zlib.crc32(line[:_CHECKED], zlib.crc32(number.to_bytes(8, "little"), key))


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """``os.pwrite`` may write less than it was given, on a disk that fills up."""
    data = data.cast("B")
    while data.nbytes:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
