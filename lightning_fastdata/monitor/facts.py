"""Where a run happened, for whoever reads its figures later."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import torch

from lightning_fastdata import __version__

__all__ = ["RunFacts", "plans_of"]


@dataclass(frozen=True)
class RunFacts:
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
    def of(cls, trainer: Any) -> "RunFacts":
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
