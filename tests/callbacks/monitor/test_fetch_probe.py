"""What kind of waiting a fetch was: from snapshots made up by hand, and from real loaders."""

import gc
import sys
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
from lightning_fastdata.callbacks.monitor.fetch_probe import FetchProbe, Load, interpret
from lightning_fastdata.compat.torch_internals import QueueState
from lightning_fastdata.loaders.batch_requests import LoadedBatch
from lightning_fastdata.loaders.seeded_dataset import LoadTimes

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
START, END = 100.0, 100.5


# Made up by hand


def queue(in_queue=0, set_aside=0, capacity=4, ended=0, given=3, turn=1, in_order=True):
    return QueueState(in_queue, set_aside, 4, capacity, in_order, ended, given, turn)


def torchs(state, name=1):
    """A torch loader with workers."""
    return fetch_probe._Look(name, False, False, state, None)


def inline(name=1):
    return fetch_probe._Look(name, False, True, None, None)


def foreign(name=1):
    return fetch_probe._Look(name, False, None, None, None)


def ours(fetched=None, state=None, name=1, inline=False):
    return fetch_probe._Look(name, True, inline, state, fetched)


def stamp(ready_s=100.2, worker=0, began_s=99.0, pass_began=None, number=7):
    times = LoadTimes(began_s, ready_s, 4, 2, 0.3, -1 if worker is None else worker)
    return LoadedBatch(1, number, times, worker, 9, pass_began)


def facts(*pairs, raised=None):
    before, after = zip(*pairs, strict=True) if pairs else ((), ())
    found = interpret((before, after, raised), START, END)
    kinds = (found.main_process_s, found.stalled_s, found.worker_transfer_s)
    assert all(kind is None for kind in kinds) or sum(kinds) == pytest.approx(END - START)
    return found


def kinds(found):
    return tuple(kind and round(kind, 6) for kind in (found.main_process_s, found.stalled_s, found.worker_transfer_s))


INLINE, BLOCKED, HANDOFF, UNKNOWN = (0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.5), (None, None, None)


def one(before, after):
    """The facts of a fetch from one torch loader, which gives a batch unless told otherwise."""
    return facts((torchs(queue(**before)), torchs(queue(**{"given": 4, **after}))))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, BLOCKED),  # nothing there: it came later
        ({"in_queue": 1}, {}, HANDOFF),
        ({"in_queue": 3}, {"set_aside": 2}, HANDOFF),  # the third of three
        ({"in_queue": 2}, {"set_aside": 2}, BLOCKED),  # both of two were others
        ({"in_queue": 1}, {"set_aside": 3}, BLOCKED),
        ({"set_aside": 1}, {}, HANDOFF),  # it was the one that had been set aside
        ({"in_queue": 2, "set_aside": 3}, {"set_aside": 2}, HANDOFF),
        ({"set_aside": 2}, {"set_aside": 2}, BLOCKED),
        ({"set_aside": 2, "in_queue": 1}, {"set_aside": 3}, BLOCKED),
        ({"in_queue": 1, "in_order": False}, {"in_order": False}, HANDOFF),
        ({"in_order": False}, {"in_order": False}, BLOCKED),
        ({"in_queue": 1}, {"ended": 1}, BLOCKED),  # what was there was a worker's word that it ended
        ({"in_queue": 2}, {"ended": 1}, HANDOFF),
        ({"in_queue": 1, "set_aside": 1}, {"ended": 1}, HANDOFF),  # behind that word, the one set aside was next
        ({"in_queue": 0, "set_aside": 1}, {"ended": 1}, BLOCKED),
        ({"in_queue": None}, {}, UNKNOWN),
        ({"in_queue": None, "set_aside": 1}, {}, HANDOFF),
    ],
)
def test_the_queue_tells_whether_the_wanted_batch_was_there(before, after, expected):
    found = one(before, after)
    assert kinds(found) == expected
    assert found.from_workers is True
    assert not found.exact
    assert found.loads == ()
    assert found.worker_start_s is None


@pytest.mark.parametrize(
    ("before", "after", "held_up"),
    [
        ({"in_queue": 2}, {"set_aside": 2}, True),
        ({"set_aside": 2}, {"set_aside": 2}, True),
        ({}, {"set_aside": 2}, False),  # nothing was ready when it was asked for
        ({"in_queue": 2}, {}, False),
        ({"in_queue": None, "set_aside": 2}, {"set_aside": 2}, False),
    ],
)
def test_a_blocked_fetch_with_other_batches_ready_is_held_up(before, after, held_up):
    assert one(before, after).head_of_line is held_up


def test_a_blocked_fetch_that_nobody_notices_is_not_held_up():
    raw = ((torchs(queue(in_queue=1)),), (torchs(queue(set_aside=1, given=4)),), None)
    assert not interpret(raw, 5.0, 5.0009).head_of_line
    assert interpret(raw, 5.0, 5.0011).head_of_line


def test_what_was_ready_is_what_was_in_the_queue_or_set_aside():
    assert one({"in_queue": 2, "set_aside": 1}, {"set_aside": 2})[7:9] == (3, 4)
    assert one({"in_queue": None, "set_aside": 1}, {"set_aside": 1})[7:9] == (None, None)


def test_of_several_loaders_the_emptiest_counts():
    first = (torchs(queue(in_queue=5, capacity=8)), torchs(queue(capacity=8, given=4)))
    second = (torchs(queue(in_queue=1), 2), torchs(queue(given=4), 2))
    for pairs in ((first, second), (second, first), (first, second, (inline(3), inline(3)))):
        assert facts(*pairs)[7:9] == (1, 4)


@pytest.mark.parametrize(
    ("ready_s", "expected"),
    [
        (99.0, (0.0, 0.0, 0.5)),
        (100.0, (0.0, 0.0, 0.5)),
        (100.2, (0.0, 0.2, 0.3)),
        (100.5, (0.0, 0.5, 0.0)),
        (103.0, (0.0, 0.5, 0.0)),  # a clock that cannot be right; still within the fetch
    ],
)
def test_a_stamp_divides_the_fetch_where_the_batch_was_ready(ready_s, expected):
    found = facts((ours(stamp(1.0), queue()), ours(stamp(ready_s), queue(given=4))))
    assert kinds(found) == expected
    assert found.exact
    assert found.from_workers is True


def test_with_stamps_other_ready_batches_make_it_held_up():
    for in_queue, ready_s, held_up in ((1, 100.2, True), (0, 100.2, False), (1, 99.0, False), (1, 100.0005, False)):
        pair = ours(stamp(1.0), queue(in_queue=in_queue)), ours(stamp(ready_s), queue(given=4))
        assert facts(pair).head_of_line is held_up


def test_a_load_is_taken_down_with_its_slowest_sample():
    found = facts((ours(stamp(1.0), queue()), ours(stamp(100.25), queue(given=4))))
    assert found.loads == (Load(4, 1.25, 9, 0.3, 0, 1),)


def test_loading_in_the_training_process_is_all_inline():
    assert kinds(facts((inline(), inline()))) == INLINE
    found = facts((ours(inline=True), ours(stamp(worker=None), inline=True)))
    assert kinds(found) == INLINE
    assert (found.from_workers, found.exact, found.ready, found.capacity) == (False, True, None, None)
    assert found.loads[0].worker is None
    assert kinds(facts((inline(), inline()), (inline(2), inline(2)))) == INLINE


def test_a_foreign_iterator_says_nothing():
    found = facts((foreign(), foreign()))
    assert found == (False, None, None, None, None, False, False, None, None, False, None, ())


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
    found = facts(*pairs)
    assert kinds(found) == expected
    assert (found.exact, found.from_workers) == (exact, from_workers)


def test_a_shorter_loader_at_its_end_has_no_part():
    """In the mode "max_size" it gives None from then on; its empty queue is no news."""
    ended = torchs(queue(), 2), torchs(queue(), 2)
    found = facts(READY, ended)
    assert kinds(found) == HANDOFF
    assert (found.ready, found.restarted) == (1, False)
    same = stamp(99.0)
    found = facts(FULL, (ours(same, queue(), 2), ours(same, queue(), 2)))
    assert kinds(found) == HANDOFF
    assert (found.ready, len(found.loads)) == (2, 1)


def test_a_loader_that_began_anew_is_seen():
    """A new iterator, or persistent workers that serve the next pass with the same."""
    anew = torchs(queue(), 2), torchs(queue(given=1), 7)
    again = torchs(queue(), 2), torchs(queue(given=1, turn=5), 2)
    for pair in (anew, again):
        assert facts(READY, pair).restarted
        assert kinds(facts(pair)) == UNKNOWN
    stamped = ours(stamp(1.0), queue(), 2), ours(stamp(100.4, pass_began=(100.1, 100.2)), queue(given=1), 7)
    found = facts(OURS, stamped)
    assert found.restarted
    assert kinds(found) == (0.0, 0.4, 0.1)
    assert facts((foreign(1), foreign(2))).restarted
    assert not facts((inline(1), inline(2))).restarted  # nothing to start
    assert not facts(READY, LATE, OURS, INSIDE, STRANGE).restarted


def test_the_first_fetch_of_a_pass_of_ours_is_no_new_beginning():
    """Its workers start when the first batch is wanted: nothing can be ready."""
    before = fetch_probe._Look(1, True, None, None, None)
    found = facts((before, ours(stamp(100.4, began_s=100.3, pass_began=(100.1, 100.2)), queue(given=1))))
    assert not found.restarted
    assert (found.ready, found.capacity, found.from_workers, found.head_of_line) == (0, 4, True, False)
    assert kinds(found) == (0.0, 0.4, 0.1)
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
    found = facts((ours(name=1), ours(fetched, inline=worker is None)))
    assert found.worker_start_s == (None if expected is None else pytest.approx(expected))


def test_several_loaders_that_start_workers_are_added_up():
    first = ours(name=1), ours(stamp(100.2, 0, 100.1, (100.0, 100.05)), queue(given=1), 1)
    second = ours(name=2), ours(stamp(100.45, 0, 100.4, (100.2, 100.3)), queue(given=1), 2)
    assert facts(first, second).worker_start_s == pytest.approx(0.3)


def test_a_fetch_without_a_batch_has_no_kind():
    for raised, exhausted in ((StopIteration, True), (RuntimeError, False)):
        found = facts(OURS, raised=raised)
        assert found.exhausted is exhausted
        assert kinds(found) == UNKNOWN
        assert (found.loads, found.worker_start_s, found.exact, found.from_workers) == ((), None, False, True)


def test_iterators_that_came_or_went_are_not_compared():
    """Sequentially read loaders have one iterator at a time, at the end none."""
    raw = ((torchs(queue()),), (), StopIteration)
    assert interpret(raw, START, END).from_workers is None
    found = interpret(((), (torchs(queue(given=1)),), None), START, END)
    assert (found.from_workers, found.stalled_s, found.ready, found.restarted) == (True, None, None, False)
    assert facts((foreign(), torchs(queue(given=1)))).ready is None


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
    batch = None
    try:
        batch = next(trainer.combined)[0]
    except StopIteration:
        pass_on = True
    else:
        pass_on = False
    end = time.perf_counter()
    if pass_on:
        return None, None
    return batch, interpret(probe.after(), start, end)


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
    for each in found:
        if each.stalled_s is not None:
            assert min(each.main_process_s, each.stalled_s, each.worker_transfer_s) >= 0
    return found


class Sleepy(Dataset):
    """Samples that take ``sleep_s``; one in twelve takes longer."""

    def __init__(self, length, sleep_s, slow_s=None, give=torch.tensor):
        self.length, self.sleep_s, self.slow_s, self.give = length, sleep_s, slow_s or sleep_s, give

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        time.sleep(self.slow_s if index % 12 == 6 else self.sleep_s)
        return self.give(index)


def load_with(maker, dataset, **kwargs):
    if maker == "torch":
        return DataLoader(dataset, batch_size=1, collate_fn=first, **kwargs)
    return auto_dataloader(dataset, batch_size=1, shuffle=False, collate_fn=first, **kwargs)


def first(samples):
    return samples[0]


def blocked(found):
    return [each for each in found if (each.stalled_s or 0) > 1e-3]


MAKERS = pytest.mark.parametrize("maker", ["torch", "ours"])


@pytest.mark.slow
@MAKERS
@pytest.mark.parametrize("in_order", [True, False])
@three_tries
def test_one_slow_item_that_holds_up_the_others_is_found(maker, in_order):
    """4 workers, 20 ms a batch and 20 ms of work: enough, were it not for one item of 300 ms in twelve."""
    dataset = Sleepy(48, 0.02, slow_s=0.3)
    found = read(load_with(maker, dataset, num_workers=4, prefetch_factor=2, in_order=in_order), compute_s=0.02)
    assert len(found) == 48
    waits = blocked(found[1:])
    held_up = [each for each in waits if each.head_of_line]
    if in_order:
        assert len(held_up) >= 3
        assert sum(each.stalled_s for each in held_up) > 0.6 * sum(each.stalled_s for each in waits)
        assert all(each.ready > 0 for each in held_up)
    else:
        assert not held_up
    assert {each.capacity for each in found[1:]} == {8}
    assert {each.exact for each in found} == {maker == "ours"}


@pytest.mark.slow
@MAKERS
@three_tries
def test_a_loader_that_is_too_slow_is_blocked_with_an_empty_queue(maker):
    """30 ms a batch, 2 workers, 2 ms of work: 13 ms of waiting a batch, and nobody else is to blame."""
    found = read(load_with(maker, Sleepy(40, 0.03), num_workers=2), compute_s=0.002)[4:-2]
    took = sum(each.stalled_s + each.worker_transfer_s for each in found)
    assert sum(each.stalled_s for each in found) > 0.8 * took
    assert sum(each.ready for each in found) / len(found) < 1.5
    assert sum(each.head_of_line for each in found) <= len(found) / 3


@pytest.mark.slow
@MAKERS
@three_tries
def test_a_queue_that_is_full_is_seen_full(maker):
    found = read(load_with(maker, Sleepy(24, 0.001), num_workers=2), compute_s=0.02)[3:-6]
    assert not blocked(found)
    assert sum(each.ready for each in found) / len(found) > 3


class Slow:
    """Unpickling it takes 20 ms."""

    def __init__(self, number):
        self.number = number

    def __getstate__(self):
        return {"number": int(self.number)}

    def __setstate__(self, state):
        time.sleep(0.02)
        vars(self).update(state)


@pytest.mark.slow
@MAKERS
@three_tries
def test_slow_unpickling_of_a_batch_that_was_there_is_handing_over(maker):
    dataset = Sleepy(12, 0.001, give=Slow)
    found = read(load_with(maker, dataset, num_workers=2), compute_s=0.03)[1:]
    assert sum(each.worker_transfer_s for each in found) > 0.018 * len(found)
    assert not blocked(found)


@pytest.mark.slow
@three_tries
def test_the_queue_and_the_stamps_agree():
    """Two ways to know the same."""
    dataset = Sleepy(48, 0.02, slow_s=0.15)
    by_queue, by_stamps = (
        read(load_with(maker, dataset, num_workers=3), compute_s=0.008)[3:] for maker in ("torch", "ours")
    )
    waited, truly = (sum(each.stalled_s for each in found) for found in (by_queue, by_stamps))
    assert waited == pytest.approx(truly, rel=0.3)
    assert len(blocked(by_queue)) == pytest.approx(len(blocked(by_stamps)), abs=8)


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
@MAKERS
def test_a_shorter_loader_that_begins_anew_is_found(maker, persistent):
    """Of 24 and 8 batches, at fetches 8 and 16."""
    options = {"num_workers": 2, "persistent_workers": persistent}
    loaders = [load_with(maker, Sleepy(length, 0.001), **options) for length in (24, 8)]
    found = read(loaders)
    assert [number for number, each in enumerate(found) if each.restarted] == [8, 16]
    assert len(found) == 24
    assert {each.from_workers for each in found} == {True}
    if maker == "ours":
        assert [number for number, each in enumerate(found) if each.worker_start_s is not None] == [0, 8, 16]
        assert {len(each.loads) for each in found} == {2}


@pytest.mark.slow
def test_loaders_without_workers_have_nothing_to_begin():
    found = read(
        [load_with(maker, Sleepy(length, 0.0), num_workers=0) for maker, length in (("torch", 9), ("ours", 4))]
    )
    assert [each.restarted for each in found] == [False] * 9
    assert {each.from_workers for each in found} == {False}
    assert all(each.main_process_s > 0 and each.exact for each in found)


@pytest.mark.slow
@MAKERS
def test_a_loader_that_is_used_up_does_not_empty_the_figures(maker):
    """In the mode "max_size" the shorter of two gives None."""
    loaders = [load_with(maker, Sleepy(length, 0.001), num_workers=2) for length in (12, 3)]
    found = read(loaders, compute_s=0.01, mode="max_size")
    assert len(found) == 12
    assert not any(each.restarted for each in found)
    assert max(each.ready for each in found[5:9]) > 0
    assert all(each.stalled_s is not None for each in found[4:])


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
        seen = [found.loads[0]]
        for _ in range(2):
            _, found = fetch(probe, trainer)
            assert found.worker_start_s is None
            seen.append(found.loads[0])
        assert [load.samples for load in seen] == [4, 4, 4]
        assert seen[1].slowest_index == 7
        assert 0.03 <= seen[1].slowest_s <= seen[1].load_s
        assert {load.worker for load in seen} == {0, 1}
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
        raw = probe.after()
        assert probe.after()[0] == ()
        gone = weakref.ref(batch), weakref.ref(trainer.combined._iterator.iterators[0])
        del batch
        trainer.combined.reset()
        assert [ref() for ref in gone] == [None, None]
        assert interpret(raw, 0.0, 1.0).loads
    finally:
        gc.enable()


def test_every_loader_of_ours_brings_its_own_stamp():
    """Also where one loader stands twice in a list: each reading of it is a pass of its own."""
    loader = auto_dataloader(Sleepy(6, 0.0), batch_size=2, num_workers=0, shuffle=False)
    found = read([loader, loader])
    assert [len(each.loads) for each in found] == [2, 2, 2]


def test_whole_batches_without_workers_are_inline():
    """They pass by torch's iterator; the probe knows, and misses no queue."""
    loader = TensorDataModule((torch.zeros(10, 2), torch.arange(10)), batch_size=4).train_dataloader()
    found = read([loader], passes=2)
    assert [one.loads[0].samples for one in found] == [4, 4, 2] * 2
    assert all(one.exact and one.from_workers is False and one.main_process_s > 0 for one in found)
    assert {one.loads[0].slowest_index for one in found} == {None}
    assert not any(one.restarted for one in found)


# With names gone


def test_iterators_that_are_kept_elsewhere_are_missed_once():
    trainer = SimpleNamespace(fit_loop=SimpleNamespace())
    probe = FetchProbe(trainer)
    assert probe.lost is None
    probe.before()
    kept = probe.lost
    for _ in range(2):
        probe.before()
        found = interpret(probe.after(), START, END)
        assert (found.from_workers, found.stalled_s, found.ready) == (None, None, None)
    assert probe.lost.startswith("queue occupancy: not measured, ")
    assert probe.lost is kept
    trainer.fit_loop._combined_loader = None
    probe.before()
    assert probe.lost is kept


@pytest.mark.slow
@MAKERS
@pytest.mark.parametrize("name", ["_task_info", "_data_queue", "_num_yielded"])
def test_a_queue_that_is_kept_elsewhere_is_missed(monkeypatch, maker, name):
    """The figures that need it are None; what the stamps tell stays."""
    kind = torch.utils.data.dataloader._MultiProcessingDataLoaderIter

    def hidden(self, wanted):
        if wanted == name and sys._getframe(1).f_globals["__name__"] == "lightning_fastdata.compat.torch_internals":
            raise AttributeError(wanted)
        return object.__getattribute__(self, wanted)

    monkeypatch.setattr(kind, "__getattribute__", hidden, raising=False)
    trainer = Trainer(load_with(maker, Sleepy(6, 0.0), num_workers=1))
    probe = FetchProbe(trainer)
    for _ in range(3):
        _, found = fetch(probe, trainer)
        assert (found.ready, found.capacity, found.from_workers) == (None, None, True)
        assert (found.stalled_s is None) == (maker == "torch")
    assert probe.lost.startswith("queue occupancy: not measured, ")


@pytest.mark.slow
def test_a_system_that_does_not_tell_the_length_of_a_queue_is_named(monkeypatch):
    def unable(self):
        raise NotImplementedError

    trainer = Trainer(load_with("torch", Sleepy(6, 0.0), num_workers=1))
    monkeypatch.setattr(type(trainer.combined._iterator.iterators[0]._data_queue), "qsize", unable)
    probe = FetchProbe(trainer)
    _, found = fetch(probe, trainer)
    assert (found.ready, found.stalled_s, found.from_workers) == (None, None, True)
    assert "system" in probe.lost


def test_an_iterator_like_torchs_from_elsewhere_is_missed_too():
    """It says that it has workers, and hides its queue."""

    class Alike:
        _num_workers, _index_sampler = 2, ()

        def __next__(self):
            return 0

    trainer = Trainer(Sleeper(3, 0.0))
    trainer.combined._iterator.iterators[0] = Alike()
    probe = FetchProbe(trainer)
    _, found = fetch(probe, trainer)
    assert (found.from_workers, found.ready, found.stalled_s) == (True, None, None)
    assert "torch" in probe.lost


def test_foreign_iterators_are_no_loss():
    trainer = Trainer(Sleeper(3, 0.0))
    probe = FetchProbe(trainer)
    _, found = fetch(probe, trainer)
    assert found.from_workers is None
    assert probe.lost is None


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
            self.found.append(interpret(self.probe.after(), self.began, end))


class Endless(IterableDataset):
    def __iter__(self):
        yield from torch.ones(6, 2)


class Pairs(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.ones(2)


def fit(*loaders, **kwargs):
    profiler = Probing()
    trainer = quiet_trainer(profiler=profiler, max_epochs=2, **kwargs)
    profiler.probe = FetchProbe(trainer)
    trainer.fit(Net(), *loaders)
    assert profiler.probe.lost is None
    return profiler.found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("in_handler", [False, True])
def test_the_call_that_finds_the_end_is_told_from_a_fetch(workers, in_handler):
    """A loader without a length is read until it ends, in each epoch, also where somebody handles another end."""
    loader = DataLoader(Endless(), batch_size=2, num_workers=workers)
    if in_handler:
        try:
            next(iter(()))
        except StopIteration:
            found = fit(loader)
    else:
        found = fit(loader)
    batches = 3 * max(1, workers)
    # The first batch of the first epoch is read ahead before there are labels.
    assert [each.exhausted for each in found] == [*[False] * (batches - 1), True, *[False] * batches, True]
    assert all((each.stalled_s is None) == each.exhausted for each in found)
    assert {each.from_workers for each in found} == {workers > 0}


@pytest.mark.slow
@MAKERS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_real_fit_is_probed_at_every_fetch(maker, workers):
    found = fit(load_with(maker, Pairs(), num_workers=workers))
    assert len(found) == 24
    assert not any(each.exhausted or each.restarted for each in found)
    assert {each.from_workers for each in found} == {workers > 0}
    assert all(each.stalled_s is not None for each in found)
    assert {len(each.loads) for each in found} == {int(maker == "ours")}
    starts = [number for number, each in enumerate(found) if each.worker_start_s is not None]
    assert starts == ([0, 12] if maker == "ours" and workers else [])
    if maker == "ours":
        assert [each.loads[0].epoch for each in found] == [0] * 12 + [1] * 12
