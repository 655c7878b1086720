"""Whether the machine is too busy for a measurement, and what this process has used of it."""

import time
from typing import NamedTuple

from lightning_fastdata.hardware.cgroups import locate
from lightning_fastdata.hardware.sysfiles import SystemFiles, parse_fields, parse_int

__all__ = ["PressureReading", "ProcessUsage", "contention", "private_bytes"]

BUSY_SHARE = 0.15
"""Share of a probe's time without a CPU above which the machine is too busy to measure."""


class PressureReading(NamedTuple):
    """Two counters that only go up, with the time at which they were read."""

    read_at_s: float
    """A monotonic clock (s)."""
    stalled_s: float | None
    """Time in which some task of the machine waited for a CPU, since it was started (s); Linux's pressure stall
    information. None where the kernel does not keep it."""
    throttled_s: float | None
    """Time for which the groups of this process were stopped because a CPU quota was used up, on the level where most
    was (s). None where no level counts it."""

    @classmethod
    def now(cls, files: SystemFiles | None = None) -> "PressureReading":
        """Read the counters.

        Args:
            files: The machine; None = the real one.
        """
        files = files or SystemFiles()
        some = next((line for line in (files.read("/proc/pressure/cpu") or "").splitlines() if line[:5] == "some "), "")
        levels = [parse_fields(files.read(f"{level.directory}/cpu.stat"), " ") for level in locate(files).cpu]
        throttled = [
            *(_scaled(level.get("throttled_usec"), 1e6) for level in levels),
            *(_scaled(level.get("throttled_time"), 1e9) for level in levels),  # cgroup v1
        ]
        known = [one for one in throttled if one is not None]
        return cls(time.perf_counter(), _scaled(some.rpartition("total=")[2], 1e6), max(known, default=None))


class ProcessUsage(NamedTuple):
    """What this process has used since it was started, or between two readings."""

    cpu_s: float
    """CPU time of all threads (s)."""
    kept_waiting_s: float | None
    """Time for which the main thread could have run and got no CPU (s); None where the kernel does not keep it."""
    disk_bytes: int | None
    """Read from a disk, not from the page cache (bytes); None where the kernel does not count it."""

    @classmethod
    def now(cls, files: SystemFiles | None = None) -> "ProcessUsage":
        """Read the counters.

        Args:
            files: The machine; None = the real one.
        """
        files = files or SystemFiles()
        schedule = (files.read("/proc/self/schedstat") or "").split()
        waited_s = _scaled(schedule[1], 1e9) if len(schedule) == 3 else None
        read = parse_fields(files.read("/proc/self/io")).get("read_bytes")
        return cls(time.process_time(), waited_s, parse_int(read))

    def since(self, before: "ProcessUsage") -> "ProcessUsage":
        """What was used between two readings, of which this is the later one."""
        waited_s, disk = _less(self.kept_waiting_s, before.kept_waiting_s), _less(self.disk_bytes, before.disk_bytes)
        return ProcessUsage(self.cpu_s - before.cpu_s, waited_s, None if disk is None else int(disk))


def private_bytes() -> int | None:
    """Memory of this process that it shares with no other (bytes); after a fork that grows with time."""
    import psutil

    try:
        return int(psutil.Process().memory_full_info().uss)
    except (psutil.Error, AttributeError):
        return None


def contention(kept_waiting_share: float | None, before: PressureReading, after: PressureReading) -> str | None:
    """Whether the machine was too busy for a measurement to say anything.

    One worker and an idle training process need no more than the CPUs of any machine. Where the worker was kept waiting
    all the same, other processes had them, or a quota was used up; then its times are those of a busy machine.

    Args:
        kept_waiting_share: Share of the worker's time in which it got no CPU (0..1); None where that is not known.
        before: The counters before the measurement.
        after: The counters after it.

    Returns:
        Why it was too busy, with the figure; None where it was not, or where that is not known.
    """
    took_s = after.read_at_s - before.read_at_s
    throttled_s, stalled_s = _less(after.throttled_s, before.throttled_s), _less(after.stalled_s, before.stalled_s)
    if throttled_s is not None and took_s > 0 and throttled_s / took_s > BUSY_SHARE:
        return f"a CPU quota stopped this process for {throttled_s / took_s:.0%} of the probe"
    if kept_waiting_share is not None:
        busy = kept_waiting_share > BUSY_SHARE
        return f"the worker got no CPU for {kept_waiting_share:.0%} of its time" if busy else None
    if stalled_s is not None and took_s > 0 and stalled_s / took_s > 2 * BUSY_SHARE:
        return f"tasks of this machine waited for a CPU in {stalled_s / took_s:.0%} of the probe's time"
    return None


def _scaled(text: str | None, per_s: float) -> float | None:
    number = parse_int(text)
    return None if number is None else number / per_s


def _less(after: float | None, before: float | None) -> float | None:
    return None if before is None or after is None else after - before
