"""Tensors and NumPy arrays in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lightning_fastdata.auto import SPLITS
from lightning_fastdata.data.base import FastDataModuleMixin
from lightning_fastdata.data.plain import as_plain
from lightning_fastdata.errors import FastDataError

__all__ = ["ArrayDataset", "RowDataset", "TensorDataModuleMixin"]

Arrays = Any
"""A tensor or NumPy array, or a tuple of them whose first dimensions agree."""


class RowDataset(Dataset[Any]):
    """Rows of tensors, fetched one by one.

    Args:
        tensors: One or more tensors; the first dimension, the same for all, counts the samples.
        single: True to give bare rows instead of tuples with one element.
    """

    in_memory = True
    draws_random_numbers = False

    def __init__(self, tensors: Sequence[torch.Tensor], *, single: bool = False) -> None:
        self.tensors = tuple(tensors)
        self.single = single

    @property
    def sample_bytes(self) -> int:
        """Size of one sample over all tensors (bytes)."""
        return sum(tensor.element_size() * (tensor.numel() // max(1, len(tensor))) for tensor in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> Any:
        return self._shape(tuple(tensor[index] for tensor in self.tensors))

    def _shape(self, rows: tuple[torch.Tensor, ...]) -> Any:
        return rows[0] if self.single else rows


class ArrayDataset(RowDataset):
    """Rows of tensors, fetched a whole batch at a time; takes what ``RowDataset`` takes.

    torch asks a dataset with ``__getitems__`` once per batch. One index operation per tensor then replaces a Python
    call per sample and the stacking of thousands of small tensors.
    """

    whole_batches = True
    draws_random_numbers = False

    def __getitems__(self, indices: Any) -> Any:
        chosen = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        return self._shape(tuple([_rows(tensor, chosen) for tensor in self.tensors]))


def _rows(tensor: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return tensor.index_select(0, chosen.to(tensor.device) if tensor.device.type != "cpu" else chosen)


class TensorDataModuleMixin(FastDataModuleMixin):
    """A DataModule for arrays that fit into memory.

    ::

        TensorDataModule(train=(X, y), val=(X_val, y_val), batch_size=256)

    Batches are cut out of the arrays in one operation each, without worker processes.

    Args:
        train: A tensor or NumPy array, or a tuple of them with equal first dimensions. A tuple gives tuples as
            batches, a bare array gives bare tensors.
        val: The same for validation; or use ``val_split``.
        test: The same for testing.
        predict: The same for prediction.
        **kwargs: Arguments of ``FastDataModule``: ``batch_size``, ``val_split``, ``seed``, ... With a ``collate_fn``
            samples are fetched one by one and handed to it as a list.

    Raises:
        FastDataError: Lengths that differ, no rows, or something that is no array.
    """

    def __init__(
        self, train: Arrays = None, val: Arrays = None, test: Arrays = None, predict: Arrays = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        sources = {"train": train, "val": val, "test": test, "predict": predict}
        for split, arrays in sources.items():
            if arrays is not None:
                setattr(self, f"{split}_dataset", self._dataset(split, as_plain(arrays)))

    def _dataset(self, split: str, arrays: Arrays) -> Dataset[Any]:
        single = not isinstance(arrays, (tuple, list))
        tensors = [_tensor(split, array) for array in ([arrays] if single else arrays)]
        lengths = sorted({len(tensor) for tensor in tensors})
        if len(lengths) != 1 or lengths[0] == 0:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise FastDataError(
                f"TensorDataModule {split}: {f'arrays of shapes {shapes}' if tensors else 'no arrays'}.",
                expected="first dimensions that are equal and not 0: one row per sample.",
                fix="cut the arrays to the same samples.",
            )
        whole_batches = all(
            super(TensorDataModuleMixin, self)._kwargs_for(part).get("collate_fn") is None for part in SPLITS
        )
        return (ArrayDataset if whole_batches else RowDataset)(tensors, single=single)


def _tensor(split: str, array: object) -> torch.Tensor:
    if isinstance(array, torch.Tensor) and array.ndim > 0:
        return array
    if isinstance(array, np.ndarray) and array.ndim > 0 and array.dtype.kind in "biufc":
        # A read-only array (a memory map, a frozen view) cannot be shared with torch without a warning: copy it.
        # The same for the byte order of another machine and for reversed views.
        shareable = array.flags.writeable and array.dtype.isnative and min(array.strides) >= 0
        try:
            return torch.from_numpy(array if shareable else array.astype(array.dtype.newbyteorder("="), order="C"))
        except TypeError:
            pass  # a width that torch does not know, such as float128
    described = f"an array of dtype {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
    raise FastDataError(
        f"TensorDataModule {split}: {described}.",
        expected="torch tensors or numeric NumPy arrays with one row per sample.",
        fix="convert it first, for example with torch.as_tensor(...).",
    )
