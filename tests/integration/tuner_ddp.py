"""Two ranks with the tuner, one of which has slow data; each writes what it decided to ``<folder>/<rank>.json``.

``tuner_ddp.py FOLDER agreed``, or ``refused``, where one rank cannot have what was decided.
"""

import json
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import Dataset

from lightning_fastdata import FastDataError, FastDataModule, LoaderTuner
from lightning_fastdata.callbacks.tuner import measurement, session, window
from lightning_fastdata.callbacks.tuner.worker_change import plan_change


class Data(Dataset):
    """Samples that rank 1 waits four times as long for."""

    def __len__(self):
        return 19_200

    def __getitem__(self, index):
        time.sleep(0.002 if torch.distributed.get_rank() else 0.0005)
        return torch.tensor([float(index)])


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.ones(1)), []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.flatten().tolist())
        time.sleep(0.004)
        return (self.weight * batch.mean()).sum() * 0.0 + self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Report(Callback):
    def __init__(self, folder, tuner):
        self.folder, self.tuner = folder, tuner

    def on_train_batch_end(self, trainer, *args):
        if self.tuner._session.over:
            trainer.should_stop = True

    def on_fit_end(self, trainer, pl_module):
        result = self.tuner.result
        found = {
            "seen": pl_module.seen,
            "workers": trainer.train_dataloader.num_workers,
            "result": [result.num_workers, result.prefetch_factor],
            "batch_s": result.probe.batch_s,
            "trials": [
                [trial.num_workers, trial.prefetch_factor, trial.step_s, trial.verdict] for trial in result.trials
            ],
        }
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(found))


def refused_on_rank_1(loader, setting, why):
    """As where only that rank's memory is too small."""
    if torch.distributed.get_rank() == 1:
        raise FastDataError(f"{setting} does not fit.")
    return plan_change(loader, setting, why)


def main(folder, mode):
    measurement.contention = lambda *args: None
    if mode == "refused":
        session.plan_change = refused_on_rank_1
    window.LONG_ENOUGH_S = 0.3
    tuner = LoaderTuner()
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_epochs=2,
        limit_val_batches=0,
        callbacks=[tuner, Report(folder, tuner)],
        **dict.fromkeys(off, False),
    )
    trainer.fit(Model(), datamodule=FastDataModule(Data(), batch_size=16, seed=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
