"""Several datasets for one split: lists and dicts of them, nested or not."""

import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_fastdata.errors import FastDataError

__all__ = ["COLLECTIONS", "as_given", "check_members", "flattened", "to_builtin"]

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


def to_builtin(value: Any) -> Any:
    """Make plain lists and dicts of OmegaConf's, which ``hydra.utils.instantiate`` passes on unless told otherwise.

    OmegaConf's list is no ``list``, so a list of datasets would be taken for one dataset; and neither container
    belongs into a checkpoint, or into a worker that need not have OmegaConf.

    Args:
        value: Anything. Dicts are looked through, for a part of a configuration within (``{"train": cfg.loader}``);
            other containers are handed back as they are.

    Returns:
        The same without containers of OmegaConf; the objects in them are the same objects.
    """
    omegaconf = sys.modules.get("omegaconf")  # never imported here: without it there is nothing to convert
    if omegaconf is None:
        return value
    if omegaconf.OmegaConf.is_config(value):
        return omegaconf.OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
    if type(value) is not dict:
        return value
    plain = {key: to_builtin(part) for key, part in value.items()}
    return plain if any(plain[key] is not part for key, part in value.items()) else value
