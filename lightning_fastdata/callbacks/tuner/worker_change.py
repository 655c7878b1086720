"""Giving a training loader other workers, ours or anybody's, and putting it back as it was."""

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

from lightning_fastdata.callbacks.tuner.controller import Setting
from lightning_fastdata.compat import lightning_loops
from lightning_fastdata.compat.torch_internals import stop_workers
from lightning_fastdata.loaders.dataset_traits import traits_of
from lightning_fastdata.loaders.resumable import ResumableDataLoader
from lightning_fastdata.planning.options import LoaderPlan

__all__ = ["Original", "change", "changes_now", "may_change_randomness", "prepared", "setting_of"]

# They draw what they need when a pass begins, however many workers there are.
_SAMPLERS = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)


class Original(NamedTuple):
    """The options of a loader of torch's own as its user has set them."""

    num_workers: int
    """Worker processes (count)."""
    prefetch_factor: int | None
    """Batches per worker prepared ahead (count)."""
    persistent_workers: bool
    """Whether they live on between epochs."""
    multiprocessing_context: Any
    """Their start method."""
    timeout: float
    """How long a batch may take (s); 0 = for ever."""

    @classmethod
    def of(cls, loader: DataLoader[Any]) -> "Original":
        """What a loader has now."""
        return cls(*(getattr(loader, name) for name in cls._fields))


def setting_of(loader: DataLoader[Any]) -> Setting:
    """The workers that a loader has."""
    return Setting(loader.num_workers, loader.prefetch_factor if loader.num_workers else None)


def may_change_randomness(loader: DataLoader[Any]) -> bool:
    """Whether other workers could give other random numbers to a sample, or to the model.

    torch seeds each worker by its number, and without workers samples draw from the training process's generators, as
    dropout does; so may a sampler of the user's, batch by batch. Our loaders seed each sample.

    Args:
        loader: The loader.
    """
    draws = traits_of(loader.dataset).uses_global_rng or loader.collate_fn not in (default_collate, default_convert)
    if isinstance(loader, ResumableDataLoader):
        return not loader.determinism.seeds_samples and draws
    own_sampler = type(loader.sampler) not in _SAMPLERS or type(loader.batch_sampler) not in (BatchSampler, type(None))
    return draws or own_sampler


def changes_now(loader: DataLoader[Any]) -> bool:
    """Whether the loader's workers can change in the middle of an epoch, without changing a batch.

    Args:
        loader: The loader.
    """
    return isinstance(loader, ResumableDataLoader) and loader.changes_within_pass


def prepared(loader: DataLoader[Any], setting: Setting, why: str) -> LoaderPlan | None:
    """The plan with other workers, for a loader of ours that was planned; None for any other.

    Args:
        loader: The loader that the Trainer reads.
        setting: The workers.
        why: What was measured, for the plan.

    Raises:
        FastDataError: The machine cannot run them.
    """
    if isinstance(loader, ResumableDataLoader) and loader.planning is not None:
        return loader.planning.measured(*setting, why)
    return None


def change(
    loader: DataLoader[Any],
    setting: Setting,
    plan: LoaderPlan | None,
    original: Original,
    datamodule: Any = None,
    *,
    between_epochs: bool = False,
) -> None:
    """Use other workers: from the next batch on, or, for a loader of torch's own, from the next epoch on.

    Args:
        loader: The loader that the Trainer reads.
        setting: The workers.
        plan: What ``prepared`` gave.
        original: What the user had set, which comes back with his number of workers.
        datamodule: Keeps the plans of our loaders by split, in ``plans``; None = nobody does.
        between_epochs: Whether the Trainer is through with an epoch and has not begun the next.
    """
    if isinstance(loader, ResumableDataLoader) and plan is not None:
        loader.change(plan, between_epochs=between_epochs)
        plans = getattr(datamodule, "plans", None)
        if isinstance(plans, dict) and "train" in plans:
            plans["train"] = plan
        return
    stop_workers(lightning_loops.kept_iterator(loader))
    lightning_loops.forget_iterator(loader)
    as_it_was = setting == (original.num_workers, original.prefetch_factor)
    if setting.num_workers == 0:
        loader.multiprocessing_context = None
    loader.num_workers, loader.prefetch_factor = setting
    if setting.num_workers:
        loader.multiprocessing_context = original.multiprocessing_context
    loader.timeout = original.timeout if setting.num_workers or as_it_was else 0  # torch refuses one without workers
    # torch locks this name once a loader is made, and reads it for each pass. Who had workers knows why they end with
    # an epoch; who had none would otherwise have them started for each.
    persistent = original.persistent_workers or (setting.num_workers > 0 and original.num_workers == 0)
    vars(loader)["persistent_workers"] = persistent and setting.num_workers > 0
