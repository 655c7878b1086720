"""Claim: DataWaitMonitor adds at most 25 us of CPU time to a training step, beyond an empty callback.

Each measurement trains a trivial model on a trivial loader twice, short and long; the slope between the two is the
cost of a step, with set-up and end taken out. CPU time of the process, because wall time wanders by 100 us. Other
programs still slow a step down through caches and shared cores, by more than what is measured here, so variants are
interleaved in rotated order, in many short rounds, and two figures are given: the median of the differences to the
empty callback within a round, and the difference of the quietest runs (noise only ever adds).

The sharpest figure comes last: one long fit in which the monitor is switched off and on every 50 steps, one report to
the loggers in each block that is on, and the CPU times of neighbouring blocks compared.
"""

import contextlib
import io
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.data import TensorDataset

from lightning_fastdata import DataWaitMonitor, LoaderOptions, Workload, make_plan, probe
from lightning_fastdata.loaders.build import LoaderRequest, build_loader

TARGET_US = 25.0
BASE = "empty callback"
# Everything on: our own loader with a worker, so that queue and stamps are looked at too, and a run file.
WORKER_BASE = "empty, our loader with a worker"
BASE_OF = {"everything on, with a worker": WORKER_BASE}


class Tiny(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(torch.tensor(batch) if isinstance(batch, list) else batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Batches:
    """The cheapest loader there is: the same batch again and again."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.batch = torch.zeros(4, 2)

    def __len__(self) -> int:
        return self.length

    def __iter__(self):
        return iter([self.batch] * self.length)


class Empty(Callback):
    """Overrides what the monitor overrides, and does nothing."""

    def setup(self, trainer, pl_module, stage):
        pass

    def on_train_start(self, trainer, pl_module):
        pass

    def on_train_epoch_start(self, trainer, pl_module):
        pass

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pass

    def on_train_epoch_end(self, trainer, pl_module):
        pass

    def teardown(self, trainer, pl_module, stage):
        pass


def with_worker(length: int) -> Any:
    """Our loader with one worker that gives the same batches."""
    plan = make_plan(LoaderOptions(num_workers=1, persistent_workers=False), probe(), Workload())
    dataset = TensorDataset(torch.zeros(4 * length, 2))
    arguments = {"batch_size": 4, "collate_fn": first_of_each, "shuffle": False}
    return build_loader(LoaderRequest(dataset, arguments=arguments), plan)


def first_of_each(samples: list[Any]) -> list[list[float]]:
    """A batch of plain numbers: handing over a tensor costs more than what is measured, and differs from run to run."""
    return [[0.0, 0.0] for _ in samples]


def cpu_seconds(steps: int, callbacks: list[Callback], loader: Callable[[int], Any], **trainer_arguments: Any) -> float:
    """CPU time of the training process in one fit, tear-down included."""
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **trainer_arguments,
    )
    model, batches = Tiny(), loader(steps)
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.process_time()
        trainer.fit(model, batches)
        return time.process_time() - start


def measure(make: Callable[[], dict[str, Any]], short: int, long: int) -> tuple[float, float]:
    """CPU time of a short and of a long fit (s)."""
    return cpu_seconds(short, **make()), cpu_seconds(long, **make())


def report(results: dict[str, list[tuple[float, float]]], steps: int) -> dict[str, dict[str, Any]]:
    """The cost of a step by variant, in microseconds.

    Args:
        results: (short, long) CPU times of each round.
        steps: Steps between the two (count).
    """

    def cost(low: float, high: float) -> float:
        return (high - low) / steps * 1e6

    def quietest(pairs: list[tuple[float, float]]) -> float:
        return cost(min(low for low, _ in pairs), min(high for _, high in pairs))

    slopes = {name: [cost(low, high) for low, high in pairs] for name, pairs in results.items()}
    figures = {}
    for name, pairs in results.items():
        beyond = [one - base for one, base in zip(slopes[name], slopes[BASE_OF.get(name, BASE)], strict=True)]
        quarters = statistics.quantiles(beyond, n=4)
        figures[name] = {
            "step_us": statistics.median(slopes[name]),
            "beyond_empty_us": statistics.median(beyond),
            "beyond_empty_quartiles_us": [quarters[0], quarters[2]],
            "quietest_us": quietest(pairs),
            "quietest_beyond_empty_us": quietest(pairs) - quietest(results[BASE_OF.get(name, BASE)]),
        }
    return figures


class Switch(Callback):
    """Takes a monitor's seam and hook away in every second block of steps, and times the blocks."""

    def __init__(self, monitor: DataWaitMonitor, block: int = 50) -> None:
        self.monitor, self.block = monitor, block
        self.steps, self.on, self.since = 0, True, None
        self.step_us: dict[bool, list[float]] = {True: [], False: []}

    def on_train_start(self, trainer, pl_module):
        self.run = self.monitor._run
        self.seam = self.run.listening.seam

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += 1
        if self.steps % self.block:
            return
        now = time.thread_time()
        if self.since is not None:
            self.step_us[self.on].append((now - self.since) / self.block * 1e6)
        self.on = not self.on
        if self.on:
            self.seam.install()
        else:
            self.seam.restore()
        self.monitor._run = self.run if self.on else None
        self.since = time.thread_time()

    def on_train_end(self, trainer, pl_module):
        self.monitor._run = self.run


def switched(steps: int) -> dict[str, Any]:
    """The cost of a step with the monitor on, beyond that with it off, in microseconds."""
    monitor = DataWaitMonitor(log_every_n_steps=50, summary=False, warn_above=None)
    switch = Switch(monitor)
    cpu_seconds(steps, [monitor, switch], Batches)
    pairs = zip(switch.step_us[True], switch.step_us[False], strict=False)
    beyond = [on - off for on, off in pairs]
    quarters = statistics.quantiles(beyond, n=4)
    return {
        "step_us": statistics.median(switch.step_us[False]),
        "beyond_us": statistics.median(beyond),
        "beyond_quartiles_us": [quarters[0], quarters[2]],
        "quietest_beyond_us": min(switch.step_us[True]) - min(switch.step_us[False]),
        "blocks": len(beyond),
    }


def variants(folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    quiet = {"summary": False, "warn_above": None}
    path = folder / "run.jsonl"
    return {
        "no callback": lambda: {"callbacks": [], "loader": Batches},
        BASE: lambda: {"callbacks": [Empty()], "loader": Batches},
        "DataWaitMonitor": lambda: {"callbacks": [DataWaitMonitor(**quiet)], "loader": Batches},
        "DataWaitMonitor, run file": lambda: {"callbacks": [DataWaitMonitor(save_to=path, **quiet)], "loader": Batches},
        "empty, SimpleProfiler": lambda: {"callbacks": [Empty()], "profiler": SimpleProfiler(), "loader": Batches},
        WORKER_BASE: lambda: {"callbacks": [Empty()], "loader": with_worker},
        "everything on, with a worker": lambda: {
            "callbacks": [DataWaitMonitor(save_to=path, **quiet)],
            "loader": with_worker,
        },
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--short", type=int, default=100, help="steps of the short run")
    parser.add_argument("--long", type=int, default=600, help="steps of the long run")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--switched", type=int, default=20_000, help="steps of the fit with the monitor on and off")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measured = {
            name: (lambda make=make: measure(make, arguments.short, arguments.long))
            for name, make in variants(Path(folder)).items()
        }
        cpu_seconds(arguments.long, [], Batches)  # warm-up
        results = harness.interleaved(measured, arguments.rounds)
    figures = report(results, arguments.long - arguments.short)
    rows = []
    for name, figure in figures.items():
        low, high = figure["beyond_empty_quartiles_us"]
        row = [f"{figure['step_us']:.1f}", f"{figure['beyond_empty_us']:+.1f}", f"{low:+.0f} to {high:+.0f}"]
        rows.append([name, *row, f"{figure['quietest_us']:.1f}", f"{figure['quietest_beyond_empty_us']:+.1f}"])
    title = (
        f"CPU time of a training step, us ({arguments.rounds} rounds of {arguments.short} and {arguments.long} steps)"
    )
    headings = ["variant", "median", "beyond empty", "quartiles", "quietest", "beyond empty"]
    harness.print_table(title, headings, rows)
    one_fit = switched(arguments.switched)
    low, high = one_fit["beyond_quartiles_us"]
    print(
        f"Switched on and off within one fit, {one_fit['blocks']} pairs of blocks: {one_fit['beyond_us']:.1f} us a step"
        f" (quartiles {low:.0f} to {high:.0f}, quietest {one_fit['quietest_beyond_us']:.1f};"
        f" target: at most {TARGET_US:.0f})."
    )
    harness.write_json(arguments.json, {"target_us": TARGET_US, "variants": figures, "switched": one_fit})


if __name__ == "__main__":
    main()
