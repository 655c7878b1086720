"""Summaries as text for a terminal, a file or a pipe.

Pure: a summary in, something that rich can print out. What a reader wants first comes last, where a terminal stops:
the verdict, and what to try.
"""

from collections.abc import Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lightning_fastdata.report.compare import side_by_side
from lightning_fastdata.report.figures import Figure, Section
from lightning_fastdata.report.sections import sections
from lightning_fastdata.report.terminal import Printable, clean
from lightning_fastdata.report.units import NOT_MEASURED, count, milliseconds, percent, seconds, times
from lightning_fastdata.report.verdict import verdict_lines, verdict_text
from lightning_fastdata.results.records import STAGE_NAMES, StageWait
from lightning_fastdata.results.summary import RunSummary

__all__ = [
    "NOT_MEASURED",
    "count",
    "milliseconds",
    "percent",
    "seconds",
    "side_by_side",
    "stages_table",
    "summary_table",
    "times",
]

_DEVICE = "Device starvation: not measured"


def summary_table(summary: RunSummary, title: str = "Data wait", *, problems: Sequence[str] = ()) -> RenderableType:
    """One run: its figures, its evaluations, the verdict, what to try first, the notes.

    Args:
        summary: What was measured.
        title: Heading of the table.
        problems: What could not be read of the run's file, in sentences.

    Returns:
        Something to hand to ``rich.console.Console.print``.
    """
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAVY, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    for _ in range(2):
        table.add_column(justify="right", overflow="fold")
    for number, section in enumerate(sections(summary, brief=summary.verdict.level == "fine", fold=True)):
        if number:
            table.add_row()
        _add_section(table, section)
    parts: list[RenderableType] = [table]
    if summary.stages:
        parts.append(_stage_rows(summary.stages))
    if summary.steps and summary.device is None and not any(note.startswith(_DEVICE) for note in summary.notes):
        parts.append(Text(_without_device(summary), style="dim"))
    parts.extend(verdict_lines(summary.verdict))
    parts.extend(Text(f"Note: {clean(note)}") for note in summary.notes)
    parts.extend(Text(f"Problem: {clean(problem)}", style="yellow") for problem in problems)
    return Printable(*parts)


def stages_table(stages: Sequence[StageWait]) -> RenderableType:
    """Evaluations on their own, each with its verdict."""
    verdicts = [stage.verdict for stage in stages]
    return Printable(_stage_rows(stages), *(verdict_text(verdict) for verdict in verdicts))


def _add_section(table: Table, section: Section) -> None:
    if section.heading:
        table.add_row(Text(section.heading, style="bold"))
    for figure in section.figures:
        if not figure.is_nothing:
            table.add_row(Text(figure.name), Text(figure.shown), Text(_beside(figure)))


def _beside(figure: Figure) -> str:
    return figure.beside if figure.share is None else percent(figure.share)


def _without_device(summary: RunSummary) -> str:
    """One short line: on a machine without CUDA there is nothing to be looked for."""
    found = summary.hardware.get("accelerators")
    without = isinstance(found, (list, tuple)) and not any(
        isinstance(entry, dict) and entry.get("kind") == "cuda" for entry in found
    )
    return f"{_DEVICE}{' (no CUDA)' if without else ''}."


def _stage_rows(stages: Sequence[StageWait]) -> Table:
    table = Table(box=box.SIMPLE_HEAVY, pad_edge=False)
    table.add_column("Evaluation")
    for heading in ("runs", "batches", "waiting", "share", "largest"):
        table.add_column(heading, justify="right")
    for line in (line for stage in stages for line in (stage, *stage.loaders)):
        table.add_row(
            Text(_name(line)),
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
    return f"  loader {clean(loader)}" if loader else STAGE_NAMES.get(stage_name, clean(stage_name)).capitalize()
