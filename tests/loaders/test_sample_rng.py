"""Random numbers of a batch, a row per sample."""

import numpy as np
import pytest
import torch

from lightning_fastdata.loaders.order import sample_seed, sample_seeds, stream
from lightning_fastdata.loaders.sample_rng import SampleRandom
from lightning_fastdata.loaders.splitmix import mix

START = stream(7, 2)
INDICES = np.array([3, 0, 41, 9, 2**40, -5])


def numbers(indices=INDICES, **kwargs):
    return SampleRandom(sample_seeds(START, np.asarray(indices)), **kwargs)


def test_the_seeds_of_a_batch_are_those_of_its_samples():
    """Bit by bit what ``sample_seed`` says, repeats included."""
    occurrences = [0, 2, 0, 1, 0, 3]
    found = sample_seeds(START, INDICES, np.array(occurrences)).tolist()
    assert found == [
        sample_seed(START, index, count) for index, count in zip(INDICES.tolist(), occurrences, strict=True)
    ]
    assert sample_seeds(START, INDICES).tolist() == [sample_seed(START, index) for index in INDICES.tolist()]


def test_the_numbers_are_what_the_formula_says():
    """SplitMix64 from the sample's seed on, across calls: a promise."""
    random = numbers()
    first, second = random.integers(0, 1000, size=(2, 2)), random.uniform()
    for row, index in enumerate(INDICES.tolist()):
        seed = sample_seed(START, index)
        words = [mix(seed + step * 0x9E3779B97F4A7C15) for step in range(5)]
        assert first[row].flatten().tolist() == [(word >> 32) * 1000 >> 32 for word in words[:4]]
        assert second[row].item() == (words[4] >> 40) / 2**24
    assert SampleRandom(np.array([1], dtype=np.uint64)).integers(0, 2**32).item() == mix(1) >> 32


def test_a_row_does_not_depend_on_the_rest_of_the_batch():
    """Any batch that holds the sample, in any place."""

    def draw(indices):
        random = numbers(indices)
        return [random.uniform(-1, 3, size=5), random.integers(-4, 9), random.uniform()]

    whole = draw(INDICES)
    for row in range(len(INDICES)):
        alone = draw(INDICES[row : row + 1])
        assert all(torch.equal(one[0], many[row]) for one, many in zip(alone, whole, strict=True))
    backwards = draw(INDICES[::-1].copy())
    assert all(torch.equal(one.flip(0), many) for one, many in zip(backwards, whole, strict=True))


def test_types_shapes_and_bounds():
    """float32 and int64, a row per sample, every value of a small range and none beyond it."""
    random = numbers(np.arange(2000))
    shares, places = random.uniform(-2, 2, size=(3,)), random.integers(-1, 2, size=4)
    assert (shares.dtype, tuple(shares.shape)) == (torch.float32, (2000, 3))
    assert (places.dtype, tuple(places.shape)) == (torch.int64, (2000, 4))
    assert -2 <= shares.min() < -1.99 < 1.99 < shares.max() <= 2
    assert places.unique().tolist() == [-1, 0, 1]
    assert len(random) == 2000


def test_the_numbers_are_spread_evenly_and_unrelated():
    """Means, variances and correlations of neighbours within four standard errors."""
    random = numbers(np.arange(20_000))
    x, y = random.uniform().double(), random.uniform().double()
    error = (1 / 12 / len(x)) ** 0.5
    for one in (x, y):
        assert abs(one.mean().item() - 0.5) < 4 * error
        assert one.var().item() == pytest.approx(1 / 12, rel=0.03)
    for pair in ((x, y), (x[1:], x[:-1]), (x[1:], y[:-1])):
        assert abs(torch.corrcoef(torch.stack(pair))[0, 1].item()) < 4 / len(x) ** 0.5


@pytest.mark.parametrize("bounds", [(3, 3), (3, 2), (0, 2**32 + 1)])
def test_an_impossible_range_is_refused(bounds):
    with pytest.raises(ValueError, match="there must be 1 to"):
        numbers().integers(*bounds)


def test_no_generator_is_touched():
    torch.manual_seed(3)
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()
    numbers().uniform(size=10)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], state)


def test_numbers_are_made_where_they_are_wanted():
    """On the batch's device; "meta" stands for one."""
    random = numbers(device="meta")
    assert {random.uniform().device.type, random.integers(0, 5).device.type} == {"meta"}
