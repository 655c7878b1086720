"""Several ranks on the CPU: what each gets of the samples, every scenario in one script.

Each rank writes what it saw to ``<folder>/<scenario>-<rank>.json``.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
from datamodule_cases import Numbers, quiet_trainer
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy

from lightning_fastdata import DataWaitMonitor, FastDataModule, auto_dataloader


class Noisy(Numbers):
    """Each sample with a random fraction."""

    def __getitem__(self, index):
        return super().__getitem__(index) + torch.rand(()) * 0.99


class Prefetcher:
    """What Lightning knows nothing of."""

    def __init__(self, inside) -> None:
        self.inside = inside

    def __iter__(self):
        yield from self.inside

    def __len__(self):
        return len(self.inside)


class Wrapped(FastDataModule):
    """Hands its loader on in a wrapper; with ``own`` each rank has samples of its own."""

    def __init__(self, own: bool = False, auto: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.own, self.auto = own, auto

    def setup(self, stage):
        self.train_dataset = Noisy(8, 100 * self.trainer.global_rank) if self.own else Noisy(8)

    def train_dataloader(self):
        if self.auto:
            return Prefetcher(auto_dataloader(self.train_dataset, trainer=self.trainer, batch_size=4, num_workers=0))
        return Prefetcher(super().train_dataloader())


class Gathers(LightningModule):
    """Gathers each batch over the ranks, as contrastive losses do, behind buffers that DDP synchronizes."""

    def __init__(self, *stages: str) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.BatchNorm1d(2))
        self.stages, self.seen = stages, {}

    def note(self, stage, batch):
        seen = self.seen.setdefault(stage, [])
        everything = self.all_gather(batch).flatten() if stage in self.stages else batch
        seen.append([batch.tolist(), sorted(everything.tolist())])

    def training_step(self, batch, batch_idx):
        self.note("train", batch)
        return self.net(batch[:, None].float()).mean()

    def validation_step(self, batch, batch_idx):
        self.note("val", batch)
        self.net(batch[:, None].float())

    def test_step(self, batch, batch_idx):
        self.note("test", batch)

    def predict_step(self, batch, batch_idx):
        self.note("predict", batch)
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(folder: Path) -> None:
    def run(name, module, *gathers, ranks=2, stage="fit", made=None, **kwargs):
        strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=30), start_method="fork")
        several = {"strategy": strategy, "devices": ranks} if ranks > 1 else {"devices": 1}
        model = Gathers(*gathers)

        class Report(DataWaitMonitor):
            """Measured as well: its exchange at the end waits for no rank."""

            def teardown(self, trainer, pl_module, stage):
                super().teardown(trainer, pl_module, stage)
                (folder / f"{name}-{trainer.global_rank}.json").write_text(json.dumps(pl_module.seen))

        more = {"predict": {"return_predictions": False}, "test": {"verbose": False}}.get(stage, {})
        trainer = quiet_trainer(
            **{"max_epochs": 1, "num_sanity_val_steps": 0, "callbacks": [Report()], **several, **kwargs}
        )
        given = {"datamodule": module} if made is None else {"train_dataloaders": made(trainer)}
        getattr(trainer, stage)(model, **given, **more)

    def data(batch_size, **kwargs):
        return FastDataModule(Noisy(17), Noisy(17), batch_size=batch_size, num_workers=0, seed=7, **kwargs)

    for ranks in (1, 2, 3):
        run(f"fit-{ranks}", data(12 // ranks), "train", "val", ranks=ranks)
    for stage in ("test", "predict"):
        for length in (7, 9):
            module = FastDataModule(**{f"{stage}_dataset": Noisy(length)}, batch_size=2, num_workers=0)
            run(f"{stage}-{length}", module, *(["test"] if stage == "test" else []), stage=stage)
    run("once", data(6, eval_repeats=False))
    run(
        "once-test",
        FastDataModule(test_dataset=Noisy(9), batch_size=2, num_workers=0, eval_repeats=False),
        stage="test",
    )
    for name, options in (("wrapped", {}), ("wrapped-auto", {"auto": True}), ("wrapped-own", {"own": True})):
        run(name, Wrapped(batch_size=4, num_workers=0, **options), max_epochs=3)
    dealt = {"split": "train", "seed": 7, "batch_size": 4, "num_workers": 0}
    run("before", None, made=lambda trainer: auto_dataloader(Noisy(16), trainer=trainer, **dealt))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
