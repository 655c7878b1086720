"""Whether a dataset holds its samples in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset

from lightning_fastdata.loaders.state.held_data import data_attribute


class Data(Dataset):
    def __init__(self, **attributes):
        vars(self).update(attributes)


def mapped(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((8, 3)))
    return np.load(tmp_path / "x.npy", mmap_mode="r")


class Frame:
    """What is read of pandas' DataFrame."""

    def __init__(self, dtypes):
        self.dtypes = dtypes

    def __len__(self):
        return 8


Frame.__module__, Frame.__name__ = "pandas.core.frame", "DataFrame"
IMAGES = np.zeros((8, 3, 2, 2), np.uint8)


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (Data(images=IMAGES, labels=[1] * 8), "dataset.images"),
        (Data(root="/data", x=torch.zeros(9)), "dataset.x"),
        (Data(rows=[(torch.zeros(2), 1)] * 8), "dataset.rows"),
        (Data(rows=[{"x": np.zeros(2), "y": 1.0}] * 8), "dataset.rows"),
        (Data(inner=Data(x=IMAGES), transform=abs), "dataset.inner.x"),
        (Subset(Data(x=IMAGES), [0, 1]), "dataset.dataset.x"),
        (Data(samples=[("a.jpg", 1)] * 8), None),
        (Data(paths=[Path("a.jpg")] * 8, labels=np.zeros(8)), None),
        (Data(labels=np.zeros(8), names=np.array(["a.jpg"] * 8)), None),
        (Subset(Data(samples=[("a.jpg", 1)] * 8), [0, 1]), None),
        (Data(mean=np.zeros(3), x=np.zeros(7)), None),
        (Data(), None),
    ],
)
def test_data_is_told_from_names(dataset, expected):
    """Numbers for each sample are data, unless names beside them say where the samples are."""
    assert data_attribute(dataset, 2 if isinstance(dataset, Subset) else 8) == expected


def test_a_file_that_is_mapped_is_not_in_memory(tmp_path):
    """Nor a view of one."""
    array = mapped(tmp_path)
    assert data_attribute(Data(x=array), 8) is None
    assert data_attribute(Data(x=np.asarray(array)[:]), 8) is None
    assert data_attribute(Data(x=IMAGES), None) is None


def test_frames():
    """A table of numbers is data; one with texts may be a list of files."""
    assert data_attribute(Data(table=Frame([np.dtype("f8"), np.dtype("i8")])), 8) == "dataset.table"
    assert data_attribute(Data(table=Frame([np.dtype("O"), np.dtype("i8")])), 8) is None
