"""Two ranks on the CPU: every scenario in one script, because starting Lightning is what takes the time.

Each scenario writes ``<folder>/<scenario>.jsonl``.
"""

import json
import sys
from pathlib import Path

import torch
from datamodule_cases import Numbers, quiet_trainer
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from lightning_fastdata import DataAudit, FastDataModule


class Stops(LightningModule):
    """Raises at a batch, on all ranks."""

    def __init__(self, at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.at = at

    def training_step(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == self.at:
            raise InterruptedError
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class BreaksAudit(Callback):
    """A fault of the audit on one rank, in the midst of the first epoch."""

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        if trainer.global_rank == 1 and batch_idx == 2:
            trainer.callbacks[0]._session.sums = "broken"


class CountsReductions(Callback):
    """How often the strategy is asked to add something up."""

    def __init__(self, path):
        self.path = path

    def on_train_start(self, trainer, model):
        reduce, self.count = trainer.strategy.reduce, 0

        def counted(*args, **kwargs):
            self.count += 1
            return reduce(*args, **kwargs)

        trainer.strategy.reduce = counted

    def on_train_end(self, trainer, model):
        if trainer.is_global_zero:
            self.path.write_text(json.dumps(self.count))


def main(folder: Path) -> None:
    def run(name, *, at=None, ranks=2, callbacks=(), length=80, content=False, resume=None, start="fork", **kwargs):
        trainer = quiet_trainer(
            callbacks=[DataAudit(folder / f"{name}.jsonl", content=content), *callbacks],
            **({"devices": 2, "strategy": DDPStrategy(start_method=start)} if ranks == 2 else {"devices": 1}),
            **kwargs,
        )
        module = FastDataModule(Numbers(length), batch_size=8 // ranks, num_workers=0, seed=42)
        trainer.fit(Stops(at), datamodule=module, ckpt_path=resume)

    def fails(name, **kwargs):
        try:
            run(name, **kwargs)
        except Exception as error:  # torch's own, with the traceback of the rank in its text
            (folder / f"{name}.txt").write_text(str(error))

    run("two", content=True, callbacks=[CountsReductions(folder / "reductions.json")])
    run("two-pickled", content=True, start="forkserver")
    run("one", ranks=1, content=True)
    for name, length in (("uneven", 77), ("padded", 73)):
        run(f"one-{name}", ranks=1, length=length, max_epochs=1, content=True)
        run(f"two-{name}", length=length, max_epochs=1, content=True)
    run("broken", callbacks=[BreaksAudit()])
    saver = ModelCheckpoint(folder / "saved", every_n_train_steps=13, filename="saved")
    fails("resumed", at=(1, 5), callbacks=[saver], enable_checkpointing=True)
    run("resumed", resume=folder / "saved" / "saved.ckpt")
    (folder / "folder.jsonl").mkdir()
    fails("folder")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
