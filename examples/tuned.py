"""The number of workers, tuned while training: the tuner measures, changes, verifies, and logs each decision.

Each sample waits 3 ms, as for a slow disk, and the step waits 8 ms, as for an accelerator that computes.

python examples/tuned.py
"""

import time

import lightning as L
import torch
from torch.utils.data import Dataset

from lightning_fastdata import DataWaitMonitor, FastDataModule, LoaderTuner


class SlowDisk(Dataset):
    """Four numbers and a label, after a wait."""

    def __len__(self) -> int:
        return 6400

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.003)
        values = torch.randn(4)
        return values, values.sum()


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(4, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        time.sleep(0.008)
        return (self.net(batch[0]).squeeze(1) - batch[1]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


if __name__ == "__main__":
    data, tuner = FastDataModule(SlowDisk(), batch_size=16), LoaderTuner()
    callbacks = [tuner, DataWaitMonitor()]
    trainer = L.Trainer(max_epochs=2, logger=False, enable_checkpointing=False, callbacks=callbacks)
    trainer.fit(Model(), datamodule=data)
    print(f"Next time: FastDataModule(..., {', '.join(f'{k}={v}' for k, v in tuner.result.arguments().items())})")
