"""From the uint8 pixels of a loader to what the model gets, on the device: cast, normalize, follow the precision."""

from typing import Any, NamedTuple

import torch

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Normalizer", "PixelBatch", "is_lightnings"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per-channel mean and standard deviation of ImageNet, which torchvision's pretrained models expect."""
LIGHTNING = ("lightning", "pytorch_lightning")


class PixelBatch(NamedTuple):
    """A batch on its way to the device, a quarter of its size as floats; it unpacks like the one that the model gets.

    The type says that its images are still to be normalized, wherever the batch comes from.
    """

    images: torch.Tensor
    """uint8, shape (batch, 3, height, width), in channels_last memory."""
    labels: torch.Tensor
    """Class numbers, int64, shape (batch,)."""


class Normalizer:
    """Makes of uint8 images what torchvision's ``ToDtype(float32, scale=True)`` and ``Normalize`` make, bit for bit.

    The mean and the standard deviation of each channel are ImageNet's.
    """

    def __init__(self) -> None:
        self._on: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_on": {}}

    def __call__(self, images: torch.Tensor, memory_format: Any = torch.contiguous_format) -> torch.Tensor:
        """Cast and normalize images where they are.

        Args:
            images: uint8, shape (batch, 3, height, width) or (3, height, width).
            memory_format: Of the result.

        Returns:
            float32, of the same shape.
        """
        mean, std = self._statistics(images.device)
        floats = images.to(torch.float32, memory_format=memory_format)
        return floats.mul_(1.0 / 255).sub_(mean).div_(std)

    def of_batch(self, batch: Any, trainer: Any) -> Any:
        """Normalize what is still uint8 in a batch, as the Trainer's precision and the model want it.

        Args:
            batch: Any batch; a ``PixelBatch`` may stand anywhere in its lists, tuples and dicts.
            trainer: The Trainer that the batch is for.

        Returns:
            The batch, a ``PixelBatch`` as a list of images and labels, as torch collates two tensors.
        """
        if isinstance(batch, PixelBatch):
            images = self(batch.images, _memory_format(trainer.lightning_module))
            # The plugin converts batches before they go to the device, where these were not floats yet.
            return [trainer.precision_plugin.convert_input(images), batch.labels]
        if type(batch) in (list, tuple):
            return type(batch)(self.of_batch(member, trainer) for member in batch)
        if type(batch) is dict:
            return {key: self.of_batch(member, trainer) for key, member in batch.items()}
        return batch

    def _statistics(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation on a device: copied there once, not with every batch."""
        if device not in self._on:
            mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
            self._on[device] = mean, std
        return self._on[device]


def _memory_format(model: Any) -> Any:
    """channels_last for a model whose convolutions are, else contiguous, as images always came."""
    for weight in model.parameters():
        if weight.ndim == 4 and weight.shape[1] > 1 and weight.shape[2] * weight.shape[3] > 1:
            last = weight.is_contiguous(memory_format=torch.channels_last)
            return torch.channels_last if last else torch.contiguous_format
    return torch.contiguous_format


def is_lightnings(owner: Any, hook: str) -> bool:
    """Whether a hook is Lightning's own, not overridden by a user.

    Args:
        owner: A LightningModule or LightningDataModule.
        hook: Name of the hook.
    """
    if hook in vars(owner):
        return False
    return getattr(getattr(type(owner), hook, None), "__module__", "").partition(".")[0] in LIGHTNING
