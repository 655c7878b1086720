"""Which sample when, and with which random numbers: arithmetic on integers, NumPy only, no random state is touched.

Everything here is a promise: the same numbers have the same result on every platform, Python and NumPy version, so
that a run can be resumed under a newer release of any of them. Tests pin values.
"""

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.splitmix import Words, mix, mix_all

__all__ = [
    "Indices",
    "derive_seed",
    "epoch_order",
    "loader_seed",
    "padding",
    "rank_share",
    "sample_seed",
    "sample_seeds",
    "split_indices",
    "stream",
]

Indices = npt.NDArray[np.int64]
ORDER, RANK, BATCH = (1 << 63) + 1, (1 << 63) + 2, (1 << 63) + 3
"""Tags that keep random numbers of different use apart, although they come from the same seed: no index, and no count
of occurrences, is as large."""


def stream(seed: int, epoch: int, cycle: int = 0) -> int:
    """The start of an epoch's random numbers: ``mix(mix(mix(seed) + epoch) + cycle)``.

    Args:
        seed: The run's seed, >= 0.
        epoch: Epoch number, from 0.
        cycle: How often the loader has restarted within the epoch (count): 0, unless a shorter loader starts again
            while a longer one beside it is still read.

    Returns:
        An integer in [0, 2**64).
    """
    return mix(mix(mix(seed) + epoch) + cycle)


def derive_seed(seed: int, name: str | None) -> int:
    """The seed of one of several loaders: without it, datasets of equal length would be paired alike in every epoch.

    Args:
        seed: The run's seed, >= 0.
        name: The loader's name among several; None = the only one.

    Returns:
        ``seed`` for None, else ``mix(mix(seed) + the name's 64-bit BLAKE2b digest)``.
    """
    if name is None:
        return seed
    return mix(mix(seed) + int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little"))


def sample_seed(start: int, index: int, occurrence: int = 0) -> int:
    """The seed of one sample's random numbers: ``mix(start + index)``.

    Args:
        start: ``stream(seed, epoch)``.
        index: Which sample of the dataset.
        occurrence: How often the epoch has drawn it before, 0 without replacement; k > 0 makes it
            ``mix(mix(start + index) + k)``, so that repeated samples are augmented differently.

    Returns:
        An integer in [0, 2**64).
    """
    word = mix(start + index)
    return mix(word + occurrence) if occurrence else word


def sample_seeds(start: int, indices: Indices, occurrences: Indices | None = None) -> Words:
    """``sample_seed`` of each sample of a batch.

    Args:
        start: ``stream(seed, epoch)``.
        indices: Which samples, int64, shape (batch,).
        occurrences: How often the epoch has drawn each before, int64, shape (batch,); None = not once.

    Returns:
        uint64, shape (batch,).
    """
    words = mix_all(indices.astype(np.uint64) + np.uint64(start))
    if occurrences is None:
        return words
    return np.where(occurrences > 0, mix_all(words + occurrences.astype(np.uint64)), words)


def epoch_order(seed: int, epoch: int, length: int, cycle: int = 0) -> Indices:
    """The shuffled order of one epoch.

    NumPy's ``RandomState`` shuffles: its stream is frozen for good, which that of ``default_rng`` is not.

    Args:
        seed: The run's seed, >= 0.
        epoch: Epoch number, from 0.
        length: Samples in the dataset (count).
        cycle: See ``stream``.

    Returns:
        A permutation of ``0 .. length-1``, int64, shape (length,): the same for the same numbers, whatever the
        workers and ranks, and different from epoch to epoch.
    """
    return _generator(mix(stream(seed, epoch, cycle) + ORDER)).permutation(length).astype(np.int64, copy=False)


def rank_share(
    order: Indices, rank: int, ranks: int, batch_size: int, *, drop_last: bool = False, repeats: bool = True
) -> Indices:
    """One rank's part of an epoch: its share of every global batch.

    The k-th batches of all ranks together are the k-th batch of one process with the batch size
    ``ranks * batch_size``. The last, smaller global batch is dealt out likewise, filled up to a multiple of the ranks
    with the first samples of the order, at most one a rank: what a step gathers over the ranks must have one shape.

    Args:
        order: Order of the epoch, shape (length,).
        rank: Which rank, from 0.
        ranks: Ranks that share the data (count).
        batch_size: Samples per batch and rank (count).
        drop_last: Leave out the last global batch when it is incomplete.
        repeats: Whether the last global batch is filled up; without, some ranks have one sample less.

    Returns:
        Indices in the order in which the rank draws them, int64.
    """
    if drop_last:
        return order[: len(order) - len(order) % (ranks * batch_size)][rank::ranks]
    return np.resize(order, len(order) + (padding(len(order), ranks) if repeats else 0))[rank::ranks]


def padding(length: int, ranks: int) -> int:
    """Samples that are repeated so that each rank gets equally many (count, over all ranks)."""
    return -length % ranks


def loader_seed(seed: int, epoch: int, rank: int) -> int:
    """Seed for the generator from which torch draws its workers' seeds.

    Args:
        seed: The run's seed, >= 0.
        epoch: Epoch in which the loader is made.
        rank: Global rank; ranks must not draw the same augmentations.

    Returns:
        An integer in [0, 2**63), well mixed.
    """
    return mix(mix(stream(seed, epoch) + RANK) + rank) >> 1


def _generator(word: int) -> np.random.RandomState:
    return np.random.RandomState([word & 0xFFFFFFFF, word >> 32])


def split_indices(length: int, shares: Mapping[str, float | int], split_seed: int) -> dict[str, Indices]:
    """Cut one dataset into training and held-out parts.

    Args:
        length: Samples in the whole dataset (count).
        shares: For each held-out part, a share in (0, 1) as a float or a number of samples as an int; 0 leaves the
            part out.
        split_seed: Decides, alone, which sample goes where: the same on every rank and in every run.

    Returns:
        Sorted indices by part: each of ``shares`` that is not 0, and ``"train"`` with what is left.

    Raises:
        FastDataError: A part, or the rest for training, would be empty.
    """
    counts = {name: _count(name, share, length) for name, share in shares.items() if share}
    if sum(counts.values()) >= length:
        raise FastDataError(
            f"{', '.join(f'{name}_split={shares[name]!r}' for name in counts)} of {length} samples leaves nothing "
            "to train on.",
            expected="held-out parts that are smaller than the dataset.",
            fix="lower the splits.",
        )
    order = _generator(mix(split_seed)).permutation(length)
    parts: dict[str, Indices] = {}
    start = 0
    for name, count in counts.items():
        parts[name] = np.sort(order[start : start + count])
        start += count
    parts["train"] = np.sort(order[start:])
    return parts


def _count(name: str, share: float | int, length: int) -> int:
    count = share if isinstance(share, int) else round(share * length)
    if count == 0:
        raise FastDataError(
            f"{name}_split={share!r} of {length} samples is 0 samples.",
            expected="at least one sample.",
            fix=f"raise {name}_split, or pass a whole number of samples.",
        )
    return count
