"""What the tests of "the same batches, whatever the workers" share, and the script that runs the matrix of them.

Spawned workers import this file, so Lightning is imported within functions only.

As a script: ``sameness_cases.py FOLDER CASES``, where CASES is a JSON list of [workers, prefetch, context, ranks];
each rank writes what it saw to ``FOLDER/<case>-<rank>.json``.
"""

import json
import multiprocessing
import random
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

LENGTH, GLOBAL_BATCH, EPOCHS = 27, 8, 2
"""The last batch has 3 samples: ranks do not share it evenly."""


class Augmented(Dataset):
    """As users write them: random flips and crops, NumPy noise, Python's choice; and a generator of its own."""

    def __init__(self, length: int = LENGTH, start: int = 0) -> None:
        self.length, self.start = length, start
        self.rng = np.random.default_rng(0)
        self.transform = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(6, padding=1)])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.arange(3 * 8 * 8, dtype=torch.float32).reshape(3, 8, 8) / 192 - (self.start + index) / 100
        return {
            "index": self.start + index,
            "image": self.transform(image),
            "noise": (np.random.randn(4) + self.rng.standard_normal(4)).astype(np.float32),
            "label": random.choice(["cat", "dog", "cow", "owl"]),
        }


def digest(value: Any) -> str:
    """Of every byte of a batch or a sample, with the types and shapes."""
    found = sha256()

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            found.update(f"{part.dtype}{tuple(part.shape)}".encode())
            found.update(part.detach().contiguous().numpy().tobytes())
        elif isinstance(part, dict):
            for key in part:
                found.update(key.encode())
                add(part[key])
        elif isinstance(part, (list, tuple)):
            found.update(f"{type(part).__name__}{len(part)}".encode())
            for inner in part:
                add(inner)
        else:
            found.update(repr(part).encode())

    add(value)
    return found.hexdigest()[:16]


def samples_of(batch: dict[str, Any]) -> list[str]:
    """One digest for each sample."""
    return [digest({key: column[row] for key, column in batch.items()}) for row in range(len(batch["index"]))]


def describe(batch: Any) -> Any:
    """A batch as JSON can hold it; a collection of batches, as Lightning combines loaders, keeps its form."""
    if isinstance(batch, dict) and "index" not in batch:
        return {key: describe(part) for key, part in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [describe(part) for part in batch]
    if batch is None:
        return None
    columns = {key: [digest(value) for value in batch[key]] for key in ("image", "noise")}
    numbers = [int(number) for number in batch["index"]]
    return {
        "digest": digest(batch),
        "samples": samples_of(batch),
        "numbers": numbers,
        "label": batch["label"],
        **columns,
    }


def make_model(lr: float = 0.01, dropout: float = 0.5) -> Any:
    """A small model with dropout that writes down every batch: ``seen["train"][epoch]`` is a list of descriptions."""
    from lightning.pytorch import LightningModule

    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.lr = lr
            layers = (torch.nn.Flatten(), torch.nn.Linear(108, 8), torch.nn.Dropout(dropout), torch.nn.Linear(8, 1))
            self.layers = torch.nn.Sequential(*layers)
            self.seen: dict[str, dict[int, list[Any]]] = {}

        def note(self, stage: str, batch: Any) -> None:
            self.seen.setdefault(stage, {}).setdefault(self.current_epoch, []).append(describe(batch))

        def training_step(self, batch, batch_idx):
            self.note("train", batch)
            images = [part["image"] for part in _batches_in(batch)]
            return sum(self.layers(image).pow(2).mean() for image in images) / len(images)

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            if not self.trainer.sanity_checking:
                self.note("val", batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

        def epochs(self, what: str = "digest", stage: str = "train") -> list[list[Any]]:
            """One entry of the descriptions, by epoch and batch."""
            return [[batch[what] for batch in batches] for _, batches in sorted(self.seen.get(stage, {}).items())]

        def weights(self) -> str:
            assert all(parameter.isfinite().all() for parameter in self.parameters())  # or equal would say little
            return digest([parameter.detach() for parameter in self.parameters()])

    torch.manual_seed(123)  # the first weights, and then dropout
    return Model()


def _batches_in(batch: Any) -> list[Any]:
    if isinstance(batch, dict) and "index" in batch:
        return [batch]
    parts = batch.values() if isinstance(batch, dict) else batch
    return [inner for part in parts if part is not None for inner in _batches_in(part)]


def make_trainer(**kwargs: Any) -> Any:
    """On the CPU, without logger, checkpoints, bars and summaries."""
    from lightning.pytorch import Trainer

    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(**{"accelerator": "cpu", "max_epochs": EPOCHS, **dict.fromkeys(off, False), **kwargs})


def fit(module: Any = None, *, train: Any = None, model: Any = None, **kwargs: Any) -> Any:
    """Train a model on a DataModule, or on a loader."""
    model = model or make_model()
    make_trainer(**kwargs).fit(model, train_dataloaders=train, datamodule=module)
    return model


def make_module(*datasets: Any, **kwargs: Any) -> Any:
    """A FastDataModule of ``Augmented``, without workers and with the seed 42 unless said otherwise."""
    from lightning_fastdata import FastDataModule

    return FastDataModule(
        *(datasets or (Augmented(),)), **{"batch_size": GLOBAL_BATCH, "num_workers": 0, "seed": 42, **kwargs}
    )


def name_of(case: Any) -> str:
    """For files and test ids."""
    return "-".join(str(value) for value in case)


def run_case(case: Any, folder: Path) -> None:
    """Two epochs with the workers, prefetching, start method and ranks of one case."""
    from lightning.pytorch import Callback

    workers, prefetch, context, ranks = case

    class Report(Callback):
        def on_fit_end(self, trainer, pl_module):
            found = {what: pl_module.epochs(what) for what in ("digest", "samples")}
            loader = trainer.train_dataloader
            used = getattr(loader.multiprocessing_context, "_name", None)
            found.update(weights=pl_module.weights(), used=[loader.num_workers, loader.prefetch_factor, used])
            (folder / f"{name_of(case)}-{trainer.global_rank}.json").write_text(json.dumps(found))

    options = (
        {"prefetch_factor": prefetch, "dataloader_kwargs": {"multiprocessing_context": context}} if workers else {}
    )
    module = make_module(num_workers=workers, batch_size=GLOBAL_BATCH // ranks, **options)
    ddp = {"devices": ranks, "strategy": "ddp_fork"} if ranks > 1 else {}
    fit(module, limit_val_batches=0, callbacks=[Report()], **ddp)


if __name__ == "__main__":
    # Importing torchvision is what takes the time; forked servers have it from the one that was started first.
    multiprocessing.set_forkserver_preload(["torchvision.transforms.v2"])
    for chosen in sorted(
        json.loads(sys.argv[2]), key=lambda case: -case[3]
    ):  # forking ranks first, from a fresh process
        run_case(chosen, Path(sys.argv[1]))
