"""Stats: sums over fetches, batches and steps that stay small however long the run is."""

import random

import pytest

from lightning_fastdata.callbacks.monitor.fetch_probe import FetchInfo, WaitSplit
from lightning_fastdata.callbacks.monitor.wait_stats import DeviceStats, LoadStats, WaitStats
from lightning_fastdata.loaders.batch_requests import LoadedBatch
from lightning_fastdata.loaders.seeded_dataset import LoadTimes


def fetch_info(inline=None, blocked=None, handoff=None, **others):
    """A fetch of which nothing is known but what is given."""
    return FetchInfo(split=None if inline is None else WaitSplit(inline, blocked, handoff), **others)


def waits_of(*fetches):
    stats = WaitStats()
    for took, found in fetches:
        stats.add(took, found)
    return stats.kinds()


def test_before_anything_was_measured_there_are_no_figures():
    assert (waits_of(), loading_of(), DeviceStats().times()) == (None, None, None)


def test_kinds_are_summed_and_what_is_not_known_stays_apart():
    kinds = waits_of(
        (3.0, fetch_info(0.0, 2.0, 1.0, exact=True)),
        (0.5, fetch_info(0.5, 0.0, 0.0, exact=True)),
        (4.0, fetch_info()),
        (8.0, fetch_info()),
    )
    assert (kinds.main_process_s, kinds.stalled_s, kinds.worker_transfer_s, kinds.unknown_s) == (0.5, 2.0, 1.0, 12.0)
    assert (kinds.fetches, kinds.stalled_fetches, kinds.exact) == (4, 1, True)


def test_nothing_known_is_none_and_not_zero():
    kinds = waits_of((4.0, fetch_info()), (1.0, fetch_info()))
    assert (kinds.main_process_s, kinds.stalled_s, kinds.worker_transfer_s, kinds.unknown_s) == (None, None, None, 5.0)
    assert not kinds.exact
    assert (kinds.queue_ready_mean, kinds.queue_ready_min, kinds.queue_capacity, kinds.queue_full_share) == (None,) * 4


def test_a_true_zero_is_zero():
    kinds = waits_of((0.0, fetch_info(0.0, 0.0, 0.0)))
    assert (kinds.main_process_s, kinds.stalled_s, kinds.worker_transfer_s) == (0.0, 0.0, 0.0)


def test_one_fetch_that_was_judged_as_a_whole_makes_the_sum_inexact():
    assert not waits_of((1.0, fetch_info(0.0, 1.0, 0.0, exact=True)), (1.0, fetch_info(0.0, 1.0, 0.0))).exact


@pytest.mark.parametrize(("blocked", "counted"), [(0.001, 0), (0.0011, 1)])
def test_a_wait_that_nobody_notices_is_no_blocked_fetch(blocked, counted):
    kinds = waits_of((blocked, fetch_info(0.0, blocked, 0.0, head_of_line=True)))
    assert (kinds.stalled_fetches, kinds.head_of_line_fetches) == (counted, counted)
    assert kinds.stalled_s == blocked


def test_time_held_up_by_one_batch_is_kept_apart():
    kinds = waits_of((1.0, fetch_info(0.0, 1.0, 0.0)), (2.0, fetch_info(0.0, 2.0, 0.0, head_of_line=True)))
    assert (kinds.stalled_s, kinds.head_of_line_s, kinds.head_of_line_fetches) == (3.0, 2.0, 1)


def test_the_queue_is_described_by_the_fetches_that_saw_it():
    kinds = waits_of(*((0.0, fetch_info(ready=ready, capacity=4)) for ready in (4, 3, 2, 0)), (0.0, fetch_info()))
    assert (kinds.queue_ready_mean, kinds.queue_ready_min, kinds.queue_capacity) == (2.25, 0, 4)
    assert kinds.queue_full_share == 0.5  # three quarters of it and more


def load(index, slowest_s, *, samples=4, load_s=1.0, worker=0, epoch=0):
    return LoadedBatch(epoch, 0, LoadTimes(0.0, load_s, samples, 0, slowest_s, worker), worker, index, None)


def loading_of(*loads, path_of=lambda index: None):
    stats = LoadStats()
    for one in loads:
        stats.add(one)
    return stats.loading(path_of)


def test_loads_are_summed():
    loading = loading_of(load(1, 0.1, load_s=1.0), load(2, 0.2, samples=2, load_s=3.0))
    assert (loading.batches, loading.samples, loading.load_s) == (2, 6, 4.0)
    assert (loading.batch_s_mean, loading.batch_s_max, loading.sample_s_mean) == (2.0, 3.0, 4.0 / 6)


def test_the_slowest_samples_are_those_of_the_whole_run():
    """Each once, with its slowest time, in whatever order they come."""
    rng = random.Random(3)
    truth = {}
    stats = LoadStats()
    for _ in range(2000):
        index, slowest_s = rng.randrange(300), rng.random()
        truth[index] = max(truth.get(index, 0.0), slowest_s)
        stats.add(load(index, slowest_s))
        assert len(stats._slowest) <= 10
    found = [(int(sample.index), sample.load_s) for sample in stats.loading(lambda index: None).slowest]
    assert found == sorted(truth.items(), key=lambda item: item[1], reverse=True)[:10]


def test_a_slow_sample_tells_when_who_and_which_file():
    loading = loading_of(
        load(7, 0.1), load(7, 0.5, worker=1, epoch=2), load(7, 0.3), path_of=lambda index: f"{index}.jpg"
    )
    (sample,) = loading.slowest
    assert (sample.index, sample.load_s, sample.worker, sample.epoch, sample.path) == ("7", 0.5, 1, 2, "7.jpg")


def test_an_index_may_be_anything_and_a_whole_batch_has_none():
    loading = loading_of(load([1, 2], 0.1), load(None, 0.9), load({"key": 1}, 0.2))
    assert [sample.index for sample in loading.slowest] == ["{'key': 1}", "[1, 2]"]
    assert loading.batches == 3


def test_a_batch_without_samples_divides_by_nothing():
    assert loading_of(load(None, 0.0, samples=0)).sample_s_mean == 1.0


def test_idle_and_hidden_are_the_wait():
    stats = DeviceStats()
    stats.add(3.0, 1.0, None)
    stats.add(2.0, 2.0, 0.25)
    times = stats.times()
    assert (times.steps, times.idle_s, times.hidden_s, times.copy_s) == (2, 3.0, 2.0, 0.25)
    assert times.idle_s_p95 == pytest.approx(1.0, rel=0.01)


def test_a_copy_that_was_never_measured_is_none_and_an_idle_of_zero_is_zero():
    stats = DeviceStats()
    stats.add(1.0, 0.0, None)
    times = stats.times()
    assert (times.idle_s, times.hidden_s, times.copy_s) == (0.0, 1.0, None)
