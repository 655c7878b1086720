"""The callback: hands Lightning's hooks on to the session, and reports what the session measured."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from lightning_fastdata.callbacks.guard import CallbackBase, guarded, state_without
from lightning_fastdata.callbacks.monitor.console import end_progress_bar, print_summary
from lightning_fastdata.callbacks.monitor.live_metrics import LiveReport
from lightning_fastdata.callbacks.monitor.run_info import RunInfo
from lightning_fastdata.callbacks.monitor.session import MonitorSession
from lightning_fastdata.errors import FastDataError, check_int, check_share, warn
from lightning_fastdata.hardware.detect import probe
from lightning_fastdata.results.records import SCHEMA, StepRecord
from lightning_fastdata.results.run_file import path_of_rank
from lightning_fastdata.results.run_file_writer import RunFileWriter
from lightning_fastdata.results.summary import RunSummary

__all__ = ["DataWaitMonitorMixin", "only_measuring"]

M = TypeVar("M", bound="DataWaitMonitorMixin")
# The arguments by which checkpoints know a monitor, and what they are where you say nothing.
_USUAL = {"log_every_n_steps": None, "prog_bar": True, "summary": True, "warn_above": 0.2, "max_warnings": 3}
_STAGE_OF = {"validate": "val", "test": "test", "predict": "predict"}


class DataWaitMonitorMixin(CallbackBase):
    """Reports how long each training step waited for data.

    Add it to any Trainer, with any loader; nothing else changes. The wait is timed at the real fetch, on the training
    thread, so transfers, other callbacks, loggers, checkpoints and validation are no part of it. Starting an epoch's
    workers is no part of it either, because Lightning does that outside the fetch: it is in the step's ``other_s``.

    Args:
        log_every_n_steps: Steps between two reports (count); None takes the Trainer's own.
        prog_bar: Whether the data wait appears in the progress bar, as ``data_wait``.
        save_to: File for the steps of each fit, as JSON lines; an older one is replaced. Rank 1 writes to
            ``name.rank1.suffix``, and so on. ``run_file.read_run`` reads it.
        summary: Whether a table is printed at the end, also of a run that was interrupted.
        warn_above: Data wait above which a warning is given (share of the training time, 0..1); None for never.
        max_warnings: Warnings in one run (count).
        device_events: Whether, on CUDA, a pair of events around each fetch measures how long the device was starved.

    While training, ``data_wait/train_s`` (mean wait of a step since the last report, in s), ``data_wait/train_s_max``
    and ``data_wait/train_share`` go to every logger and to ``trainer.callback_metrics``; after each evaluation
    ``data_wait/val_s``, ``_s_max`` and ``_share`` (or ``test``). Each rank measures itself; rank 0 logs and prints.

    Raises:
        FastDataError: An argument has no meaning; or, when a run begins, the file cannot be written.

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
        if save_to is not None and (not isinstance(save_to, (str, os.PathLike)) or not os.fspath(save_to)):
            expected = "the path of a file, or None for no file."
            raise FastDataError(f"save_to={save_to!r}.", expected=expected, fix="change save_to, or leave it out.")
        self._log_every_n_steps: int | None = check_int("log_every_n_steps", log_every_n_steps, 1, allow=(None,))
        self._prog_bar = bool(prog_bar)
        self._save_to = None if save_to is None else os.fspath(save_to)
        self._print_summary = bool(summary)
        self._warn_above: float | None = check_share("warn_above", warn_above, allow=(None,))
        self._max_warnings: int = check_int("max_warnings", max_warnings, 0)
        self._device_events = bool(device_events)
        self._silent = False
        # Lightning writes it into a label at every hook, so the usual one is short. The file is left out: a run that
        # goes on from a checkpoint is given another one, and is the same run all the same.
        given = (log_every_n_steps, self._prog_bar, self._print_summary, warn_above, max_warnings)
        changed = {name: value for (name, usual), value in zip(_USUAL.items(), given, strict=True) if value != usual}
        self._state_key = f"{type(self).__qualname__}{changed or ''}"
        self._session: MonitorSession | None = None

    # Results.

    def records(self) -> list[StepRecord]:
        """The steps of this rank, oldest first; the last 10,000 of a longer run.

        Raises:
            FastDataError: Nothing was run yet.
        """
        return list(self._measured().meter.records)

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
        if self._session is None:
            raise FastDataError(
                "DataWaitMonitor has nothing to report: no run has begun in this process.",
                expected="a Trainer that was given this very object and has started",
                fix="Call trainer.fit(...) with Trainer(callbacks=[monitor]) first; under a spawning strategy the"
                " figures stay in the child processes, so pass save_to and read the file.",
            )
        return self._session

    # A run begins.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Start to measure. A new fit starts from zero; an evaluation keeps the training figures before it."""
        session, fitting = self._session, stage == "fit"
        if session is not None and session.instrumentation is not None:
            session.stop(trainer, "interrupted")  # the run before ended without a hook
        if fitting or session is None:
            self._session = session = self._new_session(trainer, to_file=fitting)
        else:
            session.meter.forget_stage(_STAGE_OF.get(stage, stage))
        try:
            session.install(trainer, pl_module, self, fitting=fitting)
        except Exception as error:
            self._give_up(error)

    def _new_session(self, trainer: Any, *, to_file: bool) -> MonitorSession:
        info = RunInfo.of(trainer)
        sink, hardware = None, probe().to_dict()
        if to_file and self._save_to is not None:
            header = {**asdict(info), "hardware": hardware}  # for the report of a run that is killed
            sink = RunFileWriter(path_of_rank(self._save_to, info.rank), header)
        interval = self._log_every_n_steps or int(trainer.log_every_n_steps or 0)
        monitors = [callback for callback in trainer.callbacks if isinstance(callback, DataWaitMonitorMixin)]
        return MonitorSession(
            info=info,
            live=LiveReport(
                prog_bar=self._prog_bar,
                warn_above=self._warn_above,
                max_warnings=self._max_warnings,
                silent=self._silent,
            ),
            on_error=self._give_up,
            sink=sink,
            interval=0 if self._silent else interval,
            device_events=self._device_events,
            hardware=hardware,
            # Other callbacks may be on one rank only, monitors are on all.
            exchange_key=f"lightning_fastdata/{next((n for n, one in enumerate(monitors) if one is self), 0)}",
        )

    # Training.

    @guarded
    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """The sanity check is no part of the training."""
        if self._session is not None:
            self._session.meter.go_away(time.perf_counter())

    @guarded
    def on_sanity_check_end(self, trainer: Any, pl_module: Any) -> None:
        """The sanity check is over."""
        if self._session is not None:
            self._session.meter.come_back(time.perf_counter())

    @guarded
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Learn what is being trained."""
        if self._session is not None:
            self._session.start_training(trainer, pl_module)

    @guarded
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """The next step is the first of its epoch."""
        if self._session is not None:
            self._session.start_epoch(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End the step, if the optimizer did."""
        session = self._session
        if session is None:
            return
        try:
            due = session.end_batch(trainer, batch, batch_idx)
        except Exception as error:
            self._give_up(error)
            return
        if due:
            self._report_window(session, trainer)
        if not session.saw_fetch and (warning := session.check_labels()) and trainer.is_global_zero:
            warn(warning, stacklevel=2)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Report what is left of the epoch, however short it was."""
        if self._session is not None:
            self._report_window(self._session, trainer, epoch_ended=True)

    @guarded
    def _report_window(self, session: MonitorSession, trainer: Any, *, epoch_ended: bool = False) -> None:
        if epoch_ended:
            session.end_epoch()
        window = session.take_window()
        if window is None:
            return
        session.live.report_window(trainer, window, to_loggers=session.interval > 0, epoch_ended=epoch_ended)
        if (loss := session.loss()) and trainer.is_global_zero:
            warn(f"DataWaitMonitor: {loss} The training is not affected.")
        session.live.warn_if_slow(trainer, window, session.advice)

    @guarded
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Loaders and loops are shut down now."""
        if self._session is not None:
            self._session.enter("shutdown")

    @guarded
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """They are shut down."""
        if self._session is not None:
            self._session.enter("after")

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
        if self._session is not None and not trainer.sanity_checking:
            self._session.start_stage(pl_module, stage)

    # Their arguments are outputs, batch, batch_idx and dataloader_idx. Lightning leaves the last one out where there is
    # one loader, or where a batch is of several.

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Count the batch."""
        self._end_stage_batch(trainer, "val", *args, **kwargs)

    def on_test_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Count the batch."""
        self._end_stage_batch(trainer, "test", *args, **kwargs)

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Count the batch."""
        self._end_stage_batch(trainer, "predict", *args, **kwargs)

    @guarded
    def _end_stage_batch(
        self, trainer: Any, stage: str, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int | None = None
    ) -> None:
        if self._session is not None and not trainer.sanity_checking:
            self._session.end_stage_batch(stage, dataloader_idx)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Report this validation; the time is training's again."""
        self._end_stage(trainer, "val")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the test."""
        self._end_stage(trainer, "test")

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the prediction; Lightning has no logger step for it."""
        self._end_stage(trainer, "predict")

    @guarded
    def _end_stage(self, trainer: Any, stage: str) -> None:
        if self._session is None or trainer.sanity_checking:
            return
        run = self._session.end_stage(stage)
        if run is not None:
            to_loggers = stage != "predict" and self._session.interval > 0
            self._session.live.report_stage(trainer, run, to_loggers=to_loggers)

    # A run ends. After an exception Lightning calls on_exception and no teardown.

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Remove the instrumentation, close the file, print the table."""
        self._finish(trainer, pl_module, "finished", stage)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The same, for what was measured until then."""
        function = getattr(getattr(trainer, "state", None), "fn", None)
        self._finish(trainer, pl_module, "interrupted", str(getattr(function, "value", "fit")))

    @guarded
    def _finish(self, trainer: Any, pl_module: Any, status: str, stage: str) -> None:
        session = self._session
        if session is None or session.instrumentation is None:
            return
        session.live.close(trainer)
        session.stop(trainer, status, fitting=stage == "fit")
        if self._print_summary and trainer.is_global_zero:
            end_progress_bar(trainer, pl_module, stage)
            print_summary(session.summary(), _STAGE_OF.get(stage))

    def _give_up(self, error: Exception) -> None:
        """Stop measuring, and say so once."""
        session = self._session
        if session is None or "fault" in session.notes:
            return
        session.notes["fault"] = f"The measurement stopped on an error of its own ({type(error).__name__}: {error})."
        session.steps = None
        if session.instrumentation is not None:
            session.instrumentation.restore()
        warn(
            f"DataWaitMonitor stopped measuring: {type(error).__name__}: {error}. The training goes on; please report"
            " this.",
            stacklevel=2,
        )

    # Checkpoints and process borders.

    @property
    def state_key(self) -> str:
        """The monitor's name in a checkpoint; monitors with other arguments have other names."""
        return self._state_key

    def state_dict(self) -> dict[str, Any]:
        """The sums of this run and of those before it, for a run that goes on from the checkpoint."""
        session = self._session
        if session is None or self._silent or not (totals := session.meter.totals()).steps:
            return {}
        before = session.resumed_from or {"steps": 0, "train_s": 0.0, "wait_s": 0.0}
        return {
            "schema": SCHEMA,
            "run_id": session.run_id,
            "steps": int(before["steps"]) + totals.steps,
            "train_s": before["train_s"] + totals.train_s,
            "wait_s": before["wait_s"] + (totals.wait_s or 0.0),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the sums; what another version wrote and this one cannot read is left alone."""
        session = self._session
        if session is None or state_dict.get("run_id") == session.run_id:  # a tuner restores its own run
            return
        before = {name: state_dict.get(name) for name in ("steps", "train_s", "wait_s")}
        if all(isinstance(value, (int, float)) for value in before.values()):
            session.resumed_from = {name: value for name, value in before.items() if value is not None}

    def __getstate__(self) -> dict[str, Any]:
        return state_without(self, "_session")  # with its clocks, its file and the tap


def only_measuring(monitor_class: type[M]) -> M:
    """A monitor that reports nothing and leaves nothing in checkpoints, for a callback that reads it.

    Args:
        monitor_class: The monitor of the Lightning package in use.
    """
    monitor = monitor_class(prog_bar=False, summary=False, warn_above=None)
    monitor._silent = True
    return monitor
