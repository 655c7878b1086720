"""The tuning of one fit: measures one worker, then the demand, changes the workers, and checks whether that helped."""

import time
from dataclasses import replace
from typing import Any, NamedTuple

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_fastdata.callbacks.monitor.callback import DataWaitMonitorMixin
from lightning_fastdata.callbacks.monitor.run_info import RunInfo
from lightning_fastdata.callbacks.tuner.controller import Controller, Decision
from lightning_fastdata.callbacks.tuner.eligibility import changes_within_epoch, eligibility_of, training_loader
from lightning_fastdata.callbacks.tuner.measurement import UnmeasuredError, probe_undisturbed
from lightning_fastdata.callbacks.tuner.rank_consensus import (
    agreed_probe,
    agreed_window,
    all_can,
    machine_of,
    with_machine,
)
from lightning_fastdata.callbacks.tuner.search import limits_for
from lightning_fastdata.callbacks.tuner.throughput_model import Setting
from lightning_fastdata.callbacks.tuner.trial_loader import FreshIndices, source_of
from lightning_fastdata.callbacks.tuner.window import WindowTimer, describe_window, waiting_share, window_of
from lightning_fastdata.callbacks.tuner.worker_change import Original, change, plan_change, setting_of
from lightning_fastdata.compat.lightning_monitoring import training_iterators
from lightning_fastdata.compat.torch_internals import queue_state
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware, probe
from lightning_fastdata.loaders.trainer_context import iter_loaders
from lightning_fastdata.planning.options import Pool
from lightning_fastdata.report.units import milliseconds
from lightning_fastdata.results.tuning import Probe, TuneResult

__all__ = ["TunerSession"]

PROBE_S = 3.0
"""Time that the probe before training takes at most (s)."""
DRIFT_SHARE = 0.05
"""Waiting of an epoch above which, if it doubled since the tuner settled, a line is logged (share)."""


class Change(NamedTuple):
    """A setting that was decided on."""

    setting: Setting
    """The workers."""
    reason: str
    """What was measured."""


class TunerSession:
    """What is known between the hooks of one fit.

    Args:
        monitor: Measures the steps.
        allow_foreign: Whether samples of torch's own loaders may draw other random numbers.
        result: The result until this fit has one: that of the fit before.
    """

    def __init__(self, monitor: DataWaitMonitorMixin, *, allow_foreign: bool, result: TuneResult | None) -> None:
        self.result = result
        self.controller: Controller | None = None
        """Decides; None before the probe and once the tuning is over."""
        self.timer: WindowTimer | None = None
        """Of the running window; None as the controller."""
        self.deferred: Change | None = None
        """A change that waits for the end of the epoch."""
        self._monitor, self._allow_foreign = monitor, allow_foreign
        self._advice_only: str | None = None
        self._applied: Change | None = None
        self._settled: tuple[int, float] | None = None
        self._original: Original | None = None
        self._epoch_start_step = 0

    @property
    def over(self) -> bool:
        """Whether nothing will be changed any more."""
        return self.timer is None and self.deferred is None

    # The probe.

    def begin(self, trainer: Any) -> None:
        """Have a worker measured, before the first batch is asked for."""
        began = time.perf_counter()
        info = RunInfo.of(trainer)
        self.result = TuneResult(None, None, "", host=info.host, date=info.date, versions=info.versions)
        hardware = probe(local_world_size=trainer.num_devices)
        loader, own, problem = self._probe(trainer)
        setting = Setting(0, None) if own is None else setting_of(loader)
        agreed, machine, alike = agreed_probe(trainer, own, machine_of(hardware, setting))
        if agreed is not None and not alike:
            agreed, problem = None, "the ranks begin with different workers"
        if agreed is None:
            self.end(f"nothing is changed: {problem or 'another rank could not be measured'}")
            return
        self._start(trainer, loader, agreed, with_machine(hardware, machine), machine.cpus)
        took_s = time.perf_counter() - began
        self._update_result(took_s=took_s)
        _log(
            f"one worker takes {milliseconds(agreed.batch_s)} for a batch of {source_of(loader).batch_size}"
            f" ({milliseconds(agreed.batch_cpu_s)} of CPU); {machine.cpus:.3g} usable"
            f" core{'s' if machine.cpus != 1 else ''}; now {setting}. Measured in {took_s:.1f} s."
        )

    def _probe(self, trainer: Any) -> tuple[Any, Probe | None, str | None]:
        """The loader, and what one worker takes, or why that is not known. It raises nothing: other ranks wait."""
        loader = None
        try:
            loader, problem, self._advice_only = eligibility_of(trainer, allow_foreign=self._allow_foreign)
            if problem is not None:
                return loader, None, problem
            self._original = Original.of(loader)
            source = source_of(loader)
            _wait_for_prefetch(trainer, PROBE_S / 2)
            measured, contention = probe_undisturbed(source, FreshIndices(len(source.dataset)), PROBE_S)
        except UnmeasuredError as error:
            return loader, None, f"the probe gave nothing: {error}"
        except Exception as error:
            return loader, None, f"the probe failed ({type(error).__name__}: {error}); please report this"
        if contention is not None:
            return loader, None, f"the machine is too busy to measure ({contention})"
        return loader, measured, None

    def _start(self, trainer: Any, loader: Any, measured: Probe, hardware: Hardware, cpus: float) -> None:
        """Measure the training from here on."""
        source, planning = source_of(loader), getattr(loader, "planning", None)
        other_pool = _validation_pool(trainer, measured, source.batch_size)
        batches = trainer.num_training_batches
        limits = replace(
            limits_for(hardware, source, measured, other_pool),
            cpus=cpus,
            batches=int(batches) if batches != float("inf") else None,
        )
        options, setting = getattr(planning, "options", None), setting_of(loader)
        depth = getattr(options, "prefetch_factor", "auto")
        ends_with_epoch = trainer.reload_dataloaders_every_n_epochs == 1 or (
            planning is None and loader.num_workers > 0 and not loader.persistent_workers
        )
        self.controller = Controller(
            measured,
            limits,
            setting,
            fewest=int(getattr(options, "persistent_workers", "auto") is True or isinstance(depth, int)),
            depth=depth if isinstance(depth, int) else None,
            restart_s=measured.start_s / batches if ends_with_epoch else 0.0,
        )
        self.timer = WindowTimer(setting)
        self._update_result(
            num_workers=setting.num_workers,
            prefetch_factor=setting.prefetch_factor,
            probe=measured,
            cpus=limits.cpus,
            batch_size=source.batch_size,
            dataset=f"{type(source.dataset).__name__}, {len(source.dataset):,} samples",
        )

    # Windows and decisions.

    def start_epoch(self, trainer: Any) -> None:
        """Give a new loader of ours the setting that was decided, before it is read."""
        self._epoch_start_step = self._next_step()
        if self._applied is None:
            return
        loader, problem = training_loader(trainer)
        setting, reason = self._applied
        if problem is None and setting_of(loader) != setting and getattr(loader, "planning", None) is not None:
            self._change_loader(trainer, loader, setting, plan_change(loader, setting, reason))

    def end_batch(self, trainer: Any) -> None:
        """Count the batch; at the end of a window, decide. All ranks get there after the same batch."""
        timer, controller = self.timer, self.controller
        if timer is None or controller is None or self.deferred or not timer.is_due(trainer, self._next_step):
            return
        window, failure = None, ""
        try:
            records = [one for one in self._monitor.records() if one.step >= timer.first_step]
            window = window_of(records, timer.cpu_s(), controller.setting, controller.probe)
        except Exception as error:  # the other ranks wait for an answer
            failure = f"{type(error).__name__}: {error}"
        agreed = agreed_window(trainer, window, timer.elapsed_s(), failed=bool(failure))
        if agreed.failed:
            self.end(f"stopped, the workers stay as they are: {failure or 'another rank cannot go on'}")
        elif agreed.window is None or not timer.is_long_enough(agreed.elapsed_s):
            timer.prolong()
        elif self._advice_only is not None:
            line = controller.advise(agreed.window)
            self._record(controller)
            self.end(f"{line}. Nothing is changed: {self._advice_only}")
        else:
            self._carry_out(trainer, controller, controller.decide(agreed.window))

    def _next_step(self) -> int:
        """The number of the step that the monitor will have next."""
        records = self._monitor.records()
        return records[-1].step + 1 if records else 0

    def _carry_out(self, trainer: Any, controller: Controller, decision: Decision) -> None:
        self._record(controller)
        self._update_result(reason=decision.line, throughput_limit=controller.throughput_limit)
        step = int(trainer.global_step)
        if decision.change_to is not None:
            loader, _ = training_loader(trainer)
            decided = Change(decision.change_to, decision.line)
            if changes_within_epoch(loader):
                self._change(trainer, loader, decided)
            else:
                self.deferred = decided
        if not decision.settled:
            _log(f"step {step}: {decision.line}{' from the next epoch on' if self.deferred else ''}.")
            return
        window = controller.window
        self._settled = None if window is None else (self._next_step(), window.wait_share)
        stays = "" if window is None else f" Settled on {describe_window(window, controller.setting)}."
        self.end(f"step {step}: {decision.line}.{stays if controller.trials[1:] else ''}")

    def _change(self, trainer: Any, loader: Any, decided: Change, *, between_epochs: bool = False) -> None:
        """Use other workers, if all ranks can."""
        plan, problem = None, ""
        try:
            plan = plan_change(loader, *decided)
        except FastDataError as error:  # less is free by now than at the start
            problem = str(error)
        if not all_can(trainer, not problem):
            self.end(
                f"{decided.setting} cannot be had, so the workers stay as they are: {problem or 'not on another rank'}"
            )
            return
        self._change_loader(trainer, loader, decided.setting, plan, between_epochs=between_epochs)
        self._applied = decided
        self.timer = None if self.controller is None else WindowTimer(decided.setting)

    def _change_loader(self, trainer: Any, loader: Any, setting: Setting, plan: Any, **when: bool) -> None:
        assert self._original is not None
        change(loader, setting, plan, self._original, trainer.datamodule, **when)

    def _record(self, controller: Controller) -> None:
        window = controller.window
        self._update_result(
            num_workers=controller.verified.num_workers,
            prefetch_factor=controller.verified.prefetch_factor,
            consumer=None if window is None else controller.consumer(window),
            trials=tuple(controller.trials),
        )

    def _update_result(self, **values: Any) -> None:
        if self.result is not None:
            self.result = replace(self.result, **values)

    # Ends.

    def end_epoch(self, trainer: Any) -> None:
        """Make a change that any loader can have between two epochs; watch a run whose tuning is over."""
        if self.deferred is not None:
            loader, problem = training_loader(trainer)
            last = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1
            if problem is None and not last:
                decided, self.deferred = self.deferred, None
                self._change(trainer, loader, decided, between_epochs=True)
        self._warn_of_drift(trainer)

    def _warn_of_drift(self, trainer: Any) -> None:
        """Say, once, that waiting has come back since the tuner settled."""
        if self._settled is None:
            return
        settled_step, settled_share = self._settled
        share = waiting_share(self._monitor.records(), max(self._epoch_start_step, settled_step))
        if share is not None and share > max(DRIFT_SHARE, 2 * settled_share):
            _log(
                f"epoch {trainer.current_epoch} spent {share:.0%} of its steps waiting, and {settled_share:.0%} when"
                " the tuner settled: the machine or the data has changed. A new run would tune again."
            )
            self._settled = None

    def end_training(self) -> None:
        """Say what could not be finished."""
        if self.controller is None:  # it has settled, or never began
            return
        if self.deferred is not None:
            setting = self.deferred.setting
            self.end(f"the run ended before {setting} could be tried; this loader changes between epochs only")
        elif self.controller.verified != self.controller.setting:
            self.end(f"the run ended before {self.controller.setting} could be verified")
        else:
            self.end("the run ended before its steps could be measured")

    def end(self, line: str) -> None:
        """Stop, with a last line."""
        self._update_result(reason=line)
        self.stop()
        _log(line)

    def stop(self) -> None:
        """Decide nothing more. A change that waits for the end of the epoch is still made: it may undo another."""
        self.timer = self.controller = None


def _validation_pool(trainer: Any, measured: Probe, batch_size: int) -> Pool | None:
    """The workers of validation that live beside those of training, as large as those were measured.

    Several validation loaders follow each other, so the largest pool counts; None where there are no workers.
    """
    pools = []
    for loader in iter_loaders(trainer.val_dataloaders):
        workers = getattr(loader, "num_workers", 0)
        if isinstance(workers, int) and workers > 0:
            size = getattr(loader, "batch_size", None) or batch_size
            pools.append(
                Pool(
                    workers,
                    loader.prefetch_factor or 2,
                    batch_bytes=measured.batch_bytes * size // batch_size,
                    tensors_per_batch=measured.batch_tensors,
                    worker_bytes=measured.worker_bytes,
                    pin_memory=bool(loader.pin_memory),
                )
            )
    return max(pools, key=lambda pool: pool.in_flight, default=None)


def _wait_for_prefetch(trainer: Any, at_most_s: float) -> None:
    """Wait, for a moment, until workers that torch has started have filled their queue: they disturb a probe."""
    ends = time.perf_counter() + at_most_s
    while time.perf_counter() < ends:
        queues = [queue_state(iterator) for iterator in training_iterators(trainer) or ()]
        if all(queue is None or queue.in_queue is None or queue.in_queue >= queue.in_flight for queue in queues):
            return
        time.sleep(0.02)


def _log(line: str) -> None:
    rank_zero_info(f"LoaderTuner: {line}")
