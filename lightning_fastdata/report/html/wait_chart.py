"""The wait of every step over time, and the prefetch queue below it on the same axis."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lightning_fastdata.report.figures import CAUSES
from lightning_fastdata.report.html import svg
from lightning_fastdata.report.html.svg import Axis, Chart, Label, Path
from lightning_fastdata.report.step_columns import SHADED, Columns, Numbers
from lightning_fastdata.report.units import count, milliseconds, number, percent
from lightning_fastdata.results.records import Span
from lightning_fastdata.results.verdict import MODERATE_SHARE

__all__ = ["queue_chart", "readout_rows", "wait_chart"]

# A validation of a second in a run of hours is still to be seen, unless there are very many.
_LEAST_BAND, _FEW_BANDS = 0.003, 60
_MOST_TRIANGLES = 100


def _time_axis(columns: Columns, spans: Sequence[Span]) -> Axis:
    """Time since ``setup``, or steps; a validation after the last step is still on the axis."""
    low, high = columns.limits(max((span.end_s for span in spans if span.kind in SHADED), default=0.0))
    if not columns.by_time:
        return Axis(low, high, svg.whole_ticks(low, high))
    size, unit = (1.0, "s") if high < 180 else (60.0, "min") if high < 3 * 3600 else (3600.0, "h")
    ticks = svg.nice_ticks(low / size, high / size, 4)
    return Axis(low, high, tuple((value * size, f"{number(value, 4)} {unit}") for value in ticks))


def wait_chart(columns: Columns, spans: Sequence[Span]) -> Chart:
    """The chart of the waits.

    Args:
        columns: The steps, binned where there are many.
        spans: What lay between them.
    """
    x, ticks = _time_axis(columns, spans), svg.nice_ticks(0.0, columns.top_s * 1000, 4)
    y = Axis(0.0, columns.top_s, tuple((value / 1000, f"{number(value, 4)} ms") for value in ticks))
    shaded = _shaded(columns, spans, x)
    drawn = [
        svg.bands(edges, f"{kind}-band", least=_LEAST_BAND if len(edges) <= _FEW_BANDS else 0.0)
        for kind, edges in shaded.items()
    ]
    epochs = [(x.share(start), epoch) for start, epoch in columns.marked_epochs]
    drawn += [svg.vertical_line(across, "epoch") for across, _ in epochs]
    drawn += _columns(columns, x, y)
    threshold_s = MODERATE_SHARE * columns.step_s
    if 0 < threshold_s <= y.high:
        drawn.append(svg.level_line(y.share(threshold_s), "threshold"))
    return Chart(
        "Data wait of each step",
        f"{count(columns.steps)} steps; the longest wait is {milliseconds(float(columns.max_s.max()))}.",
        drawn,
        x,
        y,
        words=[*(Label(across, 1, str(epoch), 3, -4) for across, epoch in epochs), *_beyond(columns, x)],
        legend=_legend(columns, shaded, threshold_s),
        id="wait-chart",
    )


def _columns(columns: Columns, x: Axis, y: Axis) -> list[Path]:
    """Bars: the largest wait behind, the mean before it, one cause on the other."""
    left, right = x.shares(columns.left), x.shares(columns.right)
    # Less than a pixel between two columns; a single step is no wall.
    gap = np.minimum((right - left) * 0.15, 0.001)
    left, right = left + gap, right - gap
    base = np.zeros(len(left))
    drawn = [svg.bars_path(left, right, base, columns.max_s / y.high, "largest")] if columns.binned else []
    for cause, mean_s in columns.mean_s.items():
        top = base + mean_s / y.high
        drawn.append(svg.bars_path(left, right, base, top, cause))
        base = top
    return drawn


def _shaded(columns: Columns, spans: Sequence[Span], x: Axis) -> dict[str, list[tuple[float, float]]]:
    """Spans by kind, from the axis's left (0..1); none where the axis is not time."""
    edges: dict[str, list[tuple[float, float]]] = {kind: [] for kind in SHADED}
    for span in spans if columns.by_time else ():
        if span.kind in edges and span.end_s > x.low and span.start_s < x.high:
            edges[span.kind].append((x.share(span.start_s), x.share(span.end_s)))
    return {kind: ends for kind, ends in edges.items() if ends}


def _beyond(columns: Columns, x: Axis) -> list[Label]:
    """Triangles at columns that go beyond the top, the value beside the largest."""
    above, middle = np.flatnonzero(columns.max_s > columns.top_s), x.shares(columns.middle)
    if not len(above):
        return []
    largest = int(columns.max_s.argmax())
    anchor, shift = ("start", 8) if middle[largest] < 0.7 else ("end", -8)
    value = milliseconds(float(columns.max_s[largest]))
    marks = [Label(float(middle[at]), 1, "▲", 0, 9, "middle", "beyond") for at in above[:_MOST_TRIANGLES]]
    return [*marks, Label(float(middle[largest]), 1, value, shift, 10, anchor, "mark strong")]


def _legend(columns: Columns, shaded: Mapping[str, object], threshold_s: float) -> list[tuple[str, str, str]]:
    entries = [("bar", cause, CAUSES[cause]) for cause in columns.mean_s]
    if columns.binned:
        entries.append(("bar", "largest", "Largest wait in the column"))
    entries += [("band", f"{kind}-band", SHADED[kind]) for kind in shaded]
    if columns.epochs:
        entries.append(("epoch", "", "An epoch begins (its number above)"))
    if (columns.max_s > columns.top_s).any():
        entries.append(("glyph", "", "▲ A wait beyond the top"))
    if threshold_s > 0:
        entries.append(
            ("threshold", "", f"{percent(MODERATE_SHARE, 0)} of a typical step ({milliseconds(threshold_s)})")
        )
    return entries


def queue_chart(columns: Columns, capacity: int | None, spans: Sequence[Span]) -> Chart:
    """Batches that were ready when a step's fetch began, of columns that have a queue.

    Args:
        columns: The steps.
        capacity: Batches the workers keep under way or ready at most (count).
        spans: As for the chart of the waits, whose axis it shares.
    """
    x, most = _time_axis(columns, spans), float(np.nanmax(columns.queue_mean))
    top = max(most, capacity or 0, 1.0)
    y = Axis(0.0, top * 1.08, svg.whole_ticks(0, top))
    left, right = x.shares(columns.left), x.shares(columns.right)
    drawn = [svg.bars_path(left, right, np.zeros(len(left)), np.nan_to_num(columns.queue_mean) / y.high, "queue")]
    legend = [("bar", "queue", "Batches ready when the step asked for one" + (", mean" if columns.binned else ""))]
    if columns.binned:
        drawn.append(_fewest(columns, left, right, y))
        legend.append(("fewest", "", "The fewest in the column"))
    words = []
    if capacity:
        drawn.append(svg.level_line(y.share(capacity), "capacity"))
        words.append(Label(1, y.share(capacity), f"capacity {count(capacity)}", -4, 14, "end"))
    description = f"Between {number(float(np.nanmin(columns.queue_min)), 4)} and {number(most, 4)}."
    return Chart("Prefetch queue at each fetch", description, drawn, x, y, words, legend, kind="chart low")


def _fewest(columns: Columns, left: Numbers, right: Numbers, y: Axis) -> Path:
    """A line that breaks where nothing was fetched, as during a validation."""
    middle, fewest = (left + right) / 2, columns.queue_min / y.high
    gaps = np.flatnonzero(left[1:] - right[:-1] > 1e-9) + 1
    return svg.line_path(np.insert(middle, gaps, np.nan), np.insert(fewest, gaps, np.nan), "fewest")


def readout_rows(columns: Columns, spans: Sequence[Span]) -> list[tuple[float, str]]:
    """What the page's script reads out: for each column its middle (0..1) and a line of text."""
    middle = _time_axis(columns, spans).shares(columns.middle)
    mean_s = sum(columns.mean_s.values(), np.zeros(len(columns.left)))
    rows = []
    for column, (first, last) in enumerate(zip(columns.first.tolist(), columns.last.tolist(), strict=True)):
        most = milliseconds(float(columns.max_s[column]))
        if first == last:
            text = f"Step {first:,}: {most}"
        else:
            text = f"Steps {first:,} to {last:,}: mean {milliseconds(float(mean_s[column]))}, largest {most}"
        if math.isfinite(columns.queue_mean[column]):
            ready = f"{columns.queue_mean[column]:.1f}".removesuffix(".0")
            text += f"; {ready} {'batch' if ready == '1' else 'batches'} ready"
        rows.append((round(float(middle[column]), 5), text))
    return rows
