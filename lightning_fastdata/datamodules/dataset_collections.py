"""Several datasets for one split: lists and dicts of them, nested or not."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_fastdata.datamodules.plain import to_builtin
from lightning_fastdata.errors import FastDataError

__all__ = ["COLLECTIONS", "as_given", "check_members", "flattened"]

COLLECTIONS = (Mapping, list, tuple)
"""What may hold datasets, also within each other."""
NO_DATASETS = (str, bytes, int, float, torch.Tensor, np.ndarray, DataLoader)
"""What a list of samples, rather than of datasets, is made of."""


def flattened(found: Any) -> list[Any]:
    """The datasets of a collection.

    Args:
        found: A dataset, or a list, tuple or dict of them, nested or not.

    Returns:
        All of them in their order.
    """
    if not isinstance(found, COLLECTIONS):
        return [found]
    return [dataset for part in _parts(found) for dataset in flattened(part)]


def _parts(found: Any) -> Collection[Any]:
    return found.values() if isinstance(found, Mapping) else found


def check_members(split: str, found: Any) -> None:
    """Refuse a list of samples, which looks like a list of datasets and would become one loader per sample.

    Args:
        split: Names the split in the message.
        found: A list, tuple or dict.

    Raises:
        FastDataError: It is empty, or holds what is no dataset.
    """
    members = _parts(found)
    if not members:
        raise FastDataError(
            f"{split}_dataset is an empty collection.",
            expected="at least one dataset.",
            fix="leave the split out (None) if it has no data.",
        )
    for member in members:
        if isinstance(member, COLLECTIONS):
            check_members(split, member)
        elif member is None or isinstance(member, NO_DATASETS):
            raise FastDataError(
                f"{split}_dataset is a collection that holds {type(member).__name__}.",
                expected="one dataset, or a list or dict of datasets (each becomes a loader of its own).",
                fix="wrap samples in a torch Dataset; for arrays there is TensorDataModule.",
            )


def as_given(dataset: Any) -> Any:
    """Make a list of a generator of datasets, which Lightning takes too, so that it can be read twice.

    Args:
        dataset: A dataset, or an iterable of datasets.
    """
    dataset = to_builtin(dataset)
    if isinstance(dataset, Iterable) and not hasattr(dataset, "__getitem__") and not hasattr(dataset, "__len__"):
        return dataset if isinstance(dataset, IterableDataset) else list(dataset)
    return dataset
