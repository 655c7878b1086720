"""What a loader loads, taken out of it so that trials load the same in processes of their own."""

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

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


class Source(NamedTuple):
    """What to load: the dataset of a loader, with the loader's options."""

    loader: DataLoader[Any]
    """It is not read itself."""
    batch_size: int
    """Samples of a batch (count)."""

    @property
    def dataset(self) -> Any:
        """The user's map-style dataset."""
        return self.loader.dataset

    @property
    def batches(self) -> int:
        """Batches of one pass over the dataset, the last, smaller one included (count)."""
        return -(-len(self.dataset) // self.batch_size)

    def samples(self, view: type[SeededDataset] = SeededDataset) -> SeededDataset:
        """The samples for a worker, seeded as by the loader: that takes time as well.

        Args:
            view: The class, which may measure in the worker.
        """
        determinism = self.loader.determinism if isinstance(self.loader, ResumableDataLoader) else None
        seed = determinism.source if determinism is not None and determinism.seeds_samples else None
        batched = self.loader.batch_sampler is not None
        return view(self.dataset, self.loader.collate_fn, seed, batched=batched, source=seed or 0)


def source_of(loader: DataLoader[Any], batch_size: int | None = None) -> Source:
    """What a loader loads.

    Args:
        loader: It is not changed, and nothing is loaded.
        batch_size: Samples of a batch (count); None = the loader's.

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
    return Source(loader, batch_size or batch_size_of(loader) or 1)


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


def requests_for(batch_size: int, fresh: FreshIndices) -> Iterator[BatchRequest]:
    """Batches at random, without an end.

    Args:
        batch_size: Samples of a batch (count).
        fresh: Which samples.

    Yields:
        The requests to a ``SeededDataset``.
    """
    for number in count():
        yield BatchRequest(epoch=0, cycle=0, number=number, indices=fresh.take(batch_size), occurrences=None)


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
    requests.next_pass = requests_for(source.batch_size, fresh)
    loader = source.loader
    batched = loader.batch_sampler is not None
    how: dict[str, Any] = {"batch_sampler": requests} if batched else {"sampler": requests, "batch_size": None}
    return PlannedDataLoader(
        source.samples(view),
        collate_fn=identity_collate,
        pin_memory=loader.pin_memory and torch.accelerator.is_available(),
        generator=torch.Generator(),
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        timeout=timeout_s,
        **how,
        **setting._asdict(),
    )
