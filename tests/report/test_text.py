"""Summaries as text, over the same few summaries each time."""

import dataclasses
import io

import pytest
from rich.console import Console

from lightning_fastdata.report.text import milliseconds, percent, seconds, side_by_side, stages_table, summary_table
from lightning_fastdata.report.units import count, difference, factor
from lightning_fastdata.results.records import StageWait, StepRecord
from lightning_fastdata.results.stats import (
    ACCOUNTS,
    Boundary,
    DeviceTimes,
    Loading,
    RankTimes,
    SlowSample,
    SpeedupBound,
    WaitKinds,
)
from lightning_fastdata.results.summary import Totals, summarize
from lightning_fastdata.results.verdict import Verdict


def render(renderable, encoding="utf-8", width=100):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    Console(file=stream, width=width, force_terminal=False).print(renderable)
    stream.flush()
    return raw.getvalue().decode(encoding)


def steps(number, wait_s=0.02, per_epoch=10):
    return [
        StepRecord(step // per_epoch, step, 8, wait_s, 0.001, 0.01, 0.001, step % per_epoch == 0, 1, 1, 0)
        for step in range(number)
    ]


NAN, INFINITE = float("nan"), float("inf")
VAL = StageWait("val", 2, 10, 1.0, 0.4, 4.0)
MANY = StageWait(
    "val", 2, 10, 1.0, 0.4, 4.0, (StageWait("val/0", 2, 6, 0.2, 0.1, 1.0), StageWait("val/1", 2, 4, 0.8, 0.4, 2.5))
)
UNMEASURED = StageWait("test", 1, 3, None, None, 4.0)
SLOWEST = (
    SlowSample("41", 0.61, 1, 2, "/data/imagenet/train/n02099601/n02099601_7304.JPEG"),
    SlowSample("[7]", 0.41, 0, 3),
    SlowSample("9", 0.31, 0, None, "/data/a.jpg"),
    SlowSample("10", 0.21, 0, 1, "/data/b.jpg"),
)
WHOLE = dataclasses.replace(
    summarize(steps(30), stages=[VAL], num_workers=4),
    total_s=2.0,
    ledger={**dict.fromkeys(ACCOUNTS, 0.0), "wait_s": 0.5, "compute_s": 1.5},
    not_measured=("transfer_s",),
    boundary=Boundary(2, 1.0, 0.5, 1.5, 0.25, 0.0, False, 0.75, True),
    waits=WaitKinds(1197, 0.0, 0.4, 0.1, 0.0, True, 1102, 31, 0.125, 5.2, 0, 8, 0.5),
    loading=Loading(30, 240, 3.0, 0.1, 0.9, 0.0125, slowest=SLOWEST),
    device=DeviceTimes(30, 0.25, 0.5, None, 0.02),
    ranks=RankTimes(
        2, 3, 30, 0.75, 0.08, 0.12, 1.6, 1, "node2", 0.83, 22.0, ((0, "node1", 0.45), (1, "node2", 0.69)), (2,)
    ),
    speedup_bound=SpeedupBound(2.31, 2.23, 2.4, 1.0, 2.0),
    verdict=Verdict("input-bound", "Input-bound: so it is.", "loader-bound", "num_workers=7 (now 4)."),
    world_size=3,
)
FINE = dataclasses.replace(WHOLE, verdict=Verdict("fine", "Not input-bound."), device=None, ranks=None)
SUMMARIES = {
    "whole": WHOLE,
    "fine": FINE,
    "usual": summarize(steps(30), stages=[VAL], num_workers=0),
    "empty": summarize([]),
    "many loaders": summarize(steps(30), stages=[MANY]),
    "not measured": summarize(steps(30, None), stages=[UNMEASURED]),
    "long": summarize(steps(3000), totals=Totals(steps=90_000, epochs=9000, wait_s=9e4, other_s=9e4)),
    "interrupted": dataclasses.replace(
        summarize(steps(3)),
        status="interrupted",
        notes=("Something to know.",),
        resumed_from={"steps": 500, "train_s": 1.0, "wait_s": 0.5},
        world_size=4,
    ),
}


def row(text, name):
    """The words after a name, in the one line that begins with it."""
    (found,) = (line.split() for line in text.splitlines() if line.strip().startswith(name))
    return found[len(name.split()) :]


@pytest.mark.parametrize("name", SUMMARIES)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_every_summary_can_be_printed_anywhere(name, encoding):
    """Also into a pipe that only takes ASCII, in 80 columns, without one control character."""
    text = render(summary_table(SUMMARIES[name]), encoding, width=80)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "Share of time waiting" in text


def test_the_table_holds_what_a_reader_asks_for():
    text = render(summary_table(SUMMARIES["usual"]))
    for words in ("62.5 %", "20.0 ms", "First batch of epoch 2", "250.0", "Validation", "at most 2.67x faster"):
        assert words in text


def test_what_was_not_measured_reads_so_and_never_zero():
    text = render(summary_table(SUMMARIES["not measured"]))
    (line,) = (line for line in text.splitlines() if "Share of time waiting" in line)
    assert "not measured" in line
    assert "Wait of a step" not in text  # once is enough


def test_many_epochs_stay_a_few_lines():
    text = render(summary_table(SUMMARIES["long"]))
    assert text.count("First batch of epoch") == 3
    assert row(text, "largest of 9,000 epochs") == ["20.0", "ms"]
    assert "3,000 steps" in text


def test_an_interrupted_run_says_so_with_its_notes():
    text = render(summary_table(SUMMARIES["interrupted"]))
    for words in ("3 (interrupted)", "Note: Something to know.", "Steps before the checkpoint", "0 of 4"):
        assert words in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Ceiling with instant data", "2.31x 95 %: 2.23x to 2.40x"),
        ("In next(), first batches included", "0.60 s"),
        ("of all ranks together", "75.0 %"),
        ("Waiting for data", "0.50 s 25.0 %"),
        ("Transfer to the device", "not measured"),
        ("99th percentile", "20.0 ms"),
        ("Blocked: not there yet", "0.40 s 80.0 %"),
        ("Handed over: was there", "0.10 s 20.0 %"),
        ("Blocked fetches", "1,102 of 1,197"),
        ("while later ones were ready", "0.12 s 31 of them"),
        ("Queue at a fetch, mean", "5.2 of 8 ready"),
        ("Change of epochs, mean", "1.00 s of 2"),
        ("persistent_workers saves", "0.75 s each"),
        ("Shutdown at the end", "0.25 s"),
        ("A batch, mean", "100 ms"),
        ("A sample, mean", "12.5 ms"),
        ("slowest:", "...01/n02099601_7304.JPEG 610 ms epoch 1, worker 2"),
        ("then: sample", "[7] 410 ms epoch 0, worker 3"),
        ("then: /data/a.jpg", "310 ms epoch 0"),
        ("Idle for want of data", "0.25 s 26.0 %"),
        ("Copying, on the device", "not measured"),
        ("Largest / mean wait", "1.60x"),
        ("Most often the slowest", "rank 1 83.0 % of steps"),
        ("The others lost", "22.00 s"),
        ("Rank 1 on node2 waited", "69.0 %"),
        ("Ranks that did not report", "2"),
    ],
)
def test_every_finding_has_its_line(name, words):
    """In 80 columns none of them folds."""
    assert " ".join(row(render(summary_table(WHOLE), width=80), name)) == words


@pytest.mark.parametrize("bounds", [(None, None), (1.5, None), (NAN, 2.0)])
def test_a_ceiling_whose_interval_is_not_known_says_so(bounds):
    bound = dataclasses.replace(WHOLE.speedup_bound, low=bounds[0], high=bounds[1])
    text = render(summary_table(dataclasses.replace(WHOLE, speedup_bound=bound)), width=80)
    assert row(text, "Ceiling with instant data") == ["2.31x", "interval", "not", "measured"]


@pytest.mark.parametrize(("value", "words"), [(1.25, ["1.25", "s"]), (None, None), (0.001, None)])
def test_the_waiting_of_validations_has_a_line_where_it_was_measured(value, words):
    text = render(summary_table(dataclasses.replace(WHOLE, validation_wait_s=value)))
    assert (row(text, "Waiting in the fit's validations") if words else None) == words
    assert ("fit's validations" in text) == bool(words)


@pytest.mark.parametrize(("told", "shown"), [(6, "by 6 workers"), (None, "by 4 workers"), (1, "by 1 worker\n")])
def test_workers_that_loaded_are_those_that_told(told, shown):
    loading = dataclasses.replace(WHOLE.loading, num_workers=told)
    text = "\n".join(map(str.rstrip, render(summary_table(dataclasses.replace(WHOLE, loading=loading))).splitlines()))
    assert f"Loading, {shown}" in text


@pytest.mark.parametrize(("per_epoch_s", "shown"), [(0.0049, False), (0.0051, True)])
def test_changes_of_epochs_that_cost_nothing_take_no_line(per_epoch_s, shown):
    """Nor a heading without lines."""
    boundary = Boundary(2, per_epoch_s, 0.0, 0.0, 0.0)
    text = render(summary_table(dataclasses.replace(WHOLE, boundary=boundary)))
    assert ("Change of epochs" in text) == shown
    assert any(line.strip() == "Epoch boundary" for line in text.splitlines()) == shown


def test_a_long_host_leaves_the_number_of_its_rank():
    ranks = dataclasses.replace(WHOLE.ranks, rank_wait_share=((11, "x" * 60 + ".example", 0.5),))
    text = render(summary_table(dataclasses.replace(WHOLE, ranks=ranks)), width=80)
    assert [line for line in text.splitlines() if "Rank 11 on ..." in line and "x.example waited" in line]


def test_what_to_try_comes_after_the_verdict_and_the_notes_after_both():
    summary = dataclasses.replace(WHOLE, notes=("A note.",))
    assert render(summary_table(summary, problems=["Line 3: gone."])).splitlines()[-4:] == [
        "Input-bound: so it is.",
        "Try first: num_workers=7 (now 4).",
        "Note: A note.",
        "Problem: Line 3: gone.",
    ]


def test_a_healthy_run_is_told_briefly():
    """It fits on a screen, with nothing that would explain a waiting that there was not."""
    text = render(summary_table(FINE), width=80)
    for words in ("Kinds of waiting", "slowest", "First batch of epoch 1"):
        assert words in render(summary_table(WHOLE))
        assert words not in text
    assert row(text, "Queue at a fetch, mean") == ["5.2", "of", "8", "ready"]
    assert len(text.splitlines()) <= 40


def test_a_saving_that_is_only_partly_known_is_a_lower_bound():
    boundary = dataclasses.replace(WHOLE.boundary, saving_is_exact=False)
    text = render(summary_table(dataclasses.replace(WHOLE, boundary=boundary)))
    assert row(text, "persistent_workers saves") == ["at", "least", "0.75", "s", "each"]
    kept = dataclasses.replace(WHOLE.boundary, saving_s_per_epoch=None, persistent_workers=True)
    assert "persistent_workers" not in render(summary_table(dataclasses.replace(WHOLE, boundary=kept)))


def test_kinds_that_are_told_from_the_queue_alone_are_estimates():
    """Loading in the training process needs no stamps to be known for what it is."""
    assert "Kinds of waiting\n" in "\n".join(map(str.rstrip, render(summary_table(WHOLE)).splitlines()))
    waits = dataclasses.replace(WHOLE.waits, exact=False)
    assert "Kinds of waiting (estimated)" in render(summary_table(dataclasses.replace(WHOLE, waits=waits)))
    inline = WaitKinds(30, 0.5, 0.0, 0.0, 0.0, False, 0, 0, 0.0, None, None, None, None)
    text = render(summary_table(dataclasses.replace(WHOLE, waits=inline)))
    assert "(estimated)" not in text
    assert row(text, "Inline: no workers") == ["0.50", "s", "100.0", "%"]
    unknown = WaitKinds(30, None, None, None, 0.5, False, 0, 0, 0.0, None, None, None, None)
    text = render(summary_table(dataclasses.replace(WHOLE, waits=unknown)))
    assert row(text, "Not known which") == ["0.50", "s", "100.0", "%"]


def test_of_many_ranks_those_that_wait_most_are_named():
    shares = tuple((rank, "", rank / 100) for rank in range(64))
    ranks = dataclasses.replace(WHOLE.ranks, rank_wait_share=shares, missing=tuple(range(64, 80)), slowest_rank=None)
    text = render(summary_table(dataclasses.replace(WHOLE, ranks=ranks)))
    assert [line.split()[1] for line in text.splitlines() if "waited" in line] == ["63", "62", "61", "60"]
    assert row(text, "and 60 more, each at most") == ["60.0", "%"]
    assert row(text, "Ranks that did not report") == ["64,", "65,", "66,", "67,", "68,", "69,", "70,", "71,", "..."]
    assert "Most often" not in text


CUDA, NO_CUDA = {"accelerators": [{"kind": "cuda", "name": "x"}]}, {"accelerators": []}
UNSEEN = "Device starvation: not measured"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"hardware": NO_CUDA}, f"{UNSEEN} (no CUDA)."),
        ({"hardware": CUDA}, f"{UNSEEN}."),
        ({"hardware": {}}, f"{UNSEEN}."),
        ({"device": WHOLE.device}, None),
        ({"steps": 0}, None),
        ({"notes": (f"{UNSEEN} (a reason).",)}, None),
    ],
)
def test_starvation_that_was_not_measured_takes_one_short_line(changed, line):
    """None where a note says more, or where there was no training."""
    text = render(summary_table(dataclasses.replace(WHOLE, **{"device": None, **changed})))
    found = [entry.strip() for entry in text.splitlines() if entry.startswith(UNSEEN)]
    assert found == ([line] if line else [])


def test_text_from_elsewhere_is_only_text():
    """Paths, hosts and notes may hold markup, control characters, and what the encoding does not have."""
    nasty = "x\x1b[2J\r[bold]é\udc80.jpg"
    loading = dataclasses.replace(WHOLE.loading, slowest=(SlowSample("1", 0.5, 0, 1, nasty),))
    ranks = dataclasses.replace(WHOLE.ranks, rank_wait_share=((0, nasty, 0.5),))
    summary = dataclasses.replace(
        WHOLE, loading=loading, ranks=ranks, notes=(nasty,), status=nasty, verdict=Verdict("fine", nasty, "", nasty)
    )
    summaries = (summary, dataclasses.replace(summary, verdict=Verdict("unknown", nasty)))
    for encoding in ("utf-8", "ascii", "latin-1"):
        for entry in summaries:
            text = render(summary_table(entry, problems=[nasty]), encoding, width=200)
            assert "\x1b" not in text
            assert "\r" not in text
            assert r"x\x1b[2J\r[bold]" in text
    assert "é" in render(summary_table(summary), "utf-8", width=200)


@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE, None])
def test_what_is_no_number_reads_not_measured(value):
    for show in (milliseconds, seconds, percent, count, factor):
        assert show(value) == "not measured"
    summary = dataclasses.replace(
        WHOLE,
        **dict.fromkeys(("wait_share", "samples_per_s", "wait_s_median", "wait_s_p99", "wait_s_max", "total_s"), value),
        ledger={"wait_s": value, "compute_s": 1.0},
        first_batch_wait_s=((0, value),),
    )
    for text in (render(summary_table(summary)), render(side_by_side(summary, WHOLE, ("a", "b")))):
        assert "not measured" in text
        assert "nan" not in text.lower()
        assert "inf " not in text.lower()


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(1.0, 3.5, "+2.50 s"), (3.5, 1.0, "-2.50 s"), (1.0, 1.001, "0.00 s"), (None, 1.0, "-"), (1.0, INFINITE, "-")],
)
def test_a_difference_has_a_sign_unless_it_reads_0(before, after, text):
    assert difference(before, after, seconds) == text


def test_two_runs_stand_side_by_side():
    text = render(side_by_side(SUMMARIES["usual"], SUMMARIES["interrupted"], ("plain", "pack")))
    (header,) = (line for line in text.splitlines() if "plain" in line and "pack" in line and ":" not in line)
    assert header.index("plain") < header.index("pack")
    assert "pack against plain: 1.00x the samples per second, share of time waiting 62.5 % instead of 62.5 %." in text
    assert "Steps before the checkpoint" in text


@pytest.mark.parametrize("name", SUMMARIES)
def test_any_two_runs_can_stand_side_by_side(name):
    assert render(side_by_side(SUMMARIES[name], SUMMARIES["usual"], ("a", "b")))


def test_each_of_several_loaders_has_a_line_below_its_stage():
    lines = [line.split() for line in render(stages_table([MANY, UNMEASURED])).splitlines()]
    start = next(number for number, words in enumerate(lines) if words[:1] == ["Validation"])
    assert lines[start : start + 4] == [
        ["Validation", "2", "10", "1.00", "s", "25.0", "%", "400", "ms"],
        ["loader", "0", "2", "6", "0.20", "s", "20.0", "%", "100", "ms"],
        ["loader", "1", "2", "4", "0.80", "s", "32.0", "%", "400", "ms"],
        ["Test", "1", "3", *["not", "measured"] * 3],
    ]


def test_an_evaluation_alone_has_its_table_and_verdict():
    text = render(stages_table([VAL, UNMEASURED]))
    assert "25 % of the validation time" in text
    assert "not measured" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "not measured"), (0.0, "0.000 ms"), (4e-6, "0.004 ms"), (0.0052, "5.20 ms"), (1.24, "1,240 ms")],
)
def test_milliseconds_keep_the_digits_that_mean_something(value, text):
    assert milliseconds(value) == text


def test_seconds_and_percent():
    assert (seconds(1.5), seconds(1234.5), seconds(None)) == ("1.50 s", "1,234 s", "not measured")
    assert (percent(0.384), percent(None)) == ("38.4 %", "not measured")
