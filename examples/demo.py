"""Train a small network on photographs twice: with plain Lightning loaders, then with lightning_fastdata.

    python examples/demo.py                     # photographs that scikit-image ships
    python examples/demo.py --data my/folder    # your own: train/<class>/*.jpg and val/<class>/*.jpg

The same callback measures both runs, and their reports are printed side by side.
"""

import argparse
import itertools
import logging
import os
import sys
import warnings
from pathlib import Path

import lightning as L
import torch
from photographs import default_cache, write_photographs
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader

from lightning_fastdata import DataWaitMonitor, ImageFolderDataModule, RunSummary, probe
from lightning_fastdata.planning.describe import plan_lines
from lightning_fastdata.report.compare import side_by_side


class SmallConvNet(L.LightningModule):
    """Four convolutions, a mean over the image, one linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        widths = (3, 12, 24, 48, 64)
        blocks = [
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in itertools.pairwise(widths)
        ]
        self.net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        images, labels = batch
        right = (self.net(images).argmax(1) == labels).float().mean()
        self.log("accuracy", right, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class PlainDataModule(L.LightningDataModule):
    """The same data as most projects load it: torch's DataLoader with its defaults."""

    def __init__(self, data: ImageFolderDataModule) -> None:
        super().__init__()
        self.data = data

    def setup(self, stage: str) -> None:
        self.data.setup(stage)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.data.train_dataset, batch_size=self.data.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.data.val_dataset, batch_size=self.data.batch_size)


def train(data: L.LightningDataModule, num_classes: int, epochs: int, save_to: Path | None) -> DataWaitMonitor:
    """One training run; the same seed, model and length whatever loads the data."""
    L.seed_everything(1, verbose=False)
    monitor = DataWaitMonitor(log_every_n_steps=5, summary=False, save_to=save_to, warn_above=None)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(SmallConvNet(num_classes), datamodule=data)
    return monitor


def report(plain: RunSummary, packed: RunSummary, data: ImageFolderDataModule, console: Console) -> None:
    """Both runs side by side, and why the second was configured as it was."""
    console.print(side_by_side(plain, packed, ("plain Lightning", "lightning_fastdata")))
    console.print("\n[bold]The plan, and why[/bold]")
    for split in sorted(data.plans):
        console.print("\n".join(plan_lines(split, data.plans[split])), highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="your own image folder; else scikit-image's photographs")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where the photographs are kept")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of each of the two runs")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--out", type=Path, default=Path("runs/demo.jsonl"), help="file for every step of the run")
    args = parser.parse_args()
    console = Console()
    quiet()

    folder = args.data or write_photographs(args.cache)
    data = ImageFolderDataModule(folder, image_size=args.image_size, batch_size=args.batch_size)
    data.setup("fit")
    console.print(f"\n{len(data.train_dataset)} photographs in {data.num_classes} classes from {folder}")

    console.rule("1. plain Lightning")
    plain = train(PlainDataModule(data), data.num_classes, args.epochs, save_to=None)
    console.rule("2. lightning_fastdata")
    leave_a_core_to_the_worker(console)
    packed = train(data, data.num_classes, args.epochs, save_to=args.out)

    console.rule("What the loaders cost")
    report(plain.summary(), packed.summary(), data, console)
    program = os.path.relpath(Path(sys.executable).with_name("lightning-fastdata"))
    console.print(f"\nEvery step of the second run is in {args.out}; to read it again:", soft_wrap=True)
    console.print(f"  {program} report {args.out}", highlight=False, soft_wrap=True)


def leave_a_core_to_the_worker(console: Console) -> None:
    """Without an accelerator the model computes on the CPU too, with a thread per core; the plan says what to do."""
    cores = int(probe().cpus_per_rank)
    if not torch.accelerator.is_available() and cores > 1:
        before = torch.get_num_threads()
        torch.set_num_threads(cores - 1)
        console.print(f"No accelerator: the model trains with {cores - 1} of {before} threads; a worker gets the core.")


def quiet() -> None:
    """No device messages, no hints, no deprecations inside Lightning."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


if __name__ == "__main__":
    main()
