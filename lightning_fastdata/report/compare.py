"""Two runs side by side, as text and as plain values, for "before and after"."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lightning_fastdata.report.figures import Figure, Section
from lightning_fastdata.report.sections import sections
from lightning_fastdata.report.terminal import Printable, clean, verdict_text
from lightning_fastdata.report.units import count, difference, factor, is_known, percent, percent_points, seconds
from lightning_fastdata.results.summary import RunSummary

__all__ = ["differences", "side_by_side"]

_COMPARED = (
    *("steps", "samples_per_s", "train_s", "total_s", "wait_s", "wait_share"),
    *("wait_s_median", "wait_s_p95", "wait_s_p99", "wait_s_max"),
)


def side_by_side(
    a: RunSummary, b: RunSummary, titles: tuple[str, str], *, problems: Sequence[str] = ()
) -> RenderableType:
    """Two runs in one table with their differences, for "before and after".

    Args:
        a: The one on the left.
        b: The one on the right; a difference is this one's figure less the other's.
        titles: What to call them.
        problems: What could not be read of the runs' files, in sentences.

    Returns:
        Something to hand to ``rich.console.Console.print``.
    """
    called = (clean(titles[0]), clean(titles[1]))
    table = Table(title=Text("Data wait"), title_justify="left", box=box.SIMPLE_HEAVY, pad_edge=False)
    table.add_column("")
    for title in called:
        table.add_column(Text(title), justify="right", overflow="fold")
    table.add_column("difference", justify="right", overflow="fold")
    for left, right in zip(sections(a).values(), sections(b).values(), strict=True):
        _add_pair(table, left, right)
    verdicts = [
        Text.assemble((f"{title}: ", "bold"), verdict_text(run.verdict))
        for title, run in zip(called, (a, b), strict=True)
    ]
    notes = [Text(f"Note: {note}") for note in _differing_circumstances(a, b)]
    wrong = [Text(f"Problem: {clean(problem)}", style="yellow") for problem in problems]
    return Printable(table, *verdicts, *notes, *wrong, *_last_line(a, b, called))


def differences(a: RunSummary, b: RunSummary) -> dict[str, Any]:
    """What ``b`` has more than ``a``, as plain values that JSON can hold.

    Args:
        a: The run before.
        b: The run after.

    Returns:
        Differences in the units of ``RunSummary``, ``boundary_per_epoch_s`` and, by account, ``ledger``;
        ``samples_per_s_factor`` is a ratio. None where one of the two was not measured.
    """
    values: dict[str, Any] = {name: _less(getattr(a, name), getattr(b, name)) for name in _COMPARED}
    boundaries = [None if run.boundary is None else run.boundary.per_epoch_s for run in (a, b)]
    values["boundary_per_epoch_s"] = _less(*boundaries)
    values["samples_per_s_factor"] = _faster(a, b)
    values["ledger"] = {name: _less(_account(a, name), _account(b, name)) for name in {**a.ledger, **b.ledger}}
    return values


def _less(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None or not is_known(after - before) else after - before


def _account(run: RunSummary, name: str) -> float | None:
    return None if name in run.not_measured else run.ledger.get(name)


def _add_pair(table: Table, left: Section, right: Section) -> None:
    """A section of both; what stands after a comma or in brackets of its heading is of one run."""
    halves = [
        {figure.name: figure for figure in one.figures if figure.in_text and figure.in_comparisons}
        for one in (left, right)
    ]
    names = [
        name
        for name in _in_order(*map(list, halves))
        if not all(half[name].is_nothing for half in halves if name in half)
    ]
    heading = left.heading.partition(",")[0].partition(" (")[0]
    if names and table.row_count:
        table.add_row()
    if names and heading:
        table.add_row(Text(heading, style="bold"))
    for name in names:
        shown = [half[name].shown if name in half else "-" for half in halves]
        table.add_row(Text(name), *map(Text, shown), Text(_difference(*(half.get(name) for half in halves))))


def _in_order(left: list[str], right: list[str]) -> list[str]:
    """The names of both, those of the right one after the name that they follow there: a total stays the last."""
    names = list(left)
    before = ""
    for name in right:
        if name not in names:
            names.insert(names.index(before) + 1 if before in names else 0, name)
        before = name
    return names


def _difference(left: Figure | None, right: Figure | None) -> str:
    if left is None or right is None or left.text is not None or right.text is not None:
        return ""
    show: Callable[[float | None], str] = percent_points if left.show is percent else left.show
    return difference(left.value, right.value, show)


def _differing_circumstances(a: RunSummary, b: RunSummary) -> list[str]:
    """What makes the figures hard to compare."""
    notes = []
    if a.host and b.host and a.host != b.host:
        notes.append(f"Measured on different machines ({clean(a.host)}, {clean(b.host)}).")
    if a.world_size != b.world_size:
        notes.append(f"Measured with different numbers of processes ({a.world_size}, {b.world_size}).")
    if a.steps != b.steps:
        notes.append(f"Measured over different numbers of steps ({count(a.steps)}, {count(b.steps)}).")
    return notes


def _faster(a: RunSummary, b: RunSummary) -> float | None:
    """Samples per second of ``b`` over those of ``a`` (ratio)."""
    if not a.samples_per_s or not b.samples_per_s:
        return None
    ratio = b.samples_per_s / a.samples_per_s
    return ratio if is_known(ratio) and ratio > 0 else None


def _last_line(a: RunSummary, b: RunSummary, titles: tuple[str, str]) -> list[Text]:
    """The right run measured against the left one: the time, the speed, the data wait."""
    parts = [*_time_instead(a, b)]
    ratio = _faster(a, b)
    if ratio is not None:
        parts.append(f"{factor(ratio)} the samples per second")
    parts += _share_instead(a, b)
    return [Text(f"{titles[1]} against {titles[0]}: {', '.join(parts)}.", style="bold")] if parts else []


def _time_instead(a: RunSummary, b: RunSummary) -> Iterator[str]:
    before, after = _after_startup(a), _after_startup(b)
    if before is None or after is None:
        return
    change = "" if before <= 0 else f" ({difference(0.0, after / before - 1, lambda share: percent(share, 0))})"
    yield f"{seconds(after)} after startup instead of {seconds(before)}{change}"


def _after_startup(run: RunSummary) -> float | None:
    """The run without its startup (s), which is paid once, however long the run is."""
    if run.total_s is None or "startup_s" not in run.ledger or "startup_s" in run.not_measured:
        return None
    after_s = run.total_s - run.ledger["startup_s"]
    return after_s if is_known(after_s) else None


def _share_instead(a: RunSummary, b: RunSummary) -> Iterator[str]:
    """With several ranks the share of all of them, on both sides: one rank's own share leaves out the slowest."""
    of_all = a.ranks is not None or b.ranks is not None
    before, after = (_share_of_all(run) if of_all else run.wait_share for run in (a, b))
    if before is not None and after is not None and is_known(before) and is_known(after):
        name = "data wait / training time" + (" of all ranks" if of_all else "")
        yield f"{name} {percent(after)} instead of {percent(before)}"


def _share_of_all(run: RunSummary) -> float | None:
    if run.ranks is not None:
        return run.ranks.wait_share
    return run.wait_share if run.world_size == 1 else None
