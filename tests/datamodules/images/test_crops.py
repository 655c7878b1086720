"""Crops: torchvision's distribution, from random numbers that only the seed decides."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from lightning_fastdata.datamodules.images.crops import Box, RandomCrop, SampleRng, resized
from lightning_fastdata.loaders.splitmix import mix

DRAWN = 4000


def ours(height, width, **options):
    crop = RandomCrop(224, **options)
    return np.array([crop.draw(height, width, SampleRng(mix(number))) for number in range(DRAWN)])


def torchvisions(height, width, **options):
    torch.manual_seed(1)
    crop, image = v2.RandomResizedCrop(224, antialias=True, **options), [torch.empty(3, height, width)]
    found = (crop.make_params(image) for _ in range(DRAWN))
    return np.array([(one["top"], one["left"], one["height"], one["width"]) for one in found])


def distance(ours, theirs):
    """Largest distance of two samples' distribution functions (Kolmogorov and Smirnov)."""
    values = np.union1d(ours, theirs)
    ranks = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (ours, theirs)]
    return float(np.abs(ranks[0] - ranks[1]).max())


LIMIT = 1.95 * math.sqrt(2 / DRAWN)
"""Of two samples of one distribution, 1 in 1000 is further apart."""


@pytest.mark.parametrize(("height", "width"), [(375, 500), (640, 427), (60, 900)])
def test_boxes_are_distributed_as_torchvisions(height, width):
    """Place, size, area and form; the last image is so wide that many draws end in the middle."""
    found, expected = ours(height, width), torchvisions(height, width)
    for column in range(4):
        assert distance(found[:, column], expected[:, column]) < LIMIT
    areas = [boxes[:, 2] * boxes[:, 3] for boxes in (found, expected)]
    forms = [boxes[:, 3] / boxes[:, 2] for boxes in (found, expected)]
    assert distance(*areas) < LIMIT
    assert distance(*forms) < LIMIT
    assert (found[:, 0] + found[:, 2] <= height).all()
    assert (found[:, 1] + found[:, 3] <= width).all()


def test_another_distribution_is_found():
    """The comparison can fail: a least area of 0.2 in place of 0.08 is told apart."""
    assert distance(ours(375, 500, scale=(0.2, 1.0))[:, 2], torchvisions(375, 500)[:, 2]) > LIMIT


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (1, 1)])
def test_an_image_that_no_box_fits_gives_its_middle(height, width):
    """As torchvision does after ten draws."""
    options = {"scale": (2.0, 3.0)}
    assert (ours(height, width, **options)[:5] == torchvisions(height, width, **options)[:5]).all()


def test_draws_are_uniform_and_follow_the_seed():
    """Numbers in [0, 1) without a pattern between neighbours; the first words are those of SplitMix64 from 0."""
    draws = SampleRng(0)
    words = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert [draws.uniform() for _ in words] == [(word >> 11) / 2**53 for word in words]
    numbers = np.array([SampleRng(mix(seed)).uniform() for seed in range(4000)])
    assert distance(numbers, np.linspace(0, 1, 4000)) < LIMIT
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.06
    assert {SampleRng(seed).below(3) for seed in range(50)} == {0, 1, 2}


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (333, 500), (68, 121), (256, 256)])
def test_the_short_side_is_resized_as_torchvision_does(height, width):
    expected = v2.functional.resize(torch.empty(3, height, width, dtype=torch.uint8), [256], antialias=True)
    assert resized(height, width, 256) == tuple(expected.shape[1:])


def test_a_box_is_named():
    assert Box(1, 2, 3, 4).width == 4
