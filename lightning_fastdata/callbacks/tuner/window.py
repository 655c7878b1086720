"""A window: a part of the training with one setting. Its figures, and the timer that says when it is long enough."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_fastdata.callbacks.tuner.throughput_model import Setting
from lightning_fastdata.report.units import milliseconds
from lightning_fastdata.results.records import StepRecord, elapsed_s
from lightning_fastdata.results.tuning import Probe

__all__ = ["Window", "WindowTimer", "describe_window", "merged", "waiting_share", "window_of"]

BLOCKS = 8
"""Blocks that a window is cut into: the variation of their means shows the error, bursts included (count)."""
FEWEST_STEPS = 40
"""Steps that say something of an epoch (count)."""
LONG_STEP = 5.0
"""A step that takes, apart from waiting, so many times the median holds a checkpoint or the like and is left out."""
FEWEST_BATCHES = 20
"""Batches of the shortest window (count); it doubles until it is long enough."""
LONG_ENOUGH_S = 1.0
"""Time after which a window is long enough (s)."""
MOST_BATCHES = 640
"""Batches after which a window is long enough however short its steps (count)."""


@dataclass(frozen=True)
class Window:
    """What was measured over a part of the training with one setting; times are those of one batch."""

    batches: int
    """Batches (count)."""
    step_s: float
    """Mean time of a batch, waiting included (s)."""
    step_s_error: float
    """Standard error of it (s)."""
    exposed_s: float
    """Mean waiting that the training was exposed to: the device's where that was measured, else the host's (s)."""
    cpu_s: float
    """CPU time of the training process, loading left out (s)."""
    load_s: float | None = None
    """Mean time in which a worker loaded a batch, with the others beside it (s); None where that was not measured."""
    worker_transfer_s: float = 0.0
    """Part of ``exposed_s`` in which batches were there and were handed over (s), as far as that was measured: more
    workers do not shorten it."""

    @property
    def wait_share(self) -> float:
        """``exposed_s / step_s``."""
        return min(1.0, self.exposed_s / self.step_s) if self.step_s > 0 else 0.0

    @property
    def starved_share(self) -> float:
        """The same without the transfer from the workers: what other workers could change."""
        return max(0.0, self.exposed_s - self.worker_transfer_s) / self.step_s if self.step_s > 0 else 0.0


def window_of(records: Sequence[StepRecord], cpu_s: float, setting: Setting, probe: Probe) -> Window | None:
    """A window out of the monitor's steps.

    Args:
        records: Its steps. The first of an epoch, which waits for workers to start, and those that hold a checkpoint
            or the like are left out.
        cpu_s: CPU time of the training process for a batch (s).
        setting: The setting they ran with.
        probe: What one worker takes; without workers, its CPU time is taken off the training process's.

    Returns:
        None where too few are left.
    """
    steps = [one for one in records if not one.first_in_epoch and one.wait_s is not None and one.batches]
    if len(steps) < 2 * BLOCKS:
        return None
    usual = statistics.median(_busy_s(one) / one.batches for one in steps)
    steps = [one for one in steps if _busy_s(one) / one.batches <= LONG_STEP * usual + 1e-3]
    batches = sum(one.batches for one in steps)
    took = [elapsed_s(one) for one in steps]
    waits = [(one.wait_s if one.device_idle_s is None else one.device_idle_s) or 0.0 for one in steps]
    loads = [one.load_s for one in steps if one.load_s is not None]
    return Window(
        batches=batches,
        step_s=sum(took) / batches,
        step_s_error=_error(took) * len(steps) / batches,
        exposed_s=min(sum(waits), sum(took)) / batches,
        cpu_s=max(0.0, cpu_s - (0.0 if setting.num_workers else probe.batch_cpu_s)),
        load_s=sum(loads) / batches if len(loads) == len(steps) else None,
        worker_transfer_s=sum(one.worker_transfer_s or 0.0 for one in steps if one.device_idle_s is None) / batches,
    )


def _busy_s(record: StepRecord) -> float:
    return (record.transfer_s or 0.0) + (record.compute_s or 0.0) + record.other_s


def _error(values: Sequence[float]) -> float:
    """Standard error of the mean, from the means of blocks: neighbors are alike where a queue runs empty and fills."""
    size = len(values) / BLOCKS
    blocks = [values[round(number * size) : round((number + 1) * size)] for number in range(BLOCKS)]
    means = [statistics.mean(block) for block in blocks if block]
    return statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.inf


def waiting_share(records: Sequence[StepRecord], since: int) -> float | None:
    """Share of the time of steps that was spent waiting.

    Args:
        records: The monitor's steps. The first of an epoch are left out.
        since: The first step that counts (index).

    Returns:
        0..1; None where there are too few steps to say.
    """
    steps = [one for one in records if one.step >= since and not one.first_in_epoch]
    took_s = sum(map(elapsed_s, steps))
    waited_s = sum((one.wait_s if one.device_idle_s is None else one.device_idle_s) or 0.0 for one in steps)
    return waited_s / took_s if len(steps) >= FEWEST_STEPS and took_s > 0 else None


def merged(windows: Sequence[Window]) -> Window:
    """One window of several ranks, which run at the speed of the slowest.

    The consumer's time is that of the rank with the least: what the others' steps hold beyond it is spent in the
    collective, waiting for the slowest.

    Args:
        windows: One of each rank.
    """
    slowest = max(windows, key=lambda window: window.step_s)
    alone_s = min(window.step_s - window.exposed_s for window in windows)
    loads = [window.load_s for window in windows if window.load_s is not None]
    return Window(
        batches=min(window.batches for window in windows),
        step_s=slowest.step_s,
        step_s_error=max(window.step_s_error for window in windows),
        exposed_s=max(0.0, slowest.step_s - alone_s),
        cpu_s=max(window.cpu_s for window in windows),
        load_s=max(loads) if len(loads) == len(windows) else None,
        worker_transfer_s=min(window.worker_transfer_s for window in windows),
    )


def describe_window(window: Window, setting: Setting) -> str:
    """A window in one sentence."""
    return f"{setting}: {milliseconds(window.step_s)} a step, {window.wait_share:.0%} of it waiting"


class WindowTimer:
    """Counts the batches since a setting took effect.

    A window ends after a number of batches, not after a time, so that all ranks end it after the same batch.

    Args:
        setting: The setting in force. As many batches are left out as its workers prepare before the first one is
            taken: they would make the setting look better than it is.
        clock: A monotonic clock (s).
        cpu_clock: CPU time of this process (s).
    """

    def __init__(
        self,
        setting: Setting,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.first_step = 0
        """The first optimizer step of the window."""
        self._clock, self._cpu_clock = clock, cpu_clock
        self._left_out = setting.num_workers * (setting.prefetch_factor or 0) + 2
        self._length = FEWEST_BATCHES
        self._batches = 0
        self._began = self._cpu_began = 0.0
        self._paused_at: tuple[float, float] | None = None

    def is_due(self, trainer: Any, next_step: Callable[[], int]) -> bool:
        """Count a batch; True where the window may be complete.

        Args:
            trainer: The Trainer.
            next_step: Gives the number that the monitor's next step will have; ``trainer.global_step`` does not move
                with optimizers that Lightning has not wrapped.
        """
        self._batches += 1
        if self._batches == self._left_out:
            self.first_step = next_step()
            self._began, self._cpu_began = self._clock(), self._cpu_clock()
        return self._batches >= self._left_out + self._length * int(trainer.accumulate_grad_batches or 1)

    def is_long_enough(self, elapsed_s: float) -> bool:
        """Whether the window is long enough, by its time or by its batches.

        Args:
            elapsed_s: Time of the window, of several ranks the longest (s).
        """
        return elapsed_s >= LONG_ENOUGH_S or self._length >= MOST_BATCHES

    def prolong(self) -> None:
        """Go on until twice as many batches."""
        self._length *= 2

    def elapsed_s(self) -> float:
        """Time since it began, pauses left out (s)."""
        return self._clock() - self._began

    def cpu_s(self) -> float:
        """CPU time of this process for a batch, pauses left out (s)."""
        return (self._cpu_clock() - self._cpu_began) / max(1, self._batches - self._left_out)

    def pause(self) -> None:
        """Validation begins."""
        self._paused_at = self._clock(), self._cpu_clock()

    def resume(self) -> None:
        """Validation has ended."""
        if self._paused_at is not None:
            clock_s, cpu_s = self._paused_at
            self._began += self._clock() - clock_s
            self._cpu_began += self._cpu_clock() - cpu_s
            self._paused_at = None
