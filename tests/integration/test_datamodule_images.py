"""ImageFolderDataModule and TensorDataModule in real Trainer runs."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from datamodule_cases import quiet_trainer
from lightning.pytorch import LightningModule
from only_pytorch_lightning import folder_of_images

from lightning_fastdata import ImageFolderDataModule, TensorDataModule

SHARED_PHOTOS = Path(__file__).parents[3] / "shared" / "photos"
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Classifier(LightningModule):
    """Brightness to class: enough to see that images and labels belong together."""

    def __init__(self, classes=2):
        super().__init__()
        self.layer = torch.nn.Linear(3, classes)
        self.samples, self.right = [], []

    def loss(self, batch):
        images, labels = batch
        scores = self.layer(images.mean(dim=(2, 3)) if images.ndim == 4 else images)
        self.samples.append(len(labels))
        self.right.append((scores.argmax(1) == labels).float().mean().item())
        return torch.nn.functional.cross_entropy(scores, labels)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


@pytest.fixture
def folder(tmp_path):
    """Dark and bright images, 12 for training and 4 for validation."""
    return folder_of_images(tmp_path)


def fit(module, **kwargs):
    torch.manual_seed(0)
    model = Classifier()
    trainer = quiet_trainer(**{"max_epochs": 3, **kwargs})
    trainer.fit(model, datamodule=module)
    return model, trainer


def test_a_model_learns_from_a_folder(folder):
    """Labels belong to their images: bright and dark are distinguished after a few steps."""
    module = ImageFolderDataModule(folder, image_size=8, batch_size=4, num_workers=0)
    model, trainer = fit(module, max_epochs=5)
    assert model.right[-1] == 1.0
    assert trainer.train_dataloader.dataset.classes == ["cat", "dog"] == module.classes


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_past_unreadable_images(folder, workers):
    """One file of training and one of validation are broken: trained on the rest, told once for each split."""
    broken = [folder / "train" / "dog" / "3.jpg", folder / "val" / "cat" / "0.jpg"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:20])
    module = ImageFolderDataModule(folder, image_size=8, batch_size=4, num_workers=workers, on_error="skip")
    with pytest.warns(UserWarning, match="could not be read and were left out") as caught:
        model, _ = fit(module, num_sanity_val_steps=0)
    assert sum(model.samples) == 3 * (11 + 3)
    told = [str(warning.message) for warning in caught if "left out" in str(warning.message)]
    assert len(told) == 2
    assert all(any(str(path) in text for text in told) for path in broken)
    assert module.unreadable == {"train": [str(broken[0])], "val": [str(broken[1])], "test": []}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_trainer().validate(Classifier(), datamodule=module, verbose=False)
    assert not [str(warning.message) for warning in caught if "left out" in str(warning.message)], "told once is enough"


def test_a_model_learns_from_arrays():
    """Features and labels of a shuffled, split array stay together."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 3)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int64)
    module = TensorDataModule(train=(features, labels), val_split=0.2, batch_size=20)
    model, _ = fit(module, max_epochs=10)
    assert sum(model.right[-2:]) / 2 > 0.85
    assert module.plans["train"].num_workers == 0


@pytest.mark.skipif(not SHARED_PHOTOS.is_dir(), reason="needs the folder shared/photos beside the project")
@pytest.mark.slow
def test_real_photographs_in_a_run():
    """Auto settings on real files: three steps of training and one of validation."""
    module = ImageFolderDataModule(SHARED_PHOTOS, image_size=64, batch_size=8)
    torch.manual_seed(0)
    model = Classifier(classes=3)
    quiet_trainer(max_epochs=1, limit_train_batches=3, limit_val_batches=1, num_sanity_val_steps=0).fit(
        model, datamodule=module
    )
    assert model.samples == [8, 8, 8, 8]
    assert module.plans["train"].reasons["num_workers"].source in ("hardware", "rule")
