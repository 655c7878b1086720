"""Which workers for a dataset, found by trials within a budget of seconds, without a Trainer."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_fastdata.callbacks.monitor.run_info import here_and_now
from lightning_fastdata.callbacks.tuner.measurement import UnmeasuredError, probe_undisturbed, run_inline, run_trial
from lightning_fastdata.callbacks.tuner.throughput_model import (
    Limits,
    Setting,
    choose,
    expected_step_s,
    throughput_limit,
)
from lightning_fastdata.callbacks.tuner.trial_loader import FreshIndices, Source, source_of
from lightning_fastdata.errors import FastDataError, check_int
from lightning_fastdata.hardware.detect import Hardware, probe
from lightning_fastdata.planning.preflight import Pool, resource_caps
from lightning_fastdata.report.units import milliseconds
from lightning_fastdata.results.tuning import Consumer, Probe, Trial, TuneResult

__all__ = ["tune_loader"]

PROBE_SHARE, PROBE_S = 0.3, 3.0
"""Share of the budget, and time (s), that the probe takes at most."""
TRIAL_SHARE, TRIAL_S = 0.15, 2.0
"""The same of one trial."""
WORTH_SHARE = 0.02
"""A setting with more workers has to be faster by this share of a step, or the one with fewer is taken."""


def tune_loader(
    dataset: Any,
    batch_size: int | None = None,
    *,
    step_s: float | None = None,
    budget_s: float = 10.0,
    hardware: Hardware | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> TuneResult:
    """Find the workers and the prefetching for a dataset by trying.

    One worker is measured, a model says what more of them would give, and trials around that answer decide. Nothing is
    loaded in this process, random generators are left alone, and samples are drawn at random, none twice while there
    are others.

    Args:
        dataset: A map-style dataset, or a torch DataLoader of one, whose batch size, collate function, start method and
            ``worker_init_fn`` then count.
        batch_size: Samples per batch (count); None = 1, as torch has it, or the loader's.
        step_s: How long training takes for a batch without any waiting (s), in which it leaves the CPU free, as with a
            GPU. None looks for the fewest workers that load as fast as any.
        budget_s: Time it may take (s). No trial begins that would not fit; starting workers may take it over by that.
        hardware: What this process may use; None = ``probe()``.
        on_trial: Called with each trial when it is over.

    Returns:
        What to take and why. Interrupted (Ctrl-C), the best of what was known by then, marked so. Where nothing can be
        measured, a result without a number, whose reason says why.

    Raises:
        FastDataError: Wrong arguments, or a dataset whose workers cannot be tuned.
    """
    _check(step_s, budget_s)
    source = _source(dataset, check_int("batch_size", batch_size, 1, allow=(None,), fix="pass batch_size=32."))
    hardware, began = hardware or probe(), time.perf_counter()
    search: _Search | None = None
    notes: list[str] = []
    problem, interrupted = "", False
    fresh = FreshIndices(len(source.dataset))
    try:
        measured, contention = probe_undisturbed(source, fresh, min(PROBE_S, PROBE_SHARE * budget_s))
        if contention is not None:
            notes.append(f"The machine is busy ({contention}): every figure here is that of a busy machine.")
        limits = limits_for(hardware, source, measured)
        trial_s = min(TRIAL_S, max(TRIAL_SHARE * budget_s, 3 * measured.batch_s))
        search = _Search(source, fresh, measured, Consumer(step_s or 0.0), limits, trial_s, on_trial)
        search.run(ends=began + budget_s)
    except UnmeasuredError as error:
        problem = str(error)
    except KeyboardInterrupt:
        interrupted = True
    if fresh.restarted:
        notes.append("The dataset is small: trials read some samples again, from memory rather than a disk.")
    result = (
        _nothing(problem or "it was interrupted") if search is None else search.result(known_step=step_s is not None)
    )
    return replace(
        result,
        cpus=hardware.cpus_per_rank,
        batch_size=source.batch_size,
        notes=tuple(notes),
        took_s=time.perf_counter() - began,
        dataset=f"{type(source.dataset).__name__}, {len(source.dataset):,} samples",
        interrupted=interrupted,
        **here_and_now({}),
    )


def _nothing(problem: str) -> TuneResult:
    return TuneResult(None, None, f"nothing was measured: {problem}")


def _check(step_s: float | None, budget_s: float) -> None:
    if step_s is not None and not (isinstance(step_s, (int, float)) and 0 <= step_s < 3600):
        raise FastDataError(f"step_s={step_s!r}.", expected="seconds, from 0.", fix="pass step_s=0.08 for 80 ms.")
    if not (isinstance(budget_s, (int, float)) and 0 < budget_s <= 3600):
        raise FastDataError(f"budget_s={budget_s!r}.", expected="seconds, above 0.", fix="pass budget_s=10.")


def _source(dataset: Any, batch_size: int | None = None) -> Source:
    loader = dataset
    if not isinstance(dataset, DataLoader):
        try:
            loader = DataLoader(dataset, generator=torch.Generator())
        except (TypeError, ValueError, RuntimeError) as error:
            raise FastDataError(
                f"{type(dataset).__name__}: {error}.", expected="a map-style dataset, or one torch DataLoader."
            ) from error
    return source_of(loader, batch_size)


def limits_for(hardware: Hardware, source: Source, probe: Probe, other_pool: Pool | None = None) -> Limits:
    """What bounds the workers for a dataset on this machine.

    Args:
        hardware: What this process may use.
        source: What is loaded.
        probe: What one worker took.
        other_pool: Workers of another split that live at the same time; None = there are none.
    """
    sizes = Pool(
        1,
        1,
        batch_bytes=probe.batch_bytes,
        tensors_per_batch=probe.batch_tensors,
        worker_bytes=probe.worker_bytes,
        pin_memory=source.loader.pin_memory,
    )
    return Limits(hardware.cpus_per_rank, resource_caps(hardware, sizes, other_pool), source.batches)


@dataclass
class _Search:
    """The trials of one dataset."""

    source: Source
    fresh: FreshIndices
    probe: Probe
    consumer: Consumer
    limits: Limits
    trial_s: float
    on_trial: Callable[[Trial], None] | None
    trials: list[Trial] = field(default_factory=list)

    def run(self, *, ends: float) -> None:
        """No workers, the predicted setting, then whatever is next to the best so far, as long as that pays."""
        self._try(Setting(0, None))
        chosen = choose(self.probe, self.consumer, self.limits)
        candidates = [chosen] if chosen.num_workers else self._next()
        while candidates and time.perf_counter() + self.trial_s < ends:
            self._try(candidates[0])
            candidates = self._next()

    def _next(self) -> list[Setting]:
        """What could be better than the best so far: more workers, a deeper queue, fewer workers."""
        best = self.best()
        if best is None:
            settings = [Setting(1, 2)]
        else:
            workers, waits = best.num_workers, (best.wait_share or 0.0) > WORTH_SHARE
            settings = []
            if waits:
                settings.append(self.limits.setting(workers + 1 if workers < 4 else workers * 3 // 2))
            if waits and workers:
                settings.append(Setting(workers, 2 * (best.prefetch_factor or 2)))
            if workers > 1:
                settings.append(self.limits.setting(workers - 1 if workers < 8 else workers * 3 // 4))
        tried = {(trial.num_workers, trial.prefetch_factor) for trial in self.trials}
        return [setting for setting in settings if self.limits.allow(setting) and setting not in tried]

    def _try(self, setting: Setting) -> None:
        predicted_s = expected_step_s(self.probe, self.consumer, self.limits, setting)
        step_s, budget_s, start_s = self.consumer.step_s, self.trial_s, self.probe.start_s
        if setting.num_workers:
            trial = run_trial(self.source, self.fresh, setting, step_s=step_s, budget_s=budget_s, start_s=start_s)
        else:
            trial = run_inline(self.source, self.fresh, step_s=step_s, budget_s=budget_s)
        self.trials.append(replace(trial, predicted_step_s=predicted_s))
        if self.on_trial is not None:
            self.on_trial(self.trials[-1])

    def best(self) -> Trial | None:
        """The fewest workers, and the least depth, that are as fast as any that was tried."""
        tried = [(trial.step_s, trial) for trial in self.trials if trial.step_s is not None]
        fastest_s = min((step_s for step_s, _ in tried), default=0.0)
        good = [trial for step_s, trial in tried if step_s <= fastest_s * (1 + WORTH_SHARE)]
        return min(good, key=lambda trial: (trial.num_workers, trial.prefetch_factor or 0), default=None)

    def result(self, *, known_step: bool) -> TuneResult:
        """The best setting, or why there is none."""
        best = self.best()
        if best is None:
            problems = [trial.verdict for trial in self.trials if trial.verdict]
            return replace(_nothing(problems[0] if problems else "it was interrupted"), probe=self.probe)
        trials = [replace(trial, verdict="taken") if trial is best else trial for trial in self.trials]
        return TuneResult(
            num_workers=best.num_workers,
            prefetch_factor=best.prefetch_factor,
            reason=self._reason(best, known_step=known_step),
            probe=self.probe,
            consumer=self.consumer if known_step else None,
            throughput_limit=throughput_limit(self.probe, self.consumer, self.limits) if known_step else None,
            trials=tuple(trials),
        )

    def _reason(self, best: Trial, *, known_step: bool) -> str:
        """Why, with the figures; nothing that was not tried."""
        step_s = best.step_s or 0.0
        cpu = f"({milliseconds(self.probe.batch_cpu_s)} of CPU)"
        cost = f"a batch of {self.source.batch_size} takes one worker {milliseconds(self.probe.batch_s)} {cpu}"
        cores = f"{self.limits.cpus:.3g} usable core{'s' if self.limits.cpus != 1 else ''}"
        more = [one for one in self.trials if one.num_workers > best.num_workers and one.step_s is not None]
        untried = "" if more else ", the most that was tried" if best.num_workers else "; no worker was measured"
        if not known_step:
            rate = f"{best.name} load {1 / step_s:.3g} batches/s"
            return f"{cost}, {cores}; {rate}{', and more workers no faster' if more else untried}"
        wait = "" if best.wait_share is None else f", of which {best.wait_share:.0%} waiting"
        return (
            f"{cost}, a step is {milliseconds(self.consumer.step_s)}, {cores}; with {best.name} a step takes"
            f" {milliseconds(step_s)}{wait}"
            f"{'' if more or not wait or (best.wait_share or 0) <= WORTH_SHARE else untried}"
        )
