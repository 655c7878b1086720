"""Batch-transfer hooks: the model's run with every DataModule of ours, and beside those of a subclass."""

from functools import partial

import numpy as np
import pytest
import torch
from datamodule_cases import Numbers
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from monitor_cases import quiet_monitor, quiet_trainer
from only_pytorch_lightning import mnist
from PIL import Image

from lightning_fastdata import FastDataModule, ImageFolderDataModule, TensorDataModule, TorchvisionDataModule

HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
STAGES = ("fit", "validate", "test", "predict")
# Lightning says so whenever a model has such a hook and there is any DataModule.
pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `(on_|transfer_)")


class Model(LightningModule):
    """Has all three hooks and writes down when each ran."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.calls = []

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.calls.append("model before")
        return batch

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.calls.append(f"model transfer to {device}")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.calls.append("model after")
        return batch

    def training_step(self, batch, batch_idx):
        self.calls.append("step")
        return self.weight * 1.0

    validation_step = test_step = predict_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


BATCH = ["model before", "model transfer to cpu", "model after", "step"]


def fast(tmp_path):
    return FastDataModule(Numbers(4), Numbers(4), Numbers(4), Numbers(4), batch_size=4, num_workers=0)


def tensors(tmp_path):
    return TensorDataModule(**dict.fromkeys(("train", "val", "test", "predict"), torch.ones(4)), batch_size=4)


def images(tmp_path):
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                image = Image.fromarray(np.full((8, 8, 3), number, np.uint8))
                image.save(tmp_path / split / name / f"{number}.png")
    return ImageFolderDataModule(tmp_path, image_size=8, batch_size=4, num_workers=0)


def torchvision(tmp_path):
    mnist(tmp_path)
    return TorchvisionDataModule("MNIST", tmp_path, batch_size=4, val_split=4, num_workers=0, download=False)


def run(stage, data, *callbacks):
    model = Model()
    trainer = quiet_trainer(*callbacks, limit_train_batches=1, limit_val_batches=1, limit_test_batches=1)
    getattr(trainer, stage)(model, datamodule=data, **({"verbose": False} if stage in ("validate", "test") else {}))
    return model


@pytest.mark.parametrize(
    ("make", "stage"),
    [
        *((make, stage) for make in (fast, tensors) for stage in STAGES),
        *((make, stage) for make in (images, torchvision) for stage in STAGES[:-1]),  # these have nothing to predict on
    ],
)
def test_the_models_hooks_run_with_every_data_module_of_ours(make, stage, tmp_path):
    """None of ours has such a hook, which would shadow the model's, but for images: that one hands the batch on."""
    data = make(tmp_path)
    assert [hook for hook in HOOKS if is_overridden(hook, data)] == ([HOOKS[2]] if make is images else [])
    assert run(stage, data).calls == BATCH * (2 if stage == "fit" else 1)  # a training batch and a validation batch


class Looking(LightningModule):
    """Writes down what it is given, in its step and in the hooks that a subclass has."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 2, 3)
        self.seen = {}

    def note(self, where, batch):
        kind, (pixels, labels) = type(batch), batch
        self.seen[where] = (kind, pixels.dtype, pixels.is_contiguous(), labels.dtype, float(pixels.double().mean()))
        return batch

    def training_step(self, batch, batch_idx):
        self.note("step", batch)
        return self.layer(batch[0]).float().mean()

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class After(Looking):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.note("after", batch)


class Before(After):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return self.note("before", batch)


class Moving(After):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return super().transfer_batch_to_device(self.note("transfer", batch), device, dataloader_idx)


class RecipeForImages(ImageFolderDataModule):
    """The recipe of FastDataModule's docstring: its hook was written for floats, and gets floats."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.trainer.lightning_module.note("data", batch)
        return self.trainer.lightning_module.on_after_batch_transfer(batch, dataloader_idx)


def look(tmp_path, model, make=ImageFolderDataModule, **options):
    images(tmp_path)
    data = make(tmp_path, image_size=8, batch_size=4, num_workers=0)
    trainer = quiet_trainer(limit_val_batches=0, max_epochs=1, **options)
    trainer.fit(model, datamodule=data)
    return model.seen, trainer.train_dataloader.dataset.as_pixels


FLOATS = (list, torch.float32, True, torch.int64, pytest.approx((0.5 / 255 - 0.449) / 0.226, abs=0.1))


@pytest.mark.parametrize(
    ("model", "make", "places", "as_pixels"),
    [
        (Looking, ImageFolderDataModule, {"step"}, True),
        (After, ImageFolderDataModule, {"after", "step"}, True),
        (Before, ImageFolderDataModule, {"before", "after", "step"}, False),
        (Moving, ImageFolderDataModule, {"transfer", "after", "step"}, False),
        (After, RecipeForImages, {"data", "after", "step"}, False),
    ],
)
def test_whoever_looks_at_images_sees_normalised_floats(model, make, places, as_pixels, tmp_path):
    """Wherever a user's hook is. Bytes go to the device only where no hook is that would see them."""
    seen, traveled = look(tmp_path, model(), make)
    assert all(batch == FLOATS for batch in seen.values())
    assert traveled is as_pixels
    assert set(seen) == places


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64), ("bf16-mixed", torch.float32)]
)
def test_images_follow_the_precision(precision, dtype, tmp_path):
    """As a batch of floats would."""
    seen, traveled = look(tmp_path, Looking(), precision=precision)
    assert traveled
    assert seen["step"][1] is dtype


def test_images_follow_a_channels_last_model(tmp_path):
    """Otherwise they are contiguous, as they always were."""
    seen, _ = look(tmp_path, Looking().to(memory_format=torch.channels_last))
    assert not seen["step"][2]


def test_loaders_handed_over_without_their_data_module_give_floats(tmp_path):
    """Nobody would normalize them on the device."""
    images(tmp_path)
    data = ImageFolderDataModule(tmp_path, image_size=8, batch_size=4, num_workers=0)
    model = Looking()
    trainer = quiet_trainer(limit_val_batches=0)
    trainer.fit(model, datamodule=data)
    again = Looking()
    quiet_trainer(limit_val_batches=0).fit(again, data.train_dataloader(), data.val_dataloader())
    assert again.seen["step"] == model.seen["step"] == FLOATS


class Handing(FastDataModule):
    """The recipe of FastDataModule's docstring, for each of the hooks."""

    def setup(self, stage):
        self.train_dataset = self.val_dataset = self.test_dataset = self.predict_dataset = Numbers(4)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.trainer.lightning_module.calls.append("data before")
        return self.trainer.lightning_module.on_before_batch_transfer(batch + 1, dataloader_idx)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.trainer.lightning_module.calls.append("data transfer")
        return self.trainer.lightning_module.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.trainer.lightning_module.calls.append("data after")
        return self.trainer.lightning_module.on_after_batch_transfer(batch, dataloader_idx)


@pytest.mark.parametrize("stage", STAGES)
def test_a_subclass_with_hooks_hands_the_batch_on(stage):
    """The DataModule's first, then the model's, each once a batch; the monitor hears them all the same."""
    monitor = quiet_monitor()
    model = run(stage, Handing(batch_size=4, num_workers=0), monitor)
    batch = [word for call in BATCH[:-1] for word in (call.replace("model", "data").removesuffix(" to cpu"), call)]
    assert model.calls == [*batch, "step"] * (2 if stage == "fit" else 1)
    if stage == "fit":
        (record,) = monitor.records()
        assert record.transfer_s is not None


def test_the_recipe_works_where_the_model_has_no_hook():
    """Lightning's defaults move the batch and change nothing."""

    class Plain(LightningModule):
        calls = []  # noqa: RUF012
        seen = []  # noqa: RUF012

        def test_step(self, batch, batch_idx):
            self.seen.append(batch.tolist())

    quiet_trainer().test(Plain(), datamodule=Handing(batch_size=4, num_workers=0), verbose=False)
    assert Plain.seen == [[1.0, 2.0, 3.0, 4.0]]
    assert Plain.calls == ["data before", "data transfer", "data after"]


class ReadsByHand(Callback):
    """Takes a batch of every loader that is to be had, in every hook."""

    def __init__(self):
        self.read = {}
        for hook in (
            *("on_sanity_check_start", "on_train_start", "on_train_batch_end", "on_train_epoch_end", "on_fit_end"),
            *("on_validation_start", "on_validation_batch_end", "on_test_batch_end", "on_predict_batch_end"),
        ):
            setattr(self, hook, partial(self.look, hook))

    def look(self, hook, trainer, *args):
        made = {"val": trainer.datamodule.val_dataloader(), "train": trainer.datamodule.train_dataloader()}
        names = ("train_dataloader", "val_dataloaders", "test_dataloaders", "predict_dataloaders")
        own = {f"trainer.{name}": getattr(trainer, name) for name in names}
        for name, loader in {**made, **own}.items():
            if loader is not None:
                batch = next(iter(loader))
                self.read[hook, name] = (type(batch), batch[0].dtype, round(float(batch[0].mean()), 1))


class Evaluates(After):
    def test_step(self, batch, batch_idx):
        return {"seen": self.note("step", batch)[1]}

    predict_step = test_step


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_whoever_reads_images_by_hand_in_a_run_gets_floats(tmp_path):
    """Of a loader of the Trainer's as of one made anew, in any stage; the Trainer's own still travel as bytes."""
    images(tmp_path)
    reader, model = ReadsByHand(), Evaluates()
    data = ImageFolderDataModule(tmp_path, image_size=8, batch_size=4, num_workers=0)
    trainer = quiet_trainer(max_epochs=1, callbacks=[reader], num_sanity_val_steps=1)
    trainer.fit(model, datamodule=data)
    assert trainer.train_dataloader.dataset.as_pixels
    data.predict_dataset = data.val_dataset
    trainer.test(model, datamodule=data)
    trainer.predict(model, datamodule=data)
    assert {hook for hook, _ in reader.read} >= {"on_sanity_check_start", "on_validation_batch_end", "on_train_start"}
    assert {name for _, name in reader.read} >= {"val", "trainer.val_dataloaders", "trainer.test_dataloaders"}
    assert {name for _, name in reader.read} >= {"train", "trainer.train_dataloader", "trainer.predict_dataloaders"}
    expected = (list, torch.float32, round(FLOATS[-1].expected, 1))
    assert {place: found for place, found in reader.read.items() if found != expected} == {}


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")
def test_a_step_that_fetches_images_itself_gets_floats(tmp_path):
    """Lightning runs no transfer hook there."""

    class Fetches(Looking):
        def training_step(self, dataloader_iter):
            batch, _, _ = next(dataloader_iter)
            return Looking.training_step(self, batch, 0)

    seen, _ = look(tmp_path, Fetches())
    assert seen["step"] == FLOATS
