"""Ledger: which account a fetch belongs to, and what an epoch boundary costs, on a clock that the test moves."""

import pytest

from lightning_fastdata.callbacks.monitor.fetch_probe import FetchInfo
from lightning_fastdata.callbacks.monitor.ledger import MOST_SPANS, Ledger
from lightning_fastdata.results.records import Span

WORKERS, INLINE = FetchInfo(from_workers=True), FetchInfo(from_workers=False)


def accounts(ledger, now):
    return {name: pytest.approx(value) for name, value in ledger.accounts.sums(now).items() if abs(value) > 1e-12}


def running(first=INLINE):
    """A ledger whose first batch came in the second second."""
    ledger = Ledger(0.0)
    ledger.fetch(1.0, 2.0, first)
    ledger.end_step(2.0)
    return ledger


def test_the_first_batch_of_workers_ends_the_start_up_and_is_part_of_it():
    ledger = Ledger(0.0)
    assert ledger.fetch(1.0, 2.0, WORKERS)
    assert not ledger.fetch(2.0, 2.5, WORKERS)
    assert accounts(ledger, 3.0) == {"startup_s": 2.0, "wait_s": 0.5, "loop_s": 0.5}


@pytest.mark.parametrize("known", [INLINE, FetchInfo()])
def test_without_workers_the_first_batch_is_read_like_any_other(known):
    ledger = Ledger(0.0)
    assert not ledger.fetch(1.0, 2.0, known)
    assert accounts(ledger, 2.5) == {"startup_s": 1.0, "wait_s": 1.0, "loop_s": 0.5}


@pytest.mark.parametrize(
    ("first", "times", "saving", "accounts_then"),
    [
        (WORKERS, (1, 2.0, 3.0, 5.0), 2.0, {"startup_s": 2.0, "loop_s": 4.0, "boundary_s": 5.0}),
        (INLINE, (1, 2.0, 0.0, 2.0), 2.0, {"startup_s": 1.0, "wait_s": 4.0, "loop_s": 4.0, "boundary_s": 2.0}),
    ],
)
def test_an_epoch_boundary_is_the_iterator_and_the_first_batch_of_workers(first, times, saving, accounts_then):
    """Trap 9. Without workers the first batch is a wait: nothing was started for it."""
    ledger = running(first)
    ledger.open_boundary(5.0)
    assert ledger.fetch(7.0, 10.0, first) is (first is WORKERS)
    boundary = ledger.boundary(False, 2)
    assert (boundary.boundaries, boundary.iterator_s, boundary.refill_s, boundary.per_epoch_s) == times
    assert (boundary.saving_s_per_epoch, boundary.saving_is_exact) == (saving, False)
    assert accounts(ledger, 11.0) == accounts_then
    for persistent in (True, None):  # then there is nothing to save
        assert ledger.boundary(persistent, 2).saving_s_per_epoch is None


def test_two_openings_in_a_row_are_one_boundary():
    """Trap 10: a reloaded loader is opened twice; the time of both counts, the change once."""
    ledger = running()
    for now in (3.0, 4.0, 5.0):
        ledger.open_boundary(now)
    ledger.fetch(6.0, 6.5, INLINE)
    boundary = ledger.boundary(None, 2)
    assert (boundary.boundaries, boundary.iterator_s) == (1, 3.0)


def test_what_is_opened_before_the_first_batch_is_start_up():
    ledger = Ledger(0.0)
    for now in (1.0, 2.0):
        ledger.open_boundary(now)
    ledger.fetch(3.0, 4.0, INLINE)
    assert ledger.boundary(None, 1).boundaries == 0
    assert ledger.boundary(None, 1).per_epoch_s is None


@pytest.mark.parametrize(("second", "saving", "exact"), [(0.75, 3.25, True), (None, 2.0, False)])
def test_the_saving_is_exact_only_where_every_start_was_stamped(second, saving, exact):
    ledger = running(WORKERS)
    for start, started in ((5.0, 1.75), (25.0, second)):
        ledger.open_boundary(start)
        ledger.fetch(start + 2.0, start + 5.0, FetchInfo(from_workers=True, worker_start_s=started))
        ledger.end_step(start + 5.0)
    boundary = ledger.boundary(False, 3)
    assert (boundary.saving_s_per_epoch, boundary.saving_is_exact) == (saving, exact)


def test_the_first_epochs_worker_start_is_no_saving():
    """It is paid with persistent workers too."""
    ledger = Ledger(0.0)
    ledger.fetch(1.0, 6.0, FetchInfo(from_workers=True, worker_start_s=4.0))
    ledger.end_step(6.0)
    ledger.open_boundary(10.0)
    ledger.fetch(11.0, 12.0, FetchInfo(from_workers=True, worker_start_s=0.5))
    assert ledger.boundary(False, 2).saving_s_per_epoch == 1.5


def test_a_shorter_loader_that_restarts_is_boundary_and_not_wait():
    """Trap 11: it happens inside the fetch, in the middle of an epoch."""
    ledger = running(WORKERS)
    assert ledger.fetch(2.0, 5.0, FetchInfo(from_workers=True, restarted=True))
    assert accounts(ledger, 5.0) == {"startup_s": 2.0, "boundary_s": 3.0}
    boundary = ledger.boundary(True, 1)
    assert (boundary.restart_s, boundary.boundaries, boundary.refill_s) == (3.0, 0, 0.0)


def test_the_call_that_finds_the_end_is_boundary():
    """Trap 7."""
    ledger = running()
    ledger.found_the_end(2.0, 4.0)
    ledger.open_boundary(5.0)
    ledger.fetch(5.0, 6.0, INLINE)
    assert accounts(ledger, 6.0) == {"startup_s": 1.0, "wait_s": 2.0, "boundary_s": 2.0, "loop_s": 1.0}
    assert ledger.boundary(None, 2).refill_s == 2.0


def test_shutting_down_after_the_last_epoch_is_boundary_too():
    ledger = running()
    ledger.accounts.enter("shutdown", 3.0)
    ledger.accounts.enter("after", 7.0)
    assert ledger.boundary(None, 1).shutdown_s == 4.0
    assert accounts(ledger, 7.0) == {"startup_s": 1.0, "wait_s": 1.0, "loop_s": 1.0, "boundary_s": 4.0}


def test_a_change_that_was_not_seen_is_not_measured():
    assert running().boundary(None, 2) is None
    assert running().boundary(None, 1).boundaries == 0


def test_a_validation_is_one_interval_whatever_opens_it_again():
    ledger = running()
    ledger.open_validation(3.0)
    ledger.open_validation(4.0)
    ledger.close_validation(6.0)
    ledger.close_validation(9.0)
    assert accounts(ledger, 9.0) == {"startup_s": 1.0, "wait_s": 1.0, "validation_s": 3.0, "loop_s": 4.0}


def test_spans_are_given_once_and_short_ones_not_at_all():
    ledger = Ledger(10.0)
    ledger.add("checkpoint", 10.5, 10.9)  # before the first batch: start-up
    ledger.fetch(11.0, 12.0, INLINE)
    ledger.add("checkpoint", 13.0, 14.0)
    ledger.add("checkpoint", 15.0, 15.0009)
    ledger.add("callback", 16.0, 17.0)
    ledger.epoch = 3
    ledger.open_validation(18.0)
    ledger.close_validation(19.0)
    expected = [Span("checkpoint", 3.0, 4.0, 0), Span("validation", 8.0, 9.0, 3)]
    assert ledger.take_spans() == expected
    assert ledger.take_spans() == []
    assert list(ledger.spans) == expected


def test_spans_do_not_pile_up():
    ledger = running()
    for at in range(3, 3 + 2 * MOST_SPANS):
        ledger.add("checkpoint", at, at + 0.5)
        ledger.accounts.settle(at + 0.5)
    assert len(ledger.spans) == len(ledger.take_spans()) == MOST_SPANS


def test_the_end_of_the_last_epoch_is_no_change_of_epochs():
    ledger = running()
    ledger.found_the_end(2.0, 4.0)
    ledger.open_boundary(4.0)
    ledger.fetch(5.0, 6.0, INLINE)
    ledger.found_the_end(6.0, 8.0)
    boundary = ledger.boundary(None, 2)
    assert (boundary.refill_s, boundary.per_epoch_s) == (2.0, 3.0)


def test_a_loader_that_is_read_ahead_in_the_start_up_has_no_boundary_in_the_first_epoch():
    """Without a length: Lightning fetches before the first epoch begins."""
    ledger = Ledger(0.0)
    ledger.fetch(1.0, 2.0, INLINE)
    ledger.open_boundary(3.0)
    ledger.fetch(3.5, 4.0, INLINE)
    ledger.end_step(4.0)
    assert ledger.boundary(None, 1).boundaries == 0
    for opening in (5.0, 6.0):  # replaced, and read ahead after each
        ledger.open_boundary(opening)
        ledger.fetch(opening + 0.25, opening + 0.5, INLINE)
    boundary = ledger.boundary(None, 2)
    assert (boundary.boundaries, boundary.iterator_s) == (1, 0.5)


def test_what_callbacks_do_between_two_epochs_is_no_boundary():
    """A new loader is opened before on_train_epoch_start; what callbacks do there could not be saved."""
    ledger = running(WORKERS)
    ledger.open_boundary(5.0)
    ledger.add("callback", 5.5, 8.5)
    ledger.fetch(9.0, 10.0, WORKERS)
    assert ledger.boundary(False, 2).iterator_s == 1.0
    assert accounts(ledger, 10.0)["callbacks_s"] == 3.0


def test_nothing_is_drawn_on_the_time_line_of_a_run_that_is_over():
    ledger = running()
    ledger.accounts.close(3.0)
    ledger.open_validation(4.0)
    ledger.close_validation(5.0)
    assert list(ledger.spans) == []
