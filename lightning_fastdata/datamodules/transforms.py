"""Transforms of whole batches, in which each sample has random numbers of its own.

They are for ``train_transform`` and ``eval_transform`` of ``TensorDataModule``, where a function of your own will do
as well: ``f(batch, random)`` gets the batch and a ``SampleRandom``, and gives the batch back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from lightning_fastdata.errors import FastDataError, check_share
from lightning_fastdata.loaders.sample_rng import SampleRandom

__all__ = ["BatchTransform", "RandomCrop", "RandomHorizontalFlip", "SampleRandom", "ToFloat", "of_inputs"]

BatchTransform = Callable[[Any, SampleRandom], Any]
"""Takes a batch and the random numbers of its samples, gives the batch back."""


def of_inputs(change: Callable[[torch.Tensor], torch.Tensor], batch: Any) -> Any:
    """Change the inputs of a batch: the batch itself where it is a tensor, else its first part.

    Args:
        change: What to do with them.
        batch: A tensor, or a tuple or list that begins with one.

    Returns:
        The batch, of the same type, with the inputs changed and all else as it was.

    Raises:
        FastDataError: The batch does not begin with a tensor.
    """
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], torch.Tensor):
        return type(batch)((change(batch[0]), *batch[1:]))
    raise FastDataError(
        f"a batch of type {type(batch).__name__} for a ready-made batch transform.",
        expected="a tensor, or a tuple or list whose first part is one.",
        fix="write a function f(batch, random) that calls it with the tensor it is meant for.",
    )


class RandomCrop:
    """Cut a square out of each image at a place of its own, out of an image with a border of zeros.

    torchvision's ``RandomCrop(size, padding)`` for a whole batch.

    Args:
        size: Height and width of what is cut out (pixels).
        padding: Width of the border (pixels).
    """

    uses_global_rng = False  # but from what it is given

    def __init__(self, size: int, padding: int = 0) -> None:
        self.size, self.padding = size, padding

    def __repr__(self) -> str:
        return f"RandomCrop({self.size}, padding={self.padding})"

    def __call__(self, batch: Any, random: SampleRandom) -> Any:
        """Crop the inputs, any dtype, shape (batch, ..., height, width)."""
        return of_inputs(lambda images: self._crop(images, random), batch)

    def _crop(self, images: torch.Tensor, random: SampleRandom) -> torch.Tensor:
        _check_images(self, images)
        padded = functional.pad(images, (self.padding,) * 4) if self.padding else images.contiguous()
        height, width = padded.shape[-2:]
        if self.size > min(height, width):
            raise FastDataError(
                f"{self!r} of images of {images.shape[-2]} x {images.shape[-1]} pixels.",
                expected=f"a size of at most {min(height, width)}, the smaller side with its border.",
                fix="lower size, or raise padding.",
            )
        top = random.integers(0, height - self.size + 1)
        left = random.integers(0, width - self.size + 1)
        # All runs of `size` pixels, wherever they begin, are the rows of an overlapping view: one gather takes them.
        runs = padded.view(-1).unfold(0, self.size, 1)
        between = (1,) * (padded.ndim - 3)
        rows = torch.arange(self.size, device=images.device) + top.view(-1, *between, 1)
        planes = torch.arange(padded[..., 0, 0].numel(), device=images.device).view(*padded.shape[:-2], 1)
        starts = (planes * height + rows) * width + left.view(-1, *between, 1)
        return runs.index_select(0, starts.reshape(-1)).view(*padded.shape[:-2], self.size, self.size)


class RandomHorizontalFlip:
    """Mirror some of the images, left to right.

    Args:
        p: Share of them, in [0, 1].
    """

    uses_global_rng = False

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_share("RandomHorizontalFlip: p", p, fix="pass p=0.5.")

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip(p={self.p})"

    def __call__(self, batch: Any, random: SampleRandom) -> Any:
        """Flip the inputs, any dtype, shape (batch, ..., width)."""
        return of_inputs(lambda images: self._flip(images, random), batch)

    def _flip(self, images: torch.Tensor, random: SampleRandom) -> torch.Tensor:
        _check_images(self, images)
        # One gather out of both kinds takes half the time of writing the flipped ones over a copy.
        places = torch.arange(len(images), device=images.device) + len(images) * (random.uniform() < self.p)
        return torch.cat([images, images.flip(-1)]).index_select(0, places)


class ToFloat:
    """From bytes to float32 numbers in [0, 1], normalized where mean and standard deviation are given.

    It computes ``x * (1 / (255 * std)) - mean / std``, which differs from torchvision's ``((x / 255) - mean) / std`` by
    rounding only.

    Args:
        mean: Mean of each channel, for numbers in [0, 1].
        std: Standard deviation of each channel.
    """

    uses_global_rng = False

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        self.mean, self.std = mean, std
        if (mean is None) != (std is None) or (mean is not None and std is not None and len(mean) != len(std)):
            raise FastDataError(
                f"ToFloat(mean={mean!r}, std={std!r}).",
                expected="both, with one number a channel each, or neither.",
                fix="pass both, for example ToFloat((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).",
            )
        if std is not None and min(std) <= 0:
            raise FastDataError(f"ToFloat(std={std!r}).", expected="numbers above 0.", fix="pass the channels' spread.")

    def __repr__(self) -> str:
        return f"ToFloat(mean={self.mean}, std={self.std})"

    def __call__(self, batch: Any, random: SampleRandom) -> Any:
        """Convert the inputs, uint8, shape (batch, channels, ...)."""
        return of_inputs(self._convert, batch)

    def _convert(self, images: torch.Tensor) -> torch.Tensor:
        if images.dtype != torch.uint8:
            raise FastDataError(
                f"{self!r} of {images.dtype}.", expected="uint8, with values up to 255.", fix="leave it out."
            )
        numbers = images.to(torch.float32)
        if self.mean is None or self.std is None:
            return numbers.mul_(1 / 255)
        if images.ndim < 2 or images.shape[1] != len(self.mean):
            raise FastDataError(
                f"{self!r} of a batch of shape {tuple(images.shape)}.",
                expected=f"{len(self.mean)} channels in the second dimension.",
                fix="pass one number for each channel.",
            )
        shape = (-1, *(1,) * (images.ndim - 2))
        mean, std = (torch.tensor(values, dtype=torch.float64).view(shape) for values in (self.mean, self.std))
        scale, shift = (1 / (255 * std)).to(numbers), (-mean / std).to(numbers)
        return numbers.mul_(scale).add_(shift)


def _check_images(transform: object, images: torch.Tensor) -> None:
    if images.ndim < 3:
        raise FastDataError(
            f"{transform!r} of a batch of shape {tuple(images.shape)}.",
            expected="images: (batch, height, width) or (batch, channels, height, width).",
            fix="reshape the array before it is given to the DataModule.",
        )
