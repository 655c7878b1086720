"""Held-out parts that still answer for the whole dataset."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from lightning_fastdata.datamodules.splits import SplitView, check_shares, split_dataset
from lightning_fastdata.errors import FastDataError


class Pets(Dataset):
    def __init__(self, length=10):
        self.classes = ["cat", "dog"]
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index

    def describe(self):
        return "pets"


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


def test_a_view_answers_for_the_whole():
    """Attributes and methods of the dataset are reached through the view, also through two."""
    view = SplitView(SplitView(Pets(), [1, 3, 5]), [2, 0])
    assert [view[0], view[1]] == [5, 1]
    assert (len(view), view.classes, view.describe()) == (2, ["cat", "dog"], "pets")


def test_a_missing_attribute_is_missing():
    """It names what was looked for; hasattr works."""
    view = SplitView(Pets(), [0])
    assert not hasattr(view, "color")
    with pytest.raises(AttributeError, match="color"):
        _ = view.color


def test_a_view_without_its_dataset_is_an_attribute_error():
    """As while it is being unpickled: no endless search for itself."""
    with pytest.raises(AttributeError):
        _ = SplitView.__new__(SplitView).classes


@pytest.mark.parametrize("again", [lambda view: pickle.loads(pickle.dumps(view)), copy.copy, copy.deepcopy])
def test_a_view_pickles_and_copies(again):
    """It goes to workers under spawn; while unpickling its own dataset is not there yet."""
    view = again(SplitView(Pets(), [1, 3]))
    assert (list(view.indices), view.classes) == ([1, 3], ["cat", "dog"])


def test_whole_batches_are_fetched_through_a_view():
    """A dataset with __getitems__ is asked once per batch, with its own indices."""

    class Batched(Pets):
        def __getitems__(self, indices):
            return list(indices)

    assert SplitView(Batched(), [4, 6, 8]).__getitems__([2, 0]) == [8, 4]


@pytest.mark.parametrize(
    ("val", "test"), [(0.0, 0.0), (0, 0), (0.2, 0.3), (5, 0.1), (100, 200), (0.999, 0), (0.5, 0.4999)]
)
def test_shares_and_counts_are_taken(val, test):
    """A share in [0, 1) or a number of samples; what leaves something to train on passes."""
    check_shares(val, test)


@pytest.mark.parametrize(
    ("val", "test", "words"),
    [
        (-0.1, 0, "val_split=-0.1"),
        (0, -3, "test_split=-3"),
        (1.0, 0, "val_split=1.0"),
        (True, 0, "val_split=True"),
        (0, False, "test_split=False"),
        ("0.1", 0, "val_split='0.1'"),
        (float("nan"), 0, "val_split=nan"),
        (0.6, 0.4, "sum to 1"),
    ],
)
def test_shares_that_cannot_be_meant_are_refused(val, test, words):
    """Negative, absurd, mistyped, or leaving nothing to train on: with the value and an example."""
    with pytest.raises(FastDataError) as caught:
        check_shares(val, test)
    assert words in caught.value.what
    assert caught.value.fix


def test_parts_are_disjoint_and_cover_the_dataset():
    """Every sample is in exactly one part; anything with a length and indices will do."""
    assert len(split_dataset(range(10), {"val": 0.5}, 42)["val"]) == 5
    parts = split_dataset(Pets(10), {"val": 0.3, "test": 2}, 42)
    assert {name: len(part) for name, part in parts.items()} == {"train": 5, "val": 3, "test": 2}
    assert sorted(sample for part in parts.values() for sample in part) == list(range(10))


class Endless(Dataset):
    def __getitem__(self, index):
        return index


@pytest.mark.parametrize("dataset", [Stream(), [Pets(), Pets()], (Pets(),), {"a": Pets()}, iter([1]), Endless()])
def test_what_cannot_be_split_is_refused(dataset):
    """What has no length, and a collection, has no samples to hold out by number; the way out is named."""
    with pytest.raises(FastDataError) as caught:
        split_dataset(dataset, {"val": 0.5}, 42)
    assert "map-style" in caught.value.expected
    assert "set val_dataset" in caught.value.fix


@pytest.mark.parametrize("convert", [list, tuple, np.array, torch.tensor])
def test_targets_are_those_of_the_view(convert):
    """Class weights computed from a view's targets must fit the view, not the whole dataset."""

    class Labelled(Pets):
        targets = convert([0, 1, 0, 1, 1])

    view = SplitView(Labelled(5), [1, 2, 4])
    assert list(view.targets) == [1, 0, 1]
    assert type(view.targets) is type(Labelled.targets)


def test_an_attribute_of_another_length_is_left_alone():
    """An attribute called samples may mean something else in a dataset of the user's own."""

    class Sampled(Pets):
        samples = (10, 20)

    assert SplitView(Sampled(5), [1, 2]).samples == (10, 20)
