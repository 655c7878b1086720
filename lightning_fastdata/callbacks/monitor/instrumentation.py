"""Installs everything on a Trainer that times it, and removes it at the end."""

from collections.abc import Callable
from typing import Any

from lightning_fastdata.callbacks.monitor.cuda_timer import DeviceTimer, device_timer
from lightning_fastdata.callbacks.monitor.event_buffer import EventBuffer, LoadersOpened
from lightning_fastdata.callbacks.monitor.fetch_probe import FetchProbe
from lightning_fastdata.callbacks.monitor.hook_timing import hook_labels, timed_calls
from lightning_fastdata.callbacks.monitor.loader_info import overrides
from lightning_fastdata.callbacks.monitor.profiler_tap import FETCHES, Interval, OnInterval, ProfilerTap
from lightning_fastdata.compat.lightning_monitoring import sigterm_broadcast

__all__ = ["Instrumentation"]

# Where ranks wait for each other outside the labels; all public methods of a strategy.
_COLLECTIVES = ("barrier", "broadcast", "all_gather", "reduce", "reduce_boolean_decision")
_LOGGING = ("log_metrics", "log_hyperparams", "log_graph", "save")


class Instrumentation:
    """Times one Trainer: its profiler's labels, its loggers, its collectives, its fetches.

    A tuner takes all callbacks away while it runs fits of its own: these are not noted.

    Args:
        trainer: The Trainer to time.
        pl_module: The module it runs.
        monitor: The callback that measures.
        events: Where the events go.
        on_error: Called with an error of our own, which must not reach the training.
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
        events: EventBuffer,
        on_error: Callable[[Exception], None],
        clock: Callable[[], float],
        fitting: bool,
        device_events: bool,
    ) -> None:
        self.notes: dict[str, str] = {}
        """What a reader has to know of what could not be timed."""
        self.not_measured: tuple[str, ...] = ()
        """Accounts of the ledger that cannot be measured here."""
        self.probe = FetchProbe(trainer)
        self.device = self._device_timer(trainer) if fitting and device_events else None
        self._trainer, self._monitor = trainer, monitor
        self._events, self._clock = events, clock
        self._lost: list[str] = []
        self._undo: list[Callable[[], None]] = []
        self.tap = ProfilerTap(
            trainer,
            self._on_interval(pl_module, trainer.datamodule),
            before={"train": self._before_fetch()},
            on_start=self._on_start(),
            labels=hook_labels(trainer, pl_module, monitor) if fitting else {},
            on_error=on_error,
            on_opening=self._opening,
            clock=clock,
        )
        if not self.tap.install():
            kind = type(trainer.profiler).__name__
            self.notes["profiler"] = f"The Trainer's profiler ({kind}) cannot be tapped: nothing was measured."
        elif not self.tap.times_first_fetches:
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
        timer = device_timer(_root_device(trainer))
        if timer is not None and any(type(callback).__name__ == "ThroughputMonitor" for callback in trainer.callbacks):
            self.notes["synchronized"] = (
                "ThroughputMonitor waits for the device after every batch, which turns harmless waiting into"
                " idling of the device: the figures of the device are those of a run with it."
            )
        return timer

    def _on_interval(self, *owners: Any) -> dict[str, OnInterval]:
        note, device = self._events.note, self.device
        on_interval: dict[str, OnInterval] = dict.fromkeys(("compute", "checkpoint", "callback", "validation"), note)
        on_interval["train"] = self._on_train_fetch()
        on_interval |= dict.fromkeys(FETCHES[1:], self._on_evaluation_fetch)

        def on_transfer(interval: Interval) -> None:
            if device is not None:
                device.after_transfer()
            note(interval)

        # Each label that is timed costs some 5 us a step, so those behind which nothing happens are not.
        if getattr(_root_device(self._trainer), "type", None) != "cpu" or overrides(
            "transfer_batch_to_device", *owners
        ):
            on_interval["transfer"] = on_transfer
        else:
            self.not_measured = ("transfer_s",)
        if overrides("on_after_batch_transfer", *owners):
            on_interval["after_transfer"] = note
        return on_interval

    def _on_start(self) -> dict[str, Callable[[float], None]]:
        device = self.device
        on_start: dict[str, Callable[[float], None]] = {"opening": lambda now: self._opening("opening", now)}
        if device is not None:
            # on_after_batch_transfer runs within the transfer, and its kernels are no copying.
            on_start["after_transfer"] = lambda now: device.after_transfer()
        return on_start

    def _before_fetch(self) -> Callable[[], None]:
        probe, device = self.probe, self.device
        if device is None:
            return probe.before

        def before() -> None:
            probe.before()
            device.before_fetch()

        return before

    def _on_train_fetch(self) -> OnInterval:
        events, note, trainer, monitor = self._events, self._events.note, self._trainer, self._monitor
        probe, device = self.probe, self.device

        def on_fetch(interval: Interval) -> None:
            _, start, end = interval
            if monitor not in trainer.callbacks:
                events.meter.go_away(start)
                return
            if device is not None:
                device.after_fetch()
            fetch = probe.after(start, end)
            note(fetch)
            if device is not None and fetch.exhausted:
                device.found_the_end()

        return on_fetch

    def _on_evaluation_fetch(self, interval: Interval) -> None:
        if self._monitor in self._trainer.callbacks and not self._trainer.sanity_checking:
            self._events.meter.stage_fetch(*interval)

    def _opening(self, kind: str, now: float) -> None:
        trainer = self._trainer
        if self._monitor not in trainer.callbacks or trainer.sanity_checking:
            return
        if kind in ("opening", "train"):  # the latter for loaders that were given to fit, which have no label
            self._events.note(LoadersOpened(now, replaced=kind == "train"))
        else:  # evaluation begins where its loader is opened: starting its workers is none of training's time
            self._events.meter.open_loaders(kind, now)

    def _time_calls(self) -> None:
        """Loggers and collectives have no label."""
        trainer, note, clock = self._trainer, self._events.note, self._clock

        def noting(kind: str) -> Callable[[float, float], None]:
            return lambda start, end: note(Interval(kind, start, end))

        for logger in trainer.loggers:
            self._undo.append(timed_calls(logger, _LOGGING, noting("callback"), clock))
        if trainer.world_size > 1:
            broadcast = sigterm_broadcast(trainer)
            if broadcast is None:  # the one before every batch; the others alone would be a wrong number
                self.not_measured += ("sync_s",)
                self._lose("rank synchronization: not measured, this Lightning asks for SIGTERM elsewhere.")
                return
            self._undo.append(timed_calls(trainer.strategy, _COLLECTIVES, noting("sync"), clock))
            self._undo.append(timed_calls(broadcast[0], [broadcast[1]], noting("sync"), clock))

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
        """Remove everything, in reverse order."""
        while self._undo:
            self._undo.pop()()
        self.tap.restore()


def _root_device(trainer: Any) -> Any:
    """The device that the Trainer computes on; None for a strategy of the user's that has none."""
    return getattr(trainer.strategy, "root_device", None)
