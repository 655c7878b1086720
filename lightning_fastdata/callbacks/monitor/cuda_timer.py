"""What the device did while the host waited for data: pairs of CUDA events around each fetch.

A host that waits need not have cost anything: the device may still have been busy with work queued before. Let that
work end at ``g0``, and the fetch last from ``t0`` to ``t1``. An event recorded at ``t0`` completes at ``max(g0, t0)``,
one recorded at ``t1`` at ``max(t1, max(g0, t0))``, so what lies between them is

    ``elapsed = max(0, t1 - max(g0, t0))``

exactly the part of the fetch in which the stream had nothing to do. That holds as long as the fetch itself queues
nothing on that stream. The device is never waited for: events are asked with ``query`` some steps later.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch

from lightning_fastdata.callbacks.guard import guarded

__all__ = ["DeviceTimer", "Event", "StepTimes", "device_timer"]

# By then the device is done with a step, unless it is far behind; to ask earlier would be to ask in vain.
_STEPS_BEHIND = 2
_EVENTS_OF_A_FETCH = 3
# Events resolve 0.5 us. Of two on one stream the later one is never earlier by more: these were on different streams.
_RESOLUTION_MS = 1e-3


class StepTimes(NamedTuple):
    """What the device measured of a step."""

    number: int
    """Which step, from 0."""
    idle_s: float | None
    """Exposed starvation: the stream had nothing to do during its fetches (s); None = not measured."""
    copy_s: float | None
    """Its copies' own time (s); None = not measured."""


class Event(Protocol):
    """What is used of ``torch.cuda.Event(enable_timing=True)``."""

    def record(self, stream: Any = None) -> None:
        """Complete when the stream has done what it was given before."""

    def query(self) -> bool:
        """Whether it is complete."""

    def elapsed_time(self, end_event: Any) -> float:
        """Time from this event to the other, both complete (ms)."""


@dataclass(slots=True)
class _Step:
    """A step: the sums over its fetches so far."""

    number: int
    lost: bool = False
    idle_s: float = 0.0
    copy_s: float | None = None
    copy_lost: bool = False

    def times(self) -> StepTimes:
        if self.lost:
            return StepTimes(self.number, None, None)
        return StepTimes(self.number, self.idle_s, None if self.copy_lost else self.copy_s)


@dataclass(slots=True)
class _Fetch:
    """A fetch whose events are waited for."""

    step: _Step
    start: Event
    end: Event
    copied: Event | None = None

    def done(self) -> bool:
        # The latest first: mostly it decides. All are asked, for they may have been on different streams.
        return (self.copied is None or self.copied.query()) and self.end.query() and self.start.query()

    def add_up(self) -> None:
        """Add the times between its events, all complete, to its step."""
        step, idle_ms = self.step, self.start.elapsed_time(self.end)
        step.lost |= idle_ms < -_RESOLUTION_MS
        step.idle_s += max(0.0, idle_ms) / 1e3
        if self.copied is not None:
            copy_ms = self.end.elapsed_time(self.copied)
            step.copy_lost |= copy_ms < -_RESOLUTION_MS
            step.copy_s = (step.copy_s or 0.0) + max(0.0, copy_ms) / 1e3


class DeviceTimer:
    """How long the current stream had nothing to do during the fetches of each step, and how long the copies took.

    It never waits for the device and never raises into the training: a fault of the event API turns it off for good,
    and every step that was not reported by then reads None. One thread only.

    Args:
        make_event: Makes an event that can be timed; they are kept and used again.
        is_capturing: Whether a CUDA graph is being captured on the stream. Then nothing is recorded, which would
            become part of the graph, and nothing is asked, which would end the capture with an error.
        most_pending: Events that may wait for the device (count). Beyond it the oldest fetches are given up, so
            that a device that never answers costs no more memory. At least a fetch's three events are used.
        stream: Gives the stream to record on; without it, an event decides, and torch's takes the current stream of the
            current device.
    """

    def __init__(
        self,
        make_event: Callable[[], Event],
        is_capturing: Callable[[], bool],
        *,
        most_pending: int = 512,
        stream: Callable[[], Any] | None = None,
    ) -> None:
        self.failed: str | None = None
        """What turned the timer off, in one line; None as long as nothing did."""
        self._make_event = make_event
        self._is_capturing = is_capturing
        self._stream: Callable[[], Any] = stream or (lambda: None)
        self._most = most_pending - _EVENTS_OF_A_FETCH
        self._pool: list[Event] = []
        self._pending: deque[_Fetch] = deque()
        self._waiting = 0  # events in _pending
        self._ended: deque[_Step] = deque()
        self._step = _Step(0)
        self._start: Event | None = None
        self._open: _Fetch | None = None  # the fetch whose copy has not ended
        self._at_end = False
        self._any_fetch = False
        self._off = False

    # Around each fetch. In the training loop: no more than needs be.

    def before_fetch(self) -> None:
        """A fetch begins. One that never ended before it counts as none."""
        self._open, self._at_end = None, False
        if self._start is not None:
            self._pool.append(self._start)
            self._start = None
        if self._waiting > self._most:
            self._make_room()
        if not self._off:
            self._start = self._record()

    def after_fetch(self) -> None:
        """The fetch ended."""
        start, self._start = self._start, None
        end = None if start is None else self._record()  # without a start it began in a capture, or the timer is off
        if start is None or end is None:
            self._step.lost = True
            if start is not None and not self._off:
                self._pool.append(start)
            return
        self._open = _Fetch(self._step, start, end)
        self._pending.append(self._open)
        self._waiting += 2
        self._any_fetch = True

    def _record(self) -> Event | None:
        """An event that is recorded now; None while a graph is being captured, or after a fault."""
        try:
            event = self._pool.pop() if self._pool else self._make_event()
            if self._is_capturing():
                self._pool.append(event)
                return None
            event.record(self._stream())
            return event
        except Exception as error:
            self._give_up(error)
            return None

    def found_the_end(self) -> None:
        """The fetch that ended last gave no batch, the loader is at its end: there was no wait for one."""
        fetch, self._open = self._open, None
        self._at_end = True
        if fetch is not None:
            self._release(self._pending.pop())

    def after_transfer(self) -> None:
        """A batch was moved to the device; only the first call after a fetch counts.

        So validation's batches, which follow no fetch of training, do not count, and a caller may report a copy's end
        before ``on_after_batch_transfer``, whose kernels are no copying, and again after it. Where Lightning reads
        ahead, the batch is that of an earlier fetch, but its copy still comes after this one. What is measured begins
        with the end of the fetch, so it holds what the host did in between if the stream was idle then.
        """
        fetch, self._open = self._open, None
        if fetch is None:
            if self._at_end:  # the last batch of a loader that was read ahead
                self._step.copy_lost = True
            return
        fetch.copied = self._record()
        if fetch.copied is None:
            fetch.step.copy_lost = True
        else:
            self._waiting += 1

    def end_step(self) -> None:
        """An optimizer step ended: what was fetched since the one before belongs to it, summed.

        The sum is as measured. ``0 <= idle <= wait`` of the host holds up to the resolution of events (0.5 us) and the
        time that it takes to record them, so a comparison of the two has to clip: ``min(idle_s, wait_s)``. A step
        without any fetch had no starvation: 0.0, not None, once there were fetches at all.
        """
        step = self._step
        step.lost |= not self._any_fetch
        self._ended.append(step)
        self._step = _Step(step.number + 1, lost=self._off)
        self._open, self._at_end = None, False

    def forget_fetches(self) -> None:
        """What was fetched since the last step ended belongs to no step: the epoch is over."""
        pending, step = self._pending, self._step
        while pending and pending[-1].step is step:
            self._release(pending.pop())
        self._step = _Step(step.number, lost=self._off)
        self._open, self._at_end = None, False

    # What came out.

    def resolved(self) -> list[StepTimes]:
        """The steps, in order, that the device has measured since the last call, without waiting for any.

        Only steps at least two behind the latest ``end_step`` are asked for. They are numbered as ``end_step`` counts
        them.
        """
        newest = self._step.number - 1 - _STEPS_BEHIND
        self._take_in(lambda: self._pending[0].step.number <= newest)
        return self._report(min(newest, self._pending[0].step.number - 1) if self._pending else newest)

    def close(self) -> list[StepTimes]:
        """The end of the run: ask once more, give up what is not done, let go of all events.

        Returns:
            The steps that ended and were not reported before, as ``resolved`` does. What was fetched after the
            last of them is in none.
        """
        self._take_all()
        self._let_go()
        return self._report(self._step.number)

    @guarded
    def _take_all(self) -> None:
        can_ask = bool(self._pending) and not self._is_capturing()
        for fetch in self._pending:
            if can_ask and fetch.done():
                fetch.add_up()
            else:
                fetch.step.lost = True

    def _report(self, newest: int) -> list[StepTimes]:
        ended, measured = self._ended, []
        while ended and ended[0].number <= newest:
            measured.append(ended.popleft().times())
        return measured

    @guarded
    def _take_in(self, wanted: Callable[[], bool]) -> None:
        """Add up the oldest fetches that are done, as long as they are wanted."""
        pending = self._pending
        if pending and not self._is_capturing():
            while pending and wanted() and pending[0].done():
                pending[0].add_up()
                self._release(pending.popleft())

    def _make_room(self) -> None:
        """Take in the older half if it is done, many at a time; what stands in the way beyond that is given up."""
        self._take_in(lambda: self._waiting > self._most // 2)
        while self._pending and self._waiting > self._most:
            self._pending[0].step.lost = True
            self._release(self._pending.popleft())

    def _release(self, fetch: _Fetch) -> None:
        """Its events can be used again, complete or not: to record one again replaces what was recorded."""
        self._pool += (fetch.start, fetch.end)
        self._waiting -= 2
        if fetch.copied is not None:
            self._pool.append(fetch.copied)
            self._waiting -= 1

    def _give_up(self, error: Exception) -> None:
        # An error of the user's own kernels may come up in our calls first. Such errors stay with the device: the next
        # call of the training meets it again, so that nothing is hidden by keeping it here.
        lines = str(error).strip().splitlines()
        self.failed = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        for fetch in self._pending:
            fetch.step.lost = True
        self._let_go()

    def _let_go(self) -> None:
        """Record nothing any more, and keep no event."""
        self._off = self._step.lost = True
        self._start = self._open = None
        self._pending.clear()
        self._pool.clear()
        self._waiting = 0


def device_timer(device: torch.device | None) -> DeviceTimer | None:
    """A timer for the current stream of a device.

    A process may have set another device as the current one than the one it trains on. So the stream is always asked
    for by the device, and whether it is being captured is asked with that device as the current one.

    Args:
        device: Where the batches go: a strategy's ``root_device``.

    Returns:
        The timer; None for anything but CUDA (which ROCm calls itself, too): there it is not measured.
    """
    if device is None or device.type != "cuda":
        return None
    there = torch.cuda.device(device)

    def is_capturing() -> bool:
        with there:
            return torch.cuda.is_current_stream_capturing()

    return DeviceTimer(
        partial(torch.cuda.Event, enable_timing=True), is_capturing, stream=partial(torch.cuda.current_stream, device)
    )
