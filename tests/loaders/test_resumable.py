"""ResumableDataLoader in a loop of one's own, without a Trainer."""

import contextlib
import copy
import gc
import itertools
import multiprocessing
import os
import pickle
import random
import time
import weakref

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.data import _replace_dunder_methods
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
)

from lightning_fastdata import auto_dataloader
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.determinism import Determinism
from lightning_fastdata.loaders.order import epoch_order
from lightning_fastdata.loaders.resumable import ResumableDataLoader
from lightning_fastdata.loaders.rng import random_state
from lightning_fastdata.loaders.run_seed import LoaderSeed
from lightning_fastdata.loaders.samplers import EpochSampler, RankSampler

SEED, LENGTH = 7, 22
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Noisy(Dataset):
    """A sample is its number, and one random number of each generator."""

    def __init__(self, length=LENGTH, breaks_at=None):
        self.length, self.breaks_at, self.label = length, breaks_at, "mine"

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index == self.breaks_at:
            raise ZeroDivisionError(f"sample {index}")
        return torch.tensor([float(index), random.random(), float(np.random.rand()), torch.rand(()).item()])


def make(dataset=None, **kwargs):
    """A loader as auto_dataloader makes it, without workers unless asked for."""
    dataset = Noisy() if dataset is None else dataset
    batches = {} if "batch_sampler" in kwargs else {"batch_size": 4}
    return auto_dataloader(dataset, **{"split": "train", "num_workers": 0, "seed": SEED, **batches, **kwargs})


def numbers(batch):
    return [int(number) for number in batch[:, 0]]


def plain(batches):
    """Batches in a form that compares bit by bit."""
    return [(numbers(batch), batch.numpy().tobytes()) for batch in batches]


def same_state(one, other):
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else np.array_equal(a, b)
        for name in ("python", "numpy", "torch")
        for a, b in zip(_flat(one[name]), _flat(other[name]), strict=True)
    )


def _flat(state):
    return state if isinstance(state, tuple) else (state,)


# Order and place


def test_every_pass_is_the_next_epoch():
    """Each in the order of (seed, epoch), with random numbers of its own."""
    loader = make()
    first, second = plain(loader), plain(loader)
    assert [n for batch, _ in first for n in batch] == epoch_order(SEED, 0, LENGTH).tolist()
    assert [n for batch, _ in second for n in batch] == epoch_order(SEED, 1, LENGTH).tolist()
    one, other = (torch.cat(list(make(shuffle=False, sampler=range(LENGTH)))) for _ in range(2))
    assert torch.equal(one, other)
    loader = make(sampler=range(LENGTH))
    one, other = (torch.cat(list(loader)) for _ in range(2))
    assert torch.equal(one[:, 0], other[:, 0])
    assert set(one[:, 1:].flatten().tolist()).isdisjoint(other[:, 1:].flatten().tolist())


def test_set_epoch_decides_the_epoch():
    """Who calls it, as Lightning does, counts; passes do not any more."""
    loader = make()
    loader.sampler.set_epoch(5)
    assert plain(loader) == plain(loader)
    assert loader.last_served.epoch == 5


@pytest.mark.parametrize("kind", ["shuffled", "in order", "weighted", "batches", "single", "drop_last"])
@pytest.mark.parametrize("taken", [0, 1, 3, 5, 6, 7, 11])
def test_state_dict_and_load_state_dict_in_a_loop(kind, taken):
    """Break off after any batch, load the state into a new loader, and the loop goes on with what was left."""
    kinds = {
        "shuffled": {},
        "in order": {"shuffle": False},
        "weighted": {"sampler": WeightedRandomSampler([1.0] * 20 + [9.0] * 2, LENGTH)},
        "batches": {"batch_sampler": BatchSampler(WeightedRandomSampler([1.0] * LENGTH, LENGTH), 4, False)},
        "single": {"batch_size": None, "collate_fn": lambda sample: sample[None], "sampler": range(3, 9)},
        "drop_last": {"drop_last": True},
    }

    def epochs(loader, first):
        return [(epoch, *batch) for epoch in range(first, 3) for batch in plain(loader)]

    everything = epochs(make(**kinds[kind]), 0)
    loader, seen, passes = make(**kinds[kind]), 0, 0
    while seen < taken:
        for _ in loader:
            seen += 1
            if seen == taken:
                break
        passes += 1
    state = loader.state_dict()
    torch.manual_seed(99)
    resumed = make(**kinds[kind])
    resumed.load_state_dict(state)
    assert epochs(resumed, state["epoch"]) == everything[taken:]


MOMENTS = ("before", "begun", "in", "at the last batch", "over", "next begun")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["shuffled", "in order", "own", "evaluation"])
def test_a_state_of_any_moment_of_an_epoch(kind, workers):
    """Saved at each moment of two epochs, twice, and loaded into a new loader each time: the rest, then the next."""
    kinds = {
        "shuffled": {},
        "in order": {"shuffle": False},
        "own": {"sampler": WeightedRandomSampler([1.0] * LENGTH, LENGTH)},
        "evaluation": {"split": "val"},
    }

    def made():
        return make(**kinds[kind], num_workers=workers, **({"persistent_workers": True} if workers else {}))

    reference = made()
    epochs = [plain(reference) for _ in range(4)]
    loader = made()
    for epoch in range(2):
        for moment in MOMENTS:
            if moment in ("begun", "next begun"):
                batches = iter(loader)  # a second one has not begun its pass either
            elif moment == "in":
                assert plain(next(batches) for _ in range(2)) == epochs[epoch][:2]
            elif moment == "at the last batch":
                assert plain(next(batches) for _ in range(4)) == epochs[epoch][2:]
            elif moment == "over":
                assert list(batches) == []
            left = {"in": epochs[epoch][2:], "at the last batch": []}.get(moment, epochs[epoch])
            following = epochs[epoch + 1]
            if moment in ("over", "next begun"):
                left, following = epochs[epoch + 1], epochs[epoch + 2]
            assert {**loader.state_dict(), "generators": 0} == {**loader.state_dict(), "generators": 0}
            resumed = made()
            resumed.load_state_dict(loader.state_dict())
            resumed.load_state_dict(resumed.state_dict())
            assert (moment, plain(resumed)) == (moment, left)
            assert (moment, plain(resumed)) == (moment, following)
            CombinedLoader(resumed).reset()
    CombinedLoader(loader).reset()
    CombinedLoader(reference).reset()


def test_epoch_after_epoch_in_new_loaders():
    """A process an epoch, as on machines that are lent for an hour: all orders, each once."""
    reference = make()
    expected = [plain(reference) for _ in range(4)]
    state, found = None, []
    for _ in range(4):
        loader = make()
        if state is not None:
            loader.load_state_dict(state)
        found.append(plain(loader))
        state = loader.state_dict()
    assert found == expected


def test_a_loader_whose_epochs_are_counted_from_0_again():
    """Fabric calls set_epoch with its own count, which a restart begins anew: the state knows better."""
    loader = make()
    plain(loader)
    batches = iter(loader)
    next(batches)
    state, left = loader.state_dict(), plain(batches)
    resumed = make()
    resumed.load_state_dict(state)
    resumed.sampler.set_epoch(0)
    assert plain(resumed) == left


def test_a_later_epoch_than_that_of_a_state_is_refused():
    """The rest of its epoch would be lost."""
    loader = make()
    next(iter(loader))
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    resumed.sampler.set_epoch(3)
    with pytest.raises(FastDataError, match=r"is of batch 1 of epoch 0, .* goes on at epoch 3"):
        next(iter(resumed))


def test_a_state_that_was_loaded_is_the_state():
    """Saved again before any batch, it is not lost."""
    loader = make()
    for _ in zip(range(2), loader, strict=False):
        pass
    state, other = loader.state_dict(), make()
    other.load_state_dict(state)
    iter(other)
    assert other.state_dict() == state


def test_another_seed_is_refused_at_the_first_batch():
    """Not at ``iter``, when Lightning has not set the epoch yet."""
    loader, other = make(), make(seed=8)
    next(iter(loader))
    other.load_state_dict(loader.state_dict())
    iterator = iter(other)
    with pytest.raises(FastDataError, match=r"the seed was 7 .* and is 8"):
        next(iterator)


def test_the_model_goes_on_with_its_random_numbers():
    """What the training process would have drawn after the state was saved, it draws after it was loaded."""
    loader = make()
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    next(iterator)
    expected = (random.random(), np.random.rand(), torch.rand(()).item())
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(99)
    resumed = make()
    resumed.load_state_dict(state)
    torch.rand(5)  # something drawn before the first batch does not matter
    next(iter(resumed))
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


# Ranks, without processes


def ranked(rank, ranks, batch_size, dataset, **kwargs):
    sampler = RankSampler(len(dataset), SEED, ranks, rank, batch_size=batch_size, shuffle=True, **kwargs)
    determinism = Determinism(LoaderSeed(SEED), ranks=ranks, rank=rank)
    drop_last = kwargs.get("drop_last", False)
    return ResumableDataLoader(
        dataset, determinism=determinism, batch_size=batch_size, sampler=sampler, drop_last=drop_last
    )


def one_process(dataset, drop_last=False):
    return ResumableDataLoader(
        dataset,
        determinism=Determinism(LoaderSeed(SEED)),
        batch_size=8,
        sampler=EpochSampler(len(dataset), SEED),
        drop_last=drop_last,
    )


def rows(batches):
    """Samples of one global batch in any order: a rank has every second one."""
    return sorted(tuple(row) for batch in batches for row in batch.tolist())


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("length", [21, 22, 24, 17])
@pytest.mark.parametrize("taken", [0, 1, 2])
def test_another_number_of_ranks(length, taken, drop_last):
    """Any number of ranks at the same global batch continues any other's run: the same samples with the same values.

    The last step is filled up to a multiple of the ranks with the first samples of the epoch, their values included.
    """
    dataset = Noisy(length)
    whole = [rows([batch]) for batch in one_process(dataset, drop_last)]
    teams = {
        ranks: [ranked(rank, ranks, 8 // ranks, dataset, drop_last=drop_last) for rank in range(ranks)]
        for ranks in (2, 4)
    }
    teams[1] = [one_process(dataset, drop_last)]
    for before in teams:
        states = []
        for loader in copy.deepcopy(teams[before]):
            iterator = iter(loader)
            for _ in range(taken):
                next(iterator)
            states.append(loader.state_dict())
        assert all(_integers(state) == _integers(states[0]) for state in states)
        for after in teams:
            loaders = copy.deepcopy(teams[after])
            for loader in loaders:
                loader.load_state_dict(states[0])  # Lightning saves rank 0 only
            steps = [rows(step) for step in zip(*loaders, strict=True)]
            for step, expected in zip(steps, whole[taken:], strict=True):
                assert set(step) >= set(expected), (before, after)
                assert len(step) == len(expected) + -len(expected) % after
                assert set(step) - set(expected) <= set(whole[0])


def _integers(state):
    return {name: value for name, value in state.items() if name != "generators"}


def test_each_rank_goes_on_with_random_numbers_of_its_own():
    """Rank 0 with those it had; another, whose were not saved, neither with those nor with those of the run's start."""
    dataset = Noisy()
    torch.manual_seed(5)
    start = torch.rand(3).tolist()
    loader = ranked(0, 2, 4, dataset)
    next(iter(loader))
    state = loader.state_dict()
    expected = torch.rand(3).tolist()
    drawn = []
    for rank in (0, 1, 1, 2):
        torch.manual_seed(5)
        resumed = ranked(rank, 3, 4, dataset) if rank == 2 else ranked(rank, 2, 4, dataset)
        resumed.load_state_dict(state)
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == expected
    assert drawn[1] == drawn[2]
    assert len({str(numbers) for numbers in (start, drawn[0], drawn[1], drawn[3])}) == 4


def test_what_was_given_last():
    """Epoch, number, samples and repeats of the last batch."""
    loader = ranked(1, 2, 4, Noisy(9))
    given = [loader.last_served for _ in loader]
    order = epoch_order(SEED, 0, 9).tolist()
    assert [(batch.epoch, batch.cycle, batch.number, batch.indices, batch.padded) for batch in given] == [
        (0, 0, 0, order[1:8:2], 0),
        (0, 0, 1, [order[0]], 1),
    ]
    assert make().last_served is None


# Iterators


def test_iter_alone_starts_nothing():
    """Lightning calls it before it knows the epoch: no worker starts, no epoch is used up."""
    loader = make(num_workers=2)
    before = multiprocessing.active_children()
    for _ in range(3):
        iter(loader)
    assert multiprocessing.active_children() == before
    other = make()
    for _ in range(3):
        iter(other)
    assert numbers(next(iter(other))) == epoch_order(SEED, 0, LENGTH)[:4].tolist()


def test_an_iterator_that_is_given_up():
    """The next pass is the next epoch, whole; the abandoned one leaves nothing behind."""
    loader = make()
    iterator = iter(loader)
    next(iterator)
    del iterator
    whole = make()
    list(whole)
    assert plain(loader) == plain(whole)


def test_two_iterators_at_once():
    """Each has its own place, as with torch; the state is that of the one that gave a batch last."""
    loader = make(shuffle=False)
    one, other = iter(loader), iter(loader)
    assert [numbers(next(one)), numbers(next(other)), numbers(next(one))] == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert loader.state_dict()["batches_consumed"] == 2
    next(other), next(one)
    assert loader.state_dict()["batches_consumed"] == 3


def test_evaluation_is_the_same_each_time():
    """Every pass has the order and the random numbers of the first."""
    loader = make(split="val")
    assert plain(loader) == plain(loader)


def test_no_batch_is_kept():
    """While the model works on a batch, the loader does not hold it: with large batches that would be memory."""
    iterator = iter(make())
    batch = next(iterator)
    known = weakref.ref(batch)
    del batch
    assert known() is None


def test_the_users_own():
    """dataset, sampler, batch size and collate function are what the user gave."""
    dataset, sampler = Noisy(), WeightedRandomSampler([1.0] * LENGTH, LENGTH)
    loader = make(dataset, sampler=sampler, collate_fn=default_collate)
    next(iter(loader))
    assert loader.dataset is dataset
    assert loader.sampler is sampler
    assert loader.collate_fn is default_collate
    assert (loader.batch_size, len(loader), loader.dataset.label) == (4, 6, "mine")


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.rand(8))


@pytest.mark.filterwarnings("ignore:Stream is an IterableDataset")
@pytest.mark.parametrize("dataset", [Noisy, Stream])
def test_what_is_sent_to_another_process_needs_nothing_of_this_one(dataset):
    """Not even shared memory, through which torch sends generators and tensors: it is gone when this process is."""
    generator = torch.Generator().manual_seed(3)
    loader = make(dataset(), generator=generator, num_workers=1, multiprocessing_context="spawn")
    kept = bytes(multiprocessing.reduction.ForkingPickler.dumps(loader))
    assert b"rebuild_storage" not in kept
    other = pickle.loads(kept)
    assert torch.equal(other.generator.get_state(), generator.get_state())
    assert other.num_workers == 1


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_copies_and_pickles(begun, hooked):
    """With ddp_spawn a loader travels to another process; it leaves workers, Trainer and Lightning's record behind."""
    with _replace_dunder_methods(DataLoader, "dataset") if hooked else contextlib.nullcontext():
        loader = make()
    loader.attach_trainer(torch.nn.Identity())  # anything that can be referred to weakly
    usual = make()
    if begun:
        next(iter(loader))
        next(iter(usual))
    expected = plain(usual)
    for other in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert other.determinism.trainer() is None
        assert plain(other) == expected


def test_a_trainer_is_not_kept_alive():
    """The loader knows it, and forgets it."""

    class Trainer:
        fit_loop = None

    loader, trainer = make(), Trainer()
    loader.attach_trainer(trainer)
    assert loader.determinism.trainer() is trainer
    del trainer
    gc.collect()
    assert loader.determinism.trainer() is None
    assert loader.determinism.seed.given == SEED


# Samplers of the user's


def test_samples_that_are_repeated_differ():
    """Drawn again in the same epoch, a sample gets other random numbers; drawn once, its usual ones."""
    batches = list(make(sampler=[3, 5, 3, 3, 5, 8]))
    values = torch.cat(batches)
    assert len({tuple(row) for row in values[:, 1:].tolist()}) == 6
    once = torch.cat(list(make(sampler=[8, 5, 3])))
    assert torch.equal(values[[5, 1, 0]], once)


def test_a_batch_sampler_of_the_users():
    """Its batches are the batches, and a sample's values are those that any other batch gives it."""

    class Mine(BatchSampler):
        pass

    batches = list(make(batch_sampler=Mine(range(10, 15), 2, False)))
    assert [numbers(batch) for batch in batches] == [[10, 11], [12, 13], [14]]
    usual = {numbers(batch[k : k + 1])[0]: batch[k] for batch in make() for k in range(len(batch))}
    assert all(torch.equal(row, usual[int(row[0])]) for batch in batches for row in batch)


def test_a_sampler_without_a_length():
    """It is not drawn ahead of time, so it may be endless."""

    class Endless(Sampler):
        def __iter__(self):
            for index in range(100):
                yield index % LENGTH
            raise AssertionError("drawn ahead of time")

    loader = make(sampler=Endless())
    seen = [numbers(batch) for batch, _ in zip(loader, range(8), strict=False)]
    assert seen[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    state = loader.state_dict()
    assert state["order"] == "own sampler"
    resumed = make(sampler=Endless())
    resumed.load_state_dict({**state, "batches_consumed": 7, "samples_consumed": 28})
    assert numbers(next(iter(resumed))) == [6, 7, 8, 9]


class Named(Dataset):
    """Samples have keys of any kind."""

    def __len__(self):
        return 4

    def __getitem__(self, key):
        return torch.tensor([float(len(key)), random.random()])


@pytest.mark.parametrize("keys", [["a", "bb", "ccc"], [("a", 1), ("b", 2)], [["a"], ["b", "c"]], [{"a": 1}]], ids=str)
def test_keys_of_any_kind(keys):
    """Names, tuples, and what cannot be hashed: each key has its own random numbers, the same in every order."""
    values = torch.cat(list(make(Named(), sampler=keys)))
    turned = torch.cat(list(make(Named(), sampler=keys[::-1])))
    assert torch.equal(values, turned.flip(0))
    assert len({row[1] for row in values.tolist()}) == len(keys)


def test_without_batching():
    """batch_size=None: single samples, each with its own values, through the collate function."""
    loader = make(batch_size=None, collate_fn=lambda sample: sample * 2)
    samples = list(loader)
    assert [sample[0].item() / 2 for sample in samples] == epoch_order(SEED, 0, LENGTH).tolist()
    usual = torch.cat(list(make()))
    assert torch.equal(torch.stack(samples), usual * 2)


# Errors


def test_an_exception_of_the_sampler_comes_through():
    """The generators, which it may have used, are as before."""

    class Broken(Sampler):
        def __len__(self):
            return 4

        def __iter__(self):
            torch.rand(3)
            raise ZeroDivisionError

    before = random_state()
    with pytest.raises(ZeroDivisionError):
        list(make(sampler=Broken()))
    assert same_state(random_state(), before)


# Pinned memory


def test_batches_are_pinned(monkeypatch):
    """As torch pins the batches of any loader: every tensor, and what has a pin_memory of its own."""

    class Batch:
        pinned = False

        def pin_memory(self):
            self.pinned = True
            return self

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *args: torch.device("cuda"))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *args: tensor + 1000)
    loader = make(pin_memory=True, shuffle=False, collate_fn=lambda samples: (default_collate(samples), Batch()))
    rows, other = next(iter(loader))
    assert numbers(rows) == [1000, 1001, 1002, 1003]
    assert other.pinned


# Workers


def mixup(samples):
    """A collate function with random numbers, as mixup and CutMix are."""
    batch = default_collate(samples)
    share = torch.rand(()) * float(np.random.rand()) * random.random()
    return torch.cat([batch[:, :1], batch[:, 1:] * share], 1)


@pytest.mark.slow
def test_workers_change_nothing():
    """Three epochs with 0, 1, 2 and 3 workers, kept or not, from any start method: the same bits, mixup included."""
    kinds = [
        {},
        {"num_workers": 1, "persistent_workers": True},
        {"num_workers": 2, "prefetch_factor": 3},
        {"num_workers": 3, "persistent_workers": True, "in_order": True},
    ]
    found = []
    for kind in kinds:
        loader = make(collate_fn=mixup, sampler=WeightedRandomSampler([1.0] * LENGTH, LENGTH), **kind)
        found.append([plain(loader) for _ in range(3)])
    assert all(batches == found[0] for batches in found)


@pytest.mark.slow
def test_workers_that_deliver_out_of_order_are_counted_right():
    """in_order=False: each batch is known by the number it was asked for."""
    loader = make(num_workers=2, in_order=False)
    seen = [(loader.last_served, numbers(batch)) for batch in loader]
    assert sorted(given.number for given, _ in seen) == list(range(6))
    assert all(given.indices == got for given, got in seen)


class Where(Dataset):
    """Which process loads a sample, and what its worker_init_fn did to the dataset."""

    note = "unset"

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return os.getpid(), index, self.note


def write_a_note(worker_id):
    dataset = get_worker_info().dataset
    dataset.note = f"{type(dataset.__getitem__).__name__}, {dataset.note}, {len(dataset)}, worker {worker_id}"


@pytest.mark.slow
def test_workers_are_kept_and_shut_down():
    """Persistent ones serve the next pass too; when Lightning resets the loader they end, and new ones can start."""
    loader = make(Where(), num_workers=1, persistent_workers=True, collate_fn=lambda samples: samples)
    pids = [{pid for batch in loader for pid, _, _ in batch} for _ in range(2)]
    assert pids[0] == pids[1]
    assert os.getpid() not in pids[0]
    (worker,) = [child for child in multiprocessing.active_children() if child.pid in pids[0]]
    combined = CombinedLoader(loader)
    iter(combined)
    combined.reset()
    worker.join(30)
    assert not worker.is_alive()
    again = {pid for batch in loader for pid, _, _ in batch}
    assert again.isdisjoint(pids[0])
    assert len(again) == 1
    combined.reset()


@pytest.mark.slow
def test_two_iterators_at_once_with_kept_workers():
    """Workers that are kept serve one pass; another beside it has its own place all the same, and so has the next."""
    loader, usual = make(num_workers=1, persistent_workers=True, split="val"), plain(make(split="val"))
    one = iter(loader)
    first = plain([next(one), next(one)])
    other = plain(loader)
    assert first + plain(one) == usual
    assert other == usual
    assert plain(loader) == usual
    CombinedLoader(loader).reset()


@pytest.mark.slow
def test_workers_end_with_their_pass():
    """Those that are not kept are gone when the pass is over, or is given up."""
    before = set(multiprocessing.active_children())
    loader = make(num_workers=1, persistent_workers=False)
    list(loader)
    iterator = iter(loader)
    next(iterator)
    assert set(multiprocessing.active_children()) - before
    del iterator
    gc.collect()
    assert not set(multiprocessing.active_children()) - before


@pytest.mark.slow
def test_worker_init_fn_reaches_the_users_dataset():
    """get_worker_info().dataset answers for it, and what is written to it is found in __getitem__."""
    dataset = Where()
    loader = make(dataset, num_workers=1, worker_init_fn=write_a_note, collate_fn=lambda samples: samples)
    notes = {note for batch in loader for _, _, note in batch}
    assert notes == {f"method, unset, {LENGTH}, worker 0"}
    assert dataset.note == "unset"


@pytest.mark.slow
def test_an_exception_in_a_worker_comes_through():
    """Of its own kind, with the worker's traceback; the batches before it count, and the loader goes on."""
    index = int(epoch_order(SEED, 0, LENGTH)[9])
    loader = make(Noisy(breaks_at=index), num_workers=2, persistent_workers=True)
    iterator = iter(loader)
    assert [len(next(iterator)) for _ in range(2)] == [4, 4]
    with pytest.raises(ZeroDivisionError, match=f"sample {index}"):
        next(iterator)
    state = loader.state_dict()
    assert state["batches_consumed"] == 2
    mended = make()
    mended.load_state_dict(state)
    assert plain(mended) == plain(make())[2:]
    CombinedLoader(loader).reset()


def test_a_pass_goes_on_after_a_sample_that_cannot_be_read():
    """Whoever catches the error gets the other batches, as from torch."""

    class Broken(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            if index == 3:
                raise ValueError("broken")
            return index

    loader = make(Broken(), batch_size=2, shuffle=False)
    batches, got, failed = iter(loader), [], 0
    assert len(batches) == 6
    while True:
        try:
            got.append(next(batches).tolist())
        except ValueError:
            failed += 1
        except StopIteration:
            break
    assert (got, failed) == ([[0, 1], [4, 5], [6, 7], [8, 9], [10, 11]], 1)


def test_a_sampler_that_never_ends_is_read_as_far_as_it_is_long():
    """Samplers that go on exist; Lightning stops at their length."""

    class Endless(Sampler):
        def __iter__(self):
            return itertools.cycle([3, 1, 2])

        def __len__(self):
            return 6

    loader = make(list(range(4)), batch_size=2, sampler=Endless())
    assert [batch.tolist() for batch in loader] == [[3, 1], [2, 3], [1, 2]]


def test_a_generator_of_none_is_no_generator():
    """The loader would draw from the model's."""
    before = torch.get_rng_state()
    list(make(list(range(4)), batch_size=2, generator=None))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_lightning_that_hides_its_counts_is_said():
    """Then a checkpoint may be a batch off; never silently."""

    class Trainer:
        """Without the loops of Lightning."""

        training = True

    trainer = Trainer()
    loader = make()
    loader.attach_trainer(trainer)
    next(iter(loader))
    with pytest.warns(UserWarning, match="may count a batch too many"):
        assert loader.state_dict()["batches_consumed"] == 1


# What is known of a batch's loading


class Sleeping(Noisy):
    """Sample 9 takes longest."""

    def __getitem__(self, index):
        time.sleep(0.02 if index == 9 else 0)
        return super().__getitem__(index)


class Together(Sleeping):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


def first_fetch(loader):
    batches = iter(loader)
    next(batches)
    return batches.fetched


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_iterator_shows_how_its_last_batch_was_loaded(workers):
    """Batch by batch; what began a pass comes with its first one."""
    loader = make(Sleeping(12), shuffle=False, num_workers=workers)
    for epoch in range(2):
        begun, batches = time.perf_counter(), iter(loader)
        assert batches.fetched is None
        seen = [batches.fetched for _ in batches]
        over = time.perf_counter()
        assert [(each.epoch, each.number, each.times.samples) for each in seen] == [(epoch, n, 4) for n in range(3)]
        assert {each.worker for each in seen} == ({0, 1} if workers else {None})
        assert seen[2].slowest_index == 9
        assert seen[2].times.slowest_s >= 0.02
        assert [each.pass_began is None for each in seen] == [False, True, True]
        began, ended = seen[0].pass_began
        assert begun <= began <= ended <= over
        assert all(began <= each.times.began_s < each.times.ready_s <= over for each in seen)


def test_the_start_of_a_pass_is_timed_from_its_beginning(monkeypatch):
    """Finding its epoch and drawing its order included."""
    find = ResumableDataLoader._next_pass
    monkeypatch.setattr(ResumableDataLoader, "_next_pass", lambda *args: time.sleep(0.02) or find(*args))
    began, ended = first_fetch(make()).pass_began
    assert ended - began >= 0.02


@pytest.mark.parametrize(
    ("dataset", "arguments", "slowest_index", "position"),
    [
        (Sleeping(12), {"sampler": [3, 9, 1], "batch_size": 3}, 9, 1),
        (Sleeping(12), {"sampler": [9, 3], "batch_size": None}, 9, 0),
        (Together(12), {"sampler": [3, 9]}, None, -1),  # of whole batches no sample is the slowest
    ],
)
def test_the_slowest_sample_goes_by_the_samplers_index(dataset, arguments, slowest_index, position):
    loaded = first_fetch(make(dataset, **arguments))
    assert (loaded.slowest_index, loaded.times.slowest) == (slowest_index, position)


def test_each_iterator_shows_its_own(monkeypatch):
    """The iterator of torch, from the first batch on, and its own last batch, not another pass's."""
    loader = make()
    one, other = iter(loader), iter(loader)
    assert (one.inner, one.fetched) == (None, None)
    next(one)
    assert type(one.inner).__module__ == "torch.utils.data.dataloader"
    first, served = one.fetched, loader.last_served
    next(other)
    assert one.fetched is first is not other.fetched
    assert loader.last_served is not served
    assert pickle.loads(pickle.dumps(loader)).last_served == loader.last_served

    served = loader.last_served
    monkeypatch.setattr("lightning_fastdata.compat.lightning_loops.reads_outside_trainer", lambda *args: True)
    assert first_fetch(loader) is None, "a pass outside the Trainer leaves no trace"
    assert loader.last_served is served
