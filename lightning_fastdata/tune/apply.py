"""Giving a training loader other workers, ours or anybody's."""

from typing import Any

from torch.utils.data import DataLoader, default_collate

from lightning_fastdata import internals
from lightning_fastdata.internals_torch import stop_workers
from lightning_fastdata.resumable import ResumableDataLoader
from lightning_fastdata.seeded import draws_random_numbers
from lightning_fastdata.tune.live import Setting

__all__ = ["change", "may_change_randomness", "setting_of", "when_it_can_change"]


def setting_of(loader: DataLoader[Any]) -> Setting:
    """The workers that a loader has."""
    return Setting(loader.num_workers, loader.prefetch_factor if loader.num_workers else None)


def may_change_randomness(loader: DataLoader[Any]) -> bool:
    """Whether other workers could give other random numbers to a sample.

    torch seeds each worker by its number, and without workers samples draw from the training process's generators, as
    dropout does. Our loaders seed each sample.

    Args:
        loader: The loader.
    """
    if isinstance(loader, ResumableDataLoader):
        return not loader.sameness.seeds_samples and _draws(loader)
    return _draws(loader)


def _draws(loader: DataLoader[Any]) -> bool:
    return draws_random_numbers(loader.dataset) or loader.collate_fn is not default_collate


def when_it_can_change(loader: DataLoader[Any]) -> str:
    """The next moment at which the loader's workers can change without changing a batch: "now" or "next epoch"."""
    return "now" if isinstance(loader, ResumableDataLoader) and loader.changes_within_pass else "next epoch"


def change(loader: DataLoader[Any], setting: Setting, why: str, datamodule: Any = None) -> None:
    """Use other workers.

    Args:
        loader: The loader that the Trainer reads.
        setting: The workers to have from now on, or from the next epoch on.
        why: What was measured, for the plan.
        datamodule: Keeps the plans of our loaders by split, in ``plans``; None = nobody does.

    Raises:
        FastDataError: The machine cannot run them.
    """
    if isinstance(loader, ResumableDataLoader) and loader.planning is not None:
        plan = loader.planning.measured(*setting, why)
        loader.change(plan)
        plans = getattr(datamodule, "plans", None)
        if isinstance(plans, dict) and "train" in plans:
            plans["train"] = plan
        return
    stop_workers(internals.kept_iterator(loader))
    internals.forget_iterator(loader)
    had_workers = loader.num_workers > 0
    if setting.num_workers == 0:
        loader.multiprocessing_context = None
    loader.num_workers = setting.num_workers
    loader.prefetch_factor = setting.prefetch_factor
    # torch locks this name once a loader is made, and reads it for each pass. Who had workers knows why they end with
    # an epoch; who had none would otherwise have them started for each.
    persistent = setting.num_workers > 0 and (loader.persistent_workers or not had_workers)
    vars(loader)["persistent_workers"] = persistent
