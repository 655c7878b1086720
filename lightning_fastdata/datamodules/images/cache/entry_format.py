"""What is kept of an image: its own bytes, a smaller JPEG, or pixels; made in one way, whether it is kept or not."""

import io
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

from lightning_fastdata.compat.torch_internals import resize_into
from lightning_fastdata.datamodules.images.crops import resized
from lightning_fastdata.datamodules.images.decoder import by_pillow, dct_factor, decode_shrunk, jpeg_size
from lightning_fastdata.datamodules.images.sources import Kind, Pixels, raw_bytes
from lightning_fastdata.errors import check_choice

try:
    import simplejpeg
except ImportError:  # Pillow encodes instead, and the fingerprint says so
    simplejpeg = None

__all__ = ["EntryFormat"]

KINDS = ("original", "jpeg", "raw")
SHORT_SIDE_PX, QUALITY = 256, 90
"""What evaluation crops 224 from, and FFCV's quality for ImageNet."""


@dataclass(frozen=True)
class EntryFormat:
    """How an image becomes an entry. Everything but "original" loses something, always in the same way."""

    kind: Kind = "original"
    """"original": the file unchanged. "jpeg": RGB, short side at most ``short_side_px``. "raw": the same as pixels."""
    short_side_px: int = SHORT_SIDE_PX
    """Shorter side of what is kept (pixels); smaller images are kept unchanged."""

    def __post_init__(self) -> None:
        check_choice("cache_format", self.kind, KINDS, fix='pass cache_format="original", which changes no result.')

    @classmethod
    def for_images(cls, kind: Kind, image_size: int) -> "EntryFormat":
        """The format for models that take images of a size: larger ones need more than 256 pixels to be cut from.

        Args:
            kind: "original", "jpeg" or "raw".
            image_size: Height and width of what the model gets (pixels).
        """
        return cls(kind, max(SHORT_SIDE_PX, round(image_size * SHORT_SIDE_PX / 224)))

    def encode(self, data: bytes | memoryview) -> bytes | memoryview:
        """The entry of an image.

        Args:
            data: The bytes of its file.

        Returns:
            What is kept, and what is decoded, whether it is kept or not.

        Raises:
            Exception: Whatever Pillow raises for bytes that it cannot decode.
        """
        if self.kind == "original":
            return data
        size = jpeg_size(data)
        if self.kind == "jpeg" and size is not None and min(size) <= self.short_side_px:
            return data  # as small as it would become, and nothing lost
        pixels = self._shrunk(data, size)
        return raw_bytes(pixels) if self.kind == "raw" else self._jpeg(pixels)

    def settings(self) -> dict[str, Any]:
        """What decides the bytes of an entry, beside those of the file."""
        if self.kind == "original":
            return {"format": self.kind}
        settings: dict[str, Any] = {"format": self.kind, "short_side_px": self.short_side_px}
        if self.kind == "jpeg":
            settings["quality"] = QUALITY
        codec = getattr(simplejpeg, "__version__", None)
        # torch's resize rounds by the processor's instructions; a cache may lie where several machines see it.
        resize = f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}"
        settings["gray"] = "upper byte of 16 bits"
        return {**settings, "simplejpeg": codec, "pillow": PIL.__version__, "resize": resize}

    def _shrunk(self, data: Any, size: tuple[int, int] | None) -> Pixels:
        """The image with its short side at the limit, shrunk by the decoder as far as that leaves enough pixels."""
        pixels: Pixels | None = None
        if size is not None:
            with suppress(ValueError):  # damaged; Pillow may be more lenient
                pixels = decode_shrunk(data, *size, dct_factor(*size, self.short_side_px))
        if pixels is None:
            pixels = np.array(by_pillow(data))
            size = pixels.shape[:2]
        assert size is not None
        if min(size) <= self.short_side_px:
            return pixels
        rows, columns = resized(*size, self.short_side_px)
        out = torch.empty((1, 3, rows, columns), dtype=torch.uint8, memory_format=torch.channels_last)
        resize_into(torch.from_numpy(pixels).permute(2, 0, 1)[None], out)
        kept: Pixels = out[0].permute(1, 2, 0).numpy()
        return kept

    def _jpeg(self, pixels: Pixels) -> bytes:
        pixels = np.ascontiguousarray(pixels)
        if simplejpeg is not None:
            encoded: bytes = simplejpeg.encode_jpeg(
                pixels, quality=QUALITY, colorspace="RGB", colorsubsampling="420", fastdct=False
            )
            return encoded
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
        return file.getvalue()
