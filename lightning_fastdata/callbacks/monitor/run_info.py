"""Where a run happened, for whoever reads its figures later."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

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
                "lightning_fastdata": _own_version(),
                package: str(getattr(__import__(package), "__version__", "unknown")),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
            host=platform.node(),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )


def _own_version() -> str:
    try:
        return version("lightning_fastdata")
    except PackageNotFoundError:  # the sources are on the path, and no more
        return "not installed"
