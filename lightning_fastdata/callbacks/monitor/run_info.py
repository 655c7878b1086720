"""Where a run happened, for whoever reads its figures later."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import torch

from lightning_fastdata.compat.versions import own_version

__all__ = ["RunInfo"]


@dataclass(frozen=True)
class RunInfo:
    """The circumstances of one run of one rank."""

    rank: int
    """Global rank (index)."""
    world_size: int
    """Processes in the run (count)."""
    versions: Mapping[str, str]
    """Versions of this package, Lightning, torch and Python."""
    host: str
    """Name of the machine."""
    date: str
    """Start, ISO 8601 with time zone."""

    @classmethod
    def of(cls, trainer: Any) -> "RunInfo":
        """The circumstances of ``trainer``, now."""
        # The Trainer may come from either Lightning package; its own says which.
        package = type(trainer).__module__.partition(".")[0]
        return cls(
            rank=int(trainer.global_rank),
            world_size=int(trainer.world_size),
            versions={
                "lightning_fastdata": own_version(),
                package: str(getattr(__import__(package), "__version__", "unknown")),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
            host=platform.node(),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
