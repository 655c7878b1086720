"""Whole files, and whatever is left of others."""

import dataclasses
import json
import tracemalloc
from pathlib import Path

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.audit_file import EpochDigest, append_epoch
from lightning_fastdata.results.records import SCHEMA, Span, StageWait, StepRecord
from lightning_fastdata.results.run_file import path_of_rank, read_run
from lightning_fastdata.results.stats import Boundary, Loading, RankTimes, SlowSample, SpeedupBound
from lightning_fastdata.results.summary import RunSummary, summarize

STEPS = [StepRecord(number // 2, number, 4, 0.25, None, 0.5, 0.125, number % 2 == 0, 1, 1, 1) for number in range(4)]
SUMMARY = dataclasses.replace(
    summarize(STEPS, stages=[StageWait("val", 1, 3, 0.5, 0.25, 2.0, (StageWait("val/0", 1, 3, 0.5, 0.25, 2.0),))]),
    ledger={"wait_s": 1.0, "compute_s": 3.0},
    total_s=4.0,
    boundary=Boundary(1, 0.25, 0.125, 0.125, 0.0),
    loading=Loading(4, 16, 1.0, 0.25, 0.5, 0.0625, slowest=(SlowSample("7", 0.25, 0, 1, "a.jpg"),)),
    ranks=RankTimes(2, 2, 4, 0.5, 0.5, 0.75, 1.5, 1, "b", 0.75, 1.0, ((0, "a", 0.25), (1, "b", 0.5)), (3,)),
    speedup_bound=SpeedupBound(1.5, 1.25, 2.0, 1.0, 3.0),
    resumed_from={"steps": 2, "train_s": 1.5, "wait_s": 0.5},
)
HERE = {"host": "here", "date": "2026-01-02T03:04:05+00:00", "rank": 1, "world_size": 2}
HERE |= {"versions": {"torch": "2.9"}, "hardware": {"usable_cpus": 4.0}}
HEADER = {"kind": "header", "schema": SCHEMA, **HERE}
SPAN = {"kind": "span", "span": "validation", "start_s": 1.0, "end_s": 2.5, "epoch": 0}
SO_FAR = {"kind": "so far", "total_s": 3.5, "ledger": {"wait_s": 1.0, "loop_s": 2.5}}


def step(number=0, **changed):
    return {"kind": "step", **STEPS[number].to_dict(), **changed}


def without(line, *names):
    return {name: value for name, value in line.items() if name not in names}


def summary_line(**changed):
    return {"kind": "summary", **SUMMARY.to_dict(), **changed}


WHOLE = [HEADER, *map(step, range(4)), SPAN, {**SO_FAR, "total_s": 1.0}, SO_FAR, summary_line()]


@pytest.fixture
def read(tmp_path):
    """Writes lines (dicts, or text) and reads them."""

    def write_and_read(*lines, end="\n"):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end
        (tmp_path / "run.jsonl").write_text(text, encoding="utf-8", errors="surrogateescape")
        return read_run(tmp_path / "run.jsonl")

    return write_and_read


def test_a_whole_file_comes_back_without_a_word(read, tmp_path):
    """Also with a byte order mark, other line ends, blank lines, and no end of the last line."""
    run = read(*WHOLE)
    assert (run.header, run.so_far) == (without(HEADER, "kind"), without(SO_FAR, "kind"))
    assert (run.records, run.spans) == (tuple(STEPS), (Span("validation", 1.0, 2.5, 0),))
    assert run.summary == run.best_summary() == SUMMARY
    assert run.problems == ()
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n").rstrip())
    assert read_run(path) == run


def test_a_killed_run_still_has_its_figures_and_its_account(read):
    run = read(HEADER, *map(step, range(3)), SPAN, SO_FAR, json.dumps(step(3))[:40], end="")
    assert (run.summary, run.records) == (None, tuple(STEPS[:3]))
    assert run.problems == (
        "Line 7: is cut off, as a run that is killed while it writes leaves it; left out.",
        "No summary: the run was killed, or is still going on; the figures are made from the 3 steps in the file, the"
        " ledger is that after 3.50 s.",
    )
    rest = {"status": "interrupted", "total_s": 3.5, "ledger": SO_FAR["ledger"]}
    spans = (Span("validation", 1.0, 2.5, 0),)
    assert run.best_summary() == dataclasses.replace(summarize(STEPS[:3]), **HERE, **rest, spans=spans)


def test_an_account_that_no_step_has_a_time_for_was_not_measured(read):
    """The step lines of a killed run tell it; 0.00 s in the account would be a claim."""
    ledger = {"wait_s": 0.0, "transfer_s": 0.0, "compute_s": 1.0, "loop_s": 2.5}
    so_far = {**SO_FAR, "ledger": ledger}
    assert read(HEADER, step(0), step(1), so_far).best_summary().not_measured == ("transfer_s",)
    assert read(HEADER, step(0), step(1, transfer_s=0.1), so_far).best_summary().not_measured == ()
    assert read(HEADER, step(0), {**so_far, "ledger": {**ledger, "transfer_s": 1.0}}).best_summary().not_measured == ()
    assert read(HEADER, so_far).best_summary().not_measured == ()


def test_a_header_alone_is_a_run_without_steps(read):
    """Of odd types it gives what it can."""
    run = read({**HEADER, "rank": "one", "versions": [1], "host": None})
    assert run.problems == ("No summary: the run was killed, or is still going on; there is no step in the file.",)
    made = run.best_summary()
    assert (made.steps, made.wait_share, made.status, made.total_s, made.ledger) == (0, None, "interrupted", None, {})
    assert (made.rank, made.versions, made.host, made.world_size) == (0, {}, "", 2)


@pytest.mark.parametrize("bad", ["{broken", "{", "[1]", "\0\0\0", "[" * 100_000, '"text"', "{} {}", "\udcff\udcfe"])
def test_an_unreadable_line_costs_that_line(read, bad):
    run = read(HEADER, step(0), bad, *map(step, range(1, 4)), summary_line())
    assert run.records == tuple(STEPS)
    assert run.problems == ("Line 3: cannot be read, left out.",)
    for number, lines in ((2, "2, 3"), (12, "2, 3, 4, ...")):  # many are one sentence
        run = read(HEADER, *[bad] * number, step(), summary_line())
        assert run.problems == (f"{number} lines ({lines}): cannot be read, left out.",)


def test_a_step_without_what_makes_it_one_is_left_out(read):
    """Where only a time or the number of samples is missing, that was not measured."""
    for name in ("epoch", "step", "other_s", "first_in_epoch", "batches", "fetches", "rank"):
        run = read(HEADER, step(0), without(step(1), name), step(2), step(3), summary_line())
        assert len(run.records) == 3
        assert run.problems == (f"Line 3: step without {name}, left out.",)
    for name in ("samples", "wait_s", "transfer_s", "compute_s"):
        run = read(HEADER, without(step(0), name), *map(step, range(1, 4)), summary_line())
        assert run.records[0] == STEPS[0]._replace(**{name: None})
        assert run.problems == (f"Line 2: step without {name}, read as not measured.",)


def test_a_value_of_another_type_is_no_figure(read):
    """Of a field with a default the rest of the step stays; ``true`` is no number, NaN neither."""
    run = read(HEADER, step(0, queue_ready="many"), step(1, wait_s=True), step(2, other_s=[1]), step(3))
    assert [record.step for record in run.records] == [0, 1, 3]
    assert (run.records[0].queue_ready, run.records[1].wait_s) == (None, None)
    assert run.problems[:3] == (
        "Line 2: step with an unreadable queue_ready, which was left out.",
        "Line 3: step with an unreadable wait_s, which was left out.",
        "Line 3: step without wait_s, read as not measured.",
    )


@pytest.mark.parametrize("schemas", [(SCHEMA, SCHEMA), (7, SCHEMA), (SCHEMA, 7)])
def test_a_newer_schema_is_read_as_far_as_it_is_known(read, schemas):
    """What is not known is ignored: a kind of line, and fields."""
    newer = {"color": "blue", "wait_s_p999": [1]}
    steps = (step(number, **newer) for number in range(4))
    run = read({**HEADER, "schema": schemas[0]}, {"kind": "event"}, *steps, summary_line(schema=schemas[1], **newer))
    assert (run.records, run.summary) == (tuple(STEPS), SUMMARY)
    said = (
        "The file was written by a newer version (schema 7, this one knows 2): figures it does not know are left out."
    )
    assert run.problems == ((said,) if 7 in schemas else ())


def test_parts_of_a_newer_summary_that_mean_something_else_are_left_out_one_by_one(read):
    changed = summary_line(boundary={"cost": 1}, speedup_bound="high", ledger={"wait_s": "1"}, wait_s_p99="long")
    run = read(HEADER, *map(step, range(4)), changed)
    assert run.summary == dataclasses.replace(SUMMARY, boundary=None, speedup_bound=None, ledger={}, wait_s_p99=None)
    lacks = "ledger, wait_s_p99, boundary, speedup_bound"
    assert run.problems == (f"The summary in line 6 lacks what cannot be read: {lacks}.",)


def test_everything_with_a_default_may_be_missing(read):
    late = [entry.name for entry in dataclasses.fields(RunSummary)][-15:]
    run = read(HEADER, *map(step, range(4)), without(summary_line(), *late))
    assert run.problems == ()
    assert (run.summary.steps, run.summary.ledger, run.summary.wait_s_p99) == (4, {}, None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"kind": "summary", "steps": 4}, "(no epochs, no samples"),
        (without(summary_line(), "verdict"), "(no verdict)"),
        (summary_line(train_s="long"), "(train_s)"),
        (summary_line(train_s=float("nan")), "(train_s)"),
        (summary_line(verdict="bad"), "(verdict)"),
        (summary_line(stages=[{"stage": "val"}]), "(stages)"),
        (summary_line(verdict={"level": 1, "text": "x"}), "(verdict)"),
    ],
)
def test_a_summary_that_cannot_be_read_is_made_anew(read, line, words):
    run = read(HEADER, *map(step, range(4)), SO_FAR, line)
    assert run.summary is None
    assert run.problems[0].startswith("The summary in line 7 cannot be read (")
    assert words in run.problems[0]
    assert run.best_summary().steps == 4
    assert run.best_summary().total_s == 3.5


@pytest.mark.parametrize("figure", ["NaN", "Infinity", "-Infinity", "1e999", "-" + "9" * 400])
def test_a_figure_that_is_no_number_was_not_measured(read, figure):
    """JSON can hold a number that no float can."""
    lines = [json.dumps(line).replace('"?"', figure) for line in (step(0, wait_s="?"), summary_line(wait_s_p99="?"))]
    run = read(HEADER, lines[0], *map(step, range(1, 4)), lines[1])
    assert run.records[0].wait_s is None
    assert run.summary == dataclasses.replace(SUMMARY, wait_s_p99=None)
    assert run.problems == ()


@pytest.mark.parametrize(
    "line",
    [
        without(SPAN, "end_s"),
        {**SPAN, "start_s": "early"},
        without(SPAN, "span"),
        {**SO_FAR, "ledger": [1]},
        without(SO_FAR, "total_s"),
        {**SO_FAR, "ledger": {"wait_s": None}},
    ],
)
def test_other_lines_that_cannot_be_read_are_said(read, line):
    run = read(HEADER, *map(step, range(4)), SO_FAR, line, summary_line())
    assert (run.spans, run.so_far) == ((), without(SO_FAR, "kind"))
    assert [problem[:8] for problem in run.problems] == ["Line 7: "]


FIXTURES = Path(__file__).parent / "fixtures"
NEW_NAMES = {
    "inline_s": "main_process_s",
    "blocked_s": "stalled_s",
    "handoff_s": "worker_transfer_s",
    "blocked_fetches": "stalled_fetches",
    "ceiling": "speedup_bound",
    "too slow": "loader-bound",
}


def test_a_file_of_schema_1_has_all_its_figures():
    """A real run, written before the schema rose."""
    path = FIXTURES / "run_schema1.jsonl"
    text = path.read_text()
    for old, new in NEW_NAMES.items():
        assert f'"{old}"' in text
        text = text.replace(f'"{old}"', f'"{new}"')
    lines = [json.loads(line) for line in text.splitlines()]
    run = read_run(path)
    assert run.problems == ()
    assert {"kind": "summary", **run.summary.to_dict()} == {**lines[-1], "schema": SCHEMA}
    for record, line in zip(run.records, (line for line in lines if line["kind"] == "step"), strict=True):
        assert {"kind": "step", **record.to_dict()}.items() >= line.items()


@pytest.mark.parametrize(
    ("lines", "steps", "problem"),
    [
        ([HEADER, step(0), step(3), summary_line()], 2, "The summary counts 4 steps, the file holds 2."),
        (WHOLE * 2, 4, f"Another run begins in line {len(WHOLE) + 1}: left out from there on."),
        (
            [without(HEADER, "schema"), *WHOLE[1:]],
            4,
            "The header names no schema; the file is read as one of schema 2.",
        ),
    ],
)
def test_what_is_odd_about_a_file_is_said(read, lines, steps, problem):
    run = read(*lines)
    assert (len(run.records), run.problems) == (steps, (problem,))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is a binary file"),
        (b"\x80\x04\x95\0\0", "is a binary file"),
        (b"plain\0text\n", "is a binary file"),
        (b"step,wait\n1,2\n", "begins with 'step,wait'"),
        (json.dumps(step()).encode(), "begins with a line of the kind 'step', not with a header"),
        (b'{"kind": "header", "sch', "holds other JSON, or a part of it, which begins with '{"),
        (b'{"loss": 1}\n', "holds other JSON, or a part of it, which begins with '{"),
        (b"[" * 100_000, "holds other JSON"),
        (b"\n", "begins with ''"),
    ],
)
def test_what_is_no_run_file_is_an_error(tmp_path, content, words):
    """Which says what the file is; that a run was killed is said of an empty file only."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(FastDataError) as caught:
        read_run(path)
    assert caught.value.what.startswith(f"This is no file of DataWaitMonitor: {str(path)!r} {words}")
    assert len(caught.value.what) < len(str(path)) + 150
    assert caught.value.expected
    assert ("killed at once" in caught.value.fix) == (content == b"")


def test_of_a_killed_run_the_steps_tell_the_kinds_of_waiting(read):
    """Without the first batches of epochs, as the run's own summary would have it."""
    kinds = {"main_process_s": 0.0, "stalled_s": 0.1875, "worker_transfer_s": 0.0625}
    lines = [
        step(0, **kinds, refill_s=0.25, queue_ready=0),
        step(1, **kinds, queue_ready=3),
        step(2, **{**kinds, "stalled_s": 0.0005, "worker_transfer_s": None}, queue_ready=2),
    ]
    waits = read(HEADER, *lines).best_summary().waits
    assert (waits.main_process_s, waits.stalled_s, waits.worker_transfer_s) == (0.0, 0.188, 0.0625)
    assert waits.unknown_s == pytest.approx(0.2495)
    assert (waits.fetches, waits.stalled_fetches, waits.exact) == (2, 1, False)
    assert (waits.queue_ready_mean, waits.queue_ready_min) == (2.5, 2)
    half = read(HEADER, step(0, **kinds, refill_s=0.125)).best_summary().waits  # two batches make one step
    assert (half.stalled_s, half.worker_transfer_s, half.unknown_s) == (0.09375, 0.03125, 0.0)
    assert read(HEADER, step(0), step(1)).best_summary().waits is None


def test_an_audit_is_sent_to_its_own_command(tmp_path):
    append_epoch(tmp_path / "audit.jsonl", EpochDigest(0, 0, 0, 0, None, None, 1, (), ()))
    with pytest.raises(FastDataError, match="DataAudit") as caught:
        read_run(tmp_path / "audit.jsonl")
    assert "lightning-fastdata audit" in caught.value.fix


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(FastDataError, match="No such file"):
        read_run(tmp_path / "no.jsonl")
    with pytest.raises(FastDataError, match="directory") as caught:
        read_run(tmp_path)
    assert "folder" in caught.value.fix


def test_a_long_run_fits_into_memory(tmp_path):
    """About half a kilobyte a step, so that a million of them take some 500 MB."""
    line = json.dumps(step(1, wait_s=0.1234567, compute_s=0.7654321, end_s=123.4567891)) + "\n"
    (tmp_path / "run.jsonl").write_text(json.dumps(HEADER) + "\n" + line * 10_000)
    tracemalloc.start()
    run = read_run(tmp_path / "run.jsonl")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(run.records) == 10_000
    assert most / 10_000 < 520


def test_each_rank_has_its_own_file(tmp_path):
    assert path_of_rank(tmp_path / "run.jsonl", 0) == tmp_path / "run.jsonl"
    assert path_of_rank(tmp_path / "run.jsonl", 1) == tmp_path / "run.rank1.jsonl"
