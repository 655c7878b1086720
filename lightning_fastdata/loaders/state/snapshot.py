"""Whether what a dataset holds has changed between two moments, by content."""

import datetime
import decimal
import enum
import fractions
import hashlib
import logging
import marshal
import mmap
import pathlib
import random
import re
import threading
import uuid
import weakref
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from types import FunctionType, MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightning_fastdata.loaders.state.attributes import (
    FEW_ITEMS,
    MAPPINGS,
    PLAIN,
    SEQUENCES,
    AttributeWalk,
    file_library,
    held_by,
    instance_attributes,
    is_plain,
)
from lightning_fastdata.loaders.state.handles import handle_of

__all__ = ["Snapshot", "changed_between", "held_by_name", "take_snapshot"]

SIMPLE = tuple(kind for kind in PLAIN if kind not in (bytearray, slice, range))
"""Plain types that ``marshal`` writes by content, without any code of the user's."""
BY_TEXT = (
    *(re.Pattern, pathlib.PurePath, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo),
    *(decimal.Decimal, fractions.Fraction, uuid.UUID, torch.dtype, torch.device, torch.Size, np.dtype),
)
"""Types whose values cannot change and say in their text what they are."""
BY_IDENTITY = (enum.Enum, logging.Logger, type(threading.Lock()), type(threading.RLock()), np.ufunc, weakref.ref)
"""Types whose values cannot change, or whose changes a worker's copy may miss (loggers, locks that are free)."""
BY_CONTENT = "by content"
MOST_BYTES = 2**30
"""Arrays and tensors that are read through (bytes): beyond it they count as unseen."""

GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)


@dataclass(frozen=True)
class Snapshot:
    """What a dataset held at one moment."""

    contents: Mapping[str, Any]
    """Something that differs where the content does, by the path to each object that was seen."""
    unseen: str | None
    """The first attribute whose content cannot be seen whole; None = everything was seen."""
    kept: tuple[Any, ...] = ()
    """Objects that are compared by identity: it must not pass on to another one."""


def take_snapshot(parts: Mapping[str, Any], *, generators: bool = True) -> Snapshot:
    """Remember the content of everything that some parts hold. None of the user's code runs.

    Args:
        parts: What is looked at, by name: ``{"dataset": dataset}``.
        generators: Whether the states of random generators count.

    Returns:
        Contents by path, and what could not be seen.
    """
    walk = AttributeWalk({name: part for name, part in parts.items() if part is not None})
    contents: dict[str, Any] = {}
    kept, unseen, bytes_read = [], None, 0
    for path, value in walk:
        content: Any = 0
        bytes_read += _read_bytes(value)
        if generators or not isinstance(value, GENERATORS):
            content = _content(value) if bytes_read <= MOST_BYTES else None
        if content is None:
            unseen = unseen or path
            if not isinstance(value, (*SEQUENCES, *MAPPINGS)):
                continue
            content = _size_of(value)  # a queue that empties, a cache that grows
        if content == id(value):
            kept.append(value)
        contents[path] = content
        if not isinstance(value, (*SEQUENCES, *MAPPINGS)):
            contents |= {path + step: _plain(held) for step, held in held_by(value) if is_plain(held)}
    return Snapshot(contents, unseen or walk.stopped_at, tuple(kept))


def held_by_name(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker of spawn or forkserver does not get of some parts.

    Functions and classes are pickled by their names: a worker imports modules again, and globals, class attributes
    and closures have there what the modules give them.

    Args:
        parts: As for ``take_snapshot``.

    Returns:
        The content of globals and class attributes by path, which may be compared between processes for those paths
        that both have; None where it means nothing in another process.
    """
    walk = AttributeWalk({name: part for name, part in parts.items() if part is not None})
    contents: dict[str, Any] = {}
    for path, value in walk:
        if BY_NAME in path:
            content = _content(value) if _read_bytes(value) <= MOST_BYTES else None
            contents[path] = content if _is_portable(content) else None
        if not isinstance(value, (*SEQUENCES, *MAPPINGS)):
            held = ((path + step, one) for step, one in held_by(value) if BY_NAME in path + step and is_plain(one))
            contents |= {step: _plain(one) if type(one) in SIMPLE else None for step, one in held}
    return contents


BY_NAME = " ("
"""In a path: a class, a global or a closure, which functions and classes bring with them."""


def _is_portable(content: Any) -> bool:
    """Whether a content has no identities of this process in it."""
    if type(content) is not tuple:
        return False
    kind, inner, own = content[0], content[1], content[-1]
    if kind in (*SEQUENCES, *MAPPINGS):
        return not own and all(type(part) is not tuple or part[:1] == (BY_CONTENT,) for part in content[1:-1])
    return isinstance(kind, (str, torch.dtype)) or (type(inner) is str and issubclass(kind, BY_TEXT))


def _size_of(value: Any) -> Any:
    measure: Any = next(kind.__len__ for kind in (*SEQUENCES, *MAPPINGS) if isinstance(value, kind))
    return type(value), measure(value)


def _read_bytes(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return 0 if _is_fixed(value) else value.nbytes
    return value.nelement() * value.element_size() if type(value) is torch.Tensor else 0


def changed_between(before: Snapshot, after: Snapshot) -> tuple[str, ...]:
    """The paths whose content differs, or that only one of the two has, shortest first.

    Args:
        before: The earlier one.
        after: The later one, of the same parts.

    Returns:
        Paths, without those that lie within another one.
    """
    absent = object()
    paths = [path for path, content in after.contents.items() if before.contents.get(path, absent) != content]
    gone = [path for path in before.contents if path not in after.contents]
    outermost: list[str] = []
    for path in sorted({*paths, *gone}, key=len):
        if not any(path.startswith(outer) and path != outer for outer in outermost):
            outermost.append(path)
    return tuple(outermost)


def _content(value: Any) -> Any:
    """Something that differs where the content does; None where it cannot be seen."""
    if isinstance(value, np.ndarray):
        return _of_array(value)
    if isinstance(value, torch.Tensor):
        return _of_tensor(value)
    if isinstance(value, (*SEQUENCES, *MAPPINGS)):
        return _of_container(value)
    if isinstance(value, random.Random):
        return hash(random.Random.getstate(value)) if type(value) is random.Random else None
    if isinstance(value, GENERATORS):
        return _of_generator(value)
    if file_library(value) is not None:  # a file for reading is what its path leads to, whichever process opened it
        handle = handle_of(value)
        return None if handle is None else (handle.library, handle.inode, handle.version, handle.name)
    if isinstance(value, np.generic):
        return value.dtype.str, value.tobytes()
    if isinstance(value, BY_TEXT):
        return type(value), str(value)
    if isinstance(value, BY_IDENTITY):
        return id(value)
    if isinstance(value, type):
        return _of_names(value, list(vars(value).items()))
    if isinstance(value, FunctionType):
        return _of_names(value.__code__, list(held_by(value)))
    held = list(held_by(value))
    if any(not step.startswith(" (") for step, _ in held) or _is_of_python(type(value)):
        return _of_names(type(value), held)
    return None


def _is_of_python(kind: type) -> bool:
    """Whether all that an instance holds is in its attributes: no class of it is written in C."""
    heap_type = 1 << 9
    return all(base is object or base.__flags__ & heap_type for base in kind.__mro__)


def _of_names(kind: Any, held: Iterable[tuple[str, Any]]) -> Any:
    """Only what is there: plain values have entries of their own, and the walk comes to the others."""
    return id(kind), frozenset(name if is_plain(item) else (name, type(item)) for name, item in held)


def _plain(value: Any) -> Any:
    if type(value) in (bytearray, slice, range):
        return repr(value)
    return (type(value), repr(value) if type(value) is float else value) if type(value) in SIMPLE else id(value)


def _of_container(value: Any) -> Any:
    own = frozenset((name, _plain(item) if is_plain(item) else type(item)) for name, item in instance_attributes(value))
    if isinstance(value, MAPPINGS):
        items = list(value.items() if isinstance(value, MappingProxyType) else dict.items(value))
        keys, values = [key for key, _ in items], [item for _, item in items]
        ordered, inner = _of_values(keys, complete=True), _of_values(values)
        return None if ordered is None or inner is None else (type(value), ordered, inner, own)
    iterate = next(kind.__iter__ for kind in SEQUENCES if isinstance(value, kind))
    values = list(iterate(value))
    if isinstance(value, (set, frozenset)):
        return (type(value), frozenset(map(_plain, values)), own) if _all_simple(values) else None
    inner = _of_values(values)
    return None if inner is None else (type(value), inner, own)


def _of_values(values: list[Any], *, complete: bool = False) -> Any:
    """Items by content where they are plain, else by their kind, since the walk comes to the first ones only."""
    if _all_simple(values):
        return BY_CONTENT, len(values), zlib.crc32(marshal.dumps(values, 2))  # version 2 writes equal values alike
    if complete or len(values) > FEW_ITEMS:
        return None
    return tuple(_plain(item) if is_plain(item) else type(item) for item in values)


def _all_simple(values: list[Any]) -> bool:
    """Whether items are numbers and texts, or tuples of such."""
    kinds = set(map(type, values))
    if kinds <= set(SIMPLE):
        return type(NotImplemented) not in kinds
    if not kinds <= {*SIMPLE, tuple}:
        return False
    return _all_simple(list(chain.from_iterable(item for item in values if type(item) is tuple)))


def _of_array(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.hasobject:
        return None
    if _is_fixed(array):
        return id(array)  # no name can write to it, or both processes see what is written
    return array.dtype.str, array.shape, _checksum(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _is_fixed(array: Any) -> bool:
    """Whether an array is read-only to its last base, or mapped so that all processes share it."""
    writeable = False
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return array.mode != "c"
        writeable |= array.flags.writeable
        array = array.base
    if isinstance(array, mmap.mmap):
        return True
    return not writeable and (array is None or isinstance(array, (bytes, memoryview)))


def _of_tensor(tensor: torch.Tensor) -> Any:
    known = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    if not known or tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return None
    if tensor.is_shared():  # type: ignore[no-untyped-call]
        return id(tensor)
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), _checksum(flat.view(torch.uint8).numpy())


def _checksum(flat: npt.NDArray[np.uint8]) -> int:
    return zlib.crc32(flat.data) if flat.size else 0


def _of_generator(value: Any) -> int:
    source = getattr(value, "bit_generator", value)
    if isinstance(value, torch.Generator):
        state = value.get_state().numpy().tobytes()
    elif isinstance(value, (np.random.Generator, np.random.BitGenerator)):
        state = repr(source.state).encode()
    else:
        state = repr(np.random.RandomState.get_state(value, legacy=False)).encode()
    return int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "little")
