"""Files that h5py, zipfile and lmdb hold open for reading: every worker gets its own.

A forked worker keeps the objects and gets descriptors of its own under them: HDF5 would find a file that is open
already by device and inode, and go on with the inherited descriptor; lmdb refuses to open an environment twice. Under
spawn and forkserver the objects do not pickle, so a file travels as its path, and is opened where it arrives.

Two others stay where they are. A connection of sqlite3 does not say how it was made (``detect_types``, functions), and
SQLite forbids to go on with one after a fork. The position of a file object of Python's may be the dataset's own state.
"""

import contextlib
import importlib
import io
import os
import stat
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.state.attributes import AttributeWalk, file_library

try:
    import fcntl
except ImportError:  # not on this platform, nor is fork
    fcntl = None  # type: ignore[assignment]

__all__ = ["CarriesFiles", "Handle", "OwnDescriptors", "handle_of", "is_harmless", "may_reopen", "reduced_file"]

MOST_DATABASES = 128
"""Named databases that a new lmdb environment can open (count); an open one does not tell its ``max_dbs``."""
FORK = "fork"


class Handle(NamedTuple):
    """A file that is open for reading, and how to open it again. It pickles."""

    library: str
    """Whose object it is: "h5py", "zipfile" or "lmdb"."""
    path: str
    """As it was opened."""
    absolute: str
    """The same from the root."""
    inode: tuple[int, int]
    """Device and inode: which file it is, whatever has its path by now."""
    version: tuple[int, int]
    """Size (bytes) and time of the last change (ns)."""
    options: Mapping[str, Any]
    """How it was opened."""
    descriptor: int
    """The open file of this process."""
    name: str | None = None
    """Object within a file of h5py's; None = the file."""


def handle_of(value: Any) -> Handle | None:
    """How to open a file again.

    Args:
        value: Anything.

    Returns:
        None where ``value`` is no open file of h5py, zipfile or lmdb, and where it cannot be opened again: it is open
        for writing, lies in memory, or was deleted or replaced since.
    """
    library = file_library(value)
    if library is None:
        return None
    try:
        return OPENED[library](value)
    except Exception:  # closed, or of a version of its library that does not say
        return None


def is_harmless(value: Any) -> bool:
    """Whether forked processes may all go on with a file of these libraries unchanged.

    Args:
        value: An object that ``file_library`` knows.

    Returns:
        True for one that is closed, and for an lmdb environment without locks: a map of memory that is only read. With
        locks, forked processes use up its table of readers (MDB_READERS_FULL after some hundred samples).
    """
    library = file_library(value)
    with contextlib.suppress(Exception):
        if library == "lmdb":
            flags = value.flags()
            return bool(flags["readonly"] and not flags["lock"])
        return value.fp is None if library == "zipfile" else not value
    return False


def may_reopen(value: Any, start_method: str) -> bool:
    """Whether each worker of a loader of this package gets its own of a file that is open in this process.

    Args:
        value: Anything.
        start_method: How workers are started.
    """
    handle = handle_of(value)
    return handle is not None and (start_method != FORK or handle.library != "lmdb" or not handle.options["lock"])


def reopen(handle: Handle) -> Any:
    """Open a file as it was opened in the process that the handle comes from.

    Args:
        handle: Which one, and how.

    Returns:
        What the library gives; of h5py the object of the same name.

    Raises:
        FastDataError: Another file has the path by now.
    """
    path = next((path for path in (handle.path, handle.absolute) if _inode(path, handle.library) == handle.inode), None)
    if path is None:
        raise FastDataError(
            f"{handle.absolute} cannot be opened in a worker: it was deleted or replaced since the dataset opened it.",
            expected="the same file for as long as the dataset is used.",
            fix="make the dataset again, or pass num_workers=0.",
        )
    return OPENERS[handle.library](path, handle)


@dataclass(frozen=True)
class OwnDescriptors:
    """A ``worker_init_fn`` for a forked process: the files that it inherited get positions of their own."""

    handles: tuple[Handle, ...]
    """What the process that was forked has open."""

    @classmethod
    def of(cls, dataset: Any, start_method: str) -> "OwnDescriptors | None":
        """For what a dataset holds; None where there is nothing to do.

        Args:
            dataset: What goes into the workers.
            start_method: How they are started.
        """
        handles = _handles_in(dataset) if start_method == FORK else ()
        return cls(handles) if handles else None

    def __call__(self, worker_id: int) -> None:
        """Run in the worker, before any code of the user's."""
        for descriptor, handle in {handle.descriptor: handle for handle in self.handles}.items():
            inherited = f"/proc/self/fd/{descriptor}"  # on Linux another opening of the same file, deleted or not
            own = os.open(inherited if sys.platform == "linux" else handle.absolute, os.O_RDONLY)
            os.lseek(own, os.lseek(descriptor, 0, os.SEEK_CUR), os.SEEK_SET)
            os.dup2(own, descriptor, inheritable=os.get_inheritable(descriptor))
            os.close(own)


class CarriesFiles:
    """What travels to a worker with open files: each is opened where it arrives."""

    def __reduce__(self) -> Any:
        state: Any = vars(self)
        if _handles_in(state):
            packed = io.BytesIO()
            _FilePickler(packed).dump(state)
            state = packed.getvalue()
        return _arrived, (type(self), state)


class _FilePickler(ForkingPickler):
    """What multiprocessing sends with, and files as well."""

    def reducer_override(self, value: Any) -> Any:
        if issubclass(type(value), CarriesFiles):  # within another one: all that travels is one pickle
            return _arrived, (type(value), vars(value))
        return reduced_file(value)


def reduced_file(value: Any) -> Any:
    """A ``reducer_override`` of a pickler: a file as its path, anything else as usual.

    Args:
        value: What is pickled.
    """
    handle = handle_of(value)
    return NotImplemented if handle is None else (reopen, (handle,))


def _arrived(kind: type, state: Any) -> Any:
    value: Any = object.__new__(kind)
    vars(value).update(ForkingPickler.loads(state) if isinstance(state, bytes) else state)
    return value


def _handles_in(held: Any) -> tuple[Handle, ...]:
    if not _open_for_reading():
        return ()  # the usual case, without a walk
    handles: list[Handle] = []
    with contextlib.suppress(RuntimeError):  # a container that another thread changes
        walk = AttributeWalk({"": held}, complete=True)
        handles += [handle for visited in walk if (handle := handle_of(visited.value)) is not None]
    return tuple(handles)


def _handle(
    library: str, path: str, descriptor: int, options: Mapping[str, Any], name: str | None = None
) -> Handle | None:
    """The handle, if the path still leads to what the descriptor has open, for reading only."""
    inode = _inode(path, library)
    if inode is None or _open_for_reading((descriptor,)) != {descriptor: inode}:
        return None
    found = os.stat(_file_of(path, library))
    version = found.st_size, found.st_mtime_ns
    return Handle(library, path, os.path.abspath(path), inode, version, options, descriptor, name)


def _of_h5py(value: Any) -> Handle | None:
    file, name = (value, None) if type(value).__name__ == "File" else (value.file, value.name)
    if file.mode != "r" or file.driver != "sec2" or (file is not value and (name is None or file[name] != value)):
        return None
    access = file.id.get_access_plist()
    _, slots, cache_bytes, w0 = access.get_cache()
    locks, ignored = access.get_file_locking()
    options = {
        "swmr": file.swmr_mode,
        "locking": "best-effort" if locks and ignored else bool(locks),
        "rdcc_nslots": slots,
        "rdcc_nbytes": cache_bytes,
        "rdcc_w0": w0,
    }
    return _handle("h5py", os.fsdecode(file.filename), file.id.get_vfd_handle(), options, name)


def _open_h5py(path: str, handle: Handle) -> Any:
    file = importlib.import_module("h5py").File(path, "r", **handle.options)
    return file if handle.name is None else file[handle.name]


def _of_zipfile(archive: Any) -> Handle | None:
    if archive.mode != "r" or type(archive.fp) is not io.BufferedReader or not isinstance(archive.fp.name, str):
        return None
    options = {"metadata_encoding": archive.metadata_encoding, "password": archive.pwd}
    return _handle("zipfile", archive.fp.name, archive.fp.fileno(), options)


def _open_zipfile(path: str, handle: Handle) -> Any:
    archive = zipfile.ZipFile(path, metadata_encoding=handle.options["metadata_encoding"])
    archive.setpassword(handle.options["password"])
    return archive


def _of_lmdb(environment: Any) -> Handle | None:
    path, flags, info = os.fsdecode(environment.path()), environment.flags(), environment.info()
    if not flags["readonly"]:
        return None
    options = {name: flags[name] for name in ("subdir", "readahead", "lock")}
    options |= {"map_size": info["map_size"], "max_readers": info["max_readers"]}
    inode = _inode(path, "lmdb")
    descriptor = next((one for one, open_inode in _open_for_reading().items() if open_inode == inode), -1)
    return _handle("lmdb", path, descriptor, options)


def _open_lmdb(path: str, handle: Handle) -> Any:
    library = importlib.import_module("lmdb")
    return library.open(path, readonly=True, create=False, max_dbs=MOST_DATABASES, **handle.options)


OPENED: Mapping[str, Callable[[Any], Handle | None]] = {
    "h5py": _of_h5py,
    "zipfile": _of_zipfile,
    "lmdb": _of_lmdb,
}
OPENERS: Mapping[str, Callable[[str, Handle], Any]] = {
    "h5py": _open_h5py,
    "zipfile": _open_zipfile,
    "lmdb": _open_lmdb,
}


def _file_of(path: str, library: str) -> str:
    return os.path.join(path, "data.mdb") if library == "lmdb" and os.path.isdir(path) else path


def _inode(path: str, library: str) -> tuple[int, int] | None:
    try:
        found = os.stat(_file_of(path, library))
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open_for_reading(descriptors: tuple[int, ...] | None = None) -> dict[int, tuple[int, int]]:
    """Device and inode of the regular files that this process, or some of its descriptors, may only read."""
    if descriptors is None:
        try:
            descriptors = tuple(map(int, os.listdir("/dev/fd")))
        except OSError:
            return {}  # not a system where files are inherited
    found = {}
    for one in descriptors:
        with contextlib.suppress(OSError):
            status, flags = os.fstat(one), fcntl.fcntl(one, fcntl.F_GETFL)
            if stat.S_ISREG(status.st_mode) and flags & os.O_ACCMODE == os.O_RDONLY:
                found[one] = status.st_dev, status.st_ino
    return found
