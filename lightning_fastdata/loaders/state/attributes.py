"""One walk over what a dataset, its transforms and its collate function hold, without running any of their code."""

import contextlib
import dis
import functools
import io
import itertools
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Collection, Iterator, Mapping
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

from lightning_fastdata.loaders.state.libraries import is_library

__all__ = [
    "AttributeWalk",
    "Visited",
    "file_library",
    "instance_attributes",
    "is_a",
    "is_of_library",
    "is_plain",
    "kinds_of",
]

DEPTH = 10
"""Attributes of attributes that are followed (count). Compositions of transforms in real projects are 3 to 6 deep."""
MOST_OBJECTS = 20_000
"""Objects that are looked at (count): some 20 ms. Long lists of plain values count as one."""
FEW_ITEMS = 100
"""Items of a container that are looked at one by one (count), beside one of every other type it holds."""
MODULES_DEEP = 4
"""Modules within modules that are followed: ``project.settings.training.level``."""

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
    ``__iter__`` or ``__repr__`` of the user's runs. Closures, defaults and attributes of functions are followed, and of
    those that are no well-known library's the globals that they name, through modules as well (``config.level``).
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
    return type(value) in PLAIN or is_a(value, (ModuleType, BuiltinFunctionType, CodeType))


def is_a(value: Any, kinds: Any) -> bool:
    """As ``isinstance``, which would ask the value for its ``__class__``: a proxy answers with code of its own."""
    return issubclass(type(value), kinds)


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
    if is_a(value, SEQUENCES):
        yield from _items(value, complete)
        yield from instance_attributes(value)
    elif is_a(value, MAPPINGS):
        yield from _entries(value, complete)
        yield from instance_attributes(value)
    elif is_a(value, FunctionType):
        yield from _of_function(value)
    elif is_a(value, MethodType):
        yield from _of_method(value)
    elif is_a(value, (staticmethod, classmethod)):
        yield "", value.__func__
    elif is_a(value, property):
        yield from (("", part) for part in (value.fget, value.fset) if part is not None)
    elif is_a(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
        yield from instance_attributes(value)
    elif is_a(value, weakref.ref):
        yield "()", weakref.ref.__call__(value)
    elif is_a(value, type):
        yield from _of_class(value)
    else:
        yield from _of_instance(value)


def instance_attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that an instance itself holds, out of its dictionary and its slots."""
    spaces = (vars(kind)["__dict__"] for kind in type(value).__mro__ if "__dict__" in vars(kind))
    descriptor: Any = next(spaces, None)
    if is_a(descriptor, (GetSetDescriptorType, MemberDescriptorType)):  # a property would be code of the user's
        own: Any = descriptor.__get__(value)
        yield from ((f".{name}", held) for name, held in list(dict.items(own)))
    for kind in type(value).__mro__:
        for name, member in vars(kind).items():
            if type(member) is MemberDescriptorType and not is_library(str(kind.__module__)):
                with contextlib.suppress(AttributeError):  # a slot that was never set
                    yield f".{name}", member.__get__(value)


def _of_instance(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    if is_a(value, CLOSED) or file_library(value) is not None:
        return  # what it is counts, not what it is made of
    yield from instance_attributes(value)
    yield f" ({kind.__name__})", kind


def _of_class(kind: type) -> Iterator[tuple[str, Any]]:
    """Class attributes and methods of the user's own classes, inherited ones too."""
    for base in kind.__mro__:
        if not is_library(str(base.__module__)):
            for name, held in list(vars(base).items()):
                dunder = name.startswith("__") and not is_a(held, FunctionType)
                if not dunder and not is_a(held, (MemberDescriptorType, GetSetDescriptorType)):
                    yield f".{name}", held


def is_of_library(function: FunctionType) -> bool:
    """Whether a function was written in a library; its ``__module__`` is that of what it wraps."""
    return is_library(str(function.__globals__.get("__name__", "")))


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # an empty cell
            yield f" (closure over {name})", cell.cell_contents
    for held in chain(function.__defaults__ or (), (function.__kwdefaults__ or {}).values()):
        yield " (a default)", held
    yield from instance_attributes(function)
    if is_of_library(function):
        return
    names = sorted(names_in(function.__code__))
    for name in names:
        if name in function.__globals__:
            held = function.__globals__[name]
            yield f" (global {name})", held
            if is_a(held, ModuleType):
                yield from _of_module(f" (global {name})", held, names, 0)


def _of_module(step: str, module: ModuleType, names: list[str], depth: int) -> Iterator[tuple[str, Any]]:
    """What code that names a module may read of it; of a library's module only what is data and may change."""
    held = ModuleType.__getattribute__(module, "__dict__")
    if module is os:
        names = [*names, "environ"] if "getenv" in names else names
    library = is_library(str(held.get("__name__", "")))
    for name in names:
        value = held.get(name)
        if is_a(value, ModuleType) and depth < MODULES_DEEP:
            yield from _of_module(f"{step}.{name}", value, names, depth + 1)
        elif name in held and (not library or is_plain(value) or is_a(value, (*SEQUENCES, *MAPPINGS, os._Environ))):
            yield f"{step}.{name}", value


def _of_method(method: MethodType) -> Iterator[tuple[str, Any]]:
    """The function, and of the object it is bound to only what the function names.

    A collate function that is a method of a DataModule is the usual case: it reaches the Trainer only where it says so.
    """
    yield "", method.__func__
    owner, names, whole = method.__self__, set[str](), not is_a(method.__func__, FunctionType)
    if whole or file_library(owner) is not None:
        yield ".__self__", owner
        return
    attributes, waiting = dict(instance_attributes(owner)), [(method.__func__.__code__, False)]
    while waiting:
        code, in_library = waiting.pop()
        own = _names_of_self(code)
        new = names_in(code) - names
        names |= new
        for name in sorted(new):
            base = next((base for base in type(owner).__mro__ if name in vars(base)), None)
            inner: Any = None if base is None else vars(base)[name]
            of_library = base is None or is_library(str(base.__module__))
            if not of_library and not is_a(inner, (MemberDescriptorType, GetSetDescriptorType)):
                yield f".{name}", inner
            inner = inner.fget if is_a(inner, property) else inner
            if is_a(inner, FunctionType) and (not of_library or (own is not None and name in own)):
                waiting.append((inner.__code__, of_library))
        whole |= own is None and not in_library
    if whole:
        yield ".__self__", owner
    yield from ((step, held) for step, held in attributes.items() if step[1:] in names or step[2:] in names)


def _names_of_self(code: CodeType) -> set[str] | None:
    """Attributes that a method names of its own object; None where it hands it on: ``self(x)``, ``helper(self)``."""
    names, own = set[str](), code.co_varnames[:1]
    for part in (code, *(constant for constant in code.co_consts if isinstance(constant, CodeType))):
        for one, after in itertools.pairwise(dis.get_instructions(part)):
            if one.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and one.argval in own:
                if after.opname not in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "LOAD_SUPER_ATTR"):
                    return None
                names.add(after.argval)
    return names


def names_in(code: CodeType) -> set[str]:
    """Globals and attributes that code names, functions within it included."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*(names_in(one) for one in inner))


def _items(values: Any, complete: bool) -> Iterator[tuple[str, Any]]:
    iterate = next(kind.__iter__ for kind in SEQUENCES if is_a(values, kind))  # not a subclass's own
    few = FEW_ITEMS
    if complete and _length(values) > few and not _are_plain(list(iterate(values))):
        few = MOST_OBJECTS + 1
    for place, item in enumerate(islice(iterate(values), few)):
        yield f"[{place}]", item
    if _length(values) > few:
        yield from _one_of_each(list(iterate(values)))


def _entries(values: Any, complete: bool) -> Iterator[tuple[str, Any]]:
    kind: Any = MappingProxyType if is_a(values, MappingProxyType) else dict
    few = FEW_ITEMS
    if complete and kind.__len__(values) > few and not _are_plain(list(kind.values(values))):
        few = MOST_OBJECTS + 1
    long = kind.__len__(values) > few
    for key, item in islice(kind.items(values) if long else list(kind.items(values)), few):
        yield f"[{key!r}]" if is_plain(key) else f"[a {type(key).__name__}]", item
    if long:
        yield from _one_of_each(kind.values(values))


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


def _one_of_each(values: Collection[Any]) -> Iterator[tuple[str, Any]]:
    """One value of each type beyond the first ones: the odd one among many is what is looked for."""
    kinds = list(map(type, values))  # a million in 20 ms, where a loop would take 300
    first = {kinds.index(kind) for kind in set(kinds)}
    yield from ((f"[{place}]", value) for place, value in enumerate(islice(values, max(first) + 1)) if place in first)


def _length(values: Any) -> int:
    measure: Any = next(kind.__len__ for kind in SEQUENCES if is_a(values, kind))
    return int(measure(values))
