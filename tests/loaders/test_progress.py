"""What a checkpoint says of a loader, and when it may not be continued."""

import json
from dataclasses import replace

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.progress import LoaderProgress

SAVED = LoaderProgress(
    seed=7,
    epoch=3,
    cycle=0,
    batches_consumed=2,
    samples_consumed=16,
    global_batch_size=8,
    dataset_length=21,
    order="shuffled",
    rules=2,
)


def test_to_and_from_a_checkpoint():
    """Plain values by name, which come back as they were; what else a checkpoint holds is left aside."""
    written = json.loads(json.dumps(SAVED.to_dict()))
    assert LoaderProgress.from_dict({**written, "generators": {"rank": 0}}) == SAVED
    assert set(written) == {
        *("seed", "epoch", "cycle", "batches_consumed", "samples_consumed"),
        *("global_batch_size", "dataset_length", "order", "rules", "name"),
    }


def test_a_state_of_something_else_is_refused():
    """The missing fields are named."""
    written = SAVED.to_dict()
    del written["cycle"], written["order"]
    with pytest.raises(FastDataError, match="has no cycle, order"):
        LoaderProgress.from_dict(written)


def test_a_state_of_the_first_rules_has_the_name_that_a_data_module_gave():
    """It was not written down; a loader that draws by another name now does not go on, and both rules are named."""
    written = {name: value for name, value in SAVED.to_dict().items() if name not in ("rules", "name")}
    old = LoaderProgress.from_dict(written, "train/a")
    assert (old.rules, old.name) == (1, "train/a")
    old.check_continues(here(name="train/a"), 3)
    with pytest.raises(FastDataError) as caught:
        LoaderProgress.from_dict(written).check_continues(here(name="train/0"), 3)
    assert "was None (rules 1) when" in caught.value.what
    assert "and is 'train/0' (rules 2)." in caught.value.what
    assert f"pass seed={SAVED.seed} to each" in caught.value.fix


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"seed": "7"}, "seed='7'"),
        ({"seed": True}, "seed=True"),
        ({"epoch": -1}, "epoch=-1"),
        ({"cycle": None}, "cycle=None"),
        ({"order": "sorted"}, "order='sorted'"),
        ({"rules": "2"}, "rules='2'"),
        ({"name": 1}, "name=1"),
        ({"batches_consumed": 1}, "batches_consumed=1, samples_consumed=16"),
        ({"samples_consumed": 15}, "batches_consumed=2, samples_consumed=15"),
    ],
    ids=str,
)
def test_values_that_no_run_can_have_written(changes, wrong):
    """Wrong types, and numbers that do not fit each other, are named with their values."""
    with pytest.raises(FastDataError) as caught:
        LoaderProgress.from_dict({**SAVED.to_dict(), **changes})
    assert wrong in caught.value.what


def test_a_place_that_is_not_the_trainers():
    """Another batch or another epoch is refused; the end of a shorter loader beside a longer one is not."""
    assert SAVED.place_in(here(), 3, 2, in_trainer=True) == (0, 2)
    assert SAVED.place_in(here(), 3, None, in_trainer=False) == (0, 2)
    assert SAVED.place_in(here(epoch=4), 3, 0, in_trainer=True) == (0, 0)
    assert replace(SAVED, cycle=1).place_in(here(), 3, 5, in_trainer=True) == (1, 2)
    over = replace(SAVED, batches_consumed=3, samples_consumed=21)
    assert over.place_in(here(), 3, 7, in_trainer=True) == (0, 3)
    assert over.place_in(here(epoch=4), 3, None, in_trainer=False) == (0, 0)
    for epoch, done, in_trainer in ((3, 1, True), (4, 2, True), (4, None, False)):
        with pytest.raises(FastDataError, match="is of batch 2 of epoch 3, cycle 0, and the run goes on at"):
            SAVED.place_in(here(epoch=epoch), 3, done, in_trainer=in_trainer)
    with pytest.raises(FastDataError, match="cycle 1"):
        replace(SAVED, cycle=1).place_in(here(), 3, None, in_trainer=False)


def here(**changes):
    """The same loader now, before its first batch."""
    return replace(SAVED, batches_consumed=0, samples_consumed=0, **changes)


def test_the_same_loader_continues():
    """The epoch and the cycle it was in are where it goes on, not a reason to stop."""
    SAVED.check_continues(here(), 3)
    SAVED.check_continues(here(epoch=4, cycle=1), None)


@pytest.mark.parametrize(
    ("changes", "was", "fix"),
    [
        ({"seed": 8}, "the seed was 7", "pass seed=7"),
        ({"dataset_length": 22}, "the number of samples in the training data was 21", "use the data"),
        ({"order": "in order"}, "the order of the training data was 'shuffled'", "same shuffle and sampler"),
        (
            {"global_batch_size": 4},
            "the global batch size (batch_size times ranks) was 8",
            "batch_size times ranks is 8",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_change_in_mid_epoch_is_refused(changes, was, fix):
    """Both values, the epoch, and what to do are in the message."""
    with pytest.raises(FastDataError) as caught:
        SAVED.check_continues(here(**changes), 3)
    (value,) = changes.values()
    assert was in caught.value.what
    assert f"in the middle of epoch 3, and is {value!r}." in caught.value.what
    assert fix in caught.value.fix
    assert "end of an epoch" in caught.value.fix


@pytest.mark.parametrize("consumed", [(0, 0), (3, 21)], ids=["before the first batch", "after the last sample"])
def test_a_change_at_an_epochs_end_is_allowed(consumed):
    """Nothing of the epoch is left, or nothing was begun, however many batches the loader has now."""
    batches, samples = consumed
    changed = here(seed=8, dataset_length=22, order="own sampler", global_batch_size=4)
    replace(SAVED, batches_consumed=batches, samples_consumed=samples).check_continues(changed, None)


@pytest.mark.parametrize("order", ["own sampler", "shuffled"])
def test_a_change_after_the_last_batch_is_allowed(order):
    """As with drop_last, or a sampler of the user's: the number of batches says it where their size is the same."""
    saved = replace(SAVED, order=order)
    saved.check_continues(here(seed=8, order=order), 2)
    for batches in (3, None):
        with pytest.raises(FastDataError, match="the seed"):
            saved.check_continues(here(seed=8, order=order), batches)


@pytest.mark.parametrize("changes", [{"global_batch_size": 16}, {"dataset_length": 16}], ids=str)
def test_the_number_of_other_batches_says_nothing(changes):
    """Two of three batches were consumed; that the loader now has two in all does not mean that nothing is left."""
    with pytest.raises(FastDataError, match=r"in the middle of epoch 3"):
        SAVED.check_continues(here(**changes), 2)
