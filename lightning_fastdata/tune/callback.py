"""The callback: measures one worker, then the demand, changes the workers, and looks whether that helped."""

import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware import Hardware, probe
from lightning_fastdata.monitor.callback import DataWaitMonitorMixin, only_measuring
from lightning_fastdata.monitor.facts import RunFacts
from lightning_fastdata.trials import Probe, TuneResult
from lightning_fastdata.tune.agree import agreed_probe, agreed_window, machine_of, with_machine
from lightning_fastdata.tune.apply import change, may_change_randomness, setting_of, when_it_can_change
from lightning_fastdata.tune.live import Controller, Decision, Setting, Window, in_words, milliseconds, window_of
from lightning_fastdata.tune.measure import UnmeasuredError, busy, look, probe_worker
from lightning_fastdata.tune.search import limits_for
from lightning_fastdata.tune.source import FreshIndices, source_of
from lightning_fastdata.tune.stretch import Stretch
from lightning_fastdata.tune.subject import let_workers_fill_up, loader_of

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
        self._stretch: Stretch | None = None
        self._advises: str | None = None
        self._waiting: tuple[Setting, str] | None = None
        self._settled_share: float | None = None
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
        facts = RunFacts.of(trainer)
        self._result = TuneResult(None, None, "", host=facts.host, date=facts.date, versions=facts.versions)
        loader, problem = loader_of(trainer)
        found: Probe | None = None
        hardware = probe(local_world_size=trainer.num_devices)
        if problem is None:
            source = source_of(loader)
            self._advises = self._why_only_advice(loader)
            try:
                let_workers_fill_up(trainer, PROBE_S)
                before = look()
                found = probe_worker(source, FreshIndices(len(source.dataset)), PROBE_S)
                problem = _if_busy(busy(found, before, look()))
            except UnmeasuredError as error:
                problem = f"the probe gave nothing: {error}"
        agreed, machine = agreed_probe(trainer, found if problem is None else None, machine_of(hardware))
        if agreed is None:
            self._end(f"nothing is changed: {problem or 'another rank could not be measured'}")
            return
        self._start(loader, agreed, with_machine(hardware, machine), machine.cpus, began)

    def _start(self, loader: Any, found: Probe, hardware: Hardware, cpus: float, began: float) -> None:
        source, options = source_of(loader), getattr(getattr(loader, "planning", None), "options", None)
        limits = replace(limits_for(hardware, source, found), cpus=cpus)
        setting = setting_of(loader)
        depth = getattr(options, "prefetch_factor", "auto")
        self._controller = Controller(
            found,
            limits,
            setting,
            fewest=int(getattr(options, "persistent_workers", "auto") is True or isinstance(depth, int)),
            depth=depth if isinstance(depth, int) else None,
        )
        self._stretch = Stretch(setting)
        took_s = time.perf_counter() - began
        self._result = replace(
            self.result,
            num_workers=setting.num_workers,
            prefetch_factor=setting.prefetch_factor,
            probe=found,
            cpus=limits.cpus,
            batch_size=source.batch_size,
            dataset=f"{type(source.dataset).__name__}, {len(source.dataset):,} samples",
            took_s=took_s,
        )
        _tell(
            f"one worker takes {milliseconds(found.batch_s)} for a batch of {source.batch_size}"
            f" ({milliseconds(found.batch_cpu_s)} of CPU); {limits.cpus:.3g} usable"
            f" core{'s' if limits.cpus != 1 else ''}; now {setting}. Measured in {took_s:.1f} s."
        )

    def _why_only_advice(self, loader: Any) -> str | None:
        """Why the loader is left as it is, as the end of a sentence; None where it may be changed."""
        options = getattr(getattr(loader, "planning", None), "options", None)
        if options is not None and options.num_workers != "auto":
            return (
                f"num_workers={options.num_workers} was set by you and stays"
                ' (num_workers="auto" leaves it to the tuner)'
            )
        if may_change_randomness(loader) and not self._allow_foreign:
            return (
                "with other workers this loader's samples may draw other random numbers, which only a loader of"
                " lightning_fastdata rules out (LoaderTuner(allow_foreign=True) changes it all the same)"
            )
        return None

    # Training.

    @_guarded
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Give loaders that were made anew what was decided, before they are read."""
        self._epoch_began = int(trainer.global_step)
        if self._taken is None:
            return
        loader, problem = loader_of(trainer)
        if problem is None and setting_of(loader) != self._taken[0] and when_it_can_change(loader) == "now":
            change(loader, *self._taken, trainer.datamodule)

    @_guarded
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count; at the end of a window, decide."""
        if self._stretch is None or self._waiting is not None or not self._stretch.is_due(trainer):
            return
        self._look(trainer, self._stretch)

    @_guarded
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """What validation takes is none of training's."""
        if self._stretch is not None:
            self._stretch.pause()

    @_guarded
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Validation is over."""
        if self._stretch is not None:
            self._stretch.go_on()

    def _look(self, trainer: Any, stretch: Stretch) -> None:
        """See whether the stretch is long enough; all ranks come here after the same batch."""
        controller, monitor = self._controller, self._monitor
        assert controller is not None
        assert monitor is not None
        records = [one for one in monitor.records() if one.step >= stretch.first_step]
        window = window_of(records, stretch.cpu_s(), controller.setting, controller.probe)
        window, elapsed_s = agreed_window(trainer, window, stretch.elapsed_s())
        if window is None or not stretch.is_long_enough(elapsed_s):
            stretch.prolong()
            return
        if self._advises is not None:
            self._advise(controller, window)
            return
        self._obey(trainer, controller, controller.decide(window))

    def _advise(self, controller: Controller, window: Window) -> None:
        """Say what would be tried, and leave it at that."""
        line = controller.advise(window)
        self._keep(controller)
        self._end(f"{line}. Nothing is changed: {self._advises}")

    def _obey(self, trainer: Any, controller: Controller, decision: Decision) -> None:
        self._keep(controller)
        self._result = replace(self.result, reason=decision.line, ceiling=controller.ceiling)
        step = int(trainer.global_step)
        if decision.change_to is not None:
            loader, _ = loader_of(trainer)
            if when_it_can_change(loader) == "now":
                self._change(trainer, loader, decision.change_to, decision.line)
            else:
                self._waiting = decision.change_to, decision.line
        if not decision.settled:
            _tell(f"step {step}: {decision.line}{' from the next epoch on' if self._waiting else ''}.")
            return
        window = controller.window
        self._settled_share = None if window is None else window.wait_share
        stays = "" if window is None else f" Settled on {in_words(window, controller.setting)}."
        self._end(f"step {step}: {decision.line}.{stays if controller.trials[1:] else ''}")

    def _change(self, trainer: Any, loader: Any, setting: Setting, why: str) -> None:
        try:
            change(loader, setting, why, trainer.datamodule)
        except FastDataError as error:  # the pre-flight knows better by now what is free
            self._end(f"{setting} cannot be had, so the workers stay as they are: {error}")
            return
        self._taken = setting, why
        self._stretch = None if self._controller is None else Stretch(setting)

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
                self._change(trainer, loader, setting, why)
        self._watch(trainer)

    def _watch(self, trainer: Any) -> None:
        """Tell, once, when waiting has come back since the tuner settled."""
        if self._settled_share is None or self._monitor is None:
            return
        steps = [one for one in self._monitor.records() if one.step >= self._epoch_began and not one.first_in_epoch]
        took = sum((one.wait_s or 0) + (one.transfer_s or 0) + (one.compute_s or 0) + one.other_s for one in steps)
        waited = sum((one.wait_s if one.device_idle_s is None else one.device_idle_s) or 0 for one in steps)
        if took > 0 and waited / took > max(DRIFT_SHARE, 2 * self._settled_share):
            rank_zero_info(
                f"LoaderTuner: epoch {trainer.current_epoch} spent {waited / took:.0%} of its steps waiting, and"
                f" {self._settled_share:.0%} when the tuner settled: the machine or the data has changed. A new"
                " run would tune anew."
            )
            self._settled_share = None

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
        ours = ("_monitor", "_added", "_controller", "_stretch", "_waiting", "_taken", "_result", "_settled_share")
        return state | dict.fromkeys(ours)


def _tell(line: str) -> None:
    rank_zero_info(f"LoaderTuner: {line}")


def _if_busy(text: str | None) -> str | None:
    return None if text is None else f"the machine is too busy to measure ({text})"
