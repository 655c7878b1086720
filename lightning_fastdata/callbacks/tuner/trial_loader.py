"""What a loader loads, taken out of it so that trials can load the same in processes of their own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.batch_requests import RequestSampler
from lightning_fastdata.loaders.dataset_traits import length_of
from lightning_fastdata.loaders.open_handles import open_handle
from lightning_fastdata.loaders.planned import PlannedDataLoader, identity_collate
from lightning_fastdata.loaders.resumable import ResumableDataLoader
from lightning_fastdata.loaders.seeded_dataset import BatchRequest, SeededDataset

__all__ = ["FreshIndices", "Source", "asks_for", "reason_untunable", "source_of", "trial_loader"]


MOST_PERMUTED = 1_000_000
"""Samples whose order is drawn as a whole (count); of more, trials load a small part anyway."""


@dataclass(frozen=True)
class Source:
    """The part of a loader that decides what a worker does."""

    dataset: Any
    """The user's map-style dataset."""
    batch_size: int
    """Samples of a batch (count)."""
    collate_fn: Callable[[Any], Any]
    """Makes a batch of samples."""
    batched: bool = True
    """False for a loader without batching, whose batches are single samples."""
    seed: int | None = None
    """Seeds every sample, as our loaders do, which takes time as well; None leaves the generators alone."""
    worker_init_fn: Callable[[int], Any] | None = None
    """Runs in a worker first."""
    multiprocessing_context: Any = None
    """Start method of workers; None = the platform's default."""
    pin_memory: bool = False
    """Whether batches are copied into page-locked memory."""

    @property
    def batches(self) -> int:
        """Batches of one pass over the dataset, the last, smaller one included (count)."""
        return -(-len(self.dataset) // self.batch_size)


def reason_untunable(loader: Any) -> str | None:
    """Why the workers of a loader cannot be tuned.

    Args:
        loader: What the Trainer trains with.

    Returns:
        The end of a sentence, or None where they can.
    """
    if not isinstance(loader, DataLoader):
        return f"{type(loader).__name__} is no torch DataLoader"
    if isinstance(loader.dataset, IterableDataset):
        return "an IterableDataset decides itself what each worker loads: other workers would change the data"
    length = length_of(loader.dataset)
    if length is None:
        return f"{type(loader.dataset).__name__} has no length"
    if length == 0:
        return f"{type(loader.dataset).__name__} has 0 samples"
    handle = open_handle(loader.dataset)
    if handle is not None:
        return (
            f"{handle} is an open file, whose position all forked workers would share: open it when the first sample"
            " is loaded"
        )
    if _batch_size(loader) is None:
        return "its batch sampler does not say how large a batch is (batch_size)"
    return None


def source_of(loader: DataLoader[Any]) -> Source:
    """What a loader loads.

    Args:
        loader: One that ``reason_untunable`` has nothing against; it is only looked at.

    Raises:
        FastDataError: ``reason_untunable`` has something against it.
    """
    problem = reason_untunable(loader)
    if problem is not None:
        raise FastDataError(
            f"This loader cannot be tuned: {problem}.", expected="a torch DataLoader of map-style data."
        )
    determinism = loader.determinism if isinstance(loader, ResumableDataLoader) else None
    return Source(
        dataset=loader.dataset,
        batch_size=_batch_size(loader) or 1,
        collate_fn=loader.collate_fn,
        batched=loader.batch_sampler is not None,
        seed=determinism.source if determinism is not None and determinism.seeds_samples else None,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        pin_memory=loader.pin_memory,
    )


def _batch_size(loader: DataLoader[Any]) -> int | None:
    if loader.batch_sampler is None:
        return 1
    size = loader.batch_size if loader.batch_size is not None else getattr(loader.batch_sampler, "batch_size", None)
    return size if isinstance(size, int) and size > 0 else None


class FreshIndices:
    """Samples at random, none again before all were drawn: what an earlier trial read would be in the page cache.

    Args:
        length: Samples of the dataset (count).
        rng: Where the randomness comes from; None = the operating system, so that no two runs read the same.
    """

    def __init__(self, length: int, rng: np.random.Generator | None = None) -> None:
        self.went_round = False
        """Whether all samples were drawn, so that some came a second time."""
        self._rng = np.random.default_rng() if rng is None else rng
        self._length, self._seen = length, set[int]()
        self._order = self._rng.permutation(length if length <= MOST_PERMUTED else 0)
        self._next = 0

    def take(self, count: int) -> list[int]:
        """The next ``count`` samples (fewer where the dataset has fewer)."""
        if self._length > MOST_PERMUTED:  # an order of all of them would take seconds and gigabytes
            return [self._new_one() for _ in range(count)]
        count = min(count, len(self._order))
        if self._next + count > len(self._order):
            self._order, self._next, self.went_round = self._rng.permutation(len(self._order)), 0, True
        chosen = self._order[self._next : self._next + count].tolist()
        self._next += count
        return list(chosen)

    def _new_one(self) -> int:
        while True:
            index = int(self._rng.integers(self._length))
            if index not in self._seen:
                self._seen.add(index)
                return index


def asks_for(source: Source, fresh: FreshIndices) -> Iterator[BatchRequest]:
    """Batches at random, without an end.

    Args:
        source: What is loaded.
        fresh: Which samples.

    Yields:
        What a ``SeededDataset`` is asked for.
    """
    number = 0
    while True:
        yield BatchRequest(epoch=0, cycle=0, number=number, indices=fresh.take(source.batch_size), occurrences=None)
        number += 1


def trial_loader(
    source: Source,
    fresh: FreshIndices,
    num_workers: int,
    prefetch_factor: int | None,
    *,
    view: type[SeededDataset] = SeededDataset,
    timeout_s: float = 0.0,
) -> DataLoader[Any]:
    """A loader that loads as the source's does, without an end, and leaves no trace in the random generators.

    Args:
        source: What to load.
        fresh: Which samples.
        num_workers: Worker processes (count).
        prefetch_factor: Batches per worker prepared ahead (count); None without workers.
        view: What the workers ask, to measure in there.
        timeout_s: How long one batch may take (s); 0 = for ever.

    Returns:
        The loader; its batches are ``seeded.Delivered``.
    """
    asks = RequestSampler()
    asks.next_pass = asks_for(source, fresh)
    samples = view(source.dataset, source.collate_fn, source.seed, batched=source.batched, source=source.seed or 0)
    how: dict[str, Any] = {"batch_sampler": asks} if source.batched else {"sampler": asks, "batch_size": None}
    options: dict[str, Any] = {"num_workers": num_workers}
    if num_workers:
        options |= {
            "prefetch_factor": prefetch_factor,
            "worker_init_fn": source.worker_init_fn,
            "multiprocessing_context": source.multiprocessing_context,
            "timeout": timeout_s,
        }
    return PlannedDataLoader(
        samples,
        collate_fn=identity_collate,
        pin_memory=source.pin_memory and torch.accelerator.is_available(),
        generator=torch.Generator(),
        **how,
        **options,
    )
