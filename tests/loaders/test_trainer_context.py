"""Which split a loader is wanted for, asked of a real Trainer and of the hooks that call."""

import logging

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from lightning_fastdata import auto_dataloader

IN_ORDER = list(range(12))
STAGES = ("train", "val", "test", "predict")


class Model(LightningModule):
    """Keeps the samples of each stage."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {stage: [] for stage in STAGES}

    def training_step(self, batch, batch_idx):
        self.seen["train"] += batch.tolist()
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        self.seen["val"] += batch.tolist()

    def test_step(self, batch, batch_idx):
        self.seen["test"] += batch.tolist()

    def predict_step(self, batch, batch_idx):
        self.seen["predict"] += batch.tolist()
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ByHooks(LightningDataModule):
    """``auto_dataloader`` where ``DataLoader`` stood, in a function that all hooks call."""

    def __init__(self, gives_trainer, **options):
        super().__init__()
        self.gives_trainer, self.options = gives_trainer, options

    def make(self):
        given = {"trainer": self.trainer} if self.gives_trainer else {}
        return auto_dataloader(range(12), batch_size=4, num_workers=0, **given, **self.options)

    def train_dataloader(self):
        return self.make()

    def val_dataloader(self):
        return self.make()

    def test_dataloader(self):
        return self.make()

    def predict_dataloader(self):
        return self.make()


class OneForAll(ByHooks):
    """One function under four names."""

    val_dataloader = test_dataloader = predict_dataloader = ByHooks.train_dataloader


class OnTraining(ByHooks):
    """Evaluates on what it trains with."""

    def val_dataloader(self):
        return self.train_dataloader()


def run(module, **kwargs):
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = Trainer(accelerator="cpu", max_epochs=1, **dict.fromkeys(quiet, False), **kwargs)
    model = Model()
    trainer.fit(model, datamodule=module)
    trainer.test(model, datamodule=module, verbose=False)
    trainer.predict(model, datamodule=module)
    return model.seen


@pytest.mark.parametrize(
    ("kind", "gives_trainer", "sanity"),
    [(ByHooks, True, 0), (ByHooks, False, 2), (OnTraining, True, 2), (OnTraining, False, 0), (OneForAll, True, 0)],
)
def test_only_training_is_shuffled(kind, gives_trainer, sanity):
    """Without a word about the split in any hook: all else keeps the dataset's order."""
    seen = run(kind(gives_trainer), num_sanity_val_steps=sanity)
    assert sorted(seen["train"]) == IN_ORDER
    assert seen["train"] != IN_ORDER
    assert [seen[stage][-12:] for stage in STAGES[1:]] == [IN_ORDER] * 3


def test_what_the_user_says_wins(caplog):
    """Also about evaluation, and then the plan need not say that training is shuffled."""
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    seen = run(ByHooks(True, shuffle=False), num_sanity_val_steps=0)
    assert [seen[stage] for stage in STAGES] == [IN_ORDER] * 4
    assert "is shuffled" not in caplog.text
    assert run(ByHooks(True, shuffle=True), num_sanity_val_steps=0)["test"] != IN_ORDER
    run(ByHooks(True), num_sanity_val_steps=0)
    assert caplog.text.count("training is shuffled; shuffle=False keeps the order") == 1


def test_a_hook_that_a_callback_calls_says_itself_what_it_is():
    """The Trainer validates then, and the callback looks at training data."""
    seen = []

    class Looks(Callback):
        def on_validation_start(self, trainer, pl_module):
            seen.extend(n for batch in trainer.datamodule.train_dataloader() for n in batch.tolist())

    run(ByHooks(True), num_sanity_val_steps=0, callbacks=[Looks()])
    assert sorted(seen) == IN_ORDER
    assert seen != IN_ORDER


def test_where_nothing_tells_the_order_is_that_of_torch():
    """In a script, ``auto_dataloader(dataset)`` stands for ``DataLoader(dataset)``, and both take ``shuffle=True``."""
    assert [n for batch in auto_dataloader(range(12), num_workers=0) for n in batch.tolist()] == IN_ORDER
    shuffled = auto_dataloader(range(12), num_workers=0, shuffle=True)
    first, second = ([n for batch in shuffled for n in batch.tolist()] for _ in range(2))
    assert sorted(first) == sorted(second) == IN_ORDER
    assert first != second
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer, model = Trainer(accelerator="cpu", max_epochs=1, **dict.fromkeys(quiet, False)), Model()
    loaders = [auto_dataloader(range(12), num_workers=0, trainer=trainer) for _ in range(2)]
    trainer.fit(model, *loaders)
    assert model.seen["train"] == IN_ORDER
