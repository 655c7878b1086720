"""Trials around an answer: what is tried next, what is taken, and a real search within its seconds."""

import time

import pytest
import torch
from datasets_for_tuning import OpensFile, Raises, Slow
from torch.utils.data import DataLoader, IterableDataset

from lightning_fastdata import FastDataError, TuneResult, tune_loader
from lightning_fastdata.callbacks.tuner import search
from lightning_fastdata.callbacks.tuner.search import _Search
from lightning_fastdata.callbacks.tuner.throughput_model import Limits, Setting, expected_step_s
from lightning_fastdata.results.tuning import Consumer, Probe, Trial

PROBE = Probe(8, 0.08, 0.004, 0.05, 0.0005, 1000, 1, None, 0.1)


@pytest.fixture
def world(monkeypatch):
    """Trials of a machine that is made up: ``world(step_s_of_a_setting)`` searches on it."""

    def run(law, probe=PROBE, limits=None, step_s=0.02):
        made_up = _Search(None, None, probe, Consumer(step_s), limits or Limits(8), 1.5, None)

        def trial(workers, depth):
            took = law(workers, depth)
            return Trial(workers, depth, took, None, took - step_s, steps=9)

        monkeypatch.setattr(search, "run_inline", lambda *a, **k: trial(0, None))
        monkeypatch.setattr(search, "run_trial", lambda source, fresh, setting, **k: trial(*setting))
        made_up.source = type("Nothing", (), {"batch_size": 16})()
        made_up.run(ends=time.perf_counter() + 10)
        return made_up

    return run


def test_on_a_machine_like_the_model_the_first_guess_is_taken(world):
    """And confirmed by its neighbors; torch's default is always tried."""
    found = world(lambda workers, depth: expected_step_s(PROBE, Consumer(0.02), Limits(8), Setting(workers, depth)))
    assert found.best().num_workers in (4, 5)
    assert found.trials[0].num_workers == 0
    assert len(found.trials) <= 6


@pytest.mark.parametrize(
    ("law", "workers"),
    [
        (lambda workers, depth: max(0.0205, 0.02 + 0.16 / max(1, workers) - 0.02 * (workers > 7)), range(7, 33)),
        (lambda workers, depth: {0: 0.1, 1: 0.08, 2: 0.045}.get(workers, 0.06 + 0.01 * workers), [2]),
        (lambda workers, depth: 0.1 + 0.05 * workers, [0]),
        (lambda workers, depth: 0.02 if workers > 4 else 0.0203 if workers == 4 else 0.03, [4]),
    ],
    ids=["slower in company", "three thrash the disk", "workers make all slower", "two per cent are no gain"],
)
def test_the_measured_best_is_taken_whatever_the_model_said(world, law, workers):
    """More workers than predicted, or fewer, or none; of equals the fewest."""
    assert world(law).best().num_workers in workers


def test_a_deeper_queue_is_tried_where_it_waits(world):
    """Bursts: depth 4 is what helps."""
    deep = world(lambda workers, depth: 0.1 if not workers else 0.03 if depth < 4 else 0.0205)
    assert deep.best().prefetch_factor == 4


def test_a_trial_that_came_to_nothing_is_not_taken(world, monkeypatch):
    """Those that did count; if none did, there is no answer."""
    made_up = world(lambda workers, depth: 0.02)
    made_up.trials = [Trial(4, 2, None, 0.02, verdict="the worker process died")]
    assert made_up.best() is None
    result = made_up.result(known_step=True)
    assert result.num_workers is None
    assert "the worker process died" in result.reason


@pytest.mark.slow
def test_a_search_finds_the_workers_in_its_seconds():
    """Samples that wait 4 ms, batches of 8, a step of 10 ms: three or four workers; the budget is kept."""
    trials, began = [], time.perf_counter()
    torch.manual_seed(4)
    state = torch.get_rng_state()
    result = tune_loader(Slow(wait_s=0.004), 8, step_s=0.01, budget_s=5.0, on_trial=trials.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert time.perf_counter() - began < 9
    assert result.num_workers >= 3
    assert result.chosen.step_s < 0.02
    assert trials[0].num_workers == 0
    assert tuple(trial.num_workers for trial in trials) == tuple(trial.num_workers for trial in result.trials)
    assert [trial.verdict for trial in result.trials].count("taken") == 1
    assert result.batch_size == 8
    assert "usable core" in result.reason
    assert "step is 10.0 ms" in result.reason


@pytest.mark.slow
@pytest.mark.timed
def test_ctrl_c_keeps_what_is_known():
    """In the second trial: the first one's answer, marked as interrupted. Where nothing was measured, the reason."""
    trials = []

    def interrupt(trial):
        trials.append(trial)
        if len(trials) == 2:
            raise KeyboardInterrupt

    result = tune_loader(Slow(wait_s=0.004), 8, step_s=0.01, budget_s=6.0, on_trial=interrupt)
    assert result.interrupted
    assert result.num_workers == trials[1].num_workers > 0
    assert len(result.trials) == 2
    result = tune_loader(Raises(), 8, budget_s=3.0)
    assert isinstance(result, TuneResult)
    assert result.num_workers is None
    assert "loading raised ValueError" in result.reason


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(10))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dataset": Slow(0)}, "has 0 samples"),
        ({"dataset": Stream()}, "other workers would change the data"),
        ({"dataset": Slow(), "step_s": -1}, "step_s=-1"),
        ({"dataset": Slow(), "budget_s": 0}, "budget_s=0"),
        ({"dataset": Slow(), "batch_size": 0}, "batch_size=0"),
        ({"dataset": Slow(), "batch_size": True}, "batch_size=True"),
    ],
)
def test_what_cannot_be_tuned_is_said_at_once(arguments, words):
    """Before any process is started."""
    with pytest.raises(FastDataError, match=words):
        tune_loader(**arguments)


def test_a_dataset_with_an_open_file_is_not_tuned(tmp_path):
    """Trials would move its position."""
    (tmp_path / "x").write_bytes(b"x")
    dataset = OpensFile(tmp_path / "x")
    with pytest.raises(FastDataError, match=r"dataset\.file is an open file"):
        tune_loader(dataset, 4)
    dataset.file.close()


def test_a_loader_brings_its_own_batches():
    """Batch size and collate function are those of the loader."""
    found = search._source(DataLoader(Slow(), 24, collate_fn=len))
    assert (found.batch_size, found.loader.collate_fn) == (24, len)
    assert search._source(DataLoader(Slow(), 24), 8).batch_size == 8
