"""A dataset with transforms of whole batches, which the loaders of this package run."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from lightning_fastdata.loaders.sample_rng import SampleRandom
from lightning_fastdata.loaders.splitmix import Words

__all__ = ["TransformedDataset"]


class TransformedDataset(Dataset[Any]):
    """A dataset whose batches are transformed as a whole, by the loaders of this package.

    All other attributes are those of the dataset; a single sample is as the dataset returns it.

    Args:
        dataset: Any map-style dataset.
        transforms: Each gets the batch, as the collate function made it, and a ``SampleRandom``; returns the batch.
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
    def transforms_use_global_rng(self) -> bool:
        """Whether a transform may draw from the global generators: any but those that say they do not."""
        return any(getattr(transform, "uses_global_rng", True) for transform in self.transforms)

    def transformed(self, batch: Any, seeds: Words) -> Any:
        """Transform a batch.

        Args:
            batch: As the collate function made it.
            seeds: Its samples' seeds, uint64, shape (batch,).

        Returns:
            What the last transform returns.
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
