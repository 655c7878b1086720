"""Which changes that loading makes count: what adds up, not what a library's transform notes of its last sample."""

import importlib.util
import sqlite3
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, default_collate

from lightning_fastdata.loaders.seeded_dataset import SeededDataset
from lightning_fastdata.loaders.state.rehearsal import RehearsalSetup, rehearse

pytestmark = pytest.mark.slow

LIBRARY = """
import numpy as np

class Random:
    def __init__(self):
        self.generator, self.params = np.random.default_rng(0), {}

    def __call__(self, image):
        self.params = {"shift": self.generator.integers(1000), "shape": image.shape}
        return self.apply(image)

    def apply(self, image):
        return image + self.params["shift"]
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A well-known package, by its name, whose transforms keep what they drew last, as those of albumentations do."""
    path = tmp_path / "site-packages" / "imgaug.py"
    path.parent.mkdir()
    path.write_text(LIBRARY)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


class Augmented(Dataset):
    def __init__(self, transform):
        self.transform, self.last = [transform], None

    def __len__(self):
        return 100

    def __getitem__(self, index):
        return torch.from_numpy(self.transform[0](np.full((8, 8), index)))


class Notes(Augmented):
    def __getitem__(self, index):
        self.last = index
        return super().__getitem__(index)


def found_in(dataset):
    """What a rehearsal finds to change with every sample."""
    loading = SeededDataset(dataset, lambda samples: samples[0], None, batched=True)
    found = rehearse(RehearsalSetup(loading, dataset, 100, default_collate, 4, None, False, None))
    return (found.problem or "").partition(" changes while samples are loaded")[0]


class Lazy(Dataset):
    """Makes something of its own at a sample of its second half."""

    def __init__(self, make, has=True):
        self.make = make
        if has:
            self.made = None

    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index > 50 and getattr(self, "made", None) is None:
            self.made = self.make()
        return torch.zeros(1)


class Reader:
    def __init__(self):
        self.path = "a"


def connection():
    return sqlite3.connect(":memory:")


@pytest.mark.parametrize(
    ("make", "has", "found"),
    [
        (connection, True, ""),
        (connection, False, ""),
        (Reader, True, ""),
        (lambda: [1], True, "dataset.made"),
        (lambda: np.ones(2), True, "dataset.made"),
        (lambda: 1, False, "dataset.made"),
    ],
)
def test_what_a_later_sample_opens_is_no_change(make, has, found):
    """Of several datasets in a row each opens its file when its first sample comes; data is a cache or an answer."""
    assert found_in(Lazy(make, has)) == found


def test_only_what_adds_up_or_is_the_users_counts(library):
    """The library's own transform, one of the user's made from it, one that counts, a dataset that notes."""

    class Own(library.Random):
        def apply(self, image):
            return image

    class Counting(library.Random):
        calls = 0

        def apply(self, image):
            self.calls += 1
            return image

    assert found_in(Augmented(library.Random())) == ""
    assert found_in(Augmented(Own())) == ""
    assert found_in(Augmented(Counting())) == "dataset.transform[0].calls"
    assert found_in(Notes(library.Random())) == "dataset.last"
