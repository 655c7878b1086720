"""FastDataModule and auto_dataloader inside real Trainer runs on one process."""

import logging
import warnings

import pytest
import torch
from datamodule_cases import Numbers, Recorder, quiet_trainer, tagged
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.trainer.connectors import data_connector
from lightning.pytorch.tuner import Tuner
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, WeightedRandomSampler

from lightning_fastdata import FastDataModule, TensorDataModule, auto_dataloader
from lightning_fastdata.datamodules.arrays import ArrayDataset
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.order import epoch_order, sample_seed, stream
from lightning_fastdata.loaders.planned import PlannedDataLoader
from lightning_fastdata.loaders.resumable import ResumableDataLoader
from lightning_fastdata.loaders.samplers import EpochSampler
from lightning_fastdata.loaders.splitmix import mix

NO_SPLIT = "ignore:Total length of `list` across ranks is zero"  # Lightning's word for a split without data
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


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


def test_reloading_the_loaders_changes_no_order():
    """reload_dataloaders_every_n_epochs makes new loaders, which begin with the epoch they serve."""
    model, trainer = fit(inline(Numbers()), max_epochs=3, reload_dataloaders_every_n_epochs=1, limit_val_batches=0)
    assert model.samples() == expected(range(3))
    assert isinstance(trainer.train_dataloader, PlannedDataLoader)


@pytest.mark.filterwarnings("ignore:`isinstance")
@pytest.mark.filterwarnings("ignore:.*ckpt_path")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_goes_on_in_its_order(tmp_path, workers):
    """Two epochs, a checkpoint, a new process' worth of new objects, two more epochs: as in one run of four."""
    _, trainer = fit(inline(Numbers(), num_workers=workers), max_epochs=2, limit_val_batches=0)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    module = inline(Numbers(), num_workers=workers)
    model, _ = fit(module, max_epochs=4, limit_val_batches=0, ckpt_path=tmp_path / "two.ckpt")
    assert model.samples() == expected([2, 3])


def test_seed_everything_decides_the_order(monkeypatch):
    """PL_GLOBAL_SEED, as seed_everything writes it."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "8")
    model, _ = fit(inline(Numbers()), max_epochs=1, limit_val_batches=0)
    assert model.samples() == expected([0], seed=8)


# What Lightning does to loaders


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize("tensors", [False, True])
def test_overfit_batches_gives_the_same_batches_each_epoch(tensors):
    """Shuffling is off, as Lightning promises; the loader class is kept."""
    data = torch.arange(20.0)
    module = TensorDataModule(train=data, val=data, batch_size=4) if tensors else inline(Numbers(), Numbers())
    model, trainer = fit(module, max_epochs=3, overfit_batches=2)
    assert model.samples() == [list(range(8))] * 3
    assert type(trainer.train_dataloader) is ResumableDataLoader


def test_limits_are_kept():
    """limit_train_batches and limit_val_batches cut the epoch, and only that."""
    model, _ = fit(inline(Numbers(), Numbers()), max_epochs=2, limit_train_batches=2, limit_val_batches=1)
    assert model.samples() == [order[:8] for order in expected(range(2))]
    assert model.samples("val") == [list(range(4))] * 2


@pytest.mark.parametrize("tensors", [False, True])
def test_predict_gives_every_sample_once_with_its_index(tensors, tmp_path):
    """Lightning builds the loader again to track indices."""

    class Writer(BasePredictionWriter):
        def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
            self.found = predictions, batch_indices

    writer = Writer(write_interval="epoch")
    module = (
        TensorDataModule(predict=torch.arange(10.0), batch_size=4) if tensors else inline(predict_dataset=Numbers(10))
    )
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


@pytest.mark.filterwarnings(NO_SPLIT)
def test_a_new_batch_size_of_the_tuner_is_used(tmp_path):
    """BatchSizeFinder writes dm.batch_size between its trials, and each trial has loaders of that size."""
    module = inline(Numbers(64), batch_size=2, shuffle=False)
    model = Recorder()
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, limit_val_batches=0)
    size = Tuner(trainer).scale_batch_size(model, datamodule=module, max_trials=2, steps_per_trial=1, init_val=2)
    assert module.batch_size == size > 2
    trials = {len(batch) for batches in model.seen["train"].values() for batch in batches}
    assert {2, 4} <= trials


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


def test_validate_and_test_alone():
    """Without a fit before them."""
    model = Recorder()
    quiet_trainer().validate(model, datamodule=inline(Numbers(), Numbers(6)), verbose=False)
    quiet_trainer().test(model, datamodule=inline(test_dataset=Numbers(3)), verbose=False)
    assert (model.samples("val"), model.samples("test")) == ([list(range(6))], [[0, 1, 2]])


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


def test_lists_of_datasets_as_lightning_takes_them():
    """A batch per training dataset at each step; validation loaders one after the other."""
    module = inline([Numbers(8), Numbers(8, start=100)], [Numbers(4), Numbers(4, start=50)])
    model, _ = fit(module, max_epochs=1)
    one, two = (sorted(n for step in model.seen["train"][0] for n in step[place]) for place in (0, 1))
    assert (one, two) == (list(range(8)), list(range(100, 108)))
    assert (model.samples("val"), model.samples("val1")) == ([list(range(4))], [list(range(50, 54))])
    assert set(module.plans) == {"train/0", "train/1", "val/0", "val/1"}


def test_dicts_of_datasets_as_lightning_takes_them():
    """The batch has the same keys; a dict of validation datasets works too."""
    model, _ = fit(
        inline({"a": Numbers(8), "b": Numbers(8, start=100)}, {"x": Numbers(4), "y": Numbers(4)}), max_epochs=1
    )
    assert sorted(n for step in model.seen["train"][0] for n in step["b"]) == list(range(100, 108))
    assert {"val", "val1"} <= set(model.seen)


@pytest.mark.filterwarnings("ignore:.*is an IterableDataset")
def test_a_stream_in_a_run():
    """An IterableDataset trains for as long as it lasts, each sample once."""

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(torch.arange(10.0))

    module = FastDataModule(Stream(), batch_size=4)
    model, _ = fit(module, max_epochs=2, limit_val_batches=0)
    assert model.samples() == [list(range(10))] * 2


def test_a_sampler_of_the_users_in_a_run():
    """It replaces shuffling, for training only."""
    sampler = WeightedRandomSampler([1.0] + [0.0] * 19, 8)
    model, _ = fit(inline(Numbers(), Numbers(4), dataloader_kwargs={"train": {"sampler": sampler}}), max_epochs=1)
    assert model.samples() == [[0] * 8]
    assert model.samples("val") == [list(range(4))]


def test_a_batch_sampler_of_the_users_in_a_run():
    """Its batches are the batches."""
    batches = BatchSampler(range(6), 3, False)
    model, _ = fit(
        inline(Numbers(), dataloader_kwargs={"train": {"batch_sampler": batches}}), max_epochs=1, limit_val_batches=0
    )
    assert model.seen["train"][0] == [[0, 1, 2], [3, 4, 5]]


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


def test_a_subclass_with_setup_runs_twice():
    """Two fits, setup before each."""
    module = Mine(num_workers=0)
    assert fit(module, limit_val_batches=0)[0].samples() == fit(module, limit_val_batches=0)[0].samples()


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


def test_auto_dataloader_in_a_datamodule_of_ones_own(caplog):
    """Planned, shuffled by (seed, epoch), and told once."""
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")

    class Foreign(LightningDataModule):
        def train_dataloader(self):
            return auto_dataloader(Numbers(), trainer=self.trainer, batch_size=4, num_workers=0)

        def val_dataloader(self):
            return auto_dataloader(Numbers(4), trainer=self.trainer, split="val", batch_size=4)

    model, trainer = fit(Foreign(), max_epochs=3, reload_dataloaders_every_n_epochs=1)
    assert model.samples() == expected(range(3))
    assert isinstance(trainer.train_dataloader.sampler, EpochSampler)
    assert sorted(told_in(caplog)) == ["Data loading for train:", "Data loading for val:"]


def test_auto_dataloader_in_a_lightning_module():
    """The hooks of a model work the same."""

    class Model(Recorder):
        validation_step = LightningModule.validation_step

        def train_dataloader(self):
            return auto_dataloader(Numbers(), trainer=self.trainer, batch_size=4)

    model = Model()
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(model)
    assert model.samples() == expected(range(2))
