"""A stretch of training that is being measured: when it begins, and when it is worth a look."""

import time
from collections.abc import Callable
from typing import Any

from lightning_fastdata.callbacks.tuner.controller import Setting

__all__ = ["WindowTimer"]

FEWEST_BATCHES = 20
"""Batches of the shortest stretch (count); it doubles until it is long enough."""
LONG_ENOUGH_S = 1.0
"""Time after which a stretch is long enough (s)."""
MOST_BATCHES = 640
"""Batches after which it is in any case: a run of very short steps (count)."""


class WindowTimer:
    """Counts the batches since a setting took effect.

    It ends after a number of batches and no time, so that all ranks look at it after the same batch.

    Args:
        setting: What the run has now. The batches that its workers prepare at first, while nobody takes any, would make
            it look better than it is: as many are left out.
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
        """The first optimizer step of it."""
        self._clock, self._cpu_clock = clock, cpu_clock
        self._left_out = setting.num_workers * (setting.prefetch_factor or 0) + 2
        self._length = FEWEST_BATCHES
        self._batches = 0
        self._began = self._cpu_began = self._paused = 0.0
        self._pauses: tuple[float, float] | None = None

    def is_due(self, trainer: Any, next_step: Callable[[], int]) -> bool:
        """Count a batch; True where the stretch is to be looked at.

        Args:
            trainer: The Trainer.
            next_step: Gives the number that the monitor's next step will have; ``trainer.global_step`` does not move
                with optimizers that Lightning has not wrapped.
        """
        self._batches += 1
        if self._batches == self._left_out:
            self.first_step = next_step()
            self._began, self._cpu_began, self._paused = self._clock(), self._cpu_clock(), 0.0
        return self._batches >= self._left_out + self._length * int(trainer.accumulate_grad_batches or 1)

    def is_long_enough(self, elapsed_s: float) -> bool:
        """Whether so much time is enough, or so many batches.

        Args:
            elapsed_s: Time of the stretch, of several ranks the longest (s).
        """
        return elapsed_s >= LONG_ENOUGH_S or self._length >= MOST_BATCHES

    def prolong(self) -> None:
        """Look again after twice as many."""
        self._length *= 2

    def elapsed_s(self) -> float:
        """Time since it began, pauses left out (s)."""
        return self._clock() - self._began - self._paused

    def cpu_s(self) -> float:
        """CPU time of this process for a batch, pauses left out (s)."""
        return (self._cpu_clock() - self._cpu_began) / max(1, self._batches - self._left_out)

    def pause(self) -> None:
        """Validation begins."""
        self._pauses = self._clock(), self._cpu_clock()

    def continue_after_change(self) -> None:
        """Validation is over."""
        if self._pauses is not None:
            began, cpu_began = self._pauses
            self._paused += self._clock() - began
            self._cpu_began += self._cpu_clock() - cpu_began
            self._pauses = None
