"""Reports while the run goes on: loggers, ``callback_metrics``, the progress bar, warnings.

Nothing here runs per step, copies to a device, or makes ranks wait for each other. The loggers get the figures in the
rows that Lightning logs: a row of our own would move the step of a logger that counts rows (W&B), and it would then
drop what a model logs there by a step of its own. Only what no row of Lightning's took along is logged by itself.
"""

from collections.abc import Callable
from typing import Any

import torch

from lightning_fastdata.callbacks.monitor.wait_stats import Window
from lightning_fastdata.compat.lightning_monitoring import extend_logged, logger_step, publish_metrics
from lightning_fastdata.errors import warn
from lightning_fastdata.report.units import milliseconds
from lightning_fastdata.results.records import StageWait

__all__ = ["LiveReport"]

# Below this a window says more about its one slow step than about the loader.
_FEWEST_STEPS_TO_WARN = 5


class LiveReport:
    """Hands windows of steps to the outside.

    Args:
        prog_bar: Whether the data wait appears in the progress bar.
        warn_above: Data wait above which a warning is given (share of the training time, 0..1); None for never.
        max_warnings: Warnings in one run (count).
        silent: Whether nothing is reported, for a monitor that another callback reads.
    """

    def __init__(self, *, prog_bar: bool, warn_above: float | None, max_warnings: int, silent: bool = False) -> None:
        self._silent = silent
        self._prog_bar = prog_bar
        self._warn_above = warn_above
        self._warnings_left = max_warnings
        self._windows = 0
        self._logger_failed = False
        self._pending: dict[str, float] = {}
        self._pending_step = 0
        self._undo: Callable[[], None] | None = None

    def report_window(self, trainer: Any, window: Window, *, to_loggers: bool, epoch_ended: bool = False) -> None:
        """Report the steps since the last time.

        Args:
            trainer: The Trainer.
            window: The steps.
            to_loggers: Whether the Trainer's loggers get them too.
            epoch_ended: Whether it is the end of an epoch: there Lightning itself logs at the step before.
        """
        metrics = {
            "data_wait/train_s": window.wait_s / window.steps,
            "data_wait/train_s_max": window.wait_s_max,
            "data_wait/train_share": window.wait_share,
        }
        # Not pl_module.log: a metric logged once is carried along, and computed, at every later step.
        bar = {"data_wait": round(window.wait_share, 3)} if self._prog_bar else {}
        self._publish(trainer, metrics, bar, to_loggers=to_loggers, step_offset=-epoch_ended)

    def report_stage(self, trainer: Any, run: StageWait, *, to_loggers: bool) -> None:
        """Report one evaluation run."""
        if run.wait_s is None or not run.batches:
            return
        metrics = {
            f"data_wait/{run.stage}_s": run.wait_s / run.batches,
            f"data_wait/{run.stage}_s_max": run.wait_s_max or 0.0,
            f"data_wait/{run.stage}_share": run.wait_share or 0.0,
        }
        self._publish(trainer, metrics, {}, to_loggers=to_loggers, step_offset=0)

    def _publish(
        self,
        trainer: Any,
        metrics: dict[str, float],
        progress_bar: dict[str, float],
        *,
        to_loggers: bool,
        step_offset: int,
    ) -> None:
        if self._silent:
            return
        # Tensors, because EarlyStopping and ModelCheckpoint expect them; on the CPU, because a copy would synchronize.
        tensors = {key: torch.tensor(value, device="cpu") for key, value in metrics.items()}
        publish_metrics(trainer, tensors, progress_bar)
        if not to_loggers or self._logger_failed or not trainer.is_global_zero:
            return
        if self._pending.keys() & metrics.keys():
            self._log_pending(trainer)  # Lightning logged nothing since
        self._pending |= metrics
        self._pending_step = max(0, logger_step(trainer) + step_offset)
        if self._undo is None:
            self._undo = extend_logged(trainer, self._take_pending, self._refused)

    def _take_pending(self) -> dict[str, float]:
        """For the row that Lightning is about to log."""
        pending, self._pending = self._pending, {}
        return pending

    def _log_pending(self, trainer: Any) -> None:
        """A row of our own, for what no row of Lightning's has taken along."""
        metrics = self._take_pending()
        if not metrics or self._logger_failed:
            return
        try:
            for logger in trainer.loggers:
                logger.log_metrics(dict(metrics), step=self._pending_step)
        except Exception as error:
            self._refused(error)

    def _refused(self, error: Exception) -> None:
        self._logger_failed = True
        warn(
            f"DataWaitMonitor: a logger refused the data wait ({type(error).__name__}: {error}); it gets no more of"
            " it. The training and the measurement go on."
        )

    def close(self, trainer: Any) -> None:
        """Log what is left, and leave Lightning's logging as it was."""
        if self._undo is not None:
            self._undo()
            self._undo = None
        self._log_pending(trainer)

    def warn_if_slow(self, trainer: Any, window: Window, advice: Callable[[], str]) -> None:
        """Warn, a few times a run, when a window waited too long; the first window is warm-up.

        Args:
            trainer: The Trainer.
            window: The steps.
            advice: Gives what to try first; called only where there is a warning.
        """
        self._windows += 1
        if (
            self._warn_above is None
            or self._warnings_left <= 0
            or self._windows == 1
            or window.steps < _FEWEST_STEPS_TO_WARN
            or window.wait_share <= self._warn_above
            or not trainer.is_global_zero
        ):
            return
        self._warnings_left -= 1
        warn(
            f"The training waited for data {window.wait_share * 100:.0f} % of the time in the last {window.steps} steps"
            f" ({milliseconds(window.wait_s / window.steps)} a step). {advice()}",
            stacklevel=2,
        )
