"""Several datasets for one split: lists and dicts of them, nested or not."""

import inspect
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_fastdata.errors import FastDataError

__all__ = ["COLLECTIONS", "as_given", "check_datasets", "flattened", "to_builtin"]

COLLECTIONS = (Mapping, list, tuple)
"""What may hold datasets, also within each other."""
NO_DATASETS = (str, bytes, int, float, torch.Tensor, np.ndarray, DataLoader)
"""What a list of samples, rather than of datasets, is made of."""


def flattened(datasets: Any) -> list[Any]:
    """The datasets of a collection.

    Args:
        datasets: A dataset, or a list, tuple or dict of them, nested or not.

    Returns:
        All of them in their order.
    """
    if not isinstance(datasets, COLLECTIONS):
        return [datasets]
    return [dataset for member in _members(datasets) for dataset in flattened(member)]


def _members(collection: Any) -> Collection[Any]:
    return collection.values() if isinstance(collection, Mapping) else collection


def check_datasets(split: str, datasets: Any) -> None:
    """Refuse what looks like a dataset, or like a list of them, and is none.

    A path has a length and letters to train on; a list of samples would become one loader per sample.

    Args:
        split: Names the split in the message.
        datasets: What the user set for it.

    Raises:
        FastDataError: It is a DataLoader or a path; or a collection that is empty or holds what is no dataset.
    """
    if isinstance(datasets, DataLoader):
        raise FastDataError(
            f"{split}_dataset is a DataLoader.",
            expected="a dataset: the loaders are made here.",
            fix="pass the loader's dataset, and its arguments as batch_size, dataloader_kwargs, ...",
        )
    if inspect.isroutine(datasets):
        raise FastDataError(
            f"{split}_dataset is a function or a method.",
            expected="a dataset, or a list or dict of them.",
            fix=f"write @property above it, or self.{split}_dataset = ... in setup() and another name for the method.",
        )
    if isinstance(datasets, (str, bytes)):
        raise FastDataError(
            f"{split}_dataset={datasets!r}.",
            expected="a dataset, or a list or dict of them.",
            fix="for a folder of images there is ImageFolderDataModule; in YAML, name the dataset as class_path"
            " (LightningCLI) or _target_ (Hydra), with its arguments below.",
        )
    if isinstance(datasets, COLLECTIONS):
        _check_members(split, _members(datasets))


def _check_members(split: str, members: Collection[Any]) -> None:
    if not members:
        raise FastDataError(
            f"{split}_dataset is an empty collection.",
            expected="at least one dataset.",
            fix="leave the split out (None) if it has no data.",
        )
    for member in members:
        if isinstance(member, COLLECTIONS):
            _check_members(split, _members(member))
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
    """Make plain lists and dicts of OmegaConf's, which ``hydra.utils.instantiate`` passes on by default.

    OmegaConf's list is no ``list``, so a list of datasets would be taken for one dataset; and neither container
    belongs into a checkpoint, or into a worker that need not have OmegaConf.

    Args:
        value: Anything. Dicts are looked through, for a configuration within (``{"train": cfg.loader}``); other
            containers are handed back unchanged.

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
    converted = {key: to_builtin(inner) for key, inner in value.items()}
    return converted if any(converted[key] is not inner for key, inner in value.items()) else value
