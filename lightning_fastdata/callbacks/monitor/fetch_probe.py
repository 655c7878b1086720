"""What kind of waiting a training fetch was, and how full the queue was when it began.

There are two ways to know when the wanted batch was there. Loaders of this package carry the time with each batch. Of
any other torch loader, the queue is looked at before and after: a batch that comes before its turn is set aside, so the
growth of that heap shows how many batches were taken from the queue, and whether the wanted one was among those that
were in it from the start.
"""

from sys import exc_info
from typing import Any, NamedTuple

from lightning_fastdata.compat.lightning_monitoring import training_iterators
from lightning_fastdata.compat.torch_internals import QueueState, loads_inline, queue_state
from lightning_fastdata.loaders.batch_requests import Batches, InlineBatches, LoadedBatch

__all__ = ["STALL_S", "Fetch", "FetchInfo", "FetchProbe", "WaitSplit", "interpret"]

STALL_S = 1e-3
"""A shorter wait is no stall (s); taking a tensor out of a queue alone takes as long."""

_NO_ITERATORS = (
    "queue occupancy: not measured, this Lightning keeps the iterators of the training loaders elsewhere; first batches"
    " of epochs count as waiting."
)
_NO_QUEUE = "queue occupancy: not measured, this torch keeps the batches that are ready elsewhere."
_NO_LENGTH = "queue occupancy: not measured, this system does not say how long a queue between processes is."


class WaitSplit(NamedTuple):
    """The time of a fetch by cause; the three add up to it."""

    main_process_s: float
    """The training process loaded the data itself (s)."""
    stalled_s: float
    """The wanted batch was not there yet (s)."""
    worker_transfer_s: float
    """It was there, and was pickled, pinned, taken out of the queue and unpickled (s)."""


class FetchInfo(NamedTuple):
    """What a fetch was; the defaults stand for "nothing is known"."""

    exhausted: bool = False
    """Whether it only found the loader at its end."""
    from_workers: bool | None = None
    """Whether any of the loaders has worker processes; None where that cannot be known."""
    split: WaitSplit | None = None
    """Its time by cause; None where the loaders leave that open."""
    exact: bool = False
    """Whether the split comes from stamps, or is all inline; else the whole fetch was given to one cause."""
    head_of_line: bool = False
    """Whether it was blocked for more than 1 ms although other batches of the same loader were ready."""
    ready: int | None = None
    """Batches that were ready when it began (count); of several loaders with workers, the least."""
    capacity: int | None = None
    """``num_workers * prefetch_factor`` of that loader (count)."""
    restarted: bool = False
    """Whether a loader started again within the fetch, a shorter one of several: then its time is no steady wait. A
    loader that loads inline has nothing to start and does not count."""
    worker_start_s: float | None = None
    """From the beginning of a pass until its first batch began to load in a worker, as far as that lies in the fetch;
    several loaders added up (s). None where no pass began, and where loaders do not stamp it."""
    loaded: tuple[LoadedBatch, ...] = ()
    """How its batches were loaded, for those of this package's loaders."""


class _Look(NamedTuple):
    """One loader's iterator, looked at before or after a fetch. Holds no iterator: its workers would live longer."""

    iterator: int
    """Its identity."""
    ours: bool
    """Whether it is of this package's loaders."""
    inline: bool | None
    """Whether it loads in the training process; None where unknown or not decided yet."""
    queue: QueueState | None
    """Where its batches are; None without workers."""
    loaded: LoadedBatch | None
    """How its last batch was loaded, for one of ours."""


class Fetch(NamedTuple):
    """One ``next`` of training, as it was noted; ``interpret`` says what it was."""

    before: tuple[_Look, ...]
    """The loaders right before it."""
    after: tuple[_Look, ...]
    """The loaders right after it."""
    raised: type[BaseException] | None
    """What it raised."""
    start: float
    """When it began (s)."""
    end: float
    """When it ended (s)."""

    @property
    def exhausted(self) -> bool:
        """Whether it found the loader at its end."""
        return self.raised is not None and issubclass(self.raised, StopIteration)


class FetchProbe:
    """Looks at the training loaders right before and right after a fetch.

    Args:
        trainer: The Trainer.
    """

    def __init__(self, trainer: Any) -> None:
        self.lost: str | None = None
        """What cannot be measured because names are gone, as a sentence; None as long as nothing is missed."""
        self._trainer = trainer
        self._before: tuple[_Look, ...] = ()
        self._last: tuple[_Look, ...] = ()
        self._plain = False
        self._handled = 0
        # Kinds of iterators without a queue, and whether they load inline; to try again would cost more than all else.
        self._without_queue: dict[type, bool | None] = {InlineBatches: True}

    @property
    def blind(self) -> bool:
        """Whether it cannot even see which loaders are read."""
        return self.lost == _NO_ITERATORS

    def before(self) -> None:
        """Right before a fetch."""
        # A loader that shows no queue looks the same before and after.
        self._before = self._last if self._plain else self._look()
        # A fit may run in a handler of another StopIteration.
        self._handled = id(exc_info()[1])

    def after(self, start: float, end: float) -> Fetch:
        """Right after it.

        Args:
            start: When the fetch began (s, on ``time.perf_counter()``).
            end: When it ended (s).
        """
        kind, error, _ = exc_info()
        raised = None if id(error) == self._handled else kind
        before, self._before = self._before, ()
        after = self._last = self._look()
        self._plain = len(after) == 1 and after[0].queue is None and not after[0].ours
        return Fetch(before, after, raised, start, end)

    def _look(self) -> tuple[_Look, ...]:
        iterators = training_iterators(self._trainer)
        if iterators is None:
            self.lost = self.lost or _NO_ITERATORS
            return ()
        return tuple([self._look_at(iterator) for iterator in iterators])

    def _look_at(self, iterator: Any) -> _Look:
        ours = isinstance(iterator, Batches)
        inner, loaded = (iterator.inner, iterator.fetched) if ours else (iterator, None)
        kind = type(inner)
        if kind in self._without_queue:
            return _Look(id(iterator), ours, self._without_queue[kind], None, loaded)
        queue = queue_state(inner)
        if queue is None:
            self._without_queue[kind] = inline = self._miss_queue(inner)
            return _Look(id(iterator), ours, inline, None, loaded)
        if queue.in_queue is None:
            self.lost = self.lost or _NO_LENGTH
        return _Look(id(iterator), ours, False, queue, loaded)

    def _miss_queue(self, iterator: Any) -> bool | None:
        """Whether an iterator that shows no queue loads inline; where torch's should have one, that is said."""
        inline = loads_inline(iterator)
        if not inline and (inline is False or type(iterator).__module__.startswith("torch.utils.data.")):
            self.lost = self.lost or _NO_QUEUE
        return inline


_EXACT = ("inline", "stamped")


class _LoaderSide(NamedTuple):
    """One loader's side of a fetch."""

    kind: str
    """"inline", "stamped", "blocked", "handoff", or "unknown"."""
    ready_s: float
    """When a stamped batch was ready (s)."""
    ready: int | None
    """Batches of it that were ready when the fetch began (count)."""
    capacity: int | None
    """The most of them (count); None without workers."""


def interpret(fetch: Fetch) -> FetchInfo:
    """What a fetch was."""
    if fetch.raised is None and len(fetch.before) == len(fetch.after) == 1:  # nearly always, so it is made short
        return _of_one(fetch, fetch.before[0], fetch.after[0])
    return _of_several(fetch)


def _of_one(fetch: Fetch, was: _Look, now: _Look) -> FetchInfo:
    """A fetch that gave a batch of the only loader; the same as ``_of_several`` would find."""
    if now.inline and not now.ours:
        return FetchInfo(False, False, WaitSplit(fetch.end - fetch.start, 0.0, 0.0), True)
    side = _side_of(was, now)
    loaded = [now.loaded] if now.loaded is not None and _has_stamp(was, now) else []
    ready = None if side is None else side.ready
    split = None if side is None else _split([side], fetch)
    return FetchInfo(
        False,
        None if now.inline is None else not now.inline,
        split,
        split is not None and side is not None and side.kind in _EXACT,
        split is not None and side is not None and _is_head_of_line(side, fetch),
        ready,
        None if side is None or ready is None else side.capacity,
        not now.inline and _restarted(was, now),
        _worker_start_s(loaded, fetch) if loaded else None,
        tuple(loaded),
    )


def _of_several(fetch: Fetch) -> FetchInfo:
    """A fetch of whatever number of loaders, or one that gave no batch."""
    after, same = fetch.after, len(fetch.before) == len(fetch.after)
    pairs: list[tuple[_Look | None, _Look]] = list(
        zip(fetch.before if same else [None] * len(after), after, strict=True)
    )
    loaded = [now.loaded for was, now in pairs if now.loaded is not None and _has_stamp(was, now)]
    loaded = [] if fetch.raised else loaded
    sides = [side for was, now in pairs if (side := _side_of(was, now)) is not None]
    counted = [side for side in sides if side.ready is not None]
    least = min(counted, key=lambda side: side.ready or 0, default=None)
    split = None if fetch.raised else _split(sides, fetch)
    return FetchInfo(
        exhausted=fetch.exhausted,
        from_workers=_from_workers(after),
        split=split,
        exact=split is not None and all(side.kind in _EXACT for side in sides),
        head_of_line=split is not None and any(_is_head_of_line(side, fetch) for side in sides),
        ready=None if least is None else least.ready,
        capacity=None if least is None else least.capacity,
        restarted=any(was is not None and not now.inline and _restarted(was, now) for was, now in pairs),
        worker_start_s=_worker_start_s(loaded, fetch),
        loaded=tuple(loaded),
    )


def _has_stamp(was: _Look | None, now: _Look) -> bool:
    return now.loaded is not None and (was is None or now.loaded is not was.loaded)


def _restarted(was: _Look, now: _Look) -> bool:
    """Whether a loader is read from its beginning again: a new iterator, or the same workers on their next pass."""
    if was.iterator != now.iterator:
        return True
    return was.queue is not None and now.queue is not None and was.queue.turn != now.queue.turn


def _side_of(was: _Look | None, now: _Look) -> _LoaderSide | None:
    """A loader's side of a fetch; None where it gave no batch: with the mode "max_size" a shorter one is at its end."""
    ready = _ready_before(was, now)
    capacity = None if now.queue is None else now.queue.capacity
    if now.ours:
        if not _has_stamp(was, now) or now.loaded is None:
            return None
        kind = "inline" if now.loaded.worker is None else "stamped"
        return _LoaderSide(kind, now.loaded.times.ready_s, ready, capacity)
    if now.inline:
        return _LoaderSide("inline", 0.0, None, None)
    if was is None or was.queue is None or now.queue is None or _restarted(was, now):
        return _LoaderSide("unknown", 0.0, ready, capacity)
    if was.queue.given == now.queue.given:
        return None
    return _LoaderSide(_kind_of(was.queue, now.queue), 0.0, ready, capacity)


def _ready_before(was: _Look | None, now: _Look) -> int | None:
    if now.queue is None or was is None:
        return None
    if was.queue is None:
        return 0 if was.ours else None  # ours asks its workers for nothing before its first batch is wanted
    return None if was.queue.in_queue is None else was.queue.in_queue + was.queue.set_aside


def _kind_of(was: QueueState, now: QueueState) -> str:
    """Whether the wanted batch of a torch loader was there when it was asked for."""
    # All that was taken out of the queue: batches that were set aside, words of workers that ended, and the wanted
    # batch itself; if that had been set aside before, the heap has become smaller by it, and nothing was taken.
    taken = now.set_aside - was.set_aside + now.ended - was.ended + 1
    if taken <= 0:
        return "handoff"
    if was.in_queue is None:
        return "unknown"
    return "handoff" if taken <= was.in_queue else "blocked"


def _split(sides: list[_LoaderSide], fetch: Fetch) -> WaitSplit | None:
    """The time of a fetch by cause; None where its loaders leave that open."""
    took = fetch.end - fetch.start
    kinds = {side.kind for side in sides}
    if kinds == {"inline"}:
        return WaitSplit(took, 0.0, 0.0)
    if kinds == {"blocked"}:
        return WaitSplit(0.0, took, 0.0)
    if kinds and kinds <= {"stamped", "handoff"}:
        ready_s = max(
            (side.ready_s for side in sides if side.kind == "stamped"),
            default=fetch.start,
        )
        blocked = min(max(ready_s - fetch.start, 0.0), took)
        return WaitSplit(0.0, blocked, took - blocked)
    return None


def _is_head_of_line(side: _LoaderSide, fetch: Fetch) -> bool:
    """Whether a loader's batch was not there though others were."""
    if not side.ready or side.kind not in ("stamped", "blocked"):
        return False
    return (min(side.ready_s, fetch.end) if side.kind == "stamped" else fetch.end) - fetch.start > STALL_S


def _from_workers(after: tuple[_Look, ...]) -> bool | None:
    kinds = {look.inline for look in after}
    if False in kinds:
        return True
    return False if kinds == {True} else None


def _worker_start_s(loaded: list[LoadedBatch], fetch: Fetch) -> float | None:
    spans = [
        max(0.0, min(fetch.end, batch.times.began_s) - max(fetch.start, batch.pass_began[0]))
        for batch in loaded
        if batch.pass_began is not None and batch.worker is not None
    ]
    return sum(spans) if spans else None
