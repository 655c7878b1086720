"""LightningCLI: every argument of a DataModule in a YAML file and on the command line, "auto" included.

python examples/lightning_cli/main.py fit --config examples/lightning_cli/config.yaml
python examples/lightning_cli/main.py fit --config examples/lightning_cli/config.yaml --data.num_workers 2
python examples/lightning_cli/main.py fit --help
"""

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import TensorDataset

from lightning_fastdata import FastDataModule


class Spirals(FastDataModule):
    """Points on the arms of a spiral; the task is to classify the arm.

    Args:
        points: Points (count).
        noise: How far a point lies off its arm (standard deviation).
        **kwargs: Arguments of ``FastDataModule``, which all become options as well.
    """

    def __init__(self, points: int = 3000, noise: float = 0.05, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.points, self.noise = points, noise

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(0)
        arm = torch.arange(self.points) % 3
        radius = torch.rand(self.points, generator=generator)
        angle = 4 * radius + 2 * torch.pi / 3 * arm
        points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
        self.train_dataset = TensorDataset(points + self.noise * torch.randn(points.shape, generator=generator), arm)


class Classifier(LightningModule):
    """A small network.

    Args:
        width: Units of the hidden layers (count).
        lr: Learning rate.
    """

    def __init__(self, width: int = 32, lr: float = 1e-2) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
        )

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


if __name__ == "__main__":
    LightningCLI(Classifier, Spirals, save_config_kwargs={"overwrite": True})
