"""The ledger of a run as figures: where every second from the callback's setup to its teardown went."""

from lightning_fastdata.report.figures import Figure, Section, share_of
from lightning_fastdata.report.units import NOT_MEASURED, aligned_seconds
from lightning_fastdata.results.stats import ACCOUNTS
from lightning_fastdata.results.summary import RunSummary

__all__ = ["HEADING", "ledger_section"]

HEADING = "Where the time went"


def ledger_section(summary: RunSummary, *, fold: bool = False) -> Section:
    """The accounts in the order of ``findings.ACCOUNTS``, each with its share, and their total.

    Args:
        summary: One run.
        fold: Whether accounts that say nothing are left out: those that read 0.00 s, transfers without a device, and
            the synchronization of a single rank where it was not measured.

    Returns:
        No figures where the run has no account.
    """
    figures = [_account(summary, name, called) for name, called in ACCOUNTS.items() if name in summary.ledger]
    # A newer version may have more of them; left out they would be missing from the sum.
    others = [name for name in summary.ledger if name not in ACCOUNTS]
    figures += [_account(summary, name, name.removesuffix("_s").replace("_", " ").capitalize()) for name in others]
    if fold:
        moot = {ACCOUNTS[name] for name in _moot(summary)}
        figures = [figure for figure in figures if not figure.is_nothing and figure.name not in moot]
    if summary.total_s is not None:
        whole = share_of(summary.total_s, summary.total_s) if figures else None
        figures.append(Figure("Total, setup to teardown", summary.total_s, aligned_seconds, share=whole))
    return Section(HEADING, tuple(figures))


def _moot(summary: RunSummary) -> list[str]:
    """Accounts that were not measured because there was nothing to measure."""
    without = []
    if summary.hardware.get("accelerators") in ([], ()):
        without.append("transfer_s")
    if summary.world_size == 1:
        without.append("sync_s")
    return [name for name in without if name in summary.not_measured]


def _account(summary: RunSummary, name: str, called: str) -> Figure:
    if name in summary.not_measured:
        return Figure(called, text=NOT_MEASURED)
    value_s = summary.ledger[name]
    return Figure(called, value_s, aligned_seconds, share=share_of(value_s, summary.total_s), may_fold=True)
