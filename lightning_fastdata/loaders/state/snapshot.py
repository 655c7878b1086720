"""Whether what a dataset holds has changed between two moments, by content."""

import datetime
import decimal
import enum
import fractions
import hashlib
import logging
import pathlib
import random
import re
import threading
import uuid
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
    held_by,
    instance_attributes,
    is_plain,
)

__all__ = ["Snapshot", "changed_between", "take_snapshot"]

HASHED = tuple(kind for kind in PLAIN if kind not in (bytearray, slice))
"""Plain types whose hash is their content and runs no code of the user's."""
UNCHANGING = (
    *(re.Pattern, pathlib.PurePath, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo),
    *(decimal.Decimal, fractions.Fraction, uuid.UUID, enum.Enum, torch.dtype, torch.device, torch.Size, np.dtype),
    *(np.generic, logging.Logger, type(threading.Lock()), type(threading.RLock()), np.ufunc),
)
"""Types whose values cannot change, or whose changes a worker's copy may miss (loggers, locks that are free)."""

GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)


@dataclass(frozen=True)
class Snapshot:
    """What a dataset held at one moment."""

    digests: Mapping[str, int]
    """A digest of the content of each object that was seen, by the path to it."""
    unseen: str | None
    """The first attribute whose content cannot be seen whole; None = everything was seen."""


def take_snapshot(parts: Mapping[str, Any], *, generators: bool = True, bulk: bool = True) -> Snapshot:
    """Digest everything that some parts hold. None of the user's code runs.

    Args:
        parts: What is looked at, by name: ``{"dataset": dataset}``.
        generators: Whether the states of random generators count.
        bulk: Whether arrays, tensors and long containers are read through; else they count by identity and length.

    Returns:
        Digests by path, and what could not be seen.
    """
    walk = AttributeWalk({name: part for name, part in parts.items() if part is not None})
    digests, unseen = {}, None
    for path, value in walk:
        if not generators and isinstance(value, GENERATORS):
            digest: int | None = 0
        elif not bulk and _is_bulk(value):
            digest = hash((id(value), len(value)))
        else:
            digest = _digest(value)
        if digest is None:
            unseen = unseen or path
            continue
        digests[path] = digest
        if not isinstance(value, (*SEQUENCES, *MAPPINGS)):
            digests.update({path + step: hash(_plain(held)) for step, held in held_by(value) if is_plain(held)})
    return Snapshot(digests, unseen or walk.stopped_at)


def _is_bulk(value: Any) -> bool:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim > 0
    return isinstance(value, (*SEQUENCES, *MAPPINGS)) and len(value) > FEW_ITEMS


def changed_between(before: Snapshot, after: Snapshot) -> tuple[str, ...]:
    """The paths whose content differs, or that only one of the two has, shortest first.

    Args:
        before: The earlier one.
        after: The later one, of the same parts.

    Returns:
        Paths, without those that lie within another one.
    """
    paths = [path for path, digest in after.digests.items() if before.digests.get(path) != digest]
    gone = [path for path in before.digests if path not in after.digests]
    outermost: list[str] = []
    for path in sorted({*paths, *gone}, key=len):
        if not any(path.startswith(outer) and path != outer for outer in outermost):
            outermost.append(path)
    return tuple(outermost)


def _digest(value: Any) -> int | None:
    """A number that differs where the content does; None where it cannot be seen."""
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
    if isinstance(value, UNCHANGING):
        return id(value)
    if isinstance(value, type):
        return _of_named(value, list(vars(value).items()))
    if isinstance(value, FunctionType):
        return _of_named(value.__code__, list(held_by(value)))
    held = list(held_by(value))
    if not held or all(step.startswith(" (") for step, _ in held):
        return id(value) if hasattr(value, "__dict__") or callable(value) else None
    return _of_named(type(value), held)


def _of_named(kind: Any, held: Iterable[tuple[str, Any]]) -> int:
    """Only what is there: plain values have digests of their own, and the walk comes to the others."""
    return hash((id(kind), frozenset(name if is_plain(item) else (name, type(item)) for name, item in held)))


def _plain(value: Any) -> Any:
    if type(value) in (bytearray, slice):
        return repr(value)
    return (type(value), value) if type(value) in HASHED else id(value)


def _of_container(value: Any) -> int | None:
    if isinstance(value, MAPPINGS):
        items = list(value.items() if isinstance(value, MappingProxyType) else dict.items(value))
        keys, values = [key for key, _ in items], [item for _, item in items]
        if not _all_hashed(keys):
            return None
        inner = _of_values(values)
        ordered: Any = hash(tuple(keys))
    else:
        iterate = next(kind.__iter__ for kind in SEQUENCES if isinstance(value, kind))
        values, ordered = list(iterate(value)), None
        if isinstance(value, (set, frozenset)):
            return hash(frozenset(values)) if _all_hashed(values) else None
        inner = _of_values(values)
    if inner is None:
        return None
    own = frozenset((name, _plain(item) if is_plain(item) else type(item)) for name, item in instance_attributes(value))
    return hash((type(value), len(values), ordered, inner, own))


def _of_values(values: list[Any]) -> int | None:
    """Items by content where they are plain, else by their kind, since the walk comes to the first ones only."""
    if _all_hashed(values):
        return hash(tuple(values))
    if len(values) > FEW_ITEMS:
        return None
    return hash(tuple(_plain(item) if is_plain(item) else type(item) for item in values))


def _all_hashed(values: list[Any]) -> bool:
    """Whether items are numbers and texts, or tuples of such: ``hash`` then reads them all and runs no other code."""
    kinds = set(map(type, values))
    if kinds <= set(HASHED):
        return True
    if not kinds <= {*HASHED, tuple}:
        return False
    return _all_hashed(list(chain.from_iterable(item for item in values if type(item) is tuple)))


def _of_array(array: np.ndarray[Any, Any]) -> int | None:
    if array.dtype.hasobject:
        return None
    if _is_read_only(array) or (isinstance(array, np.memmap) and array.mode != "c"):
        return id(array)  # no name can write to it, or both processes see what is written
    seen = np.ascontiguousarray(array)
    return hash((array.dtype.str, array.shape, _checksum(seen.reshape(-1).view(np.uint8))))


def _is_read_only(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return array is None or isinstance(array, bytes) or (isinstance(array, memoryview) and array.readonly)


def _of_tensor(tensor: torch.Tensor) -> int | None:
    if (
        tensor.layout != torch.strided
        or tensor.device.type != "cpu"
        or type(tensor)
        not in (
            torch.Tensor,
            torch.nn.Parameter,
        )
    ):
        return None
    if tensor.is_shared():  # type: ignore[no-untyped-call]
        return id(tensor)
    flat = tensor.detach().contiguous().reshape(-1)
    return hash((str(tensor.dtype), tuple(tensor.shape), _checksum(flat.view(torch.uint8).numpy())))


def _checksum(flat: npt.NDArray[np.uint8]) -> int:
    return zlib.adler32(flat.data) if flat.size else 0


def _of_generator(value: Any) -> int:
    source = getattr(value, "bit_generator", value)
    if isinstance(value, torch.Generator):
        state = value.get_state().numpy().tobytes()
    elif isinstance(value, (np.random.Generator, np.random.BitGenerator)):
        state = repr(source.state).encode()
    else:
        state = repr(np.random.RandomState.get_state(value, legacy=False)).encode()
    return int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "little")
