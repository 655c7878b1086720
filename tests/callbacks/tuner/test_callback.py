"""The tuner in real runs of Lightning's Trainer: what it changes, what it leaves, and what it says."""

import logging
import pickle
import time
import warnings

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset, WeightedRandomSampler, get_worker_info

from lightning_fastdata import DataWaitMonitor, FastDataError, FastDataModule, LoaderTuner
from lightning_fastdata.callbacks.tuner import measurement, session, window
from lightning_fastdata.callbacks.tuner.throughput_model import Setting
from lightning_fastdata.callbacks.tuner.worker_change import Original, change

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*worker processes in total"),
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no"),
]


class Waiting(Dataset):
    """Waits for a disk that is not there; slower, if asked, in a worker that has others beside it."""

    def __init__(self, length=1600, wait_s=0.002, crowded=1.0):
        self.length, self.wait_s, self.crowded = length, wait_s, crowded

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        info = get_worker_info()
        time.sleep(self.wait_s * (self.crowded if info is not None and info.num_workers > 1 else 1.0))
        return torch.rand(2) + index


class OnlyInWorkers(Waiting):
    """Goes wrong in a worker, and not in the training process."""

    def __init__(self, kind):
        super().__init__(800, wait_s=0.0)
        self.kind = kind

    def __getitem__(self, index):
        if get_worker_info() is not None:
            if self.kind == "dies":
                import os

                os._exit(3)
            if self.kind == "raises":
                raise ValueError(f"sample {index} is broken")
            time.sleep(60)
        return torch.ones(2)


class Model(LightningModule):
    """An accelerator that leaves the CPU alone, and writes down what it saw."""

    def __init__(self, step_s=0.004):
        super().__init__()
        self.step_s, self.weight = step_s, torch.nn.Parameter(torch.ones(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        time.sleep(self.step_s)
        value = batch[0] if isinstance(batch, (list, tuple)) else batch
        self.seen.append(value.sum(dim=-1).tolist())
        return (self.weight - 1) ** 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(*callbacks, **more):
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(
        **{"accelerator": "cpu", "max_epochs": 1, "limit_val_batches": 0, **dict.fromkeys(off, False), **more},
        callbacks=[*callbacks],
    )


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    """Other tests beside this one must not make the tuner say that the machine is busy."""
    monkeypatch.setattr(measurement, "contention", lambda *args: None)
    monkeypatch.setattr(window, "LONG_ENOUGH_S", 0.3)  # so that runs of some seconds have room for several windows


@pytest.fixture
def lines(caplog):
    """What the tuner said."""
    caplog.set_level(logging.INFO)
    return lambda: [text for record in caplog.records if (text := record.getMessage()).startswith("LoaderTuner: ")]


class UntilSettled(Callback):
    """Ends the run when the tuner has said its last word: how long that takes depends on how busy the machine is."""

    def __init__(self, tuner):
        self.tuner = tuner

    def on_train_batch_end(self, trainer, *args):
        if self.tuner._session.over:
            trainer.should_stop = True


def fit(model, *callbacks, data=None, loader=None, until=None, **more):
    if until is not None:
        callbacks, more = (until, *callbacks, UntilSettled(until)), {"max_epochs": 12, **more}
    made = trainer(*callbacks, **more)
    made.fit(model, train_dataloaders=loader, datamodule=data)
    return made


@pytest.mark.timed
def test_a_loader_of_ours_gets_its_workers_in_mid_epoch_and_the_same_batches(lines):
    """Measured, changed, verified within one epoch; every batch is the one that would have come without the tuner."""
    plain, tuned, tuner = Model(), Model(), LoaderTuner()
    fit(plain, data=FastDataModule(Waiting(9600, wait_s=0.0), batch_size=16, seed=5))
    data = FastDataModule(Waiting(9600), batch_size=16, seed=5)
    made = fit(tuned, until=tuner, data=data)
    assert tuned.seen == plain.seen[: len(tuned.seen)]
    assert 60 < len(tuned.seen) <= len(plain.seen) == 600
    result = tuner.result
    assert result.num_workers >= 3
    assert [trial.verdict for trial in result.trials][:2] == ["baseline", "kept"]
    assert result.trials[-1].step_s < 0.6 * result.trials[0].step_s
    assert result.probe.batch_s == pytest.approx(0.032, rel=0.5)
    assert result.consumer.step_s == pytest.approx(0.005, rel=0.6)
    plan = data.plans["train"]
    assert (plan.num_workers, plan.reasons["num_workers"].source) == (result.num_workers, "measured")
    assert made.train_dataloader.num_workers == result.num_workers
    said = lines()
    assert 3 <= len(said) < 10
    assert "one worker takes" in said[0]
    assert "promises" in said[1]
    assert "predicted" in said[2]


def test_what_does_not_help_is_undone_and_the_batches_stay(lines):
    """Several workers are far slower than one: back to one, in the middle of the epoch."""
    plain, tuned, tuner = Model(), Model(), LoaderTuner()
    fit(plain, data=FastDataModule(Waiting(9600, wait_s=0.0), batch_size=16, seed=5))
    data = FastDataModule(Waiting(9600, wait_s=0.001, crowded=60.0), batch_size=16, seed=5)
    made = fit(tuned, until=tuner, data=data)
    assert tuned.seen == plain.seen[: len(tuned.seen)]
    begun_with = tuner.result.trials[0].num_workers
    assert {trial.verdict for trial in tuner.result.trials[1:]} == {"rolled back"}
    assert (
        tuner.result.num_workers == begun_with == made.train_dataloader.num_workers == data.plans["train"].num_workers
    )


def test_what_the_user_has_set_stays_and_the_log_says_so(lines):
    """num_workers=0 of his own: measured, said what would be better, not changed."""
    data, tuner = FastDataModule(Waiting(), batch_size=16, num_workers=0), LoaderTuner()
    made = fit(Model(), tuner, data=data)
    assert made.train_dataloader.num_workers == 0
    assert data.plans["train"].reasons["num_workers"].source == "user"
    assert "num_workers=0 was set by you and stays" in lines()[-1]
    assert "would promise" in lines()[-1]


def test_a_foreign_loader_is_left_alone_until_it_is_allowed(lines):
    """Samples that draw from torch's generator would be others with other workers."""
    loader, tuner = DataLoader(Waiting(800), 16, shuffle=True, num_workers=0), LoaderTuner()
    fit(Model(), tuner, loader=loader, max_epochs=2)
    assert loader.num_workers == 0
    assert "LoaderTuner(allow_foreign=True)" in lines()[-1]
    assert tuner.result.num_workers == 0


@pytest.mark.timed
def test_a_foreign_loader_changes_between_epochs(lines):
    """Allowed: measured in the first epoch, changed at its end, verified in the second."""
    loader, tuner, model = DataLoader(Waiting(640), 16, num_workers=0), LoaderTuner(allow_foreign=True), Model()
    fit(model, until=tuner, loader=loader)
    assert loader.num_workers == tuner.result.num_workers >= 3
    assert not loader.persistent_workers  # workers that live on would keep an old copy of what training changes
    assert any("from the next epoch on" in line for line in lines())
    assert tuner.result.trials[1].verdict == "kept"
    numbers = [[int(value // 2) for value in batch] for batch in model.seen]
    assert [n for batch in numbers[:40] for n in batch] == list(range(640)) == [n for b in numbers[40:80] for n in b]


@pytest.mark.timed
def test_too_many_workers_for_a_fast_loader_are_given_back():
    """Six for samples that cost nothing."""
    data = TensorDataset(torch.rand(3200, 2))
    loader = DataLoader(data, 32, num_workers=6, persistent_workers=True)
    tuner = LoaderTuner()  # a TensorDataset draws no random numbers: nothing has to be allowed
    fit(Model(), until=tuner, loader=loader)
    assert loader.num_workers == tuner.result.num_workers <= 1
    kept = [trial.num_workers for trial in tuner.result.trials if trial.verdict == "kept"]
    assert kept[-1] == tuner.result.num_workers  # one more that did not help may have been tried after it


@pytest.mark.parametrize(
    ("kind", "words"),
    [("raises", "loading raised ValueError"), ("dies", "the worker process died"), ("hangs", "gave no batch in time")],
)
def test_a_probe_that_goes_wrong_costs_the_tuning_alone(kind, words, lines, monkeypatch):
    """It says why, and the training goes on as planned."""
    monkeypatch.setattr(session, "PROBE_S", 1.0)
    model, tuner = Model(step_s=0.0), LoaderTuner()
    began = time.perf_counter()
    fit(model, tuner, data=FastDataModule(OnlyInWorkers(kind), batch_size=8, num_workers=0))
    assert len(model.seen) == 100
    assert len(lines()) == 1
    assert words in lines()[0]
    assert "nothing is changed" in lines()[0]
    assert tuner.result.arguments() == {}
    assert words in tuner.result.reason
    assert time.perf_counter() - began < 10


def test_a_busy_machine_is_said_and_nothing_is_changed(lines, monkeypatch):
    """A measurement on it would be of the others."""
    monkeypatch.setattr(measurement, "contention", lambda *args: "the worker got no CPU for 40% of its time")
    fit(Model(0.0), LoaderTuner(), data=FastDataModule(Waiting(wait_s=0.0), batch_size=16))
    assert lines() == [
        "LoaderTuner: nothing is changed: the machine is too busy to measure"
        " (the worker got no CPU for 40% of its time)"
    ]


@pytest.mark.parametrize(
    ("more", "length", "words"),
    [
        ({"fast_dev_run": True}, 1600, "fast_dev_run"),
        ({}, 100, "has 7 batches, and 60 are needed"),
        ({}, 3, "has 1 batches"),
        ({"max_steps": 30}, 1600, "has 30 batches"),
        ({"limit_train_batches": 20}, 1600, "has 20 batches"),
    ],
)
def test_a_run_too_short_to_measure_is_not_probed(more, length, words, lines):
    """Nobody waits three seconds for a run of one; a dataset smaller than a batch is such a one."""
    tuner = LoaderTuner()
    fit(Model(), tuner, data=FastDataModule(Waiting(length), batch_size=16), **more)
    assert words in lines()[0]


def test_several_loaders_and_loaders_of_no_torch_are_left_alone(lines):
    """They share the workers as planned, or have none that anybody knows."""
    fit(Model(), LoaderTuner(), data=FastDataModule([Waiting(), Waiting()], batch_size=16), limit_train_batches=2)
    fit(Model(), LoaderTuner(), loader=[torch.ones(4, 2)] * 80)
    fit(Model(), LoaderTuner(), loader=CombinedLoader([DataLoader(Waiting(100), 4)]), limit_train_batches=2)
    assert "there are 2 training loaders" in lines()[0]
    assert "there are 80 training loaders" in lines()[1]
    assert "the run has 2 batches" in lines()[2]  # one in a collection is one


def test_a_dataset_that_holds_an_open_file_is_left_alone(lines, tmp_path):
    """Its position would be shared by all workers that are forked."""
    path = tmp_path / "data.bin"
    path.write_bytes(b"x" * 4000)
    dataset = Waiting(wait_s=0.0)
    dataset.file = path.open("rb")
    fit(Model(0.0), LoaderTuner(), data=FastDataModule(dataset, batch_size=16, num_workers=0))
    assert "dataset.file is an open file" in lines()[0]
    dataset.file.close()


class Remembers(Callback):
    def on_train_start(self, trainer, pl_module):
        self.callbacks = list(trainer.callbacks)


def test_the_monitor_that_it_brings_is_silent_and_goes(lines, capsys):
    """It is there for the time of the fit; a monitor of the user's is used instead."""
    remembers, tuner = Remembers(), LoaderTuner()
    made = trainer(tuner, remembers)
    before = list(made.callbacks)
    profiler = made.profiler.start
    made.fit(Model(0.0), datamodule=FastDataModule(Waiting(wait_s=0.0), batch_size=16))
    assert len([one for one in remembers.callbacks if isinstance(one, DataWaitMonitor)]) == 1
    assert made.callbacks == before
    assert made.profiler.start == profiler
    assert "Data wait" not in capsys.readouterr().out
    own = DataWaitMonitor(summary=False, warn_above=None)
    made = fit(Model(0.0), own, tuner, remembers, data=FastDataModule(Waiting(wait_s=0.0), batch_size=16))
    assert [one for one in remembers.callbacks if isinstance(one, DataWaitMonitor)] == [own]
    assert own.summary().steps == 100


class Fails(Model):
    def training_step(self, batch, batch_idx):
        if batch_idx == 70:
            raise RuntimeError("the model's own")
        return super().training_step(batch, batch_idx)


def test_an_exception_leaves_nothing_behind():
    """After it the Trainer has the callbacks that it was given."""
    made = trainer(LoaderTuner())
    before = list(made.callbacks)
    with pytest.raises(RuntimeError, match="the model's own"):
        made.fit(Fails(), datamodule=FastDataModule(Waiting(), batch_size=16))
    assert made.callbacks == before


def test_a_fault_of_its_own_ends_the_tuning_alone(monkeypatch, lines):
    """With a line that says so."""

    def broken(*args):
        raise KeyError("ours")

    monkeypatch.setattr(session, "window_of", broken)
    model = Model(0.0)
    fit(model, LoaderTuner(), data=FastDataModule(Waiting(wait_s=0.0), batch_size=16))
    assert len(model.seen) == 100
    assert "stopped, the workers stay as they are: KeyError: 'ours'" in lines()[-1]


def test_loaders_that_are_made_anew_get_what_was_decided():
    """reload_dataloaders_every_n_epochs=1: the second epoch's loader has the workers that the first one ended with."""
    tuner = LoaderTuner()
    data = FastDataModule(Waiting(), batch_size=16)
    made = fit(Model(), until=tuner, data=data, reload_dataloaders_every_n_epochs=1)
    assert made.current_epoch >= 1
    assert tuner.result.trials[1].verdict == "kept"
    assert made.train_dataloader.num_workers == tuner.result.num_workers >= 3


def test_the_random_numbers_of_training_are_those_without_it():
    """Dropout and initialization must not hang on whether somebody tunes."""

    class Draws(Model):
        def training_step(self, batch, batch_idx):
            self.seen.append(torch.rand(1).item())
            time.sleep(self.step_s)
            return (self.weight - 1) ** 2

    seen = []
    for callbacks in ((), (LoaderTuner(),)):
        torch.manual_seed(3)
        model = Draws(0.002)
        made = fit(model, *callbacks, data=FastDataModule(Waiting(), batch_size=16))
        seen.append(model.seen)
    assert made.train_dataloader.num_workers > 1
    assert seen[0] == seen[1]


def test_a_run_that_ends_before_its_verdict_says_so(lines):
    """Measured, changed, and over."""
    tuner = LoaderTuner()
    made = fit(Model(), tuner, data=FastDataModule(Waiting(), batch_size=16), max_steps=60)
    assert "could be verified" in lines()[-1]
    assert lines()[-1] == f"LoaderTuner: {tuner.result.reason}"
    assert tuner.result.num_workers == tuner.result.trials[0].num_workers < made.train_dataloader.num_workers


def test_validation_between_the_steps_is_none_of_the_step():
    """Four validations an epoch, each as long as many steps."""

    class Validates(Model):
        def validation_step(self, batch, batch_idx):
            time.sleep(0.02)

    tuner = LoaderTuner()
    data = FastDataModule(Waiting(), Waiting(64, wait_s=0.0), batch_size=16)
    fit(Validates(), tuner, data=data, val_check_interval=5, limit_val_batches=1.0)
    assert tuner.result.trials[0].step_s < 0.05
    assert tuner.result.consumer.step_s < 0.02  # each fifth step has a validation of 80 ms behind it


def test_it_can_be_pickled_and_has_no_result_before_a_fit():
    """As callbacks are under ddp_spawn."""
    again = pickle.loads(pickle.dumps(LoaderTuner(allow_foreign=True)))
    with pytest.raises(FastDataError, match="no fit has begun"):
        again.result  # noqa: B018
    with pytest.raises(FastDataError, match="allow_foreign=1"):
        LoaderTuner(allow_foreign=1)


def test_nothing_is_warned_of():
    """A run with the tuner gives no warning that one without it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec")
        warnings.filterwarnings("ignore", message="You passed in a `val_dataloader` but have no")
        warnings.filterwarnings("ignore", message=".*interactive|.*`lightning` without a logger.*")
        made = fit(Model(), LoaderTuner(), data=FastDataModule(Waiting(), batch_size=16))
        assert made.train_dataloader.num_workers > 1


def test_a_sampler_of_the_users_changes_between_epochs():
    """Its order is drawn anew: our loader waits for the end of the epoch, which Lightning never asks it for."""
    dataset = Waiting(960)
    sampler = {"sampler": WeightedRandomSampler([1.0] * 960, 960)}
    seen = []
    for tuner in (None, LoaderTuner()):
        model = Model()
        data = FastDataModule(dataset, batch_size=16, seed=5, dataloader_kwargs={"train": sampler})
        made = fit(model, until=tuner, data=data) if tuner else fit(model, data=data, max_epochs=2)
        seen.append(model.seen)
    assert made.train_dataloader.num_workers == tuner.result.num_workers > 1
    assert tuner.result.trials[1].verdict == "kept"
    assert seen[1][: len(seen[0])] == seen[0][: len(seen[1])]


def test_a_foreign_loader_comes_back_as_it_was():
    """Its timeout, start method and workers that end with the epoch, after some time without any workers."""
    data = TensorDataset(torch.rand(64, 2))
    loader = DataLoader(data, 8, num_workers=2, timeout=30, multiprocessing_context="spawn", prefetch_factor=3)
    original, before = Original.of(loader), dict(vars(loader))
    change(loader, Setting(0, None), None, original)
    assert len(list(loader)) == 8  # torch refuses a timeout without workers
    change(loader, Setting(2, 3), None, original)
    assert dict(vars(loader)) == before


class Lazy(Sampler):
    """Draws from torch's generator, sample by sample."""

    def __iter__(self):
        return (int(torch.randint(1600, ())) for _ in range(1600))

    def __len__(self):
        return 1600


@pytest.mark.parametrize(
    ("more", "fit_more", "words"),
    [
        ({"sampler": Lazy()}, {"max_epochs": 2}, "may draw other random numbers"),
        ({}, {"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1}, "the Trainer makes new loaders"),
        ({}, {}, "changes between epochs only, and the run has one"),
    ],
)
def test_where_a_foreign_loader_cannot_change_it_is_advised(more, fit_more, words, lines):
    """And nothing is promised that could not be kept."""
    loader, tuner = DataLoader(TensorDataset(torch.rand(1600, 2)), 8, num_workers=4, **more), LoaderTuner()
    fit(Model(0.002), tuner, loader=loader, **fit_more)
    assert words in lines()[-1]
    assert loader.num_workers == 4
    assert tuner.result.num_workers == 4


def test_the_machine_that_changes_is_told_once(lines, tmp_path):
    """Waiting that comes back after the tuner has settled; not that of the bad plan before it."""

    class Changes(Waiting):
        slow = tmp_path / "slow"

        def __getitem__(self, index):
            time.sleep(0.01 * self.slow.exists())
            return super().__getitem__(index)

    class Slows(Callback):
        def on_train_epoch_start(self, trainer, *args):
            if tuner._session.controller is None and trainer.current_epoch > 1:
                Changes.slow.touch()

    tuner = LoaderTuner()
    fit(Model(0.02), tuner, Slows(), data=FastDataModule(Changes(1600), batch_size=16), max_epochs=5)
    told = [line for line in lines() if "the machine or the data has changed" in line]
    assert len(told) == 1
    assert "epoch 0" not in told[0]


def test_optimizers_that_lightning_has_not_wrapped():
    """``trainer.global_step`` stays at 0: windows are told apart all the same."""

    class Raw(Model):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.raw.zero_grad()
            loss.backward()
            self.raw.step()

        def configure_optimizers(self):
            self.raw = torch.optim.SGD(self.parameters(), lr=0.1)
            return []

    tuner = LoaderTuner()
    fit(Raw(), until=tuner, data=FastDataModule(Waiting(9600), batch_size=16))
    assert tuner.result.trials[1].step_s < 0.7 * tuner.result.trials[0].step_s
