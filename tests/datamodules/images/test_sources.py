"""Bytes of images."""

import os

import numpy as np
import pytest

from lightning_fastdata.datamodules.images.sources import FileSource, raw_bytes, raw_pixels


def test_a_file_is_read_whole(tmp_path):
    data = os.urandom(300_000)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(b"")
    source = FileSource([str(tmp_path / "a"), str(tmp_path / "b")])
    assert source.kind == "original"
    assert source.read(0) == data
    assert source.read(1) == b""


def test_a_file_in_parts_is_read_whole(tmp_path, monkeypatch):
    """A network file system may give less than it was asked for."""
    (tmp_path / "a").write_bytes(b"0123456789")
    whole = os.read
    monkeypatch.setattr(os, "read", lambda handle, count: whole(handle, min(count, 3)))
    assert FileSource([str(tmp_path / "a")]).read(0) == b"0123456789"


def test_pixels_come_back():
    pixels = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    assert np.array_equal(raw_pixels(raw_bytes(pixels)), pixels)
    assert np.array_equal(raw_pixels(memoryview(raw_bytes(pixels))), pixels)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02\x00\x05\x00" + bytes(29), b"\x00\x00\x05\x00"])
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match="raw image"):
        raw_pixels(data)
