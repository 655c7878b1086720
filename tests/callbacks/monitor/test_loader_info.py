"""What batches and loaders tell about themselves."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset
from torchvision.datasets import ImageFolder

from lightning_fastdata.callbacks.monitor.loader_info import (
    LoaderInfo,
    fetches_for_itself,
    overrides,
    sample_path,
    samples_in,
)
from lightning_fastdata.datamodules.images.datamodule import ImageDataset
from lightning_fastdata.datamodules.images.folder_index import index_images
from lightning_fastdata.datamodules.splits import SplitView

X = torch.zeros(6, 3)


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (X, 6),
        (np.zeros((5, 2)), 5),
        ((X, torch.zeros(6)), 6),
        ([X, "names"], 6),
        ({"text": ["a"], "x": X}, 6),
        ({"a": (X, X), "b": (torch.zeros(2), X)}, 6),
        (torch.tensor(1.0), None),
        ([[X, X], [X, X]], None),
        (None, None),
        ("text", None),
        ((), None),
        (object(), None),
    ],
)
def test_samples_are_counted_only_where_there_is_no_doubt(batch, samples):
    assert samples_in(batch) == samples


TWO = SimpleNamespace(num_workers=2, persistent_workers=True)
NONE = SimpleNamespace(num_workers=0, persistent_workers=False)
AGAIN = SimpleNamespace(num_workers=3, persistent_workers=False)
FOREIGN = SimpleNamespace(num_workers=1, persistent_workers="yes")
WEB = SimpleNamespace(pipeline=[TWO, len])  # WebDataset's WebLoader


@pytest.mark.parametrize(
    ("loaders", "expected"),
    [
        (TWO, (2, 2, True)),
        ([NONE, TWO], (2, 2, True)),
        ({"a": NONE}, (0, 0, None)),
        ([TWO, {"a": (AGAIN,)}], (3, 5, False)),
        (FOREIGN, (1, 1, None)),
        (SimpleNamespace(flattened=[NONE, SimpleNamespace(flattened=[TWO])]), (2, 2, True)),
        (WEB, (2, None, None)),
        (SimpleNamespace(pipeline="text"), (None, None, None)),
        (object(), (None, None, None)),
        ([], (None, None, None)),
        (None, (None, None, None)),
    ],
)
def test_workers_of_one_loader_or_of_many(loaders, expected):
    info = LoaderInfo.of(loaders)
    assert (info.num_workers, info.all_workers, info.persistent_workers) == expected


def test_the_dataset_of_the_only_loader_is_not_kept_alive():
    data = Files()
    info = LoaderInfo.of(SimpleNamespace(dataset=data))
    assert info.dataset() is data
    del data
    assert info.dataset() is None
    for loaders in (SimpleNamespace(dataset=[1, 2]), [SimpleNamespace(dataset=Files())] * 2, object(), None):
        assert LoaderInfo.of(loaders).dataset() is None


def test_steps_that_fetch_are_told_from_those_that_are_given_a_batch():
    class Fetching:
        def validation_step(self, dataloader_iter):
            pass

        def test_step(self, batch, batch_idx, dataloader_idx=0):
            pass

    assert fetches_for_itself(Fetching().validation_step)
    assert not fetches_for_itself(Fetching().test_step)
    assert not fetches_for_itself(None)


def test_hooks_of_ones_own_are_told_from_lightnings():
    from lightning.pytorch import LightningDataModule, LightningModule

    class Augmenting(LightningModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch

    assert overrides("on_after_batch_transfer", None, Augmenting())
    assert overrides("on_after_batch_transfer", Augmenting(), LightningDataModule())
    assert not overrides("transfer_batch_to_device", Augmenting(), LightningDataModule(), None)


NAMES = [f"{number}.png" for number in range(5)]


class Files:
    """Keeps its files under one of the usual names; to load one is an error."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return len(NAMES)

    def __getitem__(self, index):
        raise AssertionError("a sample was loaded")


@pytest.mark.parametrize(
    "attributes",
    [
        {"samples": [(name, 0) for name in NAMES]},
        {"imgs": tuple([name, 0] for name in NAMES)},
        {"paths": NAMES},
        {"paths": [Path(name) for name in NAMES]},
        {"files": np.array(NAMES)},
        {"samples": [(torch.zeros(2), 0)] * 5, "paths": NAMES},
    ],
)
@pytest.mark.parametrize("index", [3, -2, np.int64(3), torch.tensor(3)])
def test_a_samples_file_is_found_where_datasets_keep_it(attributes, index):
    path = sample_path(Files(**attributes), index)
    assert path == "3.png"
    assert type(path) is str


def test_a_samples_file_is_found_through_views():
    """Subsets of subsets, concatenations, and the parts of a split."""
    files, others = Files(paths=NAMES), Files(paths=["a.png", "b.png"])
    assert sample_path(Subset(files, [4, 2]), 1) == "2.png"
    assert sample_path(Subset(Subset(files, range(1, 5)), torch.tensor([3, 0])), 0) == "4.png"
    assert sample_path(SplitView(files, np.array([4, 2])), 0) == "4.png"
    both = ConcatDataset([files, Subset(others, [1, 0]), files])
    both.cumulative_sizes = [5, 7, 12]
    found = [sample_path(both, index) for index in (0, 4, 5, 6, 7, 11, -1, -12)]
    assert found == ["0.png", "4.png", "b.png", "a.png", "0.png", "4.png", "4.png", "0.png"]
    assert sample_path(Subset(both, [6]), 0) == "a.png"


def test_a_samples_file_in_folders_of_images(tmp_path):
    (tmp_path / "cat").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / "cat" / name)
    assert sample_path(ImageFolder(tmp_path), 1) == str(tmp_path / "cat" / "b.png")
    ours = ImageDataset(index_images(tmp_path), lambda image: image, indices=[1])
    assert sample_path(ours, 0) == str(tmp_path / "cat" / "b.png")


class Hostile:
    """Whatever of it is called raises."""

    def __index__(self):
        raise KeyboardInterrupt

    __getitem__ = __len__ = __iter__ = __repr__ = __eq__ = __hash__ = __index__

    @property
    def samples(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("dataset", "index"),
    [
        (None, 0),
        ([1, 2], 0),
        (torch.zeros(3), 0),
        (Hostile(), 0),
        (Files(paths=NAMES), 5),
        (Files(paths=NAMES), "3.png"),
        (Files(paths=NAMES), Hostile()),
        (Files(paths=NAMES), True),
        (Files(paths=NAMES), (1, 2)),
        (Files(paths=Hostile()), 0),
        (Files(paths=[b"x.png"]), 0),
        (Files(paths=[Hostile()]), 0),
        (Files(paths={0: "x.png"}), 0),
        (Files(paths="text"), 0),
        (Files(samples=np.zeros((3, 2))), 0),
        (Files(indices=Hostile(), dataset=Files(paths=NAMES)), 0),
        (Subset(Hostile(), [0]), 0),
        (Subset(Files(), [0]), 0),
        (Subset(Files(paths=NAMES), [9]), 0),
        (ConcatDataset([Files(paths=NAMES)]), 7),
        (ConcatDataset([Files(paths=NAMES)]), -6),
    ],
)
def test_where_there_is_no_file_nothing_is_called_and_nothing_raises(dataset, index):
    assert sample_path(dataset, index) is None


def test_a_dataset_that_contains_itself_has_no_file():
    circle = Subset(Files(), [0])
    circle.dataset = circle
    assert sample_path(circle, 0) is None
