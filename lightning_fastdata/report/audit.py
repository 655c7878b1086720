"""Audits as text: the epochs of one run, the comparison of two."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from lightning_fastdata.report.units import NOT_MEASURED, count, plural
from lightning_fastdata.results.audit_compare import Comparison, Difference
from lightning_fastdata.results.audit_file import EpochDigest

__all__ = ["audit_table", "comparison_line"]


def audit_table(epochs: Sequence[EpochDigest], title: str = "Data audit") -> Table:
    """One run: a row an epoch.

    Args:
        epochs: What ``read_audit`` gave.
        title: Heading of the table.

    Returns:
        Something to hand to ``rich.console.Console.print``.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAVY, pad_edge=False)
    for heading in ("Epoch", "Global batches", "Samples"):
        table.add_column(heading, justify="right")
    table.add_column("Order")
    table.add_column("Content")
    for epoch in epochs:
        begins = f" (from {epoch.first_batch:,})" if epoch.first_batch else ""
        table.add_row(
            str(epoch.epoch),
            count(epoch.batches) + begins,
            count(epoch.samples),
            epoch.digest or NOT_MEASURED,
            epoch.content or NOT_MEASURED,
        )
    return table


def comparison_line(comparison: Comparison, names: tuple[str, str] = ("A", "B")) -> str:
    """Two runs in one line.

    Args:
        comparison: What ``compare`` gave.
        names: What to call the runs.

    Returns:
        A line for a terminal, a log or a script; it begins with "same:", "same as far as both go:" or "differs:".
    """
    if comparison.difference is not None:
        rules = (
            ""
            if comparison.rules is None
            else "; "
            + " and ".join(
                f"{name} was made by rules {number}" for name, number in zip(names, comparison.rules, strict=True)
            )
        )
        return f"differs: {_where(comparison.difference, names)}{rules}"
    parts = [plural(comparison.epochs, "epoch"), plural(comparison.batches, "global batch", "global batches")]
    if comparison.samples is not None:
        parts.append(plural(comparison.samples, "sample"))
    what = f"{', '.join(parts)} ({' and '.join(comparison.aspects) or 'what was measured'})"
    if comparison.same:
        return f"same: {what}"
    rest = [
        f"{name} has {plural(more, 'epoch')} more" for name, more in zip(names, comparison.more, strict=True) if more
    ]
    rest += [f"epoch {epoch} only from global batch {batch} on" for epoch, batch in comparison.from_batch]
    return f"same as far as both go: {what}; {'; '.join(rest)}"


def _where(difference: Difference, names: tuple[str, str]) -> str:
    what = " and ".join(difference.aspects)
    if difference.batches is not None:
        lengths = " and ".join(
            f"{plural(batches, 'global batch', 'global batches')} in {name}"
            for batches, name in zip(difference.batches, names, strict=True)
        )
        agree = f"; the first {difference.first:,} are the same ({what})" if difference.first else ""
        return f"epoch {difference.epoch} has {lengths}{agree}"
    if difference.first == difference.last:
        return f"first in epoch {difference.epoch}, global batch {difference.first} ({what})"
    return f"first in epoch {difference.epoch}, global batches {difference.first} to {difference.last} ({what})"
