"""Summaries as text, over the same few summaries each time."""

import dataclasses
import io
import runpy
from pathlib import Path

import pytest
from rich.console import Console

from lightning_fastdata.report.compare import side_by_side
from lightning_fastdata.report.text import stages_table, summary_table
from lightning_fastdata.report.units import (
    count,
    difference,
    factor,
    is_known,
    milliseconds,
    number,
    percent,
    seconds,
    size,
)
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

RUNS = runpy.run_path(str(Path(__file__).parent / "html" / "recorded_runs.py"))["RUNS"]


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


def row(text, name):
    """The words after a name, in the one line that begins with it; None without such a line."""
    lines = (line.replace("|", " ").strip() for line in text.splitlines())  # which draws columns in ASCII
    lines = [line.split() for line in lines if line.startswith(name)]
    assert len(lines) <= 1
    return lines[0][len(name.split()) :] if lines else None


@pytest.mark.parametrize("name", RUNS)
def test_every_run_can_be_printed_anywhere(name):
    """Also into a pipe that only takes ASCII, in 80 columns, without one control character; and beside another run."""
    summary, _ = RUNS[name]()
    for encoding in ("utf-8", "ascii"):
        text = render(summary_table(summary), encoding, width=80)
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80
        share = row(text, "Data wait / training time")
        assert (share == ["not", "measured"]) == (not is_known(summary.wait_share))
    assert render(side_by_side(summary, WHOLE, ("a", "b")))


def test_many_epochs_stay_a_few_lines():
    totals = Totals(steps=90_000, epochs=9000, wait_s=9e4, other_s=9e4)
    text = render(summary_table(summarize(steps(3000), totals=totals)))
    assert text.count("First batch of epoch") == 3
    assert row(text, "largest of 9,000 epochs") == ["20.0", "ms"]
    assert "3,000 steps" in text


def test_an_interrupted_run_says_so_with_its_notes():
    resumed = {"steps": 500, "train_s": 1.0, "wait_s": 0.5}
    changed = {"status": "interrupted", "notes": ("Something to know.",), "resumed_from": resumed, "world_size": 4}
    text = render(summary_table(dataclasses.replace(WHOLE, **changed)))
    assert row(text, "Status") == ["interrupted"]
    for words in ("Note: Something to know.", "Steps before the checkpoint", "0 of 4"):
        assert words in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Max speedup at zero data wait", "2.31x 95 %: 2.23x to 2.40x"),
        ("Total data wait (incl. first batches)", "0.60 s"),
        ("of all ranks together", "75.0 %"),
        ("Samples per second", "250.0"),
        ("First batch of epoch 2", "20.0 ms"),
        ("Waiting for data", "0.50 s 25.0 %"),
        ("Transfer to the device", "not measured"),
        ("99th percentile", "20.0 ms"),
        ("Stalled on workers", "0.40 s 80.0 %"),
        ("Worker-to-main transfer", "0.10 s 20.0 %"),
        ("Stalls of more than 1 ms", "1,102 of 1,197"),
        ("while later batches were ready", "0.12 s 31 of them"),
        ("Prefetch queue at a fetch, mean", "5.2 of 8 ready"),
        ("Epoch boundary, mean", "1.00 s of 2"),
        ("persistent_workers saves", "0.75 s each"),
        ("Shutdown at the end", "0.25 s"),
        ("Batch, mean", "100 ms"),
        ("Sample incl. collation, mean", "12.5 ms"),
        ("slowest:", "...601/n02099601_7304.JPEG 610 ms epoch 1, worker 2"),
        ("then: sample", "[7] 410 ms epoch 0, worker 3"),
        ("then: /data/a.jpg", "310 ms epoch 0"),
        ("GPU starved", "0.25 s 26.0 %"),
        ("Copies on the device", "not measured"),
        ("Largest / mean data wait", "1.60x"),
        ("Most often the straggler", "rank 1 83.0 % of steps"),
        ("Lost to the straggler", "22.00 s"),
        ("Data wait, rank 1 on node2", "69.0 %"),
        ("Ranks that did not report", "2"),
    ],
)
def test_every_finding_has_its_line(name, words):
    """In 80 columns none of them folds."""
    assert " ".join(row(render(summary_table(WHOLE), width=80), name)) == words


def changed(name, **fields):
    return {name: dataclasses.replace(getattr(WHOLE, name), **fields)}


INLINE = WaitKinds(30, 0.5, 0.0, 0.0, 0.0, False, 0, 0, 0.0, None, None, None, None)
UNKNOWN = WaitKinds(30, None, None, None, 0.5, False, 0, 0, 0.0, None, None, None, None)


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        (changed("speedup_bound", low=None, high=None), "Max speedup at zero data wait", "2.31x 95 %: not measured"),
        (changed("speedup_bound", high=None), "Max speedup at zero data wait", "2.31x 95 %: not measured"),
        (changed("speedup_bound", low=NAN), "Max speedup at zero data wait", "2.31x 95 %: not measured"),
        ({"validation_wait_s": 1.25}, "Data wait in the fit's validations", "1.25 s"),
        ({"validation_wait_s": None}, "Data wait in the fit's validations", None),
        ({"validation_wait_s": 0.001}, "Data wait in the fit's validations", None),
        (changed("loading", num_workers=6), "Loading, by", "6 workers"),
        (changed("loading", num_workers=None), "Loading, by", "4 workers"),
        (changed("loading", num_workers=1), "Loading, by", "1 worker"),
        # Neither a line nor a heading without lines.
        ({"boundary": Boundary(2, 0.0049, 0.0, 0.0, 0.0), "ledger": {}}, "Epoch boundary", None),
        ({"boundary": Boundary(2, 0.0051, 0.0, 0.0, 0.0)}, "Epoch boundary, mean", "0.01 s of 2"),
        (changed("boundary", saving_is_exact=False), "persistent_workers saves", "at least 0.75 s each"),
        (changed("boundary", saving_s_per_epoch=None, persistent_workers=True), "persistent_workers", None),
        # Loading in the main process needs no stamps to be recognized.
        ({}, "Data wait by cause", ""),
        (changed("waits", exact=False), "Data wait by cause", "(estimated)"),
        ({"waits": INLINE}, "Data wait by cause", ""),
        ({"waits": INLINE}, "Loaded in the main process", "0.50 s 100.0 %"),
        ({"waits": UNKNOWN}, "Cause not measured", "0.50 s 100.0 %"),
        ({"wait_s": None}, "Data wait per step", None),
    ],
)
def test_lines_follow_what_was_measured(changes, name, words):
    found = row(render(summary_table(dataclasses.replace(WHOLE, **changes)), width=80), name)
    assert found == (None if words is None else words.split())


def test_a_long_host_leaves_the_number_of_its_rank():
    ranks = dataclasses.replace(WHOLE.ranks, rank_wait_share=((11, "x" * 60 + ".example", 0.5),))
    text = render(summary_table(dataclasses.replace(WHOLE, ranks=ranks)), width=80)
    assert [line for line in text.splitlines() if "Data wait, rank 11 on ..." in line and "x.example " in line]


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
    for words in ("Data wait by cause", "slowest", "First batch of epoch 1"):
        assert words in render(summary_table(WHOLE))
        assert words not in text
    assert row(text, "Prefetch queue at a fetch, mean") == ["5.2", "of", "8", "ready"]
    assert len(text.splitlines()) <= 40


def test_of_many_ranks_those_that_wait_most_are_named():
    shares = tuple((rank, "", rank / 100) for rank in range(64))
    ranks = dataclasses.replace(WHOLE.ranks, rank_wait_share=shares, missing=tuple(range(64, 80)), slowest_rank=None)
    text = render(summary_table(dataclasses.replace(WHOLE, ranks=ranks)))
    assert [line.split()[3] for line in text.splitlines() if "Data wait, rank" in line] == ["63", "62", "61", "60"]
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


def test_each_of_several_loaders_has_a_line_below_its_stage():
    text = render(stages_table([MANY, UNMEASURED]))
    assert "25 % of the validation time" in text
    lines = [line.split() for line in text.splitlines()]
    start = next(number for number, words in enumerate(lines) if words[:1] == ["Validation"])
    assert lines[start : start + 4] == [
        ["Validation", "2", "10", "1.00", "s", "25.0", "%", "400", "ms"],
        ["loader", "0", "2", "6", "0.20", "s", "20.0", "%", "100", "ms"],
        ["loader", "1", "2", "4", "0.80", "s", "32.0", "%", "400", "ms"],
        ["Test", "1", "3", *["not", "measured"] * 3],
    ]


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (milliseconds, None, "not measured"),
        (milliseconds, 0.0, "0.000 ms"),
        (milliseconds, 4e-6, "0.004 ms"),
        (milliseconds, 0.0052, "5.20 ms"),
        (milliseconds, 1.24, "1,240 ms"),
        (seconds, 1.5, "1.50 s"),
        (seconds, 1234.5, "1,234 s"),
        (percent, 0.384, "38.4 %"),
        (size, 2048, "2.0 KiB"),
        (size, 23.5 * 2**30, "23.5 GiB"),
        (number, 0.002, "0.002"),
        (number, 1200.0, "1,200"),
    ],
)
def test_figures_keep_the_digits_that_mean_something(show, value, text):
    assert show(value) == text
