"""A picture of some samples, for a look at what the model gets."""

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torchvision.transforms import v2

__all__ = ["image_grid"]

TILE_PX, MARGIN_PX, CAPTION_PX = 160, 4, 20


def image_grid(
    samples: list[tuple[torch.Tensor, int]],
    classes: list[str],
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Image.Image:
    """A grid of images with their class names.

    Args:
        samples: Pairs of an image, float or uint8, (channels, height, width), and its label.
        classes: Name by label.
        statistics: Mean and standard deviation per channel to undo; None stretches each image to its own range, so
            that any normalization shows.

    Returns:
        The picture.
    """
    tiles = [_tile(image, classes[label], statistics) for image, label in samples]
    columns = math.ceil(math.sqrt(len(tiles)))
    width, height = tiles[0].width, max(tile.height for tile in tiles)
    sheet = Image.new("RGB", (columns * width, math.ceil(len(tiles) / columns) * height), "white")
    for position, tile in enumerate(tiles):
        sheet.paste(tile, (position % columns * width, position // columns * height))
    return sheet


def _tile(image: torch.Tensor, caption: str, statistics: tuple[Sequence[float], Sequence[float]] | None) -> Image.Image:
    # A transform of the user's may end in an array or a PIL image.
    pixels = (image if isinstance(image, torch.Tensor) else v2.functional.to_image(image)).float()
    if statistics is None:
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / (high - low).clamp_min(1e-6)
    else:
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in statistics)
        pixels = (pixels * std + mean).clamp(0, 1)
    shown = v2.functional.to_pil_image((pixels * 255).byte()).convert("RGB")
    shown = shown.resize((TILE_PX, TILE_PX * shown.height // shown.width))
    tile = Image.new("RGB", (TILE_PX + 2 * MARGIN_PX, shown.height + MARGIN_PX + CAPTION_PX), "white")
    tile.paste(shown, (MARGIN_PX, MARGIN_PX))
    ImageDraw.Draw(tile).text((MARGIN_PX + 1, shown.height + MARGIN_PX + 3), caption[:24], fill="black")
    return tile
