"""Summaries as text, over the same few summaries each time."""

import dataclasses
import io

import pytest
from rich.console import Console

from lightning_fastdata.records import StageWait, StepRecord
from lightning_fastdata.report.text import milliseconds, percent, seconds, side_by_side, stages_table, summary_table
from lightning_fastdata.summary import Totals, summarise


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


VAL = StageWait("val", 2, 10, 1.0, 0.4, 4.0)
MANY = StageWait(
    "val", 2, 10, 1.0, 0.4, 4.0, (StageWait("val/0", 2, 6, 0.2, 0.1, 1.0), StageWait("val/1", 2, 4, 0.8, 0.4, 2.5))
)
UNMEASURED = StageWait("test", 1, 3, None, None, 4.0)
SUMMARIES = {
    "usual": summarise(steps(30), stages=[VAL], num_workers=0),
    "empty": summarise([]),
    "many loaders": summarise(steps(30), stages=[MANY]),
    "not measured": summarise(steps(30, None), stages=[UNMEASURED]),
    "long": summarise(steps(3000), totals=Totals(steps=90_000, epochs=9000, wait_s=9e4, other_s=9e4)),
    "interrupted": dataclasses.replace(
        summarise(steps(3)),
        status="interrupted",
        notes=("Something to know.",),
        resumed_from={"steps": 500, "train_s": 1.0, "wait_s": 0.5},
        world_size=4,
    ),
}


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


def test_many_epochs_stay_a_few_lines():
    text = render(summary_table(SUMMARIES["long"]))
    assert text.count("First batch of epoch") == 6
    assert "of 9000 epochs: largest" in text
    assert "3,000 steps" in text


def test_an_interrupted_run_says_so_with_its_notes():
    text = render(summary_table(SUMMARIES["interrupted"]))
    for words in ("3 (interrupted)", "Note: Something to know.", "Steps before the checkpoint", "0 of 4"):
        assert words in text


def test_two_runs_stand_side_by_side():
    text = render(side_by_side(SUMMARIES["usual"], SUMMARIES["interrupted"], ("plain", "pack")))
    (header,) = (line for line in text.splitlines() if "plain" in line and "pack" in line and ":" not in line)
    assert header.index("plain") < header.index("pack")
    assert "pack: 1.00x the samples per second of plain." in text
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
