"""ProfilerTap: what is timed at the profiler, and that nothing is left behind."""

import itertools
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


class Tapped:
    def __init__(self, profiler, clock, fail=False):
        self.intervals, self.failures = [], []
        self.trainer = SimpleNamespace(profiler=profiler)
        kinds = ("train", "val", "test", "predict", "transfer", "after_transfer", "compute")
        self.tap = ProfilerTap(
            self.trainer,
            {kind: self.listener(kind, fail) for kind in kinds},
            on_error=self.failures.append,
            before={},
            on_start={},
            labels={},
            on_opening=lambda kind, now: None,
            clock=clock,
        )

    def listener(self, kind, fail):
        def listen(interval):
            kind, start, end = interval
            assert kind == kind
            self.intervals.append((kind, end - start))
            if fail:
                raise RuntimeError("mine")

        return listen


@pytest.fixture
def profiler(fake_clock):
    return Recording(fake_clock)


@pytest.fixture
def tapped(profiler, fake_clock):
    made = Tapped(profiler, fake_clock)
    made.tap.install()
    yield made
    made.tap.restore()


def test_the_users_profiler_is_called_and_its_own_time_is_not_in_the_interval(tapped, profiler, fake_clock):
    with profiler.profile(TRAIN):
        fake_clock.forward(2.0)
    assert tapped.intervals == [("train", 2.0)]
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
def test_labels_are_known_by_their_end(tapped, profiler, label, kind):
    with profiler.profile(label):
        pass
    assert [kind for kind, _ in tapped.intervals] == [kind]


def test_other_labels_only_pass_through_and_do_not_pile_up(tapped, profiler):
    for number in range(10_000):
        profiler.start(f"my own label {number}")
    assert tapped.intervals == []
    assert len(profiler.calls) == 10_000
    assert len(tapped.tap.labels) <= 4096


def test_a_stop_without_a_start_is_tolerated(tapped, profiler):
    """Trap 26."""
    profiler.stop(TRAIN)
    assert tapped.intervals == []


def test_an_error_of_simple_profiler_stays_its_own(fake_clock):
    """Trap 26: its ValueError on an unmatched stop is the user's, with and without us."""
    profiler = SimpleProfiler()
    tapped = Tapped(profiler, fake_clock)
    tapped.tap.install()
    with pytest.raises(ValueError, match="stop recording"):
        profiler.stop("never started")
    tapped.tap.restore()


def test_other_threads_do_not_count(tapped, profiler):
    """Trap 19."""

    def elsewhere():
        with profiler.profile(TRAIN):
            pass

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert tapped.intervals == []


def test_a_failing_listener_is_reported_and_never_raises(profiler, fake_clock):
    tapped = Tapped(profiler, fake_clock, fail=True)
    tapped.tap.install()
    with profiler.profile(TRAIN):
        pass
    tapped.tap.restore()
    assert [str(error) for error in tapped.failures] == ["mine"]


def test_under_the_silent_profiler_the_same_is_timed(fake_clock):
    """Lightning's default does nothing; there the labels that do not matter never reach Python code of ours."""
    profiler = PassThroughProfiler()
    tapped = Tapped(profiler, fake_clock)
    tapped.tap.install()
    for label in (TRAIN, "other", TRAIN, "other"):
        with profiler.profile(label):
            fake_clock.forward(1.0)
    for number in range(10_000):
        profiler.start(f"my own label {number}")
    assert tapped.intervals == [("train", 1.0)] * 2
    assert len(profiler.start.__self__) <= 4096
    inner = profiler.start
    profiler.start = lambda action_name: inner(action_name)
    tapped.tap.restore()
    with profiler.profile(TRAIN):
        pass
    assert len(tapped.intervals) == 2


def test_restore_leaves_the_object_as_it_was(profiler, fake_clock):
    before = dict(vars(profiler))
    tapped = Tapped(profiler, fake_clock)
    assert tapped.tap.install()
    assert isinstance(profiler, Recording)
    tapped.tap.restore()
    tapped.tap.restore()
    assert vars(profiler) == before


def test_a_replacement_that_was_there_before_is_put_back(profiler, fake_clock):
    mine = lambda action_name: None  # noqa: E731
    profiler.start = mine
    tapped = Tapped(profiler, fake_clock)
    tapped.tap.install()
    tapped.tap.restore()
    assert vars(profiler)["start"] is mine
    assert "stop" not in vars(profiler)


@pytest.mark.parametrize("kind", [Recording, PassThroughProfiler])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_several_taps_time_the_same_and_go_in_any_order(kind, fake_clock, order):
    profiler = Recording(fake_clock) if kind is Recording else PassThroughProfiler()
    before = dict(vars(profiler))
    taps = [Tapped(profiler, fake_clock) for _ in range(3)]
    for tapped in taps:
        tapped.tap.install()
    for place in order:
        with profiler.profile(TRAIN):
            fake_clock.forward(1.0)
        taps[place].tap.restore()
    with profiler.profile(TRAIN):
        fake_clock.forward(1.0)
    assert [taps[place].intervals for place in order] == [[("train", 1.0)] * count for count in (1, 2, 3)]
    assert vars(profiler) == before  # the list of calls is the same object
    assert kind is PassThroughProfiler or len(profiler.calls) == 8


def test_under_a_foreign_replacement_it_falls_silent(profiler, fake_clock):
    tapped = Tapped(profiler, fake_clock)
    tapped.tap.install()
    inner_start, inner_stop = profiler.start, profiler.stop
    profiler.start = lambda action_name: inner_start(action_name)
    profiler.stop = lambda action_name: inner_stop(action_name)
    tapped.tap.restore()
    with profiler.profile(TRAIN):
        pass
    assert tapped.intervals == []
    assert profiler.calls == [("start", TRAIN), ("stop", TRAIN)]


def test_a_profiler_that_cannot_be_tapped_is_said(fake_clock):
    class Slots:
        __slots__ = ()

        def start(self, action_name): ...

        def stop(self, action_name): ...

    tapped = Tapped(Slots(), fake_clock)
    assert not tapped.tap.install()
    tapped.tap.restore()
