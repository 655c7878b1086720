"""What a worker does before it loads anything: one native thread each, on the CPUs that the process was given."""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from ctypes import c_int
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

from threadpoolctl import LibController, ThreadpoolController

__all__ = ["RestoreAffinity", "chain_init_fns", "limit_native_threads", "native_pools"]

THREAD_SETTERS = (
    ("cv2", "setNumThreads", 0),  # 0: in the calling thread, without a pool
    ("numexpr", "set_num_threads", 1),
    ("numba.np.ufunc.parallel", "set_num_threads", 1),  # without this module numba has no pool, and would start one
)
"""The module that has a pool of threads, the function of its package that sets their number, and the number."""


@lru_cache(1)
def native_pools(modules: int) -> ThreadpoolController:
    """The thread pools of the C libraries that this process has loaded.

    Looking for them takes a third of a worker's start, so it is done before a fork, and again after imports only.

    Args:
        modules: Modules that are loaded (count).
    """
    return ThreadpoolController()


def limit_native_threads(worker_id: int, modules: Mapping[str, ModuleType] | None = None) -> None:
    """A ``worker_init_fn``: one thread in OpenBLAS, MKL, BLIS and OpenMP, and in OpenCV, numexpr and numba.

    torch does that for its own threads only (``torch.set_num_threads(1)`` in ``torch/utils/data/_utils/worker.py``).
    The pools of C libraries know nothing of the other workers. Only what is imported already is touched. Not reached:
    polars, whose pool has its size from its import on (``POLARS_MAX_THREADS``), and what a dataset imports later.

    Args:
        worker_id: Which worker this is.
        modules: Loaded modules by name; None looks at ``sys.modules``.
    """
    loaded = sys.modules if modules is None else modules
    for pool in native_pools(len(sys.modules)).lib_controllers:
        if pool.num_threads not in (None, 1):
            _limit(pool)
    for name, function, threads in THREAD_SETTERS:
        # A library that is half imported, or whose pool is in use, keeps its threads: that costs time, never the run.
        with contextlib.suppress(Exception):
            if name in loaded:
                getattr(loaded[name.partition(".")[0]], function)(threads)


def _limit(pool: LibController) -> None:
    """Give a C library one thread.

    After a fork OpenBLAS has no threads, and starts them all when their number is set: that takes 3 ms with
    two. Where it shows its own variables (``driver/others/blas_server.c``), that one is set which its calls look at.
    """
    with contextlib.suppress(AttributeError, ValueError):
        if c_int.in_dll(pool.dynlib, "blas_server_avail").value == 0:
            c_int.in_dll(pool.dynlib, "blas_cpu_number").value = 1
    if pool.num_threads != 1:
        pool.set_num_threads(1)


@dataclass(frozen=True)
class RestoreAffinity:
    """A ``worker_init_fn`` for a process that an OpenMP binding has moved onto one CPU, which workers inherit."""

    cpus: tuple[int, ...]
    """The CPUs that the process was started with (numbers)."""

    def __call__(self, worker_id: int) -> None:
        """Run in the worker, before it loads anything."""
        with contextlib.suppress(OSError):  # a cpuset may have become narrower meanwhile
            os.sched_setaffinity(0, self.cpus)


@dataclass(frozen=True)
class _Chain:
    """Several ``worker_init_fn`` as one; it pickles where they do."""

    functions: tuple[Callable[[int], Any], ...]
    """In the order in which they are called."""

    def __call__(self, worker_id: int) -> None:
        for function in self.functions:
            function(worker_id)


def chain_init_fns(*functions: Callable[[int], Any] | None) -> Callable[[int], Any] | None:
    """One ``worker_init_fn`` that calls several in turn; the user's comes last, so what it sets stays.

    Args:
        *functions: Each gets the worker's number; None is left out.

    Returns:
        The one function itself where there is only one, None where there is none.
    """
    chained = tuple(function for function in functions if function is not None)
    return _Chain(chained) if len(chained) > 1 else next(iter(chained), None)
