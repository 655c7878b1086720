"""What the tests of the image cache with a real Trainer share, and the script whose training is killed or on two ranks.

As a script: ``cache_cases.py kill|ddp ROOT CACHE_DIR FOLDER``.
"""

import json
import os
import signal
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from datamodule_cases import quiet_trainer
from lightning.pytorch import LightningModule
from PIL import Image

from lightning_fastdata import ImageFolderDataModule

TRAIN, VAL = 16, 4
"""Images of each class."""


def write_images(root: Path) -> Path:
    """Two classes of small pictures, of which a crop of 32 is taken."""
    for split, count in (("train", TRAIN), ("val", VAL)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng([label, number, split == "val"])
                pixels = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((320, 270 + number)).save(folder / f"{number:02d}.jpg", quality=85)
    return root


class Digests(LightningModule):
    """Writes down what every batch held, byte by byte; ``at`` is a (epoch, batch) to call ``stop`` at."""

    def __init__(self, at=None, stop=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.at, self.stop = at, stop
        self.seen = {}

    def note(self, stage, batch, batch_idx):
        images, labels = batch
        text = sha256(images.contiguous().numpy().tobytes() + labels.numpy().tobytes()).hexdigest()[:12]
        self.seen[f"{stage} {self.current_epoch} {batch_idx}"] = text

    def training_step(self, batch, batch_idx):
        self.note("train", batch, batch_idx)
        if (self.current_epoch, batch_idx) == self.at:
            self.stop()
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        self.note("val", batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data_module(root, **kwargs):
    return ImageFolderDataModule(root, **{"image_size": 32, "batch_size": 4, "num_workers": 0, "seed": 7, **kwargs})


def digests(root, epochs=2, **kwargs):
    """What a run saw, and its DataModule."""
    module, model = data_module(root, **kwargs), Digests()
    quiet_trainer(max_epochs=epochs, num_sanity_val_steps=0).fit(model, datamodule=module)
    return model.seen, module


def kill_this():
    os.kill(os.getpid(), signal.SIGKILL)


def main(what: str, root: str, cache_dir: str, folder: str) -> None:
    if what == "kill":
        module = data_module(root, num_workers=2, cache="disk", cache_dir=cache_dir, cache_format="raw")
        quiet_trainer(num_sanity_val_steps=0).fit(Digests((0, 4), kill_this), datamodule=module)
    module = data_module(root, num_workers=1, cache="disk", cache_format="raw", cache_dir=cache_dir)
    model = Reporting(Path(folder) / "rank")
    quiet_trainer(num_sanity_val_steps=0, devices=2, strategy="ddp_fork").fit(model, datamodule=module)


class Reporting(Digests):
    """Leaves a file for each rank."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_train_end(self):
        module = self.trainer.datamodule
        found = {"seen": self.seen, "lines": module._cache.lines()}
        Path(f"{self.path}-{self.trainer.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
