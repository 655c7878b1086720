"""An existing project, unchanged but for one line: the callback. Its loaders do not change.

python examples/only_the_callback.py
"""

import time

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_fastdata import DataWaitMonitor


class SlowDataset(Dataset):
    """Stands for whatever your project reads; each sample takes 2 ms."""

    def __len__(self) -> int:
        return 640

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.002)
        return torch.full((8,), float(index)), torch.tensor([float(index)])


class YourModel(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.net(batch[0] / 640), batch[1] / 640)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(SlowDataset(), batch_size=16, shuffle=True)


if __name__ == "__main__":
    monitor = DataWaitMonitor(save_to="runs/only_the_callback.jsonl")
    trainer = L.Trainer(max_epochs=2, logger=False, enable_checkpointing=False, callbacks=[monitor])  # <- the line
    trainer.fit(YourModel())
    print(f"{monitor.summary().wait_share:.0%} of the training time was data wait")
