"""Claim: a run that starts from a bad plan ends at the pace of the best fixed one, and says why in a few lines.

Two bad plans: no workers on a slow dataset, six workers on a fast one. Each is trained with LoaderTuner, and with every
fixed number of workers {0, 1, 2, 3, 4, 6, 8}, on the real Trainer with an emulated accelerator (a step that waits and
leaves the CPU free). Given: the time of a step over the last third of the run, against that of the best fixed plan,
measured in turn with it; and the tuner's lines.

    python benchmarks/tuner_live.py --json benchmarks/results/tuner_live.json
"""

import logging
import statistics
import warnings

import harness
import torch
from lightning.pytorch import Trainer
from plan_vs_default import EmulatedAccelerator
from torch.utils.data import DataLoader, Subset
from tuner_regret import Work

from lightning_fastdata import DataWaitMonitor, FastDataModule, LoaderTuner

CASES = {
    "0 workers, 2 ms of waiting a sample": (lambda: Work(48_000, io_s=0.002), 16, 0.010, 0),
    "0 workers, 1 ms of CPU a sample": (lambda: Work(24_000, cpu_s=0.001), 16, 0.020, 0),
    "6 workers, samples that cost 20 us": (lambda: Work(48_000, cpu_s=0.00002), 32, 0.010, 6),
}
"""Name -> dataset, batch size, step (s), workers that the run begins with."""
FIXED = (0, 1, 2, 3, 4, 6, 8)
STEPS = 600


def steady_step_s(name: str, workers: int | None, steps: int) -> float:
    """Train; the mean step of the last third. ``workers`` None begins with the bad plan and has the tuner."""
    make, batch_size, step_s, begins_with = CASES[name]
    monitor, tuner = DataWaitMonitor(summary=False, prog_bar=False, warn_above=None), LoaderTuner(allow_foreign=True)
    callbacks = [monitor] if workers is not None else [monitor, tuner]
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, callbacks=callbacks, **dict.fromkeys(off, False)
    )
    if begins_with == 0:
        # Ours. "auto" takes no workers beside a torch thread for each core: that is the bad plan.
        options = {} if workers is None else {"num_workers": workers}
        trainer.fit(EmulatedAccelerator(step_s), datamodule=FastDataModule(make(), batch_size=batch_size, **options))
    else:
        # torch's own loader, which changes between epochs only: a sixth of the run is one.
        dataset = Subset(make(), range(batch_size * STEPS // 6))
        count = begins_with if workers is None else workers
        loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=count, persistent_workers=count > 0)
        trainer.fit(EmulatedAccelerator(step_s), loader)
    last = [one for one in monitor.records()[-steps // 3 :] if not one.first_in_epoch]
    return statistics.mean(one.wait_s + one.compute_s + one.other_s for one in last)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="cases whose name holds this")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    teller = logging.getLogger("lightning.pytorch.utilities.rank_zero")  # where Lightning has its own words go
    teller.addHandler(handler)
    teller.setLevel(logging.INFO)
    teller.propagate = False
    torch.set_num_threads(2)
    runs = []
    for name in CASES:
        if arguments.only and arguments.only not in name:
            continue
        fixed = {workers: steady_step_s(name, workers, STEPS // 4) for workers in FIXED}
        best = min(fixed, key=fixed.get)
        said.clear()
        again = harness.interleaved(
            {
                "tuned": lambda name=name: steady_step_s(name, None, STEPS),
                "best": lambda name=name, best=best: steady_step_s(name, best, STEPS // 2),
            },
            arguments.rounds,
        )
        lines = [line for line in said if line.startswith("LoaderTuner: ")]
        ratio = statistics.median(t / b for t, b in zip(again["tuned"], again["best"], strict=True))
        runs.append({"case": name, "best": best, "fixed": fixed, "again": again, "ratio": ratio, "lines": lines})
        print(
            f"{name}: {ratio:.3f} of the best fixed plan's step ({best} workers)\n  " + "\n  ".join(lines), flush=True
        )
    rows = [
        [
            run["case"],
            str(run["best"]),
            f"{statistics.median(run['again']['best']) * 1000:.2f} ms",
            f"{statistics.median(run['again']['tuned']) * 1000:.2f} ms",
            f"{run['ratio']:.3f}",
            f"{len(run['lines']) / arguments.rounds:.1f}",
        ]
        for run in runs
    ]
    headings = ["begins with", "best fixed", "its step", "tuned, at the end", "tuned / best", "lines a run"]
    harness.print_table("A step at the end of the run", headings, rows)
    harness.write_json(arguments.json, {"runs": runs})


if __name__ == "__main__":
    main()
