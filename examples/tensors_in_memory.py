"""Arrays that fit into memory: one operation cuts out a batch, without worker processes.

python examples/tensors_in_memory.py
"""

import lightning as L
import torch
from torch import nn

from lightning_fastdata import DataWaitMonitor, TensorDataModule
from lightning_fastdata.datamodules.transforms import SampleRandom


class Regression(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", nn.functional.mse_loss(self.net(x), y), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def shaken(batch: tuple[torch.Tensor, torch.Tensor], random: SampleRandom) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise for a batch at once; the noise of a sample depends on that sample alone."""
    x, y = batch
    return x + random.uniform(-0.01, 0.01, size=8), y


if __name__ == "__main__":
    L.seed_everything(1)
    x = torch.randn(20_000, 8)
    y = x.square().sum(1, keepdim=True)
    # NumPy arrays work as well.
    data = TensorDataModule(train=(x, y), batch_size=256, val_split=0.1, train_transform=shaken)
    trainer = L.Trainer(max_epochs=3, logger=False, enable_checkpointing=False, callbacks=[DataWaitMonitor()])
    trainer.fit(Regression(), datamodule=data)
    print(f"Workers: {data.plans['train'].num_workers}, because {data.plans['train'].reasons['num_workers'].text}.")
