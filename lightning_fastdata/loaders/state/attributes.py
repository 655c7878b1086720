"""One walk over what a dataset, its transforms and its collate function hold, without running any of their code."""

import contextlib
import functools
import io
import logging
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import process
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["AttributeWalk", "Visited", "file_library", "instance_attributes", "is_library", "is_plain", "kinds_of"]

DEPTH = 10
"""Attributes of attributes that are followed (count). Compositions of transforms in real projects are 3 to 6 deep."""
MOST_OBJECTS = 20_000
"""Objects that are looked at (count): some 20 ms. Long lists of plain values count as one."""
FEW_ITEMS = 100
"""Items of a container that are looked at one by one (count), beside one of every other type it holds."""

PLAIN = (
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
    bool,
    type(None),
    type(Ellipsis),
    type(NotImplemented),
    range,
    slice,
)
SEQUENCES = (list, tuple, set, frozenset, deque)
MAPPINGS = (dict, MappingProxyType)
CLOSED = (logging.Logger, logging.Handler, threading.Thread, threading.Condition, io.IOBase, process.BaseProcess)
"""Types of the standard library whose attributes are not the user's."""
OF_LIBRARIES = {"File": "h5py", "Group": "h5py", "Dataset": "h5py", "ZipFile": "zipfile", "Environment": "lmdb"}
"""Classes of open files whose attributes are not the user's, and the library that has the class by this name."""
LEAVES = (np.ndarray, np.generic, torch.Tensor, PurePath)
"""Beside plain values, what holds none of the objects that are looked for."""
LIBRARIES = ("site-packages", "dist-packages")


class Visited(NamedTuple):
    """One object that the walk met."""

    path: str
    """How to get there, as a person would write it: ``dataset.transform.transforms[2]``."""
    value: Any
    """The object."""


@dataclass
class AttributeWalk:
    """All objects that are reached from some parts, breadth first, each once.

    Attributes are read from the instances' own dictionaries and slots, so that no property, ``__getattr__``,
    ``__iter__`` or ``__repr__`` of the user's runs. Of functions and methods of the user's own code the closures, the
    defaults and the globals that they name are followed; the code of installed libraries is not.
    """

    parts: Mapping[str, Any]
    """Where it begins, by the name a person knows it under (``dataset``, ``collate_fn``)."""
    depth: int = DEPTH
    """Attributes of attributes that are followed (count)."""
    most: int = MOST_OBJECTS
    """Objects that are looked at (count)."""
    complete: bool = False
    """Whether every item of a long container is looked at, unless all of them are plain."""
    stopped_at: str | None = None
    """The first attribute that was not followed any more, after the walk; None = everything was seen."""

    def __iter__(self) -> Iterator[Visited]:
        seen: dict[int, Any] = {}  # the objects as well: an identity must not be used again while the walk goes on
        waiting = deque((Visited(name, part), 0) for name, part in self.parts.items())
        while waiting:
            visited, depth = waiting.popleft()
            if is_plain(visited.value) or id(visited.value) in seen:
                continue
            if len(seen) >= self.most:
                self.stopped_at = self.stopped_at or visited.path
                return
            seen[id(visited.value)] = visited.value
            yield visited
            if depth < self.depth:
                inner = held_by(visited.value, complete=self.complete)
                waiting.extend((Visited(visited.path + step, held), depth + 1) for step, held in inner)
            elif self.stopped_at is None and any(not is_plain(held) for _, held in held_by(visited.value)):
                self.stopped_at = visited.path


def is_plain(value: Any) -> bool:
    """Whether a value holds nothing: a number, a text, a module, a builtin."""
    return type(value) in PLAIN or isinstance(value, (ModuleType, BuiltinFunctionType, CodeType))


def kinds_of(value: Any) -> set[tuple[str, str]]:
    """The top-level module and the name of every class that a value is an instance of; imports nothing."""
    return {(str(kind.__module__).partition(".")[0], kind.__name__) for kind in type(value).__mro__}


def file_library(value: Any) -> str | None:
    """The library of an object that is exactly of one of ``OF_LIBRARIES``; imports nothing."""
    name = type(value).__name__
    library = OF_LIBRARIES.get(name)
    return library if library and type(value) is getattr(sys.modules.get(library), name, None) else None


def held_by(value: Any, *, complete: bool = False) -> Iterator[tuple[str, Any]]:
    """What a value holds directly: the step to it, and it. Of a long container the first items, unless ``complete``."""
    if isinstance(value, SEQUENCES):
        yield from _items(value, complete)
        yield from instance_attributes(value)
    elif isinstance(value, MAPPINGS):
        yield from _entries(value, complete)
        yield from instance_attributes(value)
    elif isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, MethodType):
        yield from _of_method(value)
    elif isinstance(value, (staticmethod, classmethod)):
        yield "", value.__func__
    elif isinstance(value, property):
        yield from (("", part) for part in (value.fget, value.fset) if part is not None)
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, weakref.ref):
        yield "()", weakref.ref.__call__(value)
    elif isinstance(value, type):
        yield from _of_class(value)
    else:
        yield from _of_instance(value)


def instance_attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that an instance itself holds, out of its dictionary and its slots."""
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        own = {}
    if isinstance(own, dict):
        yield from ((f".{name}", held) for name, held in list(own.items()))
    for kind in type(value).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, MemberDescriptorType) and not is_library(kind):
                with contextlib.suppress(AttributeError):  # a slot that was never set
                    yield f".{name}", member.__get__(value)


def _of_instance(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    if isinstance(value, CLOSED) or file_library(value) is not None:
        return  # what it is counts, not what it is made of
    yield from instance_attributes(value)
    yield f" ({kind.__name__})", kind


def _of_class(kind: type) -> Iterator[tuple[str, Any]]:
    """Class attributes and methods of the user's own classes, inherited ones too."""
    for base in kind.__mro__:
        if not is_library(base):
            for name, held in list(vars(base).items()):
                dunder = name.startswith("__") and not isinstance(held, FunctionType)
                if not dunder and not isinstance(held, (MemberDescriptorType, GetSetDescriptorType)):
                    yield f".{name}", held


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    if any(folder in function.__code__.co_filename for folder in LIBRARIES):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # an empty cell
            yield f" (closure over {name})", cell.cell_contents
    for held in chain(function.__defaults__ or (), (function.__kwdefaults__ or {}).values()):
        yield " (a default)", held
    for name in sorted(names_in(function.__code__)):
        if name in function.__globals__:
            yield f" (global {name})", function.__globals__[name]


def _of_method(method: MethodType) -> Iterator[tuple[str, Any]]:
    """The function, and of the object it is bound to only what the function names.

    A collate function that is a method of a DataModule is the usual case: it reaches the Trainer only where it says so.
    """
    yield "", method.__func__
    if not isinstance(method.__func__, FunctionType) or file_library(method.__self__) is not None:
        yield ".__self__", method.__self__
        return
    owner, waiting, names = method.__self__, [method.__func__.__code__], set[str]()
    attributes = dict(instance_attributes(owner))
    while waiting:
        new = names_in(waiting.pop()) - names
        names |= new
        for name in new:
            inner = next((vars(kind)[name] for kind in type(owner).__mro__ if name in vars(kind)), None)
            inner = inner.fget if isinstance(inner, property) else inner
            if isinstance(inner, FunctionType) and not any(part in inner.__code__.co_filename for part in LIBRARIES):
                waiting.append(inner.__code__)
    yield from ((step, held) for step, held in attributes.items() if step[1:] in names or step[2:] in names)


def names_in(code: CodeType) -> set[str]:
    """Globals and attributes that code names, functions within it included."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*(names_in(one) for one in inner))


def _items(values: Any, complete: bool) -> Iterator[tuple[str, Any]]:
    iterate = next(kind.__iter__ for kind in SEQUENCES if isinstance(values, kind))  # not a subclass's own
    few = FEW_ITEMS
    if complete and _length(values) > few and not _are_plain(list(iterate(values))):
        few = MOST_OBJECTS + 1
    for place, item in enumerate(islice(iterate(values), few)):
        yield f"[{place}]", item
    if _length(values) > few:
        yield from _one_of_each(iterate(values))


def _entries(values: Any, complete: bool) -> Iterator[tuple[str, Any]]:
    items = values.items() if isinstance(values, MappingProxyType) else dict.items(values)
    few = FEW_ITEMS
    if complete and len(items) > few and not _are_plain([item for _, item in items]):
        few = MOST_OBJECTS + 1
    for key, item in islice(list(items) if len(items) <= few else items, few):
        yield f"[{key!r}]" if is_plain(key) else f"[a {type(key).__name__}]", item
    if len(items) > few:
        yield from _one_of_each(item for _, item in items)


def _are_plain(values: list[Any], depth: int = 4) -> bool:
    """Whether items hold nothing: plain values, arrays, paths, and lists, tuples and dictionaries of such."""
    kinds = set(map(type, values))
    others = {kind for kind in kinds if kind not in PLAIN and not issubclass(kind, LEAVES)}
    if not others:
        return True
    if depth == 0 or not others <= {list, tuple, dict}:
        return False
    rows = [item.values() if type(item) is dict else item for item in values if type(item) in others]
    return _are_plain(list(chain.from_iterable(rows)), depth - 1)


def _one_of_each(values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """One value of each type beyond the first ones: the odd one among many is what is looked for."""
    first: dict[type, tuple[int, Any]] = {}
    for place, value in enumerate(values):
        if type(value) not in first:
            first[type(value)] = place, value
    yield from ((f"[{place}]", value) for place, value in first.values())


def _length(values: Any) -> int:
    measure: Any = next(kind.__len__ for kind in SEQUENCES if isinstance(values, kind))
    return int(measure(values))


def is_library(kind: type) -> bool:
    """Whether a class is none of the user's: of the standard library, or of an installed package."""
    name = str(kind.__module__)
    if name == "__main__":
        return False
    if name.partition(".")[0] in sys.stdlib_module_names:
        return True
    module = sys.modules.get(name)
    path = getattr(module, "__file__", None) or ""
    return any(folder in path for folder in LIBRARIES) or name.partition(".")[0] == __name__.partition(".")[0]
