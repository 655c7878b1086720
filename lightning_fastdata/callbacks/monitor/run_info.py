"""Where a run happened, for whoever reads its figures later."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from platform import node, python_version
from typing import Any

import torch

from lightning_fastdata.compat.versions import own_version
from lightning_fastdata.loaders.progress import RULES

__all__ = ["RunInfo", "here_and_now"]


@dataclass(frozen=True)
class RunInfo:
    """The circumstances of one run of one rank."""

    rank: int
    """Global rank (index)."""
    world_size: int
    """Processes in the run (count)."""
    versions: Mapping[str, str]
    """Versions of this package, Lightning, torch and Python, and the number of the rules that decide batches."""
    host: str
    """Name of the machine."""
    date: str
    """Start, ISO 8601 with time zone."""

    @classmethod
    def of(cls, trainer: Any) -> "RunInfo":
        """The circumstances of ``trainer``, now."""
        # The Trainer may come from either Lightning package; its own says which.
        package = type(trainer).__module__.partition(".")[0]
        version = str(getattr(__import__(package), "__version__", "unknown"))
        return cls(int(trainer.global_rank), int(trainer.world_size), **here_and_now({package: version}))


def here_and_now(packages: Mapping[str, str]) -> dict[str, Any]:
    """Host, date and versions, by the names that ``RunSummary`` and ``TuneResult`` have for them.

    Args:
        packages: Versions beside those of this package, torch and Python.
    """
    ours, torch_version = own_version(), str(torch.__version__)
    return {
        "versions": {
            "lightning_fastdata": ours,
            "rules": str(RULES),
            **packages,
            "torch": torch_version,
            "python": python_version(),
        },
        "host": node(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
