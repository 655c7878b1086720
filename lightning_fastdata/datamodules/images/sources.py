"""Where the bytes of an image come from: the boundary between decoding and whatever keeps the bytes.

A source is any object with two things:

- ``kind``: "original" (the file's own bytes, of any format), "jpeg" (a baseline RGB JPEG, already resized) or "raw"
  (``raw_bytes``: height and width as little-endian uint16, then RGB pixels, uint8, height x width x 3: not decoded).
- ``read(index) -> bytes``: the bytes of one image, as ``bytes`` or a ``memoryview``. ``index`` is the image's place in
  the folder's whole list (``ImageIndex``), whatever split it was put into, so one source may serve all splits.

``read`` is called in worker processes and, with ``decode_threads``, from several threads at once; it must not use the
global random generators. What it raises for one image counts as an image that cannot be read. A source is pickled with
its dataset for spawned workers. Datasets take one as their ``source`` argument; none means ``FileSource(paths)``.
To fill a cache: ``decoder.open_rgb(bytes)`` gives the pixels of an original, ``raw_bytes`` packs them.
"""

import os
import struct
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["FileSource", "Kind", "Pixels", "Source", "raw_bytes", "raw_pixels"]

Kind = Literal["original", "jpeg", "raw"]
Pixels = npt.NDArray[np.uint8]
RAW_HEADER = struct.Struct("<HH")


class Source(Protocol):
    """Gives the bytes of images; see the module."""

    @property
    def kind(self) -> Kind:
        """What the bytes are."""

    def read(self, index: int) -> bytes | memoryview:
        """The bytes of one image.

        Args:
            index: Its place in the folder's list.
        """


class FileSource:
    """The files themselves.

    Args:
        paths: Path of every image; kept unchanged, so a packed list stays packed.
    """

    kind: Kind = "original"

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def read(self, index: int) -> bytes:
        """The whole file.

        Args:
            index: Its place in the list.

        Raises:
            OSError: It cannot be opened or read.
        """
        # Without Python's file objects and their buffers: three calls of the system, a third of the time of open().
        handle = os.open(self.paths[index], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        try:
            size = os.fstat(handle).st_size
            data = os.read(handle, size + 1)
            if len(data) == size:
                return data
            parts = [data]  # more than the system gives at once, or a pipe
            while parts[-1]:
                parts.append(os.read(handle, 1 << 24))
            return b"".join(parts)
        finally:
            os.close(handle)


def raw_bytes(pixels: Pixels) -> bytes:
    """Pack decoded pixels as a source of kind "raw" keeps them.

    Args:
        pixels: RGB, uint8, shape (height, width, 3), sides up to 65535.
    """
    height, width, _ = pixels.shape
    return RAW_HEADER.pack(height, width) + pixels.tobytes()


def raw_pixels(data: bytes | memoryview) -> Pixels:
    """The pixels in bytes of kind "raw", not copied.

    Args:
        data: What ``raw_bytes`` gave.

    Returns:
        RGB, uint8, shape (height, width, 3); read-only where the bytes are.

    Raises:
        ValueError: As many bytes as the header says are not there.
    """
    if len(data) < RAW_HEADER.size:
        raise ValueError(f"raw image of {len(data)} bytes")
    height, width = RAW_HEADER.unpack_from(data)
    if not height or not width or len(data) != RAW_HEADER.size + 3 * height * width:
        raise ValueError(f"raw image of {height} x {width} pixels in {len(data)} bytes")
    return np.frombuffer(data, np.uint8, offset=RAW_HEADER.size).reshape(height, width, 3)
