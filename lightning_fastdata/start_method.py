"""How worker processes can be started from this program, and what would stop them.

Under spawn and forkserver a worker imports the main script again and unpickles the dataset. A script without a
``__main__`` guard, a class from a notebook or a lambda then ends the run minutes later, inside torch. These are
looked for beforehand, by reading and pickling only.
"""

import ast
import io
import multiprocessing
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["default_start_method", "fork_problem", "spawn_problem"]

UNSAFE_UNDER_FORK = ("polars",)
"""Libraries that document that their thread pool deadlocks in a forked child (pola-rs/polars#17526)."""


def default_start_method() -> str:
    """The start method torch's workers would use: "fork", "spawn" or "forkserver".

    Asked without fixing it: a later ``multiprocessing.set_start_method`` must still work.
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    return chosen or multiprocessing.get_all_start_methods()[0]


def fork_problem(modules: Mapping[str, ModuleType] | None = None) -> str | None:
    """Why forking this process is unsafe.

    Args:
        modules: Loaded modules by name; None looks at ``sys.modules``.

    Returns:
        A sentence fragment, or None when nothing is known against it.
    """
    loaded = sys.modules if modules is None else modules
    found = [name for name in UNSAFE_UNDER_FORK if name in loaded]
    return f"{found[0]} is loaded, whose threads can deadlock in a forked worker" if found else None


def spawn_problem(parts: Mapping[str, Any], main: ModuleType | None = None) -> str | None:
    """Why workers could not start under spawn or forkserver.

    Args:
        parts: What a worker receives, by the name the user knows it under (``dataset``, ``collate_fn``, ...).
        main: The main module; None looks at ``sys.modules["__main__"]``.

    Returns:
        A sentence fragment naming the cause (the attribute, if one does not pickle), or None.
    """
    main = main if main is not None else sys.modules.get("__main__")
    return _main_problem(main) or _notebook_problem(parts, main) or _pickle_problem(parts)


def _main_problem(main: ModuleType | None) -> str | None:
    path = getattr(main, "__file__", None)
    if path is None:
        return None
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8", errors="replace"))
    except (OSError, SyntaxError, ValueError):
        return None  # a frozen program or an archive: nothing to read, so nothing to claim
    if any(_is_guard(node) for node in tree.body) or not any(_does_something(node) for node in tree.body):
        return None
    name = Path(path).name
    return f"{name} has no `if __name__ == '__main__':` guard, so every worker would run the whole script again"


def _is_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
    )


def _does_something(node: ast.stmt) -> bool:
    """True for a top-level statement that may start work when the script is imported: a call that is no import."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
        return False
    return any(isinstance(part, ast.Call) for part in ast.walk(node))


def _notebook_problem(parts: Mapping[str, Any], main: ModuleType | None) -> str | None:
    if main is None or getattr(main, "__file__", None) is not None:
        return None
    for name, part in parts.items():
        kind = part if isinstance(part, type) or hasattr(part, "__qualname__") else type(part)
        if getattr(kind, "__module__", None) == "__main__":
            kind_name = getattr(kind, "__qualname__", kind)
            return f"{name} ({kind_name}) is defined in a notebook, from where workers cannot import it"
    return None


class _Nowhere(io.RawIOBase):
    """A file that forgets what it is given: pickling a large dataset must not take its size in memory twice."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def _pickles(value: object) -> str | None:
    """The error that pickling raises, or None."""
    try:
        pickle.Pickler(io.BufferedWriter(_Nowhere()), protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    except Exception as error:  # a __reduce__ of the user's may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def _pickle_problem(parts: Mapping[str, Any]) -> str | None:
    for name, part in parts.items():
        error = _pickles(part)
        if error is not None:
            where, error = _deepest(name, part, error)
            return f"{where} cannot be pickled for a worker ({error})"
    return None


def _deepest(name: str, value: object, error: str, depth: int = 5) -> tuple[str, str]:
    """Follow attributes and items to the smallest part that does not pickle."""
    if depth == 0:
        return name, error
    inner: dict[str, Any] = {f".{key}": item for key, item in getattr(value, "__dict__", {}).items()}
    if isinstance(value, dict):
        inner.update({f"[{key!r}]": item for key, item in value.items()})
    elif isinstance(value, (list, tuple)):
        inner.update({f"[{index}]": item for index, item in enumerate(value[:100])})
    for key, item in inner.items():
        found = _pickles(item)
        if found is not None:
            return _deepest(name + key, item, found, depth - 1)
    return name, error
