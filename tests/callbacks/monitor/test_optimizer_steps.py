"""OptimizerSteps: where one optimizer step ends."""

from types import SimpleNamespace

import pytest

from lightning_fastdata.callbacks.monitor.optimizer_steps import OptimizerSteps


def trainer(accumulate=1, global_step=0, last=()):
    state = SimpleNamespace(accumulate_grad_batches=accumulate, global_step=global_step, is_last_batch=False)
    state.at = lambda idx: setattr(state, "is_last_batch", idx in last) or state
    return state


@pytest.mark.parametrize(
    ("accumulate", "batches", "expected"),
    [(1, 3, [0, 1, 2]), (2, 4, [None, 0, None, 1]), (4, 6, [None, None, None, 0, None, 1]), (8, 3, [None, None, 0])],
)
def test_groups_of_micro_batches_with_an_incomplete_last_one(accumulate, batches, expected):
    steps = OptimizerSteps(automatic=True, first_step=0)
    state = trainer(accumulate, last=(batches - 1,))
    assert [steps.ended(state.at(idx), idx) for idx in range(batches)] == expected


def test_numbering_goes_on_after_a_resume():
    assert OptimizerSteps(automatic=True, first_step=40).ended(trainer(), 0) == 40


def test_by_hand_a_step_ends_when_the_global_step_moved_or_the_epoch_ends():
    steps, state = OptimizerSteps(automatic=False, first_step=0), trainer(last=(4,))
    found = []
    for idx, global_step in enumerate([0, 1, 1, 2, 2]):
        state.global_step = global_step
        found.append(steps.ended(state.at(idx), idx))
    assert found == [None, 0, None, 1, 2]


def test_by_hand_with_raw_optimizers_every_batch_counts_in_the_end():
    """Their steps are invisible to Lightning; a run without a single record would be worse."""
    steps, state = OptimizerSteps(automatic=False, first_step=0), trainer()
    found = [steps.ended(state, idx) for idx in range(70)]
    assert found[:63] == [None] * 63
    assert found[63:] == list(range(7))
    assert steps.every_batch_counts
