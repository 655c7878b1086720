"""How long steps wait: a histogram over powers of ten, with its percentiles."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lightning_fastdata.report.html.svg import Axis, bars_path, chart, label, nice_ticks, plain, vertical_line
from lightning_fastdata.report.html.tags import Html, tag
from lightning_fastdata.report.units import count, milliseconds

__all__ = ["SHORTEST_S", "histogram_chart", "histogram_of"]

SHORTEST_S = 1e-6
"""Shorter waits are counted in the first column: a clock tells no more, and 0 has no place on such an axis (s)."""
_A_DECADE = 10
_ROOM = 0.7


def histogram_of(waits_s: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Counts in columns of a tenth of a power of ten.

    Args:
        waits_s: At least one wait (s), shape (steps,).

    Returns:
        The edges as powers of ten of a second, shape (columns + 1,), and the counts, shape (columns,).
    """
    powers = np.log10(np.maximum(waits_s, SHORTEST_S))
    low, high = math.floor(powers.min() + 1e-9), math.ceil(powers.max() - 1e-9)
    high = max(high, low + 1)
    edges = np.linspace(low, high, (high - low) * _A_DECADE + 1)
    # What lies on the last edge by a rounding belongs to the last column.
    counts, _ = np.histogram(np.clip(powers, low, high), bins=edges)
    return edges, counts


def histogram_chart(waits_s: npt.NDArray[np.float64], marks: Sequence[tuple[str, float | None]]) -> Html:
    """The chart.

    Args:
        waits_s: At least one wait (s), shape (steps,).
        marks: Names of percentiles with their values (s).
    """
    edges, counts = histogram_of(waits_s)
    x = Axis(float(edges[0]), float(edges[-1]), tuple((power, _power(power)) for power in _powers(edges)))
    top = float(counts.max())
    ticks = [(value, plain(value)) for value in nice_ticks(0, top, 3) if value == int(value)]
    y = Axis(0.0, top * 1.45, tuple(ticks))  # the names of the percentiles stand above the columns
    left, right = (edges[:-1] - x.low) / (x.high - x.low), (edges[1:] - x.low) / (x.high - x.low)
    bars = bars_path(left + 0.0008, right - 0.0008, np.zeros(len(counts)), counts / y.high, "bar steps")
    lines, labels = _marks(marks, x)
    description = f"{count(len(waits_s))} steps; " + ", ".join(
        f"{name} {milliseconds(value_s)}" for name, value_s in marks if value_s is not None
    )
    picture = chart("Distribution of the waits", description, bars, *lines, x=x, y=y, labels=labels)
    return tag("div", picture, class_="plot")


def _marks(marks: Sequence[tuple[str, float | None]], x: Axis) -> tuple[list[Html], list[Html]]:
    """A line for each percentile and its name above the columns, each in a row of its own: they may lie close together.

    All names stand on one side, and the line furthest from that side is the tallest, so that no name crosses a line.
    """
    known = [(name, value_s) for name, value_s in marks if value_s is not None and math.isfinite(value_s)]
    places = [min(1.0, max(0.0, x.place(math.log10(max(value_s, SHORTEST_S))))) for _, value_s in known]
    to_the_right = not places or places[-1] < _ROOM
    lines, labels = [], []
    for place, ((name, value_s), across) in enumerate(zip(known, places, strict=True)):
        row = place if to_the_right else len(known) - 1 - place
        anchor, shift = ("start", 5) if to_the_right or across < 1 - _ROOM else ("end", -5)
        lines.append(vertical_line(across, "percentile", 1 - row * 0.07))
        text = f"{name} {milliseconds(value_s)}"
        labels.append(label(across, 1, text, dx=shift, dy=11 + 16 * row, anchor=anchor, class_="mark strong"))
    return lines, labels


def _powers(edges: npt.NDArray[np.float64]) -> list[int]:
    return list(range(round(float(edges[0])), round(float(edges[-1])) + 1))


def _power(power: float) -> str:
    value, unit = (10.0 ** (power + 6), "µs") if power < -3 else (10.0 ** (power + 3), "ms")
    if power >= 0:
        value, unit = 10.0**power, "s"
    return f"{plain(round(value, 6))} {unit}"
