"""Claim: DataWaitMonitor adds at most 25 us of CPU time to a training step, beyond an empty callback.

Each measurement trains a trivial model on a trivial loader twice, short and long; the slope between the two is the
cost of a step, with set-up and end taken out. CPU time of the process, because wall time wanders by 100 us. Variants
are interleaved in rotated order, and the median over the rounds is reported, as is the difference to the empty
callback (median of the differences within a round).
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

from lightning_fastdata.monitor.callback import DataWaitMonitor

TARGET_US = 25.0


class Tiny(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

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


def cpu_seconds(steps: int, callbacks: list[Callback], **trainer_arguments: Any) -> float:
    """CPU time of one fit, tear-down included."""
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
    model, loader = Tiny(), Batches(steps)
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.process_time()
        trainer.fit(model, loader)
        return time.process_time() - start


def slope_us(make: Callable[[], dict[str, Any]], short: int, long: int) -> float:
    """CPU time of one step in microseconds."""
    low, high = cpu_seconds(short, **make()), cpu_seconds(long, **make())
    return (high - low) / (long - short) * 1e6


def variants(folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    quiet = {"summary": False, "warn_above": None}
    return {
        "no callback": lambda: {"callbacks": []},
        "empty callback": lambda: {"callbacks": [Empty()]},
        "DataWaitMonitor": lambda: {"callbacks": [DataWaitMonitor(**quiet)]},
        "DataWaitMonitor, run file": lambda: {"callbacks": [DataWaitMonitor(save_to=folder / "run.jsonl", **quiet)]},
        "empty, SimpleProfiler": lambda: {"callbacks": [Empty()], "profiler": SimpleProfiler()},
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--short", type=int, default=400, help="steps of the short run")
    parser.add_argument("--long", type=int, default=2400, help="steps of the long run")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measured = {
            name: (lambda make=make: slope_us(make, arguments.short, arguments.long))
            for name, make in variants(Path(folder)).items()
        }
        cpu_seconds(arguments.short, [])  # warm-up
        results = harness.interleaved(measured, arguments.rounds)
    empty = results["empty callback"]
    rows, figures = [], {}
    for name, slopes in results.items():
        beyond = [slope - base for slope, base in zip(slopes, empty, strict=True)]
        figures[name] = {
            "step_us": statistics.median(slopes),
            "beyond_empty_us": statistics.median(beyond),
            "slopes_us": slopes,
        }
        spread = f"{min(slopes):.1f}-{max(slopes):.1f}"
        rows.append([name, f"{statistics.median(slopes):.1f}", f"{statistics.median(beyond):+.1f}", spread])
    title = f"CPU time of a training step, us ({arguments.rounds} rounds, {arguments.short}/{arguments.long} steps)"
    harness.print_table(title, ["variant", "median", "beyond empty", "range"], rows)
    added = figures["DataWaitMonitor"]["beyond_empty_us"]
    print(f"DataWaitMonitor: {added:.1f} us a step beyond an empty callback (target: at most {TARGET_US:.0f}).")
    harness.write_json(arguments.json, {"target_us": TARGET_US, "variants": figures})


if __name__ == "__main__":
    main()
