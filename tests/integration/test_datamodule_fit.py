"""FastDataModule and auto_dataloader inside real Trainer runs on one process."""

import logging
import warnings

import pytest
import torch
from datamodule_cases import Numbers, Recorder, quiet_trainer, tagged
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.trainer.connectors import data_connector
from torch.utils.data import DataLoader

from lightning_fastdata import FastDataModule, TensorDataModule
from lightning_fastdata.datamodules.array_dataset import ArrayDataset
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.order import epoch_order, sample_seed, stream
from lightning_fastdata.loaders.resumable import ResumableDataLoader
from lightning_fastdata.loaders.splitmix import mix

NO_SPLIT = "ignore:Total length of `list` across ranks is zero"  # Lightning's word for a split without data
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(autouse=True)
def seed_of_the_orders(monkeypatch):
    """As after seed_everything(42): the orders that these tests expect."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "42")


def inline(*datasets, **kwargs):
    return FastDataModule(*datasets, **{"num_workers": 0, "batch_size": 4, **kwargs})


def fit(module, **kwargs):
    model = Recorder()
    path = kwargs.pop("ckpt_path", None)
    trainer = quiet_trainer(**kwargs)
    trainer.fit(model, datamodule=module, ckpt_path=path)
    return model, trainer


def expected(epochs, seed=42, length=20):
    return [epoch_order(seed, epoch, length).tolist() for epoch in epochs]


# Order


@pytest.mark.parametrize(
    "kwargs", [{}, {"num_workers": 1}, {"num_workers": 2, "persistent_workers": False}], ids=["0", "1", "2 anew"]
)
def test_the_order_of_a_run_does_not_depend_on_the_workers(kwargs):
    """Each epoch of a fit is the order of (seed, epoch), every sample once."""
    model, _ = fit(inline(Numbers(), Numbers(4), **kwargs), max_epochs=3)
    assert model.samples() == expected(range(3))
    assert model.samples("val") == [list(range(4))] * 3


# What Lightning does to loaders


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfit_batches_gives_the_same_batches_each_epoch():
    """Shuffling is off, as Lightning promises; the loader class is kept."""
    data = torch.arange(20.0)
    module = TensorDataModule(train=data, val=data, batch_size=4)
    model, trainer = fit(module, max_epochs=3, overfit_batches=2)
    assert model.samples() == [list(range(8))] * 3
    assert type(trainer.train_dataloader) is ResumableDataLoader


def test_predict_gives_every_sample_once_with_its_index():
    """Lightning builds the loader again to track indices."""

    class Writer(BasePredictionWriter):
        def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
            self.found = predictions, batch_indices

    writer = Writer(write_interval="epoch")
    module = TensorDataModule(predict=torch.arange(10.0), batch_size=4)
    quiet_trainer(callbacks=[writer]).predict(Recorder(), datamodule=module)
    predictions, indices = writer.found
    assert torch.cat(predictions).tolist() == list(range(10))
    assert indices == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]]


def batch_of(order, epoch):
    """What ``tagged`` makes of samples: their numbers, each with the first random one of its own."""
    start = stream(42, epoch)
    return [number * 1000 + (mix(sample_seed(start, number)) >> 32) * 1000 // 2**32 for number in order]


def test_augmented_tensors_in_a_run():
    """Loaders made anew for each epoch, a limit on each: the orders and the random numbers of (seed, epoch, index)."""
    module = TensorDataModule(train=torch.arange(20.0), val=torch.arange(5.0), batch_size=4, train_transform=tagged)
    limits = {"reload_dataloaders_every_n_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 1}
    model, trainer = fit(module, max_epochs=2, **limits)
    assert model.samples() == [batch_of(order[:12], epoch) for epoch, order in enumerate(expected(range(2)))]
    assert model.samples("val") == [[0, 1, 2, 3]] * 2
    assert type(trainer.train_dataloader) is ResumableDataLoader


def test_tensors_are_on_the_device_where_they_fit(monkeypatch):
    """The Trainer's device decides, here the CPU, where there is nothing to move; a fit frees what it has moved."""
    module = TensorDataModule(train=torch.arange(20.0), val_split=4, batch_size=4, device_resident=True)
    moved = []
    monkeypatch.setattr(ArrayDataset, "move_to", lambda self, device: moved.append(device))
    model, _ = fit(module, max_epochs=1)
    assert moved == []
    assert module.placements == dict.fromkeys(("train", "val"), "in host memory: the Trainer runs on the CPU")
    assert len(model.samples()[0]) == 16


# Splits


@pytest.mark.filterwarnings(NO_SPLIT)
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_missing_split_skips_its_loop(stage):
    """Training without validation data, and evaluation without any, just have nothing to do."""
    model = Recorder()
    getattr(quiet_trainer(), stage)(model, datamodule=inline(Numbers()))
    assert set(model.seen) == ({"train"} if stage == "fit" else set())


def test_no_training_data_is_said_before_the_first_batch():
    """A subclass whose setup forgot them."""
    with pytest.raises(FastDataError, match="train_dataset is None after setup"):
        fit(inline(None, Numbers()))


def test_held_out_parts_in_a_run():
    """Training and validation never share a sample; the views answer for the whole dataset."""
    model, trainer = fit(inline(Numbers(), val_split=0.25), max_epochs=2)
    first, second = model.samples()
    assert sorted(first) == sorted(second)
    assert first != second
    assert set(first).isdisjoint(model.samples("val")[0])
    assert len(first) == 15
    assert trainer.train_dataloader.dataset.classes == ("even", "odd")
    assert trainer.val_dataloaders.dataset.classes == ("even", "odd")


# Plans, messages, hyperparameters


def told_in(caplog):
    return [r.getMessage().splitlines()[0] for r in caplog.records if "Data loading for" in r.getMessage()]


def test_plans_are_told_once_in_a_whole_run(caplog):
    """Fit with reloaded loaders, then fit again: one message per split."""
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    module = FastDataModule(Numbers(), Numbers(8), batch_size=4)
    for _ in range(2):
        fit(module, max_epochs=2, reload_dataloaders_every_n_epochs=1)
    assert sorted(told_in(caplog)) == ["Data loading for train:", "Data loading for val:"]


def test_the_plan_knows_the_trainer():
    """On the CPU nothing is pinned, and the reason says so; a single epoch keeps no training workers."""
    module = FastDataModule(Numbers(), batch_size=4)
    fit(module, max_epochs=1, limit_val_batches=0)
    assert module.plans["train"].reasons["pin_memory"].text.startswith("the Trainer runs on cpu")
    assert not module.plans["train"].persistent_workers


class Mine(FastDataModule):
    """A subclass as users write it, with hyperparameters."""

    def __init__(self, size=8, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.save_hyperparameters()

    def setup(self, stage):
        self.train_dataset = Numbers(self.size)


def test_auto_stays_auto_in_attributes_and_checkpoints(tmp_path):
    """One machine's numbers must not travel to the next; the checkpoint loads with weights_only."""
    module = Mine(num_workers="auto", pin_memory="auto", batch_size=2)
    _, trainer = fit(module, max_epochs=1, limit_val_batches=0)
    assert (module.num_workers, module.pin_memory) == ("auto", "auto")
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert {name: saved[name] for name in ("size", "num_workers", "pin_memory", "batch_size")} == {
        "size": 8,
        "num_workers": "auto",
        "pin_memory": "auto",
        "batch_size": 2,
    }
    again = Mine.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert (again.num_workers, again.batch_size, again.size) == ("auto", 2, 8)


@pytest.mark.filterwarnings("default:.*does not have many workers")
def test_the_hint_is_for_foreign_loaders_only(monkeypatch):
    """Lightning's worker hint comes for a plain loader and not for ours, in one and the same run."""
    monkeypatch.setattr(data_connector, "suggested_max_num_workers", lambda num_devices: 7)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(inline(Numbers(8), Numbers(8)), max_epochs=1)
    assert not [w for w in caught if "many workers" in str(w.message)]

    class Mixed(FastDataModule):
        def val_dataloader(self):
            return DataLoader(Numbers(4), batch_size=4)

    with pytest.warns(UserWarning, match="The 'val_dataloader' does not have many workers") as caught:
        fit(Mixed(Numbers(8), num_workers=0), max_epochs=1)
    assert not [w for w in caught if "train_dataloader" in str(w.message)]


# auto_dataloader
