"""Bytes to crops: torchvision's pixels for every kind of image file."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import v2

from lightning_fastdata.datamodules.images import decoder
from lightning_fastdata.datamodules.images.crops import CenterCrop, RandomCrop, SampleRng
from lightning_fastdata.datamodules.images.decoder import CropDecoder, dct_factor, jpeg_size, open_rgb
from lightning_fastdata.datamodules.images.sources import raw_bytes

PHOTOS = sorted((Path(__file__).parents[4] / "shared" / "photos").rglob("*.jpg"))
needs_photos = pytest.mark.skipif(not PHOTOS, reason="needs the folder shared/photos beside the project")
KINDS = {
    "jpeg": ("RGB", "JPEG", {}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "4:4:4": ("RGB", "JPEG", {"subsampling": 0}),
    "grayscale": ("L", "JPEG", {}),
    "cmyk": ("CMYK", "JPEG", {}),
    "png": ("RGB", "PNG", {}),
    "palette": ("P", "PNG", {"transparency": bytes([0] * 10 + [255] * 246)}),
    "transparent": ("RGBA", "PNG", {}),
    "webp": ("RGB", "WEBP", {}),
    "gif": ("P", "GIF", {}),
}


def image_grid(height=90, width=130):
    """Smooth with some noise, as a photograph is."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 11)], -1) * 90 + 128
    return (waves + np.random.default_rng(0).normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8)


def encoded(kind="jpeg", pixels=None, **more):
    mode, form, options = KINDS[kind]
    image = Image.fromarray(image_grid() if pixels is None else pixels).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **options, **more)
    return buffer.getvalue()


def by_pillow(data, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a palette with transparent colors
        return pil_loader(str(path))


def cropped(data, crop, seed=7, kind="original"):
    decoder = CropDecoder(crop, kind)
    out = torch.zeros(1, crop.size, crop.size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    image = decoder.load(data, seed)
    decoder.write(image, out)
    return out[0], image


def reference(image, crop, seed=7):
    """Torchvision's transforms, given the same crop and flip."""
    full = v2.functional.to_image(image)
    if isinstance(crop, CenterCrop):
        return v2.functional.center_crop(v2.functional.resize(full, [crop.resize], antialias=True), [crop.size])
    draws = SampleRng(seed)
    box = crop.draw(*full.shape[1:], draws)
    part = v2.functional.resized_crop(full, *box, [crop.size, crop.size], antialias=True)
    return part.flip(2) if draws.uniform() < crop.flip else part


def gray_levels(ours, expected):
    return (ours.int() - expected.int()).abs().float().mean().item()


@pytest.mark.parametrize("crop", [RandomCrop(64), CenterCrop(64, 73)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_torchvisions_pixels(kind, crop, tmp_path):
    """Loaded by torchvision's own ``pil_loader``, cut by its own functions: not one byte differs."""
    data = encoded(kind)
    loaded = by_pillow(data, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_rgb(data).tobytes() == loaded.tobytes()
        for seed in range(8):  # flipped and not
            assert torch.equal(cropped(data, crop, seed)[0], reference(loaded, crop, seed))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_gray_are_scaled(kind):
    """Pillow's own conversion clips all above 255 to white; the upper byte counts, as it does in 16-bit colors."""
    gray = np.array([[0, 255, 256], [0x7FFF, 0x8000, 0xFFFF]], np.uint16)
    file = io.BytesIO()
    Image.fromarray(gray).save(file, kind)
    pixels = np.asarray(open_rgb(file.getvalue()))
    assert pixels[..., 0].tolist() == [[0, 0, 1], [127, 128, 255]]
    assert (pixels == pixels[..., :1]).all()


def test_which_files_simplejpeg_decodes():
    """The others are Pillow's."""
    assert {kind for kind in KINDS if jpeg_size(encoded(kind))} == {"jpeg", "progressive", "4:4:4"}
    assert jpeg_size(encoded()) == (90, 130)
    assert jpeg_size(b"") is None


def test_an_orientation_is_not_applied(tmp_path):
    """Torchvision does not either."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(exif=exif)
    assert open_rgb(data).size == (130, 90)
    assert torch.equal(cropped(data, RandomCrop(32))[0], reference(by_pillow(data, tmp_path), RandomCrop(32)))


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_truncated_file_is_pillows_error(kind):
    data = encoded(kind)
    for read in (open_rgb, lambda part: cropped(part, RandomCrop(32))):
        with pytest.raises(OSError, match="truncated"):
            read(data[: len(data) // 2])


def test_a_file_that_pillow_pardons_is_read_as_pillow_reads_it(tmp_path):
    """Bytes that do not belong there: simplejpeg is stricter."""
    data = encoded()
    spoiled = data[:-2] + b"\x00" * 50 + data[-2:]
    assert open_rgb(spoiled).tobytes() == by_pillow(spoiled, tmp_path).tobytes()


def test_without_simplejpeg_pillow_decodes_the_same(monkeypatch):
    """On a platform without its wheels."""
    before = cropped(encoded(), RandomCrop(64))[0]
    monkeypatch.setattr(decoder, "simplejpeg", None)
    assert torch.equal(cropped(encoded(), RandomCrop(64))[0], before)


def test_an_image_beyond_pillows_bound_is_pillows(monkeypatch):
    """A few bytes must not ask for gigabytes."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        open_rgb(encoded())


@pytest.mark.parametrize("crop", [RandomCrop(64), CenterCrop(64, 73)])
def test_decoded_pixels_are_cut_like_their_file(crop):
    """Bytes of kind "raw", read-only memory included."""
    raw = raw_bytes(np.asarray(open_rgb(encoded())))
    for data in (raw, memoryview(raw)):
        assert torch.equal(cropped(data, crop, kind="raw")[0], cropped(encoded(), crop)[0])


def test_the_shrinking_follows_the_part():
    """Twice the wanted pixels are left in both directions; only powers of two."""
    assert [dct_factor(side, 2000, 100) for side in (399, 400, 799, 800, 1599, 1600, 9999)] == [1, 2, 2, 4, 4, 8, 8]
    assert dct_factor(9999, 399, 100) == 1


@needs_photos
def test_real_photographs_at_their_usual_size_are_torchvisions():
    """Crops of 224 from images of 500 pixels are hardly ever shrunk: byte for byte the same."""
    for number, path in enumerate(PHOTOS[::12]):
        data, crop = path.read_bytes(), RandomCrop(224)
        found, image = cropped(data, crop, number)
        if image.factor == 1:
            with Image.open(path) as file:
                assert torch.equal(found, reference(file.convert("RGB"), crop, number))


@needs_photos
@pytest.mark.parametrize("crop", [RandomCrop(48), CenterCrop(48, 55)])
def test_shrunk_photographs_differ_by_a_stated_bound(crop):
    """docs/images.md: on average 2 gray levels where the image was shrunk, at most 8 for one image."""
    found = []
    for number, path in enumerate(PHOTOS[::6]):
        ours, image = cropped(path.read_bytes(), crop, number)
        if image.factor > 1:
            with Image.open(path) as file:
                found.append(gray_levels(ours, reference(file.convert("RGB"), crop, number)))
    assert len(found) > 10
    assert sum(found) / len(found) < 2.0
    assert max(found) < 8.0
