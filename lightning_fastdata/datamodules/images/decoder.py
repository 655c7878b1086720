"""Bytes of an image -> a uint8 crop at the size the model wants, written straight into the batch.

Baseline and progressive JPEGs in YCbCr or RGB are decoded by simplejpeg, which lets go of the GIL; at full size its
pixels are Pillow's, byte for byte. Everything else (PNG, WebP, CMYK, grayscale, damaged files, ...) is Pillow's affair,
as in torchvision's ``pil_loader``; as there, an EXIF orientation is not applied.

Where the bytes come from, and how to put a cache there: ``sources``.
"""

import io
import math
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from lightning_fastdata.compat.torch_internals import resize_into
from lightning_fastdata.datamodules.images.crops import Box, CenterCrop, RandomCrop, SampleRng, resized
from lightning_fastdata.datamodules.images.sources import Kind, Pixels, raw_pixels

try:
    import simplejpeg
except ImportError:  # no wheel for this platform: Pillow decodes everything, at full size
    simplejpeg = None

__all__ = ["CropDecoder", "Loaded", "by_pillow", "dct_factor", "decode_shrunk", "jpeg_size", "open_rgb"]

FACTORS = (8, 4, 2)
"""What libjpeg-turbo shrinks by while it decodes, and has fast kernels for."""
GAP = 2
"""How many times the wanted pixels must be left after shrinking, in each direction. Pillow's ``thumbnail`` takes the
same (``reducing_gap=2.0``); benchmarks/image_folder.py has the difference in gray levels and in time for 1, 2 and 3."""


def jpeg_size(data: Any) -> tuple[int, int] | None:
    """Height and width of a JPEG that simplejpeg decodes as Pillow would (pixels), without decoding.

    Args:
        data: The file's bytes.

    Returns:
        None where Pillow has to do it, or has to say what is wrong.
    """
    if simplejpeg is None:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    # Pillow warns about images that large, or refuses them.
    if space not in ("YCbCr", "RGB") or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
        return None
    return height, width


def open_rgb(data: Any) -> Image.Image:
    """An image as torchvision's ``pil_loader`` gives it: a PIL image, RGB.

    Args:
        data: The file's bytes.

    Raises:
        Exception: Whatever Pillow raises for bytes that it cannot decode.
    """
    if (size := jpeg_size(data)) is not None:
        with suppress(ValueError):  # Pillow may be more lenient; if not, the error is its own
            return Image.fromarray(decode_shrunk(data, *size, 1))
    return by_pillow(data)


def by_pillow(data: Any) -> Image.Image:
    """An image that ``jpeg_size`` does not know, or that is damaged: a PIL image, RGB; the arguments are the same."""
    with Image.open(io.BytesIO(data)) as file:
        if file.mode.startswith("I;16"):  # Pillow would clip: all white. The upper byte, as it takes of 16-bit colors
            upper = np.right_shift(np.asarray(file), 8).astype(np.uint8)
            return Image.fromarray(upper).convert("RGB")
        # Straight to RGB, Pillow would warn about a palette with transparent colors.
        see_through = file.mode == "P" and "transparency" in file.info
        image: Image.Image = (file.convert("RGBA") if see_through else file).convert("RGB")
        return image


def decode_shrunk(data: Any, height: int, width: int, factor: int, buffer: Pixels | None = None) -> Pixels:
    """The pixels of a JPEG that ``jpeg_size`` knows, shrunk while it is decoded.

    Args:
        data: The file's bytes.
        height: Its rows (pixels).
        width: Its columns (pixels).
        factor: By how much: 1, 2, 4 or 8.
        buffer: Memory to write to; None = fresh memory.

    Returns:
        RGB, uint8, shape (rows, columns, 3).

    Raises:
        ValueError: It is damaged; Pillow may be more lenient.
    """
    rows, columns = -(-height // factor), -(-width // factor)
    least = {"min_height": rows, "min_width": columns, "min_factor": factor} if factor > 1 else {}
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer, **least)
    return pixels


def dct_factor(height: int, width: int, target_px: int) -> int:
    """By how much to shrink while decoding, so that a part keeps ``GAP`` times the pixels that are wanted of it.

    Only powers of two: others are slower than a full decode.

    Args:
        height: Rows of the part (pixels).
        width: Its columns (pixels).
        target_px: Rows and columns that it is resized to (pixels).

    Returns:
        1, 2, 4 or 8.
    """
    return next((factor for factor in FACTORS if min(height, width) >= factor * GAP * target_px), 1)


class Loaded(NamedTuple):
    """An image in memory, of which a crop is wanted."""

    pixels: Pixels
    """RGB, uint8, shape (height, width, 3), shrunk by ``factor``."""
    size: tuple[int, int]
    """Height and width in full (pixels)."""
    box: Box
    """The part that is wanted, in pixels of the full size."""
    factor: int
    """By how much the image was shrunk while it was decoded: 1, 2, 4 or 8."""
    flips: bool
    """Whether its mirror image is wanted."""


class CropDecoder:
    """Decodes images into crops, with memory that it uses again for each image; one for each thread.

    Args:
        crop: What is wanted of each image.
        kind: What the bytes are; see ``sources``.
    """

    def __init__(self, crop: RandomCrop | CenterCrop, kind: Kind = "original") -> None:
        self.crop = crop
        self.kind: Kind = kind
        self._decoded = np.empty(0, np.uint8)
        self._part = np.empty(0, np.uint8)

    def load(self, data: Any, seed: int) -> Loaded:
        """Decode an image, as small as its crop allows.

        Args:
            data: Bytes of the image.
            seed: Decides the crop and the flip, 64 bits; of no effect with a ``CenterCrop``.

        Returns:
            The image, valid until the next one is loaded.

        Raises:
            Exception: Whatever Pillow raises for bytes that it cannot decode, or ValueError.
        """
        if self.kind == "raw":
            return self.of_pixels(raw_pixels(data), seed)
        size = jpeg_size(data)
        if size is not None:
            box, flips = self._drawn(*size, seed)
            factor = self._factor(box)
            with suppress(ValueError):  # Pillow may be more lenient; if not, the error is its own
                return Loaded(self._decode(data, *size, factor), size, box, factor, flips)
        return self.of_pixels(np.array(by_pillow(data)), seed)

    def of_pixels(self, pixels: Pixels, seed: int) -> Loaded:
        """An image that is decoded already.

        Args:
            pixels: RGB, uint8, shape (height, width, 3).
            seed: As for ``load``.
        """
        height, width, _ = pixels.shape
        box, flips = self._drawn(height, width, seed)
        return Loaded(pixels, (height, width), box, 1, flips)

    def write(self, image: Loaded, out: torch.Tensor) -> None:
        """Crop, resize and flip an image into place.

        Args:
            image: What ``load`` gave.
            out: Where the result goes: uint8, shape (1, 3, size, size), best in channels_last memory.
        """
        if isinstance(self.crop, RandomCrop):
            shape = image.pixels.shape
            box = image.box if image.factor == 1 else shrunk(image.box, image.factor, shape)
            resize_into(self._cut(image.pixels, box), out)
            if image.flips:
                out.copy_(out.flip(3))
            return
        rows, columns = resized(*image.size, self.crop.resize)
        resized_image = torch.empty(1, rows, columns, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        resize_into(self._cut(image.pixels, Box(0, 0, *image.pixels.shape[:2])), resized_image)
        top, left = (round((side - self.crop.size) / 2) for side in (rows, columns))
        out.copy_(resized_image[:, :, top : top + self.crop.size, left : left + self.crop.size])

    def _drawn(self, height: int, width: int, seed: int) -> tuple[Box, bool]:
        """The part of an image that is resized, and whether it is flipped."""
        if isinstance(self.crop, RandomCrop):
            draws = SampleRng(seed)
            return self.crop.draw(height, width, draws), draws.uniform() < self.crop.flip
        return Box(0, 0, height, width), False

    def _factor(self, box: Box) -> int:
        target_px = self.crop.size if isinstance(self.crop, RandomCrop) else self.crop.resize
        return dct_factor(box.height, box.width, target_px)

    def _decode(self, data: Any, height: int, width: int, factor: int) -> Pixels:
        size = 3 * -(-height // factor) * -(-width // factor)
        if self._decoded.size < size:
            self._decoded = np.empty(size, np.uint8)
        return decode_shrunk(data, height, width, factor, self._decoded)

    def _cut(self, pixels: Pixels, box: Box) -> torch.Tensor:
        """A part of an image without gaps in memory: the resizing would else copy it, into fresh memory each time."""
        view = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
        if not (view.flags.c_contiguous and view.flags.writeable):  # torch takes no memory that cannot be written
            if self._part.size < view.size:
                self._part = np.empty(view.size, np.uint8)
            copy = self._part[: view.size].reshape(view.shape)
            np.copyto(copy, view)
            view = copy
        return torch.from_numpy(view).permute(2, 0, 1)[None]


def shrunk(box: Box, factor: int, shape: tuple[int, ...]) -> Box:
    """A box in an image that was shrunk while it was decoded: the nearest whole pixels.

    Args:
        box: In pixels of the full size.
        factor: By which the image was shrunk.
        shape: Shape of the shrunk image; its first two are height and width (pixels).
    """
    top, left = round(box.top / factor), round(box.left / factor)
    bottom = min(shape[0], round((box.top + box.height) / factor))
    right = min(shape[1], round((box.left + box.width) / factor))
    return Box(top, left, bottom - top, right - left)
