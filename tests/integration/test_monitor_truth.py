"""The reported wait against the truth, which the loaders themselves write down, without any profiler label."""

import statistics
import tempfile
import time

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from monitor_cases import (
    EvalNet,
    Net,
    Sleeper,
    SlowCallback,
    near,
    quiet_monitor,
    quiet_trainer,
    three_tries,
)
from torch.utils.data import DataLoader, Dataset, IterableDataset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*`dataloader_iter`"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


class Sleeping(Dataset):
    """Samples of a known duration; ``truth`` says how long each sleep really was, as seen by the process itself."""

    def __init__(self, samples, sleep_s):
        self.samples, self.sleep_s = samples, sleep_s
        self.truth = []

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        start = time.perf_counter()
        time.sleep(self.sleep_s)
        self.truth.append(time.perf_counter() - start)
        return torch.ones(2)


class StampingSamples(Sleeping):
    """The worker stamps when a sample was made, in memory that the test shares with it."""

    def __init__(self, samples, sleep_s, ready):
        super().__init__(samples, sleep_s)
        self.ready = ready

    def __getitem__(self, index):
        time.sleep(self.sleep_s)
        self.ready[index] = time.perf_counter()
        return [1.0, 1.0]


@pytest.mark.parametrize(
    ("sleep_s", "batches", "place"), [(0.005, 40, "first"), (0.02, 20, "first"), (0.02, 20, "last"), (0.1, 10, "first")]
)
@three_tries
def test_a_loader_of_known_duration_amid_everything_that_is_not_waiting(tmp_path, sleep_s, batches, place):
    """A slow callback, a logger at every step, checkpoints, validation in mid-epoch (traps 1, 4, 29)."""
    monitor, slow = quiet_monitor(), SlowCallback()
    trainer = quiet_trainer(
        *((monitor, slow) if place == "first" else (slow, monitor)),
        ModelCheckpoint(tempfile.mkdtemp(dir=tmp_path), every_n_train_steps=5, save_top_k=-1),
        enable_checkpointing=True,
        logger=CSVLogger(tempfile.mkdtemp(dir=tmp_path), flush_logs_every_n_steps=1),
        log_every_n_steps=1,
        val_check_interval=batches // 2,
        num_sanity_val_steps=1,
    )
    train, val = Sleeping(batches, sleep_s), Sleeping(3, 0.02)
    trainer.fit(EvalNet(), DataLoader(train), DataLoader(val))
    summary = monitor.summary()
    assert summary.steps == len(train.truth) == batches
    assert near(summary.wait_s, sum(train.truth), batches)
    assert near(summary.wait_s_median, statistics.median(train.truth), 1)
    assert all(record.wait_s >= truth for record, truth in zip(monitor.records(), train.truth, strict=True))
    (stage,) = summary.stages
    assert (stage.runs, stage.batches) == (2, 6)
    assert near(stage.wait_s, sum(val.truth[1:]), 6)


_asked: list[float] = []


class Stamping(DataLoader):
    """Writes down when a batch was asked for, one layer below Lightning."""

    def __iter__(self):
        return _Stamped(super().__iter__())


class _Stamped:
    def __init__(self, inner):
        self.inner = inner

    def __iter__(self):
        return self

    def __next__(self):
        _asked.append(time.perf_counter())
        return next(self.inner)


@pytest.mark.parametrize("work_s", [0.0, 0.05], ids=["input-bound", "compute-bound"])
@three_tries
def test_with_workers_the_truth_is_ready_minus_asked(work_s):
    """The clock is the same in all processes.

    The batches are plain numbers, because handing a tensor over from a worker (a file descriptor through a socket)
    costs 1 to 3 ms in the fetch, after the batch was ready; that is a real wait, but not this truth.
    """

    class Plain(Net):
        def training_step(self, batch, batch_idx):
            return self.loss(torch.tensor(batch))

    batches = 24
    ready = torch.zeros(batches, dtype=torch.float64).share_memory_()
    _asked.clear()
    monitor = quiet_monitor()
    loader = Stamping(StampingSamples(batches, 0.05, ready), num_workers=2, collate_fn=list)
    quiet_trainer(monitor).fit(Plain(work_s), loader)
    truth = [max(0.0, float(done) - asked) for done, asked in zip(ready, _asked, strict=True)]
    assert near(monitor.summary().wait_s, sum(truth), batches)
    assert monitor.summary().num_workers == 2


@three_tries
def test_gradient_accumulation_with_an_incomplete_last_group():
    """Trap 13: 10 batches in groups of 4."""
    monitor, loader = quiet_monitor(), Sleeper(10, 0.01)
    quiet_trainer(monitor, accumulate_grad_batches=4, max_epochs=2).fit(Net(), loader)
    records = monitor.records()
    assert [record.batches for record in records] == [4, 4, 2, 4, 4, 2]
    assert [record.step for record in records] == list(range(6))
    start = 0
    for record in records:
        truth = sum(loader.truth[start : start + record.batches])
        assert truth <= record.wait_s < truth + 0.01
        start += record.batches
    assert near(monitor.summary().wait_s, sum(loader.truth), 20)


class Stream(IterableDataset):
    truth: list[float] = []  # noqa: RUF012

    def __iter__(self):
        for _ in range(6):
            start = time.perf_counter()
            time.sleep(0.02)
            self.truth.append(time.perf_counter() - start)
            yield torch.ones(2)


@three_tries
def test_a_dataset_without_a_length_is_heard_from_its_very_first_batch():
    """Traps 5 to 8: read ahead before the first label, twice before the first step, once more at the end."""
    monitor = quiet_monitor()
    Stream.truth.clear()
    quiet_trainer(monitor, max_epochs=2).fit(EvalNet(), DataLoader(Stream(), batch_size=1), DataLoader(Stream()))
    records = monitor.records()
    summary = monitor.summary()
    assert len(Stream.truth) == 24
    assert summary.steps == 12
    assert [record.fetches for record in records] == [2, 1, 1, 1, 1, 0] * 2  # the last call found no batch
    train_truth = sum(Stream.truth[:6]) + sum(Stream.truth[12:18])
    assert near(summary.wait_s, train_truth, 12)
    assert near(records[0].wait_s, sum(Stream.truth[:2]), 2)
    assert near(summary.stages[0].wait_s, sum(Stream.truth) - train_truth, 12)
    assert "one batch ahead" in summary.notes[0]


@pytest.mark.parametrize("limits", [{"limit_train_batches": 5}, {"max_steps": 5}])
@three_tries
def test_an_early_end_depends_on_no_exhausted_loader(limits):
    """Trap 37."""
    monitor, loader = quiet_monitor(), Sleeper(50)
    quiet_trainer(monitor, **limits).fit(Net(), loader)
    assert (len(loader.truth), monitor.summary().steps) == (5, 5)
    assert near(monitor.summary().wait_s, sum(loader.truth), 5)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
@three_tries
def test_a_resume_in_mid_epoch_goes_on_counting(tmp_path):
    """Trap 35; and the monitor's own state goes with the checkpoint."""
    saved = ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=-1, filename="{step}")
    first = quiet_monitor()
    quiet_trainer(first, saved, enable_checkpointing=True, max_steps=5).fit(Net(), Sleeper(8))
    monitor, loader = quiet_monitor(), Sleeper(8)
    trainer = quiet_trainer(monitor, max_epochs=2)
    trainer.fit(Net(), loader, ckpt_path=str(tmp_path / "step=5.ckpt"))
    summary = monitor.summary()
    assert [record.step for record in monitor.records()] == list(range(5, 16))
    assert [record.epoch for record in monitor.records()] == [0] * 3 + [1] * 8
    assert near(summary.wait_s, sum(loader.truth), summary.steps)
    assert summary.resumed_from is not None
    assert summary.resumed_from["steps"] == 5


@three_tries
def test_a_training_step_that_fetches_for_itself():
    """Trap 12: with dataloader_iter the fetch is inside the step, and is taken out of the compute."""

    class Fetching(Net):
        def training_step(self, dataloader_iter):
            batch, _, _ = next(dataloader_iter)
            time.sleep(0.01)
            return self.layer(batch).sum()

    monitor, loader = quiet_monitor(), Sleeper(10, 0.03)
    quiet_trainer(monitor).fit(Fetching(), loader)
    summary = monitor.summary()
    assert near(summary.wait_s, sum(loader.truth), 10)
    assert sum(record.compute_s for record in monitor.records()[1:]) < 9 * 0.025


@three_tries
def test_reloading_every_epoch_loses_no_fetch():
    """Trap 10: Lightning opens a reloaded loader twice, and throws one batch of an unsized one away."""
    monitor, loader = quiet_monitor(), Sleeper(4, 0.01, sized=False)
    quiet_trainer(monitor, max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(Net(), loader)
    assert near(monitor.summary().wait_s, sum(loader.truth), 12)
    assert monitor.summary().steps == 12
