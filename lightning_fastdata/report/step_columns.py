"""Steps as columns of a chart: one a step, or of thousands the mean and the largest of neighbors. NumPy only.

The page and the matplotlib figure draw the same columns on the same axes; what both need to know is computed here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from lightning_fastdata.report.figures import CAUSES
from lightning_fastdata.results.records import StepRecord, elapsed_s

__all__ = [
    "MOST_COLUMNS",
    "SHADED",
    "SHORTEST_S",
    "Columns",
    "Numbers",
    "columns_of",
    "decades",
    "waits_of",
]

MOST_COLUMNS = 600
SHORTEST_S = 1e-6
"""Shorter waits are counted in a histogram's first column: a clock has no finer tick, and 0 has no logarithm (s)."""

SHADED = {"validation": "Validation", "checkpoint": "Checkpoint"}
"""Kinds of spans that are shaded between the columns."""

_MOST_MARKED_EPOCHS = 10
_CLIP_FROM, _CLIP_QUANTILE, _LEAST_SCALE = 2.5, 0.95, 0.10
_COLUMNS_A_DECADE = 10

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """Steps as columns, left to right."""

    by_time: bool
    """Whether the axis is seconds since the callback's ``setup``; else they count steps from the first one kept."""
    left: Numbers
    """Where each begins (s or count), shape (columns,)."""
    right: Numbers
    """Where each ends, likewise."""
    first: npt.NDArray[np.int64]
    """Index of the first step in each."""
    last: npt.NDArray[np.int64]
    """Index of the last step in each."""
    mean_s: dict[str, Numbers]
    """Mean wait of a step by cause (s); the causes of ``CAUSES`` that occur."""
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
    step_s: float
    """The whole time of a typical step: its median (s)."""

    @property
    def binned(self) -> bool:
        """Whether a column holds more than one step."""
        return self.steps > len(self.left)

    @property
    def middle(self) -> Numbers:
        """The middle of each (s or count)."""
        return (self.left + self.right) / 2

    @property
    def has_queue(self) -> bool:
        """Whether the prefetch queue was measured for any step."""
        return bool(np.isfinite(self.queue_mean).any())

    @property
    def marked_epochs(self) -> list[tuple[float, int]]:
        """Where epochs begin, with their numbers; of many epochs about ten."""
        every = math.ceil(len(self.epochs) / _MOST_MARKED_EPOCHS) or 1
        return [(start, epoch) for start, epoch in self.epochs if epoch % every == 0]

    def limits(self, end_s: float = 0.0) -> tuple[float, float]:
        """The horizontal axis (s or count).

        Args:
            end_s: An axis of time reaches at least to here (s).
        """
        low, high = float(self.left[0]), float(self.right[-1])
        if self.by_time:
            high = max(high, end_s)
            low = 0.0 if low < 0.1 * high else low
        return low, high

    @property
    def top_s(self) -> float:
        """The vertical axis (s): up to the largest wait, or up to what leaves out a few that are far beyond the rest.

        It reaches a tenth of a typical step, so that waits that do not matter look small.
        """
        largest_s, most_s = float(self.max_s.max()), float(np.quantile(self.max_s, _CLIP_QUANTILE))
        top_s = largest_s if largest_s <= _CLIP_FROM * most_s else 1.25 * most_s
        return max(top_s, _LEAST_SCALE * self.step_s) * 1.02 or 1e-3


def waits_of(records: Sequence[StepRecord]) -> Numbers:
    """Every wait that was measured (s)."""
    waits = np.array([record.wait_s for record in records if record.wait_s is not None], dtype=np.float64)
    return np.maximum(waits[np.isfinite(waits)], 0.0)


def decades(waits_s: Numbers) -> tuple[Numbers, npt.NDArray[np.intp]]:
    """A histogram of waits in columns of a tenth of a power of ten.

    Args:
        waits_s: At least one wait (s), shape (steps,).

    Returns:
        The edges as powers of ten of a second, shape (columns + 1,), and the counts, shape (columns,).
    """
    powers = np.log10(np.maximum(waits_s, SHORTEST_S))
    low, high = math.floor(powers.min() + 1e-9), math.ceil(powers.max() - 1e-9)
    high = max(high, low + 1)
    edges = np.linspace(low, high, (high - low) * _COLUMNS_A_DECADE + 1)
    # What lies on the last edge by a rounding belongs to the last column.
    counts, _ = np.histogram(np.clip(powers, low, high), bins=edges)
    return edges, counts


def columns_of(records: Sequence[StepRecord], most: int = MOST_COLUMNS) -> Columns | None:
    """The columns of a chart over time, or over steps where the records do not say when a step ended.

    Args:
        records: Steps of one rank, in order.
        most: The largest number of columns (count).

    Returns:
        None where no step has a wait.
    """
    steps = [record for record in records if record.wait_s is not None and np.isfinite(record.wait_s)]
    if not steps:
        return None
    left, right, by_time = _edges(steps)
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
        mean_s={cause: _mean(values, group, size)[used] for cause, values in _by_cause(steps).items()},
        max_s=_reduced(np.fmax, np.array([record.wait_s for record in steps], dtype=np.float64), group, size)[used],
        queue_mean=_mean(queue, group, size)[used],
        queue_min=_reduced(np.fmin, queue, group, size)[used],
        epochs=tuple((float(left[at]), record.epoch) for at, record in enumerate(steps) if record.first_in_epoch),
        steps=len(steps),
        step_s=median(map(elapsed_s, records)),
    )


def _edges(steps: Sequence[StepRecord]) -> tuple[Numbers, Numbers, bool]:
    """Where each step begins and ends, and whether that is in seconds."""
    ends = np.array([np.nan if record.end_s is None else record.end_s for record in steps], dtype=np.float64)
    if np.isfinite(ends).all() and (np.diff(ends) > 0).all():
        # Between the end of one step and the beginning of the next there may be a validation.
        earlier = np.concatenate([[-np.inf], ends[:-1]])
        begins = np.maximum(ends - np.array([elapsed_s(record) for record in steps]), earlier)
        if np.isfinite(begins).all() and (ends > begins).all():
            return begins, ends, True
    numbers = np.arange(len(steps), dtype=np.float64)
    return numbers, numbers + 1, False


def _by_cause(steps: Sequence[StepRecord]) -> dict[str, Numbers]:
    """The parts of each wait (s), each of shape (steps,); what is left over has a cause that was not measured."""
    parts = {
        cause: np.array([getattr(record, f"{cause}_s") or 0.0 for record in steps])
        for cause in CAUSES
        if cause != "unknown"
    }
    rest = np.array([record.wait_s for record in steps], dtype=np.float64) - sum(parts.values())
    # Rounding leaves something over, too.
    parts["unknown"] = np.where(rest > 1e-7, rest, 0.0)
    return {cause: values for cause, values in parts.items() if values.any()}


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
