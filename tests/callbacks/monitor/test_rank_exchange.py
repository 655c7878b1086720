"""The ranks' messages on their way: nothing blocks, nothing grows, nothing raises."""

import pytest
from torch.distributed import FileStore, HashStore, PrefixStore

from lightning_fastdata.callbacks.monitor.rank_exchange import RankExchange
from lightning_fastdata.results.records import StepRecord


class FakeStore:
    """Keeps what is set; a call that would block, or ask for nothing, is an error of the test."""

    def __init__(self):
        self.values = {}
        self.calls = []
        self.fault = None

    def _note(self, name, key):
        self.calls.append((name, key))
        if self.fault is not None:
            raise self.fault

    def set(self, key, value):
        self._note("set", key)
        assert isinstance(key, str)
        assert isinstance(value, bytes)
        self.values[key] = value

    def check(self, keys):
        self._note("check", keys[0])
        return all(key in self.values for key in keys)

    def get(self, key):
        self._note("get", key)
        if key not in self.values:
            pytest.fail(f"get({key!r}) would block")
        return self.values[key]

    def delete_key(self, key):
        self._note("delete", key)
        return self.values.pop(key, None) is not None


class Clock:
    def __init__(self):
        self.now, self.pauses, self.meanwhile = 0.0, [], lambda: None

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.pauses.append(seconds)
        self.meanwhile()


def ranks_of(store, count=2, *, key="test", clock=None):
    clock = clock or Clock()
    return [
        RankExchange(
            rank=rank, world_size=count, host=f"node{rank}", store=store, key=key, clock=clock, sleep=clock.sleep
        )
        for rank in range(count)
    ]


def epoch_of(ranks, epoch, *, steps=5, waits=(0.0045, 0.0406), length=0.058):
    for rank, wait in zip(ranks, waits, strict=False):
        rank.publish(epoch, [(epoch * steps + n, wait, length) for n in range(steps)])


@pytest.fixture
def store():
    return FakeStore()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: FakeStore(),
        lambda path: HashStore(),
        lambda path: PrefixStore("default_pg", HashStore()),
        lambda path: FileStore(str(path / "store"), 2),
    ],
)
def test_rank_zero_learns_of_the_others(make, tmp_path):
    """Whatever store it is; the others know nothing."""
    zero, one = ranks_of(make(tmp_path))
    for epoch in range(3):
        epoch_of((zero, one), epoch)
        zero.collect()
        one.collect()
    one.finish()
    zero.finish()
    times = zero.times()
    assert times.wait_share == pytest.approx(0.7, abs=0.001)
    assert (times.steps, times.slowest_rank, times.slowest_host, times.missing) == (15, 1, "node1", ())
    assert one.times() is None
    assert zero.note is None
    assert one.note is None


def test_no_rank_asks_for_what_may_be_missing(store):
    """``get`` of a missing key blocks for the store's timeout, half an hour; the store of the test would fail."""
    zero, one, two = ranks_of(store, 3)
    for rank in (two, one, zero):
        rank.collect()
    epoch_of((zero, one), 0)
    for rank in (zero, one, two, zero):
        rank.collect()
    one.finish()
    zero.finish()
    two.publish(0, [(0, 0.1, 0.2)])
    two.finish()
    assert zero.times().missing == (2,)


@pytest.mark.parametrize(
    ("slow_s", "arguments", "least", "most"),
    [
        (0.0, {}, 2.0, 2.1),
        (0.0, {"at_most_s": 0.5}, 0.5, 0.6),
        (0.0, {"at_most_s": 0.0}, 0.0, 0.0),
        (0.5, {}, 2.0, 2.6),
    ],
)
def test_the_wait_at_the_end_is_bounded(store, slow_s, arguments, least, most):
    """Also with a slow store: the clock decides, not the number of looks. A second end waits for no one."""
    clock = Clock()
    zero, _ = ranks_of(store, clock=clock)
    look = store.check

    def check(keys):
        clock.now += slow_s
        return look(keys)

    store.check = check
    zero.finish(**arguments)
    assert least <= clock.now <= most
    assert zero.times() is None
    assert "nothing arrived" in zero.note
    before = clock.now
    zero.finish()
    assert clock.now == before


def test_goodbyes_end_the_wait(store):
    clock = Clock()
    zero, one, two = ranks_of(store, 3, clock=clock)
    epoch_of((zero, one, two), 0, waits=(0.01, 0.02, 0.03))
    one.finish()

    def meanwhile():
        if len(clock.pauses) == 3:
            two.finish()

    clock.meanwhile = meanwhile
    zero.finish()
    assert len(clock.pauses) == 3
    assert zero.times().ranks == 3


def test_a_goodbye_comes_after_all_steps_and_also_without_any(store):
    clock = Clock()
    zero, one, two = ranks_of(store, 3, clock=clock)
    for epoch in range(2):
        epoch_of((zero, one, two), epoch, waits=(0.01, 0.02, 0.03))
        two.collect()
    one.finish()
    two.finish()
    zero.finish()
    assert clock.pauses == []
    assert zero.times().steps == 10
    assert zero.times().missing == ()
    assert not zero._merge._blocks


def test_a_rank_that_stops_sends_one_message_and_never_pauses(store):
    """The first one to a store that is gone goes unnoticed; torch complains at length about a second."""
    clock = Clock()
    _, one = ranks_of(store, clock=clock)
    one.collect()
    del store.calls[:]
    one.publish(0, [(0, 0.1, 0.2)])
    one.finish()
    assert [name for name, _ in store.calls] == ["set"]
    assert clock.pauses == []


def test_nothing_is_left_in_the_store_after_a_thousand_epochs(store):
    zero, one = ranks_of(store)
    most = 0
    for epoch in range(1000):
        epoch_of((zero, one), epoch)
        one.collect()
        most = max(most, len(store.values))
        zero.collect()
    one.finish()
    zero.finish()
    assert most <= 2
    assert list(store.values) == ["test/run"]
    assert zero.times().steps == 5000
    assert zero.times().wait_share == pytest.approx(0.7, abs=0.001)


@pytest.mark.parametrize("begun", [True, False])
def test_store_and_memory_stay_small_where_rank_zero_does_not_read(store, begun):
    """Its monitor may have stopped on a fault, or have not begun."""
    one = ranks_of(store)[1] if begun else RankExchange(rank=1, world_size=2, host="b", store=store, key="test")
    for epoch in range(1000):
        epoch_of([one], epoch, waits=[0.1])
        one.collect()
    assert len(store.values) <= (9 if begun else 0)
    assert len(one._unsent) <= 8


def test_a_reader_that_was_left_behind_goes_on_with_the_latest(store):
    """More messages than places while rank 0 did not look."""
    zero, one = ranks_of(store)
    for epoch in range(21):
        epoch_of([one], epoch, waits=[0.0406])
        one.collect()
    zero.collect()
    for epoch in range(21, 24):
        epoch_of((zero, one), epoch)
        one.collect()
        zero.collect()
    assert zero.times().steps == 15


def test_a_second_fit_does_not_see_the_first(store):
    """Neither what was left unread, nor what a rank still says that has not noticed."""
    zero, one = ranks_of(store)
    epoch_of((zero, one), 0)
    one.collect()  # rank 0 fails before it looks
    again = ranks_of(store)
    epoch_of([again[0]], 0)
    one.publish(0, [(n, 0.5, 0.6) for n in range(5)])
    one.finish()
    again[0].collect()
    assert again[0].times() is None
    epoch_of([again[1]], 0, waits=[0.01])
    again[1].finish()
    again[0].finish()
    assert again[0].times().wait_s_max_mean == pytest.approx(0.01, rel=1e-4)


def test_a_run_that_is_closed_takes_nothing_more(store):
    zero, one = ranks_of(store)
    zero.finish(at_most_s=0.0)
    epoch_of([one], 0)
    one.finish()
    assert list(store.values) == ["test/run"]


def test_two_monitors_do_not_meet(store):
    first, second = ranks_of(store, key="a"), ranks_of(store, key="b")
    epoch_of(first, 0)
    epoch_of(second, 0, waits=(0.01, 0.02))
    for zero, one in (first, second):
        one.finish()
        zero.finish()
    assert first[0].times().wait_s_max_mean == pytest.approx(0.0406, rel=1e-4)
    assert second[0].times().wait_s_max_mean == pytest.approx(0.02, rel=1e-4)


@pytest.mark.parametrize("sender", [1, 2])
def test_garbage_is_named_and_passed_over(store, sender):
    """What is no message, or one under another rank's name."""
    zero, one, _ = ranks_of(store, 3)
    epoch_of((zero, one), 0)
    one.collect()
    key = next(key for key in store.values if "/1/" in key)
    value = store.values.pop(key)
    key = key.replace("/1/", f"/{sender}/")
    store.values[key] = b"something else" if sender == 1 else value
    zero.collect()
    assert f"rank {sender}" in zero.note
    assert key not in store.values
    assert zero.times() is None
    epoch_of((zero, one), 1)
    one.finish()
    zero.finish()
    assert (zero.times() is None) is (sender == 2)  # a message of rank 1 is missing then


@pytest.mark.parametrize("fault", [RuntimeError("Broken pipe\nframe #0"), OSError(), ValueError("x"), KeyError(1)])
@pytest.mark.parametrize("moment", ["make", "publish", "collect", "finish"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_fault_of_the_store_ends_the_comparison_and_nothing_else(store, fault, moment, rank):
    clock = Clock()

    def reached(name):
        if name == moment:
            store.fault = fault

    reached("make")
    ranks = ranks_of(store, clock=clock)
    epoch_of(ranks, 0)
    if moment != "make":
        ranks[1].collect()
    reached("publish")
    epoch_of([ranks[rank]], 1, waits=[0.2])
    reached("collect")
    ranks[rank].collect()
    epoch_of([ranks[rank]], 2, waits=[0.2])
    reached("finish")
    ranks[rank].finish()
    ranks[rank].times()
    assert type(fault).__name__ in ranks[rank].note
    assert "frame" not in ranks[rank].note
    assert clock.pauses == []
    del store.calls[:]
    for act in (ranks[rank].collect, ranks[rank].finish):
        act()
    assert store.calls == []


def test_what_was_collected_before_a_fault_stays_known(store):
    zero, one = ranks_of(store)
    epoch_of((zero, one), 0)
    one.collect()
    zero.collect()
    store.fault = RuntimeError("gone")
    zero.finish()
    assert zero.times().steps == 5
    assert "RuntimeError: gone" in zero.note


def test_odd_steps_do_not_raise(store):
    zero, one = ranks_of(store)
    for rank in (zero, one):
        rank.publish(0, [])
        rank.publish(0, [(0, float("nan"), 0.1)])
    assert zero.note is None
    one.publish(0, [("a", "b", "c")])
    assert "ValueError" in one.note


@pytest.mark.parametrize(("world_size", "store"), [(2, None), (1, HashStore()), (1, None)])
def test_without_a_store_it_is_said_and_alone_it_is_not(world_size, store):
    exchange = RankExchange(rank=0, world_size=world_size, host="a", store=store, key="test")
    exchange.publish(0, [(0, 0.1, 0.2)])
    exchange.collect()
    exchange.finish()
    assert exchange.times() is None
    assert ("no torch.distributed process group" in (exchange.note or "")) is (world_size > 1)


def test_only_new_steps_are_published_by_epoch_without_filling_an_empty_pipeline(store, monkeypatch):
    zero, _ = ranks_of(store)
    published = []
    monkeypatch.setattr(zero, "publish", lambda epoch, steps: published.append((epoch, steps)))
    first = StepRecord(0, 0, 4, 3.0, None, 1.0, 0.5, True, 1, 1, 0, refill_s=2.0)
    unmeasured = StepRecord(1, 1, 4, None, 0.25, None, 0.5, True, 1, 1, 0)
    zero.publish_new([first], 1)
    zero.publish_new([first], 1)
    zero.publish_new([first, first._replace(step=1), unmeasured._replace(step=2)], 3)
    (_, steps), *rest, (epoch, (last,)) = published
    assert (steps, [epoch for epoch, _ in rest]) == ([(0, 1.0, 2.5)], [0])
    assert (epoch, last[0], last[2]) == (1, 2, 0.75)
    assert last[1] != last[1]  # nan: the step is dropped
