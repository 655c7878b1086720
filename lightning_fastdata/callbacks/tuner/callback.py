"""The callback: measures one worker, then the demand, changes the workers, and looks whether that helped."""

import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_fastdata.callbacks.monitor.callback import DataWaitMonitorMixin, only_measuring
from lightning_fastdata.callbacks.monitor.run_info import RunInfo
from lightning_fastdata.callbacks.tuner.controller import (
    Controller,
    Decision,
    Setting,
    Window,
    in_words,
    milliseconds,
    waiting_share,
    window_of,
)
from lightning_fastdata.callbacks.tuner.eligibility import (
    loader_of,
    too_short,
    validation_pool,
    wait_for_prefetch,
    why_only_advice,
)
from lightning_fastdata.callbacks.tuner.measurement import UnmeasuredError, contention, look, probe_worker
from lightning_fastdata.callbacks.tuner.rank_consensus import (
    agreed_probe,
    agreed_window,
    all_can,
    begin_alike,
    machine_of,
    with_machine,
)
from lightning_fastdata.callbacks.tuner.search import limits_for
from lightning_fastdata.callbacks.tuner.trial_loader import FreshIndices, source_of
from lightning_fastdata.callbacks.tuner.window import WindowTimer
from lightning_fastdata.callbacks.tuner.worker_change import Original, change, changes_now, prepared, setting_of
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware, probe
from lightning_fastdata.results.tuning import Probe, TuneResult

if TYPE_CHECKING:
    from lightning.pytorch import Callback as Base
else:
    Base = object  # so that neither Lightning package is imported here

__all__ = ["LoaderTunerMixin"]

PROBE_S = 3.0
"""Time that the probe before training takes at most (s)."""
DRIFT_SHARE = 0.05
"""Waiting of an epoch above which, if it doubled since the tuner settled, somebody is told (share)."""


def _guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """Let a fault in a hook end the tuning, not the training."""

    @functools.wraps(hook)
    def run_hook(self: "LoaderTunerMixin", *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, *args, **kwargs)
        except Exception as error:
            self._stop_tuning()
            warnings.warn(
                f"LoaderTuner stopped: {type(error).__name__}: {error}. The training goes on; please report this.",
                stacklevel=2,
            )

    return run_hook


class LoaderTunerMixin(Base):
    """Finds the workers of the training loader while the run goes on, and keeps them only if steps got faster.

    Add it to any Trainer. Before the first step one worker loads some samples on its own (3 s at most); over the first
    steps the training's own pace is measured; from both follows how many workers are needed and what the machine can
    give. The change is made at the next safe point, verified over the steps after it, and undone where they are not
    faster. Each decision is told in one line, with what was predicted and what was measured; ``result`` has them all.

    Loaders of this package are changed at once: their batches depend on the seed alone, and the next batch is the one
    that would have come anyway. What you set yourself (``num_workers=4``) stays; the tuner then only tells. Other
    torch loaders change between epochs, and only with ``allow_foreign=True`` where other workers may draw other random
    numbers. Iterable datasets, several training loaders and loaders that are not torch's are left as they are.

    It reads a ``DataWaitMonitor``: the Trainer's own, or one that it adds for the time of the fit and that stays
    silent. On several ranks all decide the same, by one collective at each decision.

    Args:
        allow_foreign: Whether loaders of torch's own may get other workers although their samples may then draw other
            random numbers.

    Raises:
        FastDataError: ``allow_foreign`` is neither True nor False.

    Example::

        tuner = LoaderTuner()
        Trainer(callbacks=[tuner]).fit(model, datamodule)
        tuner.result.arguments()  # {"num_workers": 4, "prefetch_factor": 2, "persistent_workers": True}
    """

    monitor_class: type[DataWaitMonitorMixin]
    """The monitor of the Lightning package in use; set where the class is put on its base."""

    def __init__(self, allow_foreign: bool = False) -> None:
        super().__init__()
        if not isinstance(allow_foreign, bool):
            raise FastDataError(
                f"allow_foreign={allow_foreign!r}.", expected="True or False.", fix="pass allow_foreign=True."
            )
        self._allow_foreign = allow_foreign
        self._result: TuneResult | None = None
        self._forget()

    def _forget(self) -> None:
        """Everything that belongs to one fit."""
        self._monitor: DataWaitMonitorMixin | None = None
        self._added: DataWaitMonitorMixin | None = None
        self._controller: Controller | None = None
        self._stretch: WindowTimer | None = None
        self._advises: str | None = None
        self._waiting: tuple[Setting, str] | None = None
        self._settled: tuple[int, float] | None = None
        self._original: Any = None
        self._taken: tuple[Setting, str] | None = None
        self._epoch_began = 0

    @property
    def result(self) -> TuneResult:
        """What was measured and decided, in the middle of a run or after it.

        Raises:
            FastDataError: No fit has begun in this process.
        """
        if self._result is None:
            raise FastDataError(
                "LoaderTuner has no result: no fit has begun in this process.",
                expected="a Trainer that was given this very object and has started.",
                fix="call trainer.fit(...) with Trainer(callbacks=[tuner]) first.",
            )
        return self._result

    # A run begins.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find the Trainer's monitor, or add one for the time of the fit."""
        if stage != "fit":
            return
        self._forget()
        monitors = [one for one in trainer.callbacks if isinstance(one, DataWaitMonitorMixin)]
        if monitors:
            self._monitor = monitors[0]
            return
        self._monitor = self._added = only_measuring(self.monitor_class)
        # Behind this one, so that Lightning, which goes through the list now, comes to it as well.
        trainer.callbacks.insert(trainer.callbacks.index(self) + 1, self._added)

    @_guarded
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Have a worker measured, before the first batch is asked for."""
        began = time.perf_counter()
        facts = RunInfo.of(trainer)
        self._result = TuneResult(None, None, "", host=facts.host, date=facts.date, versions=facts.versions)
        hardware = probe(local_world_size=trainer.num_devices)
        loader, problem = loader_of(trainer)
        problem = problem or too_short(trainer)
        found = None
        if problem is None:
            found, problem = self._probe(trainer, loader)
        setting = Setting(0, None) if loader is None or problem else setting_of(loader)
        agreed, machine = agreed_probe(trainer, found, machine_of(hardware, setting))
        if agreed is not None and not begin_alike(machine):
            agreed, problem = None, "the ranks begin with different workers"
        if agreed is None:
            self._end(f"nothing is changed: {problem or 'another rank could not be measured'}")
            return
        self._start(trainer, loader, agreed, with_machine(hardware, machine), machine.cpus)
        took_s = time.perf_counter() - began
        self._result = replace(self.result, took_s=took_s)
        _tell(
            f"one worker takes {milliseconds(agreed.batch_s)} for a batch of {self.result.batch_size}"
            f" ({milliseconds(agreed.batch_cpu_s)} of CPU); {machine.cpus:.3g} usable"
            f" core{'s' if machine.cpus != 1 else ''}; now {setting}. Measured in {took_s:.1f} s."
        )

    def _probe(self, trainer: Any, loader: Any) -> tuple[Probe | None, str | None]:
        """What one worker takes, or why that is not known. It raises nothing: other ranks wait for an answer."""
        try:
            self._advises = why_only_advice(trainer, loader, allow_foreign=self._allow_foreign)
            self._original = Original.of(loader)
            source = source_of(loader)
            wait_for_prefetch(trainer, PROBE_S / 2)
            before = look()
            found = probe_worker(source, FreshIndices(len(source.dataset)), PROBE_S)
            disturbed = contention(found, before, look())
        except UnmeasuredError as error:
            return None, f"the probe gave nothing: {error}"
        except Exception as error:
            return None, f"the probe failed ({type(error).__name__}: {error}); please report this"
        if disturbed is not None:
            return None, f"the machine is too busy to measure ({disturbed})"
        return found, None

    def _start(self, trainer: Any, loader: Any, found: Probe, hardware: Hardware, cpus: float) -> None:
        """Measure the training from here on."""
        source, planning = source_of(loader), getattr(loader, "planning", None)
        other_pool = validation_pool(trainer, found, source.batch_size)
        batches = trainer.num_training_batches
        limits = replace(
            limits_for(hardware, source, found, other_pool),
            cpus=cpus,
            batches=int(batches) if batches != float("inf") else None,
        )
        options, setting = getattr(planning, "options", None), setting_of(loader)
        depth = getattr(options, "prefetch_factor", "auto")
        ends_with_epoch = trainer.reload_dataloaders_every_n_epochs == 1 or (
            planning is None and loader.num_workers > 0 and not loader.persistent_workers
        )
        self._controller = Controller(
            found,
            limits,
            setting,
            fewest=int(getattr(options, "persistent_workers", "auto") is True or isinstance(depth, int)),
            depth=depth if isinstance(depth, int) else None,
            restart_s=found.start_s / batches if ends_with_epoch else 0.0,
        )
        self._stretch = WindowTimer(setting)
        self._result = replace(
            self.result,
            num_workers=setting.num_workers,
            prefetch_factor=setting.prefetch_factor,
            probe=found,
            cpus=limits.cpus,
            batch_size=source.batch_size,
            dataset=f"{type(source.dataset).__name__}, {len(source.dataset):,} samples",
        )

    # Training.

    @_guarded
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Give loaders of ours that were made anew what was decided, before they are read."""
        self._epoch_began = self._next_step()
        if self._taken is None:
            return
        loader, problem = loader_of(trainer)
        setting, why = self._taken
        if problem is None and setting_of(loader) != setting and getattr(loader, "planning", None) is not None:
            change(loader, setting, prepared(loader, setting, why), self._original, trainer.datamodule)

    def _next_step(self) -> int:
        """The number of the step that the monitor will have next."""
        records = [] if self._monitor is None else self._monitor.records()
        return records[-1].step + 1 if records else 0

    @_guarded
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count; at the end of a window, decide."""
        stretch = self._stretch
        if stretch is not None and self._waiting is None and stretch.is_due(trainer, self._next_step):
            self._look(trainer, stretch)

    @_guarded
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """What validation takes is none of training's."""
        if self._stretch is not None:
            self._stretch.pause()

    @_guarded
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Validation is over."""
        if self._stretch is not None:
            self._stretch.continue_after_change()

    def _look(self, trainer: Any, stretch: WindowTimer) -> None:
        """See whether the stretch is long enough; all ranks come here after the same batch."""
        controller, monitor = self._controller, self._monitor
        assert controller is not None
        assert monitor is not None
        window, failure = None, ""
        try:
            records = [one for one in monitor.records() if one.step >= stretch.first_step]
            window = window_of(records, stretch.cpu_s(), controller.setting, controller.probe)
        except Exception as error:  # the other ranks wait for an answer
            failure = f"{type(error).__name__}: {error}"
        looked = agreed_window(trainer, window, stretch.elapsed_s(), failed=bool(failure))
        if looked.failed:
            self._end(f"stopped, the workers stay as they are: {failure or 'another rank cannot go on'}")
        elif looked.window is None or not stretch.is_long_enough(looked.elapsed_s):
            stretch.prolong()
        elif self._advises is not None:
            self._advise(controller, looked.window)
        else:
            self._obey(trainer, controller, controller.decide(looked.window))

    def _advise(self, controller: Controller, window: Window) -> None:
        """Say what would be tried, and leave it at that."""
        line = controller.advise(window)
        self._keep(controller)
        self._end(f"{line}. Nothing is changed: {self._advises}")

    def _obey(self, trainer: Any, controller: Controller, decision: Decision) -> None:
        self._keep(controller)
        self._result = replace(self.result, reason=decision.line, throughput_limit=controller.throughput_limit)
        step = int(trainer.global_step)
        if decision.change_to is not None:
            loader, _ = loader_of(trainer)
            if changes_now(loader):
                self._change(trainer, loader, decision.change_to, decision.line)
            else:
                self._waiting = decision.change_to, decision.line
        if not decision.settled:
            _tell(f"step {step}: {decision.line}{' from the next epoch on' if self._waiting else ''}.")
            return
        window = controller.window
        self._settled = None if window is None else (self._next_step(), window.wait_share)
        stays = "" if window is None else f" Settled on {in_words(window, controller.setting)}."
        self._end(f"step {step}: {decision.line}.{stays if controller.trials[1:] else ''}")

    def _change(self, trainer: Any, loader: Any, setting: Setting, why: str, *, between_epochs: bool = False) -> None:
        """Use other workers, if all ranks can."""
        plan, problem = None, ""
        try:
            plan = prepared(loader, setting, why)
        except FastDataError as error:  # the pre-flight knows better by now what is free
            problem = str(error)
        if not all_can(trainer, not problem):
            self._end(f"{setting} cannot be had, so the workers stay as they are: {problem or 'not on another rank'}")
            return
        change(loader, setting, plan, self._original, trainer.datamodule, between_epochs=between_epochs)
        self._taken = setting, why
        self._stretch = None if self._controller is None else WindowTimer(setting)

    def _keep(self, controller: Controller) -> None:
        """Bring the result up to date."""
        window = controller.window
        self._result = replace(
            self.result,
            num_workers=controller.verified.num_workers,
            prefetch_factor=controller.verified.prefetch_factor,
            consumer=None if window is None else controller.consumer(window),
            trials=tuple(controller.trials),
        )

    @_guarded
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Between two epochs any loader can be changed; and a settled run is watched."""
        if self._waiting is not None:
            setting, why = self._waiting
            loader, problem = loader_of(trainer)
            last = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1
            if problem is None and not last:
                self._waiting = None
                self._change(trainer, loader, setting, why, between_epochs=True)
        self._watch(trainer)

    def _watch(self, trainer: Any) -> None:
        """Tell, once, when waiting has come back since the tuner settled."""
        if self._settled is None or self._monitor is None:
            return
        settled_step, settled_share = self._settled
        share = waiting_share(self._monitor.records(), max(self._epoch_began, settled_step))
        if share is None:
            return
        if share > max(DRIFT_SHARE, 2 * settled_share):
            _tell(
                f"epoch {trainer.current_epoch} spent {share:.0%} of its steps waiting, and {settled_share:.0%} when"
                " the tuner settled: the machine or the data has changed. A new run would tune anew."
            )
            self._settled = None

    # A run ends.

    @_guarded
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Say what could not be finished."""
        if self._controller is None:  # it has settled, or never began
            return
        controller = self._controller
        if self._waiting is not None:
            self._end(
                f"the run ended before {self._waiting[0]} could be tried; this loader changes between epochs only"
            )
        elif controller is not None and controller.verifying:
            self._end(f"the run ended before {controller.setting} could be verified")
        else:
            self._end("the run ended before its pace could be measured")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take the added monitor out again."""
        self._take_out(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The same after an exception."""
        self._stop_tuning()
        self._take_out(trainer)

    def _take_out(self, trainer: Any) -> None:
        added, self._added = self._added, None
        if added is not None:  # in a new list: Lightning is going through the old one, and has yet to call the monitor
            trainer.callbacks = [one for one in trainer.callbacks if one is not added]

    def _end(self, line: str) -> None:
        if self._result is not None:
            self._result = replace(self._result, reason=line)
        self._stop_tuning()
        _tell(line)

    def _stop_tuning(self) -> None:
        """The last word is said. A change that waits for the end of the epoch is still made: it may undo another."""
        self._stretch = self._controller = None

    def __getstate__(self) -> dict[str, Any]:
        # The measurements stay in their process; Lightning itself hangs log and log_dict onto callbacks.
        state = {name: value for name, value in vars(self).items() if name not in ("log", "log_dict")}
        ours = (
            "_monitor",
            "_added",
            "_controller",
            "_stretch",
            "_waiting",
            "_taken",
            "_result",
            "_settled",
            "_original",
        )
        return state | dict.fromkeys(ours)


def _tell(line: str) -> None:
    rank_zero_info(f"LoaderTuner: {line}")
