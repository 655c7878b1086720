"""Random numbers for a whole batch at once, of which each sample has its own."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from lightning_fastdata.loaders.splitmix import GOLDEN, Words, mix_all

__all__ = ["SampleRandom"]


class SampleRandom:
    """Random numbers of the samples of a batch: row i is sample i's own, whatever else is in the batch.

    A sample's numbers are those of SplitMix64 (Steele, Lea and Flood 2014) started at its seed, which follows from
    (seed, epoch, index): the n-th is ``mix(seed of the sample + n * 0x9E3779B97F4A7C15)``, n from 0. They are made of
    whole numbers and of exact floating-point operations, so they are the same on every machine and device.

    Each call goes on where the one before ended. Call it equally often, with equal sizes, for every batch; else
    samples get other numbers in another batch.

    Args:
        seeds: Seeds of the samples, uint64, shape (batch,).
        device: Where the numbers are wanted.
    """

    def __init__(self, seeds: Words, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._seeds = seeds
        self._drawn = 0

    def __len__(self) -> int:
        return len(self._seeds)

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Sequence[int] | int = ()) -> torch.Tensor:
        """Numbers spread evenly over [low, high).

        Args:
            low: Least number.
            high: Bound above. Rounding may reach it where ``low`` is not 0.
            size: Shape of what each sample gets; () = one number.

        Returns:
            float32, shape (batch,) and ``size``; multiples of ``(high - low) / 2**24``, above ``low``.
        """
        shares = (self._words(size) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        return self._tensor(np.float32(low) + np.float32(high - low) * shares)

    def integers(self, low: int, high: int, size: Sequence[int] | int = ()) -> torch.Tensor:
        """Whole numbers spread evenly over [low, high).

        Args:
            low: Least number.
            high: Bound above, itself never drawn; at most 2**32 above ``low``. Some numbers come more often than
                others, by a share of at most ``(high - low) / 2**32``.
            size: Shape of what each sample gets; () = one number.

        Returns:
            int64, shape (batch,) and ``size``.

        Raises:
            ValueError: The range is empty, or larger than 2**32.
        """
        if not 0 < high - low <= 2**32:
            raise ValueError(f"integers from {low} up to {high}, itself left out: there must be 1 to 2**32 of them.")
        chosen = (self._words(size) >> np.uint64(32)) * np.uint64(high - low) >> np.uint64(32)
        return self._tensor(chosen.astype(np.int64) + low)

    def _words(self, size: Sequence[int] | int) -> Words:
        """64 random bits for each number, shape (batch, *size)."""
        shape = (size,) if isinstance(size, int) else tuple(size)
        count = int(np.prod(shape, dtype=np.int64))
        steps = np.arange(self._drawn, self._drawn + count, dtype=np.uint64) * np.uint64(GOLDEN)
        self._drawn += count
        return mix_all(self._seeds[:, None] + steps).reshape(len(self._seeds), *shape)

    def _tensor(self, numbers: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self.device)
