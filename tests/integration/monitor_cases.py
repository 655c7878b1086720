"""What the monitor's tests with a real Trainer share: loaders that know the truth, and a quiet Trainer."""

import functools
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_fastdata import DataWaitMonitor


class Sleeper:
    """A loader without any torch in it, that writes down how long each of its batches really took."""

    def __init__(self, batches: int, sleep_s: float = 0.004, sized: bool = True, give: Any = None) -> None:
        self.batches, self.sleep_s, self.give = batches, sleep_s, give
        self.truth: list[float] = []
        self.iterations = 0
        if sized:
            self.__class__ = SizedSleeper

    def __iter__(self):
        self.iterations += 1
        for number in range(self.batches):
            start = time.perf_counter()
            time.sleep(self.sleep_s)
            self.truth.append(time.perf_counter() - start)
            yield torch.ones(4, 2) if self.give is None else self.give(number)


class SizedSleeper(Sleeper):
    def __len__(self) -> int:
        return self.batches


class Net(LightningModule):
    def __init__(self, work_s: float = 0.0) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.work_s = work_s

    def loss(self, batch):
        if self.work_s:
            time.sleep(self.work_s)
        return self.layer(batch).sum()

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-4)


class EvalNet(Net):
    def validation_step(self, batch, batch_idx):
        return self.loss(batch)

    def test_step(self, batch, batch_idx):
        return self.loss(batch)

    def predict_step(self, batch, batch_idx):
        return self.loss(batch)


class SlowCallback(Callback):
    """Sleeps where a hook gap would take it for data wait."""

    def __init__(self, sleep_s: float = 0.003) -> None:
        self.sleep_s = sleep_s

    def on_train_batch_start(self, *args):
        time.sleep(self.sleep_s)

    def on_train_batch_end(self, *args):
        time.sleep(self.sleep_s)


def quiet_monitor(**arguments: Any) -> DataWaitMonitor:
    return DataWaitMonitor(**{"summary": False, "warn_above": None, **arguments})


def quiet_trainer(*callbacks: Callback, **arguments: Any) -> Trainer:
    usual = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 1,
        "num_sanity_val_steps": 0,
    }
    return Trainer(callbacks=list(callbacks), **{**usual, **arguments})


def near(measured: float | None, truth: float, batches: int) -> bool:
    """Within 5 % + 1 ms a batch of the truth, the promise."""
    assert measured is not None
    return abs(measured - truth) <= 0.05 * truth + 0.001 * batches


def three_tries(test: Callable[..., None]) -> Callable[..., None]:
    """Decorate a test that compares times: it runs alone (see ``timed`` in pyproject.toml), and up to three times.

    Other load on the machine can only spoil a comparison that would hold; a wrong way of measuring is wrong every time.
    """

    @functools.wraps(test)
    def tried(**arguments: Any) -> None:
        for left in (2, 1, 0):
            try:
                test(**arguments)
            except AssertionError:
                if not left:
                    raise
            else:
                return

    return pytest.mark.timed(tried)
