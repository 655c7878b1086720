"""Steps as columns of a chart: one a step, or of thousands the mean and the largest of neighbours. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_fastdata.results.records import StepRecord

__all__ = ["KINDS", "MOST_COLUMNS", "Columns", "Numbers", "columns_of", "elapsed_s", "waits_of"]

MOST_COLUMNS = 600

KINDS = {
    "blocked": "Blocked: the batch was not there yet",
    "inline": "Loaded by the training process itself",
    "handoff": "Hand-over: there, but had to be taken out of the queue",
    "wait": "Waiting whose kind was not measured",
}
"""Parts of a wait, from the bottom of a column to its top."""
_FIELDS = {"blocked": "stalled_s", "inline": "main_process_s", "handoff": "worker_transfer_s"}

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """Steps as columns, left to right."""

    by_time: bool
    """Whether places are seconds since the callback's ``setup``; else they count steps from the first one kept."""
    left: Numbers
    """Where each begins (s or count), shape (columns,)."""
    right: Numbers
    """Where each ends, likewise."""
    first: npt.NDArray[np.int64]
    """Index of the first step in each."""
    last: npt.NDArray[np.int64]
    """Index of the last step in each."""
    mean_s: dict[str, Numbers]
    """Mean wait of a step by kind (s); the kinds of ``KINDS`` that occur."""
    max_s: Numbers
    """Largest wait of a step in each (s)."""
    queue_mean: Numbers
    """Batches that were ready, on average; nan where not measured."""
    queue_min: Numbers
    """The fewest of them; nan where not measured."""
    epochs: tuple[tuple[float, int], ...]
    """Where each epoch begins, and its number."""
    steps: int
    """Steps in all columns (count)."""

    @property
    def binned(self) -> bool:
        """Whether a column holds more than one step."""
        return self.steps > len(self.left)


def elapsed_s(record: StepRecord) -> float:
    """The whole time of a step (s)."""
    parts = (record.wait_s, record.transfer_s, record.compute_s)
    return record.other_s + sum(part for part in parts if part is not None)


def waits_of(records: Sequence[StepRecord]) -> Numbers:
    """Every wait that was measured (s)."""
    waits = np.array([record.wait_s for record in records if record.wait_s is not None], dtype=np.float64)
    return np.maximum(waits[np.isfinite(waits)], 0.0)


def columns_of(records: Sequence[StepRecord], most: int = MOST_COLUMNS) -> Columns | None:
    """The columns of a chart over time, or over steps where a step does not tell when it ended.

    Args:
        records: Steps of one rank, in order.
        most: The largest number of columns (count).

    Returns:
        None where no step has a wait.
    """
    steps = [record for record in records if record.wait_s is not None and np.isfinite(record.wait_s)]
    if not steps:
        return None
    left, right, by_time = _places(steps)
    if len(steps) <= most:
        group, size = np.arange(len(steps)), len(steps)
        edges_left, edges_right = left, right
    else:
        edges = np.linspace(left[0], right[-1], most + 1)
        group, size = np.clip(np.searchsorted(edges, right, side="left") - 1, 0, most - 1), most
        edges_left, edges_right = edges[:-1], edges[1:]
    used = np.bincount(group, minlength=size) > 0  # a validation may be longer than a column is wide
    numbers = np.array([record.step for record in steps], dtype=np.float64)
    queue = np.array(
        [np.nan if record.queue_ready is None else record.queue_ready for record in steps], dtype=np.float64
    )
    return Columns(
        by_time=by_time,
        left=edges_left[used],
        right=edges_right[used],
        first=_reduced(np.fmin, numbers, group, size)[used].astype(np.int64),
        last=_reduced(np.fmax, numbers, group, size)[used].astype(np.int64),
        mean_s={kind: _mean(values, group, size)[used] for kind, values in _kinds(steps).items()},
        max_s=_reduced(np.fmax, np.array([record.wait_s for record in steps], dtype=np.float64), group, size)[used],
        queue_mean=_mean(queue, group, size)[used],
        queue_min=_reduced(np.fmin, queue, group, size)[used],
        epochs=tuple((float(left[place]), record.epoch) for place, record in enumerate(steps) if record.first_in_epoch),
        steps=len(steps),
    )


def _places(steps: Sequence[StepRecord]) -> tuple[Numbers, Numbers, bool]:
    """Where each step begins and ends, and whether that is in seconds."""
    ends = np.array([np.nan if record.end_s is None else record.end_s for record in steps], dtype=np.float64)
    if np.isfinite(ends).all() and (np.diff(ends) > 0).all():
        # Between the end of one step and the beginning of the next there may be a validation.
        earlier = np.concatenate([[-np.inf], ends[:-1]])
        begins = np.maximum(ends - np.array([elapsed_s(record) for record in steps]), earlier)
        if np.isfinite(begins).all() and (ends > begins).all():
            return begins, ends, True
    places = np.arange(len(steps), dtype=np.float64)
    return places, places + 1, False


def _kinds(steps: Sequence[StepRecord]) -> dict[str, Numbers]:
    """The parts of each wait (s), each of shape (steps,); what is left over is of a kind that was not measured."""
    parts = {kind: np.array([getattr(record, name) or 0.0 for record in steps]) for kind, name in _FIELDS.items()}
    rest = np.array([record.wait_s for record in steps], dtype=np.float64) - sum(parts.values())
    # Rounding leaves something over, too.
    parts["wait"] = np.where(rest > 1e-7, rest, 0.0)
    return {kind: values for kind, values in parts.items() if values.any()}


def _mean(values: Numbers, group: npt.NDArray[np.intp], size: int) -> Numbers:
    """Mean by group without what is nan; nan where nothing else is."""
    known = np.isfinite(values)
    number = np.bincount(group[known], minlength=size).astype(np.float64)
    total = np.bincount(group[known], weights=values[known], minlength=size)
    mean: Numbers = np.divide(total, number, out=np.full(size, np.nan), where=number > 0)
    return mean


def _reduced(how: np.ufunc, values: Numbers, group: npt.NDArray[np.intp], size: int) -> Numbers:
    """The largest or smallest by group; nan for none."""
    result = np.full(size, np.nan)
    how.at(result, group, values)  # fmin and fmax pass over nan
    return result
