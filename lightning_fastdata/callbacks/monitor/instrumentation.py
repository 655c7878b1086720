"""Everything that is put into a Trainer to hear where its time goes, and taken out again."""

from collections.abc import Callable
from typing import Any

from lightning_fastdata.callbacks.monitor.cuda_timer import DeviceTimer, device_timer
from lightning_fastdata.callbacks.monitor.event_buffer import EventBuffer
from lightning_fastdata.callbacks.monitor.fetch_probe import FetchProbe, found_the_end
from lightning_fastdata.callbacks.monitor.hook_timing import hook_labels, timed_calls
from lightning_fastdata.callbacks.monitor.loader_info import overrides
from lightning_fastdata.callbacks.monitor.profiler_tap import FETCHES, Interval, Listener, ProfilerTap
from lightning_fastdata.callbacks.monitor.step_meter import StepMeter
from lightning_fastdata.compat.lightning_monitoring import sigterm_broadcast

__all__ = ["Instrumentation"]

# Where ranks meet outside the labels; all public methods of a strategy.
_MEETINGS = ("barrier", "broadcast", "all_gather", "reduce", "reduce_boolean_decision")
_LOGGING = ("log_metrics", "log_hyperparams", "log_graph", "save")


class Instrumentation:
    """The ears in one Trainer: its profiler's labels, its loggers, the meetings of ranks, the fetches.

    A tuner takes all callbacks away while it runs fits of its own, which are not ours: then nothing is noted.

    Args:
        trainer: The Trainer to listen to.
        pl_module: The module it runs.
        monitor: The callback that measures.
        journal: Where the events go.
        up_to_date: Gives the meter after everything that was noted.
        failed: Called with an error of our own, which must not reach the training.
        clock: A monotonic clock in seconds.
        fitting: Whether it is a fit that begins, not an evaluation alone.
        device_events: Whether a CUDA device is asked how it saw the fetches.
    """

    def __init__(
        self,
        trainer: Any,
        pl_module: Any,
        monitor: Any,
        *,
        journal: EventBuffer,
        up_to_date: Callable[[], StepMeter],
        failed: Callable[[Exception], None],
        clock: Callable[[], float],
        fitting: bool,
        device_events: bool,
    ) -> None:
        self.notes: dict[str, str] = {}
        """What a reader has to know of what could not be heard."""
        self.not_measured: tuple[str, ...] = ()
        """Accounts of the ledger that cannot be told apart here."""
        self.probe = FetchProbe(trainer)
        self.device = self._device_timer(trainer) if fitting and device_events else None
        self._trainer, self._monitor = trainer, monitor
        self._journal, self._up_to_date, self._clock = journal, up_to_date, clock
        self._lost: list[str] = []
        self._undo: list[Callable[[], None]] = []
        owners = (pl_module, trainer.datamodule)
        listeners = self._listeners(owners)
        self.seam = ProfilerTap(
            trainer,
            listeners,
            before={"train": self._before_fetch()},
            began=self._beginnings(),
            labels=hook_labels(trainer, pl_module, monitor) if fitting else {},
            failed=failed,
            opening=self._open,
            clock=clock,
        )
        if not self.seam.install():
            kind = type(trainer.profiler).__name__
            self.notes["profiler"] = f"The Trainer's profiler ({kind}) cannot be listened to: nothing was measured."
        elif not self.seam.hears_first_fetches:
            self.notes["first"] = (
                "This Lightning hides the batch that is read ahead of a loader without a length: it is not measured."
            )
        try:
            if fitting:
                self._time_calls()
        except Exception:
            self.restore()
            raise

    def _device_timer(self, trainer: Any) -> DeviceTimer | None:
        device = _root_device(trainer)
        timer = None if device is None else device_timer(device)
        if timer is not None and any(type(callback).__name__ == "ThroughputMonitor" for callback in trainer.callbacks):
            self.notes["synchronised"] = (
                "ThroughputMonitor waits for the device after every batch, which turns harmless waiting into"
                " idling of the device: the figures of the device are those of a run with it."
            )
        return timer

    def _listeners(self, owners: tuple[Any, ...]) -> dict[str, Listener]:
        trainer, note = self._trainer, self._journal.note
        listeners: dict[str, Listener] = {"train": self._train_listener(), "compute": note}
        listeners |= {"checkpoint": note, "callback": note, "validation": note}
        # Each label that is listened to costs some 5 us a step, so those behind which nothing happens are not.
        if getattr(_root_device(trainer), "type", None) != "cpu" or overrides("transfer_batch_to_device", *owners):
            listeners["transfer"] = self._transfer_listener()
        else:
            self.not_measured = ("transfer_s",)
        if overrides("on_after_batch_transfer", *owners):
            listeners["after_transfer"] = note
        for stage in FETCHES[1:]:
            listeners[stage] = self._stage_listener()
        return listeners

    def _beginnings(self) -> dict[str, Callable[[float], None]]:
        device = self.device
        began: dict[str, Callable[[float], None]] = {"opening": lambda now: self._open("opening", now)}
        if device is not None:
            # on_after_batch_transfer runs within the transfer, and its kernels are no copying.
            began["after_transfer"] = lambda now: device.after_transfer()
        return began

    def _before_fetch(self) -> Callable[[], None]:
        probe, device = self.probe, self.device
        if device is None:
            return probe.before

        def before() -> None:
            probe.before()
            device.before_fetch()

        return before

    def _train_listener(self) -> Listener:
        note, trainer, monitor = self._journal.note, self._trainer, self._monitor
        probe, device = self.probe, self.device

        def heard(interval: Interval) -> None:
            _, start, end = interval
            if monitor not in trainer.callbacks:
                self._up_to_date().go_away(start)
                return
            if device is not None:
                device.after_fetch()
            seen = probe.after()
            note((seen, start, end))
            if device is not None and found_the_end(seen):
                device.found_the_end()

        return heard

    def _transfer_listener(self) -> Listener:
        note, device = self._journal.note, self.device
        if device is None:
            return note

        def heard(interval: Interval) -> None:
            device.after_transfer()
            note(interval)

        return heard

    def _stage_listener(self) -> Listener:
        trainer, monitor = self._trainer, self._monitor

        def heard(interval: Interval) -> None:
            meter = self._up_to_date()
            if monitor in trainer.callbacks and not trainer.sanity_checking:
                meter.stage_fetch(*interval)

        return heard

    def _open(self, stage: str, now: float) -> None:
        trainer = self._trainer
        if self._monitor not in trainer.callbacks or trainer.sanity_checking:
            return
        if stage in ("opening", "train"):  # the latter for loaders that were given to fit, which have no label
            self._journal.note(("opening" if stage == "opening" else "made anew", now))
        else:  # evaluation begins where its loader is opened: starting its workers is none of training's time
            self._up_to_date().open_loaders(stage, now)

    def _time_calls(self) -> None:
        """Loggers and meetings of ranks have no label."""
        trainer, note = self._trainer, self._journal.note

        def logged(start: float, end: float) -> None:
            note(("callback", start, end))

        def met(start: float, end: float) -> None:
            note(("sync", start, end))

        for logger in trainer.loggers:
            self._undo.append(timed_calls(logger, _LOGGING, logged, self._clock))
        if trainer.world_size > 1:
            broadcast = sigterm_broadcast(trainer)
            if broadcast is None:  # the meeting before every batch; the others alone would be a wrong number
                self.not_measured += ("sync_s",)
                self._lose("rank synchronization: not measured, this Lightning asks for SIGTERM elsewhere.")
                return
            self._undo.append(timed_calls(trainer.strategy, _MEETINGS, met, self._clock))
            self._undo.append(timed_calls(broadcast[0], [broadcast[1]], met, self._clock))

    def loss(self) -> str | None:
        """What private names of torch or Lightning turned out to be gone, once; for a warning."""
        if self.probe.lost is not None and self.probe.lost not in self.notes.values():
            self._lose(self.probe.lost)
        loss, self._lost = " ".join(self._lost), []
        return loss or None

    def _lose(self, sentence: str) -> None:
        self._lost.append(sentence)
        self.notes[sentence] = sentence

    def restore(self) -> None:
        """Take everything out again, in reverse order."""
        while self._undo:
            self._undo.pop()()
        self.seam.restore()


def _root_device(trainer: Any) -> Any:
    """The device that the Trainer computes on; None for a strategy of the user's that has none."""
    return getattr(trainer.strategy, "root_device", None)
