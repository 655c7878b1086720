"""Whether everything that a worker would run is of libraries whose datasets are known to be the same in any process."""

import sys
from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any

from lightning_fastdata.loaders.state.attributes import AttributeWalk, is_a
from lightning_fastdata.loaders.state.libraries import is_library

__all__ = ["unknown_part"]

KNOWN = frozenset({"lightning_fastdata", "torch", "torchvision", "numpy", "PIL", "lightning", "pytorch_lightning"})
"""Libraries whose datasets, transforms and collate functions do not follow the training and keep no counts."""


def unknown_part(parts: Mapping[str, Any]) -> str | None:
    """The first object that is none of the known libraries' own.

    A subclass of a known class, a function or a lambda of the user's, an object of another library: each may do
    anything when it is called.

    Args:
        parts: What a worker would get, by name.

    Returns:
        The path to it; None where everything is known.
    """
    walk = AttributeWalk({name: part for name, part in parts.items() if part is not None})
    for path, value in walk:
        if not _is_known(value):
            return path
    return walk.stopped_at


def _is_known(value: Any) -> bool:
    if is_a(value, MethodType):
        value = value.__func__
    if is_a(value, FunctionType):
        module = str(value.__globals__.get("__name__", ""))  # __module__ may be that of what it wraps
    else:
        module = str((value if is_a(value, type) else type(value)).__module__)
    return is_library(module) and (module.partition(".")[0] in {*KNOWN, *sys.stdlib_module_names})
