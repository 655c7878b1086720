"""Whether a dataset holds its samples in memory, as far as its attributes show it. None of its code runs."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from lightning_fastdata.loaders.state.attributes import instance_attributes, kinds_of

__all__ = ["data_attribute"]

WITHIN = 3
"""Datasets within datasets that are looked into (count)."""
FEW_ITEMS = 100
"""Items of a list that are looked at (count)."""
NUMBERS = "biufcmM"
"""NumPy's kinds of numbers and times."""


def data_attribute(dataset: Any, length: int | None) -> str | None:
    """The attribute of a dataset that holds a value for each of its samples in memory.

    Names beside it (texts, paths, one for each sample) say that samples lie elsewhere: then the values are labels.

    Args:
        dataset: A map-style dataset; datasets that it holds are looked into.
        length: Its samples (count).

    Returns:
        Its path, such as ``dataset.images``; None where there is none.
    """
    held = list(_columns(dataset, length, "dataset", WITHIN)) if length else []
    return held[0][0] if held and all(_is_data(value) for _, value in held) else None


def _columns(dataset: Any, length: int, path: str, within: int) -> Iterator[tuple[str, Any]]:
    """What has as many items as the dataset has samples, or more."""
    attributes = [(".dataset", dataset.dataset)] if isinstance(dataset, Subset) else instance_attributes(dataset)
    for step, value in attributes:
        if isinstance(value, Dataset):
            if within:
                yield from _columns(value, length, path + step, within - 1)
        elif type(value) is torch.Tensor or isinstance(value, np.ndarray):
            if value.ndim and len(value) >= length:
                yield path + step, value
        elif (type(value) in (list, tuple) or _is_frame(value)) and len(value) >= length:
            yield path + step, value


def _is_frame(value: Any) -> bool:
    return bool(kinds_of(value) & {("pandas", "DataFrame"), ("pandas", "Series")})


def _is_data(value: Any) -> bool:
    """Whether all of it are numbers in memory."""
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype.kind in NUMBERS and not _is_mapped(value)
    if _is_frame(value):
        return all(getattr(kind, "kind", "O") in NUMBERS for kind in np.atleast_1d(np.asarray(value.dtypes, object)))
    return all(_is_number(item) for item in islice(value, FEW_ITEMS))


def _is_number(item: Any) -> bool:
    """Whether an item of a list is a number, an array, or a record of such; texts and paths are names of a sample."""
    if isinstance(item, dict):
        return all(map(_is_number, dict.values(item)))
    if type(item) in (list, tuple):
        return all(map(_is_number, islice(item, FEW_ITEMS)))
    return isinstance(item, (int, float, complex, torch.Tensor, np.ndarray))


def _is_mapped(value: Any) -> bool:
    """Whether an array is a view of a file."""
    while isinstance(value, np.ndarray):
        if isinstance(value, np.memmap):
            return True
        value = value.base
    return False
