"""The nouns of planning: what they take, what they refuse, and that nothing in a plan stands without a reason."""

import copy
import dataclasses
import json
import pickle

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.planning.options import FIELDS, LoaderOptions, LoaderPlan, Reason, Rehearsed

REASONS = {name: Reason("rule", f"why {name}") for name in FIELDS}


def plan(**changes):
    values = {
        "num_workers": 2,
        "prefetch_factor": 2,
        "pin_memory": False,
        "persistent_workers": True,
        "multiprocessing_context": None,
        "reasons": REASONS,
    }
    return LoaderPlan(**{**values, **changes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_workers", 4096),
        ("prefetch_factor", 1),
        ("prefetch_factor", None),
        ("multiprocessing_context", None),
        ("multiprocessing_context", "forkserver"),
    ],
)
def test_values_that_torch_takes_are_taken(name, value):
    """The edges of what is allowed are allowed."""
    assert getattr(LoaderOptions(**{name: value}), name) is value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_workers", -1),
        ("num_workers", 4097),
        ("num_workers", None),
        ("prefetch_factor", 0),
        ("pin_memory", "yes"),
        ("persistent_workers", "true"),
        ("multiprocessing_context", "thread"),
        ("multiprocessing_context", 3),
    ],
)
def test_values_that_cannot_be_meant_are_refused(name, value):
    """Negative, absurd and mistyped values name themselves, what is expected and the way out."""
    with pytest.raises(FastDataError) as caught:
        LoaderOptions(**{name: value})
    assert caught.value.what == f"{name}={value!r}."
    assert '"auto"' in caught.value.expected
    assert caught.value.fix == f'pass {name}="auto".'


@pytest.mark.parametrize("missing", FIELDS)
def test_a_plan_without_a_reason_for_every_value_is_refused(missing):
    """No value of a plan stands without its reason."""
    with pytest.raises(FastDataError, match=missing):
        plan(reasons={name: reason for name, reason in REASONS.items() if name != missing})


def test_a_plan_cannot_be_changed_by_accident():
    """Neither the fields nor the reasons of a plan can be written to, also not through the dict it was made from."""
    given = dict(REASONS)
    decided = plan(reasons=given)
    given.clear()
    assert set(decided.reasons) == set(FIELDS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        decided.num_workers = 3
    with pytest.raises(TypeError):
        decided.reasons["num_workers"] = Reason("user", "mine")


@pytest.mark.parametrize("again", [lambda plan: pickle.loads(pickle.dumps(plan)), copy.deepcopy, copy.copy])
def test_a_plan_survives_pickling_and_copying(again):
    """A DataModule with plans travels to the ranks of ddp_spawn."""
    assert again(plan()) == plan()
    assert again(plan()).reasons["pin_memory"] == REASONS["pin_memory"]
    tried = plan(rehearsed=Rehearsed(samples=8, took_s=0.1), warnings=("near",))
    assert again(tried) == tried


def test_a_plan_is_written_as_plain_json():
    """What is saved can be read without this package: value, source and reason for every option."""
    saved = json.loads(json.dumps(plan().to_dict()))
    assert saved["num_workers"] == {"value": 2, "source": "rule", "reason": "why num_workers"}
    assert list(saved) == list(FIELDS)
    tried = json.loads(json.dumps(plan(rehearsed=Rehearsed(samples=8, took_s=0.1)).to_dict()))["rehearsed"]
    assert (tried["value"], tried["source"], tried["took_s"]) == (8, "measured", 0.1)


def test_a_reason_reads_as_a_sentence():
    """Source first, then the text."""
    assert str(Reason("hardware", "two cores")) == "hardware: two cores"
