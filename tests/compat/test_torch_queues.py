"""The private names behind the queue: what they say is counted another way, and missed where they are gone."""

import random
import time
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from lightning_fastdata.compat import lightning_monitoring
from lightning_fastdata.compat.lightning_monitoring import training_iterators
from lightning_fastdata.compat.torch_internals import QueueState, loads_inline, queue_state

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Restless(Dataset):
    """Samples that take now a moment, now longer, so that batches come before their turn."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        time.sleep(random.Random(index).choice([0, 0, 0.02]))
        return index


class Uneven(IterableDataset):
    """Worker 0 ends long before the others; the last batches of each are late."""

    def __iter__(self):
        worker = get_worker_info().id
        for number in range(3 + 8 * worker):
            time.sleep(random.Random(number).choice([0, 0, 0.01]))
            yield 100 * worker + number


def counted(iterator):
    """Batches that are set aside, one by one."""
    return sum(len(task) == 2 for task in iterator._task_info.values())


def looks(loader):
    """The state before every fetch of a pass, and after the last."""
    iterator, seen = iter(loader), []
    while True:
        time.sleep(0.002)
        state = queue_state(iterator)
        assert state.set_aside == counted(iterator)
        # torch keeps the tasks of a worker that ended until it comes to them: up to its prefetch_factor, 2, of each.
        assert state.in_flight == len(iterator._task_info) <= state.capacity + 2 * state.ended
        assert state.capacity == loader.num_workers * 2
        seen.append(state)
        if next(iterator, None) is None:
            return seen


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_batches_set_aside_are_counted_without_looking_at_each(persistent):
    """The difference of torch's own two counts is the number of entries that hold data, at every moment of a pass."""
    loader = DataLoader(Restless(), batch_size=1, num_workers=3, persistent_workers=persistent)
    first, second = looks(loader), looks(loader)
    assert max(state.set_aside for state in first) > 0
    assert [state.given for state in first] == [*range(61)]
    assert len({state.turn for state in first}) == 1
    if persistent:  # one iterator for both passes
        assert first[-1].turn != second[0].turn
        assert second[0].given == 0
        assert second[0].in_flight == 6


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_batches_set_aside_are_right_when_workers_end(persistent):
    """Of an IterableDataset's worker that ended, torch still counts tasks that nobody will answer."""
    loader = DataLoader(Uneven(), batch_size=1, num_workers=3, persistent_workers=persistent)
    for _ in range(2):
        seen = looks(loader)
        assert {state.ended for state in seen} >= {0, 1, 2}


@pytest.mark.slow
def test_out_of_order_nothing_is_set_aside():
    loader = DataLoader(Restless(), batch_size=1, num_workers=3, in_order=False)
    seen = looks(loader)
    assert {(state.set_aside, state.in_order) for state in seen} == {(0, False)}


@pytest.mark.slow
def test_the_queue_fills_while_nobody_reads():
    """Up to the capacity, and no further; all of it is in flight."""
    iterator = iter(DataLoader(range(40), batch_size=1, num_workers=2, prefetch_factor=3))
    deadline = time.monotonic() + 10
    while queue_state(iterator).in_queue < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    state = queue_state(iterator)
    assert state == QueueState(6, 0, 6, 6, in_order=True, ended=0, given=0, turn=state.turn)
    next(iterator)
    assert queue_state(iterator).given == 1


def queue_of(**changes):
    """An iterator as torch's, without workers behind it."""
    usual = {
        "_task_info": {3: (0,), 4: (1, "data"), 5: (0,)},
        "_tasks_outstanding": 2,
        "_dataset_kind": 0,
        "_data_queue": SimpleNamespace(qsize=lambda: 1),
        "_num_workers": 2,
        "_prefetch_factor": 2,
        "_in_order": True,
        "_num_yielded": 3,
        "_sampler_iter": None,
    }
    return SimpleNamespace(**{**usual, **changes})


def test_what_cannot_be_is_no_number():
    def unable():
        raise NotImplementedError  # sem_getvalue() of macOS

    def closed():
        raise OSError("handle is closed")

    assert queue_state(queue_of())[:4] == (1, 1, 3, 4)
    assert queue_state(queue_of(_data_queue=SimpleNamespace(qsize=unable)))[:3] == (None, 1, 3)
    assert queue_state(queue_of(_data_queue=SimpleNamespace(qsize=closed))) is None
    assert queue_state(queue_of(_tasks_outstanding=9)) is None
    assert queue_state(queue_of(_prefetch_factor=None)) is None
    assert queue_state(queue_of(_dataset_kind=1)) is None  # workers' states are gone
    for name in vars(queue_of()):  # as with a torch that has renamed it
        iterator = queue_of()
        delattr(iterator, name)
        assert queue_state(iterator) is None


def test_other_iterators_have_no_queue():
    for iterator in (iter([1]), (n for n in [1]), iter(DataLoader(range(3))), object(), None):
        assert queue_state(iterator) is None


@pytest.mark.slow
def test_inline_loading_is_told():
    assert loads_inline(iter(DataLoader(range(3)))) is True
    assert loads_inline(iter(DataLoader(range(3), num_workers=1))) is False
    assert loads_inline(iter([1])) is None
    assert loads_inline(SimpleNamespace(_num_workers=0)) is None


def test_the_trainers_iterators_are_those_it_reads():
    """One of each loader, from the moment that they are made until the fit is over."""
    seen = []

    class Looking(Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append(training_iterators(trainer))

        def on_train_batch_start(self, trainer, *args):
            seen.append(training_iterators(trainer))

    class Twice(BoringModel):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch[0], batch_idx)

    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1,
        limit_train_batches=2, callbacks=Looking(), enable_model_summary=False,
    )  # fmt: skip
    assert training_iterators(trainer) == ()
    loaders = [DataLoader(RandomDataset(32, 8)) for _ in range(2)]
    trainer.fit(Twice(), loaders)
    assert len(seen) == 3
    assert [[type(one).__name__ for one in all_] for all_ in seen] == [["_SingleProcessDataLoaderIter"] * 2] * 3
    assert [iterator._num_yielded for iterator in seen[0]] == [2, 2]
    assert seen[0] == seen[1] == seen[2]
    assert training_iterators(trainer) == ()


@pytest.mark.parametrize("gone", ["fit_loop", "_combined_loader", "_iterator", "iterators"])
def test_iterators_that_are_kept_elsewhere_are_not_found(gone):
    """Absent is not the same as none yet."""
    link = SimpleNamespace(iterators=[torch])
    for name in ("_iterator", "_combined_loader", "fit_loop"):
        link = SimpleNamespace(**{name: link})
    assert training_iterators(link) == (torch,)
    owner = link
    for name in ("fit_loop", "_combined_loader", "_iterator", "iterators"):
        if name == gone:
            delattr(owner, name)
            break
        owner = getattr(owner, name)
    assert lightning_monitoring.training_iterators(link) is None
