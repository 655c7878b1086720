"""A measured run as a matplotlib figure, for notebooks and papers. matplotlib is imported only when one is drawn."""

import functools
import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.report.figures import share_of
from lightning_fastdata.report.html.histogram import histogram_of
from lightning_fastdata.report.html.wait_chart import SHADED
from lightning_fastdata.report.step_columns import KINDS, Columns, columns_of, waits_of
from lightning_fastdata.report.terminal import clean
from lightning_fastdata.report.units import NOT_MEASURED, count, is_known, milliseconds, percent, seconds
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.stats import ACCOUNTS
from lightning_fastdata.results.summary import RunSummary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_run"]

_COLORS = {
    "startup_s": "#6f757e",
    "boundary_s": "#e29a1c",
    "wait_s": "#c8450c",
    "transfer_s": "#d3bf22",
    "compute_s": "#2f6aa8",
    "validation_s": "#74bde6",
    "checkpoint_s": "#0c7c5d",
    "callbacks_s": "#a4568a",
    "sync_s": "#7a2352",
    "loop_s": "#414952",
    "unattributed_s": "#c6c9cc",
}
_KIND_COLORS = {"blocked": "#d9571a", "inline": "#2f6aa8", "handoff": "#a98000", "wait": "#8d6a9f"}
_BAND_COLORS = {"validation": "#d9ebf6", "checkpoint": "#bfe3d4"}
_PALE, _QUEUE, _STEPS, _INK, _QUIET = "#e6b293", "#728da6", "#7d8288", "#1c2025", "#5b646e"
_TITLE_WIDTH = 105
_NO_CAUSE = ("", "healthy", "over-provisioned")


def plot_run(summary: RunSummary, records: Sequence[StepRecord]) -> "Figure":
    """One run in panels: where the time went, the wait of each step, its distribution, and the queue if measured.

    The figure belongs to no window and to no global state: it shows itself in a notebook, and
    ``figure.savefig("run.pdf")`` writes it.

    Args:
        summary: What was measured.
        records: Its steps in order, as many as were kept; none at all is fine.

    Returns:
        A matplotlib figure of 9 x 8 inches.

    Raises:
        FastDataError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FastDataError(
            "A plot needs matplotlib, which is not installed.",
            expected="matplotlib beside lightning_fastdata",
            fix='pip install "lightning_fastdata[plots]"',
        ) from error
    figure = Figure(figsize=(9, 8), layout="constrained")
    columns = columns_of(records)
    with_queue = columns is not None and bool(np.isfinite(columns.queue_mean).any())
    rows: list[Any] = [["ledger"] * 2, ["waits"] * 2, ["histogram", "queue" if with_queue else "histogram"]]
    panels = figure.subplot_mosaic(rows, height_ratios=[0.5, 2, 1.6])
    figure.suptitle(_title(summary), x=0.01, ha="left", fontsize=10)
    _ledger(panels["ledger"], summary)
    _waits(panels["waits"], summary, columns)
    _histogram(panels["histogram"], summary, records)
    if columns is not None and with_queue:
        _queue(panels["queue"], summary, columns)
    # A notebook that has not loaded pyplot does not know how to show a figure.
    figure.__dict__["_repr_png_"] = functools.partial(_png_of, figure)
    return figure


def _png_of(figure: "Figure") -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()


def _title(summary: RunSummary) -> str:
    """The verdict's first sentence, and below it why and what to try."""
    verdict = summary.verdict
    first, stop, _ = verdict.text.partition(". ")
    said = [f"{first}." if stop else first]
    if verdict.cause not in _NO_CAUSE:
        said.append(f"Cause: {verdict.cause}")
    if verdict.try_first:
        said.append(f"Try first: {verdict.try_first}")
    folded = (line for one in said for line in textwrap.wrap(clean(one), _TITLE_WIDTH) or [""])
    # A dollar sign would begin a formula.
    return "\n".join(folded).replace("$", r"\$")


def _nothing(panel: Any, what: str) -> None:
    panel.set_axis_off()
    panel.text(0.5, 0.5, f"{what}: {NOT_MEASURED}", ha="center", va="center", color=_QUIET, transform=panel.transAxes)


def _quiet(panel: Any, title: str) -> None:
    panel.set_title(title, loc="left", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)


def _ledger(panel: Any, summary: RunSummary) -> None:
    if not summary.ledger or summary.total_s is None or not is_known(summary.total_s):
        _nothing(panel, "Where the time went")
        return
    left = 0.0
    for name, called in ACCOUNTS.items():
        value_s = summary.ledger.get(name, 0.0)
        if name in summary.not_measured or not is_known(value_s) or value_s <= 0:
            continue
        words = f"{called} {seconds(value_s)} ({percent(share_of(value_s, summary.total_s))})"
        hatch = "///" if name == "unattributed_s" else None
        panel.barh(0, value_s, left=left, color=_COLORS[name], edgecolor="white", linewidth=1, hatch=hatch, label=words)
        left += value_s
    _quiet(panel, f"Where the time went: {seconds(summary.total_s)} from setup to teardown (axis: s)")
    panel.set_xlim(0, left or 1)
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    panel.legend(loc="upper left", bbox_to_anchor=(0, -0.9), ncols=3, fontsize=7, frameon=False)


def _waits(panel: Any, summary: RunSummary, columns: Columns | None) -> None:
    if columns is None:
        _nothing(panel, "Wait of each step")
        return
    width = columns.right - columns.left
    if columns.binned:
        panel.bar(
            columns.left, columns.max_s * 1000, width, align="edge", color=_PALE, label="Largest wait in the column"
        )
    base = np.zeros(len(width))
    for kind, mean_s in columns.mean_s.items():
        panel.bar(columns.left, mean_s * 1000, width, base, align="edge", color=_KIND_COLORS[kind], label=KINDS[kind])
        base = base + mean_s * 1000
    named = set()
    for span in summary.spans if columns.by_time else ():
        if span.kind in SHADED and span.end_s > columns.left[0]:
            label = SHADED[span.kind] if span.kind not in named else None
            named.add(span.kind)
            panel.axvspan(span.start_s, span.end_s, color=_BAND_COLORS[span.kind], zorder=0, label=label)
    for place, _ in columns.epochs if len(columns.epochs) <= 40 else ():
        panel.axvline(place, color=_INK, linestyle=":", linewidth=1.2, zorder=3)
    about = f"mean of {count(len(width))} columns" if columns.binned else "one column a step"
    _quiet(panel, f"Wait of each step ({about}; dotted: an epoch begins)")
    panel.set_ylabel("ms", fontsize=8)
    measured = np.isfinite(columns.queue_mean).any()
    panel.set_xlabel(_x_label(columns) + ("" if measured else f" (batches ready: {NOT_MEASURED})"), fontsize=8)
    panel.set_ylim(0, _top_ms(columns))
    panel.set_xlim(*_x_limits(summary, columns))
    _beyond(panel, columns)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=3)


def _top_ms(columns: Columns) -> float:
    """The largest wait, or what leaves out a few that are far beyond the rest (ms); as on the page."""
    largest_s, most_s = float(columns.max_s.max()), float(np.quantile(columns.max_s, 0.95))
    return (largest_s if largest_s <= 2.5 * most_s else 1.25 * most_s) * 1050 or 1.0


def _beyond(panel: Any, columns: Columns) -> None:
    """A triangle at each column that goes beyond the top, the value beside the largest; as on the page."""
    top_ms = _top_ms(columns)
    places = np.flatnonzero(columns.max_s * 1000 > top_ms)
    if not len(places):
        return
    middle = (columns.left + columns.right) / 2
    panel.plot(
        middle[places],
        np.full(len(places), top_ms),
        "^",
        color=_INK,
        markersize=5,
        clip_on=False,
        label="Beyond the top",
    )
    largest = int(columns.max_s.argmax())
    text = milliseconds(float(columns.max_s[largest]))
    panel.annotate(text, (middle[largest], top_ms), (5, -3), textcoords="offset points", va="top", fontsize=8)


def _x_limits(summary: RunSummary, columns: Columns) -> tuple[float, float]:
    """The same for the waits and the queue; of an axis of time up to the run's end."""
    low, high = float(columns.left[0]), float(columns.right[-1])
    if columns.by_time:
        if summary.total_s is not None and is_known(summary.total_s):
            high = max(high, summary.total_s)
        low = 0.0 if low < 0.1 * high else low
    return low, high


def _x_label(columns: Columns) -> str:
    return "s since the callback's setup" if columns.by_time else "steps"


def _histogram(panel: Any, summary: RunSummary, records: Sequence[StepRecord]) -> None:
    waits_s = waits_of(records)
    if not len(waits_s):
        _nothing(panel, "How long steps wait")
        return
    edges, counts = histogram_of(waits_s)
    panel.stairs(counts, 10.0 ** (edges + 3), fill=True, color=_STEPS)
    panel.set_xscale("log")
    marks = (("p50", summary.wait_s_median, "-"), ("p95", summary.wait_s_p95, "--"), ("p99", summary.wait_s_p99, ":"))
    for name, value_s, style in marks:
        if value_s is not None and is_known(value_s):
            place = min(max(value_s * 1000, 10.0 ** (edges[0] + 3)), 10.0 ** (edges[-1] + 3))
            panel.axvline(place, color=_INK, linestyle=style, linewidth=1, label=f"{name} {milliseconds(value_s)}")
    _quiet(panel, "How long steps wait")
    panel.set_xlabel("ms", fontsize=8)
    panel.set_ylabel("steps", fontsize=8)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=7, frameon=False)


def _queue(panel: Any, summary: RunSummary, columns: Columns) -> None:
    panel.bar(columns.left, np.nan_to_num(columns.queue_mean), columns.right - columns.left, align="edge", color=_QUEUE)
    capacity = summary.waits.queue_capacity if summary.waits is not None else None
    if capacity:
        panel.axhline(capacity, color=_INK, linestyle="--", linewidth=1)
    _quiet(panel, "Batches ready at each fetch" + (f" (dashed: capacity {count(capacity)})" if capacity else ""))
    panel.set_xlim(*_x_limits(summary, columns))
    panel.set_xlabel(_x_label(columns), fontsize=8)
    panel.set_ylabel("batches", fontsize=8)
    panel.set_ylim(bottom=0)
