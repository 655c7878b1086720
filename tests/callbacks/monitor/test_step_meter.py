"""StepMeter: which time goes to which step, on a clock that the test moves."""

import pytest

from lightning_fastdata.callbacks.monitor.fetch_probe import FetchInfo
from lightning_fastdata.callbacks.monitor.step_meter import StepMeter
from lightning_fastdata.results.records import StepRecord


class Script:
    """Plays what a Trainer does, second by second."""

    def __init__(self, clock, **arguments):
        self.clock = clock
        self.meter = StepMeter(clock, **arguments)
        self.step = 0

    def during(self, interval, seconds, *inside):
        start = self.clock.now
        for act in inside:
            act()
        self.clock.forward(seconds)
        interval(start, self.clock.now)

    def fetch(self, seconds):
        self.during(lambda start, end: self.meter.train_fetch(start, end, FetchInfo()), seconds)

    def transfer(self, seconds, augment=0.0):
        self.during(self.meter.transfer, seconds, lambda: self.during(self.meter.after_transfer, augment))

    def compute(self, seconds, *inside):
        self.during(self.meter.compute, seconds, *inside)

    def validate(self, *fetches, stage="val"):
        self.meter.start_stage(stage, self.clock.now)
        for seconds in fetches:
            self.during(lambda start, end: self.meter.stage_fetch(stage, start, end), seconds)
            self.transfer(0.5)
            self.meter.add_stage_batch(stage)
        return self.meter.end_stage(stage, self.clock.now)

    def close(self, samples=4):
        self.meter.add_batch(samples)
        self.meter.close_step(self.step, self.clock.now)
        self.step += 1
        return list(self.meter.records)[-1]


@pytest.fixture
def play(fake_clock):
    return Script(fake_clock)


def test_a_step_is_split_into_four_times_that_add_up_to_its_wall_time(play):
    """Fetch, transfer, compute, and the rest."""
    play.fetch(3.0)
    play.transfer(0.5)
    play.compute(2.0)
    play.clock.forward(0.25)
    assert play.close() == StepRecord(0, 0, 4, 3.0, 0.5, 2.0, 0.25, True, 1, 1, 0, end_s=5.75)
    assert play.meter.totals().train_s == 5.75


def skip_a_batch(play):
    play.fetch(5.0)  # the batch was None: no compute, no close
    assert not play.meter.batch_was_computed
    play.fetch(1.0)
    play.compute(1.0)
    assert play.meter.batch_was_computed


def validate_without_an_end(play):
    play.fetch(1.0)
    play.close()
    play.meter.start_stage("val", play.clock.now)
    play.clock.forward(2.0)
    play.fetch(1.0)
    play.compute(3.0)


def run_a_tuner(play):
    play.fetch(1.0)
    play.close()
    play.meter.go_away(play.clock.now)
    play.transfer(3.0)
    play.compute(50.0)
    play.fetch(1.0)


@pytest.mark.parametrize(
    ("acts", "expected"),
    [
        # Traps 2 and 3: the transfer is no wait, and augmentation no transfer.
        (
            lambda play: (play.fetch(1.0), play.transfer(0.5, augment=4.0), play.compute(1.0)),
            {"wait_s": 1.0, "transfer_s": 0.5, "other_s": 4.0},
        ),
        # Traps 1 and 4: a slow logger, checkpoint or callback after a step is in the next one, and no wait.
        (
            lambda play: (play.fetch(1.0), play.close(), play.clock.forward(7.0), play.fetch(1.0), play.compute(1.0)),
            {"wait_s": 1.0, "other_s": 7.0, "first_in_epoch": False},
        ),
        # Traps 5, 6 and 8: a loader without a length is read ahead; both fetches count.
        (
            lambda play: (play.fetch(1.0), play.clock.forward(10.0), play.fetch(2.0), play.compute(1.0)),
            {"wait_s": 3.0, "fetches": 2, "batches": 1, "other_s": 10.0},
        ),
        # Trap 12: dataloader_iter; a fetch inside the training step is wait and no compute.
        (
            lambda play: play.compute(1.0, lambda: play.fetch(3.0), lambda: play.fetch(0.5)),
            {"wait_s": 3.5, "compute_s": 1.0, "transfer_s": None},
        ),
        # Trap 36: the wait for a skipped batch goes to the next step.
        (skip_a_batch, {"wait_s": 6.0}),
        # A validation that Lightning sets up and then skips must not swallow the training.
        (validate_without_an_end, {"other_s": 0.0, "compute_s": 3.0}),
        # Trap 30: while a tuner runs fits of its own, the time is not the training's.
        (run_a_tuner, {"wait_s": 1.0, "compute_s": None, "other_s": 0.0}),
        # Traps 42 and 43: without any fetch the wait is not measured rather than zero.
        (
            lambda play: (play.meter.start_training(play.clock.now), play.clock.forward(2.0)),
            {"wait_s": None, "other_s": 2.0},
        ),
        (lambda play: (play.fetch(0.0), play.compute(1.0)), {"wait_s": 0.0}),
    ],
)
def test_which_time_is_which(play, acts, expected):
    acts(play)
    record = play.close()
    assert {name: getattr(record, name) for name in expected} == expected


def test_a_group_is_the_sum_over_its_micro_batches(play):
    """Trap 13."""
    for wait in (1.0, 2.0, 4.0):
        play.fetch(wait)
        play.compute(1.0)
        play.meter.add_batch(4)
    play.meter.close_step(0, play.clock.now)
    (record,) = play.meter.records
    assert (record.wait_s, record.compute_s, record.samples, record.batches) == (7.0, 3.0, 12, 3)


def test_the_exhausting_call_adds_to_the_last_step_and_steps_are_not_counted_by_fetches(play):
    """Trap 7."""
    for wait in (1.0, 1.0, 0.25):
        play.fetch(wait)
    play.compute(1.0)
    play.close()
    assert play.meter.totals().wait_s == 2.25
    assert play.meter.totals().steps == 1


def test_what_no_step_used_goes_into_the_totals(play):
    """Traps 36 and 37: an epoch that is cut short."""
    play.fetch(1.0)
    play.compute(1.0)
    play.close()
    play.fetch(5.0)
    play.meter.end_tail(play.clock.now)
    play.meter.end_tail(play.clock.now)
    totals = play.meter.totals()
    assert (totals.wait_s, totals.tail_wait_s, totals.train_s, totals.steps) == (6.0, 5.0, 7.0, 1)


def test_an_epoch_end_with_nothing_pending_leaves_its_time_to_the_next_step(play):
    """The ledger has no holes: epoch ends are other_s."""
    for _ in range(2):
        play.fetch(1.0)
        play.close()
        play.clock.forward(3.0)
        play.meter.end_tail(play.clock.now)
        play.meter.start_epoch()
    assert [record.other_s for record in play.meter.records] == [0.0, 3.0]


def test_validation_is_no_training_time_and_is_kept_apart(play):
    """Trap 29."""
    play.fetch(1.0)
    play.compute(1.0)
    play.close()
    run = play.validate(2.0, 6.0)
    play.clock.forward(0.25)
    play.fetch(1.0)
    play.compute(1.0)
    record = play.close()
    assert (record.wait_s, record.transfer_s, record.other_s) == (1.0, None, 0.25)
    assert (run.batches, run.wait_s, run.wait_s_max, run.elapsed_s) == (2, 8.0, 6.0, 9.0)
    assert play.meter.totals().train_s == 4.25


def test_each_validation_run_is_reported_alone_and_summed(play):
    play.validate(2.0)
    second = play.validate(1.0, 1.0)
    (stage,) = play.meter.stages()
    assert (second.runs, second.wait_s, second.wait_s_max) == (1, 2.0, 1.0)
    assert (stage.runs, stage.batches, stage.wait_s, stage.wait_s_max) == (2, 3, 4.0, 2.0)


def test_each_loader_of_an_evaluation_is_kept_apart(play):
    """One after the other; its own waits, and what was done with its batches."""
    meter = play.meter
    for _ in range(2):
        meter.open_loaders("val", play.clock.now)
        play.clock.forward(0.25)  # belongs to the first loader: its workers start here
        for loader, waits in (("0", (1.0, 3.0)), ("1", (8.0,))):
            for seconds in waits:
                play.during(lambda start, end: meter.stage_fetch("val", start, end), seconds)
                play.clock.forward(0.5)
                meter.add_stage_batch("val", loader)
        play.clock.forward(2.0)  # the end of the evaluation is no loader's
        meter.end_stage("val", play.clock.now)
    (stage,) = meter.stages()
    first, second = stage.loaders
    assert (first.stage, first.runs, first.batches, first.wait_s, first.wait_s_max) == ("val/0", 2, 4, 8.0, 3.0)
    assert (second.stage, second.runs, second.batches, second.wait_s, second.wait_s_max) == ("val/1", 2, 2, 16.0, 8.0)
    assert (first.elapsed_s, second.elapsed_s, stage.elapsed_s) == (10.5, 17.0, 31.5)


def test_what_a_batch_size_finder_did_before_an_evaluation_is_not_its_time(play):
    """Loaders that are opened again before any batch: the evaluation begins with the last opening."""
    meter = play.meter
    meter.open_loaders("val", play.clock.now)
    play.during(lambda start, end: meter.stage_fetch("val", start, end), 4.0)  # read ahead: waited for all the same
    play.clock.forward(30.0)  # the trials, which are not timed
    meter.open_loaders("val", play.clock.now)
    play.validate(1.0)
    (stage,) = meter.stages()
    assert (stage.runs, stage.batches, stage.wait_s, stage.elapsed_s) == (1, 1, 5.0, 5.5)


def test_an_evaluation_that_ended_before_it_read_anything_is_none(play):
    """A tuner ends it in its first hook; while it is on, it is there."""
    meter = play.meter
    meter.open_loaders("val", play.clock.now)
    assert len(meter.stages()) == 1
    play.clock.forward(30.0)
    meter.end_stages(play.clock.now)
    assert meter.stages() == []


def test_a_batch_that_was_fetched_ahead_keeps_its_own_wait(play):
    """Without a length the first batch of a loader is fetched before the last step of the one before it."""
    meter = play.meter
    fetch = lambda seconds: play.during(lambda start, end: meter.stage_fetch("val", start, end), seconds)  # noqa: E731
    meter.open_loaders("val", play.clock.now)
    fetch(1.0)
    for loader, ahead in (("0", 2.0), ("0", 16.0), ("1", 32.0), ("1", 0.125)):
        fetch(ahead)  # the last of them finds the loaders empty
        play.clock.forward(0.5)
        meter.add_stage_batch("val", loader)
    meter.end_stage("val", play.clock.now)
    (stage,) = meter.stages()
    assert [(loader.wait_s, loader.elapsed_s) for loader in stage.loaders] == [(3.0, 4.0), (48.0, 49.0)]
    assert stage.wait_s == 51.125


def test_what_was_fetched_for_an_evaluation_that_never_came_is_no_batch(play):
    """Lightning sets loaders up, reads ahead, and after a restart skips the evaluation."""
    meter = play.meter
    for seconds in (64.0, 1.0):
        meter.open_loaders("val", play.clock.now)
        play.during(lambda start, end: meter.stage_fetch("val", start, end), seconds)
    meter.add_stage_batch("val", "0")
    (stage,) = meter.stages()
    assert (stage.wait_s, stage.loaders[0].wait_s) == (65.0, 1.0)


def test_evaluations_whose_loader_is_unknown_have_no_loaders(play):
    """And remember nothing, however many fetches there were."""
    meter = play.meter
    meter.open_loaders("val", play.clock.now)
    for _ in range(1000):
        play.during(lambda start, end: meter.stage_fetch("val", start, end), 1.0)
    meter.add_stage_batch("val")
    (stage,) = meter.stages()
    assert (stage.batches, stage.wait_s, stage.loaders) == (1, 1000.0, ())
    assert len(meter._stages["val"]._under_way) == 0


def test_a_window_is_what_happened_since_the_last_one(play):
    for wait in (1.0, 3.0):
        play.fetch(wait)
        play.compute(2.0)
        play.close()
    window = play.meter.take_window()
    assert (window.steps, window.wait_s, window.wait_s_max, window.wait_share) == (2, 4.0, 3.0, 0.5)
    assert play.meter.take_window().steps == 0


def test_samples_are_unknown_as_soon_as_one_batch_hides_its_size(play):
    play.fetch(1.0)
    play.meter.add_batch(4)
    play.meter.add_batch(None)
    play.meter.close_step(0, play.clock.now)
    assert next(iter(play.meter.records)).samples is None
    play.fetch(1.0)
    play.close()
    assert play.meter.totals().samples is None


def test_what_the_device_measured_goes_to_its_step(play):
    """It is part of the wait; what is beyond it is remembered (trap 45: the loader works on the device's stream)."""
    for _ in range(3):
        play.fetch(1.0)
        play.compute(1.0)
        play.close()
    play.meter.set_device(0, 0.25, 0.5)
    assert play.meter.idle_beyond_wait_s == 0.0
    play.meter.set_device(1, 1.75, None)
    play.meter.set_device(2, None, None)
    play.meter.set_device(7, 1.0, 1.0)
    told = [(record.device_idle_s, record.copy_s) for record in play.meter.records]
    assert told == [(0.25, 0.5), (1.0, None), (None, None)]
    assert play.meter.idle_beyond_wait_s == 0.75
    times = play.meter.device.times()
    assert (times.steps, times.idle_s, times.hidden_s, times.copy_s) == (2, 1.25, 0.75, 0.5)
    assert [record.device_idle_s for record in play.meter.take_records(hold=1)] == [0.25, 1.0]
