"""File locks: one process at a time, with a limit to the wait and a note of who holds them."""

import errno
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_fastdata.errors import FastDataError

__all__ = ["file_lock"]


@contextmanager
def file_lock(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold a lock file. The lock of a process that was killed is free.

    Whoever may write to the folder may take the lock: the file gets the folder's read and write permissions.

    Args:
        path: The lock file; it stays. A note of the holder lies beside it while the lock is held.
        timeout_s: How long to wait for another process (s).

    Raises:
        OSError: The file cannot be made, or its file system has no locks.
        FastDataError: Another process still holds the lock after ``timeout_s``; names it.
    """
    lock = FileLock(path, mode=0o600 | path.parent.stat().st_mode & 0o666)
    holder = path.with_name(f"{path.name}.holder")
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout as error:
        raise FastDataError(
            f"{path} is still locked after {timeout_s:g} s, {_held_by(holder)}.",
            expected="another process to finish with the folder.",
            fix="wait until it has finished, or end it if it hangs.",
        ) from error
    except NotImplementedError as error:  # filelock's word for a file system without locks
        raise OSError(errno.ENOSYS, str(error), str(path)) from error
    try:
        with suppress(OSError):  # the note only helps others to wait
            holder.unlink(missing_ok=True)
            since = datetime.now(UTC).isoformat(timespec="seconds")
            with holder.open("x") as file:  # follows no link
                json.dump({"host": platform.node(), "pid": os.getpid(), "since": since}, file)
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def _held_by(holder: Path) -> str:
    try:
        note = json.loads(holder.read_text())
        return f"by process {note['pid']} on {note['host']} since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "by a process that left no note"
