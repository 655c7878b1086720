"""The wait of every step over time, and the queue below it on the same axis."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from lightning_fastdata.report.html.svg import (
    Axis,
    bands,
    bars_path,
    chart,
    label,
    level_line,
    line_path,
    nice_ticks,
    plain,
    vertical_line,
)
from lightning_fastdata.report.html.tags import Html, join, json_script, legend, tag
from lightning_fastdata.report.step_columns import KINDS, Columns, Numbers, elapsed_s
from lightning_fastdata.report.units import count, milliseconds
from lightning_fastdata.results.records import Span, StepRecord
from lightning_fastdata.results.verdict import MODERATE_SHARE

__all__ = ["SHADED", "queue_chart", "readout_data", "time_axis", "wait_chart"]

SHADED = {"validation": "Validation", "checkpoint": "Checkpoint"}
"""Kinds of spans that are shaded."""
_MOST_MARKED_EPOCHS = 10
# A validation of a second in a run of hours is still to be seen, unless there are very many.
_LEAST_BAND, _FEW_BANDS = 0.003, 60
_CLIP_FROM, _MOST_COLUMNS = 2.5, 0.95
_LEAST_SCALE = 0.10


def time_axis(columns: Columns, spans: Sequence[Span]) -> Axis:
    """The horizontal axis: time since ``setup``, or steps.

    Args:
        columns: What is drawn.
        spans: What is shaded; a validation after the last step is still on the axis.
    """
    low, high = float(columns.left[0]), float(columns.right[-1])
    if columns.by_time:
        high = max([high, *(span.end_s for span in spans if span.kind in SHADED)])
        low = 0.0 if low < 0.1 * high else low
        size, unit = (1.0, "s") if high < 180 else (60.0, "min") if high < 3 * 3600 else (3600.0, "h")
        ticks = [(value * size, f"{plain(value)} {unit}") for value in nice_ticks(low / size, high / size, 4)]
    else:
        ticks = [(value, plain(value)) for value in nice_ticks(low, high, 4) if value == int(value)]
    return Axis(low, high, tuple(ticks))


def wait_chart(columns: Columns, records: Sequence[StepRecord], spans: Sequence[Span]) -> Html:
    """The chart, its legend, and a line that reads out one column for whoever points at it.

    Args:
        columns: The steps, binned where there are many.
        records: The steps themselves.
        spans: What lay between them.
    """
    x, step_s = time_axis(columns, spans), median(elapsed_s(record) for record in records)
    y = _wait_axis(columns, step_s)
    shaded = _shaded(columns, spans, x)
    drawn = [*(bands(edges, f"band {kind}", least=_least(edges)) for kind, edges in shaded.items())]
    drawn += [vertical_line(x.place(place), "epoch") for place, _ in _marked(columns)]
    drawn += _columns(columns, x, y)
    threshold_s = MODERATE_SHARE * step_s
    labels = [label(x.place(place), 1, str(epoch), dx=3, dy=-4) for place, epoch in _marked(columns)]
    if 0 < threshold_s <= y.high:
        drawn.append(level_line(y.place(threshold_s), "threshold"))
    labels += _beyond(columns, x, y)
    description = f"{count(columns.steps)} steps; the longest wait is {milliseconds(float(columns.max_s.max()))}."
    picture = chart("Wait of each step", description, *drawn, x=x, y=y, labels=labels, id="wait-chart", tabindex="0")
    pointed = tag(
        "p", "Point at a column, or use the arrow keys, to read it.", id="readout", class_="readout", hidden=True
    )
    cursor = tag("div", id="cursor", class_="cursor", hidden=True)
    # The picture itself must be what the pointer's place is measured against.
    return join(tag("div", picture, cursor, class_="plot"), pointed, _legend(columns, shaded, y, threshold_s))


def _wait_axis(columns: Columns, step_s: float) -> Axis:
    """From 0 to the largest wait, or to what leaves out a few that are far beyond the rest.

    It reaches a tenth of a step at least: waits that do not matter must not look as if they did.
    """
    largest_s, most_s = float(columns.max_s.max()), float(np.quantile(columns.max_s, _MOST_COLUMNS))
    top = largest_s if largest_s <= _CLIP_FROM * most_s else 1.25 * most_s
    top = max(top, _LEAST_SCALE * step_s) * 1.02 or 1e-3
    ticks = nice_ticks(0.0, top * 1000, 4)
    return Axis(0.0, top, tuple((value / 1000, f"{plain(value)} ms") for value in ticks))


def _columns(columns: Columns, x: Axis, y: Axis) -> list[Html]:
    """Bars: the largest wait behind, the mean before it, one kind on the other."""
    left, right = _placed(columns.left, x), _placed(columns.right, x)
    # Less than a pixel between two columns; a single step is no wall.
    gap = np.minimum((right - left) * 0.15, 0.001)
    left, right = left + gap, right - gap
    base = np.zeros(len(left))
    drawn = [bars_path(left, right, base, columns.max_s / y.high, "largest")] if columns.binned else []
    for kind, mean_s in columns.mean_s.items():
        top = base + mean_s / y.high
        drawn.append(bars_path(left, right, base, top, f"bar {kind}"))
        base = top
    return drawn


def _placed(values: Numbers, x: Axis) -> Numbers:
    return (values - x.low) / (x.high - x.low)


def _marked(columns: Columns) -> list[tuple[float, int]]:
    """The beginnings of epochs, of many of them every so manieth."""
    every = math.ceil(len(columns.epochs) / _MOST_MARKED_EPOCHS) or 1
    return [(place, epoch) for place, epoch in columns.epochs if epoch % every == 0]


def _shaded(columns: Columns, spans: Sequence[Span], x: Axis) -> dict[str, list[tuple[float, float]]]:
    """Spans by kind as places on the axis; none where the axis is not time."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in SHADED}
    for span in spans if columns.by_time else ():
        if span.kind in found and span.end_s > x.low and span.start_s < x.high:
            found[span.kind].append((x.place(span.start_s), x.place(span.end_s)))
    return {kind: edges for kind, edges in found.items() if edges}


def _least(edges: Sequence[tuple[float, float]]) -> float:
    return _LEAST_BAND if len(edges) <= _FEW_BANDS else 0.0


def _beyond(columns: Columns, x: Axis, y: Axis) -> list[Html]:
    """Triangles at columns that go beyond the top, the value beside the largest."""
    places = np.flatnonzero(columns.max_s > y.high)
    middle = (columns.left + columns.right) / 2
    marks = [label(x.place(float(middle[at])), 1, "▲", dy=9, anchor="middle", class_="beyond") for at in places[:100]]
    if len(places):
        largest = int(columns.max_s.argmax())
        across = x.place(float(middle[largest]))
        anchor, shift = ("start", 8) if across < 0.7 else ("end", -8)
        text = milliseconds(float(columns.max_s[largest]))
        marks.append(label(across, 1, text, dx=shift, dy=10, anchor=anchor, class_="mark strong"))
    return marks


def _legend(columns: Columns, shaded: Mapping[str, object], y: Axis, threshold_s: float) -> Html:
    entries: list[tuple[str, object]] = [(f"bar {kind}", KINDS[kind]) for kind in columns.mean_s]
    if columns.binned:
        entries.append(("largest", "Largest wait in the column"))
    entries += [(f"band {kind}", SHADED[kind]) for kind in shaded]
    if columns.epochs:
        entries.append(("epoch", "An epoch begins (its number above)"))
    if (columns.max_s > y.high).any():
        entries.append(("glyph", "▲ A wait beyond the top"))
    if threshold_s > 0:
        entries.append(
            ("threshold", f"{MODERATE_SHARE:.0%} of a typical step ({milliseconds(threshold_s)})".replace("%", " %"))
        )
    return legend(entries)


def queue_chart(columns: Columns, capacity: int | None, spans: Sequence[Span]) -> Html | None:
    """Batches that were ready when a step's fetch began; None where that was not measured.

    Args:
        columns: The steps.
        capacity: Batches the workers keep under way or ready at most (count).
        spans: As for the chart of the waits, whose axis it shares.
    """
    known = np.isfinite(columns.queue_mean)
    if not known.any():
        return None
    x = time_axis(columns, spans)
    top = max(float(np.nanmax(columns.queue_mean)), capacity or 0, 1.0)
    ticks = tuple((value, plain(value)) for value in nice_ticks(0, top, 4) if value == int(value))
    y = Axis(0.0, top * 1.08, ticks)
    left, right = _placed(columns.left, x), _placed(columns.right, x)
    mean = np.where(known, columns.queue_mean, 0.0)
    drawn = [bars_path(left, right, np.zeros(len(left)), mean / y.high, "queue")]
    if columns.binned:
        drawn.append(_fewest(columns, left, right, y))
    labels = []
    if capacity:
        drawn.append(level_line(y.place(capacity), "capacity"))
        labels.append(label(1, y.place(capacity), f"capacity {count(capacity)}", dx=-4, dy=14, anchor="end"))
    description = (
        f"Between {plain(float(np.nanmin(columns.queue_min)))} and {plain(float(np.nanmax(columns.queue_mean)))}."
    )
    picture = chart("Batches ready at each fetch", description, *drawn, x=x, y=y, labels=labels, class_="chart low")
    entries = [("queue", "Batches ready when the step asked for one" + (", mean" if columns.binned else ""))]
    if columns.binned:
        entries.append(("fewest line", "The fewest in the column"))
    return join(tag("div", picture, class_="plot"), legend(entries))


def _fewest(columns: Columns, left: Numbers, right: Numbers, y: Axis) -> Html:
    """A line that breaks where nothing was fetched, as during a validation."""
    middle, fewest = (left + right) / 2, columns.queue_min / y.high
    gaps = np.flatnonzero(left[1:] - right[:-1] > 1e-9) + 1
    return line_path(np.insert(middle, gaps, np.nan), np.insert(fewest, gaps, np.nan), "fewest")


def readout_data(columns: Columns, spans: Sequence[Span]) -> Html:
    """What the page's script reads out: for each column its middle (0..1) and a line of text."""
    x = time_axis(columns, spans)
    mean_s = sum(columns.mean_s.values(), np.zeros(len(columns.left)))
    rows = []
    for place in range(len(columns.left)):
        first, last = int(columns.first[place]), int(columns.last[place])
        middle = x.place(float(columns.left[place] + columns.right[place]) / 2)
        if first == last:
            text = f"Step {first:,}: {milliseconds(float(columns.max_s[place]))}"
        else:
            mean, most = milliseconds(float(mean_s[place])), milliseconds(float(columns.max_s[place]))
            text = f"Steps {first:,} to {last:,}: mean {mean}, largest {most}"
        if math.isfinite(columns.queue_mean[place]):
            ready = f"{columns.queue_mean[place]:.1f}".removesuffix(".0")
            text += f"; {ready} {'batch' if ready == '1' else 'batches'} ready"
        rows.append([round(middle, 5), text])
    return json_script("columns", rows)
