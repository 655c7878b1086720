"""Batches made, or changed, in one go, without Python per sample: who makes them, and how they are asked."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Subset

from lightning_fastdata.loaders.order import Words
from lightning_fastdata.loaders.sample_rng import SampleRandom

__all__ = [
    "BatchFetcher",
    "TransformedDataset",
    "accepts_seeds",
    "as_array",
    "batch_fetcher",
    "fetches_batches",
    "only_chooses",
]

Indices = npt.NDArray[np.int64]


class BatchFetcher(NamedTuple):
    """A dataset that makes finished batches, and which of its samples a loader serves."""

    dataset: Any
    """The dataset itself, beneath the views of it."""
    numbers: Indices | None
    """Its sample for each index of the outermost view, int64; None = without a view."""

    accepts_seeds: bool = False
    """Whether it wants a seed for each sample as well."""

    def batch(self, indices: Sequence[Any] | Indices, seeds: Words | None = None) -> Any:
        """The finished batch.

        Args:
            indices: Samples of the batch, by their index in the outermost view.
            seeds: Their seeds, uint64, shape (batch,), for a dataset that takes them.

        Returns:
            What the dataset's ``__getitems__`` gives. It gets an int64 array of shape (batch,), unless a sampler of
            the user's gives keys of another kind: then the list of them.
        """
        rows: Any = as_array(indices)
        if rows is None:
            rows = list(indices)
        elif self.numbers is not None:
            rows = self.numbers[rows]
        return self.dataset.__getitems__(rows, seeds) if self.accepts_seeds else self.dataset.__getitems__(rows)


class TransformedDataset(Dataset[Any]):
    """A dataset whose batches are transformed as a whole, by the loaders of this package.

    It answers for the dataset in all else; a sample that is asked for alone is as the dataset gives it.

    Args:
        dataset: Any map-style dataset.
        transforms: Each gets the batch, as the collate function made it, and a ``SampleRandom``; gives the batch back.
    """

    def __init__(self, dataset: Any, transforms: Sequence[Callable[[Any, SampleRandom], Any]]) -> None:
        self.dataset, self.transforms = dataset, tuple(transforms)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):  # while unpickling there is no dataset yet
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @property
    def draws_from_generators(self) -> bool:
        """Whether a transform may draw from the global generators: any but those that say they do not."""
        return any(getattr(transform, "uses_global_rng", True) for transform in self.transforms)

    def transformed(self, batch: Any, seeds: Words) -> Any:
        """Transform a batch.

        Args:
            batch: As the collate function made it.
            seeds: Its samples' seeds, uint64, shape (batch,).

        Returns:
            What the last transform gives.
        """
        random = SampleRandom(seeds, _device_of(batch))
        for transform in self.transforms:
            batch = transform(batch, random)
        return batch


def _device_of(batch: Any) -> torch.device:
    """Where the first tensor of a batch is."""
    if isinstance(batch, torch.Tensor):
        return batch.device
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (list, tuple)) else ()
    return _device_of(next(iter(parts))) if parts else torch.device("cpu")


def fetches_batches(dataset: object) -> bool:
    """Whether a dataset's ``__getitems__`` gives finished batches (``batched_fetch = True``).

    Args:
        dataset: Any dataset. A ``Subset`` hands ``__getitems__`` on; a ``ConcatDataset`` asks sample by sample.

    Returns:
        True where the batches must not be collated again.
    """
    if isinstance(dataset, TransformedDataset):
        return fetches_batches(dataset.dataset)
    return _says("batched_fetch", dataset)


def accepts_seeds(dataset: object) -> bool:
    """Whether a dataset's ``__getitems__`` wants seeds (``accepts_seeds = True``): ``__getitems__(indices, seeds)``.

    Args:
        dataset: Any dataset. A ``Subset`` hands them on.
    """
    if isinstance(dataset, TransformedDataset):
        return accepts_seeds(dataset.dataset)
    return _says("accepts_seeds", dataset)


def _says(name: str, dataset: object) -> bool:
    """Whether a dataset says so itself, or one that torch's views are parts of."""
    if not isinstance(dataset, Subset):
        return getattr(dataset, name, False) is True
    return vars(type(dataset)).get(name) is True or (only_chooses(type(dataset)) and _says(name, dataset.dataset))


def only_chooses(view: type) -> bool:
    """Whether a kind of Subset fetches its samples as torch's does."""
    return all(getattr(view, name) is getattr(Subset, name) for name in ("__getitem__", "__getitems__"))


def batch_fetcher(dataset: Any) -> BatchFetcher | None:
    """Find the dataset that makes the batches, through torch's views of it.

    torch's ``Subset`` looks its indices up one by one, in Python, for every batch; here they are put together once.

    Args:
        dataset: Any dataset.

    Returns:
        None for one that does not give whole batches.
    """
    if not fetches_batches(dataset):
        return None
    numbers: Indices | None = None
    dataset = dataset.dataset if isinstance(dataset, TransformedDataset) else dataset
    while isinstance(dataset, Subset) and only_chooses(type(dataset)):
        chosen = np.asarray(dataset.indices, dtype=np.int64)
        numbers = chosen if numbers is None else chosen[numbers]
        dataset = dataset.dataset
    return BatchFetcher(dataset, numbers, accepts_seeds(dataset))


def as_array(indices: Sequence[Any] | Indices) -> Indices | None:
    """Indices packed; None for keys that are no whole numbers.

    Args:
        indices: Samples as a sampler gave them.
    """
    if type(indices) is np.ndarray:
        return indices
    found = np.asarray(indices)
    return found.astype(np.int64, copy=False) if found.ndim == 1 and found.dtype.kind in "iu" else None
