"""Which sample when: pure arithmetic."""

from collections import Counter
from hashlib import sha256
from itertools import product, zip_longest

import numpy as np
import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.order import (
    BATCH,
    ORDER,
    RANK,
    derive_seed,
    epoch_order,
    loader_seed,
    padding,
    rank_share,
    sample_seed,
    sample_seeds,
    split_indices,
    stream,
)
from lightning_fastdata.loaders.splitmix import mix

GAMMA = 0x9E3779B97F4A7C15
"""What SplitMix64 adds at each step."""


# The mixing function and the seeds made with it


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0xE220A8397B1DCDAF), (1, 0x6E789E6AA1B965F4), (2, 0x06C45D188009454F), (3, 0xF88BB8A8724C81EC)],
)
def test_mix_is_splitmix64(step, expected):
    """The first outputs of the reference implementation for the seed 0 (Vigna's splitmix64.c)."""
    assert mix(step * GAMMA) == expected


def test_mix_takes_any_integer_and_gives_64_bits():
    """Only the lowest 64 bits count, so negative indices have seeds as well."""
    assert mix(1 << 64) == mix(0)
    assert mix(-1) == mix((1 << 64) - 1)
    assert all(0 <= mix(word) < 1 << 64 for word in range(-100, 100))


def test_the_seeds_are_a_promise():
    """These numbers may never change: a run resumed under a newer release has to draw the same augmentations."""
    start = stream(42, 0)
    assert start == 7138415436909018950
    assert (stream(42, 1), stream(42, 0, 1)) == (3233633249810115081, 13151335708014940318)
    assert (sample_seed(start, 5), sample_seed(start, 5, 2)) == (12358432569725543209, 5039097166838427052)
    assert loader_seed(42, 0, 1) == 7605480153969826146


def test_no_two_samples_share_a_seed():
    """Over seeds, epochs, cycles, samples and occurrences: 54 000 words, all different, in both of their halves."""
    words = [
        sample_seed(stream(seed, epoch, cycle), index, occurrence)
        for seed, epoch, cycle, index, occurrence in product(range(5), range(6), range(3), range(200), range(3))
    ]
    assert len(set(words)) == len(words) == 54_000
    # 32 bits collide by chance: n**2 / 2**33 = 0.34 pairs are to be expected
    for half in ({word & 0xFFFFFFFF for word in words}, {word >> 32 for word in words}):
        assert len(half) > len(words) - 10


def test_random_numbers_of_different_use_stay_apart():
    """The order, the collate function and the workers' seeds never start from a sample's word."""
    start = stream(42, 0)
    samples = {sample_seed(start, index, occurrence) for index in range(100) for occurrence in range(20)}
    others = {mix(start + ORDER), mix(start + RANK)} | {mix(sample_seed(start, index) + BATCH) for index in range(100)}
    assert len(others) == 102
    assert samples.isdisjoint(others)


# The order of an epoch


@pytest.mark.parametrize("length", [0, 1, 2, 1000])
def test_an_epoch_is_a_permutation(length):
    """Every sample exactly once, as int64."""
    order = epoch_order(7, 0, length)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(length))


def test_the_order_is_a_promise():
    """These numbers may never change: a run resumed under a newer release has to see the same order."""
    assert epoch_order(42, 0, 8).tolist() == [1, 6, 4, 0, 2, 5, 7, 3]
    assert epoch_order(42, 1, 8).tolist() == [3, 1, 6, 0, 4, 7, 2, 5]
    assert epoch_order(42, 0, 8, cycle=1).tolist() == [6, 5, 2, 3, 4, 0, 1, 7]
    assert split_indices(10, {"val": 0.3}, 42)["val"].tolist() == [0, 2, 7]
    long = epoch_order(1, 2, 100_000).astype("<i8")
    assert sha256(long.tobytes()).hexdigest().startswith("5e4583b416c5c5dd")


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


# Shares of the ranks


def batches_of(order, size, *, drop_last=False):
    found = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    return [batch for batch in found if len(batch) == size] if drop_last else found


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_ranks_together_make_the_batches_of_one_process(ranks, drop_last):
    """For every length 1..60 and batch size 1..5: batch k of all ranks, dealt in turn, is global batch k.

    Every rank gets equally many samples, and no sample is lost or repeated, but for ``padding``: less than a sample a
    rank, the first of the order, at the end of the last global batch.
    """
    for length, size in product(range(1, 61), range(1, 6)):
        order = epoch_order(3, 1, length)
        shares = [rank_share(order, rank, ranks, size, drop_last=drop_last) for rank in range(ranks)]
        each = [batches_of(share, size) for share in shares]
        repeats = 0 if drop_last else padding(length, ranks)
        tail = length % (ranks * size)
        assert 0 <= repeats < ranks
        assert len({len(share) for share in shares}) == 1
        expected = batches_of(order, ranks * size, drop_last=drop_last)
        if repeats:
            expected[-1] += [int(order[number % length]) for number in range(repeats)]
        assert {len(batches) for batches in each} == {len(expected)}
        for number, batch in enumerate(expected):
            rounds = zip_longest(*(batches[number] for batches in each))
            assert [index for dealt in rounds for index in dealt if index is not None] == batch
        seen = Counter(index for share in shares for index in share.tolist())
        if not drop_last:
            assert seen == Counter(order.tolist()) + Counter(expected[-1][tail:] if repeats else [])
        assert all(share.dtype == np.int64 for share in shares)
        bare = [rank_share(order, rank, ranks, size, drop_last=drop_last, repeats=False) for rank in range(ranks)]
        assert Counter(np.concatenate(bare).tolist()) == seen - Counter(expected[-1][tail:] if repeats else [])


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


def test_loaders_side_by_side_draw_from_seeds_of_their_own():
    """One loader keeps the run's seed; names give others, the same in every run."""
    assert derive_seed(42, None) == 42
    seeds = {derive_seed(seed, name) for seed in range(20) for name in (None, "train/a", "train/b", "train/0", "val/0")}
    assert len(seeds) == 100
    assert derive_seed(42, "train/a") == 0xB61A569E012542B8


def test_the_seeds_of_many_samples_are_those_of_each():
    """Vectorised, and equal to ``sample_seed`` to the last bit, repeats and negative numbers included."""
    numbers = [0, 1, 5, 2**40, 2**63, 2**64 - 1]
    words = np.array(numbers, np.uint64)
    start = stream(7, 3)
    assert sample_seeds(start, words).tolist() == [sample_seed(start, number) for number in numbers]
    repeats = np.array([0, 1, 2, 0, 5, 1], np.uint64)
    expected = [sample_seed(start, number, int(times)) for number, times in zip(numbers, repeats, strict=True)]
    assert sample_seeds(start, words, repeats).tolist() == expected
