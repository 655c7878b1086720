"""The orders of order.py as torch samplers."""

import pickle
import tracemalloc
from itertools import product

import numpy as np
import pytest
import torch
from torch.utils.data import RandomSampler, SequentialSampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_fastdata.loaders.order import epoch_order, padding, rank_share
from lightning_fastdata.loaders.samplers import EpochSampler, RankSampler, has_fixed_order, packed_order


def order(seed, epoch, length, cycle=0):
    return epoch_order(seed, epoch, length, cycle).tolist()


# EpochSampler


def test_an_epoch_sampler_that_is_told_the_epoch_stays_in_it():
    """Lightning calls set_epoch; drawing its order twice changes nothing."""
    sampler = EpochSampler(10, seed=3)
    for epoch in (0, 4, 1):
        sampler.set_epoch(epoch)
        assert [list(sampler), list(sampler)] == [order(3, epoch, 10)] * 2
    assert len(sampler) == 10


def test_an_epoch_sampler_counts_where_nobody_does():
    """In a loop of one's own every pass is the next epoch, from the one it begins with."""
    sampler = EpochSampler(10, seed=3, epoch=2)
    assert [list(sampler) for _ in range(3)] == [order(3, epoch, 10) for epoch in (2, 3, 4)]


def test_an_epoch_sampler_continues_from_a_saved_epoch():
    """Where it counts itself; where Lightning counts, Lightning knows better."""
    alone, counted = EpochSampler(10, seed=3), EpochSampler(10, seed=3)
    counted.set_epoch(1)
    for sampler in (alone, counted):
        sampler.continue_from(5)
    assert (list(alone), list(counted)) == (order(3, 5, 10), order(3, 1, 10))


@pytest.mark.parametrize(
    "sampler", [EpochSampler(10, seed=3), RankSampler(10, 3, 1, 0, batch_size=2, shuffle=True)], ids=["epoch", "rank"]
)
def test_the_cycle_changes_the_order(sampler):
    """The loader sets it when it starts again within an epoch."""
    sampler.set_epoch(1)
    sampler.cycle = 2
    assert list(sampler) == order(3, 1, 10, cycle=2)


# RankSampler


@pytest.mark.parametrize("deal", [{}, {"drop_last": True}, {"repeats": False}], ids=str)
def test_a_rank_sampler_is_as_long_as_what_it_draws(deal):
    """For every length, number of ranks and batch size; torch reads the number of batches off it."""
    for length, ranks, size in product(range(1, 40), (1, 2, 3, 4), (1, 2, 3, 5)):
        for rank in range(ranks):
            sampler = RankSampler(length, 1, ranks, rank, batch_size=size, shuffle=True, **deal)
            drawn = list(sampler)
            assert len(sampler) == len(drawn)
            assert drawn == rank_share(epoch_order(1, 0, length), rank, ranks, size, **deal).tolist()


def test_padded_counts_the_repeats_of_each_rank():
    """Over all ranks it is ``padding``, and the repeats are the last samples of the ranks that have one."""
    for length, ranks, size in product(range(1, 40), (1, 2, 3, 4), (1, 2, 3)):
        samplers = [RankSampler(length, 1, ranks, rank, batch_size=size, shuffle=True) for rank in range(ranks)]
        assert sum(sampler.padded for sampler in samplers) == padding(length, ranks)
        kept = [list(sampler)[: len(sampler) - sampler.padded] for sampler in samplers]
        assert sorted(index for part in kept for index in part) == list(range(length))
        dropping = RankSampler(length, 1, ranks, ranks - 1, batch_size=size, shuffle=True, drop_last=True)
        assert dropping.padded == 0


def test_a_rank_sampler_counts_its_passes_until_it_is_told_the_epoch():
    """Lightning calls set_epoch before every epoch, but not within a wrapper."""
    sampler = RankSampler(10, 3, 2, 1, batch_size=2, shuffle=True, epoch=4)
    assert [list(sampler), list(sampler)] == [order(3, 4, 10)[1::2], order(3, 5, 10)[1::2]]
    sampler.set_epoch(5)
    assert [list(sampler), list(sampler)] == [order(3, 5, 10)[1::2]] * 2
    sampler.continue_from(7)
    assert list(sampler) == order(3, 7, 10)[1::2]


def test_a_rank_sampler_in_a_loader_that_no_trainer_took():
    """All samples, in an order of each rank's own."""
    samplers = [RankSampler(9, 3, 2, rank, batch_size=2, shuffle=True) for rank in (0, 1)]
    for sampler in samplers:
        sampler.dealt = False
    zero, one = map(list, samplers)
    assert sorted(zero) == sorted(one) == list(range(9))
    assert zero != one
    assert [(len(sampler), sampler.padded) for sampler in samplers] == [(9, 0)] * 2


def test_a_rank_sampler_that_does_not_shuffle_deals_in_order():
    """Evaluation, and training with shuffle=False, in every epoch."""
    samplers = [RankSampler(7, 3, 2, rank, batch_size=2, shuffle=False, epoch=5) for rank in (0, 1)]
    assert [list(sampler) for sampler in samplers] == [[0, 2, 4, 6], [1, 3, 5, 0]]


# Both


@pytest.mark.parametrize(
    "sampler",
    [EpochSampler(20, 1, 2), RankSampler(20, 1, 2, 1, batch_size=3, shuffle=True, epoch=2)],
    ids=["epoch", "rank"],
)
def test_samplers_pickle_and_use_no_random_state(sampler):
    """ddp_spawn carries them; torch's global generator is neither read nor moved."""
    again = pickle.loads(pickle.dumps(sampler))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = list(sampler)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert list(again) == first


@pytest.mark.parametrize(
    "make",
    [
        lambda: EpochSampler(5000, 1, 2),
        lambda: RankSampler(5001, 1, 2, 1, batch_size=3, shuffle=True, epoch=2),
        lambda: RankSampler(5001, 1, 2, 0, batch_size=3, shuffle=False, drop_last=True),
        lambda: SequentialSampler(range(7)),
    ],
    ids=["epoch", "rank", "rank in order", "in order"],
)
def test_a_packed_order_is_the_order(make):
    """Pass by pass what iterating gives, which are Python's integers."""
    one, other = make(), make()
    for _ in range(2):
        packed, drawn = packed_order(one), list(other)
        assert packed.dtype == np.int64
        assert packed.tolist() == drawn
        assert {type(index) for index in drawn} == {int}


def test_only_a_known_order_is_packed():
    """A subclass may iterate in its own way."""

    class Own(EpochSampler):
        def __iter__(self):
            return iter([3, 1])

    assert packed_order(Own(4, 0)) is None
    assert packed_order(RandomSampler(range(4))) is None


def test_an_order_costs_eight_bytes_a_sample():
    """Drawing from it too: 100,000 integers of Python's would take 4 MB beyond the 0.8 MB."""
    sampler = EpochSampler(100_000, 1)
    tracemalloc.start()
    for _ in sampler:
        pass
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2e6


def test_which_samplers_have_a_fixed_order():
    """Ours and two of torch's; of a subclass, or of anything else, nothing is known."""

    class Own(SequentialSampler):
        pass

    fixed = [
        EpochSampler(4, 0),
        RankSampler(4, 0, 1, 0, batch_size=1, shuffle=True),
        SequentialSampler(range(4)),
        DistributedSampler(range(4), num_replicas=1, rank=0),
    ]
    unknown = [RandomSampler(range(4)), WeightedRandomSampler([1.0], 4), Own(range(4)), [0, 1], None]
    assert all(has_fixed_order(sampler) for sampler in fixed)
    assert not any(has_fixed_order(sampler) for sampler in unknown)
