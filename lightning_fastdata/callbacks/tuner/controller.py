"""The decisions of a tuner within a run: what to change to, whether to keep it. No Trainer, no clock, no loader.

From the first window follows what ``throughput_model`` expects to be best; each change is compared with the window
before it, and undone where the steps did not become faster.
"""

import math
from dataclasses import replace
from typing import NamedTuple

from lightning_fastdata.callbacks.tuner.throughput_model import (
    TOLERATED_SHARE,
    Limits,
    Setting,
    choose,
    expected_step_s,
    throughput_limit,
)
from lightning_fastdata.callbacks.tuner.window import Window, describe_window
from lightning_fastdata.report.units import milliseconds
from lightning_fastdata.results.tuning import Consumer, Probe, Trial

__all__ = ["Controller", "Decision"]

MOST_TRIALS = 4
"""Changes that are tried in one run (count); each may be undone once."""
WORTH_SHARE = 0.03
"""A change that takes more workers, or a deeper queue, stays only if steps get faster by this share of one."""
FEWER_SHARE = 2 / 3
"""Fewer workers at the same speed are tried where that saves at least a third of them."""
TRIED_ABOVE = 0.05
"""Waiting above which a neighbor is tried of which the model expects nothing (share of a step)."""
ERRORS = 2.0
"""Standard errors by which two windows must differ to count as different; for normal errors 95 % sure."""


class Decision(NamedTuple):
    """What to do after a window."""

    change_to: Setting | None
    """The setting to change to; None = no change."""
    line: str
    """The line for the log, with what was predicted and measured."""
    settled: bool
    """Whether the tuning is over."""


class Controller:
    """Decides after each window, from figures alone: on all ranks the same, if they are given the same figures.

    Args:
        probe: What one worker takes.
        limits: What the machine allows.
        setting: What the run has begun with.
        fewest: Workers below which it must not go (count): some options only make sense with one.
        depth: The prefetch factor where it is given; None leaves it open.
        restart_s: What starting workers takes, for each batch (s), where they are restarted with every epoch.
    """

    def __init__(
        self,
        probe: Probe,
        limits: Limits,
        setting: Setting,
        *,
        fewest: int = 0,
        depth: int | None = None,
        restart_s: float = 0.0,
    ) -> None:
        self.probe, self.limits = probe, limits
        self.setting = setting
        self.trials: list[Trial] = []
        """Everything that was measured, in order."""
        self.throughput_limit: str | None = None
        """Why no number of workers keeps up, once the controller has settled; None where they do."""
        self.window: Window | None = None
        """The latest window with the setting that is in force."""
        self._fewest, self._depth, self._restart_s = fewest, depth, restart_s
        self._fastest_s = math.inf
        self._slowdown = 1.0
        self._before: tuple[Setting, Window] | None = None
        self._predicted_s: float | None = None
        self._tried = {setting}
        self._changes = 0

    @property
    def verified(self) -> Setting:
        """The latest setting of which it is known what it gives."""
        return self.setting if self._before is None else self._before[0]

    def decide(self, window: Window) -> Decision:
        """What to do after a window.

        Args:
            window: Measured with the setting that is in force, from when that had taken effect.
        """
        if self._before is None:
            self._note(window, "baseline")
            return self._continue(window, "")
        setting_before, before = self._before
        self._before = None
        kept = self._is_better(setting_before, before, window)
        self._note(window, "kept" if kept else "rolled back")
        outcome = (
            f"{self.setting}: {milliseconds(window.step_s)} a step, predicted {milliseconds(self._predicted_s)}, before"
            f" {milliseconds(before.step_s)} (+- {milliseconds(ERRORS * _difference_error(before, window))})"
        )
        if kept:
            self._fastest_s = min(self._fastest_s, self._with_restart_s(self.setting, window))
            self._learn_slowdown(window)
            return self._continue(window, f"{outcome}: kept")
        halfway = self._between(setting_before, self.setting)
        self.setting, self.window = setting_before, before
        if halfway is not None and self._changes < MOST_TRIALS:
            return self._change(halfway, before, f"{outcome}: no gain")
        settled = self._settle(before, f"{outcome}: no gain, back to {setting_before}")
        return settled._replace(change_to=setting_before)

    def advise(self, window: Window) -> str:
        """What would be tried after a window, for a loader that is not changed.

        Args:
            window: Measured with the setting that is in force.
        """
        self._note(window, "baseline")
        candidate, now = self._candidate(window), describe_window(window, self.setting)
        if candidate is None:
            return f"{now}; no other setting promises more"
        predicted_s = self._expected_s(candidate, self.consumer(window))
        self.trials.append(Trial(*candidate, step_s=None, predicted_step_s=predicted_s, verdict="advised, not tried"))
        return f"{now}; {candidate} would promise {milliseconds(predicted_s)}"

    def _note(self, window: Window, verdict: str) -> None:
        self.window = window
        if self.setting.num_workers and window.worker_transfer_s > 0:  # as measured in this run, beside this model
            self.probe = replace(self.probe, worker_transfer_s=window.worker_transfer_s)
        self.trials.append(
            Trial(
                *self.setting,
                step_s=window.step_s,
                predicted_step_s=self._predicted_s,
                wait_s=window.exposed_s,
                steps=window.batches,
                step_s_error=window.step_s_error,
                verdict=verdict,
            )
        )

    def _is_better(self, setting_before: Setting, before: Window, after: Window) -> bool:
        error_s = ERRORS * _difference_error(before, after)
        before_s, after_s = self._with_restart_s(setting_before, before), self._with_restart_s(self.setting, after)
        if self.setting.num_workers < setting_before.num_workers:  # the same speed with less is better
            # Against the fastest so far, or a little slower each time would add up.
            fastest_s = min(before_s, self._fastest_s)
            return after_s <= fastest_s * (1 + TOLERATED_SHARE) + min(error_s, WORTH_SHARE * fastest_s)
        return before_s - after_s > max(WORTH_SHARE * before_s, error_s)

    def _with_restart_s(self, setting: Setting, window: Window) -> float:
        """A step with its share of starting the workers, where that comes with every epoch."""
        return window.step_s + (self._restart_s if setting.num_workers else 0.0)

    def _learn_slowdown(self, window: Window) -> None:
        """How much slower a worker loads with others beside it."""
        if window.load_s is not None and self.setting.num_workers > 1 and self.probe.batch_s > 0:
            self._slowdown = max(1.0, window.load_s / self.probe.batch_s)

    def _between(self, one: Setting, other: Setting) -> Setting | None:
        """A setting in the middle, after a leap that was too far."""
        workers = (one.num_workers + other.num_workers) // 2
        if workers in (one.num_workers, other.num_workers):
            return None
        setting = self._setting(workers)
        return setting if self._may_try(setting) else None

    def _setting(self, workers: int) -> Setting:
        """As many workers as may be started, with the given depth or the least one."""
        setting = self.limits.setting(workers)
        return setting._replace(prefetch_factor=self._depth) if workers and self._depth else setting

    def _may_try(self, setting: Setting) -> bool:
        if setting.num_workers < self._fewest or setting in self._tried:
            return False
        return self.limits.allow(setting if self._depth is None else setting._replace(prefetch_factor=None))

    def consumer(self, window: Window) -> Consumer:
        """What the training takes, apart from waiting.

        Args:
            window: What was measured.
        """
        return Consumer(max(0.0, window.step_s - window.exposed_s), window.cpu_s)

    def _continue(self, window: Window, outcome: str) -> Decision:
        """Change to what promises most, or stay."""
        candidate = self._candidate(window) if self._changes < MOST_TRIALS else None
        return self._settle(window, outcome) if candidate is None else self._change(candidate, window, outcome)

    def _candidate(self, window: Window) -> Setting | None:
        consumer = self.consumer(window)
        best = choose(self.probe, consumer, self.limits, slowdown=self._slowdown)
        if best.num_workers < self._fewest:
            best = self._setting(self._fewest)
        elif best.num_workers and self._depth:
            best = best._replace(prefetch_factor=self._depth)
        if self._may_try(best) and self._promises(best, window, consumer):
            return best
        if window.starved_share <= TRIED_ABOVE or self._saturated(window, consumer):
            return None
        now = self.setting
        more = now.num_workers + max(1, now.num_workers // 2)
        neighbors = [self._setting(more)]
        if now.prefetch_factor and self._depth is None:
            neighbors.append(Setting(now.num_workers, 2 * now.prefetch_factor))
        return next((one for one in neighbors if self._may_try(one)), None)

    def _promises(self, candidate: Setting, window: Window, consumer: Consumer) -> bool:
        predicted_s = self._expected_s(candidate, consumer) + self._restart_s * (
            bool(candidate.num_workers) - bool(self.setting.num_workers)
        )
        if candidate.num_workers < self.setting.num_workers:
            few = candidate.num_workers <= FEWER_SHARE * self.setting.num_workers
            return few and predicted_s <= window.step_s * (1 + TOLERATED_SHARE)
        return predicted_s < window.step_s * (1 - WORTH_SHARE)

    def _saturated(self, window: Window, consumer: Consumer) -> bool:
        """Whether the CPUs are used up, so that another worker would only take from the others."""
        used = (consumer.cpu_s + self.probe.batch_cpu_s) / window.step_s if window.step_s > 0 else 0.0
        return used > 0.9 * self.limits.cpus

    def _expected_s(self, setting: Setting, consumer: Consumer) -> float:
        return expected_step_s(self.probe, consumer, self.limits, setting, slowdown=self._slowdown)

    def _change(self, candidate: Setting, window: Window, outcome: str) -> Decision:
        self._predicted_s = self._expected_s(candidate, self.consumer(window))
        line = f"{outcome}; trying {candidate}"
        if not outcome:
            now, promised = describe_window(window, self.setting), milliseconds(self._predicted_s)
            line = f"{now}; trying {candidate}, which promises {promised} a step"
        self._before = self.setting, window
        self.setting = candidate
        self._tried.add(candidate)
        self._changes += 1
        return Decision(candidate, line, settled=False)

    def _settle(self, window: Window, outcome: str) -> Decision:
        if window.starved_share > TRIED_ABOVE:
            self.throughput_limit = throughput_limit(self.probe, self.consumer(window), self.limits)
        line = outcome or f"{describe_window(window, self.setting)}; no other setting promises more"
        return Decision(None, f"{line}. {self.throughput_limit}" if self.throughput_limit else line, settled=True)


def _difference_error(one: Window, other: Window) -> float:
    return math.hypot(one.step_s_error, other.step_s_error)
