"""Reports while the run goes on: loggers, ``callback_metrics``, the progress bar, warnings.

Nothing here runs per step, copies to a device, or makes ranks wait for each other.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch

from lightning_fastdata.callbacks.monitor.wait_stats import Window
from lightning_fastdata.compat.lightning_monitoring import logger_step, publish_metrics
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
        step = max(0, logger_step(trainer) + step_offset)
        try:
            for logger in trainer.loggers:
                logger.log_metrics(dict(metrics), step=step)
        except Exception as error:
            self._logger_failed = True
            warnings.warn(
                f"DataWaitMonitor: a logger refused the data wait ({type(error).__name__}: {error}); it gets no more of"
                " it. The training and the measurement go on.",
                stacklevel=2,
            )

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
        warnings.warn(
            f"The training waited for data {window.wait_share * 100:.0f} % of the time in the last {window.steps} steps"
            f" ({milliseconds(window.wait_s / window.steps)} a step). {advice()}",
            stacklevel=2,
        )
