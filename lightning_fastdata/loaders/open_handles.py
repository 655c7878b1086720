"""Open files in a dataset: workers forked from this process would share their positions."""

import io
from collections.abc import Iterator
from typing import Any

__all__ = ["open_handle"]

_DEPTH = 4
_MOST_ITEMS = 100
_KINDS = (
    *(("h5py", "File"), ("lmdb", "Environment"), ("sqlite3", "Connection")),
    *(("zipfile", "ZipFile"), ("tarfile", "TarFile")),
)
"""Module and class of handles that are no Python files, and that no two processes may use at once."""


def open_handle(dataset: Any) -> str | None:
    """Find a file that a dataset holds open.

    Two processes that were forked from the one that opened it share one position in it, and each reads what the other
    skipped. None of the dataset's code runs: only its attributes, and those of the dataset it is a view of, are read.

    Args:
        dataset: Any dataset.

    Returns:
        Its name, such as ``dataset.archive``; None without an open file.
    """
    return next(_open_handles("dataset", dataset, _DEPTH), None)


def _open_handles(name: str, value: Any, depth: int) -> Iterator[str]:
    if _is_open(value):
        yield name
        return
    if depth == 0:
        return
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value[:_MOST_ITEMS]):
            yield from _open_handles(f"{name}[{number}]", item, depth - 1)
    elif isinstance(value, dict):
        for key, item in list(value.items())[:_MOST_ITEMS]:
            yield from _open_handles(f"{name}[{key!r}]", item, depth - 1)
    elif depth == _DEPTH or hasattr(type(value), "__getitem__"):  # the dataset, or another one within
        for key, item in getattr(value, "__dict__", {}).items():
            yield from _open_handles(f"{name}.{key}", item, depth - 1)


def _is_open(value: Any) -> bool:
    if isinstance(value, io.IOBase):
        return not value.closed and not isinstance(value, (io.BytesIO, io.StringIO))
    kinds = {(one.__module__.partition(".")[0], one.__name__) for one in type(value).__mro__}
    return any(kind in kinds for kind in _KINDS)
