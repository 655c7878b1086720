"""Two processes that train together on the CPU (DDP): each gets its share of the cores and its share of the samples.

python examples/two_processes.py
"""

import lightning as L
import torch
import torch.distributed
from torch import nn
from torch.utils.data import Dataset

from lightning_fastdata import FastDataModule

SAMPLES = 22


class Numbers(Dataset):
    """Each sample is its own number."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index)])


class Listing(L.LightningModule):
    """Writes down which samples this process was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.seen: list[int] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen += [int(number) for number in batch.flatten().tolist()]
        return self.net(batch).square().mean()

    def on_train_epoch_end(self) -> None:
        everyone: list[list[int]] = [[] for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather_object(everyone, self.seen)
        if self.trainer.is_global_zero:
            print(f"Epoch {self.current_epoch}")
            for rank, seen in enumerate(everyone):
                print(f"  rank {rank} of {len(everyone)} saw {len(seen)} samples: {' '.join(map(str, seen))}")
            together = sorted(number for seen in everyone for number in seen)
            print(f"  together every sample once: {together == list(range(SAMPLES))}", flush=True)
        self.seen = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


if __name__ == "__main__":
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", **quiet)
    trainer.fit(Listing(), datamodule=FastDataModule(Numbers(), batch_size=4, seed=1))
    torch.distributed.destroy_process_group()  # its threads must not outlive the interpreter
