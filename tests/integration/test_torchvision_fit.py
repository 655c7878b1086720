"""TorchvisionDataModule in real Trainer runs, on MNIST's files written here."""

import gzip

import numpy as np
import pytest
import torch
from datamodule_cases import quiet_trainer
from lightning.pytorch import LightningModule

from lightning_fastdata import TorchvisionDataModule

KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Classifier(LightningModule):
    """Tells the digits apart by their brightness."""

    def __init__(self, classes, shape):
        super().__init__()
        self.layer = torch.nn.Linear(int(np.prod(shape)), classes)
        self.right, self.samples = {}, {}

    def note(self, stage, batch):
        images, labels = batch
        scores = self.layer(images.flatten(1))
        if not self.trainer.sanity_checking:
            self.samples[stage] = self.samples.get(stage, 0) + len(labels)
            self.right.setdefault(stage, []).append((scores.argmax(1) == labels).float().mean().item())
        return torch.nn.functional.cross_entropy(scores, labels)

    def training_step(self, batch, batch_idx):
        return self.note("train", batch)

    def validation_step(self, batch, batch_idx):
        self.note("val", batch)

    def test_step(self, batch, batch_idx):
        self.note("test", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def server(monkeypatch):
    """In the place of torchvision's download: unpacks archives as MNIST's server has them; returns the names asked."""
    counts = {"train": 40, "t10k": 10}
    archives, asked = {}, []
    for part, count in counts.items():
        labels = np.arange(count) % 2
        images = np.repeat(labels * 255, 28 * 28).reshape(count, 28, 28)
        archives[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(idx(images))
        archives[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(idx(labels))

    def download_url(url, root, filename=None, md5=None, **kwargs):
        asked.append(filename)
        with open(f"{root}/{filename}", "wb") as file:
            file.write(archives[filename])

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    return asked


def test_a_run_from_the_download_to_the_test(tmp_path, server):
    """Downloaded once, every image in its part, and the labels belong to the images."""
    data = TorchvisionDataModule("MNIST", tmp_path, batch_size=8, num_workers=0)
    model = Classifier(data.num_classes, data.image_shape)
    trainer = quiet_trainer(max_epochs=4)
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    assert sorted(server) == sorted(f"{part}-{kind}.gz" for part in ("train", "t10k") for kind in KINDS)
    assert model.samples == {"train": 4 * 36, "val": 4 * 4, "test": 10}
    assert model.right["val"][-1] == model.right["test"][-1] == 1.0


def test_a_checkpoint_rebuilds_the_module(tmp_path, server):
    """With the wishes it was made with."""
    data = TorchvisionDataModule("MNIST", tmp_path, batch_size=8, num_workers=0, val_split=10)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(Classifier(data.num_classes, data.image_shape), datamodule=data)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    again = TorchvisionDataModule.load_from_checkpoint(tmp_path / "run.ckpt")
    assert (again.name, again.batch_size, again.val_split) == ("MNIST", 8, 10)
