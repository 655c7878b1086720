"""Whole batches of crops: the same bytes whatever loads them, and what they are."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from lightning_fastdata import FastDataError, ImageFolderDataModule, auto_dataloader
from lightning_fastdata.datamodules.images.crops import CenterCrop, RandomCrop
from lightning_fastdata.datamodules.images.datasets import BatchCropDataset, CropDataset, ImageDataset
from lightning_fastdata.datamodules.images.decoder import open_rgb
from lightning_fastdata.datamodules.images.folder_index import index_images
from lightning_fastdata.datamodules.images.normalize import Normalizer, PixelBatch
from lightning_fastdata.datamodules.images.sources import raw_bytes

SEEDS = np.arange(1, 13, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def dataset(root, make=BatchCropDataset, crop=None, **options):
    made = make(index_images(root / "train"), crop or RandomCrop(16), **options)
    made.as_pixels = True
    return made


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return str(path)


def test_a_sample_is_the_same_in_any_batch(photos):
    """Alone, among others, in another order, by several threads: only its seed counts."""
    made = dataset(photos)
    whole = made.__getitems__(range(12), SEEDS)
    assert (type(whole), whole.images.dtype, whole.images.shape) == (PixelBatch, torch.uint8, (12, 3, 16, 16))
    assert whole.images.is_contiguous(memory_format=torch.channels_last)
    assert whole.labels.tolist() == [0] * 6 + [1] * 6
    for order in ([7], [11, 3, 5], list(range(11, -1, -1))):
        for threads in (1, 3):
            made.decode_threads = threads
            part = made.__getitems__(order, SEEDS[order])
            assert torch.equal(part.images, whole.images[order])
            assert torch.equal(part.labels, whole.labels[order])
    assert not torch.equal(made.__getitems__(range(12), SEEDS + np.uint64(1)).images, whole.images)


def test_no_generator_is_touched(photos):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    dataset(photos).__getitems__([0, 1], SEEDS[:2])
    dataset(photos, crop=CenterCrop(16, 18))[0]
    assert torch.equal(torch.rand(3), expected)


def batches(root, **options):
    data = ImageFolderDataModule(root, 16, batch_size=5, **{"seed": 42, **options})
    data.setup("fit")
    loader = data.train_dataloader()
    return [[*map(torch.clone, batch)] for _ in range(2) for batch in loader]


def equal(ours, theirs):
    return len(ours) == len(theirs) and all(
        torch.equal(one, other) for pair in zip(ours, theirs, strict=True) for one, other in zip(*pair, strict=True)
    )


@pytest.mark.parametrize(
    ("workers", "threads", "context"),
    [
        (0, 3, None),
        pytest.param(2, 1, "fork", marks=pytest.mark.slow),
        pytest.param(1, 2, "spawn", marks=pytest.mark.slow),
    ],
)
def test_batches_do_not_depend_on_workers_and_threads(photos, workers, threads, context):
    """Two epochs, byte for byte; epochs and seeds differ."""
    expected = batches(photos, num_workers=0, decode_threads=1)
    assert not equal(expected[:3], expected[3:])
    more = {"dataloader_kwargs": {"multiprocessing_context": context}} if context else {}
    assert equal(batches(photos, num_workers=workers, decode_threads=threads, **more), expected)
    assert not equal(batches(photos, num_workers=0, seed=7), expected)


def test_floats_are_the_normalized_pixels(photos):
    """What a loader gives without a Trainer."""
    made = dataset(photos)
    pixels = made.__getitems__(range(12), SEEDS).images
    made.as_pixels = False
    images, labels = made.__getitems__(range(12), SEEDS)
    expected = torch.stack([Normalizer()(image) for image in pixels])
    assert torch.equal(images, expected)
    assert images.is_contiguous()
    assert labels.dtype == torch.int64


def test_normalizing_is_torchvisions(photos):
    """To the last bit."""
    from torchvision.transforms import v2

    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    steps = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )
    assert torch.equal(Normalizer()(pixels), steps(pixels))


def test_torchs_own_loader_gets_samples(photos):
    """It knows nothing of seeds; a loader of ours over a part of the data does."""
    made = dataset(photos)
    images, labels = next(iter(DataLoader(made, batch_size=4)))
    assert (images.shape, images.dtype, labels.tolist()) == ((4, 3, 16, 16), torch.float32, [0] * 4)
    made.as_pixels = False
    first, second = (
        next(iter(auto_dataloader(Subset(made, [9, 2]), seed=42, batch_size=2, num_workers=0, shuffle=False)))
        for _ in range(2)
    )
    assert first[1].tolist() == [1, 0]
    assert torch.equal(first[0], second[0])


@pytest.mark.parametrize("threads", [1, 3])
def test_unreadable_images_are_left_out_of_a_whole_batch(photos, threads):
    """Marked, and the others are what they would have been."""
    expected = dataset(photos).__getitems__(range(12), SEEDS)
    broken = [truncate(photos / "train" / name) for name in ("cat/2.jpg", "dog/0.jpg")]
    made = dataset(photos, on_error="skip")
    made.decode_threads = threads
    found = made.__getitems__(range(12), SEEDS)
    kept = [place for place in range(12) if place not in (2, 6)]
    assert torch.equal(found.images, expected.images[kept])
    assert torch.equal(found.labels, expected.labels[kept])
    assert made.unreadable_paths() == broken
    alone = made.__getitems__([2], SEEDS[2:3])
    assert torch.equal(alone.labels, expected.labels[3:4])
    with pytest.raises(FastDataError, match=r"cat/2\.jpg: OSError"):
        dataset(photos).__getitems__(range(12), SEEDS)


def test_not_one_readable_image_is_an_error(photos):
    for path in (photos / "train").rglob("*.jpg"):
        truncate(path)
    with pytest.raises(FastDataError, match="none of the 12 images can be read"):
        dataset(photos, on_error="skip").__getitems__([3], SEEDS[:1])


def test_a_fault_of_ours_is_no_unreadable_image(photos, monkeypatch):
    """It would vanish, with half of the data."""
    monkeypatch.setattr("lightning_fastdata.datamodules.images.decoder.resize_into", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dataset(photos, on_error="skip").__getitems__([0, 1], SEEDS[:2])


def test_threads_write_while_a_trainer_validates(photos):
    """Inference mode belongs to one thread; a batch made in it belongs to all."""
    made = dataset(photos, crop=CenterCrop(16, 18))
    expected = made.__getitems__(range(12), SEEDS)
    made.decode_threads = 4
    with torch.inference_mode():
        assert torch.equal(made.__getitems__(range(12), SEEDS).images, expected.images)


class Raw:
    """Decoded images, as a cache might keep them."""

    kind = "raw"

    def __init__(self, paths):
        self.kept = [raw_bytes(np.asarray(open_rgb(open(path, "rb").read()))) for path in paths]  # noqa: SIM115
        self.asked = []

    def read(self, index):
        self.asked.append(index)
        return self.kept[index]


@pytest.mark.filterwarnings("ignore:unclosed file")
def test_bytes_may_come_from_elsewhere(photos):
    """Asked for by their place in the whole folder; the crops are those of the files."""
    index = index_images(photos / "train")
    source = Raw(index.paths)
    made = BatchCropDataset(index, RandomCrop(16), indices=[3, 9], source=source)
    files = BatchCropDataset(index, RandomCrop(16), indices=[3, 9])
    for one, other in zip(made.__getitems__([1, 0], SEEDS[:2]), files.__getitems__([1, 0], SEEDS[:2]), strict=True):
        assert torch.equal(one, other)
    assert source.asked == [9, 3]
    shown = ImageDataset(index, np.asarray, indices=[3], source=source)[0]
    assert np.array_equal(shown[0], ImageDataset(index, np.asarray, indices=[3])[0][0])


def test_it_pickles_and_copies_with_its_threads(photos):
    """After it has been used: spawned workers and a loader's own copy."""
    made = dataset(photos)
    made.decode_threads = 2
    expected = made.__getitems__(range(12), SEEDS)
    for again in (pickle.loads(pickle.dumps(made)), copy.copy(made)):
        assert torch.equal(again.__getitems__(range(12), SEEDS).images, expected.images)


def test_a_collate_function_gets_samples(photos):
    """Normalized ones, as ever."""
    data = ImageFolderDataModule(photos, 16, batch_size=4, num_workers=0, collate_fn=list)
    data.setup("fit")
    assert type(data.train_dataset) is CropDataset
    samples = next(iter(data.train_dataloader()))
    assert [(image.shape, image.dtype, type(label)) for image, label in samples] == [
        ((3, 16, 16), torch.float32, int)
    ] * 4


def test_the_threads_have_a_reason(photos):
    data = ImageFolderDataModule(photos, 16, num_workers=0, decode_threads=3)
    data.setup("fit")
    loader = data.train_dataloader()
    assert data.decoding["train"][0] == loader.dataset.decode_threads == 3
    assert data.decoding["train"][1].source == "user"
    assert data.train_dataset.decode_threads == 1, "the loader has a copy of its own"
    with pytest.raises(FastDataError, match="decode_threads=0"):
        ImageFolderDataModule(photos, decode_threads=0)
