"""Datasets that make finished batches in one call, without Python per sample: how they are asked."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Subset

from lightning_fastdata.loaders.dataset_traits import DatasetTraits, forwards_fetches, traits_of
from lightning_fastdata.loaders.splitmix import Words
from lightning_fastdata.loaders.transformed_dataset import TransformedDataset

__all__ = ["BatchFetcher", "as_array", "batch_fetcher"]

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
            What the dataset's ``__getitems__`` returns. It gets an int64 array of shape (batch,), unless a sampler of
            the user's yields keys of another kind: then the list of them.
        """
        rows: Any = as_array(indices)
        if rows is None:
            rows = list(indices)
        elif self.numbers is not None:
            rows = self.numbers[rows]
        return self.dataset.__getitems__(rows, seeds) if self.accepts_seeds else self.dataset.__getitems__(rows)


def batch_fetcher(dataset: Any, traits: DatasetTraits | None = None) -> BatchFetcher | None:
    """Find the dataset that makes the batches, through torch's views of it.

    torch's ``Subset`` looks its indices up one by one, in Python, for every batch; here they are put together once.

    Args:
        dataset: Any dataset.
        traits: Its traits, where they are known.

    Returns:
        None for one that does not make whole batches.
    """
    traits = traits or traits_of(dataset)
    if not traits.batched_fetch:
        return None
    numbers: Indices | None = None
    dataset = dataset.dataset if isinstance(dataset, TransformedDataset) else dataset
    while isinstance(dataset, Subset) and forwards_fetches(type(dataset)):
        chosen = np.asarray(dataset.indices, dtype=np.int64)
        numbers = chosen if numbers is None else chosen[numbers]
        dataset = dataset.dataset
    return BatchFetcher(dataset, numbers, traits.accepts_seeds)


def as_array(indices: Sequence[Any] | Indices) -> Indices | None:
    """Indices packed; None for keys that are no whole numbers.

    Args:
        indices: Samples as a sampler yielded them.
    """
    if type(indices) is np.ndarray:
        return indices
    packed = np.asarray(indices)
    return packed.astype(np.int64, copy=False) if packed.ndim == 1 and packed.dtype.kind in "iu" else None
