"""DeviceTimer: exposed starvation and copies, on a stream in virtual time; on a real one with a GPU."""

import gc
import inspect
import random
import time
import weakref
from types import SimpleNamespace

import pytest
import torch

from lightning_fastdata.callbacks.monitor.cuda_timer import DeviceTimer, device_timer

WORK = 0.010


class Forbidden(BaseException):
    """What must never be done; no handler of ours may keep it."""


class FakeEvent:
    def __init__(self, stream):
        self.stream = stream
        self.at = None

    def record(self, stream=None):
        self.stream.used("record", self)
        self.at = max(self.stream.now, self.stream.free_at)

    def query(self):
        self.stream.used("query", self)
        return self.stream.answers and self.at <= self.stream.now

    def elapsed_time(self, end_event):
        self.stream.used("elapsed_time", self)
        if max(self.at, end_event.at) > self.stream.now:
            raise RuntimeError("Both events must be completed before calculating elapsed time.")
        return (end_event.at - self.at) * 1e3

    def synchronize(self):
        raise Forbidden("synchronize")

    wait = synchronize


class FakeStream:
    """A stream in virtual time: it does what is queued, in order, while the host goes on."""

    def __init__(self):
        self.now = self.free_at = 0.0
        self.answers = True
        self.capturing = False
        self.breaks = ""
        self.made = []
        self.log = []

    def event(self):
        self.used("make_event")
        event = FakeEvent(self)
        self.made.append(weakref.ref(event))
        return event

    def is_capturing(self):
        if self.breaks == "is_capturing":
            raise RuntimeError("no driver")
        return self.capturing

    def used(self, name, event=None):
        self.log.append((name, event))
        if name == self.breaks:
            raise RuntimeError(f"CUDA error: {name} broke\nCompile with TORCH_USE_CUDA_DSA.")
        if self.capturing and name != "make_event":
            raise Forbidden(f"{name} while a graph is captured")

    def queue(self, seconds):
        self.free_at = max(self.free_at, self.now) + seconds

    def host(self, seconds):
        self.now += seconds

    def catch_up(self):
        self.now = max(self.now, self.free_at)

    def names(self):
        return [name for name, _ in self.log]


@pytest.fixture
def stream():
    return FakeStream()


@pytest.fixture
def timer(stream):
    return DeviceTimer(stream.event, stream.is_capturing)


def fetch(timer, stream, wait, copy=None):
    timer.before_fetch()
    stream.host(wait)
    timer.after_fetch()
    if copy is not None:
        stream.queue(copy)
        timer.after_transfer()


def steps(timer, stream, count, wait=0.004, copy=0.001):
    for _ in range(count):
        fetch(timer, stream, wait, copy)
        stream.queue(WORK)
        timer.end_step()
        stream.catch_up()


def everything(timer, stream):
    """All steps that were not reported of before, when the device has done all."""
    stream.catch_up()
    return timer.close()


def ms(times):
    return [(number, *(None if t is None else round(t * 1e3, 6) for t in rest)) for number, *rest in times]


# What is measured.


def test_events_are_recorded_right_before_and_after_the_fetch_and_after_the_copy(timer, stream):
    timer.before_fetch()
    stream.used("fetch")
    timer.after_fetch()
    stream.used("copy")
    timer.after_transfer()
    stream.used("compute")
    timer.end_step()
    known = [name for name in stream.names() if name != "make_event"]
    assert known == ["record", "fetch", "record", "copy", "record", "compute"]
    assert stream.log[1][0] == "record"  # the event was made before, outside of what is measured


@pytest.mark.parametrize("seed", range(60))
def test_idle_and_hidden_are_the_wait_in_any_schedule(stream, seed):
    """The truth is counted tick by tick; all times are whole milliseconds."""
    draw = random.Random(seed)
    timer = DeviceTimer(stream.event, stream.is_capturing)
    truth, reported = [], []
    for _ in range(draw.randint(1, 40)):
        idle = hidden = wait = copied = 0
        for _ in range(draw.randint(1, 3)):
            stream.host(draw.choice((0, 0, 1, 5)) / 1e3)
            if draw.random() < 0.5:
                stream.queue(draw.randint(0, 12) / 1e3)
            begin, took = round(stream.now * 1e3), draw.choice((0, 1, 3, 10))
            busy = sum(tick < round(stream.free_at * 1e3) for tick in range(begin, begin + took))
            wait, hidden, idle = wait + took, hidden + busy, idle + took - busy
            copy = draw.choice((0, 2))
            copied += copy
            fetch(timer, stream, took / 1e3, copy / 1e3)
            stream.queue(draw.randint(0, 15) / 1e3)
        timer.end_step()
        truth.append((idle, hidden, wait, copied))
        if draw.random() < 0.3:
            reported += timer.resolved()
            assert len(reported) <= max(0, len(truth) - 2)
    reported += everything(timer, stream)
    assert timer.failed is None
    assert [number for number, _, _ in reported] == list(range(len(truth)))
    for (_, idle_s, copy_s), (idle, hidden, wait, copied) in zip(reported, truth, strict=True):
        assert idle_s * 1e3 == pytest.approx(idle, abs=1e-6)
        assert -1e-9 <= idle_s <= wait / 1e3 + 1e-9
        assert idle_s * 1e3 + hidden == pytest.approx(wait, abs=1e-6)
        assert copy_s * 1e3 == pytest.approx(copied, abs=1e-6)


def test_read_ahead_gives_the_first_step_two_fetches_and_one_copy(timer, stream):
    fetch(timer, stream, 0.004)
    fetch(timer, stream, 0.003, copy=0.002)
    timer.end_step()
    stream.catch_up()
    fetch(timer, stream, 0.001, copy=0.002)
    timer.end_step()
    assert ms(everything(timer, stream)) == [(0, 7, 2), (1, 1, 2)]


def test_the_end_of_a_loader_is_no_wait(timer, stream):
    """Read ahead, it is found before the last batch is copied: that copy has no event to begin with."""
    fetch(timer, stream, 0.004, copy=0.002)
    fetch(timer, stream, 0.050)
    timer.found_the_end()
    timer.after_transfer()
    timer.end_step()
    steps(timer, stream, 1)
    assert ms(everything(timer, stream)) == [(0, 4, None), (1, 4, 1)]


def test_a_step_without_a_fetch_did_not_starve_but_a_run_without_one_was_not_measured(timer, stream):
    timer.end_step()
    steps(timer, stream, 1)
    timer.end_step()
    assert ms(everything(timer, stream)) == [(0, None, None), (1, 4, 1), (2, 0, None)]


def test_only_the_first_transfer_after_a_fetch_is_its_own(timer, stream):
    """Augmentation on the device, and batches of validation, are no copies of training's."""
    timer.after_transfer()  # the sanity check
    fetch(timer, stream, 0.004, copy=0.002)
    stream.queue(0.100)
    timer.after_transfer()
    timer.end_step()
    stream.host(1.0)
    timer.after_transfer()
    fetch(timer, stream, 0.004)
    timer.end_step()  # it moves its batches by itself
    stream.host(1.0)
    timer.after_transfer()
    assert ms(everything(timer, stream)) == [(0, 4, 2), (1, 4, None)]
    assert stream.names().count("record") == 5


def test_what_no_step_used_is_in_none(timer, stream):
    steps(timer, stream, 1)
    fetch(timer, stream, 0.050, copy=0.001)
    fetch(timer, stream, 0.050, copy=0.001)
    timer.forget_fetches()
    stream.catch_up()
    steps(timer, stream, 1)
    assert ms(everything(timer, stream)) == [(0, 4, 1), (1, 4, 1)]
    assert len(stream.made) == 9


def test_what_never_ended_is_in_no_result(timer, stream):
    timer.before_fetch()
    stream.host(5.0)  # it raised, or it was a tuner's
    steps(timer, stream, 1)
    assert len(stream.made) == 3
    fetch(timer, stream, 0.004, copy=0.001)
    assert ms(everything(timer, stream)) == [(0, 4, 1)]


def test_a_stream_that_was_changed_within_is_not_measured(timer, stream):
    """Times between events on different streams mean nothing; that they run backwards shows it."""
    for backwards in ("fetch", "copy"):
        stream.queue(0.010)
        timer.before_fetch()
        if backwards == "fetch":
            stream.free_at = stream.now
        timer.after_fetch()
        stream.queue(0.010)
        if backwards == "copy":
            stream.free_at = stream.now
        timer.after_transfer()
        timer.end_step()
        stream.host(1.0)
    assert ms(timer.close()) == [(0, None, None), (1, 0, None)]


# When it is reported.


def test_steps_are_reported_in_order_two_behind_and_once(timer, stream):
    reported = []
    for number in range(6):
        steps(timer, stream, 1)
        reported.append([entry.number for entry in timer.resolved()])
        if number < 2:
            assert "query" not in stream.names()
    first = {stream.log[place][1] for place in (1, 3, 5)}
    assert {event for name, event in stream.log if name == "query"} >= first
    assert reported == [[], [], [0], [1], [2], [3]]
    assert [entry.number for entry in timer.close()] == [4, 5]


def test_a_later_step_that_is_done_waits_for_the_earlier_ones(timer, stream):
    for _ in range(5):
        fetch(timer, stream, 0.004, copy=0.001)
        timer.end_step()
    events = [event for name, event in stream.log if name == "record"]
    stream.host(1.0)
    events[5].at = stream.now + 1.0  # the copy of step 1, on another stream
    assert [number for number, _, _ in timer.resolved()] == [0]
    stream.host(2.0)
    assert [number for number, _, _ in timer.resolved()] == [1, 2]


@pytest.mark.parametrize("late", [0, 1, 2], ids=["start", "end", "copied"])
def test_all_events_of_a_fetch_are_asked(timer, stream, late):
    fetch(timer, stream, 0.004, copy=0.001)
    timer.end_step()
    [event for name, event in stream.log if name == "record"][late].at = 100.0
    timer.end_step()
    timer.end_step()
    assert timer.resolved() == []
    assert timer.failed is None


def test_a_busy_device_is_not_waited_for(timer, stream):
    stream.queue(100.0)
    for _ in range(5):
        fetch(timer, stream, 0.004, copy=0.001)
        timer.end_step()
    assert timer.resolved() == []
    assert "elapsed_time" not in stream.names()
    stream.catch_up()
    assert ms(timer.resolved()) == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]


def test_the_end_takes_what_is_done_and_lets_go_of_all_events(timer, stream):
    steps(timer, stream, 4)
    assert ms(timer.resolved()) == [(0, 4, 1), (1, 4, 1)]  # whose events are there to be used again
    fetch(timer, stream, 0.004, copy=50.0)
    timer.end_step()
    timer.before_fetch()  # two are left
    assert len(stream.made) == 12
    assert ms(timer.close()) == [(2, 4, 1), (3, 4, 1), (4, None, None)]
    stream.log.clear()
    gc.collect()
    assert [event for event in stream.made if event() is not None] == []
    steps(timer, stream, 4)
    assert timer.close() == [(number, None, None) for number in (5, 6, 7, 8)]
    assert stream.names() == []
    assert timer.failed is None


def test_the_end_asks_all_not_only_up_to_the_first_that_is_not_done(timer, stream):
    for _ in range(2):
        fetch(timer, stream, 0.004)
        timer.end_step()
    stream.log[1][1].at = 100.0
    assert ms(timer.close()) == [(0, None, None), (1, 4, None)]


# How many events there are.


@pytest.mark.parametrize(
    ("most_pending", "fetches", "asked"),
    [(512, 1, True), *((most, 1, False) for most in (0, 1, 3, 5, 30)), (30, 200, False)],
)
def test_events_are_used_again_and_nothing_is_lost(stream, most_pending, fetches, asked):
    """Also when no one asks for long, and where a step has more fetches than there are events."""
    timer = DeviceTimer(stream.event, stream.is_capturing, most_pending=most_pending)
    reported = []
    for _ in range(300 if fetches == 1 else 3):
        for _ in range(fetches):
            fetch(timer, stream, 0.004, copy=0.001)
            stream.catch_up()
        timer.end_step()
        reported += timer.resolved() if asked else []
    assert len(stream.made) <= (9 if asked else max(3, most_pending))
    reported += everything(timer, stream)
    assert ms(reported) == [(number, 4 * fetches, fetches) for number in range(len(reported))]


def test_a_device_that_never_answers_costs_the_oldest_steps_and_no_more_events(stream):
    timer = DeviceTimer(stream.event, stream.is_capturing, most_pending=30)
    stream.answers = False
    steps(timer, stream, 100)
    assert timer.resolved() == [(number, None, None) for number in range(90)]
    assert len(stream.made) == 30
    stream.answers = True
    assert ms(timer.close()) == [(number, 4, 1) for number in range(90, 100)]


# CUDA graphs.


@pytest.mark.parametrize(
    ("begins", "expected"),
    [("before", (None, None)), ("within", (None, None)), ("after", (4, None))],
)
def test_nothing_is_recorded_while_a_graph_is_captured(timer, stream, begins, expected):
    """The stream forbids it; ``Forbidden`` would come through."""
    steps(timer, stream, 1)
    fetch(timer, stream, 0.004, copy=0.001)
    stream.catch_up()
    stream.capturing = begins == "before"
    timer.before_fetch()
    stream.capturing |= begins == "within"
    stream.host(0)
    timer.after_fetch()
    stream.capturing = True
    timer.after_transfer()
    stream.capturing = False
    timer.end_step()
    steps(timer, stream, 1)
    assert ms(everything(timer, stream)) == [(0, 4, 1), (1, *expected), (2, 4, 1)]
    assert timer.failed is None


def test_a_copy_after_a_fetch_that_was_captured_is_not_that_of_the_fetch_before(timer, stream):
    """And a capture whose fetches no step used leaves the next step alone."""
    fetch(timer, stream, 0.004)  # read ahead
    stream.capturing = True
    fetch(timer, stream, 0.004)
    stream.capturing = False
    timer.after_transfer()
    assert stream.names().count("record") == 2
    timer.forget_fetches()
    stream.catch_up()
    steps(timer, stream, 1)
    assert ms(everything(timer, stream)) == [(0, 4, 1)]


def test_a_capture_that_ends_within_a_fetch_leaves_it_unmeasured(timer, stream):
    timer.before_fetch()  # never ended: its event is there to be taken for this fetch's
    stream.capturing = True
    timer.before_fetch()
    stream.capturing = False
    timer.after_fetch()
    timer.end_step()
    assert everything(timer, stream) == [(0, None, None)]


def test_nothing_is_asked_while_a_graph_is_captured(stream):
    """``cudaEventQuery`` would make the capture fail."""
    timer = DeviceTimer(stream.event, stream.is_capturing, most_pending=30)
    steps(timer, stream, 5)
    stream.capturing = True
    assert timer.resolved() == []
    stream.capturing = False
    assert ms(timer.resolved()) == [(0, 4, 1), (1, 4, 1), (2, 4, 1)]
    steps(timer, stream, 20)
    stream.capturing = True
    steps(timer, stream, 20)
    assert all(rest == [None, None] for _, *rest in timer.close()[-22:])
    assert timer.failed is None


# Faults.


ASKED = ("query", "elapsed_time", "is_capturing")
RECORDED = ("make_event", "record", "is_capturing")
FAULTS = [
    *((call, breaks) for call in ("before_fetch", "after_fetch", "after_transfer") for breaks in RECORDED),
    *((call, breaks) for call in ("resolved", "close", "make_room") for breaks in ASKED),
]


@pytest.mark.parametrize(("call", "breaks"), FAULTS)
def test_a_fault_turns_the_timer_off_and_never_reaches_the_training(stream, call, breaks):
    timer = DeviceTimer(stream.event, stream.is_capturing, most_pending=15 if call == "make_room" else 512)
    steps(timer, stream, 5)
    for name in ("before_fetch", "after_fetch", "after_transfer", "end_step", "resolved"):
        if name == call or (name, call) == ("before_fetch", "make_room"):
            stream.breaks = breaks
        reported = getattr(timer, name)()
        assert (timer.failed is not None) == bool(stream.breaks), name
    stream.breaks = breaks
    reported += timer.close()
    assert timer.failed is not None
    assert timer.failed.startswith("RuntimeError: ")
    assert "\n" not in timer.failed
    known = 4 if call == "close" else 0  # reported before
    assert ms(reported) == [(number, 4, 1) for number in range(known)] + [(n, None, None) for n in range(known, 6)]


@pytest.mark.parametrize("breaks", ["record", "query", "elapsed_time"])
def test_after_a_fault_the_device_is_left_alone(timer, stream, breaks):
    """What was known before stays known; steps with and without a fetch are not measured from then on."""
    steps(timer, stream, 3)
    assert ms(timer.resolved()) == [(0, 4, 1)]
    steps(timer, stream, 3)
    stream.breaks = breaks
    timer.resolved()
    timer.before_fetch()
    assert timer.failed == f"RuntimeError: CUDA error: {breaks} broke"
    stream.breaks = ""
    stream.log.clear()
    steps(timer, stream, 2)
    timer.end_step()
    timer.forget_fetches()
    timer.end_step()
    assert stream.names() == []
    assert [entry[1:] for entry in timer.close()[-4:]] == [(None, None)] * 4


def test_an_error_without_words_is_named():
    def nothing():
        raise NotImplementedError

    timer = DeviceTimer(nothing, lambda: False)
    timer.before_fetch()
    assert timer.failed == "NotImplementedError"


# torch.


@pytest.mark.parametrize("device", [torch.device("cpu"), torch.device("mps"), torch.device("xla"), None])
def test_only_cuda_is_measured(device):
    assert device_timer(device) is None


def test_on_cuda_the_stream_is_that_of_the_device_whatever_the_current_one_is(monkeypatch, stream):
    there = torch.device("cuda", 1)
    seen = SimpleNamespace(current=0, streams=[], asked_on=[], options=[])

    class Selected:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            self.before, seen.current = seen.current, self.device.index

        def __exit__(self, *_):
            seen.current = self.before

    class Event(FakeEvent):
        def __init__(self, **options):
            super().__init__(stream)
            seen.options.append(options)

        def record(self, given=None):
            super().record()
            seen.streams.append(given)

    monkeypatch.setattr(torch.cuda, "device", Selected)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: seen.asked_on.append(seen.current))
    timer = device_timer(there)
    steps(timer, stream, 1)
    assert ms(everything(timer, stream)) == [(0, 4, 1)]
    assert seen.streams == ["stream of cuda:1"] * 3
    assert set(seen.asked_on) == {1}
    assert seen.current == 0
    assert seen.options == [{"enable_timing": True}] * 3


def test_torch_has_what_is_used_of_it():
    inspect.signature(torch.cuda.Event.record).bind("self", "stream")
    inspect.signature(torch.cuda.Event.query).bind("self")
    inspect.signature(torch.cuda.Event.elapsed_time).bind("self", "end_event")
    inspect.signature(torch.cuda.Event.__new__).bind("cls", enable_timing=True)
    inspect.signature(torch.cuda.current_stream).bind("device")
    inspect.signature(torch.cuda.is_current_stream_capturing).bind()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("busy_s", "wait_s", "idle_s"), [(0.0, 0.05, 0.05), (0.3, 0.05, 0.0), (0.1, 0.3, 0.2)], ids=str
)
def test_a_real_gpu_keeps_the_identity(busy_s, wait_s, idle_s):
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda._sleep(1_000_000)
    torch.cuda.synchronize()
    before = time.perf_counter()
    torch.cuda._sleep(100_000_000)
    torch.cuda.synchronize()
    cycles_per_s = 100_000_000 / (time.perf_counter() - before)
    timer = device_timer(device)
    for _ in range(2):  # the first time, events are created
        if busy_s:
            torch.cuda._sleep(int(busy_s * cycles_per_s))
        timer.before_fetch()
        time.sleep(wait_s)
        timer.after_fetch()
        timer.end_step()
        torch.cuda.synchronize()
    (_, _, _), (_, measured, copy_s) = timer.close()
    assert timer.failed is None
    assert measured == pytest.approx(idle_s, abs=0.02)
    assert copy_s is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_capture_is_left_alone():
    device = torch.device("cuda", torch.cuda.current_device())
    timer = device_timer(device)
    numbers = torch.zeros(8, device=device)
    for _ in range(4):
        timer.before_fetch()
        timer.after_fetch()
        timer.end_step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        numbers += 1
        timer.before_fetch()
        timer.after_fetch()
        timer.after_transfer()
        timer.end_step()
        assert timer.resolved() == []
    graph.replay()
    torch.cuda.synchronize()
    reported = timer.close()
    assert timer.failed is None
    assert [idle_s is None for _, idle_s, _ in reported] == [False] * 4 + [True]
    assert numbers.tolist() == [1.0] * 8
