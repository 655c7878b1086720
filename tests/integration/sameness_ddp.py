"""Two ranks on the CPU with samplers of the user's: every scenario, with 0 and 2 workers, in one script.

Each rank writes what it saw to ``<folder>/<scenario>-<workers>-<rank>.json``.
"""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback
from sameness_cases import LENGTH, Augmented, fit, make_module
from torch.utils.data import BatchSampler, Sampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler


class Report(Callback):
    def __init__(self, path: str) -> None:
        self.path = path

    def on_fit_end(self, trainer, pl_module) -> None:
        found = {"seen": list(pl_module.seen["train"].values()), "weights": pl_module.weights()}
        Path(f"{self.path}-{trainer.global_rank}.json").write_text(json.dumps(found))


class Permutation(Sampler):
    """SampleRng from torch's global generator."""

    def __iter__(self):
        return iter(torch.randperm(LENGTH).tolist())

    def __len__(self):
        return LENGTH


class Batches(BatchSampler):
    """A subclass, which Lightning rebuilds around its own sampler."""


class OwnShare(Sampler):
    """Deals by the rank it is asked on, as samplers written for distributed training do."""

    def __iter__(self):
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return iter(DistributedSampler(range(LENGTH), ranks, rank, shuffle=False))

    def __len__(self):
        return 14


def main(folder: Path) -> None:
    def run(scenario, *datasets, kwargs=None, **trainer):
        for workers in (0, 2):
            options = {"dataloader_kwargs": {"train": kwargs() if kwargs else {}}, "num_workers": workers}
            if not (kwargs and "batch_sampler" in options["dataloader_kwargs"]["train"]):
                options["batch_size"] = 4
            report = Report(str(folder / f"{scenario}-{workers}"))
            more = {"devices": 2, "strategy": "ddp_fork", "limit_val_batches": 0, "callbacks": [report]}
            torch.rand(workers)  # what the generators held before must not matter
            fit(make_module(*datasets, **options), **more, **trainer)

    weights = [5.0] * 3 + [1.0] * (LENGTH - 3)
    run("everything", use_distributed_sampler=False)
    run("own-share", kwargs=lambda: {"sampler": OwnShare()}, use_distributed_sampler=False)
    run("sampler", kwargs=lambda: {"sampler": Permutation()})
    run("replacement", kwargs=lambda: {"sampler": WeightedRandomSampler(weights, 40)})
    run("batches", kwargs=lambda: {"batch_sampler": Batches(Permutation(), 4, False)})
    run("dict", {"long": Augmented(24), "short": Augmented(10, start=100)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
