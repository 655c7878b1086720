"""Two ranks on the CPU: our DataModules, and iterable datasets that deal themselves out, every scenario in one script.

Each rank writes what it saw to ``<folder>/<scenario>-<rank>.json``.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from datamodule_cases import Numbers, Recorder, quiet_trainer, tagged
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from lightning_fastdata import FastDataModule, TensorDataModule, TokenDataModule, shard
from lightning_fastdata.loaders.sharding import SetShard
from lightning_fastdata.planning import workers


class Report(Callback):
    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, trainer, model) -> None:
        loader, data = trainer.train_dataloader, trainer.datamodule
        found = {
            "seen": {stage: [epochs[n] for n in sorted(epochs)] for stage, epochs in model.seen.items()},
            "loader": type(loader).__name__,
            "attributes": list(getattr(getattr(loader, "dataset", None), "classes", ())),
            "plans": {name: plan.to_dict() for name, plan in getattr(data, "plans", {}).items()},
            "worker_seeds": loader.determinism.worker_seeds(0).initial_seed()
            if hasattr(loader, "determinism")
            else None,
            "steps": trainer.global_step,
        }
        Path(f"{self.path}-{trainer.global_rank}.json").write_text(json.dumps(found))

    on_fit_end = on_test_end = on_predict_end = write


class WholeBatches(BatchSampler):
    """A subclass, which Lightning rebuilds around its own sampler."""


class Stream(IterableDataset):
    def __init__(self, even: bool = True) -> None:
        self.even = even

    def __iter__(self):
        for number in shard(range(21), even=self.even):
            yield torch.tensor(float(number))


class Streams(LightningDataModule):
    """Loaders of torch's own: ``shard`` needs nothing of this package but ``SetShard`` where workers are not forked."""

    def __init__(self, tell: bool = False, even: bool = True, **kwargs) -> None:
        super().__init__()
        self.stream, self.tell, self.kwargs = Stream(even), tell, kwargs

    def train_dataloader(self):
        tell = SetShard(self.trainer.global_rank, self.trainer.world_size) if self.tell else None
        return DataLoader(self.stream, batch_size=2, worker_init_fn=tell, **self.kwargs)

    predict_dataloader = train_dataloader


def main(folder: Path) -> None:
    workers.CHEAP_SHARE = 0.0  # the samples are cheap; it is about the workers

    def run(name, module, stage="fit", start="fork", **kwargs):
        ranks = {"devices": 2, "strategy": DDPStrategy(start_method=start), "callbacks": [Report(str(folder / name))]}
        more = {"predict": {"return_predictions": False}, "test": {"verbose": False}}.get(stage, {})
        trainer = quiet_trainer(**{"max_epochs": 2, **ranks, **kwargs})
        getattr(trainer, stage)(Recorder(), datamodule=module, **more)

    def fails(name, module, words):
        try:
            run(name, module, max_epochs=1)
        except Exception as error:  # torch's own, with the traceback of the rank in its text
            (folder / f"{name}.json").write_text(json.dumps(words in str(error)))

    run("fit", FastDataModule(Numbers(21), Numbers(7), batch_size=4))
    run("again", FastDataModule(Numbers(21), Numbers(7), batch_size=4, num_workers=0))
    run("padded", FastDataModule(Numbers(17), batch_size=4, num_workers=0), max_epochs=1)
    run("test", FastDataModule(test_dataset=Numbers(7), batch_size=2, num_workers=0), stage="test")
    run("tensors", TensorDataModule(train=torch.arange(20.0), val_split=4, batch_size=3))
    run("augmented", TensorDataModule(train=torch.arange(21.0), batch_size=3, train_transform=tagged))
    run("overfit", TensorDataModule(train=torch.arange(20.0), batch_size=3), overfit_batches=2)
    run("predict", FastDataModule(predict_dataset=Numbers(11), batch_size=2, num_workers=0), stage="predict")
    run("predict-tensors", TensorDataModule(predict=torch.arange(11.0), batch_size=2), stage="predict")
    run("in-order", FastDataModule(Numbers(21), batch_size=4, shuffle=False, num_workers=0))
    all_of_it = FastDataModule(Numbers(21), batch_size=4, num_workers=0)
    run("everything", all_of_it, max_epochs=1, use_distributed_sampler=False)
    pickled = FastDataModule(Numbers(12), val_split=4, batch_size=2, num_workers=0)
    run("pickled", pickled, start="forkserver", max_epochs=1)
    (np.arange(11 * 8 + 1) // 8).astype(np.uint16).tofile(folder / "blocks.bin")
    tokens = TokenDataModule(folder / "blocks.bin", block_length=8, vocab_size=50, batch_size=2, num_workers=0, seed=7)
    run("tokens", tokens, max_epochs=1)
    own = {"batch_sampler": WholeBatches(RandomSampler(range(16)), 4, False)}
    run("batches", FastDataModule(Numbers(16), num_workers=0, dataloader_kwargs={"train": own}), max_epochs=1)
    plain = {"batch_sampler": BatchSampler(RandomSampler(range(16)), 4, False)}
    module = FastDataModule(Numbers(16), num_workers=0, dataloader_kwargs={"train": plain})
    fails("plain", module, "FastDataError: a plain torch BatchSampler on 2 ranks")

    run("stream", Streams())
    run("stream-workers", Streams(num_workers=3, persistent_workers=True))
    run("stream-uneven", Streams(even=False, num_workers=2), stage="predict")
    apart = {"multiprocessing_context": "forkserver", "persistent_workers": True}
    run("stream-told", Streams(tell=True, num_workers=2, **apart))
    fails("stream-untold", Streams(num_workers=1, multiprocessing_context="spawn"), "cannot find out which")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
