"""A measured run as one HTML page that stands alone: it opens from disk, and nothing is fetched for it.

The numbers a reader sees carry the measured value in ``data-value``, and the whole summary is in the page as JSON
(``<script type="application/json" id="run">``).
"""

import base64
import hashlib
from collections.abc import Sequence

from lightning_fastdata.report.html.details import device_section, loading_section, ranks_section, stages_section
from lightning_fastdata.report.html.environment import machine_section, notes_section, plans_section
from lightning_fastdata.report.html.style import SCRIPT, STYLE
from lightning_fastdata.report.html.tags import Html, figure, join, json_script, tag, verbatim
from lightning_fastdata.report.html.time_breakdown import ledger_section_html
from lightning_fastdata.report.html.waits import distribution_section, time_line_section
from lightning_fastdata.report.sections import INTERVAL_UNKNOWN
from lightning_fastdata.report.units import NOT_MEASURED, count, is_known, percent, rate, seconds, times
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.stats import SpeedupBound
from lightning_fastdata.results.summary import RunSummary
from lightning_fastdata.results.verdict import Verdict

__all__ = ["html_page"]

_STATUS = {
    "interrupted": "This run was interrupted: the figures hold what was measured until then.",
    "running": "This run was still going on: the figures hold what was measured so far.",
}
_EXPOSED_BY = {
    "device": "From the time in which the device had nothing to do.",
    "host": "From all waiting of the training process; what is hidden behind work of a device is in it, too.",
    "ranks": "From each step’s longest wait of any rank.",
}
_MOST_TIMES = 99.0


def html_page(
    summary: RunSummary,
    records: Sequence[StepRecord],
    *,
    title: str = "Data loading of a run",
    problems: Sequence[str] = (),
) -> str:
    """One run as a page.

    Args:
        summary: What was measured.
        records: Its steps in order, as many as were kept; none at all is fine.
        title: The page's heading.
        problems: Sentences about what is missing in the file the run was read from.

    Returns:
        HTML, to be written as UTF-8.
    """
    body = tag(
        "body",
        _header(summary, title, problems),
        tag(
            "main",
            ledger_section_html(summary),
            time_line_section(summary, records),
            distribution_section(summary, records),
            ranks_section(summary.ranks),
            loading_section(summary),
            device_section(summary),
            stages_section(summary.stages),
            plans_section(summary),
            machine_section(summary),
            notes_section(summary),
        ),
        json_script("run", summary.to_dict()),
        tag("script", verbatim(SCRIPT)),
    )
    return "<!DOCTYPE html>\n" + tag("html", _head(title), body, lang="en") + "\n"


def _head(title: str) -> Html:
    # Nothing may be fetched, and no script may run but the page's own, whatever a path or a note holds.
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", verbatim(STYLE)),
    )


def _header(summary: RunSummary, title: str, problems: Sequence[str]) -> Html:
    verdict = summary.verdict
    return tag(
        "header",
        tag("h1", title),
        tag("p", _where(summary), class_="meta", id="meta"),
        _problems(problems),
        _status(summary.status),
        tag("p", "Verdict", class_=f"level {verdict.level}", id="level"),
        *_sentences(verdict),
        _keys(summary),
        _ceiling(summary.speedup_bound),
        _of_validations(summary),
    )


def _where(summary: RunSummary) -> str:
    parts = [summary.host, summary.date.replace("T", " ", 1)]
    epochs = f" in {count(summary.epochs)} epoch{'' if summary.epochs == 1 else 's'}" if summary.epochs else ""
    parts.append(f"{count(summary.steps)} step{'' if summary.steps == 1 else 's'}{epochs}")
    if summary.num_workers is not None:
        parts.append(f"{count(summary.num_workers)} worker{'' if summary.num_workers == 1 else 's'}")
    if summary.world_size > 1:
        parts.append(f"rank {summary.rank} of {summary.world_size}")
    parts.append(summary.status)
    return " · ".join(part for part in parts if part)


def _problems(problems: Sequence[str]) -> Html | None:
    if not problems:
        return None
    listed = tag("ul", *(tag("li", problem) for problem in problems))
    return tag(
        "div",
        tag("p", "The file this page was made from is not whole"),
        listed,
        class_="alert",
        role="alert",
        id="problems",
    )


def _status(status: str) -> Html | None:
    if status == "finished":
        return None
    return tag(
        "div", tag("p", _STATUS.get(status, f"This run is {status}.")), class_="alert", role="status", id="status"
    )


def _sentences(verdict: Verdict) -> list[Html]:
    """The first sentence large, why below it, and the one change to try."""
    first, stop, rest = verdict.text.partition(". ")
    shown = [tag("p", f"{first}." if stop else first, class_="verdict", id="verdict")]
    if rest:
        shown.append(tag("p", rest, class_="why", id="why"))
    if verdict.try_first:
        shown.append(tag("p", tag("b", "Try first"), verdict.try_first, class_="try", id="try_first"))
    return shown


def _keys(summary: RunSummary) -> Html:
    """The few figures that are read first."""
    ceiling = summary.speedup_bound
    entries = [
        (
            "of the training time spent waiting for data",
            figure("wait_share", summary.wait_share, percent(summary.wait_share)),
        ),
        (
            join(
                "in next(), first batches included, of ",
                figure("train_s", summary.train_s, seconds(summary.train_s)),
                " training time",
            ),
            figure("wait_s", summary.wait_s, seconds(summary.wait_s)),
        ),
        ("samples per second", figure("samples_per_s", summary.samples_per_s, rate(summary.samples_per_s))),
        ("in all, from setup to teardown", figure("total_s", summary.total_s, seconds(summary.total_s))),
    ]
    if ceiling is not None:
        bound = figure("ceiling", ceiling.speedup, _times(ceiling.speedup))
        entries.insert(1, ("as fast at most with an instant loader", bound))
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in entries), class_="keys")


def _times(value: float) -> str:
    return times(value) if value < _MOST_TIMES else "100x or more"


def _ceiling(ceiling: SpeedupBound | None) -> Html:
    if ceiling is None:
        text = f"How much faster the run could be with an instant loader: {NOT_MEASURED}."
        return tag("p", text, class_="ceiling")
    at_most = f"An instant loader would make this run at most {_times(ceiling.speedup)} faster ("
    steps = (
        f" The interval rests on {count(ceiling.steps)} step{'' if ceiling.steps == 1 else 's'}."
        if ceiling.steps and _has_interval(ceiling)
        else ""
    )
    basis = _EXPOSED_BY.get(ceiling.exposed_by, "")
    rest = f"), start-up aside. {basis}{steps}"
    return tag("p", at_most, _interval(ceiling), rest, class_="ceiling", id="ceiling-text")


def _has_interval(ceiling: SpeedupBound) -> bool:
    return is_known(ceiling.low) and is_known(ceiling.high)


def _interval(ceiling: SpeedupBound) -> Html:
    low, high = ceiling.low, ceiling.high
    if low is None or high is None or not _has_interval(ceiling):
        return join(INTERVAL_UNKNOWN)
    shown_low = figure("ceiling-low", low, f"{low:.2f}")
    shown_high = figure("ceiling-high", high, f"{high:.2f}" if high < _MOST_TIMES else "100 or more")
    return join("95 %: ", shown_low, " to ", shown_high)


def _of_validations(summary: RunSummary) -> Html | None:
    """Waiting that is part of the ceiling and of no training step."""
    wait_s = summary.validation_wait_s
    if wait_s is None:
        return None
    shown = figure("validation_wait_s", wait_s, seconds(wait_s))
    return tag("p", "Waiting for data in the fit’s validations: ", shown, ".", class_="ceiling")
