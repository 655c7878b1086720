"""Rows of tensors as datasets: one by one, or a batch at a time and then, on request, out of a device's memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["ArrayDataset", "RowDataset"]


class RowDataset(Dataset[Any]):
    """Rows of tensors, fetched one by one.

    Args:
        tensors: One or more tensors; the first dimension, the same for all, counts the samples.
        single: True to give bare rows instead of tuples with one element.
    """

    in_memory = True
    uses_global_rng = False

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

    batched_fetch = True
    uses_global_rng = False

    resident: tuple[torch.Tensor, ...] | None = None
    """The tensors once more, on a device; batches are then cut out of these."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "resident": None}  # another process has its own device

    @property
    def array_bytes(self) -> int:
        """Size of all tensors (bytes)."""
        return sum(tensor.element_size() * tensor.numel() for tensor in self.tensors)

    def is_on(self, device: torch.device) -> bool:
        """Whether batches come from a copy on that device."""
        return self.resident is not None and all(tensor.device == device for tensor in self.resident)

    def move_to(self, device: torch.device) -> None:
        """Copy the tensors to a device, unless they are there. Batches come from it until ``move_back``."""
        if not self.is_on(device):
            self.resident = None  # before the copy, which may need its place
            self.resident = tuple(tensor.to(device) for tensor in self.tensors)

    def move_back(self) -> None:
        """Give the device's memory back."""
        self.resident = None

    def __getitems__(self, indices: Any) -> Any:
        chosen = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        tensors = self.tensors if self.resident is None else self.resident
        return self._shape(tuple([_rows(tensor, chosen) for tensor in tensors]))


def _rows(tensor: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return tensor.index_select(0, chosen.to(tensor.device) if tensor.device.type != "cpu" else chosen)
