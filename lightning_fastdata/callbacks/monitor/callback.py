"""The callback: carries what Lightning's hooks know to the meter, and what the meter finds to the outside."""

import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_fastdata.callbacks.guard import guarded
from lightning_fastdata.callbacks.monitor.arguments import check_arguments
from lightning_fastdata.callbacks.monitor.console import end_progress_bar, print_summary
from lightning_fastdata.callbacks.monitor.live_metrics import LiveReport, NoReport
from lightning_fastdata.callbacks.monitor.run_info import RunInfo
from lightning_fastdata.callbacks.monitor.session import MonitorSession
from lightning_fastdata.callbacks.monitor.step_meter import StepMeter
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import probe
from lightning_fastdata.results.records import SCHEMA, StepRecord
from lightning_fastdata.results.run_file import path_of_rank
from lightning_fastdata.results.run_file_writer import RunFileWriter
from lightning_fastdata.results.summary import RunSummary

if TYPE_CHECKING:
    from lightning.pytorch import Callback as Base
else:
    Base = object  # so that neither Lightning package is imported here

__all__ = ["DataWaitMonitorMixin", "only_measuring"]

M = TypeVar("M", bound="DataWaitMonitorMixin")
_STAGE_OF = {"validate": "val", "test": "test", "predict": "predict"}


class DataWaitMonitorMixin(Base):
    """Reports how long each training step waited for data.

    Add it to any Trainer, with any loader; nothing else changes. The wait is timed at the real fetch, on the training
    thread, so transfers, other callbacks, loggers, checkpoints and validation are no part of it. Starting the workers
    of an epoch is none either: Lightning does it outside the fetch; it is in the step's ``other_s``.

    Args:
        log_every_n_steps: Steps between two reports (count); None takes the Trainer's own.
        prog_bar: Whether the share of waiting appears in the progress bar, as ``data_wait``.
        save_to: File for the steps of each fit, as JSON lines; one that is there is replaced. Rank 1 writes to
            ``name.rank1.suffix``, and so on. ``run_file.read_run`` reads it.
        summary: Whether a table is printed at the end, also of a run that was interrupted.
        warn_above: Share of waiting above which a warning is given, 0..1; None for never.
        max_warnings: Warnings in one run (count).
        device_events: Whether, on CUDA, a pair of events around each fetch tells how long the device had nothing to do.

    While training, ``data_wait/train_s`` (mean wait of a step since the last report, in s), ``data_wait/train_s_max``
    and ``data_wait/train_share`` go to every logger and to ``trainer.callback_metrics``; after each evaluation
    ``data_wait/val_s``, ``_s_max`` and ``_share`` (or ``test``). Each rank measures itself; rank 0 logs and prints.

    Raises:
        FastDataError: An argument that cannot be meant; or, when a run begins, a file that cannot be written.

    Example::

        monitor = DataWaitMonitor(save_to="run.jsonl")
        Trainer(callbacks=[monitor]).fit(model, datamodule)
        monitor.summary().wait_share
    """

    def __init__(
        self,
        log_every_n_steps: int | None = None,
        prog_bar: bool = True,
        save_to: str | os.PathLike[str] | None = None,
        summary: bool = True,
        warn_above: float | None = 0.2,
        max_warnings: int = 3,
        device_events: bool = True,
    ) -> None:
        super().__init__()
        check_arguments(log_every_n_steps, warn_above, max_warnings, save_to)
        self._log_every_n_steps = log_every_n_steps
        self._prog_bar = bool(prog_bar)
        self._save_to = None if save_to is None else os.fspath(save_to)
        self._print_summary = bool(summary)
        self._warn_above = warn_above
        self._max_warnings = max_warnings
        self._device_events = bool(device_events)
        self._tells = True
        self._state_key = self._make_state_key()
        self._run: MonitorSession | None = None

    # Results.

    def records(self) -> list[StepRecord]:
        """The steps of this rank, oldest first; the last 10,000 of a longer run.

        Raises:
            FastDataError: Nothing was run yet.
        """
        return list(self._measured().up_to_date.records())

    def summary(self) -> RunSummary:
        """What was measured so far, in the middle of a run or after it; sums count every step.

        Raises:
            FastDataError: Nothing was run yet.
        """
        return self._measured().summary()

    def plot(self) -> Any:
        """The run as a figure, for notebooks.

        Returns:
            ``matplotlib.figure.Figure``.

        Raises:
            FastDataError: Nothing was run yet, or matplotlib is not installed.
        """
        from lightning_fastdata.report.plots import plot_run

        return plot_run(self.summary(), self.records())

    def _measured(self) -> MonitorSession:
        if self._run is None:
            raise FastDataError(
                "DataWaitMonitor has nothing to report: no run has begun in this process.",
                expected="a Trainer that was given this very object and has started",
                fix="Call trainer.fit(...) with Trainer(callbacks=[monitor]) first; under a spawning strategy the"
                " figures stay in the child processes, so pass save_to and read the file.",
            )
        return self._run

    # A run begins.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Start listening. A new fit starts from zero; an evaluation keeps the training figures before it."""
        if self._run is not None and self._run.listening is not None:
            self._run.stop(trainer, "interrupted")  # whoever ran before did not say goodbye
            self._run.close_sink()
        fitting = stage == "fit"
        if fitting or self._run is None:
            self._run = self._new_run(trainer, to_file=fitting)
        else:
            self._run.up_to_date.forget_stage(_STAGE_OF.get(stage, stage))
        try:
            self._run.listen(trainer, pl_module, self, self._give_up, fitting=fitting)
        except Exception as error:
            self._give_up(error)

    def _new_run(self, trainer: Any, *, to_file: bool) -> MonitorSession:
        facts = RunInfo.of(trainer)
        sink, hardware = None, probe().to_dict()
        if to_file and self._save_to is not None:
            header = {**asdict(facts), "hardware": hardware}  # for the report of a run that is killed
            sink = RunFileWriter(path_of_rank(self._save_to, facts.rank), header)
        interval = self._log_every_n_steps
        live = LiveReport(prog_bar=self._prog_bar, warn_above=self._warn_above, max_warnings=self._max_warnings)
        return MonitorSession(
            facts=facts,
            live=live if self._tells else NoReport(),
            meter=StepMeter(time.perf_counter, rank=facts.rank),
            sink=sink,
            interval=0 if not self._tells else int(trainer.log_every_n_steps or 0) if interval is None else interval,
            device_events=self._device_events,
            hardware=hardware,
            place=_place(self, trainer),
        )

    # Training.

    @guarded
    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """The sanity check is nobody's time."""
        if self._run is not None:
            self._run.up_to_date.go_away(time.perf_counter())

    @guarded
    def on_sanity_check_end(self, trainer: Any, pl_module: Any) -> None:
        """The sanity check is over."""
        if self._run is not None:
            self._run.up_to_date.come_back(time.perf_counter())

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Learn what is being trained."""
        if self._run is None:
            return
        try:
            self._run.start_training(trainer, pl_module)
        except Exception as error:
            self._give_up(error)

    @guarded
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """The next step is the first of its epoch."""
        if self._run is not None:
            self._run.start_epoch(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End the step, if the optimizer did."""
        run = self._run
        if run is None:
            return
        try:
            due = run.end_batch(trainer, batch, batch_idx)
        except Exception as error:
            self._give_up(error)
            return
        if due:
            self._tell_window(run, trainer)
        if not run.hears and (warning := run.heard_nothing()) and trainer.is_global_zero:
            warnings.warn(warning, stacklevel=2)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Report what is left of the epoch, however short it was."""
        if self._run is not None:
            self._end_epoch(self._run)
            self._tell_window(self._run, trainer, step_offset=-1)

    @guarded
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Loaders and loops are shut down now."""
        if self._run is not None:
            self._run.enter("shutdown")

    @guarded
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """They are shut down."""
        if self._run is not None:
            self._run.enter("after")

    def _end_epoch(self, run: MonitorSession) -> None:
        try:
            run.end_epoch()
        except Exception as error:
            self._give_up(error)

    def _tell_window(self, run: MonitorSession, trainer: Any, *, step_offset: int = 0) -> None:
        try:
            window = run.take_window()
            if window is None:
                return
            run.live.tell_window(trainer, window, to_loggers=run.interval > 0, step_offset=step_offset)
            loss = run.loss()
        except Exception as error:
            self._give_up(error)
            return
        if loss and trainer.is_global_zero:
            warnings.warn(f"DataWaitMonitor: {loss} The training is not affected.", stacklevel=2)
        run.live.warn_if_slow(trainer, window, run.advice)

    # Evaluation.

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """From here on the time is validation's."""
        self._start_stage(trainer, pl_module, "val")

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """From here on the time is the test's."""
        self._start_stage(trainer, pl_module, "test")

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """From here on the time is prediction's."""
        self._start_stage(trainer, pl_module, "predict")

    @guarded
    def _start_stage(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._run is not None and not trainer.sanity_checking:
            self._run.start_stage(pl_module, stage)

    # Lightning leaves dataloader_idx out where there is one loader, or where a batch is of several.

    @guarded
    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int | None = None,
    ) -> None:
        """Count the batch."""
        if self._run is not None and not trainer.sanity_checking:
            self._run.end_stage_batch("val", dataloader_idx)

    @guarded
    def on_test_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int | None = None,
    ) -> None:
        """Count the batch."""
        if self._run is not None:
            self._run.end_stage_batch("test", dataloader_idx)

    @guarded
    def on_predict_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int | None = None,
    ) -> None:
        """Count the batch."""
        if self._run is not None:
            self._run.end_stage_batch("predict", dataloader_idx)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Report this validation; the time is training's again."""
        self._end_stage(trainer, "val")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the test."""
        self._end_stage(trainer, "test")

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the prediction; Lightning has no logger step for it."""
        self._end_stage(trainer, "predict")

    def _end_stage(self, trainer: Any, stage: str) -> None:
        if self._run is None or trainer.sanity_checking:
            return
        try:
            stage_run = self._run.end_stage(stage)
            if stage_run is not None:
                to_loggers = stage != "predict" and self._run.interval > 0
                self._run.live.tell_stage(trainer, stage_run, to_loggers=to_loggers)
        except Exception as error:
            self._give_up(error)

    # A run ends. After an exception Lightning calls on_exception and no teardown.

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Undo the seam, close the file, print the table."""
        self._finish(trainer, pl_module, "finished", stage)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The same, for what was measured until then."""
        function = getattr(getattr(trainer, "state", None), "fn", None)
        self._finish(trainer, pl_module, "interrupted", str(getattr(function, "value", "fit")))

    def _finish(self, trainer: Any, pl_module: Any, status: str, stage: str) -> None:
        run = self._run
        if run is None or run.listening is None:
            return
        try:
            run.stop(trainer, status, fitting=stage == "fit")
            run.close_sink()
            if self._print_summary and trainer.is_global_zero:
                end_progress_bar(trainer, pl_module, stage)
                print_summary(run.summary(), _STAGE_OF.get(stage))
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """A fault of our own must not cost anybody a training."""
        run = self._run
        if run is None or "fault" in run.notes:
            return
        run.notes["fault"] = f"The measurement stopped on an error of its own ({type(error).__name__}: {error})."
        run.steps = None
        if run.listening is not None:
            run.listening.restore()
        warnings.warn(
            f"DataWaitMonitor stopped measuring: {type(error).__name__}: {error}. The training goes on; please report"
            " this.",
            stacklevel=2,
        )

    # Checkpoints and process borders.

    @property
    def state_key(self) -> str:
        """Tells monitors with different arguments apart in a checkpoint."""
        return self._state_key

    def _make_state_key(self) -> str:
        # Lightning writes it into a label at every hook, so the usual one is short. The file is left out: a run that
        # goes on from a checkpoint is given another one, and is the same run all the same.
        given = {
            "log_every_n_steps": (self._log_every_n_steps, None),
            "prog_bar": (self._prog_bar, True),
            "summary": (self._print_summary, True),
            "warn_above": (self._warn_above, 0.2),
            "max_warnings": (self._max_warnings, 3),
        }
        changed = {name: value for name, (value, default) in given.items() if value != default}
        return f"{type(self).__qualname__}{changed or ''}"

    def state_dict(self) -> dict[str, Any]:
        """Three sums, so that a run that goes on from a checkpoint knows what came before."""
        state = {} if self._run is None or not self._tells else self._run.state()
        return {"schema": SCHEMA, **state} if state else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the sums; what another version wrote and this one cannot read is left alone."""
        run = self._run
        if run is None or state_dict.get("run_id") == run.run_id:  # a tuner restores its own run
            return
        before = {name: state_dict.get(name) for name in ("steps", "train_s", "wait_s")}
        if all(isinstance(value, (int, float)) for value in before.values()):
            run.resumed_from = {name: value for name, value in before.items() if value is not None}

    def __getstate__(self) -> dict[str, Any]:
        # Clocks, files and the seam stay in their process; Lightning itself hangs log and log_dict onto callbacks.
        return {name: value for name, value in vars(self).items() if name not in ("log", "log_dict")} | {"_run": None}


def only_measuring(monitor_class: type[M]) -> M:
    """A monitor that tells nobody and leaves nothing in checkpoints, for a callback that reads it.

    Args:
        monitor_class: The monitor of the Lightning package in use.
    """
    monitor = monitor_class(prog_bar=False, summary=False, warn_above=None)
    monitor._tells = False
    return monitor


def _place(monitor: DataWaitMonitorMixin, trainer: Any) -> int:
    """Which of the monitors it is (index); other callbacks may be on one rank only."""
    monitors = [callback for callback in trainer.callbacks if isinstance(callback, DataWaitMonitorMixin)]
    return next((place for place, other in enumerate(monitors) if other is monitor), 0)
