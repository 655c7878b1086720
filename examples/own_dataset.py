"""Your own dataset: inherit from FastDataModule and write ``setup`` as for any LightningDataModule.

python examples/own_dataset.py
"""

import lightning as L
import torch
from torch import nn
from torch.utils.data import Dataset

from lightning_fastdata import DataWaitMonitor, FastDataModule


class SineWaves(Dataset):
    """Noisy sine waves; the task is to classify their frequency. Each sample is computed on request."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        frequency = index % 4
        time_s = torch.linspace(0, 1, 256)
        wave = torch.sin(2 * torch.pi * (frequency + 1) * 4 * time_s)
        return wave + 0.3 * torch.randn(256, generator=generator), frequency


class SineDataModule(FastDataModule):
    """Nothing here is about loading: workers, pinning and prefetch are decided for the machine."""

    def setup(self, stage: str) -> None:
        self.train_dataset = SineWaves(4096, seed=1)
        self.val_dataset = SineWaves(512, seed=2)


class Classifier(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 4))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    data = SineDataModule(batch_size=64)
    trainer = L.Trainer(max_epochs=3, logger=False, enable_checkpointing=False, callbacks=[DataWaitMonitor()])
    trainer.fit(Classifier(), datamodule=data)
