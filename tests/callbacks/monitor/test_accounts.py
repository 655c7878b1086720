"""Accounts: every moment is in exactly one of them."""

import random

import pytest

from lightning_fastdata.callbacks.monitor.accounts import Accounts
from lightning_fastdata.results.stats import ACCOUNTS


def test_a_long_gap_between_labels_is_unattributed(monkeypatch):
    monkeypatch.setattr("lightning_fastdata.callbacks.monitor.accounts._LONGEST_LOOP_GAP_S", 0.02)
    accounts = running()
    accounts.add("wait", 0.01, 1.0)
    accounts.add("compute", 1.5, 2.0)
    expected = {"wait_s": 0.99, "compute_s": 0.5, "loop_s": 0.01 + 0.02 + 0.015, "unattributed_s": 0.48}
    assert nonzero(accounts, 2.015) == expected
    accounts.settle(2.015)
    assert nonzero(accounts, 2.015) == expected


def nonzero(accounts, now):
    return {name: pytest.approx(value) for name, value in accounts.sums(now).items() if abs(value) > 1e-12}


def running(now=0.0):
    accounts = Accounts(0.0)
    accounts.enter("loop", now)
    return accounts


def test_before_the_first_batch_everything_is_start_up():
    accounts = Accounts(10.0)
    accounts.add("callback", 11.0, 12.0)
    accounts.add("checkpoint", 12.0, 13.0)
    assert nonzero(accounts, 15.0) == {"startup_s": 5.0}
    accounts.enter("loop", 16.0)
    assert nonzero(accounts, 16.0) == {"startup_s": 6.0}
    assert accounts.total_s(16.0) == 6.0


def test_what_lies_within_is_taken_out():
    accounts = running()
    accounts.add("checkpoint", 2.0, 5.0)
    accounts.add("callback", 1.0, 6.0)
    accounts.add("wait", 7.0, 8.0)
    accounts.add("compute", 6.5, 10.0)
    assert nonzero(accounts, 11.0) == {
        "checkpoint_s": 3.0,
        "callbacks_s": 2.0,
        "wait_s": 1.0,
        "compute_s": 2.5,
        "loop_s": 2.5,
    }


def test_callbacks_within_a_validation_are_validation_but_checkpoints_are_not():
    accounts = running()
    accounts.add("checkpoint", 4.0, 6.0)
    accounts.add("callback", 3.0, 7.0)
    accounts.add("callback", 8.0, 9.0)
    accounts.add("validation", 2.0, 10.0)
    assert nonzero(accounts, 10.0) == {"checkpoint_s": 2.0, "validation_s": 6.0, "loop_s": 2.0}


def test_hooks_that_save_a_checkpoint_calls_are_part_of_it():
    accounts = running()
    accounts.add("callback", 1.0, 2.0)
    accounts.add("checkpoint", 0.0, 3.0)
    assert nonzero(accounts, 3.0) == {"checkpoint_s": 3.0}


def test_the_gap_belongs_to_the_phase():
    accounts = running()
    accounts.add("compute", 0.0, 1.0)
    accounts.enter("boundary", 2.0)
    accounts.add("callback", 3.0, 4.0)
    accounts.enter("boundary", 4.5)
    accounts.enter("loop", 5.0)
    accounts.enter("shutdown", 6.0)
    accounts.enter("after", 8.0)
    accounts.close(8.5)
    accounts.add("callback", 9.0, 10.0)
    expected = {"compute_s": 1.0, "loop_s": 2.0, "boundary_s": 4.0, "callbacks_s": 1.0, "unattributed_s": 0.5}
    assert nonzero(accounts, 99.0) == expected
    assert (accounts.shutdown_s, accounts.total_s(99.0)) == (2.0, 8.5)


def test_an_interval_that_began_before_a_phase_counts_from_there():
    """dataloader_iter: the first fetch, which ends the start-up, lies within the first training step."""
    accounts = Accounts(0.0)
    accounts.enter("loop", 2.0)
    accounts.add("wait", 2.0, 3.0)
    accounts.add("compute", 1.0, 5.0)
    assert nonzero(accounts, 5.0) == {"startup_s": 2.0, "wait_s": 1.0, "compute_s": 2.0}


def test_asking_in_the_middle_changes_nothing():
    asked, left_alone = running(), running()
    for accounts in (asked, left_alone):
        accounts.add("wait", 0.0, 1.0)
        if accounts is asked:
            accounts.sums(1.5)
        accounts.add("compute", 1.0, 2.0)
        accounts.settle(3.0)
    assert asked.sums(3.0) == left_alone.sums(3.0)


@pytest.mark.parametrize("seed", range(20))
def test_the_accounts_sum_to_the_total_whatever_happens(seed):
    rng = random.Random(seed)
    accounts, now = Accounts(0.0), 0.0
    kinds = ["wait", "transfer", "compute", "validation", "checkpoint", "callback", "sync", "boundary"]

    def interval(depth):
        nonlocal now
        start = now
        now += rng.random()
        for _ in range(rng.randrange(3) if depth < 3 else 0):
            interval(depth + 1)
        now += rng.random()
        accounts.add(rng.choice(kinds), start, now)

    for _ in range(50):
        interval(0)
        now += rng.random()
        if rng.random() < 0.4:
            accounts.enter(rng.choice(["loop", "boundary", "shutdown"]), now)
        if rng.random() < 0.4:
            accounts.settle(now)
        sums = accounts.sums(now)
        assert list(sums) == list(ACCOUNTS)
        assert sum(sums.values()) == pytest.approx(accounts.total_s(now))
        assert min(sums.values()) >= -1e-9
