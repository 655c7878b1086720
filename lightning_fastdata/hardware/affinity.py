"""Which CPUs this process may run on, and whether the ranks of the node share that set."""

import dataclasses
import os
from collections.abc import Mapping

from lightning_fastdata.hardware.limits import CpuSet, Limit
from lightning_fastdata.hardware.scheduler import Ranks, Slurm
from lightning_fastdata.hardware.sysfiles import SystemFiles, parse_cpu_list, parse_fields, plain

__all__ = ["OPENMP_NOTE", "count_physical_cores", "ranks_share_mask", "read_machine", "read_mask"]

OPENMP_NOTE = "An OpenMP binding"
"""How the note about a mask shrunk by OpenMP begins."""

_BINDING_VARIABLES = ("OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY", "GOMP_CPU_AFFINITY")
_NO_BINDING = ("", "false", "none", "disabled")
_MAX_THREADS = 256


def read_machine(files: SystemFiles) -> Limit:
    """How many CPUs the machine has; 1, with a note, where that is not known."""
    text = files.read("/sys/devices/system/cpu/online")
    online = parse_cpu_list(text)
    if online is not None:
        return Limit(f"machine, CPUs {text} online", float(len(online)), "machine")
    count = os.cpu_count() if files.is_real else None
    if count:
        return Limit(f"machine, {count} CPUs", float(count), "machine")
    files.note("The number of CPUs could not be found out; 1 is assumed.")
    return Limit("machine, 1 CPU assumed", 1.0, "machine")


def read_mask(files: SystemFiles, environ: Mapping[str, str], cpuset: CpuSet | None) -> CpuSet | None:
    """The affinity mask of the process.

    Importing torch with an OpenMP binding set moves the calling thread onto one CPU for good. When the mask is one
    CPU, such a variable is set and another thread's mask (or else the CPU set of the own cgroup) is larger, that
    larger set is what the process really has; it is used, and a note says so.

    Args:
        files: Where to read ``/proc/self/status``; the system call is asked only on a real system without it.
        environ: Where OpenMP's variables are looked up.
        cpuset: The CPU set of the own cgroup, if known.
    """
    status = files.read("/proc/self/status")
    text = parse_fields(status).get("Cpus_allowed_list")
    cpus = parse_cpu_list(text)
    if cpus is None:
        if status is not None:
            files.note("/proc/self/status has no usable Cpus_allowed_list; the affinity mask is not known from it.")
        return _mask_of_system_call() if files.is_real else None
    wider = _widest_mask(files, cpuset) if len(cpus) == 1 else None
    binding = next(
        (name for name in _BINDING_VARIABLES if environ.get(name, "").strip().lower() not in _NO_BINDING), None
    )
    if binding is None or wider is None or len(wider.cpus) <= 1:
        return CpuSet(cpus, f"affinity mask {text}")
    files.note(
        f"{OPENMP_NOTE} ({binding}={plain(environ[binding], 60)}) has moved this process onto CPU {text}; "
        f"it was given {len(wider.cpus)} CPUs ({wider.source}), which is what counts here."
    )
    return dataclasses.replace(wider, taken=True)


def ranks_share_mask(
    files: SystemFiles, ranks: Ranks, slurm: Slurm, mask: CpuSet | None, cpuset: CpuSet | None
) -> bool:
    """Whether the ranks of this node run on one set of CPUs (True) or each on its own (False).

    Evidence, by who started the ranks:

    - SLURM, one task a rank: own sets if the mask is smaller than what the tasks of this node have together
      (SLURM_CPUS_PER_TASK x tasks, else SLURM_CPUS_ON_NODE); without either number, if SLURM_CPU_BIND binds.
    - torchrun or MPI: own sets if the mask is a part of the launcher's (the parent process's) mask, or, where that
      cannot be read, a part of the cgroup's CPU set. ``taskset ... torchrun`` makes both equal: shared.
    - Lightning itself starts the ranks as children that inherit the mask: shared.
    """
    if ranks.local_world_size == 1 or mask is None:
        return True
    if ranks.launcher == "slurm":
        together = slurm.cpus_of_all_tasks
        return not slurm.binds if together is None else len(mask.cpus) >= together
    if ranks.launcher in ("torchrun", "mpi"):
        around = _mask_of_parent(files) or (None if cpuset is None else cpuset.cpus)
        return around is None or not mask.cpus < around
    return True


def count_physical_cores(files: SystemFiles, mask: CpuSet | None) -> int | None:
    """Distinct cores in the mask: two CPUs with the same ``thread_siblings_list`` are one core.

    None where the topology is not known. Outside Linux there is no mask, so the whole machine is counted.
    """
    if mask is None:
        import psutil

        return psutil.cpu_count(logical=False) if files.is_real else None
    cores = set()
    for cpu in mask.cpus:
        folder = f"/sys/devices/system/cpu/cpu{cpu}/topology"
        siblings = files.read(f"{folder}/thread_siblings_list") or files.read(f"{folder}/core_cpus_list")
        parsed = parse_cpu_list(siblings)
        if parsed is None:
            return None
        cores.add(parsed)
    return len(cores)


def _widest_mask(files: SystemFiles, cpuset: CpuSet | None) -> CpuSet | None:
    """The largest mask of any thread of this process if that is more than one CPU, else the CPU set of the cgroup."""
    masks = []
    for thread in files.names("/proc/self/task")[:_MAX_THREADS]:
        text = parse_fields(files.read(f"/proc/self/task/{thread}/status")).get("Cpus_allowed_list")
        cpus = parse_cpu_list(text)
        if cpus is not None and len(cpus) > 1:
            masks.append(CpuSet(cpus, f"affinity mask {text} of another thread"))
    if masks:
        return max(masks, key=lambda mask: len(mask.cpus))
    return None if cpuset is None else CpuSet(cpuset.cpus, f"{cpuset.source}, the mask before the OpenMP binding")


def _mask_of_parent(files: SystemFiles) -> frozenset[int] | None:
    parent = parse_fields(files.read("/proc/self/status")).get("PPid", "0")
    if not parent.isdecimal() or parent == "0":
        return None
    return parse_cpu_list(parse_fields(files.read(f"/proc/{parent}/status")).get("Cpus_allowed_list"))


def _mask_of_system_call() -> CpuSet | None:
    """The mask where there is no /proc: Linux without it, FreeBSD, Windows. macOS has none."""
    if hasattr(os, "sched_getaffinity"):
        return CpuSet(frozenset(os.sched_getaffinity(0)), "affinity mask (sched_getaffinity)")
    import psutil

    process = psutil.Process()
    if not hasattr(process, "cpu_affinity"):
        return None
    return CpuSet(frozenset(process.cpu_affinity()), "affinity mask (psutil)")
