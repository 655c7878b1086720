"""The audit file: what is written can be read, and what cannot be read says so."""

import json
from dataclasses import asdict

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.audit_file import (
    SCHEMA,
    EpochDigest,
    append_epoch,
    check_writable,
    read_audit,
    start_file,
)


def line(epoch=0, **changes):
    values = {"first_batch": 0, "batches": 3, "samples": 12, "digest": "0123456789abcdef", "content": None, "stride": 2}
    return EpochDigest(**{"epoch": epoch, **values, "marks": ("89abcdef",), "content_marks": (), **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def write(path, *lines):
    for each in lines:
        append_epoch(path, each)
    return path


def test_what_is_written_is_read(path):
    lines = [line(), line(1, first_batch=5, samples=None, digest=None, marks=(), batches=1)]
    assert read_audit(write(path, *lines)) == lines


def test_the_form_of_a_line(path):
    """Other tools may read it: names and order of the entries."""
    written = json.loads(write(path, line()).read_text())
    assert list(written)[:6] == ["kind", "schema", "epoch", "first_batch", "batches", "samples"]
    assert (written["kind"], written["schema"], written["content"]) == ("epoch", 1, None)
    assert path.read_text().count("\n") == 1


def test_a_resumed_run_replaces_what_it_does_again(path):
    """The newest line of an epoch wins, and later epochs of the run before it went back are gone."""
    again = line(1, digest="f" * 16)
    assert read_audit(write(path, line(0), line(1), line(2), again)) == [line(0), again]
    assert read_audit(write(path, line(2, samples=7))) == [line(0), again, line(2, samples=7)]


def test_starting_anew_and_going_on(path):
    """A half line of a killed run goes, so that the next is not glued to it."""
    write(path, line())
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    start_file(path, keep=True)
    assert path.read_text() == whole
    start_file(path, keep=True)
    assert path.read_text() == whole
    start_file(path, keep=False)
    assert path.read_text() == ""
    path.write_text(whole[:20])
    start_file(path, keep=True)
    assert path.read_text() == ""


def test_checking_makes_folders_and_keeps_what_is_there(tmp_path):
    path = tmp_path / "a" / "b" / "audit.jsonl"
    check_writable(path)
    write(path, line())
    check_writable(path)
    assert read_audit(path) == [line()]


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(FastDataError, match="cannot write there") as caught:
        check_writable(tmp_path)
    assert caught.value.fix


GOOD = json.dumps({"kind": "epoch", "schema": SCHEMA, **asdict(line())}) + "\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no epoch"),
        (GOOD + GOOD[:30], "line 2 is cut off"),
        (GOOD[:-1], "line 1 is cut off"),
        ("epoch,loss\n0,1\n", "line 1: no JSON"),
        (GOOD + "[1]\n", "line 2: no line of an audit"),
        ('{"kind": "header", "schema": 1}\n', "line 1: no line of an audit"),
        ('{"kind": "epoch"}\n', "no line of an audit"),
        (GOOD.replace('"schema": 1', '"schema": 2'), "schema 2"),
        (GOOD.replace('"samples": 12, ', ""), "incomplete .*`samples`"),
        (GOOD.replace('"batches": 3', '"batches": -3'), "incomplete"),
        (GOOD.replace('"stride": 2', '"stride": 0'), "incomplete"),
        (GOOD.replace('"stride": 2', '"stride": 1'), "1 marks instead of 3"),
        (GOOD.replace("0123456789", "wxyz456789"), "incomplete"),
        (GOOD.replace("0123456789", ""), "incomplete .*digest"),
        (GOOD.replace('"marks": ["89abcdef"]', '"marks": 7'), "incomplete"),
    ],
)
def test_files_that_cannot_be_read(path, text, words):
    """What, expected, fix; with the line."""
    path.write_text(text)
    with pytest.raises(FastDataError, match=words) as caught:
        read_audit(path)
    assert "audit.jsonl" in caught.value.what
    assert caught.value.expected
    assert caught.value.fix


def test_a_file_that_is_not_there(path):
    with pytest.raises(FastDataError, match="cannot be read"):
        read_audit(path)
