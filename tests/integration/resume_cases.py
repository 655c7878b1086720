"""What the tests of resuming share: data that draws random numbers, a model with dropout, and one way to run them.

As a script, ``resume_cases.py FOLDER`` is a run that is killed in mid-epoch.
"""

import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datamodule_cases import quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch.utils.data import Dataset

from lightning_fastdata import FastDataModule

SEED = 7
STEPS = 12
"""Two epochs of six batches: 22 samples in batches of four."""


class Noisy(Dataset):
    """A sample is its number, and one random number of each generator: Python's, NumPy's, torch's, and its own."""

    def __init__(self, length: int = 22, start: int = 0, breaks_at: int | None = None) -> None:
        self.length, self.start, self.breaks_at = length, start, breaks_at
        self.rng = random.Random(0)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == self.breaks_at:
            raise StopError(f"sample {index} cannot be read")
        drawn = (random.random(), float(np.random.rand()), torch.rand(()).item() + self.rng.random())
        return torch.tensor([float(self.start + index), *drawn])


class StopError(Exception):
    """What ends a run before its time."""


class RaiseAt(Callback):
    """Raises in one hook of the training loop, at one batch of one epoch."""

    def __init__(self, hook: str, epoch: int, batch: int, error: type[BaseException] = StopError) -> None:
        self.at, self.error = (epoch, batch), error
        setattr(self, hook, self.look)

    def look(self, trainer: Trainer, model: LightningModule, *args: Any) -> None:
        if (trainer.current_epoch, args[-1]) == self.at:
            raise self.error("here")


class Net(LightningModule):
    """Writes down every batch that it is trained on; its weights depend on data, dropout and the optimizer's state.

    Args:
        breaks: (epoch, batch) at which a training step fails, before it draws any random number.
        estimates: Whether ``estimated_stepping_batches`` is asked for while optimizers are made.
    """

    def __init__(self, breaks: tuple[int, int] | None = None, *, estimates: bool = False) -> None:
        super().__init__()
        self.layer, self.dropout = torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)
        self.breaks, self.estimates = breaks, estimates
        self.seen: list[tuple[int, int, Any]] = []

    def training_step(self, batch, batch_idx):
        return self.learn(batch, batch_idx)

    def learn(self, batch, batch_idx):
        if self.breaks == (self.current_epoch, batch_idx):
            raise StopError("in the step")
        self.seen.append((self.current_epoch, batch_idx, copied(batch)))
        # The model draws from all three generators, so that all of them have to go on where they were.
        rows = torch.cat(list(tensors_in(batch))) + random.random() + float(np.random.rand())
        return (self.dropout(self.layer(rows)) ** 2).mean() * 1e-2

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.layer(batch).mean())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        if not self.estimates:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def tensors_in(batch: Any):
    """The tensors of a batch of any structure."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif batch is not None:
        for value in batch.values() if isinstance(batch, dict) else batch:
            yield from tensors_in(value)


def copied(batch: Any) -> Any:
    """A batch that the loader cannot change any more."""
    if isinstance(batch, torch.Tensor):
        return batch.clone()
    if isinstance(batch, dict):
        return {key: copied(value) for key, value in batch.items()}
    return None if batch is None else [copied(value) for value in batch]


def numbers(batch: torch.Tensor) -> list[int]:
    """The sample numbers of a batch."""
    return [int(number) for number in batch[:, 0].tolist()]


def as_bytes(seen: Sequence[tuple[int, int, Any]]) -> list[Any]:
    """What a model saw, in a form that compares bit by bit and prints well."""

    def plain(batch: Any) -> Any:
        if isinstance(batch, torch.Tensor):
            return numbers(batch), batch.numpy().tobytes()
        if isinstance(batch, dict):
            return {key: plain(value) for key, value in batch.items()}
        return None if batch is None else [plain(value) for value in batch]

    return [(epoch, batch_idx, plain(batch)) for epoch, batch_idx, batch in seen]


@dataclass
class Run:
    """A finished or interrupted run."""

    model: Any
    trainer: Trainer
    error: BaseException | None

    @property
    def seen(self) -> list[Any]:
        return as_bytes(self.model.seen)

    @property
    def weights(self) -> bytes:
        return b"".join(value.numpy().tobytes() for value in self.model.state_dict().values())


class Moments(Callback):
    """Writes a checkpoint at every moment of training that has a name, and notes how many batches were seen by then.

    ``on_train_epoch_start`` is left out: resumed from there, Lightning 2.6.6 takes the epoch for done, with any loader.
    """

    def __init__(self, folder: Path, before: int = 0) -> None:
        self.folder, self.before = Path(folder), before
        self.seen: dict[Path, int] = {}
        for hook in (
            *("on_train_start", "on_train_batch_start", "on_train_batch_end", "on_train_epoch_end"),
            *("on_validation_start", "on_validation_batch_end", "on_validation_end"),
        ):
            setattr(self, hook, partial(self.save, hook))

    def save(self, hook: str, trainer: Trainer, model: Net, *args: Any) -> None:
        seen = self.before + len(model.seen)
        path = self.folder / f"{len(self.seen):03}-after-{seen}-{hook}.ckpt"
        trainer.save_checkpoint(path)
        self.seen[path] = seen


def every_step(folder: Path, **kwargs: Any) -> ModelCheckpoint:
    """A checkpoint after every optimizer step, as ``step=3.ckpt``."""
    return ModelCheckpoint(folder, **{"filename": "{step}", "every_n_train_steps": 1, "save_top_k": -1, **kwargs})


def data(workers: int = 0, length: int = 22, **kwargs: Any) -> FastDataModule:
    """Batches of four of noisy samples, and two batches to validate on."""
    datasets = kwargs.pop("train", None) or Noisy(length), kwargs.pop("val", Noisy(8))
    return FastDataModule(*datasets, **{"batch_size": 4, "num_workers": workers, "seed": SEED, **kwargs})


def fit(
    module: Any = None,
    *,
    model: Callable[[], Any] = Net,
    path: Path | str | None = None,
    callbacks: Sequence[Callback] = (),
    catches: Any = (),
    **kwargs: Any,
) -> Run:
    """Train, from the beginning or from a checkpoint.

    A resumed run starts with other weights and other states of all generators than the first, so that whatever it
    shares with that comes from the checkpoint.

    Args:
        module: The DataModule; None for a model that makes its loaders itself.
        model: Makes the model, when the generators have been seeded.
        path: Checkpoint to resume from.
        callbacks: Of the Trainer.
        catches: Exceptions that may end the run.
        **kwargs: Arguments of the Trainer.
    """
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5 if path is None else 99)
    net = model()
    saves = any(isinstance(callback, Checkpoint) for callback in callbacks)
    trainer = quiet_trainer(
        **{"callbacks": [*callbacks], "enable_checkpointing": saves, "num_sanity_val_steps": 0, **kwargs}
    )
    error = None
    try:
        trainer.fit(net, datamodule=module, ckpt_path=path, weights_only=True)
    except catches as caught:
        error = caught
    return Run(net, trainer, error)


def rest(run: Run, seen: int) -> list[Any]:
    """What an uninterrupted run saw after its first batches, and how it ended: what a resumed one must equal."""
    return [run.seen[seen:], run.weights, run.trainer.global_step]


def loader_states(path: Path | str) -> list[dict[str, Any]]:
    """What a checkpoint holds of the training loaders."""
    loop = torch.load(path, weights_only=True)["loops"]["fit_loop"]
    assert "combined_loader" not in loop["state_dict"]
    return loop["epoch_progress"]["current"]["fastdata_loaders"]


def put_states(checkpoint: dict[str, Any], states: list[Any]) -> None:
    """Replace the loader states of a checkpoint by others, in the place where Lightning looks for them."""
    loop = checkpoint["loops"]["fit_loop"]
    loop["epoch_progress"]["current"].pop("fastdata_loaders", None)
    loop["state_dict"]["combined_loader"] = states


class Kill(Callback):
    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    fit(data(), callbacks=[every_step(Path(sys.argv[1])), Kill()])
