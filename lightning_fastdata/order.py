"""Which sample when: pure arithmetic on integers, NumPy only, no random state of torch is touched."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lightning_fastdata.errors import FastDataError

__all__ = ["epoch_order", "loader_seed", "split_indices"]

Indices = npt.NDArray[np.int64]


def epoch_order(seed: int, epoch: int, length: int) -> Indices:
    """The shuffled order of one epoch.

    Args:
        seed: The run's seed, >= 0.
        epoch: Epoch number, from 0.
        length: Samples in the dataset (count).

    Returns:
        A permutation of ``0 .. length-1``, int64, shape (length,): the same for the same three numbers, whatever
        the workers, and different from epoch to epoch.
    """
    return np.random.default_rng((seed, epoch)).permutation(length)


def loader_seed(seed: int, epoch: int, rank: int) -> int:
    """Seed for the generator from which torch draws its workers' seeds.

    Args:
        seed: The run's seed, >= 0.
        epoch: Epoch in which the loader is made.
        rank: Global rank; ranks must not draw the same augmentations.

    Returns:
        An integer in [0, 2**63), well mixed.
    """
    words = np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


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
    order = np.random.default_rng(split_seed).permutation(length)
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
