"""What a loader loads, taken out of it so that trials load the same in processes of their own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from lightning_fastdata.callbacks.tuner.eligibility import batch_size_of, reason_untunable
from lightning_fastdata.callbacks.tuner.throughput_model import Setting
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.batch_requests import RequestSampler
from lightning_fastdata.loaders.planned import PlannedDataLoader, identity_collate
from lightning_fastdata.loaders.resumable import ResumableDataLoader
from lightning_fastdata.loaders.seeded_dataset import BatchRequest, SeededDataset

__all__ = ["FreshIndices", "Source", "requests_for", "source_of", "trial_loader"]

MOST_PERMUTED = 1_000_000
"""Samples whose order is drawn at once (count); of more, trials load a small share anyway."""


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


def source_of(loader: DataLoader[Any]) -> Source:
    """What a loader loads.

    Args:
        loader: It is not changed, and nothing is loaded.

    Raises:
        FastDataError: It cannot be tuned.
    """
    problem = reason_untunable(loader)
    if problem is not None:
        raise FastDataError(
            f"The workers for {type(loader.dataset).__name__} cannot be tuned: {problem}.",
            expected="map-style data (__len__ and __getitem__) that worker processes can load.",
            fix="change what is named; docs/iterable.md says what helps an iterable dataset.",
        )
    determinism = loader.determinism if isinstance(loader, ResumableDataLoader) else None
    return Source(
        dataset=loader.dataset,
        batch_size=batch_size_of(loader) or 1,
        collate_fn=loader.collate_fn,
        batched=loader.batch_sampler is not None,
        seed=determinism.source if determinism is not None and determinism.seeds_samples else None,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        pin_memory=loader.pin_memory,
    )


class FreshIndices:
    """Samples at random, none twice before all were drawn: what an earlier trial read would be in the page cache.

    Args:
        length: Samples of the dataset (count).
        rng: Where the randomness comes from; None = the operating system, so that no two runs read the same.
    """

    def __init__(self, length: int, rng: np.random.Generator | None = None) -> None:
        self.restarted = False
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
            self._order, self._next, self.restarted = self._rng.permutation(len(self._order)), 0, True
        chosen = self._order[self._next : self._next + count].tolist()
        self._next += count
        return list(chosen)

    def _new_one(self) -> int:
        while True:
            index = int(self._rng.integers(self._length))
            if index not in self._seen:
                self._seen.add(index)
                return index


def requests_for(source: Source, fresh: FreshIndices) -> Iterator[BatchRequest]:
    """Batches at random, without an end.

    Args:
        source: What is loaded.
        fresh: Which samples.

    Yields:
        The requests to a ``SeededDataset``.
    """
    number = 0
    while True:
        yield BatchRequest(epoch=0, cycle=0, number=number, indices=fresh.take(source.batch_size), occurrences=None)
        number += 1


def trial_loader(
    source: Source,
    fresh: FreshIndices,
    setting: Setting,
    *,
    view: type[SeededDataset] = SeededDataset,
    timeout_s: float = 0.0,
) -> DataLoader[Any]:
    """A loader that loads as the source's does, without an end, and leaves no trace in the random generators.

    Args:
        source: What to load.
        fresh: Which samples.
        setting: The workers and their depth.
        view: The class of the samples in the workers, which may measure there.
        timeout_s: How long one batch may take (s); 0 = for ever.

    Returns:
        The loader; its batches are ``WorkerOutput``.
    """
    requests = RequestSampler()
    requests.next_pass = requests_for(source, fresh)
    samples = view(source.dataset, source.collate_fn, source.seed, batched=source.batched, source=source.seed or 0)
    how: dict[str, Any] = {"batch_sampler": requests} if source.batched else {"sampler": requests, "batch_size": None}
    return PlannedDataLoader(
        samples,
        collate_fn=identity_collate,
        pin_memory=source.pin_memory and torch.accelerator.is_available(),
        generator=torch.Generator(),
        worker_init_fn=source.worker_init_fn,
        multiprocessing_context=source.multiprocessing_context,
        timeout=timeout_s,
        **how,
        **setting._asdict(),
    )
