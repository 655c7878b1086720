"""What test_preflight_real.py runs in a process of its own, one limit of the kernel's after the other."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from lightning_fastdata import FastDataError, FastDataModule, auto_dataloader, probe
from lightning_fastdata.planning import workers

MIB = 2**20


class Large(Dataset):
    """Samples of a known size, which the dataset declares."""

    def __init__(self, sample_bytes, length=40):
        self.sample_bytes, self.length = sample_bytes, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.full((self.sample_bytes // 4,), float(index))


class Undeclared(Dataset):
    """The same samples, of whose size nobody knows before they are loaded."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]


class ManyTensors(Dataset):
    """Eight tensors a sample; the first one is slow, so that the batches of all other workers arrive before it."""

    def __len__(self):
        return 200

    def __getitem__(self, index):
        if index == 0:
            time.sleep(1.0)
        return tuple(torch.ones(1) for _ in range(8))


class Mean(LightningModule):
    """Counts what it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), 0

    def training_step(self, batch, batch_idx):
        batch = batch[0] if isinstance(batch, (list, tuple)) else batch
        self.seen += len(batch)
        return self.weight.sum() * batch.flatten()[:4].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(dataset, **kwargs):
    """The plan of a DataModule, and how many samples a real Trainer has trained on with it."""
    module, model = FastDataModule(dataset, batch_size=1, shuffle=False, **kwargs), Mean()
    options = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(max_epochs=1, accelerator="cpu", **options).fit(model, module)
    plan = module.plans["train"]
    reasons = {name: reason.text for name, reason in plan.reasons.items()}
    return {**plan.as_kwargs(), "reasons": reasons, "warnings": plan.warnings, "seen": model.seen}


def end_of(loader):
    """How a loader ends whose reader takes one batch, then computes until the queue is full, then reads on."""
    batches = iter(loader)
    try:
        next(batches)
        with contextlib.suppress(RuntimeError):  # torch's signal handler raises wherever this process is just then
            time.sleep(1.0)
        count = 1 + sum(1 for _ in batches)
    except (RuntimeError, OSError) as error:
        cause = error.__cause__
        for worker in getattr(batches, "inner", batches)._workers:  # each of the others would be waited for, up to 5 s
            worker.kill()
        return {"type": type(error).__name__, "says": str(error), "cause": cause and type(cause).__name__}
    return {"type": "whole", "says": str(count)}


def refusal(dataset, **options):
    try:
        auto_dataloader(dataset, batch_size=1, **options)
    except FastDataError as error:
        return {"what": error.what, "expected": error.expected, "fix": error.fix}
    return None


def told_of(cpus):
    """What "auto" takes for the number of CPUs, whatever this machine has."""
    if cpus is None:
        os.environ.pop("LIGHTNING_FASTDATA_NUM_CPUS", None)
    else:
        os.environ["LIGHTNING_FASTDATA_NUM_CPUS"] = str(cpus)


def shm():
    """A /dev/shm of 64 MiB and batches of 8; this process has a mount namespace of its own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/dev/shm"], check=True)
    told_of(8)
    data, wanted = Large(8 * MIB), {"num_workers": 6, "prefetch_factor": 2}
    found = {
        "free": probe().shm_free_bytes,
        "auto": trained(data),
        "refused": refusal(data, **wanted),
        "torch": end_of(DataLoader(data, batch_size=1, **wanted)),
        "undeclared": end_of(auto_dataloader(Undeclared(data), batch_size=1, **wanted)),
    }
    subprocess.run(["umount", "-l", "/dev/shm"], check=True)
    return found


def files():
    """At most 256 open files."""
    told_of(64)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    data, wanted = ManyTensors(), {"num_workers": 16, "prefetch_factor": 2}
    found = {
        "open": probe().open_files,
        "auto": trained(data),
        "refused": refusal(data, num_workers=80),
        "torch": end_of(DataLoader(data, batch_size=1, **wanted)),
        "ours": end_of(auto_dataloader(data, split="val", batch_size=1, **wanted)),
    }
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return found


def first_to_be_killed(worker_id):
    Path("/proc/self/oom_score_adj").write_text("1000")


@contextlib.contextmanager
def within(group):
    """This process in a control group, and back where it was."""
    name = Path(group).name
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        Path(group.removesuffix(name), "cgroup.procs").write_text(str(os.getpid()))


def ram(group):
    """A memory limit of 2 GiB and batches of 160 MiB, for which /dev/shm itself has room."""
    told_of(8)
    data, wanted = Large(160 * MIB, length=18), {"num_workers": 6, "prefetch_factor": 2}
    undeclared = auto_dataloader(
        Undeclared(data), split="val", batch_size=1, **wanted, worker_init_fn=first_to_be_killed
    )
    with within(group):
        return {
            "limit": probe().ram_limit_bytes,
            "auto": trained(Large(160 * MIB, length=6)),
            "refused": refusal(data, num_workers=6, prefetch_factor=3),
            "undeclared": end_of(undeclared),
        }


def cpu(group):
    """A CPU quota of 1, then of 0.5."""
    told_of(None)
    is_v1 = Path(group, "cpu.cfs_quota_us").exists()
    found = {}
    with within(group):
        for cpus in (1.0, 0.5):
            quota = int(cpus * 100_000)
            Path(group, "cpu.cfs_quota_us" if is_v1 else "cpu.max").write_text(
                str(quota) if is_v1 else f"{quota} 100000"
            )
            data = Large(4, length=20)
            found[str(cpus)] = {
                "usable": probe().usable_cpus,
                "auto": trained(data),
                "own": end_of(auto_dataloader(data, split="val", batch_size=1, num_workers=2)),
            }
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    workers.CHEAP_SHARE = 0.0  # the samples are cheap; it is about the workers
    for case, arguments in json.loads(sys.argv[1]).items():
        started = time.perf_counter()
        result = {"shm": shm, "files": files, "ram": ram, "cpu": cpu}[case](*arguments)
        print("RESULT", json.dumps({"case": case, "s": time.perf_counter() - started, **result}), flush=True)  # noqa: T201
