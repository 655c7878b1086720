"""Hydra: data, transforms and callbacks are named in a YAML file by ``_target_``; the command line changes them.

python examples/hydra_style/main.py
python examples/hydra_style/main.py data.num_workers=2 data.batch_size=64 trainer.max_epochs=1
"""

import hydra
import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn


class Classifier(L.LightningModule):
    def __init__(self, num_classes: int, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, num_classes)
        )

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


@hydra.main(config_path=".", config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    L.seed_everything(config.seed)
    data = instantiate(config.data)
    callbacks = [instantiate(callback) for callback in config.callbacks]
    trainer = L.Trainer(callbacks=callbacks, **config.trainer)
    trainer.fit(instantiate(config.model), datamodule=data)
    print(f"{data!r} was planned as {data.plans['train'].as_kwargs()}")


if __name__ == "__main__":
    main()
