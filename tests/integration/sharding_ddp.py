"""Two ranks on the CPU whose iterable datasets deal themselves out: every scenario in one script.

Each rank writes what it saw to ``<folder>/<scenario>-<rank>.json``.
"""

import json
import sys
from pathlib import Path

import torch
from datamodule_cases import Recorder, quiet_trainer
from lightning.pytorch import Callback, LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from lightning_fastdata import shard
from lightning_fastdata.loaders.sharding import SetShard


class Stream(IterableDataset):
    def __init__(self, length: int, even: bool = True) -> None:
        self.length, self.even = length, even

    def __iter__(self):
        for number in shard(range(self.length), even=self.even):
            yield torch.tensor(float(number))


class Data(LightningDataModule):
    """Loaders of torch's own: the helper needs nothing of this package's loaders but ``SetShard`` under spawn."""

    def __init__(self, stream: Stream, tell: bool = False, **kwargs) -> None:
        super().__init__()
        self.stream, self.tell, self.kwargs = stream, tell, kwargs

    def train_dataloader(self):
        tell = SetShard(self.trainer.global_rank, self.trainer.world_size) if self.tell else None
        return DataLoader(self.stream, batch_size=2, worker_init_fn=tell, **self.kwargs)

    predict_dataloader = train_dataloader


class Report(Callback):
    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, trainer, model) -> None:
        seen = {stage: [epochs[n] for n in sorted(epochs)] for stage, epochs in model.seen.items()}
        Path(f"{self.path}-{trainer.global_rank}.json").write_text(json.dumps(seen))

    on_fit_end = on_predict_end = write


def main(folder: Path) -> None:
    def run(name, data, stage="fit"):
        trainer = quiet_trainer(devices=2, strategy="ddp_fork", callbacks=[Report(str(folder / name))])
        more = {"return_predictions": False} if stage == "predict" else {}
        getattr(trainer, stage)(Recorder(), datamodule=data, **more)

    run("no-workers", Data(Stream(21)))
    run("workers", Data(Stream(21), num_workers=3, persistent_workers=True))
    run("uneven", Data(Stream(21, even=False), num_workers=2), stage="predict")
    spawn = {"multiprocessing_context": "spawn", "persistent_workers": True}
    run("spawned", Data(Stream(21), tell=True, num_workers=2, **spawn))
    try:
        run("untold", Data(Stream(21), num_workers=1, **spawn))
    except Exception as error:  # torch's own, with the traceback of the rank in its text
        (folder / "untold.json").write_text(json.dumps("cannot find out which" in str(error)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
