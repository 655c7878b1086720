"""What "auto" makes of datasets that are right without workers: all of them in one process, as JSON.

``python auto_cases.py fork|forkserver|spawn``. One script for all rows, since starting a worker takes seconds under
spawn. The datasets are in a module that needs torch only; see programs.py.
"""

import json
import multiprocessing
import sys
import tempfile
import warnings
from collections import Counter
from unittest import mock

import auto_datasets as given
import torch


def rows():
    """What each row does, by its name."""
    from datamodule_cases import quiet_trainer
    from lightning.pytorch import Callback, LightningDataModule, LightningModule
    from torch.utils.data import DataLoader

    from lightning_fastdata import FastDataModule, LoaderTuner, auto_dataloader

    class Seen(LightningModule):
        """Keeps the first numbers of the batches of each epoch."""

        def __init__(self):
            super().__init__()
            self.weight, self.epochs = torch.nn.Parameter(torch.zeros(1)), []

        def on_train_epoch_start(self):
            self.epochs.append([])

        def training_step(self, batch, batch_idx):
            self.epochs[-1] += (batch["x"] if isinstance(batch, dict) else torch.stack(list(batch))).flatten().tolist()
            return self.weight.sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    class Agent(Seen):
        """Its weight says how often it was updated."""

        def __init__(self):
            super().__init__()
            self.automatic_optimization, self.ages = False, []

        def play(self):
            return self.weight.detach().clone()

        def train_dataloader(self):
            return auto_dataloader(given.Played(self.play), batch_size=4, trainer=self.trainer)

        def training_step(self, batch, batch_idx):
            self.ages.append(int(self.weight - batch.max()))
            self.optimizers().step()
            self.weight.data += 1

    class SetLevel(Callback):
        """Where the datasets of the rows look: an attribute, a global."""

        def on_train_epoch_start(self, trainer, module):
            given.TABLE["level"] = trainer.current_epoch
            vars(trainer.datamodule.train_dataset)["level"] = trainer.current_epoch

    class Grow(Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.datamodule.train_dataset.values += range(8, 800)

    class Lend(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 1:
                quiet_trainer(max_epochs=1, limit_train_batches=1).fit(Seen(), trainer.train_dataloader)

    class Following(FastDataModule):
        def setup(self, stage):
            self.train_dataset = given.FollowsTrainer(self)

    class Own(LightningDataModule):
        def __init__(self, dataset):
            super().__init__()
            self.train_dataset = dataset

        def train_dataloader(self):
            return DataLoader(self.train_dataset, batch_size=4)

    class Mine(given.Numbers):
        """Defined under the main guard's function: no worker can import it."""

    def fit(dataset, *callbacks, max_epochs=1, num_workers="auto", data=None, shuffle=False, **arguments):
        trainer = {"limit_train_batches": arguments.pop("limit_train_batches", None)}
        if data is None:
            data = FastDataModule(dataset, batch_size=4, shuffle=shuffle, num_workers=num_workers, **arguments)
        model = Seen()
        quiet_trainer(callbacks=list(callbacks), max_epochs=max_epochs, **trainer).fit(model, datamodule=data)
        plan = data.plans["train"] if isinstance(data, FastDataModule) else None
        return model.epochs, plan and plan.num_workers, plan and plan.reasons["num_workers"].text

    def levels(found):
        return [sorted({int(number) for number in epoch}) for epoch in found[0]], *found[1:]

    def lengths(found):
        return [len(epoch) for epoch in found[0]], *found[1:]

    def counted(make, count):
        dataset = make()
        _, workers, reason = fit(dataset)
        return count(dataset), workers, reason

    def error():
        try:
            fit(given.Ends())
        except Exception as error:
            return type(error).__name__, getattr(error, "code", None)

    def stopped():
        stops = []
        sys.breakpointhook = lambda: stops.append(1)
        found = fit(given.Stops())
        return len(stops), *found[1:]

    def policy():
        agent = Agent()
        quiet_trainer(max_epochs=2).fit(agent)
        return max(agent.ages)

    def stream():
        found = fit(given.Continues(), max_epochs=2, limit_train_batches=2)
        seen = [number for epoch in found[0] for number in epoch]
        return max(seen) + 1 - len(seen), *found[1:]

    def pool():
        dataset = given.Pooled()
        dataset[0]
        return lengths(fit(dataset))

    def native():
        kind = type("TensorStore", (), {"__module__": "tensorstore"})
        dataset = given.Numbers()
        dataset.store = kind()
        return lengths(fit(dataset))

    def asked():
        found = fit(given.Reopened(), num_workers=1, dataloader_kwargs={"worker_init_fn": given.reopen})
        return levels(found)

    def grown():
        found = fit(given.Growing(), Grow(), max_epochs=2, shuffle=True)
        return [sum(number >= 8 for number in epoch) > 4 for epoch in found[0]], *lengths(found)

    def queue(inner):
        dataset = given.PatchQueue(num_workers=inner)
        found = fit(dataset, max_epochs=2)
        dataset.source = None  # ends its workers
        return [sorted(set(Counter(epoch).values())) for epoch in found[0]], *found[1:]

    def lent():
        return lengths(fit(given.Numbers(24), Lend(), num_workers=1))

    def opened():
        with tempfile.TemporaryDirectory() as folder:
            dataset = given.Opened(folder)
            found = fit(dataset)
            dataset.file.close()
        return levels(found)

    def large():
        said = []
        with mock.patch("lightning_fastdata.loaders.factory.log_rank_zero", said.append):
            auto_dataloader(given.Texts(), batch_size=4)
        return next((line for line in said if "Python objects" in line), None)

    def class_attribute():
        given.ClassLevel.level = 5
        return levels(fit(given.ClassLevel()))

    def foreign():
        data = Own(given.Level(320))
        tuner = LoaderTuner(allow_foreign=True)
        return levels(fit(None, SetLevel(), tuner, data=data, max_epochs=4))

    def tuned():
        data = FastDataModule(given.Level(320), batch_size=4, shuffle=False)
        return levels(fit(None, SetLevel(), LoaderTuner(), data=data, max_epochs=4))

    return {
        "a global": lambda: levels(fit(given.GlobalLevel(), SetLevel(), max_epochs=2)),
        "a global set before": lambda: levels(fit(given.GlobalLevel())),
        "set between epochs": lambda: levels(fit(given.Level(), SetLevel(), max_epochs=2)),
        "a class attribute": class_attribute,
        "asks the Trainer": lambda: levels(fit(None, data=Following(batch_size=4), max_epochs=2)),
        "grows": grown,
        "foreign loader, tuned": foreign,
        "tuned": tuned,
        "policy": policy,
        "queue": lambda: queue(0),
        "queue with workers": lambda: queue(1),
        "stream": stream,
        "counts": lambda: counted(given.Repairs, lambda dataset: dataset.repaired),
        "cache": lambda: counted(lambda: given.Caches(32), lambda dataset: len(dataset.cache)),
        "closure": lambda: lengths(fit(given.Numbers(), collate_fn=given.with_undo)),
        "gradient": lambda: lengths(fit(given.Encoded(), collate_fn=list)),
        "exception": error,
        "breakpoint": stopped,
        "pool": pool,
        "native library": native,
        "main guard": lambda: lengths(fit(Mine())),
        "open file": opened,
        "large": large,
        "worker_init_fn": asked,
        "lent": lent,
    }


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1], force=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    answers = {}
    for name, work in rows().items():
        if name not in sys.argv[2:]:  # what is left out
            try:
                answers[name] = work()
            except Exception as error:
                answers[name] = repr(error)
    sys.stdout.write("\n" + json.dumps(answers))
