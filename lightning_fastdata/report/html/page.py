"""A measured run as one HTML page that stands alone: it opens from disk, and nothing is fetched for it.

The numbers a reader sees carry the measured value in ``data-value``, and the whole summary is in the page as JSON
(``<script type="application/json" id="run">``). ``templates/`` holds what the page says; jinja2 is imported only when
one is made.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from lightning_fastdata.planning.options import NEED_WORKERS
from lightning_fastdata.report import sections, units
from lightning_fastdata.report.figures import Figure
from lightning_fastdata.report.glossary import TERMS
from lightning_fastdata.report.html.histogram import histogram_chart
from lightning_fastdata.report.html.wait_chart import queue_chart, readout_rows, wait_chart
from lightning_fastdata.report.machine import cpu_facts, has_cuda, machine_facts, machine_notes
from lightning_fastdata.report.step_columns import SHORTEST_S, columns_of, waits_of
from lightning_fastdata.report.terminal import clean
from lightning_fastdata.report.text import stage_name
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.stats import ACCOUNTS, RankTimes
from lightning_fastdata.results.summary import RunSummary

__all__ = ["html_page"]

_MOST_TIMES = 99.0
_MOST_RANKS = 32
_MOST_EPOCHS = 12


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
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lightning_fastdata.report.html"),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    shown = (units.count, units.milliseconds, units.percent, units.plural, units.rate, units.seconds, units.is_known)
    environment.filters.update({show.__name__: show for show in shown}, speedup=_speedup, color=_color)
    body = environment.get_template("body.html").render(title=title, problems=problems, **_view(summary, records))
    words = re.sub("<[^>]*>", " ", body)
    script = _file("report.js")
    return environment.get_template("page.html").render(
        title=title,
        style=_file("style.css"),
        script=script,
        # Nothing may be fetched, and no script may run but the page's own, whatever a path or a note holds.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        body=body,
        terms={term: text for term, text in TERMS.items() if re.search(rf"\b{re.escape(term)}", words, re.IGNORECASE)},
        # JSON knows no NaN and no infinity; they read null.
        run=json.loads(json.dumps(summary.to_dict(), default=str), parse_constant=lambda _: None),
    )


def _file(name: str) -> str:
    return files("lightning_fastdata.report.html").joinpath(name).read_text(encoding="utf-8")


def _printable(value: object) -> object:
    """Text from elsewhere without control characters and lone surrogates, which a file's name may have."""
    return value if hasattr(value, "__html__") else "" if value is None else clean(str(value))


def _view(summary: RunSummary, records: Sequence[StepRecord]) -> dict[str, Any]:
    """What the sections of the page show."""
    columns, waits_s, waits = columns_of(records), waits_of(records), summary.waits
    marks = (("p50", summary.wait_s_median), ("p95", summary.wait_s_p95), ("p99", summary.wait_s_p99))
    verdict, stop, why = summary.verdict.text.partition(". ")
    view: dict[str, Any] = {
        **sections.sections(summary, epochs=_MOST_EPOCHS),
        "summary": summary,
        "where": list(_where(summary)),
        "verdict": f"{verdict}." if stop else verdict,
        "why": why,
        "accounts": ACCOUNTS,
        "interval_unknown": sections.INTERVAL_UNKNOWN,
        "not_measured": units.NOT_MEASURED,
        "columns": columns,
        "no_column": units.NOT_MEASURED if records else "no step was recorded",
        "refilled": bool(summary.epochs) and any(record.refill_s > 0 for record in records),
        "histogram": histogram_chart(waits_s, marks) if len(waits_s) else None,
        "drawn_waits": len(waits_s),
        "has_shortest": bool((waits_s <= SHORTEST_S).any()),
        "rank_bars": [] if summary.ranks is None else _rank_bars(summary.ranks),
        "loading_workers": sections.loading_workers(summary),
        "has_cuda": has_cuda(summary.hardware),
        "stages": [(line, stage_name(line)) for stage in summary.stages for line in (stage, *stage.loaders)],
        "plans": {
            split: list(_options(plan)) for split, plan in summary.plans.items() if isinstance(plan, Mapping) and plan
        },
        "machine": [*cpu_facts(summary.hardware), *machine_facts(summary.hardware)] if summary.hardware else [],
        "machine_notes": machine_notes(summary.hardware),
        "environment": list(_environment(summary)),
    }
    if columns is not None:
        view["wait_chart"] = wait_chart(columns, summary.spans)
        capacity = None if waits is None else waits.queue_capacity
        view["queue_chart"] = queue_chart(columns, capacity, summary.spans) if columns.has_queue else None
        view["readout"] = readout_rows(columns, summary.spans)
    return view


def _where(summary: RunSummary) -> Iterator[str]:
    """The run in a line."""
    yield from filter(None, (summary.host, summary.date.replace("T", " ", 1)))
    epochs = f" in {units.plural(summary.epochs, 'epoch')}" if summary.epochs else ""
    yield units.plural(summary.steps, "step") + epochs
    if summary.num_workers is not None:
        yield units.plural(summary.num_workers, "worker")
    if summary.world_size > 1:
        yield f"rank {summary.rank} of {summary.world_size}"
    yield summary.status


def _environment(summary: RunSummary) -> Iterator[tuple[str, str]]:
    """What ran where, and how it was measured."""
    yield "Host", summary.host or "unknown"
    yield "Start", summary.date or "unknown"
    yield from summary.versions.items()
    yield "Timed at", "the loader’s next()" if summary.timing_source == "fetch" else summary.timing_source
    if summary.tail_wait_s:
        yield "Data wait in fetches that no step used", units.seconds(summary.tail_wait_s)
    if summary.resumed_from is not None:
        yield "Steps before the checkpoint", units.count(summary.resumed_from.get("steps"))


def _speedup(value: float) -> str:
    return units.factor(value) if value < _MOST_TIMES else "100x or more"


def _color(account: Figure) -> str:
    """The name of an account's color; a newer version may have more accounts than there are colors."""
    name = account.id.removeprefix("ledger-")
    return name.removesuffix("_s") if name in ACCOUNTS else "unattributed"


def _rank_bars(ranks: RankTimes) -> list[tuple[int, str, float, float]]:
    """Rank, host, data wait (0..1) and width (0..1) of a bar a rank; of very many those that waited most."""
    shares = [entry for entry in ranks.rank_wait_share if units.is_known(entry[2])]
    kept = sorted(sorted(shares, key=lambda entry: entry[2], reverse=True)[:_MOST_RANKS])
    longest = max((share for _, _, share in kept), default=0.0) or 1.0
    return [(rank, host, share, max(0.0, share / longest)) for rank, host, share in kept]


def _options(plan: Mapping[str, Any]) -> Iterator[tuple[str, object, object, bool]]:
    """Name, value and reason of a loader's options, and whether the user chose the value."""
    workers = plan.get("num_workers")
    without_workers = isinstance(workers, Mapping) and workers.get("value") == 0
    for name, entry in plan.items():
        option = entry if isinstance(entry, Mapping) else {"value": entry}
        by_user = option.get("source") == "user"
        if not (without_workers and name in NEED_WORKERS and not by_user):
            yield name, option.get("value"), option.get("reason", ""), by_user
