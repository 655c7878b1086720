"""The run file, written."""

import json
import subprocess
import sys

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.records import SCHEMA, Span, StepRecord
from lightning_fastdata.results.run_file import read_run
from lightning_fastdata.results.run_file_writer import RunFileWriter
from lightning_fastdata.results.summary import summarize

ROW = (0, 0, 4, 0.25, None, 0.5, 0.125, True, 1, 1, 0)
NOT_MEASURED = (1.5, None, None, None, 0.0, None, None, None, None)
MEASURED = (1.5, 0.0, 0.2, 0.05, 0.1, 3, 0.75, 0.01, 0.002)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "run.jsonl"


@pytest.fixture
def sink(path):
    """Open, as while a run goes on: what a test reads was not written by the end."""
    sink = RunFileWriter(path, {})
    yield sink
    sink.abandon()


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_was_written_comes_back(path):
    sink = RunFileWriter(path, {"host": "here"})
    sink.write_steps([StepRecord(0, step, *ROW[2:], *MEASURED) for step in range(3)])
    sink.write_span(Span("validation", 1.0, 2.5, 3))
    sink.write_so_far(9.5, {"wait_s": 4.0, "loop_s": 5.5})
    summary = summarize([StepRecord(0, step, *ROW[2:]) for step in range(3)])
    sink.close(summary)
    sink.close(None)
    run = read_run(path)
    assert run.header == {"schema": SCHEMA, "host": "here"}
    assert run.records[2] == StepRecord(0, 2, *ROW[2:], *MEASURED)
    assert run.spans == (Span("validation", 1.0, 2.5, 3),)
    assert run.so_far == {"total_s": 9.5, "ledger": {"wait_s": 4.0, "loop_s": 5.5}}
    assert (run.summary, run.problems) == (summary, ())


@pytest.mark.parametrize("row", [ROW, ROW + NOT_MEASURED, ROW + MEASURED])
def test_a_step_comes_back_whatever_was_measured_of_it(sink, path, row):
    sink.write_steps([StepRecord(*row)])
    assert read_run(path).records == (StepRecord(*row),)


def test_what_a_reader_fills_in_is_not_written(sink, path):
    """But None without a default is: there it says "not measured"."""
    sink.write_steps([StepRecord(*ROW, *NOT_MEASURED)])
    line = lines_of(path)[1]
    assert list(line) == ["kind", *StepRecord._fields[: len(ROW)], "end_s"]
    assert line["transfer_s"] is None


def test_times_are_written_to_a_tenth_of_a_microsecond(sink, path):
    sink.write_steps([StepRecord(0, 0, 4, 1 / 3, *ROW[4:])])
    sink.write_span(Span("checkpoint", 1 / 3, 2 / 3, 0))
    sink.write_so_far(1 / 3, {"wait_s": 2 / 3})
    _, step, span, so_far = lines_of(path)
    assert (step["wait_s"], so_far["total_s"], so_far["ledger"]["wait_s"]) == (0.3333333, 0.3333333, 0.6666667)
    assert span == {"kind": "span", "span": "checkpoint", "start_s": 0.3333333, "end_s": 0.6666667, "epoch": 0}


KILLED = """
import os, signal, sys
from pathlib import Path
from lightning_fastdata.results.run_file_writer import RunFileWriter
from lightning_fastdata.results.records import Span, StepRecord
sink = RunFileWriter(Path(sys.argv[1]), {})
write = {
    "steps": lambda: sink.write_steps([StepRecord(0, 0, 4, 0.25, None, 0.5, 0.125, True, 1, 1, 0)]),
    "span": lambda: sink.write_span(Span("validation", 1.0, 2.5, 3)),
    "so far": lambda: sink.write_so_far(9.5, {"wait_s": 4.0}),
}
write[sys.argv[2]]()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["steps", "span", "so far"])
def test_it_is_on_disk_at_once(path, what):
    """A process that is killed leaves every line that it wrote."""
    subprocess.run([sys.executable, "-c", KILLED, str(path), what], check=False)
    run = read_run(path)
    assert {"steps": run.records, "span": run.spans, "so far": run.so_far}[what]


@pytest.mark.parametrize("end", [lambda sink: sink.close(None), RunFileWriter.abandon])
def test_after_its_end_nothing_is_written(path, end):
    sink = RunFileWriter(path, {})
    end(sink)
    before = path.read_text()
    sink.write_steps([StepRecord(*ROW)])
    sink.write_span(Span("validation", 1.0, 2.5, 3))
    sink.write_so_far(9.5, {})
    sink.close(summarize([]))
    sink.abandon()
    assert path.read_text() == before


def test_a_path_that_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for bad in (tmp_path, tmp_path / "file" / "run.jsonl"):
        with pytest.raises(FastDataError, match="cannot write there"):
            RunFileWriter(bad, {})
