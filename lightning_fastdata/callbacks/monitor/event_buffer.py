"""What happened, in order, to be worked through later.

A training step pushes everything else out of the processor's caches, so code that runs once a step costs several times
what it costs in a loop. While training, events are only appended to a list; the meter gets them many at a time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning_fastdata.callbacks.monitor.fetch_probe import interpret
from lightning_fastdata.callbacks.monitor.step_meter import StepMeter

__all__ = ["EventBuffer"]


class EventBuffer:
    """Events for a meter, in these forms.

    - (kind, start, end): an interval that the seam heard
    - (snapshots, start, end): a training fetch, with what ``FetchProbe.after`` gave
    - (samples,): a micro-batch that ended no step
    - (epoch, step, samples, now): the last micro-batch of a step
    - ("opening", now): training's loaders are about to be read from their beginning; "made anew" where they were

    Args:
        meter: Where the events go.

    ``note`` takes one event and is a plain list's ``append``. Whoever reads the meter calls ``replay`` first.
    """

    def __init__(self, meter: StepMeter) -> None:
        self._meter = meter
        self._events: list[tuple[Any, ...]] = []
        self._intervals: dict[str, Callable[[float, float], None]] = {
            "train": meter.train_fetch,
            "transfer": meter.transfer,
            "after_transfer": meter.after_transfer,
            "compute": meter.compute,
            "checkpoint": partial(meter.ledger.add, "checkpoint"),
            "callback": partial(meter.ledger.add, "callback"),
            "sync": partial(meter.ledger.add, "sync"),
            "validation": partial(meter.ledger.add, "validation"),
        }
        self.note: Callable[[tuple[Any, ...]], None] = self._events.append

    def __len__(self) -> int:
        return len(self._events)

    def replay(self) -> None:
        """Hand everything to the meter, in order."""
        if not self._events:
            return
        events = self._events.copy()
        self._events.clear()
        meter, intervals = self._meter, self._intervals
        for event in events:
            if len(event) == 3:
                kind, start, end = event
                if type(kind) is str:
                    intervals[kind](start, end)
                else:
                    meter.train_fetch(start, end, interpret(kind, start, end))
            elif len(event) == 4:
                epoch, step, samples, now = event
                meter.add_batch(samples)
                meter.close_step(epoch, step, now)
            elif len(event) == 2:
                meter.ledger.open_boundary(event[1], replaces_loader=event[0] == "made anew")
            else:
                meter.add_batch(event[0])
