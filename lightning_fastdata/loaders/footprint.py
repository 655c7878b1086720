"""What the batches of a loader take, as far as its datasets say: nothing is loaded to find out.

Loading a sample in the training process could open a file handle that a forked worker must not inherit.
"""

from collections.abc import Sequence
from typing import Any

from torch import multiprocessing

from lightning_fastdata.loaders.dataset_traits import traits_of
from lightning_fastdata.planning.options import Pool

__all__ = ["files_per_batch", "pool_of"]


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
