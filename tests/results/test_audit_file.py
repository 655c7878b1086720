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
    """Other tools may read it too: names and order of the entries."""
    lines = [line(), line(1, first_batch=5, samples=None, digest=None, marks=(), batches=1)]
    assert read_audit(write(path, *lines)) == lines
    first, _ = path.read_text().splitlines()
    assert first.startswith(
        '{"kind": "epoch", "schema": 1, "epoch": 0, "first_batch": 0, "batches": 3, "samples": 12, '
    )


def test_a_line_without_a_number_of_rules_is_of_the_first(path):
    """Files of before there were others."""
    values = {name: value for name, value in asdict(line()).items() if name != "rules"}
    path.write_text(json.dumps({"kind": "epoch", "schema": 1, **values}) + "\n")
    assert read_audit(path)[0].rules == 1


def test_a_resumed_run_replaces_what_it_does_again(path):
    """The newest line of an epoch wins, and later epochs of the run before it went back are gone."""
    again = line(1, digest="f" * 16)
    assert read_audit(write(path, line(0), line(1), line(2), again)) == [line(0), again]
    assert read_audit(write(path, line(2, samples=7))) == [line(0), again, line(2, samples=7)]


def test_a_run_that_continues_keeps_its_lines(path):
    """But for the half line of a killed run, so that the next is not glued to it."""
    whole = write(path, line()).read_text()
    for before, keep, after in (
        (whole + whole[:20], True, whole),
        (whole, True, whole),
        (whole, False, ""),
        (whole[:20], True, ""),
    ):
        path.write_text(before)
        start_file(path, keep=keep)
        assert path.read_text() == after


def test_a_path_is_checked_before_anything_is_written(tmp_path):
    """Folders are made, and what is in the file stays."""
    path = tmp_path / "a" / "b" / "audit.jsonl"
    check_writable(path)
    write(path, line())
    check_writable(path)
    assert read_audit(path) == [line()]
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
    with pytest.raises(FastDataError, match="cannot be read"):
        read_audit(path.parent / "nowhere")
    with pytest.raises(FastDataError, match=words) as caught:
        read_audit(path)
    assert "audit.jsonl" in caught.value.what
    assert caught.value.expected
    assert caught.value.fix
