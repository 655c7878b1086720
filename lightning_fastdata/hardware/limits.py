"""The CPUs that a process may use, as a number or as a set, with the place that was read from."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["CpuSet", "Limit", "LimitKind"]

LimitKind = Literal["machine", "affinity", "cpuset", "quota", "scheduler", "override"]


@dataclass(frozen=True)
class Limit:
    """An upper bound on the CPUs of this process (an ``override`` replaces all the others instead)."""

    source: str
    """Where it was read, with the value, for people: "cgroup quota 400000/100000 us at /pod/ctr"."""

    cpus: float
    """How many CPUs it allows; 0.5 is half of the time of one CPU."""

    kind: LimitKind
    """What sort of limit it is; it decides who can raise it."""

    per_rank: bool = False
    """True: every rank of this node has this much for itself (SLURM_CPUS_PER_TASK). False: the ranks share it."""


@dataclass(frozen=True)
class CpuSet:
    """The CPUs that a process may run on, as one source names them."""

    cpus: frozenset[int]
    """Their numbers."""

    source: str
    """Where it was read, with the value, for people: "affinity mask 0-3"."""

    taken: bool = False
    """True: an OpenMP binding has taken these CPUs from the process; workers must be given them back."""
