"""The speedup bound: what an instant loader could gain at most, and how sure that is."""

import random
from dataclasses import replace

import pytest

from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.speedup_bound import estimate_speedup_bound
from lightning_fastdata.results.stats import ACCOUNTS, Boundary, DeviceTimes, RankTimes
from lightning_fastdata.results.summary import summarize


def steps(waits, compute=0.08):
    return [StepRecord(0, n, 4, wait, None, compute, 0.0, n == 0, 1, 1, 0) for n, wait in enumerate(waits)]


def run_of(records, startup=0.0, **accounts):
    wait = sum(record.wait_s for record in records)
    compute = sum(record.compute_s for record in records)
    ledger = dict.fromkeys(ACCOUNTS, 0.0) | {"startup_s": startup, "wait_s": wait, "compute_s": compute} | accounts
    return replace(summarize(records), ledger=ledger, total_s=sum(ledger.values()))


def test_the_whole_wait_gone_and_nothing_else_changed():
    records = steps([0.02] * 100)
    bound = estimate_speedup_bound(run_of(records, startup=50.0, validation_s=2.0), records)
    assert bound.speedup == pytest.approx(12 / 10)
    assert (bound.exposed_s, bound.of_s) == (pytest.approx(2.0), pytest.approx(12.0))
    assert (bound.exposed_by, bound.steps) == ("host", 100)


def test_validation_dilutes_what_can_be_gained():
    records = steps([0.02] * 100)
    assert estimate_speedup_bound(run_of(records, validation_s=90.0), records).speedup == pytest.approx(100 / 98)


def test_boundaries_can_be_gained_too():
    records = steps([0.02] * 100)
    run = replace(run_of(records, boundary_s=3.0), boundary=Boundary(2, 1.5, 2.0, 1.0, 0.5))
    assert estimate_speedup_bound(run, records).exposed_s == pytest.approx(5.0)


def test_even_steps_make_it_sure_and_uneven_ones_do_not():
    even, rng = steps([0.02] * 400), random.Random(1)
    uneven = steps([rng.choice([0.0, 0.0, 0.0, 0.08]) for _ in range(400)])
    sure, unsure = estimate_speedup_bound(run_of(even), even), estimate_speedup_bound(run_of(uneven), uneven)
    assert sure.high - sure.low < 1e-9
    assert unsure.low < unsure.speedup < unsure.high
    assert unsure.high - unsure.low > 0.02


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng, held, trials = random.Random(7), 0, 300
    truth = 1 / (1 - 0.02 / 0.1)
    for _ in range(trials):
        records = steps([rng.expovariate(1 / 0.02) for _ in range(400)])
        bound = estimate_speedup_bound(run_of(records), records)
        held += bound.low <= truth <= bound.high
    assert 0.88 <= held / trials <= 0.99


def test_what_the_device_saw_counts_where_it_was_measured():
    records = [record._replace(device_idle_s=0.005) for record in steps([0.02] * 100)]
    run = replace(run_of(records), device=DeviceTimes(99, 0.5, 1.5, None))
    bound = estimate_speedup_bound(run, records)
    assert (bound.exposed_by, bound.exposed_s) == ("device", pytest.approx(0.5))
    assert estimate_speedup_bound(replace(run, device=DeviceTimes(40, 0.2, 0.6, None)), records).exposed_by == "host"


def test_the_slowest_of_all_ranks_counts():
    records = steps([0.005] * 100, compute=0.095)
    ranks = RankTimes(2, 2, 100, 0.7, 0.07, 0.08, 1.9, 1, "b", 0.98, 6.0)
    bound = estimate_speedup_bound(replace(run_of(records), ranks=ranks), records)
    assert (bound.exposed_by, bound.speedup) == ("ranks", pytest.approx(1 / 0.3))
    assert (bound.low, bound.high) == (None, None)  # rank 0's own steps say nothing of it


def test_first_batches_count_once_and_those_of_the_start_up_not_at_all():
    """Two equal ranks: 5 s in the first fetch of each of two epochs, 2 s in the steady run, 8 s of compute."""
    records = [record._replace(refill_s=0.0) for record in steps([0.02] * 100)]
    for place in (0, 50):
        records[place] = records[place]._replace(wait_s=5.02, refill_s=5.0)
    ledger = dict.fromkeys(ACCOUNTS, 0.0) | {"startup_s": 5.0, "boundary_s": 5.0, "wait_s": 2.0, "compute_s": 8.0}
    run = replace(summarize(records), ledger=ledger, total_s=20.0, boundary=Boundary(1, 5.0, 0.0, 5.0, 0.0))
    alone = estimate_speedup_bound(run, records)
    assert (alone.exposed_s, alone.of_s, alone.speedup) == (pytest.approx(7.0), 15.0, pytest.approx(15 / 8))
    ranks = RankTimes(2, 2, 100, 0.2, 0.02, 0.02, 1.0, None, "", 0.0, 0.0)
    assert estimate_speedup_bound(replace(run, ranks=ranks), records).speedup == pytest.approx(15 / 8)
    device = replace(run, device=DeviceTimes(98, 0.0, 2.0, None))
    assert estimate_speedup_bound(device, records).steady_s == 0.0


def test_waiting_in_validation_can_be_gained_too():
    records = steps([0.02] * 100)
    bound = estimate_speedup_bound(replace(run_of(records, validation_s=5.0), validation_wait_s=3.0), records)
    assert (bound.exposed_s, bound.validation_s) == (pytest.approx(5.0), 3.0)


def test_one_step_says_next_to_nothing():
    records = steps([0.02])
    bound = estimate_speedup_bound(run_of(records), records)
    assert (bound.low, bound.high) == (None, None)


def test_without_a_ledger_there_is_none():
    records = steps([0.02] * 10)
    assert estimate_speedup_bound(summarize(records), records) is None
    assert estimate_speedup_bound(replace(run_of(records), wait_s=None), records) is None


def test_nothing_but_waiting_is_no_division_by_zero():
    records = steps([0.02] * 10, compute=0.0)
    assert estimate_speedup_bound(run_of(records), records).speedup == pytest.approx(100)
