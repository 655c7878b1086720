"""Loaders and modules that are not ours: the monitor with any iterable, ``auto_dataloader`` in any module."""

from functools import partial

import numpy as np
import pytest
import torch
from datamodule_cases import Numbers, Recorder, cut
from lightning.pytorch import LightningDataModule
from monitor_cases import (
    BATCH,
    EvalNet,
    Net,
    SizedThreaded,
    Sleeper,
    Threaded,
    Timed,
    near,
    quiet_monitor,
    quiet_trainer,
    three_tries,
)
from torch.utils.data import DataLoader, Dataset

from lightning_fastdata import auto_dataloader
from lightning_fastdata.loaders.order import derive_seed, epoch_order
from lightning_fastdata.loaders.resumable import ResumableDataLoader

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


@pytest.fixture(autouse=True)
def seed_of_the_orders(monkeypatch):
    """As after seed_everything(42): the orders that these tests expect."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "42")


class NextOnly(Timed):
    """Its own iterator, and nothing else: no length, no generator."""

    def __iter__(self):
        self.given = 0
        return self

    def __next__(self):
        if self.given == self.batches:
            raise StopIteration
        self.given += 1
        return self.make()


class GetItemOnly(Timed):
    """The old protocol: Python itself makes the iterator."""

    def __getitem__(self, index):
        if index >= self.batches:
            raise IndexError
        return self.make()


class Samples(Dataset):
    def __init__(self, timed):
        self.timed = timed

    def __len__(self):
        return self.timed.batches

    def __getitem__(self, index):
        return self.timed.make()


class OwnLoader(DataLoader):
    """A subclass that wraps the iterator, as prefetchers to a GPU do."""

    def __iter__(self):
        for batch in super().__iter__():
            yield batch * 2


def torch_subclass():
    timed = Timed()
    return OwnLoader(Samples(timed), batch_size=None), timed


def batches_in_a_list():
    """A bare list would be a list of loaders to Lightning; this is how batches in a list are served."""
    timed = Timed(sleep_s=0.0)
    timed.truth = [0.0]
    return DataLoader([BATCH] * 5, batch_size=None), timed


def ours():
    timed = Timed()
    return auto_dataloader(Samples(timed), batch_size=None, num_workers=0), timed


KINDS = [NextOnly, GetItemOnly, Threaded, SizedThreaded, torch_subclass, batches_in_a_list, ours]


def made(kind):
    """A loader, and what knows its truth, which may be the loader itself."""
    loader = kind()
    return loader if isinstance(loader, tuple) else (loader, loader)


@pytest.mark.parametrize("kind", KINDS)
@three_tries
def test_the_wait_of_any_loader_in_training(kind):
    """Two epochs; the truth is what the loader itself wrote down."""
    loader, timed = made(kind)
    monitor = quiet_monitor()
    quiet_trainer(monitor, max_epochs=2).fit(Net(0.002), loader)
    summary = monitor.summary()
    assert (summary.steps, summary.epochs, summary.samples) == (10, 2, 40)
    assert near(summary.wait_s, sum(timed.truth), 10)
    assert len(summary.first_batch_wait_s) == 2


@pytest.mark.parametrize("kind", KINDS)
@three_tries
def test_the_wait_of_any_loader_in_evaluation(kind):
    """A list of two, each of them some other kind of loader; threads run ahead of nobody but their own loader."""
    first, timed = made(kind)
    second = Sleeper(3, 0.002)

    class Many(EvalNet):
        def test_step(self, batch, batch_idx, dataloader_idx=0):
            return self.loss(batch)

    monitor = quiet_monitor()
    quiet_trainer(monitor).test(Many(0.002), [first, second], verbose=False)
    (stage,) = monitor.summary().stages
    assert [loader.batches for loader in stage.loaders] == [5, 3]
    assert near(stage.wait_s, sum(timed.truth) + sum(second.truth), 8)
    assert near(stage.loaders[1].wait_s, sum(second.truth), 3)


def test_a_generator_that_can_be_read_once():
    """One epoch is all it has."""
    monitor = quiet_monitor()
    quiet_trainer(monitor).fit(Net(), (BATCH for _ in range(4)))
    assert (monitor.summary().steps, monitor.summary().wait_s is not None) == (4, True)


class Wrapped:
    """A batch of one's own, which knows how to move itself."""

    def __init__(self, data):
        self.data = data

    def to(self, device):
        return Wrapped(self.data.to(device))


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (np.ones((4, 2), dtype=np.float32), 4),
        ({"ids": ["a", "b"], "x": torch.ones(2, 2)}, 2),
        (["one", "two"], None),
        (Wrapped(torch.ones(3, 2)), None),
        (7, None),
    ],
    ids=["array", "dict", "strings", "object", "number"],
)
def test_batches_of_any_kind(batch, samples):
    """What cannot be counted is not counted; everything else is measured."""

    class Any(Net):
        def loss(self, batch):
            return self.layer.weight.sum()

    monitor = quiet_monitor()
    quiet_trainer(monitor).fit(Any(), Sleeper(3, 0.001, give=lambda number: batch))
    summary = monitor.summary()
    assert (summary.steps, summary.samples) == (3, None if samples is None else 3 * samples)
    assert summary.wait_s >= 0.003


def test_a_loader_that_breaks_keeps_its_error():
    """The error is the loader's own, and what was measured until then is there."""

    class Breaking(Timed):
        def __iter__(self):
            yield self.make()
            raise ConnectionError("the shard is gone")

    monitor = quiet_monitor()
    trainer = quiet_trainer(monitor)
    with pytest.raises(ConnectionError, match="shard is gone"):
        trainer.fit(Net(), Breaking())
    assert monitor.summary().status == "interrupted"
    assert not {"start", "stop"} & set(vars(trainer.profiler))


def test_a_strategy_without_a_device_is_measured(monkeypatch):
    """Not every strategy has a root device; transfers are then listened to, as on an accelerator."""
    monitor = quiet_monitor()
    trainer = quiet_trainer(monitor)
    monkeypatch.setattr(type(trainer.strategy), "root_device", None)
    monitor.setup(trainer, Net(), "fit")
    try:
        assert monitor._session.instrumentation.tap.labels["[Strategy]SingleDeviceStrategy.batch_to_device"] is not None
    finally:
        monitor.teardown(trainer, Net(), "fit")


# WebDataset and LitData


class Rows(EvalNet):
    """Trains on whatever form a batch of two columns has."""

    def loss(self, batch):
        while isinstance(batch, (list, tuple, dict)):
            batch = next(iter(batch.values() if isinstance(batch, dict) else batch))
        return super().loss(batch)


def webdataset(folder, timed, workers, sized=True):
    """Shards on the local disk through a WebLoader, which has no length unless told one."""
    library = pytest.importorskip("webdataset")
    for shard in range(2):
        with library.TarWriter(str(folder / f"a-{shard:06}.tar")) as writer:
            for row in range(12):
                writer.write({"__key__": f"{shard}{row:04}", "x.pth": torch.full((2,), float(row))})

    def slow(sample):
        timed.make()
        return sample

    stream = library.WebDataset(str(folder / "a-{000000..000001}.tar"), shardshuffle=False)
    stream = stream.decode().to_tuple("x.pth").map(slow).batched(4)
    loader = library.WebLoader(stream, batch_size=None, num_workers=workers)
    return loader.with_length(6, silent=True) if sized else loader


def litdata(folder, timed, workers):
    """Chunks on the local disk through a StreamingDataLoader."""
    library = pytest.importorskip("litdata")
    writer = pytest.importorskip("litdata.streaming.writer").BinaryWriter(str(folder), chunk_size=8)
    for row in range(24):
        writer[row] = {"x": torch.full((2,), float(row))}
    writer.done()
    writer.merge()

    class Slow(library.StreamingDataset):
        def __getitem__(self, index):
            timed.make()
            return super().__getitem__(index)

    return library.StreamingDataLoader(Slow(str(folder)), batch_size=4, num_workers=workers)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    *(f"ignore::{kind}Warning" for kind in ("Deprecation", "Future", "Resource")),
    "ignore:You defined a `validation_step`",
    "ignore:Your `IterableDataset` has `__len__` defined",
)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [webdataset, partial(webdataset, sized=False), litdata], ids=["web", "unsized", "lit"])
@three_tries
def test_a_streaming_library(tmp_path_factory, make, workers):
    """In training and in evaluation."""
    timed = Timed(sleep_s=0.002)
    loader = make(tmp_path_factory.mktemp("shards"), timed, workers)
    monitor = quiet_monitor()
    trainer = quiet_trainer(monitor, max_epochs=2)
    trainer.fit(Rows(), loader)
    summary = monitor.summary()
    assert (summary.steps, summary.samples, summary.num_workers) == (12, 48, workers)
    assert bool(summary.notes) == isinstance(make, partial)
    if workers == 0:
        truth = sum(timed.truth)
        assert truth <= summary.wait_s < truth + 0.3  # opening and reading the shards is loading, too
    trainer.validate(Rows(), loader, verbose=False)
    (stage,) = monitor.summary().stages
    assert (stage.batches, stage.wait_s is not None) == (6, True)


# auto_dataloader in modules of one's own


class Hooks:
    """The four hooks, as a LightningModule or a LightningDataModule has them."""

    collections = False
    workers = 0

    def auto(self, split, length, **kwargs):
        kwargs = {"batch_size": 4, "num_workers": self.workers, **kwargs}
        return auto_dataloader(Numbers(length), trainer=self.trainer, split=split, **kwargs)

    def train_dataloader(self):
        if self.collections:
            return {"a": self.auto("train", 8, loaders=2), "b": self.auto("train", 12, loaders=2)}
        return self.auto("train", 10)

    def val_dataloader(self):
        if self.collections:
            return [self.auto("val", 6, loaders=2), self.auto("val", 3, loaders=2)]
        return self.auto("val", 6)

    def test_dataloader(self):
        return self.auto("test", 5)

    def predict_dataloader(self):
        return self.auto("predict", 5)


class ModelWithHooks(Hooks, Recorder):
    pass


class DataWithHooks(Hooks, LightningDataModule):
    pass


def modules(kind, **attributes):
    """(model, arguments of the Trainer's functions)."""
    model = ModelWithHooks() if kind == "model" else Recorder()
    data = None if kind == "model" else DataWithHooks()
    for name, value in attributes.items():
        setattr(data or model, name, value)
    return model, {} if data is None else {"datamodule": data}


ROWS = pytest.mark.parametrize(
    ("kind", "every", "workers"),
    [
        *(("model", 0, 0), ("model", 2, 0), ("data module", 1, 0)),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in (("model", 1, 2), ("data module", 0, 2))),
        pytest.param("data module", 2, 2, marks=pytest.mark.slow),
    ],
)
"""Hooks of a model or a DataModule, epochs until loaders are made again, workers: every pair of values meets."""


@ROWS
def test_auto_dataloader_in_every_stage(kind, every, workers):
    """Fit with and without reloaded loaders, then each evaluation on its own, on one Trainer."""
    model, data = modules(kind, workers=workers)
    trainer = quiet_trainer(max_epochs=4, reload_dataloaders_every_n_epochs=every, num_sanity_val_steps=1)
    trainer.fit(model, **data)
    assert isinstance(trainer.train_dataloader, ResumableDataLoader)
    for epoch in range(4):
        assert model.seen["train"][epoch] == cut(epoch_order(42, epoch, 10).tolist())
        assert model.seen["val"][epoch] == cut(range(6))
    model.seen.clear()
    trainer.validate(model, **data, verbose=False)
    trainer.test(model, **data, verbose=False)
    trainer.predict(model, **data)
    seen = {stage: list(epochs.values()) for stage, epochs in model.seen.items()}
    assert seen == {"val": [cut(range(6))], "test": [cut(range(5))], "predict": [cut(range(5))]}


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize("kind", ["model", "data module"])
def test_auto_dataloader_in_an_evaluation_alone(kind, stage):
    """Without a fit before it."""
    model, data = modules(kind)
    monitor = quiet_monitor()
    getattr(quiet_trainer(monitor), stage)(model, **data, **({} if stage == "predict" else {"verbose": False}))
    (batches,) = next(iter(model.seen.values())).values()
    assert batches == cut(range(6 if stage == "validate" else 5))
    assert monitor.summary().stages[0].batches == 2


@ROWS
def test_auto_dataloader_in_dicts_and_lists(kind, every, workers):
    """A dict for training, a list for validation; each loader in its own order."""
    model, data = modules(kind, collections=True, workers=workers)
    monitor = quiet_monitor()
    trainer = quiet_trainer(monitor, max_epochs=3, reload_dataloaders_every_n_epochs=every)
    trainer.fit(model, **data)
    for epoch in range(3):
        a, b = (
            cut(epoch_order(derive_seed(42, f"train/{index}"), epoch, length).tolist())
            for index, length in enumerate((8, 12))
        )
        assert [batch["b"] for batch in model.seen["train"][epoch]] == b
        assert [batch["a"] for batch in model.seen["train"][epoch]][:2] == a
        assert model.seen["val"][epoch] == cut(range(6))
        assert model.seen["val1"][epoch] == [[0, 1, 2]]
    (stage,) = monitor.summary().stages
    assert [(part.runs, part.batches) for part in stage.loaders] == [(3, 6), (3, 3)]
