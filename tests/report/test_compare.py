"""Two runs side by side."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from lightning_fastdata.report.compare import differences, side_by_side
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.stats import ACCOUNTS, Boundary, RankTimes, WaitKinds
from lightning_fastdata.results.summary import summarize


def render(renderable, width=80, encoding="utf-8"):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    Console(file=stream, width=width, force_terminal=False).print(renderable)
    stream.flush()
    return raw.getvalue().decode(encoding)


def run(wait_s, *, other_s=0.01, **changed):
    """Twenty steps of eight samples."""
    records = [StepRecord(0, step, 8, wait_s, None, 0.05, other_s, step == 0, 1, 1, 0) for step in range(20)]
    ledger = {**dict.fromkeys(ACCOUNTS, 0.0), "compute_s": 1.0, "wait_s": 20 * (wait_s or 0.0)}
    summary = dataclasses.replace(summarize(records), ledger=ledger, total_s=sum(ledger.values()))
    return dataclasses.replace(summary, **changed)


SLOW = run(0.06, boundary=Boundary(2, 1.5, 1.0, 2.0, 0.0), host="here")
FAST = run(0.0, boundary=Boundary(2, 0.25, 0.25, 0.25, 0.0), host="here")
UNKNOWN = run(None, samples_per_s=None)


def line(text, start):
    (found,) = (row.split() for row in text.splitlines() if row.strip().startswith(start))
    return found[len(start.split()) :]


def table(a, b, width=100, **options):
    return render(side_by_side(a, b, ("a", "b"), **options), width)


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("Samples per second", ["66.7", "133.3", "+66.7"]),
        ("Share of time waiting", ["50.0", "%", "0.0", "%", "-50.0", "points"]),
        ("Waiting for data", ["1.20", "s", "0.00", "s", "-1.20", "s"]),
        ("Compute", ["1.00", "s", "1.00", "s", "0.00", "s"]),
        ("Total, setup to teardown", ["2.20", "s", "1.00", "s", "-1.20", "s"]),
        ("Median", ["60.0", "ms", "0.000", "ms", "-60.0", "ms"]),
        ("95th percentile", ["60.0", "ms", "0.000", "ms", "-60.0", "ms"]),
        ("99th percentile", ["60.0", "ms", "0.000", "ms", "-60.0", "ms"]),
        ("Change of epochs, mean", ["1.50", "s", "0.25", "s", "-1.25", "s"]),
    ],
)
def test_every_figure_has_both_values_and_the_difference(name, figures):
    assert line(table(SLOW, FAST), name) == figures


def test_accounts_that_neither_has_are_left_out():
    text = table(SLOW, FAST)
    assert "Checkpoints" not in text
    checkpoints = dataclasses.replace(FAST, ledger={**FAST.ledger, "checkpoint_s": 2.0})
    assert line(table(SLOW, checkpoints), "Checkpoints") == ["0.00", "s", "2.00", "s", "+2.00", "s"]


def test_what_only_one_run_has_stands_beside_a_dash():
    """In its place among the others: the total stays the last of the ledger."""
    waits = WaitKinds(20, 0.0, 1.2, 0.0, 0.0, True, 20, 0, 0.0, 0.5, 0, 8, 0.0)
    shorter = dataclasses.replace(FAST, ledger={"compute_s": 1.0}, boundary=None)
    text = table(shorter, dataclasses.replace(SLOW, waits=waits))
    assert line(text, "Waiting for data") == ["-", "1.20", "s"]
    assert line(text, "Blocked: not there yet") == ["-", "1.20", "s"]
    assert line(text, "Queue at a fetch, mean") == ["-", "0.5", "of", "8", "ready"]
    assert line(text, "Change of epochs, mean") == ["-", "1.50", "s"]
    rows = [row.strip() for row in text.splitlines()]
    assert [row.startswith("Total") for row in rows[: rows.index("Wait of a step")]].index(True) == max(
        number for number, row in enumerate(rows[: rows.index("Wait of a step")]) if row
    )


def test_sections_pair_whatever_is_said_of_one_run_in_their_heading():
    """With "(estimated)" and without it is one section."""
    waits = WaitKinds(20, 0.0, 1.2, 0.0, 0.0, True, 20, 0, 0.0, 0.5, 0, 8, 0.0)
    a = dataclasses.replace(SLOW, waits=waits)
    b = dataclasses.replace(FAST, waits=dataclasses.replace(waits, exact=False, stalled_s=0.2))
    text = table(a, b)
    assert text.count("Kinds of waiting") == 1
    assert line(text, "Blocked: not there yet") == ["1.20", "s", "0.20", "s", "-1.00", "s"]


def test_what_was_not_measured_has_no_difference():
    text = table(SLOW, UNKNOWN)
    assert line(text, "Samples per second") == ["66.7", "not", "measured", "-"]
    assert line(text, "Share of time waiting") == ["50.0", "%", "not", "measured", "-"]
    not_measured = dataclasses.replace(SLOW, not_measured=("wait_s",))
    assert line(table(SLOW, not_measured), "Waiting for data") == ["1.20", "s", "not", "measured"]


def with_startup(run_, startup_s, total_s):
    return dataclasses.replace(run_, ledger={**run_.ledger, "startup_s": startup_s}, total_s=total_s)


def with_ranks(run_, share):
    ranks = RankTimes(2, 2, 20, share, 0.1, 0.1, 2.0, 1, "b", 1.0, 1.0)
    return dataclasses.replace(run_, ranks=ranks, world_size=2)


TIME = "1.00 s in all after the start-up instead of 2.20 s (-55 %)"


@pytest.mark.parametrize(
    ("a", "b", "last"),
    [
        (SLOW, FAST, f"{TIME}, 2.00x the samples per second, share of time waiting 0.0 % instead of 50.0 %."),
        (
            FAST,
            SLOW,
            "2.20 s in all after the start-up instead of 1.00 s (+120 %), 0.50x the samples per second, share of time"
            " waiting 50.0 % instead of 0.0 %.",
        ),
        (SLOW, SLOW, "2.20 s in all after the start-up instead of 2.20 s (0 %), 1.00x the samples per second, share"),
        # The start-up is left out, however long it was.
        (with_startup(SLOW, 10.0, 12.2), with_startup(FAST, 1.0, 2.0), f"{TIME}, 2.00x"),
        (SLOW, dataclasses.replace(FAST, total_s=None), "2.00x the samples per second, share of"),
        (SLOW, dataclasses.replace(FAST, ledger={}), "2.00x the samples per second, share of"),
        (SLOW, dataclasses.replace(FAST, not_measured=("startup_s",)), "2.00x the samples per second, share of"),
        (SLOW, dataclasses.replace(FAST, total_s=float("nan")), "2.00x the samples per second, share of"),
        (SLOW, dataclasses.replace(FAST, samples_per_s=None), f"{TIME}, share of time waiting 0.0 % instead"),
        (SLOW, dataclasses.replace(FAST, samples_per_s=float("nan")), f"{TIME}, share of time waiting 0.0 % instead"),
        (SLOW, dataclasses.replace(FAST, wait_share=None), f"{TIME}, 2.00x the samples per second."),
        (
            with_ranks(SLOW, 0.8),
            with_ranks(FAST, 0.3),
            f"{TIME}, 2.00x the samples per second, share of time waiting of all ranks 30.0 % instead of 80.0 %.",
        ),
        (SLOW, with_ranks(FAST, 0.3), f"{TIME}, 2.00x the samples per second, share of time waiting of all ranks 30.0"),
        # One rank of several, without the others, is no match for all of them.
        (dataclasses.replace(SLOW, world_size=2), with_ranks(FAST, 0.3), f"{TIME}, 2.00x the samples per second."),
    ],
)
def test_the_last_line_measures_the_right_run_against_the_left_one(a, b, last):
    """Always in this direction: the time first, the samples per second, the waiting."""
    assert table(a, b, width=200).splitlines()[-1].startswith(f"b against a: {last}")


def test_without_anything_in_common_there_is_no_last_line():
    nothing = dataclasses.replace(UNKNOWN, wait_share=None, total_s=None)
    assert "against" not in table(nothing, FAST)


def test_problems_and_other_circumstances_are_said_before_the_last_line():
    text = table(SLOW, dataclasses.replace(FAST, host="there", world_size=2), problems=["b: Line 7: gone."], width=200)
    assert text.splitlines()[-4:-1] == [
        "Note: Measured on different machines (here, there).",
        "Note: Measured with different numbers of processes (1, 2).",
        "Problem: b: Line 7: gone.",
    ]
    assert "Note:" not in table(SLOW, FAST)
    assert "Note: Measured over different numbers of steps (20, 4,000)." in table(
        SLOW, dataclasses.replace(FAST, steps=4000)
    )


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_of_files_are_text_and_nothing_else(encoding):
    """No markup, no control characters, whatever the encoding; and the lines fold at 80 columns."""
    text = render(side_by_side(SLOW, FAST, ("runs/[bold]é.jsonl", "x\x1b[2J\udc80.jsonl")), 80, encoding)
    assert "[bold]" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_differences_are_plain_values():
    found = differences(SLOW, FAST)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["samples_per_s"] == pytest.approx(200 / 3)
    assert found["samples_per_s_factor"] == pytest.approx(2.0)
    assert (found["wait_share"], found["boundary_per_epoch_s"]) == (pytest.approx(-0.5), -1.25)
    assert (found["ledger"]["wait_s"], found["ledger"]["compute_s"]) == (pytest.approx(-1.2), 0.0)
    assert found["wait_s_p99"] == pytest.approx(-0.06)
    assert set(found["ledger"]) == set(ACCOUNTS)


def test_differences_with_what_was_not_measured_are_none():
    found = differences(SLOW, dataclasses.replace(UNKNOWN, ledger={"wait_s": 1.0}, not_measured=("wait_s",)))
    assert found["wait_share"] is found["samples_per_s_factor"] is found["boundary_per_epoch_s"] is None
    assert found["ledger"]["wait_s"] is found["ledger"]["compute_s"] is None
    assert differences(SLOW, dataclasses.replace(FAST, total_s=float("inf")))["total_s"] is None
