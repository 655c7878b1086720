"""Summaries as text for a terminal, a file or a pipe.

Pure: a summary in, something that rich can print out. What you want first comes last, where a terminal stops: the
verdict, and what to try.
"""

from collections.abc import Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lightning_fastdata.report.figures import Section
from lightning_fastdata.report.machine import has_cuda
from lightning_fastdata.report.sections import sections
from lightning_fastdata.report.terminal import Printable, clean, verdict_text
from lightning_fastdata.report.units import count, milliseconds, percent, seconds
from lightning_fastdata.results.records import STAGE_NAMES, StageWait
from lightning_fastdata.results.summary import RunSummary

__all__ = ["stage_name", "stages_table", "summary_table"]

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
    for section in sections(summary, brief=summary.verdict.level == "fine").values():
        _add_section(table, section)
    parts: list[RenderableType] = [table]
    if summary.stages:
        parts.append(_stage_rows(summary.stages))
    if summary.steps and summary.device is None and not any(note.startswith(_DEVICE) for note in summary.notes):
        parts.append(Text(_without_device(summary), style="dim"))
    parts.append(verdict_text(summary.verdict))
    if summary.verdict.try_first:
        parts.append(Text.assemble(("Try first: ", "bold"), clean(summary.verdict.try_first)))
    parts.extend(Text(f"Note: {clean(note)}") for note in summary.notes)
    parts.extend(Text(f"Problem: {clean(problem)}", style="yellow") for problem in problems)
    return Printable(*parts)


def stages_table(stages: Sequence[StageWait]) -> RenderableType:
    """Evaluations on their own, each with its verdict."""
    return Printable(_stage_rows(stages), *(verdict_text(stage.verdict) for stage in stages))


def _add_section(table: Table, section: Section) -> None:
    figures = [figure for figure in section.figures if figure.in_text and not figure.is_nothing]
    if figures and table.row_count:
        table.add_row()
    if figures and section.heading:
        table.add_row(Text(section.heading, style="bold"))
    for figure in figures:
        table.add_row(Text(figure.name), Text(figure.shown), Text(figure.shown_beside))


def _without_device(summary: RunSummary) -> str:
    """One short line: a machine without CUDA needs no reason."""
    known = isinstance(summary.hardware.get("accelerators"), (list, tuple))
    return f"{_DEVICE}{' (no CUDA)' if known and not has_cuda(summary.hardware) else ''}."


def _stage_rows(stages: Sequence[StageWait]) -> Table:
    table = Table(box=box.SIMPLE_HEAVY, pad_edge=False)
    table.add_column("Evaluation")
    for heading in ("runs", "batches", "data wait", "share", "largest"):
        table.add_column(heading, justify="right")
    for line in (line for stage in stages for line in (stage, *stage.loaders)):
        table.add_row(
            Text(stage_name(line)),
            count(line.runs),
            count(line.batches),
            seconds(line.wait_s),
            percent(line.wait_share),
            milliseconds(line.wait_s_max),
        )
    return table


def stage_name(stage: StageWait) -> str:
    """A stage by its name; of several loaders one after the other each below it, by its index."""
    name, _, loader = clean(stage.stage).partition("/")
    return f"  loader {loader}" if loader else STAGE_NAMES.get(name, name).capitalize()
