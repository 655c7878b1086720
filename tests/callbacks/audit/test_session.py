"""What is known between the hooks, without a Trainer."""

from types import SimpleNamespace

import pytest

from lightning_fastdata.callbacks.audit.session import AuditSession


def audited(batches, *, epoch=1, run=None, world_size=1):
    """A run that was given these batches of an epoch, each of one sample."""
    run = run or AuditSession("audit.jsonl", False, world_size)
    loader = SimpleNamespace()
    for number in batches:
        loader.last_served = SimpleNamespace(epoch=epoch, cycle=0, number=number, indices=[number], padded=0)
        run.begin_batch(epoch, number)
        run.note(SimpleNamespace(train_dataloader=loader), None, number)
    return run


def resumed(state, **kwargs):
    run = AuditSession("audit.jsonl", False, kwargs.pop("world_size", 1))
    run.load(state)
    return run


@pytest.mark.parametrize(("begins", "first"), [(4, 4), (5, 0), (6, 0), (7, 7), (0, 0)])
def test_sums_of_a_checkpoint_count_where_they_end_with_the_batch_before(begins, first):
    """Or with that very batch. Sums with a gap would be those of another epoch."""
    run = audited(range(begins, 9), run=resumed(audited(range(6)).state()))
    run.end_epoch()
    assert (run.sums.first_batch, run.sums.next_batch, run.sums.samples) == (first, 9, 9 - first)


def test_the_sums_of_a_finished_epoch_are_left_over_once():
    """Only where the next epoch begins with its first batch, and the line was not written."""
    state = audited(range(6)).state()
    run = resumed(state)
    left_over = run.begin_batch(2, 0)
    assert (left_over.epoch, left_over.next_batch, left_over.samples, left_over.pending) == (1, 6, 6, None)
    assert run.begin_batch(2, 1) is None
    assert resumed(state).begin_batch(2, 3) is None
    assert resumed(state).begin_batch(3, 0) is None
    assert resumed({**state, "written": True}).begin_batch(2, 0) is None


def test_its_own_checkpoint_changes_nothing():
    """A tuner saves, tries and restores within a run."""
    run = audited(range(3))
    state = run.state()
    audited(range(3, 6), run=run)
    run.load(state)
    assert run.sums.pending.batch == 5


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1), (2, 2)])
def test_one_of_several_ranks_does_not_speak_for_all(before, now):
    state = audited(range(6), world_size=before).state()
    assert resumed(state, world_size=now).sums is None


def test_an_epoch_without_a_batch():
    run = AuditSession("audit.jsonl", False, 2)
    assert not run.end_epoch().any()
    assert run.state()["sums"] is None
    assert resumed(run.state()).sums is None
