"""One native thread in each worker: pools of C libraries know nothing of the other workers."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from threadpoolctl import threadpool_limits

__all__ = ["LimitNativeThreads", "limit_native_threads"]


def limit_native_threads(modules: Mapping[str, ModuleType] | None = None) -> None:
    """Give this process one thread in OpenBLAS, MKL, BLIS and OpenMP, and in OpenCV, numexpr and numba.

    torch does that for its own threads only (``torch.set_num_threads(1)`` in ``torch/utils/data/_utils/worker.py``).
    Only what is imported already is touched. Not reached: polars, whose pool has its size from its import on
    (``POLARS_MAX_THREADS``), and what a dataset imports later.

    Args:
        modules: Loaded modules by name; None looks at ``sys.modules``.
    """
    loaded = sys.modules if modules is None else modules
    threadpool_limits(limits=1)
    # A library that is half imported, or whose pool is in use, is left as it is: it costs time, never the run.
    with contextlib.suppress(Exception):
        if "cv2" in loaded:
            loaded["cv2"].setNumThreads(0)  # 0: in the calling thread, without a pool
    with contextlib.suppress(Exception):
        if "numexpr" in loaded:
            loaded["numexpr"].set_num_threads(1)
    with contextlib.suppress(Exception):
        if "numba.np.ufunc.parallel" in loaded:  # without it numba has no pool, and asking for threads would start one
            loaded["numba"].set_num_threads(1)


@dataclass(frozen=True)
class LimitNativeThreads:
    """A ``worker_init_fn`` that limits native threads, then does what the user wants."""

    then: Callable[[int], Any] | None = None
    """The user's own ``worker_init_fn``; it comes last, so what it sets stays."""

    def __call__(self, worker_id: int) -> None:
        """Run in the worker, before it loads anything."""
        limit_native_threads()
        if self.then is not None:
            self.then(worker_id)
