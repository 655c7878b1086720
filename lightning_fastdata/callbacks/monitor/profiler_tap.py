"""Where the Trainer is listened to: its profiler's labels, and the fetches that it does not label.

Lightning brackets every phase with ``trainer.profiler.start(name)`` and ``.stop(name)``. While a seam is installed,
these two are replaced on the profiler object itself, so that its type and its own report stay what they are.
"""

import time
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any

from lightning_fastdata.compat.lightning_monitoring import watch_fetchers

__all__ = ["FETCHES", "Interval", "Listener", "ProfilerTap"]

# The ends of the labels that matter, and what we call them. The labels are no typed interface of Lightning's: the
# monitor notices when none arrives, and says so.
_ENDS = {
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
    # The loaders are read from their beginning: made anew (above), or only their iterators.
    "run_training_epoch": "opening",
}
FETCHES = ("train", "val", "test", "predict")
_STAGES = {"train": "train", "validate": "val", "sanity_check": "val", "test": "test", "predict": "predict"}
# A run has some sixty labels; this only keeps a user's own changing labels from filling the memory.
_MOST_LABELS = 4096

Interval = tuple[str, float, float]
Listener = Callable[[Interval], None]
Before = Callable[[], None]
Began = Callable[[float], None]


class _Slot:
    """One kind of interval: when the running one started, and who wants to know when it starts and ends."""

    __slots__ = ("before", "began", "heard", "kind", "since")

    def __init__(self, kind: str, heard: Listener, before: Before | None, began: Began | None) -> None:
        self.kind = kind
        self.since: float | None = None
        self.heard = heard
        self.before = before
        self.began = began

    def start(self, clock: Callable[[], float], failed: Callable[[Exception], None]) -> None:
        """The interval starts; the clock is read last, so that no one's bookkeeping is inside it."""
        try:
            if self.before is not None:
                self.before()
            self.since = now = clock()
            if self.began is not None:
                self.began(now)
        except Exception as error:
            failed(error)


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
        kind = kind or next((kind for end, kind in _ENDS.items() if label.endswith(end)), "")
        slot = self._slots.get(kind)
        if len(self) < _MOST_LABELS:
            self[label] = slot
        return slot


class _Unheard(dict[str, None]):
    """The replacement of a profiler method that does nothing: every label that does not matter, and nothing else.

    Its ``__getitem__`` takes the method's place, so that a label that does not matter costs one look-up in C, less than
    the empty method did. A label that is not in here, because it matters or is new, comes out at ``__missing__``.
    """

    __slots__ = ("clock", "labels", "owner", "seam")

    def __init__(self, seam: "ProfilerTap") -> None:
        super().__init__()
        self.seam, self.labels, self.clock, self.owner = seam, seam.labels, seam.clock, seam.owner

    def leave_out(self, label: str) -> None:
        if len(self) < _MOST_LABELS:
            self[label] = None


class _UnheardStarts(_Unheard):
    __slots__ = ()

    def __missing__(self, label: str) -> None:
        slot = self.labels[label]
        if slot is None:
            self.leave_out(label)
        elif get_ident() == self.owner:
            if slot.before is None and slot.began is None:
                slot.since = self.clock()
            else:
                slot.start(self.clock, self.seam.failed)


class _UnheardStops(_Unheard):
    __slots__ = ()

    def __missing__(self, label: str) -> None:
        end = self.clock()
        slot = self.labels[label]
        if slot is None:
            self.leave_out(label)
        elif get_ident() == self.owner and slot.since is not None:
            since, slot.since = slot.since, None
            try:
                slot.heard((slot.kind, since, end))
            except Exception as error:
                self.seam.failed(error)


class ProfilerTap:
    """Hears the intervals of one trainer on the thread that installed it.

    Args:
        trainer: The trainer to listen to.
        listeners: For each kind of interval ("train", "val", "test", "predict": fetches; "transfer",
            "after_transfer", "compute", "checkpoint"; or a kind of ``labels``) a function of (kind, start, end), the
            times on ``clock``.
        before: For a kind a function that is called right before its interval starts.
        began: For a kind a function of the time at which its interval started; "opening" is when training's loaders are
            about to be read from their beginning.
        labels: Further labels, as Lightning writes them, and the kind that each is.
        failed: Called with what a listener raised; a listener never breaks the training.
        opening: Called with the fetch kind and the time when Lightning starts to set up a loader for reading.
        clock: A monotonic clock in seconds.
    """

    def __init__(
        self,
        trainer: Any,
        listeners: Mapping[str, Listener],
        *,
        failed: Callable[[Exception], None],
        before: Mapping[str, Before] | None = None,
        began: Mapping[str, Began] | None = None,
        labels: Mapping[str, str] | None = None,
        opening: Callable[[str, float], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.trainer = trainer
        self.clock = clock
        self.failed = failed
        self._opening = opening
        before, began = before or {}, began or {}
        self._slots = {
            kind: _Slot(kind, listeners.get(kind, _unheard), before.get(kind), began.get(kind))
            for kind in (*listeners, *(kind for kind in began if kind not in listeners))
        }
        self.labels = _Labels(self._slots, labels or {})
        self.owner = 0
        self._profiler: Any = None
        self._start_there: Callable[[str], Any] = self._start
        self._stop_there: Callable[[str], Any] = self._stop
        self._had: dict[str, Any] = {}
        self._undo_watch: Callable[[], None] | None = None
        self.inner_start: Callable[[str], Any] = _ignore
        self.inner_stop: Callable[[str], Any] = _ignore

    @property
    def installed(self) -> bool:
        """Whether the seam listens."""
        return self._profiler is not None

    @property
    def hears_first_fetches(self) -> bool:
        """Whether fetches before the first label are heard too (only loaders without a length have them)."""
        return self._undo_watch is not None

    def install(self) -> bool:
        """Start to listen; once is enough.

        Returns:
            False where the profiler is of a kind that cannot be listened to.
        """
        if self.installed:
            return True
        profiler = self.trainer.profiler
        try:
            own = vars(profiler)
        except TypeError:
            return False
        self.owner = get_ident()
        self._had = {name: own[name] for name in ("start", "stop") if name in own}
        self.inner_start, self.inner_stop = profiler.start, profiler.stop
        self._start_there, self._stop_there = self._replacements(profiler)
        own["start"], own["stop"] = self._start_there, self._stop_there
        self._profiler = profiler
        self._undo_watch = watch_fetchers(self.trainer, self._around_fetch)
        return True

    def restore(self) -> None:
        """Put everything back as it was, in whatever order several seams are taken away."""
        if self._undo_watch is not None:
            self._undo_watch()
            self._undo_watch = None
        if self._profiler is None:
            return
        own = vars(self._profiler)
        above = _seam_above(own.get("start"), self)
        if own.get("start") is self._start_there and own.get("stop") is self._stop_there:
            for name in ("start", "stop"):
                del own[name]
            own.update(self._had)
        elif above is not None:
            above.inner_start, above.inner_stop, above._had = self.inner_start, self.inner_stop, self._had
        else:
            # Something foreign was put on top and still calls us: hand everything on, hear nothing.
            self.labels.forget()
        self._profiler = None

    def _replacements(self, profiler: Any) -> tuple[Callable[[str], Any], Callable[[str], Any]]:
        """What takes the place of the profiler's two methods."""
        if self._had or type(profiler).__name__ != "PassThroughProfiler":
            return self._start, self._stop
        return _UnheardStarts(self).__getitem__, _UnheardStops(self).__getitem__

    def _start(self, label: str) -> None:
        slot = self.labels[label]
        self.inner_start(label)
        if slot is not None and get_ident() == self.owner:
            slot.start(self.clock, self.failed)

    def _stop(self, label: str) -> None:
        slot = self.labels[label]
        if slot is None:
            self.inner_stop(label)
            return
        end = self.clock()  # first, for the same reason
        self.inner_stop(label)
        if get_ident() == self.owner:
            self._hear(slot, end)

    def _hear(self, slot: _Slot, end: float) -> None:
        since = slot.since
        if since is None:  # a stop whose start came before the seam
            return
        slot.since = None
        try:
            slot.heard((slot.kind, since, end))
        except Exception as error:
            self.failed(error)

    def _around_fetch(self, stage: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """The two hooks of a new fetcher, for the fetches before Lightning sets its own."""
        slot = self._slots.get(_STAGES.get(stage, ""))
        if slot is None or get_ident() != self.owner:
            return _nothing, _nothing
        if self._opening is not None:
            try:
                self._opening(_STAGES[stage], self.clock())
            except Exception as error:
                self.failed(error)

        def start() -> None:
            slot.start(self.clock, self.failed)

        def stop() -> None:
            self._hear(slot, self.clock())

        return start, stop


def _seam_above(top: Any, below: ProfilerTap) -> ProfilerTap | None:
    """The seam that calls ``below``, looking down from the outermost replacement."""
    seam = _seam_behind(top)
    while seam is not None:
        inner = _seam_behind(seam.inner_start)
        if inner is below:
            return seam
        seam = inner
    return None


def _seam_behind(replacement: Any) -> ProfilerTap | None:
    owner = getattr(replacement, "__self__", None)
    owner = owner.seam if isinstance(owner, _Unheard) else owner
    return owner if isinstance(owner, ProfilerTap) else None


def _ignore(label: str) -> None:
    pass


def _unheard(interval: Interval) -> None:
    pass


def _nothing() -> None:
    pass
