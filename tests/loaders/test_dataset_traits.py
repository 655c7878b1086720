"""What a dataset is and says of itself, through torch's views of it."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, StackDataset, Subset, TensorDataset

from lightning_fastdata.datamodules.arrays import ArrayDataset, RowDataset
from lightning_fastdata.datamodules.splits import SplitView
from lightning_fastdata.loaders.dataset_traits import traits_of
from lightning_fastdata.loaders.transformed_dataset import TransformedDataset


class Single(Dataset):
    """Samples one by one, about which nothing is known."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index


class Whole(Single):
    def __getitems__(self, indices):
        return indices


class Finished(Whole):
    batched_fetch = accepts_seeds = in_memory = True
    uses_global_rng = False
    sample_bytes = 10


class Louder(Finished):
    """A subclass may transform: it has to say again that it draws nothing."""


class OwnSamples(Subset):
    """As torch's documentation of Subset says how to change samples."""

    def __getitem__(self, index):
        return super().__getitem__(index)

    def __getitems__(self, indices):
        return [self[index] for index in indices]


class OwnBatches(Subset):
    def __getitems__(self, indices):
        return self.dataset.__getitems__(indices)


class OwnConcat(ConcatDataset):
    pass


class OwnTensors(TensorDataset):
    pass


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(4))


class Anything:
    """Has every attribute, which is then no True."""

    def __getattr__(self, name):
        return "yes"


def quiet(batch, random):
    return batch


quiet.uses_global_rng = False

ROWS = torch.arange(4.0)
TENSORS, ARRAYS = TensorDataset(ROWS), ArrayDataset((ROWS,))
TRAITS = {"in_memory": "m", "has_getitems": "g", "batched_fetch": "b", "accepts_seeds": "s", "uses_global_rng": "r"}


@pytest.mark.parametrize(
    ("dataset", "letters"),
    [
        (Single(), "r"),
        (range(4), "r"),
        (np.arange(4), "r"),
        (Anything(), "r"),
        (Stream(), "r"),
        (Whole(), "gr"),
        (Finished(), "mgbs"),
        (Louder(), "mgbsr"),
        (TENSORS, "m"),
        (OwnTensors(ROWS), "mr"),
        (ARRAYS, "mgb"),
        (RowDataset((ROWS,)), "m"),
        (Subset(Single(), [1]), "r"),
        (Subset(Finished(), [1]), "mgbs"),
        (SplitView(Finished(), [1]), "mgbs"),
        (SplitView(Subset(TENSORS, [0, 1]), [1]), "m"),
        (SplitView(Subset(Whole(), [1]), [0]), "gr"),
        (OwnSamples(Finished(), [1]), "mr"),
        (OwnBatches(Finished(), [1]), "mgr"),
        (ConcatDataset([TENSORS, Subset(ARRAYS, [1])]), "m"),
        (ConcatDataset([TENSORS, Single()]), "r"),
        (ConcatDataset([Finished(), Finished()]), "mr"),
        (OwnConcat([TENSORS]), "mr"),
        (StackDataset(TENSORS), "gr"),
        (TransformedDataset(Finished(), [quiet]), "mgbs"),
        (TransformedDataset(Subset(ARRAYS, [1]), [quiet, len]), "mgbr"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_traits_are_read_through_views(dataset, letters):
    """m: in memory, g: has __getitems__, b: finished batches, s: takes seeds, r: may draw random numbers."""
    traits = traits_of(dataset)
    assert "".join(letter for name, letter in TRAITS.items() if getattr(traits, name)) == letters
    assert traits.is_iterable is isinstance(dataset, Stream)


def test_what_an_object_says_of_itself_is_no_promise_of_its_class():
    """``uses_global_rng = False`` counts on the class alone."""
    dataset = Single()
    dataset.uses_global_rng = False
    assert traits_of(dataset).uses_global_rng


@pytest.mark.parametrize(
    ("dataset", "length", "bytes_of_3"),
    [(Finished(), 4, 30), (SplitView(Finished(), [1]), 1, 30), (Single(), 4, None), (Stream(), None, None)],
)
def test_sizes(dataset, length, bytes_of_3):
    """Only what the dataset says; nothing is loaded to find out."""
    traits = traits_of(dataset)
    assert (traits.length, traits.batch_bytes(3), traits.batch_bytes(None)) == (length, bytes_of_3, None)
