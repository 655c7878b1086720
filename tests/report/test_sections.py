"""The ledger as figures; the other sections are tested by what the text report and the page show of them."""

import dataclasses

import pytest

from lightning_fastdata.report.sections import ledger_section
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.stats import ACCOUNTS
from lightning_fastdata.results.summary import summarize

RUN = summarize([StepRecord(0, 0, 8, 0.02, None, 0.01, 0.001, True, 1, 1, 0)])


def with_ledger(total_s=200.0, not_measured=(), **accounts):
    ledger = {**dict.fromkeys(ACCOUNTS, 0.0), **accounts}
    return dataclasses.replace(RUN, total_s=total_s, ledger=ledger, not_measured=not_measured)


def lines(summary, fold=False):
    figures = ledger_section(summary).figures
    return {figure.name: (figure.shown, figure.share) for figure in figures if not (fold and figure.is_nothing)}


def test_every_account_has_its_line_in_order_and_the_total_is_the_last():
    section = ledger_section(with_ledger(wait_s=50.0, compute_s=150.0))
    assert section.heading == "Where the time went"
    assert [figure.name for figure in section.figures] == [*ACCOUNTS.values(), "Total, setup to teardown"]


def test_what_was_not_measured_reads_so_whatever_stands_in_the_ledger():
    found = lines(with_ledger(not_measured=("checkpoint_s", "transfer_s"), transfer_s=0.0, wait_s=200.0), fold=True)
    assert found["Checkpoints"] == found["Transfer to the device"] == ("not measured", None)


def test_accounts_of_nothing_are_left_out_where_lines_are_folded():
    found = lines(with_ledger(wait_s=100.0, compute_s=99.99, loop_s=0.004), fold=True)
    assert list(found) == ["Waiting for data", "Compute", "Total, setup to teardown"]
    assert len(lines(with_ledger(wait_s=100.0, compute_s=99.99, loop_s=0.004))) == len(ACCOUNTS) + 1


@pytest.mark.parametrize(
    ("name", "changed", "shown"),
    [
        ("transfer_s", {"hardware": {"accelerators": []}}, False),
        ("transfer_s", {"hardware": {"accelerators": [{"kind": "cuda"}]}}, True),
        ("transfer_s", {}, True),
        ("sync_s", {}, False),
        ("sync_s", {"world_size": 2}, True),
        ("compute_s", {"hardware": {"accelerators": []}}, True),
    ],
)
def test_what_there_was_nothing_of_to_measure_is_left_out_where_lines_are_folded(name, changed, shown):
    """Transfers without a device, the synchronization of one rank; all of it stays where nothing is folded."""
    summary = dataclasses.replace(with_ledger(not_measured=(name,), loop_s=200.0), **changed)
    assert (ACCOUNTS[name] in lines(summary, fold=True)) == shown
    assert lines(summary)[ACCOUNTS[name]] == ("not measured", None)


def test_an_account_that_a_newer_version_added_is_shown():
    assert lines(with_ledger(wait_s=100.0, disk_reads_s=50.0))["Disk reads"] == ("50.00 s", 0.25)


@pytest.mark.parametrize(("total_s", "share"), [(None, None), (0.0, None), (float("nan"), None), (400.0, 0.25)])
def test_a_share_needs_a_total(total_s, share):
    assert lines(with_ledger(total_s=total_s, wait_s=100.0))["Waiting for data"] == ("100.00 s", share)


def test_without_an_account_there_are_no_lines():
    assert ledger_section(RUN).figures == ()
    (figure,) = ledger_section(dataclasses.replace(RUN, total_s=3.0)).figures
    assert (figure.name, figure.shown) == ("Total, setup to teardown", "3.00 s")
