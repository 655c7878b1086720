"""What a tuner decided: as plain data, and its file, which is refused where it is none or damaged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results import Consumer, Probe, Trial, TuneResult
from lightning_fastdata.results.tuning import is_tuning, read_tuning, write_tuning

RESULT = TuneResult(
    num_workers=4,
    prefetch_factor=2,
    reason="because",
    probe=Probe(8, 0.08, 0.04, 0.1, 0.001, 1000, 2, None, 0.2),
    consumer=Consumer(0.02),
    trials=(Trial(0, None, 0.1, 0.1, 0.08, steps=9), Trial(4, 2, 0.021, 0.0205, 0.001)),
    notes=("a note",),
    versions={"torch": "2.9"},
)


def test_what_was_written_is_read(tmp_path):
    """Its beginning says what it is."""
    path = tmp_path / "tuning.json"
    write_tuning(path, RESULT)
    assert is_tuning(path)
    assert read_tuning(path) == RESULT
    path.write_text(json.dumps({**json.loads(path.read_text()), "from_the_future": 1}))
    assert read_tuning(path) == RESULT
    (tmp_path / "other").write_text('{"kind": "header"}')
    assert not is_tuning(tmp_path / "other")
    assert not is_tuning(tmp_path / "nowhere")


def test_a_file_of_schema_1_has_all_its_figures():
    """Written before the schema rose."""
    read = read_tuning(Path(__file__).parent / "fixtures" / "tuning_schema1.json")
    limit = "4 cores can give at most 100 batches/s"
    assert read == replace(RESULT, cpus=4.0, throughput_limit=limit, trials=RESULT.trials[1:])


def test_a_path_that_cannot_be_used_is_an_error_with_the_path(tmp_path):
    """What, and what to do."""
    with pytest.raises(FastDataError, match=r"nowhere.*cannot be written"):
        write_tuning(tmp_path / "nowhere" / "x.json", RESULT)
    with pytest.raises(FastDataError, match=r"nowhere.*cannot be read"):
        read_tuning(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "header"}, "no file of a tuning"),
        ({"schema": 99}, "schema 99"),
        ({"schema": None}, "schema None"),
        ({"trials": 5}, "damaged"),
        ({"trials": [{"num_workers": "four"}]}, "damaged"),
        ({"reason": 5}, "damaged"),
        ({"probe": {"batch_s": "fast"}}, "damaged"),
        ({"consumer": {"step_s": float("nan")}}, "damaged"),
    ],
)
def test_what_is_damaged_foreign_or_newer_is_refused(tmp_path, changes, words):
    """With a sentence instead of a traceback from within."""
    path = tmp_path / "tuning.json"
    write_tuning(path, RESULT)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(FastDataError, match=words):
        read_tuning(path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(FastDataError, match="damaged"):
        read_tuning(path)


def test_the_arguments_are_those_of_a_dataloader():
    """Without workers there is nothing to prefetch or to keep; without a decision there are none."""
    assert RESULT.arguments() == {"num_workers": 4, "prefetch_factor": 2, "persistent_workers": True}
    assert TuneResult(0, None, "").arguments() == {"num_workers": 0}
    assert TuneResult(None, None, "").arguments() == {}


def test_a_trial_knows_its_share_and_its_name():
    """What was not measured has no share."""
    assert round(RESULT.trials[0].wait_share, 9) == 0.8
    assert Trial(1, 2, None, 0.1).wait_share is None
    assert [trial.name for trial in RESULT.trials] == ["0 workers", "4 workers x 2"]
    assert Trial(1, 2, None, None).name == "1 worker x 2"
    assert RESULT.chosen is RESULT.trials[1]
