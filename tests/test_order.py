"""Which sample when: pure arithmetic."""

import subprocess
import sys

import numpy as np
import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.order import epoch_order, loader_seed, split_indices


@pytest.mark.parametrize("length", [0, 1, 2, 1000])
def test_an_epoch_is_a_permutation(length):
    """Every sample exactly once, as int64."""
    order = epoch_order(7, 0, length)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(length))


def test_seed_epoch_and_length_decide_the_order_alone():
    """The same three numbers give the same order, whatever numpy's global state; each of them changes it."""
    np.random.seed(0)
    first = epoch_order(7, 3, 100).tolist()
    np.random.seed(1)
    assert epoch_order(7, 3, 100).tolist() == first
    others = [epoch_order(8, 3, 100), epoch_order(7, 4, 100), epoch_order(3, 7, 100)]
    assert all(other.tolist() != first for other in others)


def test_the_order_is_a_promise():
    """These numbers may never change: a run resumed under a newer release has to see the same order."""
    assert epoch_order(42, 0, 8).tolist() == [3, 4, 2, 7, 6, 1, 5, 0]
    assert epoch_order(42, 1, 8).tolist() == [0, 4, 6, 1, 2, 7, 3, 5]
    assert split_indices(10, {"val": 0.3}, 42)["val"].tolist() == [0, 5, 6]


def test_the_order_leaves_the_global_random_state_alone():
    """Nothing of the user's randomness is used up."""
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    epoch_order(1, 1, 100)
    loader_seed(1, 1, 1)
    split_indices(100, {"val": 0.1}, 1)
    assert np.random.get_state()[1].tolist() == before


def test_loader_seeds_differ_by_seed_epoch_and_rank():
    """Workers of different ranks and epochs must not draw the same augmentations; torch takes every one of them."""
    seeds = {loader_seed(seed, epoch, rank) for seed in range(5) for epoch in range(10) for rank in range(10)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert loader_seed(1, 2, 3) == loader_seed(1, 2, 3)


def test_order_needs_neither_torch_nor_lightning():
    """The arithmetic can be used, and tested, without either."""
    code = "import sys, lightning_fastdata.order; print(sorted({'torch', 'lightning'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Held-out parts


@pytest.mark.parametrize(
    ("shares", "sizes"),
    [
        ({"val": 0.2}, {"train": 80, "val": 20}),
        ({"val": 25}, {"train": 75, "val": 25}),
        ({"val": 0.2, "test": 0.1}, {"train": 70, "val": 20, "test": 10}),
        ({"val": 0.0, "test": 1}, {"train": 99, "test": 1}),
        ({}, {"train": 100}),
    ],
)
def test_parts_have_their_sizes_and_cover_everything_once(shares, sizes):
    """A float is a share, an int a count, 0 leaves the part out; no sample is lost or in two parts."""
    parts = split_indices(100, shares, 42)
    assert {name: len(part) for name, part in parts.items()} == sizes
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(100))
    assert all(part.tolist() == sorted(part.tolist()) for part in parts.values())


def test_the_split_seed_alone_decides():
    """The same seed gives the same parts; another one gives others."""
    first = split_indices(100, {"val": 0.2}, 42)["val"].tolist()
    assert split_indices(100, {"val": 0.2}, 42)["val"].tolist() == first
    assert split_indices(100, {"val": 0.2}, 43)["val"].tolist() != first


@pytest.mark.parametrize(
    ("length", "shares", "words"),
    [
        (10, {"val": 10}, "val_split=10 of 10 samples leaves nothing to train on"),
        (10, {"val": 99}, "val_split=99 of 10 samples"),
        (10, {"val": 0.5, "test": 5}, "val_split=0.5, test_split=5 of 10 samples"),
        (10, {"val": 0.01}, "val_split=0.01 of 10 samples is 0 samples"),
        (10, {"val": 0.99}, "leaves nothing to train on"),
        (0, {"val": 0.5}, "0 samples"),
    ],
)
def test_a_part_without_samples_is_refused(length, shares, words):
    """An empty part, or nothing left to train on, names the values and the length."""
    with pytest.raises(FastDataError) as caught:
        split_indices(length, shares, 42)
    assert words in caught.value.what
    assert caught.value.fix
