"""Claim: `tune_loader` finds a setting that is nearly as fast as the best of a grid, in ten seconds.

Pairs of a workload and a consumer. The consumer is emulated by a wait that leaves the CPU free, as an accelerator
would. For each pair a grid over workers {0, 1, 2, 3, 4, 6} x prefetch {2, 4} is measured. What the tuner chose, torch's
default (0 workers), Lightning's suggestion (as many workers as CPUs, less one) and loadtune's rule are then measured
again, in turn with the grid's best. Given: steps/s as a share of the best of all these, and the time that tuning took.

    python benchmarks/tuner_regret.py --json benchmarks/results/tuner_regret.json
"""

import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable

import harness
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_fastdata.callbacks.tuner.search import tune_loader

GRID = [(0, None), *((workers, depth) for workers in (1, 2, 3, 4, 6) for depth in (2, 4))]


class Work(Dataset):
    """Samples that cost ``cpu_s`` of CPU and ``io_s`` of waiting; one in ``slow_every`` costs ``slow_s`` more."""

    def __init__(self, length=4096, cpu_s=0.0, io_s=0.0, size=1024, slow_every=0, slow_s=0.0):
        self.length, self.cpu_s, self.io_s, self.size = length, cpu_s, io_s, size
        self.slow_every, self.slow_s = slow_every, slow_s

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if self.io_s:
            time.sleep(self.io_s)
        cpu_s = self.cpu_s
        if self.slow_every and hash((index, 17)) % self.slow_every == 0:
            cpu_s += self.slow_s
        ends = time.thread_time() + cpu_s
        while time.thread_time() < ends:
            np.sort(np.arange(2000)[::-1])
        return np.full(self.size, index % 251, dtype=np.uint8)


class Endless(Dataset):
    """A dataset in a random order that does not end within a measurement."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.order = np.random.default_rng().permutation(len(dataset))

    def __len__(self):
        return 1000 * len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[int(self.order[index % len(self.order)])]


def tensors():
    return TensorDataset(torch.zeros(8192, 3, 32, 32), torch.zeros(8192, dtype=torch.long))


WORKLOADS = {
    "CPU-heavy decode (2 ms a sample)": (lambda: Work(cpu_s=0.002, size=150_000), 16),
    "waiting, 5 ms a sample": (lambda: Work(io_s=0.005), 16),
    "waiting, 50 ms a sample": (lambda: Work(io_s=0.05), 4),
    "mixed (1 ms CPU, 3 ms waiting)": (lambda: Work(cpu_s=0.001, io_s=0.003), 16),
    "tensors in memory": (tensors, 64),
    "large samples (4 MB)": (lambda: Work(cpu_s=0.0005, size=4_000_000), 4),
    "tiny samples": (lambda: Work(size=64), 32),
    "one slow in 50 (100 ms)": (lambda: Work(cpu_s=0.001, slow_every=50, slow_s=0.1), 16),
}
"""Name -> dataset and batch size."""

PAIRS = [
    ("CPU-heavy decode (2 ms a sample)", 0.020),
    ("CPU-heavy decode (2 ms a sample)", 0.100),
    ("waiting, 5 ms a sample", 0.020),
    ("waiting, 5 ms a sample", 0.100),
    ("waiting, 50 ms a sample", 0.020),
    ("waiting, 50 ms a sample", 0.100),
    ("mixed (1 ms CPU, 3 ms waiting)", 0.020),
    ("mixed (1 ms CPU, 3 ms waiting)", 0.002),
    ("tensors in memory", 0.002),
    ("tensors in memory", 0.020),
    ("large samples (4 MB)", 0.020),
    ("large samples (4 MB)", 0.002),
    ("tiny samples", 0.002),
    ("tiny samples", 0.020),
    ("one slow in 50 (100 ms)", 0.020),
    ("one slow in 50 (100 ms)", 0.100),
]


def steps_per_s(
    dataset, batch_size: int, setting, step_s: float, *, least_s: float = 1.0, least_steps: int = 12
) -> float:
    """Steady steps per second of torch's DataLoader with a setting."""
    workers, depth = setting
    loader = DataLoader(Endless(dataset), batch_size, shuffle=False, num_workers=workers, prefetch_factor=depth)
    batches = iter(loader)
    for _ in range(workers + 2):
        next(batches)
        time.sleep(step_s)
    began, steps = time.perf_counter(), 0
    for _ in batches:
        time.sleep(step_s)
        steps += 1
        took = time.perf_counter() - began
        if steps >= least_steps and took >= least_s:
            break
    return steps / took


def loadtune_rule(rate: Callable) -> tuple[int, int | None]:
    """The sweep of loadtune 0.3: the best of {0, 1, 2, 4, n/2, n-2} workers, the fewest within 2 %."""
    cpus = os.cpu_count() or 1
    rates = {
        workers: rate((workers, 2 if workers else None))
        for workers in sorted({0, 1, 2, 4, cpus // 2, max(0, cpus - 2)})
    }
    best = max(rates.values())
    workers = min(count for count, value in rates.items() if value >= 0.98 * best)
    return workers, 2 if workers else None


def measure(name: str, step_s: float, rounds: int) -> dict:
    make, batch_size = WORKLOADS[name]
    dataset = make()
    result = tune_loader(dataset, batch_size, step_s=step_s)
    chosen = (result.num_workers, result.prefetch_factor)
    grid = {setting: steps_per_s(dataset, batch_size, setting, step_s) for setting in GRID}
    best = max(grid, key=grid.get)
    cpus = len(os.sched_getaffinity(0))
    lightning = (max(1, cpus - 1), 2)
    loadtune = loadtune_rule(lambda setting: grid.get(setting) or steps_per_s(dataset, batch_size, setting, step_s))
    # The grid's best is the luckiest of eleven: it is measured again, in turn with the others.
    named = {"best": best, "tuner": chosen, "default": (0, None), "lightning": lightning, "loadtune": loadtune}
    again = harness.interleaved(
        {
            str(setting): (lambda setting=setting: steps_per_s(dataset, batch_size, setting, step_s))
            for setting in {*named.values()}
        },
        rounds,
    )
    rates = {key: statistics.median(again[str(setting)]) for key, setting in named.items()}
    top = max(rates.values())
    return {
        "workload": name,
        "step_s": step_s,
        "settings": {key: list(setting) for key, setting in named.items()},
        "steps_per_s": rates,
        "share_of_best": {key: rate / top for key, rate in rates.items()},
        "grid": {f"{workers}x{depth}": value for (workers, depth), value in grid.items()},
        "tuning_s": result.took_s,
        "predicted_step_s": None if result.chosen is None else result.chosen.predicted_step_s,
        "reason": result.reason,
        "ceiling": result.throughput_limit,
        "trials": [
            [trial.num_workers, trial.prefetch_factor, trial.step_s, trial.predicted_step_s] for trial in result.trials
        ],
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="pairs whose workload's name holds this")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    runs = []
    for name, step_s in PAIRS:
        if arguments.only and arguments.only not in name:
            continue
        run = measure(name, step_s, arguments.rounds)
        runs.append(run)
        shares = ", ".join(f"{key} {run['settings'][key]} {share:.3f}" for key, share in run["share_of_best"].items())
        print(f"{name}, {step_s * 1000:.0f} ms: {shares}; tuned in {run['tuning_s']:.1f} s", flush=True)
    tuner = [run["share_of_best"]["tuner"] for run in runs]
    rows = [
        [
            run["workload"],
            f"{run['step_s'] * 1000:.0f} ms",
            _setting(run["settings"]["tuner"]),
            _setting(run["settings"]["best"]),
        ]
        + [f"{run['share_of_best'][key]:.2f}" for key in ("tuner", "default", "lightning", "loadtune")]
        + [f"{run['tuning_s']:.1f} s"]
        for run in runs
    ]
    headings = ["workload", "step", "tuner", "grid's best", "tuner", "default", "Lightning", "loadtune", "tuning"]
    harness.print_table("steps/s as a share of the best", headings, rows)
    print(f"Tuner: median {statistics.median(tuner):.3f}, worst {min(tuner):.3f} of {len(runs)} pairs.")
    harness.write_json(arguments.json, {"median": statistics.median(tuner), "worst": min(tuner), "runs": runs})


def _setting(setting: list) -> str:
    return "0" if not setting[0] else f"{setting[0]} x {setting[1]}"


if __name__ == "__main__":
    main()
