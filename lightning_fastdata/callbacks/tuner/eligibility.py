"""May this loader be tuned? Every answer, with its reason as the end of a sentence."""

from typing import Any, NamedTuple

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
    default_convert,
)

from lightning_fastdata.loaders.dataset_traits import traits_of
from lightning_fastdata.loaders.resumable import ResumableDataLoader
from lightning_fastdata.loaders.state.rehearsal import BY_NAME
from lightning_fastdata.loaders.state.worker_safety import looked_at, rehearsed
from lightning_fastdata.loaders.trainer_context import iter_loaders
from lightning_fastdata.planning.start_method import default_start_method

__all__ = [
    "SPAWN_S",
    "Eligibility",
    "batch_size_of",
    "changes_within_epoch",
    "eligibility_of",
    "reason_untunable",
    "training_loader",
]

SPAWN_S = 20.0
"""Time that a worker has to start where it is not forked (s); importing torch takes seconds."""
TUNER_S = 1.0
"""The longest rehearsal within a run (s): tuning as a whole is to take no more than ten."""
FEWEST_BATCHES = 60
"""A shorter run ends before anything could be measured, changed and verified (count)."""
# They draw what they need when a pass begins, however many workers there are.
_SAMPLERS = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)


class Eligibility(NamedTuple):
    """What a tuner may do with the training loader of a run."""

    loader: Any
    """The one training loader; None where there are several."""
    problem: str | None
    """Why it is not even measured; None where it is."""
    advice_only: str | None = None
    """Why it is measured and not changed; None where it may be changed."""


def eligibility_of(trainer: Any, *, allow_foreign: bool) -> Eligibility:
    """What a tuner may do in a run.

    Args:
        trainer: The Trainer, when training starts, perhaps from a checkpoint.
        allow_foreign: Whether samples may draw other random numbers.
    """
    loader, problem = training_loader(trainer)
    problem = problem or _reason_too_short(trainer)
    return Eligibility(loader, problem, None if problem else _reason_unchanged(trainer, loader, allow_foreign))


def training_loader(trainer: Any) -> tuple[Any, str | None]:
    """The one training loader, and why it cannot be tuned, or None where it can.

    Args:
        trainer: The Trainer, which has its loaders by now.
    """
    if trainer.fast_dev_run:
        return None, "fast_dev_run trains on a few batches"
    loaders = list(iter_loaders(trainer.train_dataloader))
    if len(loaders) != 1:
        return None, f"there are {len(loaders)} training loaders, which share the workers as planned"
    return loaders[0], reason_untunable(loaders[0])


def reason_untunable(loader: Any) -> str | None:
    """Why the workers of a loader cannot be tuned; None where they can.

    Args:
        loader: What the Trainer trains with.
    """
    if not isinstance(loader, DataLoader):
        return f"{type(loader).__name__} is no torch DataLoader"
    traits = traits_of(loader.dataset)
    if traits.is_iterable:
        return "an IterableDataset decides itself what each worker loads: other workers would change the data"
    if not traits.length:
        return f"{type(loader.dataset).__name__} has {'no length' if traits.length is None else '0 samples'}"
    arguments = {
        "collate_fn": loader.collate_fn,
        "worker_init_fn": loader.worker_init_fn,
        "batch_size": loader.batch_size,
    }
    context = loader.multiprocessing_context
    method = default_start_method() if context is None else context.get_start_method()
    seen = looked_at(loader.dataset, arguments, method if isinstance(loader, ResumableDataLoader) else None)
    problem = seen.against_workers or _changes_by_loading(loader, arguments, method)
    if problem is not None:
        return problem
    if batch_size_of(loader) is None:
        return "its batch sampler does not say how large a batch is (batch_size)"
    return None


def _changes_by_loading(loader: DataLoader[Any], arguments: dict[str, Any], start_method: str) -> str | None:
    """What the rehearsal says against workers, where samples could be loaded: the tuner's own probe sees every failure.

    That of the loader's plan is asked, where there was one. It decides nothing else here: the tuner's model also needs
    how batches vary, what a worker's memory and start take, and whether the machine is busy, hence whole batches.
    """
    planning = getattr(loader, "planning", None)
    if planning is not None and planning.workload.rehearsed is not None:
        problem: str | None = planning.workload.worker_problem
        return problem
    longest_s = TUNER_S if start_method == "fork" else TUNER_S + SPAWN_S  # imports come before the first sample
    found = rehearsed(loader.dataset, arguments, traits_of(loader.dataset), start_method, longest_s)
    return (
        f"{found.problem}; {found.remedy}"
        if found is not None and found.problem and (found.samples or found.remedy == BY_NAME)
        else None
    )


def batch_size_of(loader: DataLoader[Any]) -> int | None:
    """Samples of a batch (count); None where the batch sampler does not say."""
    if loader.batch_sampler is None:
        return 1
    size = loader.batch_size if loader.batch_size is not None else getattr(loader.batch_sampler, "batch_size", None)
    return size if isinstance(size, int) and size > 0 else None


def changes_within_epoch(loader: DataLoader[Any]) -> bool:
    """Whether the loader's workers can change in the middle of an epoch, without changing a batch."""
    return isinstance(loader, ResumableDataLoader) and loader.changes_within_pass


def _reason_too_short(trainer: Any) -> str | None:
    epochs, steps = float("inf"), float("inf")
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        epochs = trainer.max_epochs - trainer.current_epoch
    if trainer.max_steps is not None and trainer.max_steps >= 0:
        steps = trainer.max_steps - trainer.global_step
    batches = min(trainer.num_training_batches * epochs, steps * trainer.accumulate_grad_batches)
    if batches >= FEWEST_BATCHES:
        return None
    return f"the run has {batches:.0f} batches, and {FEWEST_BATCHES} are needed to measure and verify"


def _reason_unchanged(trainer: Any, loader: DataLoader[Any], allow_foreign: bool) -> str | None:
    """Why a loader that can be tuned keeps its workers."""
    planning = getattr(loader, "planning", None)
    if planning is not None and planning.options.num_workers != "auto":
        return (
            f"num_workers={planning.options.num_workers} was set by you and stays"
            ' (num_workers="auto" leaves it to the tuner)'
        )
    if not allow_foreign and _may_change_randomness(loader):
        return (
            "with other workers this loader's samples may draw other random numbers, which only a loader of"
            " lightning_fastdata rules out (LoaderTuner(allow_foreign=True) changes it all the same)"
        )
    if planning is None and trainer.reload_dataloaders_every_n_epochs:
        return "the Trainer makes new loaders, with the workers that your code gives them"
    if not changes_within_epoch(loader) and trainer.max_epochs is not None and 0 <= trainer.max_epochs <= 1:
        return "this loader changes between epochs only, and the run has one"
    return None


def _may_change_randomness(loader: DataLoader[Any]) -> bool:
    """Whether other workers could give other random numbers to a sample, or to the model.

    torch seeds each worker by its number, and without workers samples draw from the training process's generators, as
    dropout does; so may a sampler of the user's, batch by batch. Our loaders seed each sample.
    """
    draws = traits_of(loader.dataset).uses_global_rng or loader.collate_fn not in (default_collate, default_convert)
    if isinstance(loader, ResumableDataLoader):
        return not loader.determinism.seeds_samples and draws
    own_sampler = type(loader.sampler) not in _SAMPLERS or type(loader.batch_sampler) not in (BatchSampler, type(None))
    return draws or own_sampler
