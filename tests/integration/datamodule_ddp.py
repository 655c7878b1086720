"""Two ranks on the CPU: every scenario in one script, because starting Lightning is what takes the time.

Each rank writes what it saw to ``<folder>/<scenario>-<rank>.json``.
"""

import json
import sys
from pathlib import Path

import torch
from datamodule_cases import Numbers, Recorder, quiet_trainer, tagged
from lightning.pytorch import Callback
from torch.utils.data import BatchSampler, RandomSampler

from lightning_fastdata import FastDataModule, TensorDataModule


class Report(Callback):
    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, trainer, model) -> None:
        loader = trainer.train_dataloader
        found = {
            "seen": {stage: [epochs[n] for n in sorted(epochs)] for stage, epochs in model.seen.items()},
            "loader": type(loader).__name__,
            "attributes": list(getattr(getattr(loader, "dataset", None), "classes", ())),
            "plans": {name: plan.to_dict() for name, plan in trainer.datamodule.plans.items()},
            "generator": loader.generator.initial_seed() if loader is not None else None,
            "steps": trainer.global_step,
        }
        Path(f"{self.path}-{trainer.global_rank}.json").write_text(json.dumps(found))

    on_fit_end = on_test_end = on_predict_end = write


class WholeBatches(BatchSampler):
    """A subclass, which Lightning rebuilds around its own sampler."""


def main(folder: Path, start: str = "ddp_fork") -> None:
    def run(name, module, stage="fit", **kwargs):
        common = {"devices": 2, "strategy": start, "callbacks": [Report(str(folder / name))]}
        more = {"predict": {"return_predictions": False}, "test": {"verbose": False}}.get(stage, {})
        getattr(quiet_trainer(**common, **kwargs), stage)(Recorder(), datamodule=module, **more)

    if start == "ddp_spawn":
        run("spawn", FastDataModule(Numbers(12), val_split=4, batch_size=2, num_workers=0), max_epochs=1)
        return
    numbers = FastDataModule(Numbers(21), Numbers(7), batch_size=4)
    run("fit", numbers, max_epochs=2)
    run("again", FastDataModule(Numbers(21), Numbers(7), batch_size=4, num_workers=0), max_epochs=2)
    run("padded", FastDataModule(Numbers(17), batch_size=4, num_workers=0), max_epochs=1)
    run("test", FastDataModule(test_dataset=Numbers(7), batch_size=2, num_workers=0), stage="test")
    tensors = TensorDataModule(train=torch.arange(20.0), val_split=4, batch_size=3)
    run("tensors", tensors, max_epochs=2)
    run("augmented", TensorDataModule(train=torch.arange(21.0), batch_size=3, train_transform=tagged), max_epochs=2)
    run("overfit", TensorDataModule(train=torch.arange(20.0), batch_size=3), max_epochs=2, overfit_batches=2)
    run("predict", FastDataModule(predict_dataset=Numbers(11), batch_size=2, num_workers=0), stage="predict")
    run("predict-tensors", TensorDataModule(predict=torch.arange(11.0), batch_size=2), stage="predict")
    run("in-order", FastDataModule(Numbers(21), batch_size=4, shuffle=False, num_workers=0), max_epochs=2)
    all_of_it = FastDataModule(Numbers(21), batch_size=4, num_workers=0)
    run("everything", all_of_it, max_epochs=1, use_distributed_sampler=False)
    own = {"batch_sampler": WholeBatches(RandomSampler(range(16)), 4, False)}
    run("batches", FastDataModule(Numbers(16), num_workers=0, dataloader_kwargs={"train": own}), max_epochs=1)
    plain = {"batch_sampler": BatchSampler(RandomSampler(range(16)), 4, False)}
    try:
        run("plain", FastDataModule(Numbers(16), num_workers=0, dataloader_kwargs={"train": plain}), max_epochs=1)
    except Exception as error:  # torch's own, with the traceback of the rank in its text
        refused = "FastDataError: a plain torch BatchSampler on 2 ranks" in str(error)
        (folder / "refused.json").write_text(json.dumps(refused))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
