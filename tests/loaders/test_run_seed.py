"""The number of a run: who draws it, who waits for it, and what is said when nobody comes."""

import pickle
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data.distributed import DistributedSampler

from lightning_fastdata.compat.lightning_loops import Reading
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders import run_seed
from lightning_fastdata.loaders.order import derive_seed
from lightning_fastdata.loaders.run_seed import LoaderSeed, RunSeed, seed_of_lightning

TRAINS, VALIDATES, HOOK = Reading(True, True), Reading(True), Reading()


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    yield
    torch.set_rng_state(state)


def number():
    return int(torch.empty((), dtype=torch.int64).random_())


def fake_trainer(rank=0, ranks=1):
    return SimpleNamespace(world_size=ranks, global_rank=rank, state=SimpleNamespace(fn="fit"), current_epoch=0)


@pytest.mark.parametrize(("value", "seed"), [("7", 7), ("0", 0), ("", None), ("x", None), (None, None)])
def test_the_seed_of_lightning(monkeypatch, value, seed):
    """What Lightning writes is what is read."""
    if value is not None:
        monkeypatch.setenv("PL_GLOBAL_SEED", value)
    assert seed_of_lightning() == seed


def test_the_number_is_read_first_and_taken_once():
    """Validation and hooks read it from a copy; training moves the generator on; what follows draws nothing."""
    run, trainer, before = RunSeed(), fake_trainer(), torch.get_rng_state()
    assert run.number(None, trainer, VALIDATES) == run.number(None, trainer, HOOK)
    assert torch.equal(torch.get_rng_state(), before)
    found = run.number(None, trainer, TRAINS)
    after = torch.get_rng_state()
    assert run.number(None, trainer, TRAINS) == found
    assert torch.equal(torch.get_rng_state(), after)
    torch.set_rng_state(before)
    assert number() == found
    assert torch.equal(torch.get_rng_state(), after)


def test_a_checkpoint_of_another_run_replaces_the_number():
    """One of this run, as finders restore it, holds the default generator past the number, but not the user's."""
    run, trainer, own = RunSeed(), fake_trainer(), torch.Generator()
    before, before_own = torch.get_rng_state(), own.get_state()
    for generator in (None, own):
        run.continue_with(generator, run.number(generator, trainer, VALIDATES))
        run.number(generator, trainer, TRAINS)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(own.get_state(), before_own)
    run.continue_with(None, 5)
    before = torch.get_rng_state()
    assert run.number(None, trainer, TRAINS) == 5
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def store(monkeypatch):
    """A process group's store; ``rank`` says which rank asks."""
    made = torch.distributed.HashStore()
    made.set_timeout(timedelta(milliseconds=50))
    monkeypatch.setattr(run_seed, "process_store", lambda: made)

    def as_rank(rank):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)

    return as_rank


def test_other_ranks_have_the_number_of_rank_0(store):
    """Whatever they hold; each takes its own from its generator. One that reads alone neither waits nor gives."""
    runs, found = [RunSeed(), RunSeed()], []
    for call in range(2):
        for rank in (0, 1):
            store(rank)
            torch.manual_seed(10 * call + rank)
            trainer = fake_trainer(rank, 2)
            alone = runs[rank].number(None, trainer, HOOK)
            assert alone == number() or rank == 0
            found.append(runs[rank].number(None, trainer, VALIDATES))
        runs = [RunSeed(), RunSeed()]
    assert found[0] == found[1] != found[2] == found[3]


def test_a_rank_that_does_not_come_is_named(store):
    """After the time that the process group has."""
    store(1)
    with pytest.raises(FastDataError, match=r"rank 1 has waited 0:00:00.050000 for rank 0"):
        RunSeed().number(None, fake_trainer(1, 2), VALIDATES)


def test_a_thread_of_a_prefetcher_waits_for_no_rank(store):
    """It begins its pass while the other ranks may be in a hook, where they give no number."""
    store(1)
    run = RunSeed(thread=0)
    assert run.number(None, fake_trainer(1, 2), TRAINS) == run.number(None, fake_trainer(1, 2), TRAINS)


def test_without_a_store_the_strategy_broadcasts(monkeypatch):
    """A strategy that has no process group of torch's."""
    monkeypatch.setattr(run_seed, "process_store", lambda: None)
    trainer = fake_trainer(1, 2)
    trainer.strategy = SimpleNamespace(broadcast=lambda value: 77)
    assert RunSeed().number(None, trainer, TRAINS) == 77


def test_a_seed_that_is_given_waits_for_nobody(store, monkeypatch):
    """Nor does that of seed_everything."""
    store(1)
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    assert RunSeed().number(None, fake_trainer(1, 2), TRAINS) == 4


def test_ranks_without_a_trainer_agree_where_the_sampler_deals(store):
    """As in Lightning Fabric; a loader that serves all samples draws for itself."""
    dealing = SimpleNamespace(sampler=DistributedSampler(range(4), 2, 0))
    found = []
    for rank in (0, 1):
        store(rank)
        torch.manual_seed(rank)
        seed, own = LoaderSeed(), LoaderSeed()
        seed.settle(None, dealing)
        own.settle(None, SimpleNamespace())
        found.append((seed.number, own.number))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_int_shows_what_comes():
    """Before a pass begins, nothing is drawn; names make it another number."""
    seed, named = LoaderSeed(), LoaderSeed(name="val")
    before = torch.get_rng_state()
    assert int(named) == derive_seed(int(seed), "val")
    assert torch.equal(torch.get_rng_state(), before)
    shown = int(seed)
    seed.settle(None, SimpleNamespace())
    assert (int(seed), seed.number) == (shown, shown)
    assert int(LoaderSeed(6)) == 6


def test_a_run_begins_anew_in_another_process():
    """The loop of a Trainer that is sent to spawned ranks carries it."""
    run = RunSeed(calls=3)
    run.number(torch.Generator(), fake_trainer(), TRAINS)
    assert pickle.loads(pickle.dumps(run)) == RunSeed()
