"""Times what the Trainer does: by its profiler's labels, and by the fetches that it does not label.

Lightning brackets every phase with ``trainer.profiler.start(name)`` and ``.stop(name)``. While a tap is installed,
these two are replaced on the profiler object itself, so that its type and its own report stay the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import get_ident
from typing import Any, NamedTuple

from lightning_fastdata.compat.lightning_monitoring import watch_fetchers

__all__ = ["FETCHES", "Interval", "OnInterval", "ProfilerTap"]

# The ends of the labels that matter, and what we call them. The labels are no typed interface of Lightning's: the
# monitor notices when none arrives, and says so.
_LABEL_ENDS = {
    "].train_dataloader_next": "train",
    "].val_next": "val",
    "].test_next": "test",
    "].predict_next": "predict",
    ".batch_to_device": "transfer",
    ".on_after_batch_transfer": "after_transfer",
    ".train_dataloader": "opening",
}
_LABELS = {
    "run_training_batch": "compute",
    "save_checkpoint": "checkpoint",
    # The loaders are read from their beginning: new ones (above), or new iterators of the same loaders.
    "run_training_epoch": "opening",
}
FETCHES = ("train", "val", "test", "predict")
_STAGES = {"train": "train", "validate": "val", "sanity_check": "val", "test": "test", "predict": "predict"}
# A run has some sixty labels; this only keeps a user's own changing labels from filling the memory.
_MOST_LABELS = 4096


class Interval(NamedTuple):
    """Something that took time."""

    kind: str
    """"train", "val", "test", "predict": a fetch; "transfer", "after_transfer", "compute", "checkpoint", "callback",
    "validation" or "sync"."""
    start: float
    """When it started (s)."""
    end: float
    """When it ended (s)."""


OnInterval = Callable[[Interval], None]
OnError = Callable[[Exception], None]


@dataclass(slots=True)
class _Slot:
    """One kind of interval: when the running one started, and what is called as it starts and ends."""

    kind: str
    on_end: OnInterval | None
    before: Callable[[], None] | None
    on_start: Callable[[float], None] | None
    since: float | None = None

    def start(self, clock: Callable[[], float], on_error: OnError) -> None:
        """The interval starts; the clock is read last, so that no bookkeeping is inside it."""
        try:
            if self.before is not None:
                self.before()
            self.since = now = clock()
            if self.on_start is not None:
                self.on_start(now)
        except Exception as error:
            on_error(error)

    def stop(self, end: float, on_error: OnError) -> None:
        """The interval ended, if its start was seen."""
        since, self.since = self.since, None
        if since is None or self.on_end is None:
            return
        try:
            self.on_end(Interval(self.kind, since, end))
        except Exception as error:
            on_error(error)


class _Labels(dict[str, "_Slot | None"]):
    """Label to slot, looked up once a label; None is a label that does not matter."""

    def __init__(self, slots: Mapping[str, _Slot], kinds: Mapping[str, str]) -> None:
        super().__init__()
        self._slots = slots
        self._kinds = kinds

    def forget(self) -> None:
        """From now on no label matters."""
        self._slots = {}
        self.clear()

    def __missing__(self, label: str) -> "_Slot | None":
        kind = self._kinds.get(label) or _LABELS.get(label) or ""
        kind = kind or next((kind for end, kind in _LABEL_ENDS.items() if label.endswith(end)), "")
        slot = self._slots.get(kind)
        if len(self) < _MOST_LABELS:
            self[label] = slot
        return slot


class _IgnoredLabels(dict[str, None]):
    """The replacement of a profiler method that does nothing: every label that does not matter, and nothing else.

    Its ``__getitem__`` takes the method's place, so that a label that does not matter costs one look-up in C, less than
    the empty method did. A label that is not in here, because it matters or is new, comes out at ``__missing__``.
    """

    __slots__ = ("clock", "labels", "owner", "tap")

    def __init__(self, tap: "ProfilerTap") -> None:
        super().__init__()
        self.tap, self.labels, self.clock, self.owner = tap, tap.labels, tap.clock, tap.owner

    def ignore(self, label: str) -> None:
        if len(self) < _MOST_LABELS:
            self[label] = None


class _IgnoredStarts(_IgnoredLabels):
    __slots__ = ()

    def __missing__(self, label: str) -> None:
        slot = self.labels[label]
        if slot is None:
            self.ignore(label)
        elif get_ident() == self.owner:
            if slot.before is None and slot.on_start is None:
                slot.since = self.clock()
            else:
                slot.start(self.clock, self.tap.on_error)


class _IgnoredStops(_IgnoredLabels):
    __slots__ = ()

    def __missing__(self, label: str) -> None:
        end = self.clock()
        slot = self.labels[label]
        if slot is None:
            self.ignore(label)
        elif get_ident() == self.owner and slot.since is not None and slot.on_end is not None:
            since, slot.since = slot.since, None  # as in ``_Slot.stop``, without a call
            try:
                slot.on_end(Interval(slot.kind, since, end))
            except Exception as error:
                self.tap.on_error(error)


class ProfilerTap:
    """Reports the intervals of one trainer on the thread that installed it.

    Args:
        trainer: The Trainer to time.
        on_interval: For each kind of interval, or kind of ``labels``, a function that gets those that ended, with
            times on ``clock``.
        on_error: Called with what such a function raised; it never breaks the training.
        before: For a kind a function that is called right before its interval starts.
        on_start: For a kind a function of the time at which its interval started; "opening" is when training's loaders
            are about to be read from their beginning.
        labels: Further labels, as Lightning writes them, and the kind that each is.
        on_opening: Called with the fetch kind and the time when Lightning starts to set up a loader for reading.
        clock: A monotonic clock in seconds.
    """

    def __init__(
        self,
        trainer: Any,
        on_interval: Mapping[str, OnInterval],
        *,
        on_error: OnError,
        before: Mapping[str, Callable[[], None]],
        on_start: Mapping[str, Callable[[float], None]],
        labels: Mapping[str, str],
        on_opening: Callable[[str, float], None],
        clock: Callable[[], float],
    ) -> None:
        self.trainer = trainer
        self.clock = clock
        self.on_error = on_error
        self._on_opening = on_opening
        self._slots = {
            kind: _Slot(kind, on_interval.get(kind), before.get(kind), on_start.get(kind))
            for kind in on_interval.keys() | on_start.keys()
        }
        self.labels = _Labels(self._slots, labels)
        self.owner = 0
        self._profiler: Any = None
        self._had: dict[str, Any] = {}
        self._undo_watch: Callable[[], None] | None = None

    @property
    def times_first_fetches(self) -> bool:
        """Whether fetches before the first label are timed too (only loaders without a length have them)."""
        return self._undo_watch is not None

    def install(self) -> bool:
        """Put the tap on the Trainer's profiler.

        Returns:
            False where the profiler is of a kind that cannot be tapped.
        """
        profiler = self.trainer.profiler
        try:
            own = vars(profiler)
        except TypeError:
            return False
        self.owner = get_ident()
        self._had = {name: own[name] for name in ("start", "stop") if name in own}
        self.inner_start, self.inner_stop = profiler.start, profiler.stop
        if not self._had and type(profiler).__name__ == "PassThroughProfiler":
            self._start_there, self._stop_there = _IgnoredStarts(self).__getitem__, _IgnoredStops(self).__getitem__
        else:
            self._start_there, self._stop_there = self._start, self._stop
        own["start"], own["stop"] = self._start_there, self._stop_there
        self._profiler = profiler
        self._undo_watch = watch_fetchers(self.trainer, self._around_fetch)
        return True

    def restore(self) -> None:
        """Take the tap away; several taps may be taken away in any order."""
        if self._undo_watch is not None:
            self._undo_watch()
            self._undo_watch = None
        if self._profiler is None:
            return
        own = vars(self._profiler)
        above = _tap_above(own.get("start"), self)
        if own.get("start") is self._start_there and own.get("stop") is self._stop_there:
            for name in ("start", "stop"):
                del own[name]
            own.update(self._had)
        elif above is not None:
            above.inner_start, above.inner_stop, above._had = self.inner_start, self.inner_stop, self._had
        else:
            # Something foreign was put on top and still calls us: hand everything on, time nothing.
            self.labels.forget()
        self._profiler = None

    def _start(self, label: str) -> None:
        slot = self.labels[label]
        self.inner_start(label)
        if slot is not None and get_ident() == self.owner:
            slot.start(self.clock, self.on_error)

    def _stop(self, label: str) -> None:
        slot = self.labels[label]
        if slot is None:
            self.inner_stop(label)
            return
        end = self.clock()  # first, for the same reason
        self.inner_stop(label)
        if get_ident() == self.owner:
            slot.stop(end, self.on_error)

    def _around_fetch(self, stage: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """The two hooks of a new fetcher, for the fetches before Lightning sets its own."""
        slot = self._slots.get(_STAGES.get(stage, ""))
        if slot is None or get_ident() != self.owner:
            return lambda: None, lambda: None
        try:
            self._on_opening(_STAGES[stage], self.clock())
        except Exception as error:
            self.on_error(error)
        return lambda: slot.start(self.clock, self.on_error), lambda: slot.stop(self.clock(), self.on_error)


def _tap_above(top: Any, below: ProfilerTap) -> ProfilerTap | None:
    """The tap that calls ``below``, looking down from the outermost replacement."""
    tap = _tap_behind(top)
    while tap is not None:
        inner = _tap_behind(tap.inner_start)
        if inner is below:
            return tap
        tap = inner
    return None


def _tap_behind(replacement: Any) -> ProfilerTap | None:
    owner = getattr(replacement, "__self__", None)
    owner = owner.tap if isinstance(owner, _IgnoredLabels) else owner
    return owner if isinstance(owner, ProfilerTap) else None
