"""Percentiles in constant memory, against NumPy's on everything."""

import numpy as np
import pytest

from lightning_fastdata.results.quantiles import Quantiles


def filled(values):
    quantiles = Quantiles()
    for value in values:
        quantiles.add(float(value))
    return quantiles


@pytest.mark.parametrize("q", [0.0, 0.01, 0.5, 0.95, 0.99, 0.999, 1.0])
@pytest.mark.parametrize("shape", ["lognormal", "two heaps", "drifting"])
def test_within_one_percent_of_numpy_over_100_000_values(shape, q):
    rng = np.random.default_rng(3)
    values = {
        "lognormal": rng.lognormal(-6, 2, 100_000),
        "two heaps": np.where(rng.random(100_000) < 0.97, 1e-5, 0.3) * rng.uniform(0.9, 1.1, 100_000),
        "drifting": np.linspace(1e-4, 1.0, 100_000) * rng.uniform(0.5, 1.5, 100_000),
    }[shape]
    truth = np.quantile(values, q, method="lower")
    assert filled(values).quantile(q) == pytest.approx(truth, rel=0.01)


def test_memory_does_not_grow_with_the_number_of_values():
    rng = np.random.default_rng(5)
    quantiles = filled(rng.lognormal(-6, 3, 50_000))
    bins = len(quantiles._bins)
    for value in rng.lognormal(-6, 3, 50_000):
        quantiles.add(float(value))
    assert quantiles.count == 100_000
    assert len(quantiles._bins) <= bins * 1.1 + 20 < 3_500


def test_nothing_zeros_and_absurd_values_do_not_break_it():
    assert Quantiles().quantile(0.5) is None
    assert filled([0.0, 0.0, 0.0, 1.0]).quantile(0.5) == 0.0
    assert filled([0.0, 0.0, 0.0, 1.0]).quantile(1.0) == pytest.approx(1.0, rel=0.01)
    assert filled([1e-300, 1e300]).quantile(0) == 0.0
    assert filled([1e-300, 1e300]).quantile(1) == pytest.approx(1e6, rel=0.01)
