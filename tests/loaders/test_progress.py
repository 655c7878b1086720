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
