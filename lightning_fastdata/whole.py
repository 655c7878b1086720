"""Datasets that make a batch in one go: who they are, and how they are asked without a Python integer per sample."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Subset

__all__ = ["WholeSource", "as_array", "gives_whole_batches", "only_chooses", "whole_source"]

Indices = npt.NDArray[np.int64]


class WholeSource(NamedTuple):
    """A dataset that makes finished batches, and which of its samples a loader serves."""

    dataset: Any
    """The dataset itself, beneath the views of it."""
    numbers: Indices | None
    """Its sample for each index of the outermost view, int64; None = without a view."""

    def batch(self, indices: Sequence[Any] | Indices) -> Any:
        """The finished batch.

        Args:
            indices: Samples of the batch, by their index in the outermost view.

        Returns:
            What the dataset's ``__getitems__`` gives. It gets an int64 array of shape (batch,), unless a sampler of
            the user's gives keys of another kind: then the list of them.
        """
        rows = as_array(indices)
        if rows is None:
            return self.dataset.__getitems__(list(indices))
        return self.dataset.__getitems__(rows if self.numbers is None else self.numbers[rows])


def gives_whole_batches(dataset: object) -> bool:
    """Whether a dataset's ``__getitems__`` gives finished batches (``whole_batches = True``).

    Args:
        dataset: Any dataset. A ``Subset`` hands ``__getitems__`` on; a ``ConcatDataset`` asks sample by sample.

    Returns:
        True where the batches must not be collated again.
    """
    if isinstance(dataset, Subset):
        return only_chooses(type(dataset)) and gives_whole_batches(dataset.dataset)
    return getattr(dataset, "whole_batches", False) is True


def only_chooses(view: type) -> bool:
    """Whether a kind of Subset fetches its samples as torch's does."""
    return all(getattr(view, name) is getattr(Subset, name) for name in ("__getitem__", "__getitems__"))


def whole_source(dataset: Any) -> WholeSource | None:
    """Find the dataset that makes the batches, through torch's views of it.

    torch's ``Subset`` looks its indices up one by one, in Python, for every batch; here they are put together once.

    Args:
        dataset: Any dataset.

    Returns:
        None for one that does not give whole batches.
    """
    if not gives_whole_batches(dataset):
        return None
    numbers: Indices | None = None
    while isinstance(dataset, Subset):
        chosen = np.asarray(dataset.indices, dtype=np.int64)
        numbers = chosen if numbers is None else chosen[numbers]
        dataset = dataset.dataset
    return WholeSource(dataset, numbers)


def as_array(indices: Sequence[Any] | Indices) -> Indices | None:
    """Indices packed; None for keys that are no whole numbers.

    Args:
        indices: Samples as a sampler gave them.
    """
    if type(indices) is np.ndarray:
        return indices
    found = np.asarray(indices)
    return found.astype(np.int64, copy=False) if found.ndim == 1 and found.dtype.kind in "iu" else None
