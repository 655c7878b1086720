"""Summaries as text for a terminal, a file or a pipe. Milliseconds and percent signs are made here.

Pure: a summary in, something that rich can print out.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_fastdata.records import STAGE_NAMES, StageWait
from lightning_fastdata.summary import RunSummary

__all__ = ["milliseconds", "percent", "seconds", "side_by_side", "stages_table", "summary_table", "times"]

NOT_MEASURED = "not measured"
_MOST_EPOCHS = 6
_STYLES = {"fine": "green", "moderate": "yellow", "input-bound": "red"}


def milliseconds(value_s: float | None) -> str:
    """Seconds as milliseconds with three digits that mean something: ``0.004 ms``, ``20.3 ms``, ``1,240 ms``."""
    if value_s is None:
        return NOT_MEASURED
    value = value_s * 1000
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} ms"


def seconds(value_s: float | None) -> str:
    """Seconds, with a digit more where there are few."""
    if value_s is None:
        return NOT_MEASURED
    return f"{value_s:,.{2 if value_s < 100 else 0}f} s"


def percent(share: float | None) -> str:
    """A share of 0..1 as percent."""
    return NOT_MEASURED if share is None else f"{share * 100:.1f} %"


def times(factor: float) -> str:
    """A factor, as in ``1.61x``."""
    return f"{factor:.2f}x"


def count(value: float | None, *, digits: int = 0) -> str:
    """A number with thousands apart."""
    return NOT_MEASURED if value is None else f"{value:,.{digits}f}"


def summary_table(summary: RunSummary, title: str = "Data wait") -> RenderableType:
    """One run: its figures, its evaluations, the verdict.

    Args:
        summary: What was measured.
        title: Heading of the table.

    Returns:
        Something to hand to ``rich.console.Console.print``.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAVY, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", overflow="fold")
    for name, value in _rows(summary):
        table.add_row(name, value)
    parts: list[RenderableType] = [table]
    if summary.stages:
        parts.append(_stage_rows(summary.stages))
    parts.append(_verdict(summary.verdict.level, summary.verdict.text))
    parts.extend(Text(f"Note: {note}") for note in summary.notes)
    return Group(*parts)


def side_by_side(a: RunSummary, b: RunSummary, titles: tuple[str, str]) -> RenderableType:
    """Two runs in one table, for "before and after".

    Args:
        a: The one on the left.
        b: The one on the right.
        titles: What to call them.

    Returns:
        Something to hand to ``rich.console.Console.print``.
    """
    table = Table(title="Data wait", title_justify="left", box=box.SIMPLE_HEAVY, pad_edge=False)
    table.add_column("")
    for title in titles:
        table.add_column(title, justify="right", overflow="fold")
    left, right = dict(_rows(a)), dict(_rows(b))
    for name in [*left, *(name for name in right if name not in left)]:
        table.add_row(name, left.get(name, "-"), right.get(name, "-"))
    verdicts = [
        Text.assemble((f"{title}: ", "bold"), _verdict(run.verdict.level, run.verdict.text))
        for title, run in zip(titles, (a, b), strict=True)
    ]
    return Group(table, *verdicts, *_speed_line(a, b, titles))


def stages_table(stages: Sequence[StageWait]) -> RenderableType:
    """Evaluations on their own, each with its verdict."""
    verdicts = [stage.verdict for stage in stages]
    return Group(_stage_rows(stages), *(_verdict(verdict.level, verdict.text) for verdict in verdicts))


def _rows(summary: RunSummary) -> list[tuple[str, str]]:
    rows = [
        ("Steps", count(summary.steps) + ("" if summary.status == "finished" else f" ({summary.status})")),
        ("Training time", seconds(summary.train_s)),
        ("Samples per second", count(summary.samples_per_s, digits=1)),
        ("Time waiting for data", seconds(summary.wait_s)),
        ("Share of time waiting", percent(summary.wait_share)),
        ("Wait of a step: median", milliseconds(summary.wait_s_median)),
        ("  95th percentile", milliseconds(summary.wait_s_p95)),
        ("  largest", milliseconds(summary.wait_s_max)),
    ]
    if summary.wait_s is not None and summary.percentile_steps < summary.steps:
        rows.append(("  (median and percentile: last", f"{count(summary.percentile_steps)} steps)"))
    shown = summary.first_batch_wait_s[:_MOST_EPOCHS]
    rows.extend((f"First batch of epoch {epoch}", milliseconds(wait)) for epoch, wait in shown)
    if len(summary.first_batch_wait_s) > len(shown):
        rows.append((f"  of {summary.epochs} epochs: largest", _largest_first(summary)))
    if summary.resumed_from is not None:
        rows.append(("Steps before the checkpoint", count(summary.resumed_from.get("steps"))))
    if summary.world_size > 1:
        rows.append(("Measured on rank", f"{summary.rank} of {summary.world_size}"))
    return rows


def _largest_first(summary: RunSummary) -> str:
    return milliseconds(max(wait for _, wait in summary.first_batch_wait_s))


def _stage_rows(stages: Sequence[StageWait]) -> Table:
    table = Table(box=box.SIMPLE_HEAVY, pad_edge=False)
    table.add_column("Evaluation")
    for heading in ("runs", "batches", "waiting", "share", "largest"):
        table.add_column(heading, justify="right")
    for line in (line for stage in stages for line in (stage, *stage.loaders)):
        table.add_row(
            _name(line),
            count(line.runs),
            count(line.batches),
            seconds(line.wait_s),
            percent(line.wait_share),
            milliseconds(line.wait_s_max),
        )
    return table


def _name(stage: StageWait) -> str:
    """A stage by its name; of several loaders one after the other each below it, by its index."""
    stage_name, _, loader = stage.stage.partition("/")
    return f"  loader {loader}" if loader else STAGE_NAMES.get(stage_name, stage_name).capitalize()


def _verdict(level: str, text: str) -> Text:
    return Text(text, style=_STYLES.get(level, ""))


def _speed_line(a: RunSummary, b: RunSummary, titles: tuple[str, str]) -> list[Text]:
    if not a.samples_per_s or not b.samples_per_s:
        return []
    factor = b.samples_per_s / a.samples_per_s
    return [Text(f"{titles[1]}: {times(factor)} the samples per second of {titles[0]}.")]
