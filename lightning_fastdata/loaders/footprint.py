"""What the batches of a loader take, as far as its datasets say, or as one batch shows that a child process loaded.

Loading a sample in the training process could open a file handle that a forked worker must not inherit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import multiprocessing

from lightning_fastdata.loaders.dataset_traits import traits_of
from lightning_fastdata.planning.options import Pool

__all__ = ["files_per_batch", "pool_of", "sizes_of"]


def files_per_batch() -> int | None:
    """Tensors of a batch that hold a file open on their way: none under torch's ``file_system``, else not known."""
    strategy = multiprocessing.get_sharing_strategy()  # type: ignore[no-untyped-call]
    return 0 if strategy == "file_system" else None


def pool_of(
    datasets: Sequence[Any],
    *,
    num_workers: int,
    prefetch_factor: Any,
    batch_size: int | None,
    ranks: int,
    alive_together: bool,
) -> Pool:
    """The workers of a split whose loaders are not made yet.

    Args:
        datasets: The split's datasets, one for each of its loaders.
        num_workers: Worker processes of each loader (count).
        prefetch_factor: Batches ahead (count), None for torch's default, or "auto".
        batch_size: Samples per batch (count); None = not known.
        ranks: Among which the samples are dealt (count).
        alive_together: Whether the loaders of the split are read together, as in training, else one after another.

    Returns:
        What they will take at least.
    """
    traits = [traits_of(dataset) for dataset in datasets]
    sizes = [size for one in traits if (size := one.batch_bytes(batch_size)) is not None]
    lengths = [one.length for one in traits if one.length is not None]
    at_once = len(datasets) if alive_together else 1
    all_known = lengths and len(lengths) == len(datasets)
    batches = at_once * (min(lengths) // ranks // batch_size) if batch_size and all_known else None
    return Pool(
        num_workers * at_once,
        1 if prefetch_factor == "auto" else prefetch_factor or 2,  # one left open may be lowered to 1
        batch_bytes=min(sizes) if sizes and len(sizes) == len(datasets) else None,
        tensors_per_batch=files_per_batch(),
        batch_size=batch_size,
        batches=batches,
    )


def sizes_of(batch: Any, depth: int = 5) -> tuple[int, int]:
    """How large a batch is.

    Args:
        batch: Tensors and arrays in any nesting of mappings, sequences and objects with attributes.
        depth: How deep that is looked for.

    Returns:
        Bytes, and tensors (count). What is neither tensor nor array counts nothing.
    """
    if isinstance(batch, torch.Tensor):
        return batch.element_size() * batch.numel(), 1
    if isinstance(batch, np.ndarray):
        return batch.nbytes, 0
    if isinstance(batch, (bytes, bytearray)):
        return len(batch), 0
    if isinstance(batch, Mapping):
        parts: Any = batch.values()
    elif isinstance(batch, (list, tuple)):
        parts = batch
    else:
        parts = () if isinstance(batch, type) else getattr(batch, "__dict__", {}).values()
    sizes = [sizes_of(part, depth - 1) for part in parts] if depth else []
    return sum(size for size, _ in sizes), sum(count for _, count in sizes)
