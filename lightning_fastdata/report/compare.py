"""Two runs side by side, as text and as plain values, for "before and after"."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lightning_fastdata.report.figures import Figure, Section
from lightning_fastdata.report.printable import Printable, clean
from lightning_fastdata.report.sections import sections
from lightning_fastdata.report.units import difference, is_known, percent, percent_points, times
from lightning_fastdata.report.verdict import verdict_text
from lightning_fastdata.summary import RunSummary

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
    for number, (heading, left, right) in enumerate(_pairs(sections(a), sections(b))):
        if number:
            table.add_row()
        _add_pair(table, heading, left, right)
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
    found: dict[str, Any] = {name: _less(getattr(a, name), getattr(b, name)) for name in _COMPARED}
    boundaries = [None if run.boundary is None else run.boundary.per_epoch_s for run in (a, b)]
    found["boundary_per_epoch_s"] = _less(*boundaries)
    found["samples_per_s_factor"] = _faster(a, b)
    found["ledger"] = {name: _less(_account(a, name), _account(b, name)) for name in {**a.ledger, **b.ledger}}
    return found


def _less(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None or not is_known(after - before) else after - before


def _account(run: RunSummary, name: str) -> float | None:
    return None if name in run.not_measured else run.ledger.get(name)


_Figures = Mapping[str, Figure]


def _pairs(left: list[Section], right: list[Section]) -> list[tuple[str, _Figures, _Figures]]:
    """The sections of both by their heading, in the order of the left one, then what only the right one has.

    What stands after a comma or in brackets is of one run: "Loading, by 4 workers".
    """
    halves = [{_topic(section): _compared(section) for section in one} for one in (left, right)]
    topics = [*halves[0], *(topic for topic in halves[1] if topic not in halves[0])]
    return [(topic, halves[0].get(topic, {}), halves[1].get(topic, {})) for topic in topics]


def _topic(section: Section) -> str:
    return section.heading.partition(",")[0].partition(" (")[0]


def _compared(section: Section) -> _Figures:
    return {figure.name: figure for figure in section.figures if figure.in_comparisons}


def _add_pair(table: Table, heading: str, left: _Figures, right: _Figures) -> None:
    if heading:
        table.add_row(Text(heading, style="bold"))
    for name in _in_order(list(left), list(right)):
        pair = [one[name] for one in (left, right) if name in one]
        if all(figure.is_nothing for figure in pair):
            continue
        shown = [one[name].shown if name in one else "-" for one in (left, right)]
        table.add_row(Text(name), *map(Text, shown), Text(_difference(left.get(name), right.get(name))))


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
    return notes


def _faster(a: RunSummary, b: RunSummary) -> float | None:
    """Samples per second of ``b`` over those of ``a`` (ratio)."""
    if not a.samples_per_s or not b.samples_per_s:
        return None
    ratio = b.samples_per_s / a.samples_per_s
    return ratio if is_known(ratio) and ratio > 0 else None


def _last_line(a: RunSummary, b: RunSummary, titles: tuple[str, str]) -> list[Text]:
    """Which one is how many times faster, and what became of the waiting."""
    parts = []
    ratio = _faster(a, b)
    if ratio is not None and ratio < 1:
        parts.append(f"{titles[0]}: {times(1 / ratio)} the samples per second of {titles[1]}")
    elif ratio is not None:
        parts.append(f"{titles[1]}: {times(ratio)} the samples per second of {titles[0]}")
    change = _less(a.wait_share, b.wait_share)
    if change is not None:
        shares = f"from {percent(a.wait_share)} to {percent(b.wait_share)}"
        word = "fell" if change < 0 else "rose"
        size = percent_points(abs(change))
        same = size == percent_points(0.0)
        parts.append(
            f"the share of time waiting stayed at {percent(b.wait_share)}"
            if same
            else f"the share of time waiting {word} by {size}, {shares}"
        )
    if not parts:
        return []
    line = "; ".join(parts)
    return [Text(f"{line[0].upper()}{line[1:]}." if ratio is None else f"{line}.", style="bold")]
