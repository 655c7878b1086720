"""The run file, written and read back."""

import json

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.monitor.sinks import JsonLinesSink, path_of_rank, read_run
from lightning_fastdata.records import StepRecord
from lightning_fastdata.summary import summarise

ROW = (0, 0, 4, 0.25, None, 0.5, 0.125, True, 1, 1, 0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "run.jsonl"


@pytest.fixture
def written(path):
    sink = JsonLinesSink(path, {"host": "here"})
    sink.write_steps([(0, step, *ROW[2:]) for step in range(3)])
    sink.close(summarise([StepRecord(*ROW)]))
    sink.close(None)
    return path


def test_what_was_written_comes_back(written):
    header, records, summary = read_run(written)
    assert header["host"] == "here"
    assert records[2] == StepRecord(0, 2, *ROW[2:])
    assert summary == summarise([StepRecord(*ROW)])


def test_steps_are_on_disk_at_once(path):
    sink = JsonLinesSink(path, {})
    sink.write_steps([ROW])
    _, records, summary = read_run(path)
    assert (len(records), summary) == (1, None)
    sink.close(None)
    sink.write_steps([ROW])
    assert len(read_run(path)[1]) == 1


def test_a_last_line_that_was_cut_off_is_left_out(written):
    text = written.read_text()
    written.write_text(text[: text.index('"summary"')])
    _, records, summary = read_run(written)
    assert (len(records), summary) == (3, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0], "{broken", *lines[1:]], "line 2: no JSON"),
        (lambda lines: [lines[0], "[1]", *lines[1:]], "line 2: no JSON object"),
        (lambda lines: [lines[0], '{"kind": "step", "epoch": 0}'], "line 2: step is incomplete"),
        (lambda lines: [lines[0], '{"kind": "summary", "steps": 1}'], "line 2: summary is incomplete"),
        (lambda lines: lines[1:], "line 1: no header"),
        (lambda lines: [], "line 1: no header"),
        (lambda lines: ['{"kind": "header", "schema": 99}'], "line 1: schema 99"),
        (lambda lines: ["no json at all"], "line 1: no JSON"),
    ],
)
def test_anything_else_wrong_names_file_and_line(written, change, message):
    lines = change(written.read_text().splitlines())
    written.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(FastDataError, match=message) as caught:
        read_run(written)
    assert written.name in str(caught.value)


def test_unknown_kinds_and_fields_of_a_later_version_are_passed_over(written):
    lines = written.read_text().splitlines()
    step = json.dumps({**json.loads(lines[1]), "colour": "blue"})
    written.write_text("\n".join([lines[0], '{"kind": "event"}', step, ""]))
    assert len(read_run(written)[1]) == 1


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(FastDataError, match="cannot be read"):
        read_run(tmp_path / "no.jsonl")


def test_a_path_that_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for bad in (tmp_path, tmp_path / "file" / "run.jsonl"):
        with pytest.raises(FastDataError, match="cannot write there"):
            JsonLinesSink(bad, {})


def test_each_rank_has_its_own_file(tmp_path):
    assert path_of_rank(tmp_path / "run.jsonl", 0) == tmp_path / "run.jsonl"
    assert path_of_rank(tmp_path / "run.jsonl", 1) == tmp_path / "run.rank1.jsonl"
