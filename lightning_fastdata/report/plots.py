"""A measured run as a matplotlib figure, for notebooks and papers. matplotlib is imported only when one is drawn."""

import functools
import io
import re
import textwrap
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.report.figures import CAUSES
from lightning_fastdata.report.sections import ledger_section
from lightning_fastdata.report.step_columns import SHADED, Columns, columns_of, decades, waits_of
from lightning_fastdata.report.terminal import clean
from lightning_fastdata.report.units import NOT_MEASURED, count, is_known, milliseconds, percent, seconds
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.summary import RunSummary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_run"]

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
    with_queue = columns is not None and columns.has_queue
    rows: list[Any] = [["ledger"] * 2, ["waits"] * 2, ["histogram", "queue" if with_queue else "histogram"]]
    panels = figure.subplot_mosaic(rows, height_ratios=[0.5, 2, 1.6])
    figure.suptitle(_title(summary), x=0.01, ha="left", fontsize=10)
    colors = _page_colors()
    _ledger(panels["ledger"], summary, colors)
    _waits(panels["waits"], summary, columns, colors)
    _histogram(panels["histogram"], summary, records, colors)
    if columns is not None and with_queue:
        _queue(panels["queue"], summary, columns, colors)
    # A notebook that has not loaded pyplot does not know how to show a figure.
    figure.__dict__["_repr_png_"] = functools.partial(_png_of, figure)
    return figure


def _page_colors() -> dict[str, str]:
    """The page's colors on a light ground, by their names in its style sheet."""
    style = files("lightning_fastdata.report.html").joinpath("style.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+): (#\w{6});", style.partition("@media")[0]))


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


def _nothing(panel: Any, what: str, colors: dict[str, str]) -> None:
    panel.set_axis_off()
    words = {"ha": "center", "va": "center", "color": colors["quiet"], "transform": panel.transAxes}
    panel.text(0.5, 0.5, f"{what}: {NOT_MEASURED}", **words)


def _label(panel: Any, title: str, x: str = "", y: str = "", **legend: Any) -> None:
    """Title, axes and legend, in small print."""
    panel.set_title(title, loc="left", fontsize=10)
    panel.set_xlabel(x, fontsize=8)
    panel.set_ylabel(y, fontsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=7, frameon=False, **legend)


def _ledger(panel: Any, summary: RunSummary, colors: dict[str, str]) -> None:
    section, left = ledger_section(summary), 0.0
    if not summary.ledger or not is_known(summary.total_s):
        _nothing(panel, section.heading, colors)
        return
    for account in section.figures:
        if not account.id or account.value is None or not account.share or account.share < 0:
            continue
        name = account.id.removeprefix("ledger-").removesuffix("_s")
        look = {"color": colors.get(name, colors["unattributed"]), "hatch": "///" if name == "unattributed" else None}
        words = f"{account.name} {seconds(account.value)} ({percent(account.share)})"
        panel.barh(0, account.value, left=left, edgecolor="white", linewidth=1, label=words, **look)
        left += account.value
    title = f"{section.heading}: {seconds(summary.total_s)} from setup to teardown (axis: s)"
    _label(panel, title, loc="upper left", bbox_to_anchor=(0, -0.9), ncols=3)
    panel.set_xlim(0, left or 1)
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)


def _waits(panel: Any, summary: RunSummary, columns: Columns | None, colors: dict[str, str]) -> None:
    if columns is None:
        _nothing(panel, "Data wait of each step", colors)
        return
    left, width, base = columns.left, columns.right - columns.left, np.zeros(len(columns.left))
    if columns.binned:
        label = "Largest wait in the column"
        panel.bar(left, columns.max_s * 1000, width, align="edge", color=colors["largest"], label=label)
    for cause, mean_s in columns.mean_s.items():
        look = {"align": "edge", "color": colors[cause], "label": CAUSES[cause]}
        panel.bar(left, mean_s * 1000, width, base, **look)
        base = base + mean_s * 1000
    named = dict(SHADED)
    for span in summary.spans if columns.by_time else ():
        if span.kind in SHADED and span.end_s > left[0]:
            look = {"color": colors[f"{span.kind}-band"], "label": named.pop(span.kind, "")}
            panel.axvspan(span.start_s, span.end_s, zorder=0, **look)
    for start, _ in columns.marked_epochs:
        panel.axvline(start, color=colors["ink"], linestyle=":", linewidth=1.2, zorder=3)
    panel.set_ylim(0, columns.top_s * 1000)
    _set_x(panel, summary, columns)
    _beyond(panel, columns, colors["ink"])
    about = f"mean of {count(len(width))} columns" if columns.binned else "one column a step"
    unmeasured = "" if columns.has_queue else f" (prefetch queue: {NOT_MEASURED})"
    title, x_label = f"Data wait of each step ({about}; dotted: an epoch begins)", _x_label(columns) + unmeasured
    _label(panel, title, x_label, "ms", loc="upper left", bbox_to_anchor=(0, -0.2), ncols=3)


def _beyond(panel: Any, columns: Columns, color: str) -> None:
    """A triangle at each column that goes beyond the top, the value beside the largest; as on the page."""
    above, top_ms = np.flatnonzero(columns.max_s > columns.top_s), columns.top_s * 1000
    if len(above):
        look = {"color": color, "markersize": 5, "clip_on": False, "label": "Beyond the top"}
        panel.plot(columns.middle[above], np.full(len(above), top_ms), "^", **look)
        largest = int(columns.max_s.argmax())
        at, text = (columns.middle[largest], top_ms), milliseconds(float(columns.max_s[largest]))
        panel.annotate(text, at, (5, -3), textcoords="offset points", va="top", fontsize=8)


def _set_x(panel: Any, summary: RunSummary, columns: Columns) -> None:
    """The same for the waits and the queue; an axis of time goes up to the run's end."""
    panel.set_xlim(*columns.limits(summary.total_s if is_known(summary.total_s) else 0.0))


def _x_label(columns: Columns) -> str:
    return "s since the callback's setup" if columns.by_time else "steps"


def _histogram(panel: Any, summary: RunSummary, records: Sequence[StepRecord], colors: dict[str, str]) -> None:
    title, waits_s = "Distribution of the data wait", waits_of(records)
    if not len(waits_s):
        _nothing(panel, title, colors)
        return
    edges, counts = decades(waits_s)
    edges_ms = 10.0 ** (edges + 3)
    panel.stairs(counts, edges_ms, fill=True, color=colors["steps"])
    panel.set_xscale("log")
    marks = (("p50", summary.wait_s_median, "-"), ("p95", summary.wait_s_p95, "--"), ("p99", summary.wait_s_p99, ":"))
    for name, value_s, style in marks:
        if is_known(value_s):
            look = {"color": colors["ink"], "linestyle": style, "linewidth": 1}
            label = f"{name} {milliseconds(value_s)}"
            panel.axvline(np.clip(value_s * 1000, edges_ms[0], edges_ms[-1]), label=label, **look)
    _label(panel, title, "ms", "steps")


def _queue(panel: Any, summary: RunSummary, columns: Columns, colors: dict[str, str]) -> None:
    width, color = columns.right - columns.left, colors["queue"]
    panel.bar(columns.left, np.nan_to_num(columns.queue_mean), width, align="edge", color=color)
    capacity = summary.waits.queue_capacity if summary.waits is not None else None
    if capacity:
        panel.axhline(capacity, color=colors["ink"], linestyle="--", linewidth=1)
    about = f" (dashed: capacity {count(capacity)})" if capacity else ""
    _set_x(panel, summary, columns)
    panel.set_ylim(bottom=0)
    _label(panel, f"Prefetch queue at each fetch{about}", _x_label(columns), "batches ready")
