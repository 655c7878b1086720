"""The file of a tuning: written, read, and refused where it is none or damaged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_fastdata import FastDataError
from lightning_fastdata.results.tune_file import is_tuning, read_tuning, write_tuning
from lightning_fastdata.results.tuning import Consumer, Probe, Trial, TuneResult

RESULT = TuneResult(
    4,
    2,
    "because",
    probe=Probe(8, 0.08, 0.04, 0.1, 0.001, 1000, 2, None, 0.2),
    consumer=Consumer(0.02),
    trials=(Trial(4, 2, 0.021, 0.0205, 0.001),),
)


def test_what_was_written_is_read(tmp_path):
    """And told from anything else by its beginning."""
    path = tmp_path / "tuning.json"
    write_tuning(path, RESULT)
    assert is_tuning(path)
    assert read_tuning(path) == RESULT
    (tmp_path / "other").write_text('{"kind": "header"}')
    assert not is_tuning(tmp_path / "other")
    assert not is_tuning(tmp_path / "nowhere")


def test_a_file_of_schema_1_has_all_its_figures():
    """Written before the schema rose."""
    read = read_tuning(Path(__file__).parent / "fixtures" / "tuning_schema1.json")
    limit, versions = "4 cores can give at most 100 batches/s", {"torch": "2.9"}
    assert read == replace(RESULT, cpus=4.0, throughput_limit=limit, notes=("a note",), versions=versions)


def test_a_folder_that_is_not_there_is_an_error_with_the_path(tmp_path):
    """What, and what to do."""
    with pytest.raises(FastDataError, match=r"nowhere.*cannot be written"):
        write_tuning(tmp_path / "nowhere" / "x.json", RESULT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: "[]", "no file of a tuning"),
        (lambda text: json.dumps({**json.loads(text), "schema": 99}), "schema 99"),
        (lambda text: json.dumps({**json.loads(text), "schema": None}), "schema None"),
        (lambda text: json.dumps({**json.loads(text), "trials": 5}), "damaged"),
        (lambda text: json.dumps({**json.loads(text), "trials": [{"num_workers": "four"}]}), "damaged"),
        (lambda text: json.dumps({**json.loads(text), "reason": 5}), "damaged"),
        (lambda text: json.dumps({**json.loads(text), "probe": {"batch_s": "fast"}}), "damaged"),
        (lambda text: text.replace("0.08", '"x"'), "damaged"),
    ],
)
def test_what_is_damaged_foreign_or_newer_is_refused(tmp_path, change, words):
    """With a sentence instead of a traceback from within."""
    path = tmp_path / "tuning.json"
    write_tuning(path, RESULT)
    path.write_text(change(path.read_text()))
    with pytest.raises(FastDataError, match=words):
        read_tuning(path)
