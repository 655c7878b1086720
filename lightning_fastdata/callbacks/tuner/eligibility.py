"""The loader of a run that a tuner works on, or why there is none."""

import time
from typing import Any

from lightning_fastdata.callbacks.tuner.trial_loader import reason_untunable
from lightning_fastdata.callbacks.tuner.worker_change import changes_now, may_change_randomness
from lightning_fastdata.compat.lightning_monitoring import training_iterators
from lightning_fastdata.compat.torch_internals import queue_state
from lightning_fastdata.loaders.trainer_context import iter_loaders
from lightning_fastdata.planning.options import Pool
from lightning_fastdata.results.tuning import Probe

__all__ = ["loader_of", "too_short", "validation_pool", "wait_for_prefetch", "why_only_advice"]

FEWEST_BATCHES = 60
"""A run that is known to be shorter ends before anything could be measured, changed and verified (count)."""


def loader_of(trainer: Any) -> tuple[Any, str | None]:
    """The one training loader, and why it cannot be tuned, or None where it can.

    Args:
        trainer: The Trainer, which has its loaders by now.
    """
    if trainer.fast_dev_run:
        return None, "fast_dev_run trains on a few batches"
    loaders = list(iter_loaders(trainer.train_dataloader))
    if len(loaders) != 1:
        return None, f"there are {len(loaders)} training loaders, which share the workers as planned"
    loader = loaders[0]
    problem = reason_untunable(loader)
    if problem is not None:
        return loader, problem
    return loader, None


def too_short(trainer: Any) -> str | None:
    """Why what is left of a run is too short to tune; None where it is not, or nobody knows.

    Args:
        trainer: The Trainer, when training starts, perhaps from a checkpoint.
    """
    epochs, steps = float("inf"), float("inf")
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        epochs = trainer.max_epochs - trainer.current_epoch
    if trainer.max_steps is not None and trainer.max_steps >= 0:
        steps = trainer.max_steps - trainer.global_step
    batches = min(trainer.num_training_batches * epochs, steps * trainer.accumulate_grad_batches)
    if batches >= FEWEST_BATCHES:
        return None
    return f"the run has {batches:.0f} batches, and {FEWEST_BATCHES} are needed to measure and verify"


def validation_pool(trainer: Any, found: Probe, batch_size: int) -> Pool | None:
    """The workers of validation that live beside those of training, as large as those of training turned out.

    Args:
        trainer: The Trainer, which has asked for its validation loaders by now.
        found: What one worker of training takes.
        batch_size: Samples of training's batches (count).

    Returns:
        The largest pool of several loaders, which follow each other; None where there are no workers.
    """
    pools = []
    for loader in iter_loaders(trainer.val_dataloaders):
        workers = getattr(loader, "num_workers", 0)
        if isinstance(workers, int) and workers > 0:
            size = getattr(loader, "batch_size", None) or batch_size
            pools.append(
                Pool(
                    workers,
                    loader.prefetch_factor or 2,
                    batch_bytes=found.batch_bytes * size // batch_size,
                    tensors_per_batch=found.batch_tensors,
                    worker_bytes=found.worker_bytes,
                    pin_memory=bool(loader.pin_memory),
                )
            )
    return max(pools, key=lambda pool: pool.in_flight, default=None)


def why_only_advice(trainer: Any, loader: Any, *, allow_foreign: bool) -> str | None:
    """Why a loader that could be tuned is left as it is, as the end of a sentence; None where it may be changed.

    Args:
        trainer: The Trainer.
        loader: Its training loader.
        allow_foreign: Whether random numbers of samples may become others.
    """
    planning = getattr(loader, "planning", None)
    if planning is not None and planning.options.num_workers != "auto":
        return (
            f"num_workers={planning.options.num_workers} was set by you and stays"
            ' (num_workers="auto" leaves it to the tuner)'
        )
    if may_change_randomness(loader) and not allow_foreign:
        return (
            "with other workers this loader's samples may draw other random numbers, which only a loader of"
            " lightning_fastdata rules out (LoaderTuner(allow_foreign=True) changes it all the same)"
        )
    if planning is None and trainer.reload_dataloaders_every_n_epochs:
        return "the Trainer makes new loaders, with the workers that your code gives them"
    if not changes_now(loader) and trainer.max_epochs is not None and 0 <= trainer.max_epochs <= 1:
        return "this loader changes between epochs only, and the run has one"
    return None


def wait_for_prefetch(trainer: Any, at_most_s: float) -> None:
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
