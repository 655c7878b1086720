"""The waits of the steps: over time, by kind, and how they are distributed."""

from collections.abc import Sequence

from lightning_fastdata.report.html.histogram import SHORTEST_S, histogram_chart
from lightning_fastdata.report.html.tags import Html, facts, figure, join, section, tag
from lightning_fastdata.report.html.wait_chart import queue_chart, readout_data, wait_chart
from lightning_fastdata.report.step_columns import Columns, columns_of, waits_of
from lightning_fastdata.report.units import NOT_MEASURED, count, milliseconds, percent, seconds
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.stats import WaitKinds
from lightning_fastdata.results.summary import RunSummary

__all__ = ["distribution_section", "time_line_section"]

_MOST_FIRST_WAITS = 12


def time_line_section(summary: RunSummary, records: Sequence[StepRecord]) -> Html:
    """The wait of every step over time, the queue below it, and what kind of waiting it was."""
    heading = "Wait of each step"
    columns = columns_of(records)
    if columns is None:
        why = "no step was recorded" if not records else NOT_MEASURED
        return section(
            "waits", heading, tag("p", f"Wait of each step: {why}.", class_="none"), _kinds(summary, records)
        )
    picture = wait_chart(columns, records, summary.spans)
    shown = tag("figure", picture, tag("figcaption", _caption(summary, columns)))
    capacity = summary.waits.queue_capacity if summary.waits is not None else None
    queue = queue_chart(columns, capacity, summary.spans)
    if queue is None:
        below = tag(
            "p", f"Batches ready in the queue: {NOT_MEASURED}{_why_no_queue(summary)}.", class_="none", id="queue"
        )
    else:
        below = tag("figure", queue, id="queue")
    parts = (shown, tag("h3", "Batches ready"), below, _kinds(summary, records), readout_data(columns, summary.spans))
    aside = "How long the training process stood still in the loader’s next() before each step."
    return section("waits", heading, *parts, aside=aside)


def _caption(summary: RunSummary, columns: Columns) -> str:
    said = []
    if columns.steps < summary.steps:
        said.append(
            f"Drawn are the {count(columns.steps)} of {count(summary.steps)} steps that were kept and measured."
        )
    if columns.binned:
        across = "stretches of time" if columns.by_time else "groups of steps"
        said.append(
            f"{count(columns.steps)} steps in {count(len(columns.left))} columns, equal {across}: the mean of each"
            " column in full color, its largest wait pale behind it."
        )
    else:
        width = "its width the step’s whole time" if columns.by_time else "all are as wide"
        said.append(f"One column a step: its height is the wait, {width}.")
    said.append(
        "From left to right: time since the callback’s setup."
        if columns.by_time
        else "From left to right: steps, since the records do not tell when they ended."
    )
    if not columns.epochs:
        said.append("No beginning of an epoch is among them.")
    return " ".join(said)


def _why_no_queue(summary: RunSummary) -> str:
    return " (there are no worker processes)" if summary.num_workers == 0 else ""


def _which_fetches(summary: RunSummary, waits: WaitKinds, records: Sequence[StepRecord]) -> Html | None:
    """That the first batches of epochs from workers are not among them, and where they are."""
    first = summary.epochs
    if not first or not any(record.refill_s > 0 for record in records):
        return None
    batches = "first batch of an epoch is" if first == 1 else f"{count(first)} first batches of epochs are"
    where = "Start-up" if first == 1 else "Epoch boundary and Start-up"
    of = f"{count(waits.fetches)} of {count(waits.fetches + first)} fetches"
    return tag("p", f"{of}; the {batches} under {where}.", class_="quiet", id="waits-fetches")


def _kinds(summary: RunSummary, records: Sequence[StepRecord]) -> Html:
    """What kind of waiting it was, in sums."""
    waits = summary.waits
    heading = tag("h3", "Kinds of waiting")
    if waits is None:
        return join(heading, tag("p", f"What kind of waiting it was: {NOT_MEASURED}.", class_="none"))
    shown: list[tuple[object, object]] = []
    for name, called, value_s in (
        ("stalled_s", "Blocked: the batch was not there yet", waits.stalled_s),
        (
            "head_of_line_s",
            "Blocked while later batches were ready",
            waits.head_of_line_s if waits.head_of_line_fetches else None,
        ),
        ("main_process_s", "The training process loaded by itself", waits.main_process_s),
        ("worker_transfer_s", "Hand-over: there, but in the queue", waits.worker_transfer_s),
        ("unknown_s", "Of a kind that was not measured", waits.unknown_s or None),
    ):
        if value_s is not None:
            shown.append((called, figure(f"waits-{name}", value_s, seconds(value_s))))
    shown.append(("Fetches blocked for more than 1 ms", f"{count(waits.stalled_fetches)} of {count(waits.fetches)}"))
    if waits.queue_ready_mean is not None:
        of = f" of {count(waits.queue_capacity)}" if waits.queue_capacity else ""
        ready = f"{count(waits.queue_ready_mean, digits=1)}{of}"
        shown.append(("Batches ready at a fetch, mean", figure("queue_ready_mean", waits.queue_ready_mean, ready)))
    if waits.queue_full_share is not None:
        shown.append(("Fetches that found the queue nearly full", percent(waits.queue_full_share)))
    from_workers = (waits.stalled_s or 0.0) + (waits.worker_transfer_s or 0.0) > 0
    estimate = "Estimated: the workers do not stamp when a batch was ready, so each fetch is of one kind as a whole."
    estimated = tag("p", estimate, class_="quiet") if from_workers and not waits.exact else None
    return join(heading, _which_fetches(summary, waits, records), facts(shown), estimated)


def distribution_section(summary: RunSummary, records: Sequence[StepRecord]) -> Html:
    """The histogram, with the percentiles of the summary."""
    heading = "How long steps wait"
    if summary.wait_s is None:
        return section("distribution", heading, tag("p", f"Waits: {NOT_MEASURED}.", class_="none"))
    named = (
        ("p50", "Median", summary.wait_s_median),
        ("p95", "95th percentile", summary.wait_s_p95),
        ("p99", "99th percentile", summary.wait_s_p99),
        ("wait_max", "Largest", summary.wait_s_max),
    )
    shown = [(called, figure(name, value_s, milliseconds(value_s))) for name, called, value_s in named]
    first = summary.first_batch_wait_s
    more = [(f"First batch of epoch {epoch}", milliseconds(wait_s)) for epoch, wait_s in first[:_MOST_FIRST_WAITS]]
    rest = None
    if len(first) > len(more):
        largest = milliseconds(max(wait_s for _, wait_s in first))
        rest = tag("p", f"Of {count(len(first))} first batches the longest wait was {largest}.", class_="quiet")
    chart = _histogram(summary, records)
    return section(
        "distribution",
        heading,
        chart,
        facts(shown),
        tag("h3", "First batches") if more else None,
        facts(more) if more else None,
        rest,
    )


def _histogram(summary: RunSummary, records: Sequence[StepRecord]) -> Html | None:
    waits_s = waits_of(records)
    if not len(waits_s):
        return None
    marks = (("p50", summary.wait_s_median), ("p95", summary.wait_s_p95), ("p99", summary.wait_s_p99))
    caption = "Steps by their wait; every column is a tenth of a power of ten."
    if (waits_s <= SHORTEST_S).any():
        caption += " Waits below 1 µs are in the first column."
    if summary.percentile_steps not in (0, len(waits_s)):
        caption += f" The columns hold {count(len(waits_s))} steps, the percentiles {count(summary.percentile_steps)}."
    return tag("figure", histogram_chart(waits_s, marks), tag("figcaption", caption))
