"""What a tuner found, as plain data."""

import json

from lightning_fastdata.results.tuning import Consumer, Probe, Trial, TuneResult

PROBE = Probe(8, 0.08, 0.04, 0.1, 0.001, 1000, 2, None, 0.2)
RESULT = TuneResult(
    num_workers=4,
    prefetch_factor=2,
    reason="because",
    probe=PROBE,
    consumer=Consumer(0.02),
    trials=(Trial(0, None, 0.1, 0.1, 0.08, steps=9), Trial(4, 2, 0.021, 0.0205, 0.001, steps=9, verdict="taken")),
    notes=("a note",),
    versions={"torch": "2"},
)


def test_it_survives_json():
    """Every field, trials and probe included; what a newer version adds is left out."""
    values = json.loads(json.dumps(RESULT.to_dict()))
    assert TuneResult.from_dict({**values, "invented": 1}) == RESULT
    assert TuneResult.from_dict(json.loads(json.dumps(TuneResult(None, None, "why").to_dict()))).probe is None


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
