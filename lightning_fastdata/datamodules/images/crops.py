"""Which part of an image is looked at, and how large: torchvision's geometry with generators of our own."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from lightning_fastdata.loaders.splitmix import GOLDEN, mix

__all__ = ["Box", "CenterCrop", "RandomCrop", "SampleRng", "resized"]

TRIES = 10
"""How often torchvision's RandomResizedCrop draws a box before it takes the middle."""


class Box(NamedTuple):
    """A part of an image."""

    top: int
    """First row (pixels)."""
    left: int
    """First column (pixels)."""
    height: int
    """Rows (pixels)."""
    width: int
    """Columns (pixels)."""


class SampleRng:
    """Random numbers of one sample: SplitMix64, whose k-th word is ``order.mix(seed + k * GOLDEN)``.

    A generator of NumPy's or torch's takes ten times as long to make as a crop takes to draw.

    Args:
        seed: The sample's seed, 64 bits.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed

    def uniform(self) -> float:
        """A number in [0, 1), a multiple of 2**-53."""
        word = mix(self._state)
        self._state += GOLDEN
        return (word >> 11) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.uniform()

    def below(self, count: int) -> int:
        """A whole number in [0, count)."""
        return int(self.uniform() * count)


@dataclass(frozen=True)
class RandomCrop:
    """``RandomResizedCrop(size, scale, ratio)`` and ``RandomHorizontalFlip(flip)`` of torchvision, in distribution."""

    size: int
    """Height and width of the result (pixels)."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Least and largest share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width by height of the box, before it is resized."""
    flip: float = 0.5
    """Probability of a mirror image."""

    def draw(self, height: int, width: int, draws: SampleRng) -> Box:
        """A box of an image, as torchvision's ``RandomResizedCrop.make_params`` draws it.

        Args:
            height: Rows of the image (pixels).
            width: Its columns (pixels).
            draws: The sample's random numbers.
        """
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(TRIES):
            area = height * width * draws.between(*self.scale)
            aspect = math.exp(draws.between(low, high))
            box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < box_width <= width and 0 < box_height <= height:
                top = draws.below(height - box_height + 1)
                return Box(top, draws.below(width - box_width + 1), box_height, box_width)
        return self._middle(height, width)

    def _middle(self, height: int, width: int) -> Box:
        box_height, box_width = height, width
        if width / height < self.ratio[0]:
            box_height = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            box_width = round(height * self.ratio[1])
        return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


@dataclass(frozen=True)
class CenterCrop:
    """``Resize(resize)`` and ``CenterCrop(size)`` of torchvision."""

    size: int
    """Height and width of the result (pixels), at most ``resize``."""
    resize: int
    """Short side before the crop (pixels)."""


def resized(height: int, width: int, short: int) -> tuple[int, int]:
    """Height and width of an image whose short side becomes ``short``, rounded as torchvision's Resize does (pixels).

    Args:
        height: Rows of the image (pixels).
        width: Its columns (pixels).
        short: The short side afterwards (pixels).
    """
    if width <= height:
        return int(short * height / width), short
    return short, int(short * width / height)
