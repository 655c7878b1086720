"""The decisions of a tuner within a run: what to change to, whether to keep it. No Trainer, no clock, no loader.

A window is a stretch of training with one setting. From the first one follows what the model of ``tune.model`` expects
to be best; each change is held against the window before it, and undone where the steps did not become faster.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lightning_fastdata.callbacks.tuner.throughput_model import (
    TOLERATED_SHARE,
    Limits,
    choose,
    expected_step_s,
    throughput_limit,
)
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.tuning import Consumer, Probe, Trial

__all__ = [
    "Controller",
    "Decision",
    "Setting",
    "Window",
    "in_words",
    "merged",
    "milliseconds",
    "waiting_share",
    "window_of",
]

MOST_TRIALS = 4
"""Changes that are tried in one run (count); each may be undone once."""
WORTH_SHARE = 0.03
"""A change that takes more workers, or a deeper queue, stays only if steps get faster by this share of one."""
FEWER_SHARE = 2 / 3
"""Fewer workers at the same speed are tried where at least a third of them goes; else it is not worth the change."""
TRIED_ABOVE = 0.05
"""Waiting above which a neighbor is tried of which the model expects nothing (share of a step)."""
ERRORS = 2.0
"""Standard errors by which two windows must differ to count as different; for normal errors 95 % sure."""
BLOCKS = 8
"""Stretches that a window is cut into: the variation of their means shows the error, bursts included (count)."""
FEWEST_STEPS = 40
"""Steps that say something of an epoch (count)."""
LONG_STEP = 5.0
"""A step that takes, apart from waiting, so many times the median holds a checkpoint or the like and is left out."""


class Setting(NamedTuple):
    """Workers and depth."""

    num_workers: int
    """Worker processes (count)."""
    prefetch_factor: int | None
    """Batches per worker prepared ahead (count); None without workers."""

    def __str__(self) -> str:
        if not self.num_workers:
            return "0 workers"
        return f"{self.num_workers} worker{'s' if self.num_workers > 1 else ''} x {self.prefetch_factor}"


@dataclass(frozen=True)
class Window:
    """A stretch of training with one setting; times are those of one batch."""

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
    """Mean time in which a worker loaded a batch, with the others beside it (s); None where workers do not tell."""
    worker_transfer_s: float = 0.0
    """Part of ``exposed_s`` in which batches were there and were handed over (s), as far as that was measured: more
    workers do not shorten it."""

    @property
    def wait_share(self) -> float:
        """``exposed_s / step_s``."""
        return min(1.0, self.exposed_s / self.step_s) if self.step_s > 0 else 0.0

    @property
    def starved_share(self) -> float:
        """The same without the handing over: what other workers could change."""
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
    took = [(one.wait_s or 0.0) + _busy_s(one) for one in steps]
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
    """Standard error of the mean, from the means of blocks: neighbours are alike where a queue runs empty and fills."""
    size = len(values) / BLOCKS
    blocks = [values[round(place * size) : round((place + 1) * size)] for place in range(BLOCKS)]
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
    took_s = sum((one.wait_s or 0.0) + _busy_s(one) for one in steps)
    waited_s = sum((one.wait_s if one.device_idle_s is None else one.device_idle_s) or 0.0 for one in steps)
    return waited_s / took_s if len(steps) >= FEWEST_STEPS and took_s > 0 else None


def merged(windows: Sequence[Window]) -> Window:
    """One window of several ranks, who go at the pace of the slowest.

    The consumer's time is that of the rank with the least: what the others' steps hold beyond it is waiting for the
    slow one, in the collective.

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


class Decision(NamedTuple):
    """What to do after a window."""

    change_to: Setting | None
    """The setting to go on with; None = the one there is."""
    line: str
    """What to tell, with what was predicted and measured."""
    settled: bool
    """Whether that is the last word."""


class Controller:
    """Decides after each window, from figures alone: on all ranks the same, if they are given the same figures.

    Args:
        probe: What one worker takes.
        limits: What the machine allows.
        setting: What the run has begun with.
        fewest: Workers below which it must not go (count): some options only make sense with one.
        depth: The prefetch factor where it is given; None leaves it open.
        restart_s: What starting workers takes, for each batch (s), where they are started anew with every epoch.
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
        """What cannot be reached and why, once it has settled; None where nothing is missing."""
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

    @property
    def verifying(self) -> bool:
        """Whether a change waits for its verdict."""
        return self._before is not None

    def decide(self, window: Window) -> Decision:
        """What to do after a window.

        Args:
            window: Measured with the setting that is in force, from when that had taken effect.
        """
        if self._before is None:
            self._note(window, "as it was")
            return self._go_on(window, "")
        setting_before, before = self._before
        self._before = None
        kept = self._is_better(setting_before, before, window)
        self._note(window, "kept" if kept else "rolled back")
        told = (
            f"{self.setting}: {milliseconds(window.step_s)} a step, predicted {milliseconds(self._predicted_s)}, before"
            f" {milliseconds(before.step_s)} (+- {milliseconds(ERRORS * _difference_error(before, window))})"
        )
        if kept:
            self._fastest_s = min(self._fastest_s, self._whole_s(self.setting, window))
            self._learn_slowdown(window)
            return self._go_on(window, f"{told}: kept")
        halfway = self._between(setting_before, self.setting)
        self.setting, self.window = setting_before, before
        if halfway is not None and self._changes < MOST_TRIALS:
            return self._change(halfway, before, f"{told}: no gain")
        settled = self._settle(before, f"{told}: no gain, back to {setting_before}")
        return settled._replace(change_to=setting_before)

    def advise(self, window: Window) -> str:
        """What would be tried after a window, for a loader that stays as it is.

        Args:
            window: Measured with the setting that is in force.
        """
        self._note(window, "as it was")
        found, now = self._candidate(window), in_words(window, self.setting)
        if found is None:
            return f"{now}; no other setting promises more"
        predicted_s = self._expected_s(found, self.consumer(window))
        self.trials.append(Trial(*found, step_s=None, predicted_step_s=predicted_s, verdict="advised, not tried"))
        return f"{now}; {found} would promise {milliseconds(predicted_s)}"

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
        before_s, after_s = self._whole_s(setting_before, before), self._whole_s(self.setting, after)
        if self.setting.num_workers < setting_before.num_workers:  # the same speed with less is better
            # Against the fastest so far, or a little slower each time would add up.
            fastest_s = min(before_s, self._fastest_s)
            return after_s <= fastest_s * (1 + TOLERATED_SHARE) + min(error_s, WORTH_SHARE * fastest_s)
        return before_s - after_s > max(WORTH_SHARE * before_s, error_s)

    def _whole_s(self, setting: Setting, window: Window) -> float:
        """A step with its part of starting the workers, where that comes with every epoch."""
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
        return self._allowed(Setting(workers, self._depth_for(workers)))

    def _depth_for(self, workers: int) -> int | None:
        if not workers:
            return None
        return self._depth or self.limits.prefetch_factors(workers)[0]

    def _allowed(self, setting: Setting) -> Setting | None:
        """The setting, if it is a new one that may be taken."""
        fits = self._fewest <= setting.num_workers <= self.limits.most_workers
        if not fits or setting in self._tried:
            return None
        if setting.prefetch_factor and self._depth is None:
            fits = setting.prefetch_factor <= max(self.limits.prefetch_factors(setting.num_workers))
        return setting if fits else None

    def consumer(self, window: Window) -> Consumer:
        """What the training takes, apart from waiting.

        Args:
            window: A stretch of it.
        """
        return Consumer(max(0.0, window.step_s - window.exposed_s), window.cpu_s)

    def _go_on(self, window: Window, told: str) -> Decision:
        """Change to what promises most, or stay."""
        candidate = self._candidate(window) if self._changes < MOST_TRIALS else None
        return self._settle(window, told) if candidate is None else self._change(candidate, window, told)

    def _candidate(self, window: Window) -> Setting | None:
        consumer = self.consumer(window)
        best = choose(self.probe, consumer, self.limits, slowdown=self._slowdown)
        workers = max(best.num_workers, self._fewest)
        depth = (self._depth or best.prefetch_factor or self._depth_for(workers)) if workers else None
        found = self._allowed(Setting(workers, depth))
        if found is not None and self._promises(found, window, consumer):
            return found
        if window.starved_share <= TRIED_ABOVE or self._saturated(window, consumer):
            return None
        now = self.setting
        more = now.num_workers + max(1, now.num_workers // 2)
        neighbours = [Setting(min(more, self.limits.most_workers), self._depth_for(more))]
        if now.prefetch_factor and self._depth is None:
            neighbours.append(Setting(now.num_workers, 2 * now.prefetch_factor))
        return next((one for one in neighbours if self._allowed(one)), None)

    def _promises(self, found: Setting, window: Window, consumer: Consumer) -> bool:
        predicted_s = self._expected_s(found, consumer) + self._restart_s * (
            bool(found.num_workers) - bool(self.setting.num_workers)
        )
        if found.num_workers < self.setting.num_workers:
            few = found.num_workers <= FEWER_SHARE * self.setting.num_workers
            return few and predicted_s <= window.step_s * (1 + TOLERATED_SHARE)
        return predicted_s < window.step_s * (1 - WORTH_SHARE)

    def _saturated(self, window: Window, consumer: Consumer) -> bool:
        """Whether the CPUs are used up, so that another worker would only take from the others."""
        used = (consumer.cpu_s + self.probe.batch_cpu_s) / window.step_s if window.step_s > 0 else 0.0
        return used > 0.9 * self.limits.cpus

    def _expected_s(self, setting: Setting, consumer: Consumer) -> float:
        return expected_step_s(self.probe, consumer, self.limits, *setting, slowdown=self._slowdown)

    def _change(self, candidate: Setting, window: Window, told: str) -> Decision:
        self._predicted_s = self._expected_s(candidate, self.consumer(window))
        line = (
            f"{in_words(window, self.setting)}; trying {candidate}, which promises"
            f" {milliseconds(self._predicted_s)} a step"
        )
        self._before = self.setting, window
        self.setting = candidate
        self._tried.add(candidate)
        self._changes += 1
        return Decision(candidate, f"{told}; trying {candidate}" if told else line, settled=False)

    def _settle(self, window: Window, told: str) -> Decision:
        if window.starved_share > TRIED_ABOVE:
            self.throughput_limit = throughput_limit(self.probe, self.consumer(window), self.limits)
        line = told or f"{in_words(window, self.setting)}; no other setting promises more"
        return Decision(None, f"{line}. {self.throughput_limit}" if self.throughput_limit else line, settled=True)


def _difference_error(one: Window, other: Window) -> float:
    return math.hypot(one.step_s_error, other.step_s_error)


def in_words(window: Window, setting: Setting) -> str:
    """A window in one sentence."""
    return f"{setting}: {milliseconds(window.step_s)} a step, {window.wait_share:.0%} of it waiting"


def milliseconds(value_s: float | None) -> str:
    """A time with three digits."""
    if value_s is None:
        return "not measured"
    return f"{value_s * 1000:.3g} ms" if value_s < 0.9995 else f"{value_s:.3g} s"
