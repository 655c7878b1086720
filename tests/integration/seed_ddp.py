"""Two ranks on the CPU whose generators hold other states, and no seed: every scenario in one script.

Each rank writes what it saw to ``<folder>/<scenario>-<rank>.json``.
"""

import json
import sys
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.pytorch import Callback
from test_whose_seed import BATCH, Calls, Model, Noisy, Several, Zipped, loader, module, numbers, quiet_trainer

from lightning_fastdata import auto_dataloader


class Ranked(Callback):
    """Gives the ranks other numbers, and writes down what each saw."""

    def __init__(self, path: Path, state: int) -> None:
        self.path, self.state = path, state

    def setup(self, trainer, pl_module, stage) -> None:
        torch.manual_seed(self.state + trainer.global_rank)

    def on_fit_end(self, trainer, pl_module) -> None:
        epochs = [
            numbers(batch[0] if isinstance(batch, tuple) else batch for batch in epoch) for epoch in pl_module.seen
        ]
        validated = numbers(pl_module.validated[-1]) if pl_module.validated else None
        found = {"epochs": epochs, "validated": validated, "dropout": pl_module.dropout}
        Path(f"{self.path}-{trainer.global_rank}.json").write_text(json.dumps(found))


class Reads(Callback):
    """Reads loaders on one rank alone, before the Trainer does."""

    def on_fit_start(self, trainer, pl_module) -> None:
        if trainer.global_rank == 1:
            next(iter(trainer.datamodule.train_dataloader()))

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.global_rank == 0:
            next(iter(trainer.train_dataloader))
            next(iter(loader(trainer=trainer)))


class Late(Callback):
    """What one rank draws before its first batch must not matter."""

    def on_train_start(self, trainer, pl_module) -> None:
        torch.rand(1 + trainer.global_rank)


def fabric(folder: Path) -> None:
    """Lightning Fabric deals the samples itself, and no Trainer is there."""

    def both(fabric: Fabric) -> None:
        torch.manual_seed(200 + fabric.global_rank)
        made = fabric.setup_dataloaders(auto_dataloader(Noisy(), batch_size=BATCH, num_workers=0))
        epochs = []
        for epoch in range(2):
            made.sampler.set_epoch(epoch)
            epochs.append(numbers(made))
        (folder / f"fabric-{fabric.global_rank}.json").write_text(json.dumps({"epochs": epochs}))

    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(both)


def main(folder: Path) -> None:
    def run(scenario, data, *callbacks, state=100, **wanted) -> None:
        more = {"devices": 2, "strategy": "ddp_fork", "max_epochs": 2, **wanted}
        callbacks = (Ranked(folder / scenario, state), *callbacks)
        quiet_trainer(callbacks=list(callbacks), **more).fit(Model(), datamodule=data)

    run("module", module(val_dataset=Noisy(), batch_size=BATCH // 2), num_sanity_val_steps=2)
    run("again", module(batch_size=BATCH // 2), state=50)
    run("hook", Calls(), reload_dataloaders_every_n_epochs=1)
    run("generator", Calls(generator=torch.Generator().manual_seed(3)))
    run("read", module(val_dataset=Noisy()), Reads(), num_sanity_val_steps=2)
    run("late", module(), Late())
    run("zip", Several(lambda trainer: Zipped(loader(trainer=trainer), loader(trainer=trainer))))
    fabric(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
