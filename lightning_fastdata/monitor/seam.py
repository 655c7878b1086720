"""Where the Trainer is listened to: its profiler's labels, and the fetches that it does not label.

Lightning brackets every phase with ``trainer.profiler.start(name)`` and ``.stop(name)``. While a seam is installed,
these two are replaced on the profiler object itself, so that its type and its own report stay what they are.
"""

import time
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any

from lightning_fastdata.internals import watch_fetchers

__all__ = ["FETCHES", "Listener", "Seam"]

# The ends of the labels that matter, and what we call them. The labels are no typed interface of Lightning's: the
# monitor notices when none arrives, and says so.
_ENDS = {
    "].train_dataloader_next": "train",
    "].val_next": "val",
    "].test_next": "test",
    "].predict_next": "predict",
    ".batch_to_device": "transfer",
    ".on_after_batch_transfer": "after_transfer",
    "run_training_batch": "compute",
}
FETCHES = ("train", "val", "test", "predict")
_STAGES = {"train": "train", "validate": "val", "sanity_check": "val", "test": "test", "predict": "predict"}
# A run has some sixty labels; this only keeps a user's own changing labels from filling the memory.
_MOST_LABELS = 4096

Listener = Callable[[float, float], None]


class _Slot:
    """One kind of interval: when the running one started, and who wants to know when it ends."""

    __slots__ = ("heard", "since")

    def __init__(self, heard: Listener) -> None:
        self.since: float | None = None
        self.heard = heard


class _Labels(dict[str, "_Slot | None"]):
    """Label to slot, looked up once a label; None is a label that does not matter."""

    def __init__(self, slots: Mapping[str, _Slot]) -> None:
        super().__init__()
        self._slots = slots

    def __missing__(self, label: str) -> "_Slot | None":
        kind = next((kind for end, kind in _ENDS.items() if label.endswith(end)), "")
        slot = self._slots.get(kind)
        if len(self) < _MOST_LABELS:
            self[label] = slot
        return slot


class Seam:
    """Hears the intervals of one trainer on the thread that installed it.

    Args:
        trainer: The trainer to listen to.
        listeners: For each kind of interval ("train", "val", "test", "predict": fetches; "transfer",
            "after_transfer", "compute") a function of start and end on ``clock``.
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
        opening: Callable[[str, float], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.trainer = trainer
        self._clock = clock
        self._failed = failed
        self._opening = opening
        self._slots = {kind: _Slot(heard) for kind, heard in listeners.items()}
        self._labels = _Labels(self._slots)
        self._owner = 0
        self._profiler: Any = None
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
        self._owner = get_ident()
        self._had = {name: own[name] for name in ("start", "stop") if name in own}
        self.inner_start, self.inner_stop = profiler.start, profiler.stop
        own["start"], own["stop"] = self._start, self._stop
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
        if own.get("start") == self._start and own.get("stop") == self._stop:
            for name in ("start", "stop"):
                del own[name]
            own.update(self._had)
        elif above is not None:
            above.inner_start, above.inner_stop, above._had = self.inner_start, self.inner_stop, self._had
        else:
            # Something foreign was put on top and still calls us: hand everything on, hear nothing.
            self._labels = _Labels({})
        self._profiler = None

    def _start(self, label: str) -> None:
        slot = self._labels[label]
        self.inner_start(label)
        if slot is not None and get_ident() == self._owner:
            slot.since = self._clock()  # last, so that no one's bookkeeping is inside the interval

    def _stop(self, label: str) -> None:
        slot = self._labels[label]
        if slot is None:
            self.inner_stop(label)
            return
        end = self._clock()  # first, for the same reason
        self.inner_stop(label)
        if get_ident() == self._owner:
            self._hear(slot, end)

    def _hear(self, slot: _Slot, end: float) -> None:
        since = slot.since
        if since is None:  # a stop whose start came before the seam
            return
        slot.since = None
        try:
            slot.heard(since, end)
        except Exception as error:
            self._failed(error)

    def _around_fetch(self, stage: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """The two hooks of a new fetcher, for the fetches before Lightning sets its own."""
        slot = self._slots.get(_STAGES.get(stage, ""))
        if slot is None or get_ident() != self._owner:
            return _nothing, _nothing
        if self._opening is not None:
            try:
                self._opening(_STAGES[stage], self._clock())
            except Exception as error:
                self._failed(error)

        def start() -> None:
            slot.since = self._clock()

        def stop() -> None:
            self._hear(slot, self._clock())

        return start, stop


def _seam_above(top: Any, below: Seam) -> Seam | None:
    """The seam that calls ``below``, looking down from the outermost replacement."""
    seam = getattr(top, "__self__", None)
    while isinstance(seam, Seam):
        inner = getattr(seam.inner_start, "__self__", None)
        if inner is below:
            return seam
        seam = inner
    return None


def _ignore(label: str) -> None:
    pass


def _nothing() -> None:
    pass
