"""What one worker and a trial measure, with real worker processes and datasets of known cost."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets_for_tuning import Dies, Raises, Random, Slow
from torch.utils.data import DataLoader, get_worker_info

from lightning_fastdata.callbacks.tuner.measurement import (
    UnmeasuredError,
    probe_worker,
    run_inline,
    run_trial,
)
from lightning_fastdata.callbacks.tuner.throughput_model import Setting
from lightning_fastdata.callbacks.tuner.trial_loader import FreshIndices, source_of
from lightning_fastdata.loaders.footprint import sizes_of

slow = pytest.mark.slow


def source(dataset, batch_size=8, **more):
    return source_of(DataLoader(dataset, batch_size, **more))


def fresh(found):
    return FreshIndices(len(found.dataset), np.random.default_rng(1))


@slow
def test_a_probe_tells_time_cpu_time_and_size():
    """8 samples of 4 ms waiting and 1 ms of CPU: 40 ms a batch, 8 ms of CPU, 8 x 1000 float32 in one tensor."""
    found = source(Slow(wait_s=0.004, cpu_s=0.001, size=1000))
    probe = probe_worker(found, fresh(found), 3.0)
    assert probe.batch_s == pytest.approx(0.043, rel=0.4)
    assert 0.006 < probe.batch_cpu_s < 0.03
    assert (probe.batch_bytes, probe.batch_tensors) == (32_000, 1)
    assert 0 < probe.worker_transfer_s < 0.02
    assert probe.start_s > probe.batch_s
    assert probe.worker_bytes is None or probe.worker_bytes > 2**20
    assert probe.batches == 8


@slow
def test_the_first_batch_is_left_out():
    """It imports and opens what the others find there."""

    class First(Slow):
        seen = False

        def __getitem__(self, index):
            if not First.seen:
                First.seen = True
                time.sleep(0.5)
            return super().__getitem__(index)

    found = source(First(wait_s=0.001))
    probe = probe_worker(found, fresh(found), 3.0)
    assert probe.batch_s < 0.1
    assert probe.start_s > 0.5


@slow
@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Raises(), r"loading raised ValueError: .*sample \d+ is broken"),
        (Dies(), "the worker process died"),
        (Slow(wait_s=30), "one worker gave no batch in time"),
        (Slow(wait_s=0.08), "the first batch took one worker 0.[67].* of 1 s in all"),
    ],
)
def test_a_probe_that_goes_wrong_says_how_and_leaves_nobody_behind(dataset, words):
    """In a sentence; its worker is gone at once, also one that would hang for a minute."""
    found, began = source(dataset), time.perf_counter()
    with pytest.raises(UnmeasuredError, match=words):
        probe_worker(found, fresh(found), 1.0)
    assert time.perf_counter() - began < 4


@slow
def test_the_training_process_loads_nothing_and_draws_nothing():
    """Its generators are where they were, and every sample was loaded elsewhere."""

    class Elsewhere(Random):
        def __getitem__(self, index):
            assert get_worker_info() is not None
            return super().__getitem__(index)

    found = source(Elsewhere(wait_s=0.0), shuffle=True)
    torch.manual_seed(1)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()
    probe_worker(found, fresh(found), 2.0)
    run_trial(found, fresh(found), Setting(2, 2), step_s=0.0, budget_s=0.5)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numbers


@slow
def test_a_trial_is_the_truth_of_a_setting():
    """40 ms a batch: a consumer of 10 ms waits for one worker, and not for six; without any, 50 ms."""
    found = source(Slow(wait_s=0.005))
    one = run_trial(found, fresh(found), Setting(1, 2), step_s=0.01, budget_s=2.0)
    six = run_trial(found, fresh(found), Setting(6, 2), step_s=0.01, budget_s=2.0)
    none = run_inline(found, fresh(found), step_s=0.01, budget_s=2.0)
    assert one.step_s == pytest.approx(0.041, rel=0.3)
    assert six.step_s < 0.6 * one.step_s
    assert none.step_s == pytest.approx(0.051, rel=0.3)
    assert one.wait_share > 0.5 > (six.wait_share or 0)
    assert one.steps >= 8
    assert none.num_workers == 0


@slow
@pytest.mark.parametrize("dataset", [Raises(), Dies()])
def test_a_trial_that_goes_wrong_is_no_figure(dataset):
    """Its verdict says why."""
    found = source(dataset)
    for trial in (
        run_trial(found, fresh(found), Setting(2, 2), step_s=0.0, budget_s=1.0),
        run_inline(found, fresh(found), step_s=0.0, budget_s=1.0),
    ):
        assert trial.step_s is None
        assert "raised" in trial.verdict or "died" in trial.verdict


def test_samples_are_drawn_at_random_and_none_twice():
    """Until all were; a dataset smaller than a batch is a batch."""
    indices = FreshIndices(10, np.random.default_rng(1))
    drawn = indices.take(4) + indices.take(4)
    assert len(set(drawn)) == 8
    assert drawn != sorted(drawn)
    assert not indices.restarted
    assert len(indices.take(4)) == 4
    assert indices.restarted
    assert sorted(FreshIndices(3).take(8)) == [0, 1, 2]


def test_sizes_are_those_of_tensors_and_arrays():
    """In any nesting; numbers and strings have none worth counting."""
    image = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    assert sizes_of(image) == (768, 1)
    assert sizes_of({"image": image, "labels": [torch.zeros(4), "cat", 3], "raw": np.zeros(5), "b": b"xy"}) == (
        768 + 16 + 40 + 2,
        2,
    )
    assert sizes_of(SimpleNamespace(x=image, y="no")) == (768, 1)
