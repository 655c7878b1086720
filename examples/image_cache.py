"""A cache that the first epoch fills: the second one reads pixels instead of decoding photographs.

python examples/image_cache.py [FOLDER]

FOLDER has train/<class>/*.jpg; without one, the demo's photographs are written first.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from photographs import default_cache, write_photographs

from lightning_fastdata import ImageFolderDataModule


class Step(L.LightningModule):
    """A model that takes no time, so that an epoch is as long as its loading."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_epoch_start(self) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        print(f"Epoch {self.current_epoch}: {time.perf_counter() - self.started:.1f} s")


if __name__ == "__main__":
    images = Path(sys.argv[1]) if sys.argv[1:] else write_photographs(default_cache())
    with tempfile.TemporaryDirectory() as caches:  # only for this example: the default folder stays
        data = ImageFolderDataModule(images, batch_size=64, cache="disk", cache_dir=caches, cache_format="raw")
        trainer = L.Trainer(
            max_epochs=3, limit_val_batches=0, accelerator="cpu", logger=False, enable_checkpointing=False
        )
        trainer.fit(Step(), datamodule=data)
        print(f"Cache: {data.cache_plan}")
