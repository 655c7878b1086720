"""Claim: on an image folder the automatic plan removes most of the data wait of Lightning's default loader.

The same ImageFolderDataModule trains twice: its loaders as planned ("auto"), and with num_workers=0, which is what
DataLoader and Lightning default to; nothing else differs. The accelerator is emulated by a step that sleeps and so
leaves the CPU free; torch has one thread, since nothing is computed on the CPU. The two take turns for several rounds;
medians and ratios within a round are given. The default of ``--photos`` is the demo's photographs.
"""

import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import harness
import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_fastdata import DataWaitMonitor, ImageFolderDataModule


class EmulatedAccelerator(LightningModule):
    """A step that takes ``step_s`` and no CPU."""

    def __init__(self, step_s: float) -> None:
        super().__init__()
        self.step_s = step_s
        self.scale = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        time.sleep(self.step_s)
        return (self.scale - 1) ** 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def measure(folder: Path, step_s: float, num_workers: Any) -> dict[str, float]:
    """One fit of two epochs, and what it waited."""
    monitor = DataWaitMonitor(summary=False, warn_above=None, prog_bar=False)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[monitor],
    )
    data = ImageFolderDataModule(folder, image_size=160, batch_size=32, num_workers=num_workers, drop_last=True)
    trainer.fit(EmulatedAccelerator(step_s), datamodule=data)
    summary = monitor.summary()
    return {
        "wait_share": summary.wait_share,
        "samples_per_s": summary.samples_per_s,
        "num_workers": data.plans["train"].num_workers,
    }


def main() -> None:
    parser = harness.parser(__doc__, photos=True)
    parser.add_argument("--step-ms", type=float, default=100.0, help="length of the emulated step")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    folder = harness.photos_folder(arguments.photos, default=None)
    step_s = arguments.step_ms / 1000
    results = harness.interleaved(
        {"default": lambda: measure(folder, step_s, 0), "plan": lambda: measure(folder, step_s, "auto")},
        arguments.rounds,
    )
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in results.items()
    }
    faster = statistics.median(
        plan["samples_per_s"] / default["samples_per_s"]
        for plan, default in zip(results["plan"], results["default"], strict=True)
    )
    rows = [
        [name, f"{run['num_workers']:.0f}", f"{run['wait_share']:.1%}", f"{run['samples_per_s']:.0f}"]
        for name, run in medians.items()
    ]
    title = f"Step of {arguments.step_ms:.0f} ms, batches of 32, {arguments.rounds} rounds"
    harness.print_table(title, ["loader", "workers", "time waiting", "samples/s"], rows)
    print(f"The plan: {faster:.2f}x the samples per second of the default (median of the rounds' ratios).")
    harness.write_json(arguments.json, {"medians": medians, "faster": faster, "runs": results})


if __name__ == "__main__":
    main()
