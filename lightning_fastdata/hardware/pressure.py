"""Whether the machine is too busy for a measurement: time that tasks waited for a CPU, and time a quota took away."""

from dataclasses import dataclass

from lightning_fastdata.hardware.cgroups import Groups
from lightning_fastdata.hardware.sysfiles import SystemFiles, parse_int

__all__ = ["Pressure", "kept_waiting_s", "read_pressure"]


@dataclass(frozen=True)
class Pressure:
    """Two counters that only go up; what counts is by how much they did between two looks."""

    stalled_s: float | None
    """Time in which some task of the machine waited for a CPU, since it was started (s); Linux's pressure stall
    information. None where the kernel does not keep it."""
    throttled_s: float | None
    """Time for which the groups of this process were stopped because a CPU quota was used up, on the level where most
    was (s). None where no level tells."""


def read_pressure(files: SystemFiles, groups: Groups) -> Pressure:
    """Look at the counters now.

    Args:
        files: The machine, or a made-up one.
        groups: The groups that bind this process.
    """
    throttled = [_throttled_s(files.read(f"{level.directory}/cpu.stat")) for level in groups.cpu]
    return Pressure(
        _stalled_s(files.read("/proc/pressure/cpu")), max((t for t in throttled if t is not None), default=None)
    )


def _stalled_s(text: str | None) -> float | None:
    """The total of the line ``some avg10=... total=MICROSECONDS``."""
    for line in (text or "").splitlines():
        if line.startswith("some "):
            total = parse_int(line.rpartition("total=")[2])
            return None if total is None else total / 1e6
    return None


def _throttled_s(text: str | None) -> float | None:
    """``throttled_usec`` of cgroup v2, ``throttled_time`` (in ns) of v1."""
    for line in (text or "").splitlines():
        name, _, value = line.partition(" ")
        number = parse_int(value)
        if number is not None and name in ("throttled_usec", "throttled_time"):
            return number / (1e6 if name == "throttled_usec" else 1e9)
    return None


def kept_waiting_s(files: SystemFiles) -> float | None:
    """Time for which this process's main thread could have run and got no CPU, since it was started.

    Args:
        files: The machine, or a made-up one.

    Returns:
        Seconds, from ``/proc/self/schedstat``; None where the kernel does not keep it.
    """
    parts = (files.read("/proc/self/schedstat") or "").split()
    waited = parse_int(parts[1]) if len(parts) == 3 else None
    return None if waited is None else waited / 1e9
