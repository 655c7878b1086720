"""A program that uses ``pytorch_lightning`` alone: every class in its Trainer, in an interpreter of its own.

What was seen goes to ``<folder>/found.json``, and what two spawned ranks saw to ``<folder>/rank<n>.json``.
"""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from lightning_fastdata.pytorch_lightning import (
    DataAudit,
    DataWaitMonitor,
    FastDataError,
    FastDataModule,
    ImageFolderDataModule,
    LoaderTuner,
    TensorDataModule,
    TorchvisionDataModule,
    auto_dataloader,
)


class Numbers(Dataset):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(float(index))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(10.0))


class SubClass(FastDataModule):
    def __init__(self, count: int = 12, **kwargs) -> None:
        super().__init__(**kwargs)
        self.count = count

    def setup(self, stage: str) -> None:
        self.train_dataset = Numbers(self.count)


class Recorder(pl.LightningModule):
    """Keeps the first number of every sample, by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {}

    def note(self, stage, batch):
        rows = batch[0] if isinstance(batch, (list, tuple)) else batch
        if not (stage == "val" and self.trainer.sanity_checking):
            self.seen.setdefault(stage, []).append(rows.flatten(1)[:, 0].tolist() if rows.ndim > 1 else rows.tolist())

    def training_step(self, batch, batch_idx):
        self.note("train", batch)
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        self.note("val", batch)

    def test_step(self, batch, batch_idx):
        self.note("test", batch)

    def predict_step(self, batch, batch_idx):
        self.note("predict", batch)
        return 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class OwnLoader(Recorder):
    def train_dataloader(self):
        return auto_dataloader(Numbers(12), trainer=self.trainer, batch_size=4)


def trainer(**kwargs) -> pl.Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return pl.Trainer(**{"accelerator": "cpu", "max_epochs": 1, **dict.fromkeys(off, False), **kwargs})


def counts(model: Recorder) -> dict[str, int]:
    return {stage: sum(map(len, batches)) for stage, batches in model.seen.items()}


def run_all(module: pl.LightningDataModule, stages=("fit", "validate", "test", "predict"), **kwargs):
    """Each stage with a model of its own; gives the samples counted per stage, and the plans."""
    found = {}
    for stage in stages:
        model = Recorder()
        more = {"verbose": False} if stage in ("validate", "test") else {}
        getattr(trainer(**kwargs), stage)(model, datamodule=module, **more)
        found[stage] = counts(model)
    return {"counts": found, "plans": sorted(module.plans), "printed": str(module)}


def folder_of_images(root: Path) -> Path:
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((30, 40, 3), 60 + 100 * label + number, np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")
    return root


def mnist(root: Path) -> Path:
    """The files of MNIST, so that nothing is downloaded."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 10)):
        labels = np.arange(count) % 10
        images = np.repeat(labels, 28 * 28).reshape(count, 28, 28)
        for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            content = bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
            (raw / f"{part}-{kind}").write_bytes(content)
            (raw / f"{part}-{kind}.gz").write_bytes(gzip.compress(content))
    return root


def callbacks_in_both_ways(folder: Path) -> dict:
    """The monitor as the one callback and in a list, the audit beside it; a stream, whose first fetch is unlabelled."""
    alone, in_list = DataWaitMonitor(summary=False, save_to=folder / "run.jsonl"), DataWaitMonitor(summary=False)
    data = FastDataModule(Numbers(16), Numbers(4), batch_size=4, num_workers=2)
    trainer(callbacks=alone, max_epochs=2).fit(Recorder(), datamodule=data)
    trainer(callbacks=[in_list, DataAudit(folder / "audit.jsonl"), LoaderTuner()]).fit(Recorder(), datamodule=data)
    streaming = DataWaitMonitor(summary=False)
    trainer(callbacks=[streaming]).fit(Recorder(), datamodule=FastDataModule(Stream(), batch_size=4, num_workers=0))
    summaries = {"alone": alone, "list": in_list, "stream": streaming}
    return {
        name: {
            "steps": monitor.summary().steps,
            "wait_s": monitor.summary().wait_s,
            "fetches": sum(record.fetches for record in monitor.records()),
            "notes": list(monitor.summary().notes),
            "versions": dict(monitor.summary().versions),
            "plans": sorted(monitor.summary().plans),
        }
        for name, monitor in summaries.items()
    }


def main(folder: Path) -> None:
    rows = torch.arange(20.0)
    tensors = TensorDataModule(train=(rows, rows), val=rows[:4], test=rows[:3], predict=rows[:5], batch_size=4)
    images = ImageFolderDataModule(folder_of_images(folder / "photos"), image_size=16, batch_size=4, num_workers=0)
    digits = TorchvisionDataModule("MNIST", mnist(folder / "data"), download=False, batch_size=8, num_workers=0)
    found = {
        "tensors": run_all(tensors),
        "datasets": run_all(FastDataModule(Numbers(9), Numbers(3), Numbers(4), Numbers(5), batch_size=2)),
        "images": run_all(images, ("fit", "validate", "test")),
        "torchvision": run_all(digits, ("fit", "validate", "test")),
        "subclass": run_all(SubClass(batch_size=4, num_workers=0, val_split=0.25), ("fit",)),
        "callbacks": callbacks_in_both_ways(folder),
    }
    own = OwnLoader()
    trainer().fit(own)
    found["auto_dataloader"] = counts(own)
    found["modules"] = sorted({name for name in sys.modules if name.split(".")[0] == "lightning"})
    found["packages"] = sorted({name.split(".")[0] for name in sys.modules})
    (folder / "found.json").write_text(json.dumps(found))


class Report(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer, model) -> None:
        other = sorted({name for name in sys.modules if name.split(".")[0] == "lightning"})
        found = {"seen": [n for batch in model.seen["train"] for n in batch], "modules": other}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(found))


def spawned_ranks(folder: Path) -> None:
    """Module, monitor and audit cross the process border by pickle."""
    monitor, audit = DataWaitMonitor(save_to=folder / "ranks.jsonl"), DataAudit(folder / "ranks_audit.jsonl")
    callbacks = [Report(folder), monitor, audit, LoaderTuner()]
    data = SubClass(12, batch_size=3, num_workers=0)
    trainer(devices=2, strategy="ddp_spawn", callbacks=callbacks).fit(Recorder(), datamodule=data)
    try:
        monitor.summary()
    except FastDataError as error:
        (folder / "parent.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    spawned_ranks(Path(sys.argv[1]))
