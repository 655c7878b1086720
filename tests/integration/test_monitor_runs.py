"""The monitor in real runs: what it tells, what it leaves alone, what it survives."""

import json
import pickle
import re
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import EarlyStopping, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.tuner import Tuner
from monitor_cases import EvalNet, Net, Samples, Sleeper, near, quiet_monitor, quiet_trainer, three_tries

from lightning_fastdata import DataWaitMonitor, FastDataModule
from lightning_fastdata.callbacks.monitor.step_meter import StepMeter
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.run_file import read_run


class Log(DummyLogger):
    """Keeps what it was given."""

    def __init__(self, fail=False):
        super().__init__()
        self.lines, self.fail = [], fail

    def log_metrics(self, metrics, step=None):
        if self.fail:
            raise OSError("disk full")
        self.lines.append((step, dict(metrics)))

    def waits(self, key="data_wait/train_s"):
        return [(step, metrics[key]) for step, metrics in self.lines if key in metrics]


class Stop(Exception):  # noqa: N818
    pass


class Raising(Net):
    def __init__(self, at, error=Stop):
        super().__init__()
        self.at, self.error = at, error

    def training_step(self, batch, batch_idx):
        if batch_idx == self.at:
            raise self.error
        return self.loss(batch)


class Tunable(Net):
    lr = 1e-4

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def untouched(trainer):
    return not {"start", "stop"} & set(vars(trainer.profiler))


# What is told while it runs.


@three_tries
def test_mean_maximum_and_share_go_to_every_logger_at_lightnings_own_steps():
    class Logging(Net):
        def training_step(self, batch, batch_idx):
            self.log("loss", 1.0)
            return self.loss(batch)

    monitor, logs = quiet_monitor(), [Log(), Log()]
    loader = Sleeper(10)
    quiet_trainer(monitor, logger=logs, log_every_n_steps=4).fit(Logging(), loader)
    for log in logs:
        steps = [step for step, _ in log.waits()]
        assert steps == [3, 7, 9]
        assert steps[:2] == [step for step, metrics in log.lines if "loss" in metrics]
        assert near(log.waits()[0][1], sum(loader.truth[:4]) / 4, 1)
        assert log.waits("data_wait/train_s_max")[0][1] >= log.waits()[0][1]
        assert 0 < log.waits("data_wait/train_share")[0][1] < 1


def test_a_short_epoch_is_reported_when_it_ends():
    monitor, log = quiet_monitor(), Log()
    quiet_trainer(monitor, logger=log, log_every_n_steps=3, max_epochs=2).fit(Net(), Sleeper(3))
    assert [step for step, _ in log.waits()] == [2, 5]
    own = quiet_monitor(log_every_n_steps=50)
    quiet_trainer(own, logger=log, log_every_n_steps=1, max_epochs=2).fit(Net(), Sleeper(3))
    assert [step for step, _ in log.waits()][2:] == [2, 5]


def test_code_can_read_the_figures_without_any_logger():
    monitor = quiet_monitor(log_every_n_steps=2)
    trainer = quiet_trainer(monitor)
    trainer.fit(EvalNet(), Sleeper(4), Sleeper(2))
    assert {"data_wait/train_s", "data_wait/train_share", "data_wait/val_s"} <= set(trainer.callback_metrics)
    assert float(trainer.callback_metrics["data_wait/val_s"]) >= 0.004
    assert trainer.progress_bar_metrics["data_wait"] == pytest.approx(
        float(trainer.callback_metrics["data_wait/train_share"]), abs=1e-3
    )


def test_early_stopping_can_follow_the_wait():
    stopping = EarlyStopping("data_wait/train_share", stopping_threshold=1.0, patience=5, check_on_train_epoch_end=True)
    trainer = quiet_trainer(quiet_monitor(log_every_n_steps=2), stopping, max_epochs=4)
    trainer.fit(Net(), Sleeper(4))
    assert trainer.current_epoch == 1


def test_no_progress_bar_entry_when_not_wanted():
    trainer = quiet_trainer(quiet_monitor(prog_bar=False, log_every_n_steps=1))
    trainer.fit(Net(), Sleeper(2))
    assert "data_wait" not in trainer.progress_bar_metrics


def test_warnings_are_few_and_say_what_to_try():
    monitor = quiet_monitor(warn_above=0.01, max_warnings=2, log_every_n_steps=5)
    with pytest.warns(UserWarning, match="waited for data") as caught:
        quiet_trainer(monitor).fit(Net(), Sleeper(30))
    ours = [str(entry.message) for entry in caught if "waited for data" in str(entry.message)]
    assert len(ours) == 2
    assert "of the time in the last 5 steps" in ours[0]
    assert "more workers" in ours[0]


def test_a_loader_without_workers_is_told_about_workers():
    """Trap 20, in words: it is work, and a worker would take it where there is a core for one."""
    loader = torch.utils.data.DataLoader(Samples(40, 0.003), batch_size=2)
    monitor = quiet_monitor(warn_above=0.0, max_warnings=1, log_every_n_steps=5)
    with pytest.warns(UserWarning, match="num_workers=|there is one core"):
        quiet_trainer(monitor).fit(Net(), loader)
    assert monitor.summary().num_workers == 0


def test_a_failing_logger_stops_neither_training_nor_measurement():
    monitor = quiet_monitor(log_every_n_steps=2)
    trainer = quiet_trainer(monitor, logger=Log(fail=True), log_every_n_steps=8)
    with pytest.warns(UserWarning, match="a logger refused the data wait") as caught:
        trainer.fit(Net(), Sleeper(8))
    assert len([entry for entry in caught if "refused" in str(entry.message)]) == 1
    assert monitor.summary().steps == 8


# What is told at the end.


def test_a_table_at_the_end(capsys):
    trainer = quiet_trainer(DataWaitMonitor(warn_above=None))
    trainer.fit(EvalNet(), Sleeper(4), Sleeper(2))
    text = capsys.readouterr().out
    for words in (
        "Data wait / training time",
        "95th percentile",
        "First batch of epoch 0",
        "Validation",
        "Input-bound: ",
    ):
        assert words in text
    trainer.test(EvalNet(), Sleeper(2), verbose=False)
    text = capsys.readouterr().out
    assert "Test " in text
    assert "Data wait / training time" not in text


@pytest.mark.parametrize(("error", "ends"), [(Stop, Stop), (KeyboardInterrupt, SystemExit)])
def test_what_was_measured_before_a_crash_is_told(error, ends, capsys, tmp_path):
    """Traps 25 and 38: Lightning calls no teardown then. Ctrl-C is no different."""
    monitor = DataWaitMonitor(warn_above=None, save_to=tmp_path / "run.jsonl")
    trainer = quiet_trainer(monitor, accumulate_grad_batches=2)
    with pytest.raises(ends):
        trainer.fit(Raising(at=5, error=error), Sleeper(8))
    assert untouched(trainer)
    assert re.search(r"Status +interrupted", capsys.readouterr().out)
    run = read_run(tmp_path / "run.jsonl")
    records, summary = run.records, run.summary
    assert (len(records), summary.steps, summary.status) == (2, 2, "interrupted")
    assert summary.tail_wait_s >= 0.008
    assert monitor.summary().steps == 2


def test_figures_can_be_read_in_mid_run():
    seen = []

    class Reading(Callback):
        def on_train_batch_end(self, *args):
            seen.append((monitor.summary().steps, monitor.summary().status))

    monitor = quiet_monitor()
    quiet_trainer(monitor, Reading()).fit(Net(), Sleeper(3))
    assert seen == [(1, "running"), (2, "running"), (3, "running")]
    assert monitor.summary().status == "finished"


def test_before_any_run_it_says_what_to_do():
    for ask in (quiet_monitor().summary, quiet_monitor().records):
        with pytest.raises(FastDataError, match=r"trainer\.fit"):
            ask()


# The run file.


def test_the_run_file_holds_every_step_and_the_summary(tmp_path):
    path = tmp_path / "new" / "folder" / "run.jsonl"
    monitor = quiet_monitor(save_to=path, log_every_n_steps=3)
    quiet_trainer(monitor, max_epochs=2).fit(Net(), Sleeper(5))
    run = read_run(path)
    header, records, summary = run.header, run.records, run.summary
    assert header["versions"]["lightning"]
    assert [record.step for record in records] == list(range(10))
    assert summary.to_dict() == json.loads(json.dumps(monitor.summary().to_dict()))


def test_an_evaluation_does_not_replace_the_file_of_the_fit(tmp_path):
    monitor = quiet_monitor(save_to=tmp_path / "run.jsonl")
    trainer = quiet_trainer(monitor)
    trainer.fit(EvalNet(), Sleeper(3), Sleeper(1))
    trainer.test(EvalNet(), Sleeper(2), verbose=False)
    assert len(read_run(tmp_path / "run.jsonl").records) == 3


def test_a_path_that_cannot_be_written_is_said_before_training(tmp_path):
    model, loader = Net(), Sleeper(2)
    with pytest.raises(FastDataError, match="cannot write there"):
        quiet_trainer(quiet_monitor(save_to=tmp_path)).fit(model, loader)
    assert loader.iterations == 0


def test_a_disk_that_fills_up_costs_the_file_and_not_the_run(tmp_path, monkeypatch):
    from lightning_fastdata.results.run_file_writer import RunFileWriter

    def full(self, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFileWriter, "write_steps", full)
    monitor = quiet_monitor(save_to=tmp_path / "run.jsonl", log_every_n_steps=2)
    with pytest.warns(UserWarning, match="gets no more records"):
        quiet_trainer(monitor).fit(Net(), Sleeper(6))
    assert monitor.summary().steps == 6
    assert "incomplete" in monitor.summary().notes[0]


# What it measures in unusual runs.


@three_tries
def test_a_slow_transfer_is_no_wait():
    """Traps 2 and 3."""

    class Moving(Net):
        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            time.sleep(0.01)
            return batch

        def on_after_batch_transfer(self, batch, dataloader_idx):
            time.sleep(0.02)
            return batch

    monitor, loader = quiet_monitor(), Sleeper(6)
    quiet_trainer(monitor).fit(Moving(), loader)
    summary = monitor.summary()
    assert near(summary.wait_s, sum(loader.truth), 6)
    assert near(summary.transfer_s, 6 * 0.01, 6)
    assert summary.other_s >= 6 * 0.02


@three_tries
def test_the_sanity_check_is_in_no_statistics():
    """Trap 28."""
    monitor, val = quiet_monitor(), Sleeper(3)
    quiet_trainer(monitor, num_sanity_val_steps=2).fit(EvalNet(), Sleeper(4), val)
    (stage,) = monitor.summary().stages
    assert (stage.runs, stage.batches) == (1, 3)
    assert near(stage.wait_s, sum(val.truth[2:]), 3)


@pytest.mark.filterwarnings("ignore:.*yielded None")
@three_tries
def test_a_batch_of_none_leaves_its_wait_to_the_next_step():
    """Trap 36."""
    loader = Sleeper(6, give=lambda number: None if number == 2 else torch.ones(4, 2))
    monitor = quiet_monitor()
    quiet_trainer(monitor).fit(Net(), loader)
    assert [record.fetches for record in monitor.records()] == [1, 1, 2, 1, 1]
    assert near(monitor.summary().wait_s, sum(loader.truth), 6)


@three_tries
def test_an_epoch_that_the_model_skips_leaves_its_wait_in_the_totals():
    """Trap 36: on_train_batch_start gives -1."""

    class Skipping(Net):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 2 else None

    monitor, loader = quiet_monitor(), Sleeper(6)
    quiet_trainer(monitor, max_epochs=2).fit(Skipping(), loader)
    summary = monitor.summary()
    assert summary.steps == 4
    assert near(summary.wait_s, sum(loader.truth), 6)
    assert near(summary.tail_wait_s, loader.truth[2] + loader.truth[5], 2)
    assert [record.fetches for record in monitor.records()] == [1] * 4


def test_manual_optimization_groups_by_the_optimizers_steps():
    class Manual(Net):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.manual_backward(self.loss(batch))
            if batch_idx % 3 == 2:
                self.optimizers().step()

    monitor = quiet_monitor()
    quiet_trainer(monitor).fit(Manual(), Sleeper(7))
    assert [record.batches for record in monitor.records()] == [3, 3, 1]
    assert [record.step for record in monitor.records()] == [0, 1, 2]


@three_tries
def test_barebones_works():
    """Trap 41."""
    monitor = quiet_monitor()
    trainer = quiet_trainer(
        monitor,
        barebones=True,
        logger=None,
        enable_checkpointing=None,
        enable_progress_bar=None,
        enable_model_summary=None,
        num_sanity_val_steps=None,
    )
    loader = Sleeper(5)
    trainer.fit(Net(), loader)
    assert near(monitor.summary().wait_s, sum(loader.truth), 5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [PassThroughProfiler, SimpleProfiler, AdvancedProfiler, PyTorchProfiler])
@three_tries
def test_a_profiler_of_the_users_works_as_before(make, tmp_path):
    """Traps 26 and 46."""
    profiler = make(dirpath=tmp_path, export_to_chrome=False) if make is PyTorchProfiler else make()
    monitor, loader = quiet_monitor(), Sleeper(4, 0.02)
    trainer = quiet_trainer(monitor, profiler=profiler)
    trainer.fit(Net(), loader)
    assert trainer.profiler is profiler
    assert type(profiler) is make
    assert untouched(trainer)
    assert near(monitor.summary().wait_s, sum(loader.truth), 4)
    if make is SimpleProfiler:
        table = profiler.summary()
        assert "train_dataloader_next" in table
        assert "fastdata" not in table
        assert len(profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]) == 4


def test_two_fits_are_two_runs_and_a_test_keeps_the_training_figures():
    """Trap 47."""
    monitor = quiet_monitor()
    trainer = quiet_trainer(monitor)
    trainer.fit(EvalNet(), Sleeper(6), Sleeper(2))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(EvalNet(), Sleeper(3), Sleeper(2))
    assert monitor.summary().steps == 3
    for _ in range(2):
        trainer.test(EvalNet(), Sleeper(4), verbose=False)
    trainer.predict(EvalNet(), Sleeper(5))
    stages = {stage.stage: stage for stage in monitor.summary().stages}
    assert monitor.summary().steps == 3
    assert {name: (stage.runs, stage.batches) for name, stage in stages.items()} == {
        "val": (1, 2),
        "test": (1, 4),
        "predict": (1, 5),
    }
    assert stages["test"].wait_s >= 0.016
    assert untouched(trainer)


def test_an_evaluation_alone_has_a_summary():
    monitor = quiet_monitor()
    quiet_trainer(monitor).validate(EvalNet(), Sleeper(3), verbose=False)
    summary = monitor.summary()
    assert (summary.steps, summary.stages[0].batches) == (0, 3)
    assert (summary.ledger, summary.total_s) == ({}, None)
    assert summary.verdict.text.startswith("Input-bound: ")
    assert summary.timing_source == "fetch"


@pytest.mark.filterwarnings("ignore")
@three_tries
def test_the_fits_of_a_learning_rate_finder_are_not_ours():
    """Trap 30, as a callback, before and in the middle of the run."""
    monitor, loader = quiet_monitor(), Sleeper(4, 0.01)
    inner = set()

    class Finder(LearningRateFinder):
        def lr_find(self, trainer, pl_module):
            before = len(loader.truth)
            super().lr_find(trainer, pl_module)
            inner.update(range(before, len(loader.truth)))

        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                self.lr_find(trainer, pl_module)

    quiet_trainer(monitor, Finder(num_training_steps=12, update_attr=True), max_epochs=2).fit(Tunable(), loader)
    summary = monitor.summary()
    assert summary.steps == 8
    ours = [took for number, took in enumerate(loader.truth) if number not in inner]
    assert len(ours) == 8
    assert near(summary.wait_s, sum(ours), 8)
    assert summary.resumed_from is None


@pytest.mark.filterwarnings("ignore")
def test_a_tuner_leaves_nothing_behind():
    """Trap 30: it ends by an exception of Lightning's own."""
    monitor, model, loader = quiet_monitor(), Tunable(), Sleeper(4)
    trainer = quiet_trainer(monitor)
    Tuner(trainer).lr_find(model, loader, num_training=10)
    assert untouched(trainer)
    assert monitor.summary().steps == 0
    trainer.fit(model, Sleeper(4))
    assert monitor.summary().steps == 4


@pytest.mark.timed
def test_two_monitors_on_one_trainer():
    first, second = quiet_monitor(), quiet_monitor(log_every_n_steps=3)
    trainer = quiet_trainer(first, second)
    trainer.fit(Net(), Sleeper(5, sized=False))
    assert first.summary().wait_s == pytest.approx(second.summary().wait_s, abs=0.005)
    assert [record.fetches for record in first.records()] == [record.fetches for record in second.records()]
    assert untouched(trainer)


@three_tries
def test_a_clock_that_is_set_back_changes_nothing(monkeypatch):
    """Trap 31."""
    monkeypatch.setattr(time, "time", iter(range(10**9, 0, -1)).__next__)
    monitor, loader = quiet_monitor(), Sleeper(4)
    quiet_trainer(monitor).fit(Net(), loader)
    assert near(monitor.summary().wait_s, sum(loader.truth), 4)


# What it survives.


def test_a_renamed_label_gives_one_warning_and_no_figures(monkeypatch):
    """Trap 42."""
    from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

    for hook, call in (("_on_before_fetch", "start"), ("_on_after_fetch", "stop")):
        monkeypatch.setattr(
            _TrainingEpochLoop, hook, lambda self, call=call: getattr(self.trainer.profiler, call)("new_name")
        )
    monitor, log = quiet_monitor(log_every_n_steps=2), Log()
    trainer = quiet_trainer(monitor, logger=log, log_every_n_steps=2, max_epochs=2)
    with pytest.warns(UserWarning, match="saw no fetch in 5 batches") as caught:
        trainer.fit(Net(), Sleeper(8))
    assert len([entry for entry in caught if "saw no fetch" in str(entry.message)]) == 1
    summary = monitor.summary()
    assert (summary.steps, summary.wait_s, summary.timing_source) == (16, None, "not measured")
    assert monitor.records()[0].wait_s is None
    assert log.waits() == []


@three_tries
def test_a_missing_private_name_is_noted_and_the_rest_is_measured(monkeypatch):
    from lightning.pytorch.loops import fit_loop

    from lightning_fastdata.compat import lightning_monitoring

    monkeypatch.setattr(lightning_monitoring, "_SELECT", "_gone")
    monitor, loader = quiet_monitor(), Sleeper(4, 0.01, sized=False)
    quiet_trainer(monitor).fit(Net(), loader)
    assert "not measured" in monitor.summary().notes[0]
    assert near(monitor.summary().wait_s, sum(loader.truth[1:]), 4)
    assert fit_loop._select_data_fetcher


def broken(*args):
    raise ZeroDivisionError("mine")


@pytest.mark.parametrize(
    ("name", "batches"), [("close_step", 4), ("train_fetch", 4), ("add_stage_batch", 4), ("end_batch", 8)]
)
def test_a_fault_of_its_own_costs_nobody_a_training(name, batches, monkeypatch):
    """Every hook is guarded: one warning that names the fault, and no second one that blames Lightning."""
    monitor = quiet_monitor()

    class Odd(EvalNet):
        def on_train_start(self):
            if name == "end_batch":
                monitor._session.end_batch = broken

    if name != "end_batch":
        monkeypatch.setattr(StepMeter, name, broken)
    trainer, loader = quiet_trainer(monitor), Sleeper(batches)
    with pytest.warns(UserWarning, match="stopped measuring: ZeroDivisionError: mine") as caught:
        trainer.fit(Odd(), loader, Sleeper(2))
    assert len([entry for entry in caught if "DataWaitMonitor" in str(entry.message)]) == 1
    assert (len(loader.truth), trainer.state.finished) == (batches, True)
    assert untouched(trainer)
    assert "an error of its own" in monitor.summary().notes[0]


def test_it_crosses_process_borders_before_and_after_a_run(tmp_path):
    """Trap 27."""
    monitor = quiet_monitor(save_to=tmp_path / "run.jsonl")
    assert pickle.loads(pickle.dumps(monitor)).state_key == monitor.state_key
    quiet_trainer(monitor).fit(Net(), Sleeper(3))
    again = pickle.loads(pickle.dumps(monitor))
    quiet_trainer(again).fit(Net(), Sleeper(2))
    assert again.summary().steps == 2


def test_setup_twice_without_a_teardown_patches_once():
    monitor = quiet_monitor()
    trainer = quiet_trainer(monitor)
    for _ in range(2):
        monitor.setup(trainer, Net(), "fit")
    monitor.teardown(trainer, Net(), "fit")
    assert untouched(trainer)


def test_it_goes_through_a_checkpoint(tmp_path):
    saving = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=3)
    monitors = [quiet_monitor(), quiet_monitor(prog_bar=False)]
    quiet_trainer(*monitors, saving, enable_checkpointing=True).fit(Net(), Sleeper(3))
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert {key for key in state if key.startswith("DataWaitMonitor")} == {monitor.state_key for monitor in monitors}
    fresh = quiet_monitor()
    fresh.load_state_dict(state[monitors[0].state_key])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer(fresh, max_epochs=2).fit(Net(), Sleeper(3), ckpt_path=str(tmp_path / "last.ckpt"))
    assert fresh.summary().resumed_from["steps"] == 3


@pytest.mark.parametrize("state", [{}, {"steps": "many"}, {"something": "else"}, {"schema": 99, "steps": None}])
def test_a_foreign_state_is_left_alone(state):
    monitor = quiet_monitor()
    trainer = quiet_trainer(monitor)
    monitor.setup(trainer, Net(), "fit")
    monitor.load_state_dict(state)
    assert monitor.summary().resumed_from is None
    monitor.teardown(trainer, Net(), "fit")


class Planned(LightningDataModule):
    """Has plans of its own, whatever those are."""

    def __init__(self, plan):
        super().__init__()
        self.plans = {"train": SimpleNamespace(to_dict=lambda: plan), "other": object()}

    def train_dataloader(self):
        return Sleeper(12)


@pytest.mark.parametrize("plan", [{"num_workers": 0}, None])
def test_plans_of_a_data_module_that_is_not_ours_are_left_alone(plan):
    """It may keep anything under that name; training goes on."""
    monitor = quiet_monitor(warn_above=0.0, log_every_n_steps=5, max_warnings=1)
    with pytest.warns(UserWarning, match="waited for data"):
        quiet_trainer(monitor, max_epochs=2).fit(Net(), datamodule=Planned(plan))
    assert monitor.summary().plans == {}
    assert monitor.summary().status == "finished"


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`", "ignore:You passed in a `val_dataloader`")
def test_an_evaluation_leaves_the_fit_as_it_ended():
    """A fit that was interrupted stays so, with its plans, when something is tested after it."""
    monitor = quiet_monitor()
    trainer = quiet_trainer(monitor)
    with pytest.raises(Stop):
        trainer.fit(Raising(at=2), datamodule=FastDataModule(Samples(12), batch_size=1, num_workers=0))
    tested = FastDataModule(test_dataset=Samples(2), batch_size=1, num_workers=0)
    trainer.test(EvalNet(), datamodule=tested, verbose=False)
    summary = monitor.summary()
    assert (summary.status, summary.steps) == ("interrupted", 2)
    assert set(summary.plans) == {"train", "test"}
