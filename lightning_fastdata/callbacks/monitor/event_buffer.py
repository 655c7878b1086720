"""What happened, in order, to be worked through later.

A training step pushes everything else out of the processor's caches, so code that runs once a step costs several times
what it costs in a loop. While training, events are only appended to a list; the meter gets them many at a time.
"""

from collections.abc import Callable
from typing import NamedTuple

from lightning_fastdata.callbacks.monitor.fetch_probe import Fetch, interpret
from lightning_fastdata.callbacks.monitor.profiler_tap import Interval
from lightning_fastdata.callbacks.monitor.step_meter import StepMeter

__all__ = ["Event", "EventBuffer", "LoadersOpened", "MicroBatch", "StepEnd"]


class MicroBatch(NamedTuple):
    """A micro-batch that ended no step."""

    samples: int | None
    """Samples in it (count); None where it does not show them."""


class StepEnd(NamedTuple):
    """The last micro-batch of a step."""

    step: int
    """Index of the step."""
    samples: int | None
    """Samples in the micro-batch (count); None where it does not show them."""
    end: float
    """When the step ended (s)."""


class LoadersOpened(NamedTuple):
    """Training's loaders are about to be read from their beginning."""

    start: float
    """When (s)."""
    replaced: bool
    """Whether they are new ones."""


Event = Interval | Fetch | MicroBatch | StepEnd | LoadersOpened


class EventBuffer:
    """Events on their way to a meter.

    Args:
        meter: Where they go.
        on_error: Called with a fault of the meter.

    ``note`` takes one event and is a plain list's ``append``.
    """

    def __init__(self, meter: StepMeter, on_error: Callable[[Exception], None]) -> None:
        self._meter, self._on_error = meter, on_error
        self._events: list[Event] = []
        self._intervals: dict[str, Callable[[float, float], None]] = {
            "transfer": meter.transfer,
            "after_transfer": meter.after_transfer,
            "compute": meter.compute,
        }
        self.note: Callable[[Event], None] = self._events.append

    def __len__(self) -> int:
        return len(self._events)

    @property
    def meter(self) -> StepMeter:
        """The meter, after everything that was noted until now."""
        self.replay()
        return self._meter

    def replay(self) -> None:
        """Hand the meter everything that was noted, in order."""
        if not self._events:
            return
        events = self._events.copy()
        self._events.clear()
        try:
            self._replay(events)
        except Exception as error:
            self._on_error(error)

    def _replay(self, events: list[Event]) -> None:
        meter, intervals = self._meter, self._intervals
        for event in events:
            if isinstance(event, Interval):
                kind, start, end = event
                if kind in intervals:
                    intervals[kind](start, end)
                else:
                    meter.ledger.add(kind, start, end)
            elif isinstance(event, Fetch):
                meter.train_fetch(event.start, event.end, interpret(event))
            elif isinstance(event, StepEnd):
                meter.add_batch(event.samples)
                meter.close_step(event.step, event.end)
            elif isinstance(event, MicroBatch):
                meter.add_batch(event.samples)
            else:
                meter.ledger.open_boundary(event.start, replaces_loader=event.replaced)
