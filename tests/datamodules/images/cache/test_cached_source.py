"""A sample's bytes are the same, cached or not."""

import errno
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_fastdata.datamodules.images.cache import entry_format
from lightning_fastdata.datamodules.images.cache.blob_file import CacheFile, StoredFiles
from lightning_fastdata.datamodules.images.cache.cached_source import CachedSource, CacheNotes, estimated_bytes
from lightning_fastdata.datamodules.images.cache.entry_format import EntryFormat
from lightning_fastdata.datamodules.images.cache.folder import make_files
from lightning_fastdata.datamodules.images.decoder import open_rgb
from lightning_fastdata.datamodules.images.sources import raw_pixels

KINDS = ("original", "jpeg", "raw")


def image_bytes(seed=0, size=(480, 360), mode="RGB", kind="JPEG"):
    """A picture with structure: noise alone says nothing of what a codec does to photographs."""
    width, height = size
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / (9 + seed + 3 * c)) + np.cos(columns / (7 + seed + c)) for c in range(3)]
    pixels = (np.stack(waves, -1) * 55 + 128).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


class Files:
    """A source of kind "original" that counts what is read."""

    kind = "original"

    def __init__(self, images):
        self.images, self.reads = images, 0

    def read(self, index):
        self.reads += 1
        return self.images[index]


@pytest.fixture(scope="module")
def images():
    return [
        image_bytes(0),
        image_bytes(1, size=(1200, 900)),
        image_bytes(2, size=(200, 300)),
        image_bytes(3, mode="L"),
        image_bytes(4, mode="CMYK"),
        image_bytes(5, kind="PNG"),
        image_bytes(6, mode="P", kind="PNG"),
        image_bytes(7, size=(3, 700)),
    ]


@pytest.fixture
def make_cache(tmp_path):
    """``make_cache(samples, budget)`` opens one and the same cache."""

    def opened(samples=8, budget_bytes=2**30, writable=True):
        if not (tmp_path / "table.bin").exists():
            make_files(tmp_path, samples)
        paths = str(tmp_path / "entries.bin"), str(tmp_path / "table.bin")
        return CacheFile(StoredFiles(*paths, samples, 1, budget_bytes, writable))

    return opened


@pytest.mark.parametrize("kind", KINDS)
def test_cold_partial_warm_and_without_a_cache_give_the_same_bytes(kind, images, make_cache):
    """And a warm one reads no file at all."""
    entry_format = EntryFormat(kind)
    without = [bytes(CachedSource(Files(images), entry_format, None).read(n)) for n in range(8)]
    files = Files(images)
    cold = CachedSource(files, entry_format, make_cache())
    assert [bytes(cold.read(n)) for n in (6, 1, 3)] == [without[n] for n in (6, 1, 3)]
    partial = CachedSource(files, entry_format, make_cache())
    assert [bytes(partial.read(n)) for n in range(8)] == without
    assert files.reads == 8
    warm = CachedSource(files, entry_format, make_cache(writable=False))
    assert [bytes(warm.read(n)) for n in range(8)] == without
    assert files.reads == 8
    assert warm.kind == kind
    assert not any(source.notes.lines() for source in (cold, partial, warm))


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_takes_the_same_way(kind, images, make_cache):
    """The budget decides what is kept, never what is served."""
    entry_format = EntryFormat(kind)
    source = CachedSource(Files(images), entry_format, make_cache(budget_bytes=0))
    assert [bytes(source.read(n)) for n in range(8)] == [bytes(entry_format.encode(image)) for image in images]
    assert source.notes.lines() == ["entries beyond its budget were not kept"]


def test_a_damaged_entry_is_replaced_and_reported(images, make_cache, tmp_path):
    """Once: after that it is served again."""
    entry_format = EntryFormat("jpeg")
    right = bytes(CachedSource(Files(images), entry_format, make_cache()).read(1))
    path = tmp_path / "entries.bin"
    spoilt = bytearray(path.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    path.write_bytes(spoilt)
    files = Files(images)
    source = CachedSource(files, entry_format, make_cache())
    assert bytes(source.read(1)) == bytes(source.read(1)) == right
    assert files.reads == 1
    assert source.notes.lines() == ["damaged entries were found and replaced"]


def test_a_cache_that_goes_away_is_done_without(images, make_cache, tmp_path):
    """Deleted between two epochs, when new workers are started."""
    source = pickle.loads(pickle.dumps(CachedSource(Files(images), EntryFormat("raw"), make_cache())))
    for path in tmp_path.iterdir():
        path.unlink()
    assert bytes(source.read(2)) == bytes(source.read(2)) == EntryFormat("raw").encode(images[2])
    (line,) = source.notes.lines()
    assert line == "no more was kept after: No such file or directory"


def test_notes_reach_the_process_that_made_them():
    """A worker's notes are in shared memory."""
    notes = CacheNotes()
    CacheNotes.failed(pickle.loads(torch_pickle(notes)), OSError(errno.ENOSPC, "full"))
    assert notes.lines() == ["no more was kept after: No space left on device"]


def torch_pickle(value):
    from multiprocessing.reduction import ForkingPickler

    return bytes(ForkingPickler.dumps(value))


def test_an_image_that_cannot_be_decoded_is_not_kept(images, make_cache):
    """Its error is the decoder's, every time; with "original" nothing is decoded here."""
    cache = make_cache()
    source = CachedSource(Files([b"no image", *images]), EntryFormat("raw"), cache)
    for _ in range(2):
        with pytest.raises(OSError, match="cannot identify"):
            source.read(0)
    assert cache.held().entries == 0


def shape_of(entry, kind):
    return (raw_pixels(entry) if kind == "raw" else np.asarray(open_rgb(bytes(entry)))).shape


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_the_short_side_shrinks_to_256_and_nothing_grows(kind, images):
    """With torchvision's rounding; small images are kept unchanged, a small JPEG even byte for byte."""
    entries = [EntryFormat(kind).encode(image) for image in images]
    shapes = [(256, 341), (256, 341), (300, 200), (256, 341), (256, 341), (256, 341), (256, 341), (700, 3)]
    assert [shape_of(entry, kind)[:2] for entry in entries] == shapes
    if kind == "jpeg":
        assert entries[2] == images[2]
        assert all(bytes(entry[:2]) == b"\xff\xd8" for entry in entries)


def test_little_is_lost(images):
    """Against Pillow's resizing, in the mean over pixels, of 255 levels.

    The JPEG's 3 are the quantisation of quality 90 and half the colors: 2.6 on real photographs (docs/cache.md).
    """
    for number in (0, 1):
        with Image.open(io.BytesIO(images[number])) as file:
            best = np.asarray(file.resize((341, 256), Image.Resampling.BILINEAR)).astype(float)
        for kind, bound in (("raw", 1.0), ("jpeg", 3.0)):
            entry = EntryFormat(kind).encode(images[number])
            pixels = raw_pixels(entry) if kind == "raw" else np.asarray(open_rgb(entry))
            assert np.abs(pixels - best).mean() < bound, (number, kind)


def test_entries_do_not_depend_on_threads(images):
    """Of torch; how many it has is another matter in a worker than in the training process."""
    threads = torch.get_num_threads()
    made = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            made.append([bytes(EntryFormat("raw").encode(image)) for image in images])
    finally:
        torch.set_num_threads(threads)
    assert made[0] == made[1]


def test_raw_pixels_out_of_the_map_need_no_copy(images, make_cache):
    """NumPy and torch take them where they lie, without a warning about memory that must not be written to."""
    source = CachedSource(Files(images), EntryFormat("raw"), make_cache())
    source.read(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = torch.from_numpy(raw_pixels(source.read(0)))
    before = tensor.clone()
    tensor.fill_(0)  # must not reach the file
    again = CachedSource(Files(images), EntryFormat("raw"), make_cache())
    assert torch.equal(torch.from_numpy(raw_pixels(again.read(0))), before)


def test_settings_name_what_decides_the_bytes(monkeypatch):
    """A new decoder makes another cache; "original" keeps files, which no decoder has touched."""
    assert EntryFormat().settings() == {"format": "original"}
    before = EntryFormat("jpeg").settings()
    assert before != EntryFormat("jpeg", 224).settings()
    monkeypatch.setattr(entry_format.PIL, "__version__", "99")
    assert EntryFormat("jpeg").settings() != before
    assert EntryFormat().settings() == {"format": "original"}


def test_without_simplejpeg_pillow_encodes(images, monkeypatch):
    """On a platform without a wheel."""
    with_it = EntryFormat("jpeg").settings()
    monkeypatch.setattr(entry_format, "simplejpeg", None)
    monkeypatch.setattr("lightning_fastdata.datamodules.images.decoder.simplejpeg", None)
    entry = EntryFormat("jpeg").encode(images[1])
    assert shape_of(entry, "jpeg") == (256, 341, 3)
    assert EntryFormat("jpeg").settings() != with_it


def test_the_size_is_estimated_from_a_few_images(images):
    """Exactly, where all are alike; those that cannot be read are left out of it."""
    one = len(EntryFormat("raw").encode(images[0]))
    files = [(Files([images[0]] * 30), 30), (Files([b"broken"] * 3 + [images[0]] * 7), 10)]
    assert estimated_bytes(files, EntryFormat("raw")) == 40 * one
    assert files[0][0].reads + files[1][0].reads <= 12
    assert estimated_bytes([(Files([b"broken"]), 1)], EntryFormat("raw")) == 0
