"""What kind of waiting a fetch was: from looks that are made up, and from real loaders."""

import gc
import time
import weakref
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from monitor_cases import Net, Sleeper, quiet_trainer, three_tries
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_fastdata import TensorDataModule, auto_dataloader
from lightning_fastdata.callbacks.monitor import fetch_probe
from lightning_fastdata.callbacks.monitor.fetch_probe import Fetch, FetchProbe, interpret
from lightning_fastdata.callbacks.monitor.wait_stats import load_s_of
from lightning_fastdata.compat.torch_internals import QueueState
from lightning_fastdata.loaders.batch_requests import LoadedBatch
from lightning_fastdata.loaders.seeded_dataset import LoadTimes

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
START, END = 100.0, 100.5


# Made up


def queue(in_queue=0, set_aside=0, capacity=4, ended=0, given=3, turn=1, in_order=True):
    return QueueState(in_queue, set_aside, 4, capacity, in_order, ended, given, turn)


def torchs(state, name=1):
    """A torch loader with workers."""
    return fetch_probe._Look(name, False, False, state, None)


def inline(name=1):
    return fetch_probe._Look(name, False, True, None, None)


def foreign(name=1):
    return fetch_probe._Look(name, False, None, None, None)


def ours(loaded=None, state=None, name=1, inline=False):
    return fetch_probe._Look(name, True, inline, state, loaded)


def stamp(ready_s=100.2, worker=0, began_s=99.0, pass_began=None, number=7):
    times = LoadTimes(began_s, ready_s, 4, 2, 0.3, -1 if worker is None else worker)
    return LoadedBatch(1, number, times, worker, 9, pass_began)


def info_of(*pairs, raised=None, start=START, end=END):
    before, after = zip(*pairs, strict=True) if pairs else ((), ())
    info = interpret(Fetch(before, after, raised, start, end))
    assert info.split is None or sum(info.split) == pytest.approx(end - start)
    return info


def causes(info):
    return UNKNOWN if info.split is None else tuple(round(seconds, 6) for seconds in info.split)


INLINE, BLOCKED, HANDOFF, UNKNOWN = (0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.5), None


def one(before, after):
    """A fetch from one torch loader, which gives a batch."""
    return info_of((torchs(queue(**before)), torchs(queue(**{"given": 4, **after}))))


@pytest.mark.parametrize(
    ("before", "after", "expected", "head_of_line"),
    [
        ({}, {}, BLOCKED, False),  # nothing there: it came later
        ({"in_queue": 1}, {}, HANDOFF, False),
        ({"in_queue": 3}, {"set_aside": 2}, HANDOFF, False),  # the third of three
        ({"in_queue": 2}, {"set_aside": 2}, BLOCKED, True),  # both of two were others
        ({"in_queue": 1}, {"set_aside": 3}, BLOCKED, True),
        ({"set_aside": 1}, {}, HANDOFF, False),  # it was the one that had been set aside
        ({"in_queue": 2, "set_aside": 3}, {"set_aside": 2}, HANDOFF, False),
        ({"set_aside": 2}, {"set_aside": 2}, BLOCKED, True),
        ({}, {"set_aside": 2}, BLOCKED, False),  # nothing was ready when it was asked for
        ({"set_aside": 2, "in_queue": 1}, {"set_aside": 3}, BLOCKED, True),
        ({"in_queue": 1, "in_order": False}, {"in_order": False}, HANDOFF, False),
        ({"in_order": False}, {"in_order": False}, BLOCKED, False),
        ({"in_queue": 1}, {"ended": 1}, BLOCKED, True),  # what was there was a worker's word that it ended
        ({"in_queue": 2}, {"ended": 1}, HANDOFF, False),
        ({"in_queue": 1, "set_aside": 1}, {"ended": 1}, HANDOFF, False),  # behind that word, the one set aside was next
        ({"in_queue": 0, "set_aside": 1}, {"ended": 1}, BLOCKED, True),
        ({"in_queue": None}, {}, UNKNOWN, False),
        ({"in_queue": None, "set_aside": 1}, {}, HANDOFF, False),
        ({"in_queue": None, "set_aside": 2}, {"set_aside": 2}, UNKNOWN, False),
    ],
)
def test_the_queue_shows_whether_the_wanted_batch_was_there(before, after, expected, head_of_line):
    found = one(before, after)
    assert (causes(found), found.head_of_line) == (expected, head_of_line)
    assert (found.from_workers, found.exact, found.loaded, found.worker_start_s) == (True, False, (), None)


def test_a_wait_below_a_millisecond_is_no_stall():
    pair = torchs(queue(in_queue=1)), torchs(queue(set_aside=1, given=4))
    assert not info_of(pair, start=5.0, end=5.0009).head_of_line
    assert info_of(pair, start=5.0, end=5.0011).head_of_line


def test_what_was_ready_is_what_was_in_the_queue_or_set_aside():
    assert one({"in_queue": 2, "set_aside": 1}, {"set_aside": 2})[5:7] == (3, 4)
    assert one({"in_queue": None, "set_aside": 1}, {"set_aside": 1})[5:7] == (None, None)


def test_of_several_loaders_the_emptiest_counts():
    first = (torchs(queue(in_queue=5, capacity=8)), torchs(queue(capacity=8, given=4)))
    second = (torchs(queue(in_queue=1), 2), torchs(queue(given=4), 2))
    for pairs in ((first, second), (second, first), (first, second, (inline(3), inline(3)))):
        assert info_of(*pairs)[5:7] == (1, 4)


@pytest.mark.parametrize(
    ("in_queue", "ready_s", "expected", "head_of_line"),
    [
        (1, 99.0, (0.0, 0.0, 0.5), False),
        (1, 100.0, (0.0, 0.0, 0.5), False),
        (1, 100.0005, (0.0, 0.0005, 0.4995), False),
        (1, 100.2, (0.0, 0.2, 0.3), True),
        (0, 100.2, (0.0, 0.2, 0.3), False),
        (0, 100.5, (0.0, 0.5, 0.0), False),
        (0, 103.0, (0.0, 0.5, 0.0), False),  # a clock that cannot be right; still within the fetch
    ],
)
def test_a_stamp_divides_the_fetch_where_the_batch_was_ready(in_queue, ready_s, expected, head_of_line):
    found = info_of((ours(stamp(1.0), queue(in_queue=in_queue)), ours(stamp(ready_s), queue(given=4))))
    assert (causes(found), found.head_of_line) == (expected, head_of_line)
    assert (found.exact, found.from_workers, found.loaded) == (True, True, (stamp(ready_s),))


def test_loading_in_the_training_process_is_all_inline():
    assert causes(info_of((inline(), inline()))) == INLINE
    found = info_of((ours(inline=True), ours(stamp(worker=None), inline=True)))
    assert causes(found) == INLINE
    assert (found.from_workers, found.exact, found.ready, found.capacity) == (False, True, None, None)
    assert found.loaded[0].worker is None
    assert causes(info_of((inline(), inline()), (inline(2), inline(2)))) == INLINE


def test_a_foreign_iterator_says_nothing():
    found = info_of((foreign(), foreign()))
    assert found == (False, None, None, False, False, None, None, False, None, ())


READY = (torchs(queue(in_queue=1)), torchs(queue(given=4)))
LATE = (torchs(queue(), 2), torchs(queue(given=4), 2))
OURS = (ours(stamp(1.0), queue(), 3), ours(stamp(100.2), queue(given=4), 3))
LATER = (ours(stamp(1.0), queue(), 4), ours(stamp(100.3), queue(given=4), 4))
FULL = (ours(stamp(1.0), queue(2), 7), ours(stamp(99.0), queue(2, given=4), 7))
INSIDE = (inline(5), inline(5))
STRANGE = (foreign(6), foreign(6))


@pytest.mark.parametrize(
    ("pairs", "expected", "exact", "from_workers"),
    [
        ((READY, READY), HANDOFF, False, True),
        ((LATE, LATE), BLOCKED, False, True),
        ((READY, LATE), UNKNOWN, False, True),  # how much of it one took and how much the other
        ((OURS, LATER), (0.0, 0.3, 0.2), True, True),
        ((LATER, OURS), (0.0, 0.3, 0.2), True, True),
        ((OURS, READY), (0.0, 0.2, 0.3), False, True),
        ((OURS, LATE), UNKNOWN, False, True),
        ((OURS, INSIDE), UNKNOWN, False, True),
        ((INSIDE, READY), UNKNOWN, False, True),
        ((STRANGE, OURS), UNKNOWN, False, True),
        ((STRANGE, INSIDE), UNKNOWN, False, None),
        ((), UNKNOWN, False, None),
    ],
)
def test_several_loaders_leave_it_open_unless_they_agree(pairs, expected, exact, from_workers):
    found = info_of(*pairs)
    assert causes(found) == expected
    assert (found.exact, found.from_workers) == (exact, from_workers)


def test_a_shorter_loader_at_its_end_has_no_part():
    """In the mode "max_size" it gives None from then on; its empty queue is no news."""
    ended = torchs(queue(), 2), torchs(queue(), 2)
    found = info_of(READY, ended)
    assert causes(found) == HANDOFF
    assert (found.ready, found.restarted) == (1, False)
    same = stamp(99.0)
    found = info_of(FULL, (ours(same, queue(), 2), ours(same, queue(), 2)))
    assert causes(found) == HANDOFF
    assert (found.ready, len(found.loaded)) == (2, 1)


def test_a_loader_that_restarted_is_seen():
    """A new iterator, or persistent workers that serve the next pass with the same."""
    another = torchs(queue(), 2), torchs(queue(given=1), 7)
    again = torchs(queue(), 2), torchs(queue(given=1, turn=5), 2)
    for pair in (another, again):
        assert info_of(READY, pair).restarted
        assert causes(info_of(pair)) == UNKNOWN
    stamped = ours(stamp(1.0), queue(), 2), ours(stamp(100.4, pass_began=(100.1, 100.2)), queue(given=1), 7)
    found = info_of(OURS, stamped)
    assert found.restarted
    assert causes(found) == (0.0, 0.4, 0.1)
    assert info_of((foreign(1), foreign(2))).restarted
    assert not info_of((inline(1), inline(2))).restarted  # nothing to start
    assert not info_of(READY, LATE, OURS, INSIDE, STRANGE).restarted


def test_the_first_fetch_of_a_pass_of_ours_is_no_new_beginning():
    """Its workers start when the first batch is wanted: nothing can be ready."""
    before = fetch_probe._Look(1, True, None, None, None)
    found = info_of((before, ours(stamp(100.4, began_s=100.3, pass_began=(100.1, 100.2)), queue(given=1))))
    assert not found.restarted
    assert (found.ready, found.capacity, found.from_workers, found.head_of_line) == (0, 4, True, False)
    assert causes(found) == (0.0, 0.4, 0.1)
    assert found.worker_start_s == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("began_s", "pass_began", "worker", "expected"),
    [
        (100.3, (100.1, 100.2), 0, 0.2),
        (100.3, (99.0, 99.2), 0, 0.3),  # began before: what lies in the fetch
        (107.0, (100.1, 100.2), 0, 0.4),
        (99.5, (99.0, 99.2), 0, 0.0),
        (100.3, (100.1, 100.2), None, None),  # no workers to start
        (100.3, None, 0, None),
    ],
)
def test_starting_workers_is_timed_until_the_first_sample(began_s, pass_began, worker, expected):
    fetched = stamp(100.4, worker, began_s, pass_began)
    found = info_of((ours(name=1), ours(fetched, inline=worker is None)))
    assert found.worker_start_s == (None if expected is None else pytest.approx(expected))


def test_several_loaders_that_start_workers_are_added_up():
    first = ours(name=1), ours(stamp(100.2, 0, 100.1, (100.0, 100.05)), queue(given=1), 1)
    second = ours(name=2), ours(stamp(100.45, 0, 100.4, (100.2, 100.3)), queue(given=1), 2)
    assert info_of(first, second).worker_start_s == pytest.approx(0.3)


def test_a_fetch_without_a_batch_has_no_kind():
    for raised, exhausted in ((StopIteration, True), (RuntimeError, False)):
        found = info_of(OURS, raised=raised)
        assert found.exhausted is exhausted
        assert causes(found) == UNKNOWN
        assert (found.loaded, found.worker_start_s, found.exact, found.from_workers) == ((), None, False, True)


def test_iterators_that_came_or_went_are_not_compared():
    """Sequentially read loaders have one iterator at a time, at the end none."""
    assert interpret(Fetch((torchs(queue()),), (), StopIteration, START, END)).from_workers is None
    found = interpret(Fetch((), (torchs(queue(given=1)),), None, START, END))
    assert (found.from_workers, found.split, found.ready, found.restarted) == (True, None, None, False)
    assert info_of((foreign(), torchs(queue(given=1)))).ready is None


# The probe


class Trainer:
    """As much of one as the probe reads."""

    def __init__(self, loaders, mode="max_size_cycle"):
        self.combined = CombinedLoader(loaders, mode)
        self.fit_loop = SimpleNamespace(_combined_loader=self.combined)
        iter(self.combined)


def fetch(probe, trainer):
    """One fetch as Lightning makes it; gives the batch, and what the probe found."""
    probe.before()
    start = time.perf_counter()
    batch = next(trainer.combined, (None,))[0]
    end = time.perf_counter()
    return batch, None if batch is None else interpret(probe.after(start, end))


def read(loaders, compute_s=0.0, mode="max_size_cycle", passes=1):
    """Read loaders to the end; gives what was found at each fetch."""
    trainer, found = Trainer(loaders, mode), []
    probe = FetchProbe(trainer)
    for number in range(passes):
        if number:
            iter(trainer.combined)
        while (result := fetch(probe, trainer)[1]) is not None:
            found.append(result)
            time.sleep(compute_s)
    assert probe.lost is None
    assert all(min(each.split) >= 0 for each in found if each.split is not None)
    return found


class Sleepy(Dataset):
    """Samples that take ``sleep_s``; one in twelve takes longer."""

    def __init__(self, length, sleep_s, slow_s=None):
        self.length, self.sleep_s, self.slow_s = length, sleep_s, slow_s or sleep_s

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        time.sleep(self.slow_s if index % 12 == 6 else self.sleep_s)
        return torch.tensor(index)


def load_with(maker, dataset, **kwargs):
    if maker == "torch":
        return DataLoader(dataset, batch_size=1, collate_fn=first, **kwargs)
    return auto_dataloader(dataset, batch_size=1, shuffle=False, collate_fn=first, **kwargs)


def first(samples):
    return samples[0]


def blocked(found):
    return [each for each in found if each.split is not None and each.split.stalled_s > 1e-3]


MAKERS = pytest.mark.parametrize("maker", ["torch", "ours"])


@pytest.mark.slow
@MAKERS
@pytest.mark.parametrize("in_order", [True, False])
@three_tries
def test_one_slow_item_that_stalls_the_others_is_found(maker, in_order):
    """4 workers, 20 ms a batch and 20 ms of work: enough, were it not for one item of 300 ms in twelve."""
    dataset = Sleepy(48, 0.02, slow_s=0.3)
    found = read(load_with(maker, dataset, num_workers=4, prefetch_factor=2, in_order=in_order), compute_s=0.02)
    assert len(found) == 48
    waits = blocked(found[1:])
    stalled = [each for each in waits if each.head_of_line]
    if in_order:
        assert len(stalled) >= 3
        assert sum(each.split.stalled_s for each in stalled) > 0.6 * sum(each.split.stalled_s for each in waits)
        assert all(each.ready > 0 for each in stalled)
    else:
        assert not stalled
    assert {each.capacity for each in found[1:]} == {8}
    assert {each.exact for each in found} == {maker == "ours"}


@pytest.mark.slow
@MAKERS
@three_tries
def test_a_slow_loader_has_an_empty_queue_and_a_fast_one_a_full_queue(maker):
    """30 ms a batch, 2 workers, 2 ms of work: 13 ms of waiting a batch, and no other batch was ready instead."""
    slow = read(load_with(maker, Sleepy(40, 0.03), num_workers=2), compute_s=0.002)[4:-2]
    took = sum(each.split.stalled_s + each.split.worker_transfer_s for each in slow)
    assert sum(each.split.stalled_s for each in slow) > 0.8 * took
    assert sum(each.ready for each in slow) / len(slow) < 1.5
    assert sum(each.head_of_line for each in slow) <= len(slow) / 3
    fast = read(load_with(maker, Sleepy(24, 0.001), num_workers=2), compute_s=0.02)[3:-6]
    assert not blocked(fast)
    assert sum(each.ready for each in fast) / len(fast) > 3


@pytest.mark.slow
@three_tries
def test_the_queue_and_the_stamps_agree():
    """Two ways to know the same."""
    dataset = Sleepy(48, 0.02, slow_s=0.15)
    by_queue, by_stamps = (
        read(load_with(maker, dataset, num_workers=3), compute_s=0.008)[3:] for maker in ("torch", "ours")
    )
    waited, truly = (sum(each.split.stalled_s for each in found) for found in (by_queue, by_stamps))
    assert waited == pytest.approx(truly, rel=0.3)
    assert len(blocked(by_queue)) == pytest.approx(len(blocked(by_stamps)), abs=8)


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
@MAKERS
def test_a_shorter_loader_that_restarts_is_found(maker, persistent):
    """Of 24 and 8 batches, at fetches 8 and 16."""
    options = {"num_workers": 2, "persistent_workers": persistent}
    loaders = [load_with(maker, Sleepy(length, 0.001), **options) for length in (24, 8)]
    found = read(loaders)
    assert [number for number, each in enumerate(found) if each.restarted] == [8, 16]
    assert len(found) == 24
    assert {each.from_workers for each in found} == {True}
    if maker == "ours":
        assert [number for number, each in enumerate(found) if each.worker_start_s is not None] == [0, 8, 16]
        assert {len(each.loaded) for each in found} == {2}


@pytest.mark.slow
@MAKERS
@pytest.mark.timed
def test_a_loader_that_is_used_up_does_not_empty_the_figures(maker):
    """In the mode "max_size" the shorter of two gives None."""
    loaders = [load_with(maker, Sleepy(length, 0.001), num_workers=2) for length in (12, 3)]
    found = read(loaders, compute_s=0.01, mode="max_size")
    assert len(found) == 12
    assert not any(each.restarted for each in found)
    assert max(each.ready for each in found[5:9]) > 0
    assert all(each.split is not None for each in found[4:])


@pytest.mark.slow
def test_loaders_read_one_after_the_other():
    """The next one starts its workers within a fetch."""
    loaders = [load_with("torch", Sleepy(4, 0.001), num_workers=2) for _ in range(2)]
    found = read(loaders, mode="sequential")
    assert [each.restarted for each in found] == [False] * 4 + [True] + [False] * 3


class Clock(Dataset):
    """A sample is the time at which it began to load."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        now = time.perf_counter()
        time.sleep(0.03 if index == 7 else 0.001)
        return torch.tensor([now, index], dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.timed
def test_the_clocks_of_worker_and_training_process_are_one(start_method):
    """The time until a pass's first sample, from the worker's own reading of the clock, and from the stamps."""
    loader = auto_dataloader(
        Clock(), batch_size=4, shuffle=False, num_workers=2, persistent_workers=True,
        multiprocessing_context=start_method,
    )  # fmt: skip
    trainer = Trainer(loader)
    probe, starts = FetchProbe(trainer), []
    for _ in range(2):
        before = time.perf_counter()
        batch, found = fetch(probe, trainer)
        starts.append(found.worker_start_s)
        assert found.worker_start_s == pytest.approx(float(batch[0, 0]) - before, abs=0.01)
        seen = [found.loaded[0]]
        for _ in range(2):
            _, found = fetch(probe, trainer)
            assert found.worker_start_s is None
            seen.append(found.loaded[0])
        assert [batch.times.samples for batch in seen] == [4, 4, 4]
        assert seen[1].slowest_index == 7
        assert 0.03 <= seen[1].times.slowest_s <= load_s_of(seen[1])
        assert {batch.worker for batch in seen} == {0, 1}
        iter(trainer.combined)
    assert starts[0] > starts[1] > 0  # the second pass keeps its workers


def test_the_probe_keeps_nothing_alive():
    """Neither a batch nor an iterator, whose workers would live as long as its figures wait to be read."""
    trainer = Trainer(auto_dataloader(Sleepy(6, 0.0), batch_size=2, num_workers=0))
    probe = FetchProbe(trainer)
    gc.disable()
    try:
        probe.before()
        batch = next(trainer.combined)[0]
        fetched = probe.after(0.0, 1.0)
        assert probe.after(1.0, 2.0).before == ()
        gone = weakref.ref(batch), weakref.ref(trainer.combined._iterator.iterators[0])
        del batch
        trainer.combined.reset()
        assert [ref() for ref in gone] == [None, None]
        assert interpret(fetched).loaded
    finally:
        gc.enable()


def test_every_loader_of_ours_brings_its_own_stamp():
    """Also where one loader stands twice in a list: each reading of it is a pass of its own."""
    loader = auto_dataloader(Sleepy(6, 0.0), batch_size=2, num_workers=0, shuffle=False)
    found = read([loader, loader])
    assert [len(each.loaded) for each in found] == [2, 2, 2]


def test_loaders_without_workers_are_inline_and_have_nothing_to_restart():
    """Loaders of whole batches pass by torch's iterator; the probe knows, and misses no queue."""
    batched = TensorDataModule((torch.zeros(10, 2), torch.arange(10)), batch_size=4).train_dataloader()
    found = read([batched], passes=2)
    assert [each.loaded[0].times.samples for each in found] == [4, 4, 2] * 2
    assert {each.loaded[0].slowest_index for each in found} == {None}
    several = read(
        [load_with(maker, Sleepy(length, 0.0), num_workers=0) for maker, length in (("torch", 9), ("ours", 4))]
    )
    for each in found + several:
        assert (each.exact, each.from_workers, each.restarted) == (True, False, False)
        assert each.split.main_process_s > 0


# With names gone


def test_iterators_that_are_kept_elsewhere_are_missed_once():
    trainer = SimpleNamespace(fit_loop=SimpleNamespace())
    probe = FetchProbe(trainer)
    assert probe.lost is None
    probe.before()
    kept = probe.lost
    for _ in range(2):
        probe.before()
        found = interpret(probe.after(START, END))
        assert (found.from_workers, found.split, found.ready) == (None, None, None)
    assert probe.lost.startswith("queue occupancy: not measured, ")
    assert probe.lost is kept
    trainer.fit_loop._combined_loader = None
    probe.before()
    assert probe.lost is kept


@pytest.mark.slow
def test_a_system_that_does_not_say_how_long_a_queue_is_is_named(monkeypatch):
    def unable(self):
        raise NotImplementedError

    trainer = Trainer(load_with("torch", Sleepy(6, 0.0), num_workers=1))
    monkeypatch.setattr(type(trainer.combined._iterator.iterators[0]._data_queue), "qsize", unable)
    assert missed(trainer) == ((None, None, True), "system")


def missed(trainer):
    """What is still known of a fetch, and which name the probe gives to what is not."""
    probe = FetchProbe(trainer)
    _, found = fetch(probe, trainer)
    named = next((word for word in ("system", "torch") if word in (probe.lost or "")), None)
    return (found.ready, found.split, found.from_workers), named


def test_an_iterator_like_torchs_from_elsewhere_is_missed_and_a_foreign_one_is_not():
    """The former says that it has workers, and hides its queue."""

    class Alike:
        _num_workers, _index_sampler = 2, ()

        def __next__(self):
            return 0

    trainer = Trainer(Sleeper(3, 0.0))
    assert missed(trainer) == ((None, None, None), None)
    trainer.combined._iterator.iterators[0] = Alike()
    assert missed(trainer) == ((None, None, True), "torch")


# With a real Trainer


class Probing(PassThroughProfiler):
    """Brackets the labeled fetches of a real Trainer with a probe."""

    def __init__(self):
        super().__init__()
        self.probe, self.found = None, []

    def start(self, action_name):
        if action_name.endswith("].train_dataloader_next"):
            self.probe.before()
            self.began = time.perf_counter()

    def stop(self, action_name):
        if action_name.endswith("].train_dataloader_next"):
            end = time.perf_counter()
            self.found.append(interpret(self.probe.after(self.began, end)))


class Endless(IterableDataset):
    def __iter__(self):
        yield from torch.ones(6, 2)


def fit(*loaders, **kwargs):
    profiler = Probing()
    trainer = quiet_trainer(profiler=profiler, max_epochs=2, **kwargs)
    profiler.probe = FetchProbe(trainer)
    trainer.fit(Net(), *loaders)
    assert profiler.probe.lost is None
    return profiler.found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_the_call_that_finds_the_end_is_no_fetch(workers):
    """A loader without a length is read until it ends, in each epoch, also in a handler of another end."""
    try:
        next(iter(()))
    except StopIteration:
        found = fit(DataLoader(Endless(), batch_size=2, num_workers=workers))
    batches = 3 * max(1, workers)
    # The first batch of the first epoch is read ahead before there are labels.
    assert [each.exhausted for each in found] == [*[False] * (batches - 1), True, *[False] * batches, True]
    assert all((each.split is None) == each.exhausted for each in found)
    assert {each.from_workers for each in found} == {workers > 0}
