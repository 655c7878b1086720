"""The loader of a run that a tuner works on, or why there is none."""

import time
from typing import Any

from lightning_fastdata.internals import training_iterators
from lightning_fastdata.internals_torch import queue_state
from lightning_fastdata.monitor.facts import flattened
from lightning_fastdata.tune.source import why_not

__all__ = ["let_workers_fill_up", "loader_of"]

FEWEST_BATCHES = 60
"""A run that is known to be shorter ends before anything could be measured, changed and verified (count)."""


def loader_of(trainer: Any) -> tuple[Any, str | None]:
    """The one training loader, and why it cannot be tuned, or None where it can.

    Args:
        trainer: The Trainer, which has its loaders by now.
    """
    if trainer.fast_dev_run:
        return None, "fast_dev_run trains on a few batches"
    loaders = flattened(trainer.train_dataloader)
    if len(loaders) != 1:
        return None, f"there are {len(loaders)} training loaders, which share the workers as planned"
    loader = loaders[0]
    problem = why_not(loader)
    if problem is not None:
        return loader, problem
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else float("inf")
    batches = trainer.num_training_batches * epochs
    steps = trainer.max_steps if trainer.max_steps is not None and trainer.max_steps >= 0 else float("inf")
    batches = min(batches, steps * trainer.accumulate_grad_batches)
    if batches < FEWEST_BATCHES:
        return loader, f"the run has {batches:.0f} batches, and {FEWEST_BATCHES} are needed to measure and verify"
    return loader, None


def let_workers_fill_up(trainer: Any, at_most_s: float) -> None:
    """Wait, for a moment, for workers that torch has started already: beside them no worker is alone.

    Args:
        trainer: The Trainer.
        at_most_s: How long (s).
    """
    ends = time.perf_counter() + at_most_s
    while time.perf_counter() < ends:
        queues = [queue_state(iterator) for iterator in training_iterators(trainer) or ()]
        if all(queue is None or queue.in_queue is None or queue.in_queue >= queue.in_flight for queue in queues):
            return
        time.sleep(0.02)
