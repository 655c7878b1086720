"""Whether what a dataset holds has changed between two moments, by content."""

import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import importlib
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
from types import (
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    SimpleNamespace,
)
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
    is_a,
    is_plain,
)
from lightning_fastdata.loaders.state.handles import handle_of

__all__ = ["NOTHING", "Snapshot", "changed_between", "held_by_name", "take_snapshot"]

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
NOTHING = (type(None), None)
"""The content of None."""
MOST_BYTES = 2**30
"""Arrays and tensors that are read through (bytes): beyond it they count as unseen."""

IN_C = frozenset(
    (
        *("cython_function_or_method", "fused_cython_function", "_ArrayFunctionDispatcher", "nb_func"),
        *("method_descriptor", "wrapper_descriptor", "method-wrapper"),
    )
)
"""Names of types of functions that are written in C: they hold nothing that changes."""
AS_HELD = (property, staticmethod, classmethod, functools.partial, MethodType, SimpleNamespace)
"""Types that are written in C and hold nothing but what ``held_by`` gives of them."""
HEAP_TYPE, POINTER_BYTES = 1 << 9, 8
LRU_CACHE = type(functools.lru_cache(min))

REMEMBER_DRAWS = ("albumentations", "audiomentations", "kornia.augmentation", "monai.transforms")
"""Modules whose objects keep the parameters that they drew last, and no state that adds up."""
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


def take_snapshot(
    parts: Mapping[str, Any], *, generators: bool = True, last_draws: bool = True, arrays: bool = True
) -> Snapshot:
    """Remember the content of everything that some parts hold. None of the user's code runs.

    Args:
        parts: What is looked at, by name: ``{"dataset": dataset}``.
        generators: Whether the states of random generators count, and how full ``functools.lru_cache`` is.
        last_draws: Whether it counts what transforms of ``REMEMBER_DRAWS`` hold.
        arrays: Whether arrays and tensors are read; False where only what cannot be seen is asked for.

    Returns:
        Contents by path, and what could not be seen.
    """
    walk = AttributeWalk({name: part for name, part in parts.items() if part is not None})
    contents: dict[str, Any] = {}
    kept, unseen, bytes_read, remembering = [], None, 0, set[str]()
    for path, value in walk:
        if not last_draws and _is_last_draw(path, value, remembering):
            continue
        content: Any = 0
        size = _read_bytes(value)
        bytes_read += size
        if bytes_read > MOST_BYTES:
            content = None
        elif (arrays or not size) and (generators or not is_a(value, (*GENERATORS, LRU_CACHE))):
            content = _content(value)
        if content is None:
            unseen = unseen or path
            if not isinstance(value, (*SEQUENCES, *MAPPINGS)):
                continue
            content = _size_of(value)  # a queue that empties, a cache that grows
        if content == id(value):
            kept.append(value)
        contents[path] = content
        # What Python's generator keeps in an attribute (half of a pair of Gaussians) is of its state.
        if not is_a(value, (*SEQUENCES, *MAPPINGS, random.Random)):
            contents |= {path + step: _plain(held) for step, held in held_by(value) if is_plain(held)}
    return Snapshot(contents, unseen or walk.stopped_at, tuple(kept))


def _is_last_draw(path: str, value: Any, remembering: set[str]) -> bool:
    """Whether it is an object of ``REMEMBER_DRAWS``, or data in one; ``remembering`` collects their paths."""
    module = str((value if issubclass(type(value), type) else type(value)).__module__)
    if f"{module}.".startswith(tuple(f"{one}." for one in REMEMBER_DRAWS)):
        remembering.add(path)
        return True
    data = module.partition(".")[0] in ("builtins", "numpy", "torch") and type(value) is not FunctionType
    return data and re.sub(r"\.\w+(\[.*\])?( \(\w+\))?$", "", path) in remembering


def held_by_name(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker of spawn or forkserver does not get of some parts.

    Functions and classes are pickled by their names: a worker imports modules again, and globals, class attributes
    and closures have there what the modules give them. So it is with what torch and Pillow were set to.

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
        if not is_a(value, (*SEQUENCES, *MAPPINGS, random.Random)):
            held = ((path + step, one) for step, one in held_by(value) if BY_NAME in path + step and is_plain(one))
            contents |= {step: _plain(one) if type(one) in SIMPLE else None for step, one in held}
    settings = {f"{module}.{name}": getattr(importlib.import_module(module), name, None) for module, name in SETTINGS}
    return contents | {name: str(value() if callable(value) else value) for name, value in settings.items()}


SETTINGS = (
    *(("torch", "get_default_dtype"), ("torch", "get_default_device")),
    *(("PIL.ImageFile", "LOAD_TRUNCATED_IMAGES"), ("PIL.Image", "MAX_IMAGE_PIXELS")),
)
"""What programs set in libraries, and no dataset names."""


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
    if is_a(value, np.ndarray):
        return 0 if value.dtype.hasobject or _is_fixed(value) else value.nbytes
    return value.nelement() * value.element_size() if is_a(value, torch.Tensor) and _is_readable(value) else 0


def _is_readable(tensor: torch.Tensor) -> bool:
    known = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    return known and tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


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
    new = [path for path in after.contents if path not in before.contents]
    new += [path for path in paths if NOTHING in (before.contents.get(path), after.contents.get(path))]
    named = {path.rpartition(".")[0] for path in {*new, *gone} if path.rpartition(".")[2].isidentifier()}
    paths = [path for path in paths if path not in named]  # an attribute more or less: itself, not what has it
    outermost: list[str] = []
    for path in sorted({*paths, *gone}, key=len):
        if not any(path.startswith(outer) and path != outer for outer in outermost):
            outermost.append(path)
    return tuple(outermost)


def _content(value: Any) -> Any:
    """Something that differs where the content does; None where it cannot be seen."""
    if is_a(value, np.ndarray):
        return _of_array(value)
    if is_a(value, torch.Tensor):
        return _of_tensor(value)
    if is_a(value, (*SEQUENCES, *MAPPINGS)):
        return _of_container(value)
    if is_a(value, random.Random):
        return hash(random.Random.getstate(value)) if type(value) is random.Random else None
    if is_a(value, GENERATORS):
        return _of_generator(value)
    if file_library(value) is not None:  # a file for reading is what its path leads to, whichever process opened it
        handle = handle_of(value)
        return None if handle is None else (handle.library, handle.inode, handle.version, handle.name)
    if is_a(value, np.generic):
        return value.dtype.str, value.tobytes()
    if is_a(value, BY_TEXT):
        return type(value), str(value)
    if is_a(value, BY_IDENTITY):
        return id(value)
    if is_a(value, type):
        return _of_names(value, list(vars(value).items()))
    if is_a(value, FunctionType):
        return _of_names(value.__code__, list(held_by(value)))
    if type(value).__name__ in IN_C:
        return id(value)
    if type(value) is LRU_CACHE:
        info = LRU_CACHE.cache_info(value)
        return _of_names(LRU_CACHE, list(held_by(value))), info.misses, info.currsize  # clearing it sets both to 0
    if type(value) in AS_HELD or _is_of_python(type(value)):
        return _of_names(type(value), list(held_by(value)))
    return None


def _is_of_python(kind: type) -> bool:
    """Whether all that an instance holds is in its attributes: it has no memory that a class written in C added."""
    size = object.__basicsize__
    for base in kind.__mro__:
        own = {name for name, member in vars(base).items() if type(member) is MemberDescriptorType}
        own |= {name for name in ("__dict__", "__weakref__") if type(vars(base).get(name)) is GetSetDescriptorType}
        size += len(own) * POINTER_BYTES if "__module__" in vars(base) and base.__flags__ & HEAP_TYPE else 0
    return bool(kind.__basicsize__ <= size)


def _of_names(kind: Any, held: Iterable[tuple[str, Any]]) -> Any:
    """Only what is there: plain values have entries of their own, and the walk comes to the others."""
    return id(kind), frozenset(name if is_plain(item) else (name, type(item)) for name, item in held)


def _plain(value: Any) -> Any:
    if type(value) in (bytearray, slice, range):
        return repr(value)
    return (type(value), repr(value) if type(value) is float else value) if type(value) in SIMPLE else id(value)


def _of_container(value: Any) -> Any:
    own = frozenset((name, _plain(item) if is_plain(item) else type(item)) for name, item in instance_attributes(value))
    if is_a(value, MAPPINGS):
        kind: Any = MappingProxyType if is_a(value, MappingProxyType) else dict
        ordered, inner = _of_values(list(kind.keys(value)), complete=True), _of_values(list(kind.values(value)))
        return None if ordered is None or inner is None else (type(value), ordered, inner, own)
    iterate = next(kind.__iter__ for kind in SEQUENCES if is_a(value, kind))
    values = list(iterate(value))
    if is_a(value, (set, frozenset)):
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
    plain = np.ndarray.view(array, np.ndarray)  # a subclass has code of its own; the walk sees its attributes
    return array.dtype.str, array.shape, _checksum(np.ascontiguousarray(plain).reshape(-1).view(np.uint8))


def _is_fixed(array: Any) -> bool:
    """Whether an array is read-only to its last base, or mapped so that all processes share it."""
    writeable = False
    while is_a(array, np.ndarray):
        if is_a(array, np.memmap):
            return bool(array.mode != "c")
        writeable |= array.flags.writeable
        array = array.base
    if is_a(array, mmap.mmap):
        return True
    return not writeable and (array is None or is_a(array, (bytes, memoryview)))


def _of_tensor(tensor: torch.Tensor) -> Any:
    if not _is_readable(tensor):
        return None
    if tensor.is_shared():  # type: ignore[no-untyped-call]
        return _TensorContent(id(tensor), None)
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    content = tensor.dtype, tuple(tensor.shape), _checksum(flat.view(torch.uint8).numpy())
    return _TensorContent(id(tensor), content)


@dataclass(frozen=True, eq=False)
class _TensorContent:
    """A tensor by its content; one in shared memory, where workers see what is written, by its identity."""

    identity: int
    content: Any

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _TensorContent):
            return False
        if self.content is None or other.content is None:  # sending it to a worker puts it into shared memory
            return self.identity == other.identity
        return bool(self.content == other.content)


def _checksum(flat: npt.NDArray[np.uint8]) -> int:
    return zlib.crc32(flat.data) if flat.size else 0


def _of_generator(value: Any) -> int:
    source = getattr(value, "bit_generator", value)
    if is_a(value, torch.Generator):
        state = value.get_state().numpy().tobytes()
    elif is_a(value, (np.random.Generator, np.random.BitGenerator)):
        state = repr(source.state).encode()
    else:
        state = repr(np.random.RandomState.get_state(value, legacy=False)).encode()
    return int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "little")
