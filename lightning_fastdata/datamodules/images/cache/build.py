"""Filling a cache before training, with threads: decoding, resizing and encoding let go of the GIL."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from lightning_fastdata.datamodules.images.cache.cached_source import CachedSource

__all__ = ["Progress", "build_cache"]


@dataclass
class Progress:
    """How far the filling has come; written by its threads."""

    done: int = 0
    """Samples that were looked at (count), kept or not."""
    unreadable: list[str] = field(default_factory=list)
    """What could not be read: path and reason."""


def build_cache(
    sources: Sequence[tuple[CachedSource, Sequence[str]]], threads: int, watch: Callable[[Progress], None]
) -> Progress:
    """Read every sample once, which puts it into the cache; an entry that it holds already is only checked.

    Args:
        sources: Sources that read through the cache, each with the paths of its images.
        threads: How many work at once (count).
        watch: Called in this thread, ten times a second, while the others work.

    Returns:
        What was done. After a KeyboardInterrupt, which goes on to the caller, what is in the cache stays there.
    """
    progress, stop, lock = Progress(), threading.Event(), threading.Lock()
    work = ((source, paths, index) for source, paths in sources for index in range(len(paths)))

    def run() -> None:
        while True:
            with lock:  # a generator cannot be read by two threads at once
                item = None if stop.is_set() else next(work, None)
            if item is None:
                return
            source, paths, index = item
            problem = None
            try:
                source.read(index)
            except Exception as error:  # Pillow raises many kinds for broken files
                problem = f"{paths[index]}: {type(error).__name__}: {error}"
            with lock:
                progress.done += 1
                if problem is not None:
                    progress.unreadable.append(problem)

    threads = max(1, threads)
    with _one_thread_each(), ThreadPoolExecutor(threads) as pool:
        runs = [pool.submit(run) for _ in range(threads)]
        try:
            while wait(runs, timeout=0.1).not_done:
                watch(progress)
        finally:
            stop.set()
    for each in runs:
        each.result()
    watch(progress)
    return progress


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Torch would resize every image with all cores, while each of these threads needs one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
