"""What kind of waiting a training fetch was, and how full the queue was when it began.

Two ways to know when the wanted batch was there. Loaders of this package carry the time with each batch. Of any other
torch loader, the queue is looked at before and after: a batch that comes before its turn is set aside, so the growth
of that heap tells how many batches were taken from the queue, and whether the wanted one was among those that were in
it from the start.
"""

from collections.abc import Iterable
from sys import exc_info
from typing import Any, NamedTuple

from lightning_fastdata.compat.lightning_monitoring import training_iterators
from lightning_fastdata.compat.torch_internals import QueueState, loads_inline, queue_state
from lightning_fastdata.loaders.batch_requests import InlineBatches, LoadedBatch
from lightning_fastdata.loaders.resumable import Batches

__all__ = ["FetchInfo", "FetchProbe", "Load", "found_the_end", "interpret"]

# A wait shorter than that is none that anybody would notice.
_NOTICED_S = 1e-3

_NO_ITERATORS = (
    "queue occupancy: not measured, this Lightning keeps the iterators of the training loaders elsewhere; first batches"
    " of epochs count as waiting."
)
_NO_QUEUE = "queue occupancy: not measured, this torch keeps the batches that are ready elsewhere."
_NO_LENGTH = "queue occupancy: not measured, this system does not tell how long a queue between processes is."


class Load(NamedTuple):
    """How a batch was loaded, as the process that loaded it has measured."""

    samples: int
    """Samples that were asked for (count)."""
    load_s: float
    """Time of loading and collating them (s)."""
    slowest_index: Any
    """The slowest sample's index, as the sampler gave it; None where the dataset loads whole batches."""
    slowest_s: float
    """Time in which that sample was loaded (s)."""
    worker: int | None
    """Worker that loaded the batch (index); None = the training process."""
    epoch: int
    """Epoch it was loaded for, from 0."""


class FetchInfo(NamedTuple):
    """What a fetch was; ``main_process_s``, ``stalled_s`` and ``worker_transfer_s`` sum to it where they are known."""

    exhausted: bool
    """Whether it only found the loader at its end."""
    from_workers: bool | None
    """Whether any of the loaders has worker processes; None where that cannot be known."""
    main_process_s: float | None
    """The training process loaded the data itself (s)."""
    stalled_s: float | None
    """The wanted batch was not there yet (s)."""
    worker_transfer_s: float | None
    """It was there, and was handed over: pickled, pinned, taken out of the queue, unpickled (s)."""
    exact: bool
    """Whether the three come from stamps, or are all inline; else the fetch as a whole was given to one kind."""
    head_of_line: bool
    """Whether it was blocked for more than 1 ms although other batches of the same loader were ready."""
    ready: int | None
    """Batches that were ready when it began (count); of several loaders with workers, the least."""
    capacity: int | None
    """``num_workers * prefetch_factor`` of that loader (count)."""
    restarted: bool
    """Whether a loader began anew within the fetch, a shorter one of several: then its time is no steady wait. A loader
    that loads inline has nothing to start and does not count."""
    worker_start_s: float | None
    """From the beginning of a pass until its first batch began to load in a worker, as far as that lies in the fetch;
    several loaders added up (s). None where no pass began, and where loaders do not tell."""
    loads: tuple[Load, ...]
    """The batches that tell how they were loaded, those of this package's loaders."""


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
    fetched: LoadedBatch | None
    """How its last batch had been loaded, for one of ours."""


class FetchProbe:
    """Takes down how the training loaders stand right before and right after a fetch.

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
        # A fit may run where somebody handles a StopIteration of his own.
        self._handled = id(exc_info()[1])

    def after(self) -> tuple[Any, ...]:
        """Right after it.

        Returns:
            What ``interpret`` takes, later.
        """
        kind, error, _ = exc_info()
        raised = None if id(error) == self._handled else kind
        before, self._before = self._before, ()
        after = self._last = self._look()
        self._plain = len(after) == 1 and after[0].queue is None and not after[0].ours
        return before, after, raised

    def _look(self) -> tuple[_Look, ...]:
        iterators = training_iterators(self._trainer)
        if iterators is None:
            self.lost = self.lost or _NO_ITERATORS
            return ()
        return tuple([self._look_at(iterator) for iterator in iterators])

    def _look_at(self, iterator: Any) -> _Look:
        ours = isinstance(iterator, Batches)
        inner, fetched = (iterator.inner, iterator.fetched) if ours else (iterator, None)
        kind = type(inner)
        if kind in self._without_queue:
            return _Look(id(iterator), ours, self._without_queue[kind], None, fetched)
        queue = queue_state(inner)
        if queue is None:
            self._without_queue[kind] = inline = self._miss_queue(inner)
            return _Look(id(iterator), ours, inline, None, fetched)
        if queue.in_queue is None:
            self.lost = self.lost or _NO_LENGTH
        return _Look(id(iterator), ours, False, queue, fetched)

    def _miss_queue(self, iterator: Any) -> bool | None:
        """Whether an iterator that shows no queue loads inline; where torch's should have one, that is said."""
        inline = loads_inline(iterator)
        if not inline and (inline is False or type(iterator).__module__.startswith("torch.utils.data.")):
            self.lost = self.lost or _NO_QUEUE
        return inline


class _Part(NamedTuple):
    """One loader's part in a fetch."""

    kind: str
    """"inline", "stamped", "blocked", "handoff", or "unknown"."""
    ready_s: float
    """When a stamped batch was ready (s)."""
    ready: int | None
    """Batches of it that were ready when the fetch began (count)."""
    capacity: int | None
    """The most of them (count); None without workers."""


def found_the_end(raw: tuple[Any, ...]) -> bool:
    """Whether a fetch found the loader at its end.

    Args:
        raw: What ``FetchProbe.after`` gave.
    """
    raised = raw[2]
    return raised is not None and issubclass(raised, StopIteration)


def interpret(raw: tuple[Any, ...], start: float, end: float) -> FetchInfo:
    """What a fetch was.

    Args:
        raw: What ``FetchProbe.after`` gave.
        start: When the fetch began (s, on ``time.perf_counter()``).
        end: When it ended (s).
    """
    before, after, raised = raw
    if raised is None and len(before) == len(after) == 1:  # nearly always, so it is made short
        return _of_one(before[0], after[0], start, end)
    return _of_several(before, after, raised, start, end)


def _of_one(was: _Look, now: _Look, start: float, end: float) -> FetchInfo:
    """A fetch that gave a batch of the only loader; the same as ``_of_several`` would find."""
    part = _part_of(was, now)
    fetched = [now.fetched] if _has_stamp(was, now) else []
    ready = None if part is None else part.ready
    main_process_s, stalled_s, worker_transfer_s = (None, None, None) if part is None else _split([part], start, end)
    return FetchInfo(
        False,
        None if now.inline is None else not now.inline,
        main_process_s,
        stalled_s,
        worker_transfer_s,
        main_process_s is not None and part is not None and part.kind in ("inline", "stamped"),
        stalled_s is not None and part is not None and _held_up(part, start, end),
        ready,
        None if part is None or ready is None else part.capacity,
        not now.inline and _began_anew(was, now),
        _worker_start_s(fetched, start, end) if fetched else None,
        (_load_of(now.fetched),) if fetched else (),
    )


def _of_several(
    before: tuple[_Look, ...], after: tuple[_Look, ...], raised: Any, start: float, end: float
) -> FetchInfo:
    """A fetch of whatever number of loaders, or one that gave no batch."""
    known: Iterable[_Look | None] = before if len(before) == len(after) else [None] * len(after)
    pairs = list(zip(known, after, strict=True))
    fetched = [] if raised else [now.fetched for was, now in pairs if _has_stamp(was, now)]
    parts = [part for was, now in pairs if (part := _part_of(was, now)) is not None]
    counted = [part for part in parts if part.ready is not None]
    least = min(counted, key=lambda part: part.ready or 0, default=None)
    main_process_s, stalled_s, worker_transfer_s = (None, None, None) if raised else _split(parts, start, end)
    return FetchInfo(
        exhausted=found_the_end((before, after, raised)),
        from_workers=_from_workers(after),
        main_process_s=main_process_s,
        stalled_s=stalled_s,
        worker_transfer_s=worker_transfer_s,
        exact=main_process_s is not None and all(part.kind in ("inline", "stamped") for part in parts),
        head_of_line=stalled_s is not None and any(_held_up(part, start, end) for part in parts),
        ready=None if least is None else least.ready,
        capacity=None if least is None else least.capacity,
        restarted=any(was is not None and not now.inline and _began_anew(was, now) for was, now in pairs),
        worker_start_s=_worker_start_s(fetched, start, end),
        loads=tuple(map(_load_of, fetched)),
    )


def _has_stamp(was: _Look | None, now: _Look) -> bool:
    return now.fetched is not None and (was is None or now.fetched is not was.fetched)


def _began_anew(was: _Look, now: _Look) -> bool:
    if was.iterator != now.iterator:
        return True
    return was.queue is not None and now.queue is not None and was.queue.turn != now.queue.turn


def _part_of(was: _Look | None, now: _Look) -> _Part | None:
    """A loader's part; None where it gave no batch: with the mode "max_size" a shorter one is at its end."""
    ready = _ready_before(was, now)
    capacity = None if now.queue is None else now.queue.capacity
    if now.ours:
        if not _has_stamp(was, now) or now.fetched is None:
            return None
        kind = "inline" if now.fetched.worker is None else "stamped"
        return _Part(kind, now.fetched.times.ready_s, ready, capacity)
    if now.inline:
        return _Part("inline", 0.0, None, None)
    if was is None or was.queue is None or now.queue is None or _began_anew(was, now):
        return _Part("unknown", 0.0, ready, capacity)
    if was.queue.given == now.queue.given:
        return None
    return _Part(_kind_of(was.queue, now.queue), 0.0, ready, capacity)


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


def _split(parts: list[_Part], start: float, end: float) -> tuple[float | None, float | None, float | None]:
    """Inline, blocked, and handed over (s); all None where the loaders of a fetch leave it open."""
    took = end - start
    if len(parts) == 1 and parts[0].kind == "inline":
        return took, 0.0, 0.0
    kinds = {part.kind for part in parts}
    if kinds == {"inline"}:
        return took, 0.0, 0.0
    if kinds == {"blocked"}:
        return 0.0, took, 0.0
    if kinds and kinds <= {"stamped", "handoff"}:
        ready_s = max((part.ready_s for part in parts if part.kind == "stamped"), default=start)
        blocked = min(max(ready_s - start, 0.0), took)
        return 0.0, blocked, took - blocked
    return None, None, None


def _held_up(part: _Part, start: float, end: float) -> bool:
    """Whether a loader's batch was not there though others were."""
    if not part.ready or part.kind not in ("stamped", "blocked"):
        return False
    return (min(part.ready_s, end) if part.kind == "stamped" else end) - start > _NOTICED_S


def _from_workers(after: tuple[_Look, ...]) -> bool | None:
    kinds = {look.inline for look in after}
    if False in kinds:
        return True
    return False if kinds == {True} else None


def _worker_start_s(fetched: list[Any], start: float, end: float) -> float | None:
    spans = [
        max(0.0, min(end, batch.times.began_s) - max(start, batch.pass_began[0]))
        for batch in fetched
        if batch.pass_began is not None and batch.worker is not None
    ]
    return sum(spans) if spans else None


def _load_of(fetched: Any) -> Load:
    times = fetched.times
    load_s = times.ready_s - times.began_s
    return Load(times.samples, load_s, fetched.slowest_index, times.slowest_s, fetched.worker, fetched.epoch)
