"""How long steps wait: a histogram over powers of ten, with its percentiles."""

import math
from collections.abc import Sequence

import numpy as np

from lightning_fastdata.report.html.svg import Axis, Chart, Label, Path, bars_path, vertical_line, whole_ticks
from lightning_fastdata.report.step_columns import SHORTEST_S, Numbers, decades
from lightning_fastdata.report.units import count, is_known, milliseconds, number

__all__ = ["histogram_chart"]

_ROOM = 0.7


def histogram_chart(waits_s: Numbers, marks: Sequence[tuple[str, float | None]]) -> Chart:
    """The chart.

    Args:
        waits_s: At least one wait (s), shape (steps,).
        marks: Names of percentiles with their values (s).
    """
    edges, counts = decades(waits_s)
    powers = range(round(float(edges[0])), round(float(edges[-1])) + 1)
    x = Axis(float(edges[0]), float(edges[-1]), tuple((power, _power(power)) for power in powers))
    top = float(counts.max())
    y = Axis(0.0, top * 1.45, whole_ticks(0, top, 3))  # the names of the percentiles stand above the columns
    left, right = x.shares(edges[:-1]), x.shares(edges[1:])
    bars = bars_path(left + 0.0008, right - 0.0008, np.zeros(len(counts)), counts / y.high, "steps")
    known = [(name, value_s) for name, value_s in marks if is_known(value_s)]
    lines, words = _marks(known, x)
    said = ", ".join(f"{name} {milliseconds(value_s)}" for name, value_s in known)
    return Chart("Distribution of the waits", f"{count(len(waits_s))} steps; {said}", [bars, *lines], x, y, words)


def _marks(marks: Sequence[tuple[str, float]], x: Axis) -> tuple[list[Path], list[Label]]:
    """A line for each percentile and its name above the columns, each in a row of its own: they may lie close together.

    All names stand on one side, and the line furthest from that side is the tallest, so that no name crosses a line.
    """
    along = [min(1.0, max(0.0, x.share(math.log10(max(value_s, SHORTEST_S))))) for _, value_s in marks]
    to_the_right = not along or along[-1] < _ROOM
    lines, words = [], []
    for position, ((name, value_s), across) in enumerate(zip(marks, along, strict=True)):
        row = position if to_the_right else len(marks) - 1 - position
        anchor, shift = ("start", 5) if to_the_right or across < 1 - _ROOM else ("end", -5)
        lines.append(vertical_line(across, "percentile", 1 - row * 0.07))
        words.append(Label(across, 1, f"{name} {milliseconds(value_s)}", shift, 11 + 16 * row, anchor, "mark strong"))
    return lines, words


def _power(power: int) -> str:
    shift, unit = (6, "µs") if power < -3 else (3, "ms") if power < 0 else (0, "s")
    return f"{number(round(10.0 ** (power + shift), 6))} {unit}"
