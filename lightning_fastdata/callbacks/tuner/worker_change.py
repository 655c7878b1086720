"""Changing the workers of a training loader, ours or torch's own, and restoring them."""

from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from lightning_fastdata.callbacks.tuner.throughput_model import Setting
from lightning_fastdata.compat import lightning_loops
from lightning_fastdata.compat.torch_internals import stop_workers
from lightning_fastdata.loaders.resumable import ResumableDataLoader
from lightning_fastdata.planning.options import LoaderPlan

__all__ = ["Original", "change", "plan_change", "setting_of"]


class Original(NamedTuple):
    """The options of a loader of torch's own, as the user set them."""

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


def plan_change(loader: DataLoader[Any], setting: Setting, why: str) -> LoaderPlan | None:
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
        plan: What ``plan_change`` gave.
        original: What the user had set, which comes back with that number of workers.
        datamodule: Keeps the plans of our loaders by split, if it is one of ours.
        between_epochs: Whether the Trainer has finished an epoch and not begun the next.
    """
    if isinstance(loader, ResumableDataLoader) and plan is not None:
        loader.change(plan, between_epochs=between_epochs)
        plans = getattr(getattr(datamodule, "_fastdata", None), "plans", {})
        if "train" in plans:
            plans["train"] = plan
        return
    stop_workers(lightning_loops.kept_iterator(loader))
    lightning_loops.forget_iterator(loader)
    restored = setting == (original.num_workers, original.prefetch_factor)
    if setting.num_workers == 0:
        loader.multiprocessing_context = None
    loader.num_workers, loader.prefetch_factor = setting
    if setting.num_workers:
        loader.multiprocessing_context = original.multiprocessing_context
    loader.timeout = original.timeout if setting.num_workers or restored else 0  # torch refuses one without workers
    # torch locks this name once a loader is made, and reads it for each pass. Workers that end with an epoch stay such:
    # nothing says that those of a foreign loader would hold what its dataset is by then.
    vars(loader)["persistent_workers"] = original.persistent_workers and setting.num_workers > 0
