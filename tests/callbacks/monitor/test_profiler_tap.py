"""Seam: what is heard at the profiler, and that nothing is left behind."""

import threading
from types import SimpleNamespace

import pytest
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler

from lightning_fastdata.callbacks.monitor.profiler_tap import ProfilerTap

TRAIN = "[_TrainingEpochLoop].train_dataloader_next"


class Recording(PassThroughProfiler):
    """A user's profiler that takes its time and writes down the calls."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.calls = clock, []

    def start(self, action_name):
        self.clock.forward(10.0)
        self.calls.append(("start", action_name))

    def stop(self, action_name):
        self.clock.forward(10.0)
        self.calls.append(("stop", action_name))


class Ears:
    def __init__(self, profiler, clock, fail=False):
        self.heard, self.failures = [], []
        self.trainer = SimpleNamespace(profiler=profiler)
        kinds = ("train", "val", "test", "predict", "transfer", "after_transfer", "compute")
        self.tap = ProfilerTap(
            self.trainer,
            {kind: self.listener(kind, fail) for kind in kinds},
            on_error=self.failures.append,
            clock=clock,
        )

    def listener(self, kind, fail):
        def listen(interval):
            heard, start, end = interval
            assert heard == kind
            self.heard.append((kind, end - start))
            if fail:
                raise RuntimeError("mine")

        return listen


@pytest.fixture
def profiler(fake_clock):
    return Recording(fake_clock)


@pytest.fixture
def ears(profiler, fake_clock):
    made = Ears(profiler, fake_clock)
    made.tap.install()
    yield made
    made.tap.restore()


def test_the_users_profiler_is_called_and_its_own_time_is_not_in_the_interval(ears, profiler, fake_clock):
    with profiler.profile(TRAIN):
        fake_clock.forward(2.0)
    assert ears.heard == [("train", 2.0)]
    assert profiler.calls == [("start", TRAIN), ("stop", TRAIN)]


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        (TRAIN, "train"),
        ("[_EvaluationLoop].val_next", "val"),
        ("[_EvaluationLoop].test_next", "test"),
        ("[_PredictionLoop].predict_next", "predict"),
        ("[Strategy]DDPStrategy.batch_to_device", "transfer"),
        ("[LightningModule]Net.on_after_batch_transfer", "after_transfer"),
        ("run_training_batch", "compute"),
    ],
)
def test_labels_are_known_by_their_end(ears, profiler, label, kind):
    with profiler.profile(label):
        pass
    assert [heard for heard, _ in ears.heard] == [kind]


def test_other_labels_only_pass_through_and_do_not_pile_up(ears, profiler):
    for number in range(10_000):
        profiler.start(f"my own label {number}")
    assert ears.heard == []
    assert len(profiler.calls) == 10_000
    assert len(ears.tap.labels) <= 4096


def test_a_stop_without_a_start_is_tolerated(ears, profiler):
    """Trap 26."""
    profiler.stop(TRAIN)
    assert ears.heard == []


def test_an_error_of_simple_profiler_stays_its_own(fake_clock):
    """Trap 26: its ValueError on an unmatched stop is the user's, with and without us."""
    profiler = SimpleProfiler()
    ears = Ears(profiler, fake_clock)
    ears.tap.install()
    with pytest.raises(ValueError, match="stop recording"):
        profiler.stop("never started")
    ears.tap.restore()


def test_other_threads_do_not_count(ears, profiler):
    """Trap 19."""

    def elsewhere():
        with profiler.profile(TRAIN):
            pass

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert ears.heard == []


def test_a_failing_listener_is_reported_and_never_raises(profiler, fake_clock):
    ears = Ears(profiler, fake_clock, fail=True)
    ears.tap.install()
    with profiler.profile(TRAIN):
        pass
    ears.tap.restore()
    assert [str(error) for error in ears.failures] == ["mine"]


def test_under_the_silent_profiler_the_same_is_heard(fake_clock):
    """Lightning's default does nothing; there the labels that do not matter never reach Python code of ours."""
    profiler = PassThroughProfiler()
    ears = Ears(profiler, fake_clock)
    ears.tap.install()
    for label in (TRAIN, "other", TRAIN, "other"):
        with profiler.profile(label):
            fake_clock.forward(1.0)
    for number in range(10_000):
        profiler.start(f"my own label {number}")
    assert ears.heard == [("train", 1.0)] * 2
    assert len(profiler.start.__self__) <= 4096
    inner = profiler.start
    profiler.start = lambda action_name: inner(action_name)
    ears.tap.restore()
    with profiler.profile(TRAIN):
        pass
    assert len(ears.heard) == 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_several_seams_on_the_silent_profiler(fake_clock, order):
    profiler = PassThroughProfiler()
    before = dict(vars(profiler))
    seams = [Ears(profiler, fake_clock) for _ in range(2)]
    for ears in seams:
        ears.tap.install()
    with profiler.profile(TRAIN):
        fake_clock.forward(1.0)
    seams[order[0]].tap.restore()
    with profiler.profile(TRAIN):
        fake_clock.forward(1.0)
    seams[order[1]].tap.restore()
    assert vars(profiler) == before
    assert [len(seams[place].heard) for place in order] == [1, 2]


def test_restore_leaves_the_object_as_it_was(profiler, fake_clock):
    before = dict(vars(profiler))
    ears = Ears(profiler, fake_clock)
    assert ears.tap.install()
    assert ears.tap.install()
    assert isinstance(profiler, Recording)
    ears.tap.restore()
    ears.tap.restore()
    assert vars(profiler) == before


def test_a_replacement_that_was_there_before_is_put_back(profiler, fake_clock):
    mine = lambda action_name: None  # noqa: E731
    profiler.start = mine
    ears = Ears(profiler, fake_clock)
    ears.tap.install()
    ears.tap.restore()
    assert vars(profiler)["start"] is mine
    assert "stop" not in vars(profiler)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)])
def test_several_seams_hear_the_same_and_go_in_any_order(profiler, fake_clock, order):
    before = dict(vars(profiler))
    seams = [Ears(profiler, fake_clock) for _ in range(3)]
    for ears in seams:
        ears.tap.install()
    with profiler.profile(TRAIN):
        fake_clock.forward(1.0)
    for place in order:
        seams[place].tap.restore()
        profiler.start("still works")
    assert [ears.heard for ears in seams] == [[("train", 1.0)]] * 3
    assert {key: value for key, value in vars(profiler).items() if key != "calls"} == {
        key: value for key, value in before.items() if key != "calls"
    }
    assert profiler.calls.count(("start", "still works")) == 3


def test_under_a_foreign_replacement_it_falls_silent(profiler, fake_clock):
    ears = Ears(profiler, fake_clock)
    ears.tap.install()
    inner_start, inner_stop = profiler.start, profiler.stop
    profiler.start = lambda action_name: inner_start(action_name)
    profiler.stop = lambda action_name: inner_stop(action_name)
    ears.tap.restore()
    with profiler.profile(TRAIN):
        pass
    assert ears.heard == []
    assert profiler.calls == [("start", TRAIN), ("stop", TRAIN)]


def test_a_profiler_that_cannot_be_listened_to_is_said(fake_clock):
    class Slots:
        __slots__ = ()

        def start(self, action_name): ...

        def stop(self, action_name): ...

    ears = Ears(Slots(), fake_clock)
    assert not ears.tap.install()
    ears.tap.restore()
