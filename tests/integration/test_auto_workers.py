"""What "auto" may do, and its reasons; the same under each start method is in test_auto_start_methods.py."""

import itertools
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from auto_datasets import Encoded
from datamodule_cases import quiet_trainer
from handle_cases import ClosesOver, OpenedInInit, in_memory, write_files
from lightning.pytorch import Callback, LightningModule
from torch.utils.data import Dataset, IterableDataset, Subset

from lightning_fastdata import FastDataModule, auto_dataloader
from lightning_fastdata.planning import workers as planning_workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*IterableDataset", "ignore:You passed in a `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


@pytest.fixture(autouse=True)
def six_cpus(monkeypatch):
    """So that "auto" takes workers where nothing speaks against them."""
    monkeypatch.setenv("LIGHTNING_FASTDATA_NUM_CPUS", "6")


class Numbers(Dataset):
    def __init__(self, length=16):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([float(index)])


class Seen(LightningModule):
    """Keeps the batches of each epoch."""

    def __init__(self):
        super().__init__()
        self.weight, self.epochs = torch.nn.Parameter(torch.ones(1)), []

    def on_train_epoch_start(self):
        self.epochs.append([])

    def training_step(self, batch, batch_idx):
        self.epochs[-1].append(batch["x"] if isinstance(batch, dict) else batch)
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(dataset, *callbacks, collate_fn=None, num_workers="auto", **flags):
    data = FastDataModule(dataset, batch_size=4, shuffle=False, collate_fn=collate_fn, num_workers=num_workers)
    model = Seen()
    quiet_trainer(callbacks=list(callbacks), **flags).fit(model, datamodule=data)
    return model, data.plans["train"]


def first_of_epochs(model):
    return [int(epoch[0].flatten()[0]) for epoch in model.epochs]


class Growing(Numbers):
    def __init__(self):
        self.values = list(range(8))

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return torch.tensor([float(self.values[index])])


class Grow(Callback):
    def on_train_epoch_end(self, trainer, module):
        trainer.datamodule.train_dataset.values += [100, 101, 102, 103]


class Level(Numbers):
    level = 0

    def __getitem__(self, index):
        return torch.tensor([float(self.level)])


class SetLevel(Callback):
    def on_train_epoch_start(self, trainer, module):
        trainer.datamodule.train_dataset.level = trainer.current_epoch


class SetLevelMid(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 20:
            trainer.datamodule.train_dataset.level = trainer.current_epoch + 1


@pytest.mark.parametrize(
    ("num_workers", "right"),
    [
        (0, [{0, 1}, {1, 2}, {2, 3}]),
        ("auto", [{0}, {1, 2}, {2, 3}]),  # one warning, and no workers from then on
        (2, [{0}, {1}, {2}]),  # one warning; as torch's own
    ],
)
def test_an_attribute_that_changes_in_mid_epoch(num_workers, right):
    """Samples that are loaded after it have it: without workers at once, with workers in the next epoch."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, _ = fit(Level(400), SetLevelMid(), num_workers=num_workers, max_epochs=3, limit_train_batches=60)
    assert [{int(value) for batch in epoch for value in batch.flatten()} for epoch in model.epochs] == right
    said = [str(one.message) for one in caught if "in the middle of an epoch" in str(one.message)]
    assert len(said) == (num_workers != 0)
    assert all(text.startswith("dataset.level has changed") for text in said)


class ChangeWorkers(Callback):
    """As the tuner does, in the middle of each epoch."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        loader = trainer.train_dataloader
        if batch_idx == 20:
            workers = (0, 2, 1, 3)[trainer.current_epoch]
            loader.change(loader.planning.measured(workers, 2 if workers else None, "a test"))


def test_other_workers_in_mid_epoch_read_the_same():
    """In each epoch every sample has that epoch's level, and that is no change in mid-epoch."""
    model, _ = fit(Level(400), SetLevel(), ChangeWorkers(), max_epochs=4)
    assert [{int(value) for batch in epoch for value in batch.flatten()} for epoch in model.epochs] == [
        {0},
        {1},
        {2},
        {3},
    ]


def test_a_dataset_that_grows_is_read_to_its_new_end():
    """New items come in the next epoch."""
    model, _ = fit(Growing(), Grow(), max_epochs=2, reload_dataloaders_every_n_epochs=1)
    assert [sum(len(batch) for batch in epoch) for epoch in model.epochs] == [8, 12]


def test_workers_live_on_where_nothing_changed(caplog):
    """The same processes serve all epochs."""

    class WhoServes(Numbers):
        def __getitem__(self, index):
            return torch.tensor([float(os.getpid())], dtype=torch.float64)

    model, plan = fit(WhoServes(), max_epochs=3)
    assert plan.num_workers > 0
    served = [{int(value) for batch in epoch for value in batch.flatten()} for epoch in model.epochs]
    assert os.getpid() not in served[0]
    assert served[0] == served[1] == served[2]


def test_workers_start_again_where_a_part_cannot_be_seen():
    """Python objects in an array: Lightning's default, new workers for each pass."""

    class Counting(Numbers):
        def __init__(self):
            super().__init__()
            self.hidden = np.array([object()])

        def __getitem__(self, index):
            return torch.tensor([float(os.getpid())], dtype=torch.float64)

    model, plan = fit(Counting(), max_epochs=2)
    assert not plan.persistent_workers
    assert str(plan.reasons["persistent_workers"].text).startswith("dataset.hidden may change unseen")
    served = [{int(value) for batch in epoch for value in batch.flatten()} for epoch in model.epochs]
    assert plan.num_workers > 0
    assert not served[0] & served[1]


class Pooled(Numbers):
    def __init__(self):
        super().__init__()
        self.pool = ThreadPoolExecutor(2)
        list(self.pool.map(abs, [1]))

    def __getitem__(self, index):
        return torch.tensor([float(sum(self.pool.map(abs, [index])))])


class Opened(Numbers):
    def __init__(self, path):
        super().__init__()
        path.write_bytes(b"".join(bytes([number]) * 16 for number in range(16)))
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115

    def __getitem__(self, index):
        self.file.seek(16 * index)
        head, rest = self.file.read(1), self.file.read(15)
        assert set(head + rest) == {index}
        return torch.tensor([float(index)])


class Consumes(Numbers):
    """Reads on from an iterator, whatever the index."""

    def __init__(self):
        super().__init__()
        self.numbers = itertools.cycle(range(4))

    def __getitem__(self, index):
        return torch.tensor([float(next(self.numbers))])


class Queue(Numbers):
    """Empties a list that is too long to be looked at item by item."""

    def __init__(self):
        super().__init__()
        self.waiting = [torch.tensor([float(number)]) for number in range(300)]

    def __getitem__(self, index):
        return self.waiting.pop()


class LocalError(Exception):
    """What it is made of cannot be sent as it is."""

    def __init__(self, *, why):
        super().__init__(why, "more")
        self.why, self.lock = why, threading.Lock()


class Fails(Numbers):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def __getitem__(self, index):
        if index == 5:
            raise self.make()
        return super().__getitem__(index)


def in_function():
    class InFunctionError(Exception):
        pass

    return InFunctionError("here")


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: LocalError(why="quota"), LocalError, "quota"),
        (lambda: FileNotFoundError(2, "gone", "here.png"), FileNotFoundError, "here.png"),
        (lambda: UnicodeDecodeError("utf8", b"abc", 1, 2, "odd"), UnicodeDecodeError, "odd"),
        (in_function, RuntimeError, "InFunctionError: here"),
    ],
    ids=["of an own init", "OSError", "of five arguments", "of a class in a function"],
)
def test_an_exception_comes_from_a_worker_as_it_was(make, kind, text):
    """By type, text and attributes, with the worker's traceback; what cannot be sent at all does not hang."""
    with pytest.raises(kind, match=text) as caught:
        fit(Fails(make), num_workers=1)
    assert type(caught.value) is kind
    assert getattr(caught.value, "why", "quota") == "quota"
    assert any("In a worker process" in note for note in caught.value.__notes__)


def with_undo(samples):
    mean = torch.stack(samples).mean()
    return {"x": torch.stack(samples) - mean, "undo": lambda x: x + mean}


@pytest.mark.parametrize(
    ("make", "collate_fn", "words"),
    [
        (lambda path: Numbers(), with_undo, "a batch cannot be sent"),
        (lambda path: Encoded(), list, "a batch cannot be sent"),
        (lambda path: Pooled(), None, "dataset.pool is a pool of threads"),
        (lambda path: Opened(path), None, "dataset.file is an open file"),
        (lambda path: Consumes(), None, "dataset.numbers is an iterator"),
        (lambda path: Queue(), None, "dataset.waiting changes while samples are loaded"),
    ],
    ids=["a closure", "gradients", "a pool", "an open file", "an iterator", "a long queue"],
)
def test_what_cannot_go_into_a_worker_stays_here(make, collate_fn, words, tmp_path):
    """Trained to its end without workers; the reason names what it was, and what to do."""
    dataset = make(tmp_path / "file")
    model, plan = fit(dataset, collate_fn=collate_fn)
    if isinstance(dataset, Opened):
        dataset.file.close()
    assert len(model.epochs[0]) == 4
    assert plan.num_workers == 0
    assert words in plan.reasons["num_workers"].text


def test_a_users_number_stays_and_is_warned_about():
    """One line at the start for each kind of thing, with its first attribute."""
    dataset = Pooled()
    dataset.locks = [locked(), locked()]
    with pytest.warns(UserWarning, match=r"num_workers=2 was set by you, but ") as caught:
        loader = auto_dataloader(dataset, batch_size=4, num_workers=2)
    said = [str(one.message).split("but ")[1] for one in caught]
    assert loader.num_workers == 2
    assert sum(text.startswith("dataset.pool is a pool") for text in said) == 1
    assert [text.split(" is ")[0] for text in said if "a lock that is held" in text] == ["dataset.locks[0]"]


def locked():
    lock = threading.Lock()
    lock.acquire()
    return lock


def closes(batch):
    return {"x": lambda: 1}


def needs_grad(batch):
    return torch.zeros(1, requires_grad=True) * 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("collate_fn", "words"), [(closes, "pickle"), (needs_grad, "requires_grad")])
def test_a_batch_that_cannot_be_sent_ends_in_an_error(collate_fn, words, stream):
    """Torch's own loader waits without end for it where the number of workers is the user's."""
    dataset = Endless() if stream else Numbers()
    loader = auto_dataloader(dataset, batch_size=4, num_workers=1, collate_fn=collate_fn, timeout=60)
    with pytest.raises(RuntimeError, match="cannot be sent from its worker process") as caught:
        next(iter(loader))
    assert words in str(caught.value)
    assert "num_workers=0 sends none" in str(caught.value)


class Endless(IterableDataset):
    def __iter__(self):
        return itertools.count()


def test_a_dataset_that_waits_gets_its_workers():
    """Nothing was found: as many as before."""

    class Waits(Numbers):
        def __getitem__(self, index):
            time.sleep(0.001)
            return super().__getitem__(index)

    loader = auto_dataloader(Waits(64), batch_size=4)
    assert loader.num_workers > 1


class InMemory(Numbers):
    """An array of one's own, and a transform that may take its time."""

    def __init__(self, cost_s):
        super().__init__(64)
        self.values, self.cost_s = torch.arange(64.0), cost_s

    def __getitem__(self, index):
        until = time.perf_counter() + self.cost_s
        while time.perf_counter() < until:
            pass
        return self.values[index : index + 1]


@pytest.mark.timed  # the plan compares what was measured
@pytest.mark.parametrize(("cost_s", "workers"), [(0.0, 0), (0.01, 4)])
def test_data_in_memory_gets_workers_for_what_is_done_with_it(monkeypatch, cost_s, workers):
    """Indexing costs less than handing over; an expensive transform more. The plan has the figures of the trial."""
    monkeypatch.setattr(planning_workers, "CHEAP_SHARE", 1.0)
    model, plan = fit(InMemory(cost_s), max_epochs=1, limit_val_batches=0)
    assert plan.num_workers == workers
    assert (plan.rehearsed.samples, plan.rehearsed.batch_bytes, plan.rehearsed.batch_tensors) == (8, 16, 1)
    assert ("the data is in memory (dataset.values) and cheap" in plan.reasons["num_workers"].text) == (workers == 0)
    assert [int(value) for batch in model.epochs[0] for value in batch.flatten()] == list(range(64))


class Lends(Callback):
    """Has another Trainer fit on the run's own loader, in the middle of an epoch."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 1:
            self.inner = Seen()
            quiet_trainer(max_epochs=1, limit_train_batches=2).fit(self.inner, trainer.train_dataloader)


@pytest.mark.parametrize(("num_workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_a_loader_that_is_lent_goes_on(num_workers, persistent):
    """The other Trainer gets a pass of its own; the run sees each of its batches."""
    lends, model = Lends(), Seen()
    data = FastDataModule(
        Numbers(24), batch_size=4, shuffle=False, num_workers=num_workers, persistent_workers=persistent
    )
    quiet_trainer(callbacks=[lends], max_epochs=2).fit(model, datamodule=data)
    assert [len(epoch) for epoch in model.epochs] == [6, 6]
    assert first_of_epochs(model) == [0, 0]
    assert [len(epoch) for epoch in lends.inner.epochs] == [2]


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_files_that_were_opened_in_init_are_each_workers_own(start_method, tmp_path, monkeypatch):
    """HDF5, zip and lmdb, in attributes, lists, dictionaries, slots: the right samples from workers that live on."""
    monkeypatch.setenv("LIGHTNING_FASTDATA_NUM_CPUS", "3" if start_method == "spawn" else "6")
    write_files(tmp_path)
    dataset = OpenedInInit(tmp_path)
    context = {"multiprocessing_context": start_method}
    data = FastDataModule(Subset(dataset, range(32)), batch_size=4, seed=0, dataloader_kwargs=context)
    model = Seen()
    quiet_trainer(max_epochs=2).fit(model, datamodule=data)
    reason = data.plans["train"].reasons["num_workers"].text
    assert data.plans["train"].num_workers > 0
    assert "dataset.dataset.file (and 5 more) is reopened in each worker" in reason
    for epoch in model.epochs:
        assert sorted(torch.cat(epoch).flatten().tolist()) == list(range(32))
    assert dataset[7] == 7
    dataset.close()


def test_a_file_that_only_a_closure_knows(tmp_path):
    """A forked worker gets a descriptor of its own under it; what starts otherwise could not import the closure."""
    write_files(tmp_path)
    dataset = ClosesOver(tmp_path)
    model, plan = fit(dataset, max_epochs=2)
    assert plan.num_workers > 0
    assert [torch.cat(epoch).flatten().tolist() for epoch in model.epochs] == [list(range(32))] * 2
    loader = auto_dataloader(dataset, batch_size=4, multiprocessing_context="forkserver")
    assert loader.num_workers == 0
    dataset.close()


def test_a_users_workers_get_their_own_files_too(tmp_path):
    """Without a warning, under which the samples would have been wrong; fork, where an archive's position is shared."""
    write_files(tmp_path)
    dataset = OpenedInInit(tmp_path)
    loader = auto_dataloader(
        dataset, batch_size=2, shuffle=False, num_workers=4, multiprocessing_context="fork", persistent_workers=False
    )
    assert [torch.cat(list(loader)).flatten().tolist() for _ in range(3)] == [list(range(32))] * 3
    dataset.close()


def test_a_file_in_memory_stays_here(tmp_path):
    """There is no path to open."""
    write_files(tmp_path)
    dataset = Numbers()
    dataset.archive = in_memory(tmp_path)
    _, plan = fit(dataset)
    assert plan.num_workers == 0
    assert "dataset.archive is open (ZipFile)" in plan.reasons["num_workers"].text
