"""The pieces of a chart: axes, ticks, and an SVG whose drawing stretches with the page while its words do not.

Places are shares of the drawing's width and height (0..1), x from the left and y from the bottom.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_fastdata.report.html.tags import Html, join, tag

__all__ = [
    "Axis",
    "bands",
    "bars_path",
    "chart",
    "label",
    "level_line",
    "line_path",
    "nice_ticks",
    "plain",
    "vertical_line",
]

_SIZE = 1000
"""Width and height of the stretched drawing, in its own units."""
_EDGE = 0.95

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """One direction of a chart."""

    low: float
    """The value at the beginning."""
    high: float
    """The value at the end; greater than ``low``."""
    ticks: tuple[tuple[float, str], ...] = ()
    """Values with their labels."""

    def place(self, value: float) -> float:
        """Where a value lies (0..1), also outside."""
        return (value - self.low) / (self.high - self.low)


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
    return [number * step for number in range(first, last + 1)]


def plain(value: float) -> str:
    """A tick's number, without the noise of binary fractions: ``0.3``, ``1,200``."""
    return f"{value:,.10g}" if abs(value) < 1e-4 else f"{value:,.4f}".rstrip("0").rstrip(".")


def chart(
    title: str, description: str, *drawn: Html, x: Axis, y: Axis, labels: Iterable[Html] = (), **more: str
) -> Html:
    """An SVG with its axes.

    Args:
        title: What it shows.
        description: What there is to see, for those who do not see it.
        drawn: Paths and shapes, stretched with the page.
        x: The horizontal axis.
        y: The vertical axis.
        labels: Words in the drawing, which are not stretched.
        more: Further attributes of the SVG; ``class_`` sets its height.
    """
    grid = [level_line(y.place(value), "grid") for value, _ in y.ticks]
    stretched = tag(
        "svg",
        *grid,
        *drawn,
        viewBox=f"0 0 {_SIZE} {_SIZE}",
        preserveAspectRatio="none",
        width="100%",
        height="100%",
        aria_hidden="true",
    )
    y_labels = [label(0, y.place(value), text, dx=-8, dy=4, anchor="end", class_="tick") for value, text in y.ticks]
    x_labels = [
        label(x.place(value), 0, text, dy=18, anchor=_anchor(x.place(value)), class_="tick") for value, text in x.ticks
    ]
    more.setdefault("class_", "chart")
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        stretched,
        *y_labels,
        *x_labels,
        *labels,
        role="img",
        aria_label=f"{title}. {description}",
        **more,
    )


def _anchor(x: float) -> str:
    # A label at the right edge of a phone would make the page wider than the screen.
    return "end" if x > _EDGE else "middle"


def label(
    x: float, y: float, text: str, *, dx: int = 0, dy: int = 0, anchor: str = "start", class_: str = "mark"
) -> Html:
    """Words at a place of the drawing, ``dx`` and ``dy`` pixels to its right and below it."""
    place = {"x": f"{x * 100:.2f}%", "y": f"{(1 - y) * 100:.2f}%", "dx": dx, "dy": dy}
    return tag("text", text, **place, text_anchor=anchor, class_=class_)


def _units(values: Numbers) -> Numbers:
    return np.clip(values, 0.0, 1.0) * _SIZE


def bars_path(left: Numbers, right: Numbers, bottom: Numbers, top: Numbers, class_: str) -> Html:
    """Upright bars as one path; those without height are left out.

    Args:
        left: Left edges (0..1), shape (bars,).
        right: Right edges, likewise.
        bottom: Lower edges, likewise.
        top: Upper edges, likewise.
        class_: What gives them their color.
    """
    left, right, low, high = _units(left), _units(right), _SIZE - _units(bottom), _SIZE - _units(top)
    parts = [
        f"M{x0:.5g} {y0:.5g}V{y1:.5g}H{x1:.5g}V{y0:.5g}Z"
        for x0, x1, y0, y1 in zip(left, right, low, high, strict=True)
        if y0 - y1 > 0.05
    ]
    return tag("path", d="".join(parts), class_=class_) if parts else Html("")


def line_path(x: Numbers, y: Numbers, class_: str) -> Html:
    """A line through points; it breaks where one is not a number.

    Args:
        x: Places from the left (0..1), shape (points,).
        y: Places from the bottom, likewise.
        class_: What gives it its color.
    """
    parts, pen = [], "M"
    for across, up in zip(_units(x), _SIZE - _units(y), strict=True):
        if math.isfinite(up):
            parts.append(f"{pen}{across:.5g} {up:.5g}")
            pen = "L"
        else:
            pen = "M"
    return tag("path", d="".join(parts), class_=class_) if parts else Html("")


def level_line(y: float, class_: str) -> Html:
    """A line from the left to the right."""
    up = _SIZE * (1 - y)
    return tag("path", d=f"M0 {up:.5g}H{_SIZE}", class_=class_)


def vertical_line(x: float, class_: str, top: float = 1.0) -> Html:
    """A line from the bottom to ``top`` (0..1)."""
    return tag("path", d=f"M{x * _SIZE:.5g} {(1 - top) * _SIZE:.5g}V{_SIZE}", class_=class_)


def bands(spans: Sequence[tuple[float, float]], class_: str, *, least: float = 0.0) -> Html:
    """Stretches shaded over the whole height.

    Args:
        spans: Beginnings and ends (0..1).
        class_: What gives them their color.
        least: The width that is drawn at least (0..1), so that a short one can be seen.
    """
    if not spans:
        return join()
    edges = np.asarray(spans, dtype=np.float64)
    missing = np.maximum(0.0, least - (edges[:, 1] - edges[:, 0])) / 2
    zero = np.zeros(len(edges))
    return bars_path(edges[:, 0] - missing, edges[:, 1] + missing, zero, zero + 1, class_)
