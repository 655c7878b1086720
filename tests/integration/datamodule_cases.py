"""What the DataModule's tests with a real Trainer share: a model that writes down what it saw, and a quiet Trainer."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import Dataset


class Numbers(Dataset):
    """Each sample is its own number, so that a model can say which it saw."""

    classes = ("even", "odd")

    def __init__(self, length: int = 20, start: int = 0) -> None:
        self.length, self.start = length, start

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(float(self.start + index))


def tagged(batch: torch.Tensor, random: Any) -> torch.Tensor:
    """A batch transform that a model can tell: each number with a random one of its sample's behind it."""
    return batch * 1000 + random.integers(0, 1000)


def numbers_in(batch: Any) -> Any:
    """The sample numbers of a batch, in its own structure; a loader that is used up gives None."""
    if batch is None:
        return None
    if isinstance(batch, torch.Tensor):
        return [int(number) for number in batch.flatten().tolist()]
    if isinstance(batch, dict):
        return {key: numbers_in(value) for key, value in batch.items()}
    return [numbers_in(value) for value in batch]


def cut(order: Iterable[int], size: int = 4) -> list[list[int]]:
    """An order in batches."""
    order = list(order)
    return [order[start : start + size] for start in range(0, len(order), size)]


class Recorder(LightningModule):
    """Writes down the batches of every stage: ``seen["train"][epoch]`` is a list of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, dict[int, list[Any]]] = {}

    def note(self, stage: str, batch: Any) -> None:
        self.seen.setdefault(stage, {}).setdefault(self.current_epoch, []).append(numbers_in(batch))

    def training_step(self, batch, batch_idx):
        self.note("train", batch)
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        if not self.trainer.sanity_checking:
            self.note(f"val{dataloader_idx or ''}", batch)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.note("test", batch)

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        self.note("predict", batch)
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def samples(self, stage: str = "train") -> list[list[int]]:
        """The sample numbers of each epoch in the order they were seen."""
        return [[n for batch in batches for n in batch] for _, batches in sorted(self.seen.get(stage, {}).items())]


def quiet_trainer(**kwargs: Any) -> Trainer:
    """On the CPU, without logger, checkpoints, bars and summaries."""
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(**{"accelerator": "cpu", "max_epochs": 2, **dict.fromkeys(off, False), **kwargs})
