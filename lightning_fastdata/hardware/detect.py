"""What this process may use of the machine it runs on, every limit with the place it was read from.

A machine's size says little about a process on it: affinity masks, CPU quotas of containers, schedulers and the other
ranks of a training run each take their part. ``probe`` reads them all and keeps every one, so that the number that
decides can be shown with its reason. Nothing here imports torch or initializes an accelerator.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_fastdata.hardware import affinity, cgroups, scheduler
from lightning_fastdata.hardware.accelerators import Accelerator, find_accelerators
from lightning_fastdata.hardware.limits import CpuSet, Limit, LimitKind
from lightning_fastdata.hardware.sysfiles import SystemFiles, parse_fields, parse_int

__all__ = ["Accelerator", "Hardware", "Limit", "LimitKind", "probe"]


@dataclass(frozen=True)
class Hardware:
    """The part of the machine that this process may use.

    Figures that could not be found out are None; ``notes`` says why where that matters.
    """

    cpu_limits: tuple[Limit, ...]
    """Every limit on CPUs that was found, also those that do not bind; at least one. An override is among them."""

    physical_cores: int | None = None
    """Cores (not hardware threads) within the affinity mask; half of the mask's CPUs with two threads a core."""

    ram_bytes: int | None = None
    """Memory of the machine, bytes."""

    ram_available_bytes: int | None = None
    """Memory that can still be taken without swapping or being killed, bytes; the machine's or the cgroup's."""

    ram_limit_bytes: int | None = None
    """Tightest memory limit of the own cgroup and its ancestors, bytes; None: no limit."""

    ram_limit_source: str | None = None
    """Where that limit was read, with the value."""

    oom_kills: int | None = None
    """Processes of the own cgroup that were killed for want of memory (count); v2 counts groups below it too."""

    swap_free_bytes: int | None = None
    """Free swap space of the machine, bytes: where memory runs out, a run is moved there before it is killed."""

    shm_free_bytes: int | None = None
    """Free space in /dev/shm, bytes; batches from worker processes pass through it."""

    shm_total_bytes: int | None = None
    """Size of /dev/shm, bytes; 64 MiB is Docker's default and too little for most loaders."""

    open_file_limit: int | None = None
    """Files that this process may have open (``ulimit -n``); None: no limit, or unknown."""

    open_file_hard_limit: int | None = None
    """How far the process may raise that limit by itself; None: no limit, or unknown."""

    open_files: int | None = None
    """Files that this process had open when it was looked at (count)."""

    rank: int = 0
    """Number of this process in the whole training run, from 0."""

    world_size: int = 1
    """Processes in the whole training run."""

    local_world_size: int = 1
    """Processes of the training run on this node."""

    ranks_share_mask: bool = True
    """True: the ranks of this node run on one set of CPUs. False: each has its own, do not divide it again."""

    taken_cpus: tuple[int, ...] = ()
    """Numbers of the CPUs that an OpenMP binding took from this process, and that workers are given back; else ()."""

    accelerators: tuple[Accelerator, ...] = ()
    """Devices that this process can train on."""

    notes: tuple[str, ...] = ()
    """What was unreadable or odd, in plain words."""

    @property
    def binding_limit(self) -> Limit:
        """The limit that decides ``usable_cpus``: the override where there is one, else the least."""
        return min(self._deciding_limits(), key=lambda limit: limit.cpus)

    @property
    def rank_binding_limit(self) -> Limit:
        """The limit that decides ``cpus_per_rank``; a quota shared by all ranks may be tighter than their own masks."""
        return min(self._deciding_limits(), key=self.share_of)

    @property
    def usable_cpus(self) -> float:
        """CPUs that this process may use if the other ranks stood still; 0.5 is half of the time of one CPU."""
        return self.binding_limit.cpus

    @property
    def cpus_per_rank(self) -> float:
        """CPUs that this rank may count on while all ranks of the node work.

        The least, over all limits, of what one rank gets of each: a limit that every rank has for itself counts whole,
        one that the ranks share is divided by their number. So 4 ranks on one mask of 32 CPUs have 8 each, 4 ranks
        bound to 8 CPUs each have 8 each, and a quota of 8 CPUs above all four leaves 2 each, whatever their masks.
        """
        return self.share_of(self.rank_binding_limit)

    def share_of(self, limit: Limit) -> float:
        """CPUs that one rank gets of ``limit``."""
        own = limit.per_rank or (limit.kind == "affinity" and not self.ranks_share_mask)
        return limit.cpus if own else limit.cpus / self.local_world_size

    def to_dict(self) -> dict[str, Any]:
        """Every field and the derived figures, as plain lists, dicts and numbers."""
        fields = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {
            "usable_cpus": self.usable_cpus,
            "cpus_per_rank": self.cpus_per_rank,
            "binding_limit": asdict(self.binding_limit),
            "rank_binding_limit": asdict(self.rank_binding_limit),
            **fields,
        }

    def _deciding_limits(self) -> list[Limit]:
        overrides = [limit for limit in self.cpu_limits if limit.kind == "override"]
        return overrides or list(self.cpu_limits)


def probe(
    root: str | Path = "/", environ: Mapping[str, str] | None = None, *, local_world_size: int | None = None
) -> Hardware:
    """Find out what this process may use, without importing torch or touching an accelerator.

    Args:
        root: Every file is read below it. With another root than "/" nothing of the real machine is asked.
        environ: The variables of schedulers, launchers and the user; None: those of this process.
        local_world_size: Ranks on this node as the caller knows them (``trainer.num_devices``); None: from the
            launcher's variables, else 1.

    Raises:
        FastDataError: ``LIGHTNING_FASTDATA_NUM_CPUS`` is not a number above 0, or ``local_world_size`` is below 1.
    """
    environ = os.environ if environ is None else environ  # as a default, help() would print every variable's value
    files = SystemFiles(root)
    groups = cgroups.locate(files)
    slurm = scheduler.read_slurm(environ, files.note)
    ranks = scheduler.read_ranks(environ, slurm, local_world_size, files.note)
    cpuset = cgroups.read_cpuset(files, groups)
    mask = affinity.read_mask(files, environ, cpuset)
    share_mask = affinity.ranks_share_mask(files, ranks, slurm, mask, cpuset)
    memory = cgroups.read_memory_limit(files, groups)
    ram_bytes, ram_available_bytes, swap_free_bytes = _read_ram(files, memory)
    shm_free_bytes, shm_total_bytes = _read_shm(files)
    open_file_limit, open_file_hard_limit = _read_open_file_limits(files)
    return Hardware(
        cpu_limits=(
            *scheduler.read_override(environ),
            affinity.read_machine(files),
            *_limits_of_sets(mask, cpuset, share_mask),
            *_read_quotas(files, environ, groups),
            *scheduler.read_bounds(environ, slurm, ranks, files.note),
        ),
        physical_cores=affinity.count_physical_cores(files, mask),
        ram_bytes=ram_bytes,
        ram_available_bytes=ram_available_bytes,
        ram_limit_bytes=memory.limit_bytes if memory else None,
        ram_limit_source=memory.source if memory else None,
        oom_kills=cgroups.read_oom_kills(files, groups),
        swap_free_bytes=swap_free_bytes,
        shm_free_bytes=shm_free_bytes,
        shm_total_bytes=shm_total_bytes,
        open_file_limit=open_file_limit,
        open_file_hard_limit=open_file_hard_limit,
        open_files=_count_open_files(files),
        rank=ranks.rank,
        world_size=ranks.world_size,
        local_world_size=ranks.local_world_size,
        ranks_share_mask=share_mask,
        taken_cpus=tuple(sorted(mask.cpus)) if mask is not None and mask.taken else (),
        accelerators=find_accelerators(files, environ),
        notes=tuple(files.notes),
    )


def _limits_of_sets(mask: CpuSet | None, cpuset: CpuSet | None, share_mask: bool) -> Iterator[Limit]:
    if mask is not None:
        yield Limit(mask.source, float(len(mask.cpus)), "affinity", per_rank=not share_mask)
    if cpuset is not None:
        # A cgroup of the rank's own shows the same CPUs as its mask; a wider one holds all ranks.
        own = not share_mask and mask is not None and mask.cpus == cpuset.cpus
        yield Limit(cpuset.source, float(len(cpuset.cpus)), "cpuset", per_rank=own)


def _read_quotas(files: SystemFiles, environ: Mapping[str, str], groups: cgroups.Groups) -> tuple[Limit, ...]:
    quotas = cgroups.read_cpu_quotas(files, groups)
    if not quotas and "KUBERNETES_SERVICE_HOST" in environ:
        files.note(
            "This is a Kubernetes pod without a CPU limit. A CPU request sets no quota and is not counted, "
            "so on a busy node there may be fewer CPUs than shown."
        )
    return quotas


def _read_ram(files: SystemFiles, memory: cgroups.MemoryLimit | None) -> tuple[int | None, int | None, int | None]:
    """Memory of the machine, what of it this process can still take, and free swap space."""
    fields = parse_fields(files.read("/proc/meminfo"))
    total, available, swap = (_bytes(fields.get(name)) for name in ("MemTotal", "MemAvailable", "SwapFree"))
    if total is None and files.is_real:
        import psutil

        machine = psutil.virtual_memory()
        total, available, swap = machine.total, machine.available, psutil.swap_memory().free
    rooms = [room for room in (available, memory.available_bytes if memory else None) if room is not None]
    return total, min(rooms, default=None), swap


def _bytes(text: str | None) -> int | None:
    kib = parse_int((text or "").removesuffix("kB"))
    return None if kib is None or kib < 0 else kib * 1024


def _read_shm(files: SystemFiles) -> tuple[int | None, int | None]:
    """Free and total bytes of /dev/shm; None where there is none (macOS, Windows)."""
    if not hasattr(os, "statvfs"):
        return None, None
    try:
        shm = os.statvfs(files.path("/dev/shm"))
    except OSError:
        return None, None
    return shm.f_bavail * shm.f_frsize, shm.f_blocks * shm.f_frsize


def _read_open_file_limits(files: SystemFiles) -> tuple[int | None, int | None]:
    """The soft and the hard limit on open files; None for "unlimited" and where they are not known."""
    for line in (files.read("/proc/self/limits") or "").splitlines():
        if line.startswith("Max open files"):
            soft, hard, *_ = [*line.removeprefix("Max open files").split(), "", ""]
            return parse_int(soft), parse_int(hard)
    if not files.is_real:
        return None, None
    try:
        import resource
    except ImportError:  # Windows
        return None, None
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    return None if soft_limit == unlimited else soft_limit, None if hard_limit == unlimited else hard_limit


def _count_open_files(files: SystemFiles) -> int | None:
    """Files this process has open, without the folder that is read to count them; None where that is not known."""
    names = files.names("/proc/self/fd")
    return len(names) - 1 if names else None
