"""The pieces of a chart: axes, ticks, and paths whose drawing stretches with the page while its words do not.

Places are shares of the drawing's width and height (0..1), x from the left and y from the bottom. The template
``macros.html`` writes the SVG.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lightning_fastdata.report.step_columns import Numbers
from lightning_fastdata.report.units import number

__all__ = [
    "Axis",
    "Chart",
    "Label",
    "Path",
    "bands",
    "bars_path",
    "level_line",
    "line_path",
    "nice_ticks",
    "vertical_line",
    "whole_ticks",
]

_SIZE = 1000
"""Width and height of the stretched drawing, in its own units."""
_EDGE = 0.95


@dataclass(frozen=True)
class Axis:
    """One direction of a chart."""

    low: float
    """The value at the beginning."""
    high: float
    """The value at the end; greater than ``low``."""
    ticks: tuple[tuple[float, str], ...] = ()
    """Values with their labels."""

    def share(self, value: float) -> float:
        """Where a value lies (0..1), also beyond both ends."""
        return (value - self.low) / (self.high - self.low)

    def shares(self, values: Numbers) -> Numbers:
        """Where values lie, likewise."""
        return (values - self.low) / (self.high - self.low)


class Path(NamedTuple):
    """A shape that stretches with the page."""

    kind: str
    """Its class: how it is drawn."""
    d: str
    """Its outline; "" = nothing to draw."""
    color: str = ""
    """What it is filled with: the name of a color of the style sheet; "" = it is a line."""


class Label(NamedTuple):
    """Words in the drawing, which do not stretch."""

    x: float
    y: float
    text: str
    dx: int = 0
    """Shift to the right (pixels)."""
    dy: int = 0
    """Shift down (pixels)."""
    anchor: str = "start"
    kind: str = "mark"


@dataclass(frozen=True)
class Chart:
    """A drawing with its axes and its legend."""

    title: str
    """What it shows."""
    description: str
    """What there is to see, for those who do not see it."""
    drawn: Sequence[Path]
    """Shapes, from back to front."""
    x: Axis
    y: Axis
    words: Sequence[Label] = ()
    """Words in the drawing."""
    legend: Sequence[tuple[str, str, str]] = ()
    """What the colors mean: class and color of a mark, and the words."""
    kind: str = "chart"
    """Its classes, which set its height."""
    id: str = ""
    """Its element, where the page's script reads it."""

    @property
    def labels(self) -> list[Label]:
        """All words: the labels of the axes, then those in the drawing."""
        up = [Label(0, self.y.share(value), text, -8, 4, "end", "tick") for value, text in self.y.ticks]
        along = [(self.x.share(value), text) for value, text in self.x.ticks]
        # A label at the right edge of a phone would make the page wider than the screen.
        across = [Label(x, 0, text, 0, 18, "end" if x > _EDGE else "middle", "tick") for x, text in along]
        return [*up, *across, *self.words]

    @property
    def paths(self) -> list[Path]:
        """All shapes, from back to front: level lines at the ticks of the vertical axis, then what is drawn."""
        grid = [level_line(self.y.share(value), "grid") for value, _ in self.y.ticks]
        return [path for path in (*grid, *self.drawn) if path.d]


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values from ``low`` to ``high``: multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: The beginning.
        high: The end; greater than ``low``.
        most: Roughly the largest number of them (count).
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [position * step for position in range(first, last + 1)]


def whole_ticks(low: float, high: float, most: int = 4) -> tuple[tuple[float, str], ...]:
    """Those of ``nice_ticks`` that are whole numbers, with their labels."""
    return tuple((value, number(value)) for value in nice_ticks(low, high, most) if value == int(value))


def _units(values: Numbers) -> Numbers:
    return np.clip(values, 0.0, 1.0) * _SIZE


def bars_path(left: Numbers, right: Numbers, bottom: Numbers, top: Numbers, color: str, kind: str = "bar") -> Path:
    """Upright bars as one path; those without height are left out.

    Args:
        left: Left edges (0..1), shape (bars,).
        right: Right edges, likewise.
        bottom: Lower edges, likewise.
        top: Upper edges, likewise.
        color: The name of their color.
        kind: Their class.
    """
    left, right, low, high = _units(left), _units(right), _SIZE - _units(bottom), _SIZE - _units(top)
    parts = [
        f"M{x0:.5g} {y0:.5g}V{y1:.5g}H{x1:.5g}V{y0:.5g}Z"
        for x0, x1, y0, y1 in zip(left, right, low, high, strict=True)
        if y0 - y1 > 0.05
    ]
    return Path(kind, "".join(parts), color)


def line_path(x: Numbers, y: Numbers, kind: str) -> Path:
    """A line through points; it breaks where one is not a number.

    Args:
        x: Places from the left (0..1), shape (points,).
        y: Places from the bottom, likewise.
        kind: Its class.
    """
    parts, pen = [], "M"
    for across, up in zip(_units(x), _SIZE - _units(y), strict=True):
        if math.isfinite(up):
            parts.append(f"{pen}{across:.5g} {up:.5g}")
            pen = "L"
        else:
            pen = "M"
    return Path(kind, "".join(parts))


def level_line(y: float, kind: str) -> Path:
    """A line from the left to the right."""
    return Path(kind, f"M0 {_SIZE * (1 - y):.5g}H{_SIZE}")


def vertical_line(x: float, kind: str, top: float = 1.0) -> Path:
    """A line from the bottom to ``top`` (0..1)."""
    return Path(kind, f"M{x * _SIZE:.5g} {(1 - top) * _SIZE:.5g}V{_SIZE}")


def bands(spans: Iterable[tuple[float, float]], color: str, *, least: float = 0.0) -> Path:
    """Spans shaded over the whole height.

    Args:
        spans: Beginnings and ends (0..1), at least one.
        color: The name of their color.
        least: The width that is drawn at least (0..1), so that a short one can be seen.
    """
    left, right = np.asarray(list(spans), dtype=np.float64).T
    missing = np.maximum(0.0, least - (right - left)) / 2
    return bars_path(left - missing, right + missing, np.zeros(len(left)), np.ones(len(left)), color, "band")
