"""How worker processes can be started from this program, and what would stop them.

Under spawn and forkserver a worker imports the main script again and unpickles the dataset. A script without a
``__main__`` guard, a class from a notebook or a lambda then ends the run minutes later, inside torch. These are
looked for beforehand, by reading and pickling only.
"""

import ast
import functools
import io
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from multiprocessing import context
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import FunctionType, ModuleType
from typing import IO, Any

__all__ = ["default_start_method", "fork_problem", "pickles_beyond", "spawn_problem"]

UNSAFE_UNDER_FORK = ("polars",)
"""Libraries that document that their thread pool deadlocks in a forked child (pola-rs/polars#17526)."""


def default_start_method() -> str:
    """The start method torch's workers would use: "fork", "spawn" or "forkserver".

    Read without fixing it: a later ``multiprocessing.set_start_method`` must still work.
    """
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


def fork_problem() -> str | None:
    """Why forking this process is unsafe: a sentence fragment, or None when nothing is known against it."""
    unsafe = next((name for name in UNSAFE_UNDER_FORK if name in sys.modules), None)
    return f"{unsafe} is loaded, whose threads can deadlock in a forked worker" if unsafe else None


def spawn_problem(
    sent: Mapping[str, Any], main: ModuleType | None = None, reduce: Callable[[Any], Any] | None = None
) -> str | None:
    """Why workers could not start under spawn or forkserver.

    Args:
        sent: What a worker receives, by the name the user knows it under (``dataset``, ``collate_fn``, ...).
        main: The main module; None looks at ``sys.modules["__main__"]``.
        reduce: The ``reducer_override`` of the pickler that will send it; None = it has none.

    Returns:
        A sentence fragment naming the cause (the attribute, if one does not pickle), or None.
    """
    main = main if main is not None else sys.modules.get("__main__")
    in_notebook = main is not None and getattr(main, "__file__", None) is None
    checker = functools.partial(_Checker, in_notebook=in_notebook, reduce=reduce)
    return _main_problem(main) or _pickle_problem(sent, checker)


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
        isinstance(inner, ast.Name) and inner.id == "__name__" for inner in ast.walk(node.test)
    )


def _does_something(node: ast.stmt) -> bool:
    """True for a top-level statement that may start work when the script is imported: a call that is no import."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
        return False
    return any(isinstance(inner, ast.Call) for inner in ast.walk(node))


class _InNotebookError(Exception):
    """A class or function that workers could not import, met while pickling."""


class _Checker(pickle.Pickler):
    """Pickles; in a notebook it stops at whatever the notebook itself defines, however deep inside."""

    def __init__(self, file: IO[bytes], in_notebook: bool, reduce: Callable[[Any], Any] | None) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        # What multiprocessing itself pickles with, but for tensors: its way would move them to shared memory.
        table = ForkingPickler(file).dispatch_table
        self.dispatch_table = {kind: how for kind, how in table.items() if not kind.__module__.startswith("torch")}
        self.in_notebook, self.reduce = in_notebook, reduce

    def reducer_override(self, value: Any) -> Any:
        if self.in_notebook and isinstance(value, (type, FunctionType)) and value.__module__ == "__main__":
            raise _InNotebookError(value.__qualname__)
        return NotImplemented if self.reduce is None else self.reduce(value)


class _Spawning:
    """Stands for the process being started: locks and counters shared with workers pickle only for such a one."""

    DupFd = int

    def duplicate_for_child(self, handle: int) -> int:
        return handle


def _refusal(value: object, checker: Callable[[IO[bytes]], _Checker], sink: Any = None) -> str | None:
    """Why ``value`` cannot travel to a worker, as the end of a sentence, or None."""
    spawning = context.get_spawning_popen()
    context.set_spawning_popen(_Spawning())  # type: ignore[arg-type]
    try:
        with open(os.devnull, "wb") as nowhere:  # a large dataset must not take its size in memory twice
            checker(sink or nowhere).dump(value)
    except _InNotebookError as error:
        return f"({error}) is defined in a notebook, from where workers cannot import it"
    except Exception as error:  # a __reduce__ of the user's may raise anything
        return f"cannot be pickled for a worker ({type(error).__name__}: {error})"
    finally:
        context.set_spawning_popen(spawning)
    return None


def pickles_beyond(value: object, most_bytes: int, reduce: Callable[[Any], Any] | None = None) -> bool:
    """Whether a value takes more than so many bytes to travel to a worker; nothing is kept of it.

    Args:
        value: What a worker receives.
        most_bytes: The bound (bytes).
        reduce: As for ``spawn_problem``.

    Returns:
        True as soon as it does; False also for what cannot be pickled.
    """
    sink = _Counter(most_bytes)
    _refusal(value, functools.partial(_Checker, in_notebook=False, reduce=reduce), sink)
    return sink.bytes > most_bytes


class _Counter(io.RawIOBase):
    """Counts the bytes that are written, up to a bound."""

    def __init__(self, most_bytes: int) -> None:
        self.bytes, self.most_bytes = 0, most_bytes

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.bytes += (size := memoryview(data).nbytes)
        if self.bytes > self.most_bytes:
            raise OverflowError
        return size


def _pickle_problem(sent: Mapping[str, Any], checker: Callable[[IO[bytes]], _Checker]) -> str | None:
    for name, value in sent.items():
        refusal = _refusal(value, checker)
        if refusal is not None:
            return " ".join(_deepest(name, value, refusal, checker))
    return None


def _deepest(
    name: str, value: object, refusal: str, checker: Callable[[IO[bytes]], _Checker], depth: int = 5
) -> tuple[str, str]:
    """Follow attributes and items to the innermost value that cannot travel."""
    if depth == 0:
        return name, refusal
    inner: dict[str, Any] = {}
    if not isinstance(value, type):  # a class travels by its name; what it holds does not matter
        inner.update({f".{key}": item for key, item in getattr(value, "__dict__", {}).items()})
    if isinstance(value, dict):
        inner.update({f"[{key!r}]": item for key, item in value.items()})
    elif isinstance(value, (list, tuple)):
        inner.update({f"[{index}]": item for index, item in enumerate(value[:100])})
    for key, item in inner.items():
        inner_refusal = _refusal(item, checker)
        if inner_refusal is not None:
            return _deepest(name + key, item, inner_refusal, checker, depth - 1)
    return name, refusal
