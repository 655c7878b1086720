"""One rank of a two-process DDP run on the CPU, started once for each rank by ``test_rank_times``.

Arguments: the folder, and what happens: "finishes" (three runs), "raises" (rank 1 in step 5) or "dies" (rank 1's
process, likewise). Each rank leaves its figures of each run as ``<run>-<rank>.json`` beside the run files.
"""

import dataclasses
import json
import os
import sys
import time
import warnings
from pathlib import Path

from lightning.pytorch import Callback
from monitor_cases import Net, Sleeper, quiet_monitor, quiet_trainer

FAST_S, SLOW_S, WORK_S = 0.004, 0.040, 0.010


class Breaks(Net):
    """Raises or dies in the step with index 5, on rank 1."""

    def __init__(self, ending: str) -> None:
        super().__init__(WORK_S)
        self.ending = ending

    def training_step(self, batch, batch_idx):
        if self.global_rank == 1 and self.trainer.global_step == 5:
            if self.ending == "raises":
                raise KeyError("planted")
            if self.ending == "dies":
                os._exit(9)
        return super().training_step(batch, batch_idx)


class LateOnRankZero(Callback):
    """Comes late to the meeting of the ranks before each batch."""

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_rank == 0:
            time.sleep(0.02)


def run(path: Path, ending: str, slow: int | None, *callbacks: Callback) -> None:
    rank = int(os.environ["LOCAL_RANK"])
    finishes = ending == "finishes"
    monitor = quiet_monitor(save_to=path, summary=slow == 1 and finishes)
    trainer = quiet_trainer(monitor, *callbacks, strategy="ddp", devices=2, max_epochs=1 if finishes else 2)
    raised, began = None, time.perf_counter()
    try:
        # Four steps an epoch where one rank breaks: it has told of one epoch, and not of the step it is in.
        trainer.fit(Breaks(ending), Sleeper(25 if finishes else 4, SLOW_S if rank == slow else FAST_S))
    except Exception as error:
        raised = type(error).__name__
    summary = monitor.summary()
    told = {
        "raised": raised,
        "fit_s": time.perf_counter() - began,
        "steps": summary.steps,
        "status": summary.status,
        "wait_share": summary.wait_share,
        "ranks": None if summary.ranks is None else dataclasses.asdict(summary.ranks),
        "verdict": dataclasses.asdict(summary.verdict),
        "notes": summary.notes,
    }
    path.with_name(f"{path.stem}-{rank}.json").write_text(json.dumps(told))


def main(folder: Path, ending: str) -> None:
    if ending == "finishes":
        run(folder / "slow0.jsonl", ending, 0)
        run(folder / "late.jsonl", ending, None, LateOnRankZero())
    run(folder / "slow1.jsonl", ending, 1)
    sys.stdout.flush()
    os._exit(0)  # torch's threads may abort a process whose group is broken, after everything has been said


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), sys.argv[2])
