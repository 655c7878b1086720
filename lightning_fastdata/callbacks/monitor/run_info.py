"""Where a run happened, for whoever reads its figures later."""

import platform
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import torch

from lightning_fastdata import __version__

__all__ = ["RunInfo", "all_workers", "flattened", "keeps_workers", "plans_of", "the_dataset"]


@dataclass(frozen=True)
class RunInfo:
    """The circumstances of one run of one rank."""

    rank: int
    """Global rank (index)."""
    world_size: int
    """Processes in the run (count)."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of what runs."""
    host: str = ""
    """Name of the machine."""
    date: str = ""
    """Start, ISO 8601 with time zone."""

    @classmethod
    def of(cls, trainer: Any) -> "RunInfo":
        """The circumstances of ``trainer``, now."""
        # The Trainer may come from either Lightning package; its own says which.
        package = type(trainer).__module__.partition(".")[0]
        lightning = getattr(__import__(package), "__version__", "unknown")
        return cls(
            rank=int(trainer.global_rank),
            world_size=int(trainer.world_size),
            versions={
                "lightning_fastdata": __version__,
                package: str(lightning),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
            host=platform.node(),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )


def plans_of(trainer: Any) -> dict[str, Any]:
    """The loader plans that the DataModule keeps by split, as plain values; empty where it keeps none."""
    plans = getattr(getattr(trainer, "datamodule", None), "plans", None)
    if not isinstance(plans, Mapping):
        return {}
    # Another DataModule may keep anything under that name.
    described = {str(split): plan.to_dict() for split, plan in plans.items() if hasattr(plan, "to_dict")}
    return {split: plan for split, plan in described.items() if isinstance(plan, dict)}


def keeps_workers(loaders: Any) -> bool | None:
    """Whether training loaders keep their workers from epoch to epoch; None where none has workers, or none tells.

    Args:
        loaders: ``trainer.train_dataloader``: a loader or a collection of loaders.
    """
    kept = [loader.persistent_workers for loader in flattened(loaders) if getattr(loader, "num_workers", 0)]
    known = [bool(one) for one in kept if isinstance(one, bool)]
    return all(known) if known else None


def all_workers(loaders: Any) -> int | None:
    """Worker processes of all training loaders together (count); None where none tells.

    Args:
        loaders: ``trainer.train_dataloader``.
    """
    told = [
        loader.num_workers for loader in flattened(loaders) if isinstance(getattr(loader, "num_workers", None), int)
    ]
    return sum(told) if told else None


def the_dataset(loaders: Any) -> Callable[[], Any] | None:
    """A function that gives the dataset of the one training loader, as long as somebody keeps it.

    Args:
        loaders: ``trainer.train_dataloader``.

    Returns:
        None where there are several loaders: then an index says nothing.
    """
    flat = flattened(loaders)
    dataset = getattr(flat[0], "dataset", None) if len(flat) == 1 else None
    try:
        return None if dataset is None else weakref.ref(dataset)
    except TypeError:  # a list, for instance
        return None


def flattened(loaders: Any) -> list[Any]:
    """The loaders of a collection.

    Args:
        loaders: ``trainer.train_dataloader``: a loader or a collection of loaders.
    """
    if isinstance(loaders, Mapping):
        return [loader for part in loaders.values() for loader in flattened(part)]
    if isinstance(loaders, (list, tuple)):
        return [loader for part in loaders for loader in flattened(part)]
    flat = getattr(loaders, "flattened", None)  # a CombinedLoader
    return list(flat) if isinstance(flat, (list, tuple)) else [] if loaders is None else [loaders]
