"""What the hardware probe found, for people: the limits, what they mean for a loader, what to change."""

from collections.abc import Iterator

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lightning_fastdata.hardware.affinity import OPENMP_NOTE
from lightning_fastdata.hardware.detect import Hardware
from lightning_fastdata.planning.plan import LoaderOptions, Split, Workload, make_plan
from lightning_fastdata.report.machine import machine_facts
from lightning_fastdata.report.units import number, plural, size

__all__ = ["advice", "doctor_view", "meaning"]

_GIB = 1 << 30
_SMALL_SHM_BYTES = 1 * _GIB
_SMALL_RAM_BYTES = 2 * _GIB
_FEW_OPEN_FILES = 4096
_PHOTO_BATCH_BYTES = 32 * 3 * 224 * 224 * 4

_FITTED: tuple[Split, ...] = ("train", "val")

_RAISE_SCHEDULER_BOUND = (
    ("SLURM", "ask for more CPUs: `#SBATCH --cpus-per-task=N`, and `srun --cpus-per-task=N` again inside the script."),
    ("PBS", "ask for more CPUs: `-l select=1:ncpus=N`."),
    ("LSF", "ask for more slots on one host: `bsub -n N -R 'span[hosts=1]'`."),
    ("Grid Engine", "ask for more slots: `qsub -pe smp N`."),
    ("", "unset that variable, or set it to more."),
)


def doctor_view(hardware: Hardware) -> Group:
    """Everything the probe found as one thing to print with rich; lines fold, nothing is cut."""
    parts = [
        _section("CPUs", _cpu_table(hardware), Text(_cpu_line(hardware))),
        _section("Memory, files, devices", _facts_table(hardware)),
        _section("What this means for a loader", *(_bullet(line) for line in meaning(hardware))),
        _section("What to change", *(_bullet(line) for line in advice(hardware) or ("Nothing stands out.",))),
    ]
    if hardware.notes:
        parts.append(_section("Notes", *(_bullet(note) for note in hardware.notes)))
    return Group(*parts)


def meaning(hardware: Hardware) -> tuple[str, ...]:
    """What the figures mean for a DataLoader on this machine, one plain sentence each."""
    return (*_cpu_meaning(hardware), _plan_meaning(hardware), *_shm_meaning(hardware), *_device_meaning(hardware))


def advice(hardware: Hardware) -> tuple[str, ...]:
    """What to change, only where something is worth changing; the most limiting first."""
    return (*_cpu_advice(hardware), *_memory_advice(hardware), *_open_file_advice(hardware))


# ------------------------------------------------------------------------------------------------------------ sentences


def _cpu_meaning(hardware: Hardware) -> Iterator[str]:
    cpus = hardware.cpus_per_rank
    workers = int(cpus - 1)
    if workers >= 1:
        yield (
            f"One of {number(cpus)} CPUs is needed by the training process itself: at most "
            f"{plural(workers, 'worker process', 'worker processes')}{_per_rank(hardware)} can work at full speed."
        )
    else:
        yield (
            f"With {plural(cpus, 'CPU')}{_per_rank(hardware)}, worker processes that compute take time from "
            "the training itself (num_workers=0 is best); workers that wait for a disk or a network still help."
        )
    cores = hardware.physical_cores
    if cores is not None and cores < hardware.usable_cpus:
        yield (
            f"The CPUs are threads of {plural(cores, 'physical core')}: "
            "work that computes, such as decoding images, hardly gets faster beyond that."
        )


def _plan_meaning(hardware: Hardware) -> str:
    """What "auto" takes in the most common case, without a run."""
    workers = {
        split: make_plan(LoaderOptions(), hardware, Workload(split=split, batch_size=32, concurrent_pool=True))
        for split in _FITTED
    }
    return (
        f'num_workers="auto" takes {workers["train"].num_workers} for training{_per_rank(hardware)} and '
        f"{workers['val'].num_workers} for validation beside it, for a dataset that is read from files."
    )


def _shm_meaning(hardware: Hardware) -> Iterator[str]:
    if hardware.shm_free_bytes is None:
        return
    batches = hardware.shm_free_bytes // _PHOTO_BATCH_BYTES
    yield (
        f"Finished batches wait in /dev/shm: {size(hardware.shm_free_bytes)} is room for {batches:,} batches "
        "of 32 float images of 224 x 224, for all ranks and loaders together."
    )


def _device_meaning(hardware: Hardware) -> Iterator[str]:
    kinds = {accelerator.kind for accelerator in hardware.accelerators}
    if kinds & {"cuda", "xpu"}:
        yield "Batches are copied to an accelerator: pinned memory lets the copy run beside the training."
    elif "mps" in kinds:
        yield "The GPU shares the machine's memory: pinned memory is of no use."
    else:
        yield (
            "No accelerator was found: training computes on the same CPUs, with a thread per core unless "
            "torch.set_num_threads(n) leaves some to the workers; pinned memory is of no use."
        )


def _cpu_advice(hardware: Hardware) -> Iterator[str]:
    if any(note.startswith(OPENMP_NOTE) for note in hardware.notes):
        yield (
            "Unset OMP_PROC_BIND, OMP_PLACES, KMP_AFFINITY and GOMP_CPU_AFFINITY (or set OMP_PROC_BIND=false): "
            "the binding puts this process and all its workers onto one CPU."
        )
    limit = hardware.rank_binding_limit
    machine = min((limit.cpus for limit in hardware.cpu_limits if limit.kind == "machine"), default=None)
    if limit.kind == "override" and machine is not None and limit.cpus > machine:
        yield f"{limit.source} is more than the machine has ({plural(machine, 'CPU')}): unset it or lower it."
    if machine is None:
        return
    under_slurm = any("SLURM" in other.source for other in hardware.cpu_limits)
    if limit.kind == "quota":
        yield (
            f"The container may use {number(limit.cpus)} of {number(machine)} CPUs ({limit.source}): "
            "raise `docker run --cpus=N`, `resources.limits.cpu` (Kubernetes) or `CPUQuota=` (systemd)."
        )
    elif limit.kind == "scheduler" or (limit.kind in ("affinity", "cpuset") and under_slurm):
        scheduler = "SLURM" if limit.kind != "scheduler" else limit.source
        fix = next(text for name, text in _RAISE_SCHEDULER_BOUND if name in scheduler)
        yield f"The job may use {number(limit.cpus)} of {number(machine)} CPUs ({limit.source}): {fix}"
    elif limit.kind in ("affinity", "cpuset"):
        yield (
            f"The process is bound to {number(limit.cpus)} of {number(machine)} CPUs ({limit.source}): "
            "start it without `taskset` or `numactl`, or widen `docker run --cpuset-cpus`."
        )


def _memory_advice(hardware: Hardware) -> Iterator[str]:
    if hardware.shm_free_bytes is not None and hardware.shm_free_bytes < _SMALL_SHM_BYTES:
        yield (
            f"/dev/shm has {size(hardware.shm_free_bytes)} free; when it is full, loader workers die with a "
            "bus error: start the container with `--shm-size=8g` (Docker), or mount an `emptyDir` "
            "with `medium: Memory` at /dev/shm (Kubernetes)."
        )
    if hardware.oom_kills:
        yield (
            f"The kernel has killed {plural(hardware.oom_kills, 'process', 'processes')} of this control group for "
            "want of memory since it was made: fewer workers, or `docker run --memory=N`, or the job's `--mem`."
        )
    if hardware.ram_available_bytes is not None and hardware.ram_available_bytes < _SMALL_RAM_BYTES:
        limited = hardware.ram_limit_source is not None
        fix = "raise `docker run --memory=N`, or the job's `--mem`" if limited else "close other programs"
        yield f"Only {size(hardware.ram_available_bytes)} of memory can still be taken: {fix}, or use fewer workers."


def _open_file_advice(hardware: Hardware) -> Iterator[str]:
    soft, hard = hardware.open_file_limit, hardware.open_file_hard_limit
    if soft is None or soft >= _FEW_OPEN_FILES:
        return
    why = f"Only {soft:,} files may be open; every tensor on its way from a worker takes one"
    if hard is None or hard > soft:
        yield f"{why}: `ulimit -n {min(hard or 65536, 65536)}` before the start."
    else:
        yield f"{why}: start with `docker run --ulimit nofile=65536:65536`, or raise `LimitNOFILE=` (systemd)."


# --------------------------------------------------------------------------------------------------------------- tables


def _cpu_table(hardware: Hardware) -> Table:
    table = _table()
    table.add_column("CPUs", justify="right")
    several = hardware.local_world_size > 1
    if several:
        table.add_column("per rank", justify="right")
    table.add_column("limit", overflow="fold")
    table.add_column("")
    decides = hardware.rank_binding_limit
    for limit in hardware.cpu_limits:
        shares = [number(hardware.share_of(limit))] if several else []
        style = "bold" if limit is decides else ""
        mark = "<- decides" if limit is decides else ""
        table.add_row(number(limit.cpus), *shares, Text(limit.source), mark, style=style)
    return table


def _cpu_line(hardware: Hardware) -> str:
    usable = f"This process may use {plural(hardware.usable_cpus, 'CPU')}"
    if hardware.local_world_size == 1:
        return f"{usable}."
    sharing = "share one set of CPUs" if hardware.ranks_share_mask else "have CPUs of their own"
    return (
        f"{usable}. The {hardware.local_world_size} ranks on this node {sharing}; "
        f"each can count on {plural(hardware.cpus_per_rank, 'CPU')}."
    )


def _facts_table(hardware: Hardware) -> Table:
    table = _table(show_header=False)
    table.add_column("what")
    table.add_column("value", overflow="fold")
    for what, value in machine_facts(hardware.to_dict()):
        table.add_row(what, Text(value))
    return table


def _table(show_header: bool = True) -> Table:
    return Table(box=None, show_header=show_header, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")


def _section(title: str, *body: Table | Text | Padding) -> Group:
    return Group(
        Text(title, style="bold cyan"), *(Padding(part, (0, 0, 0, 2), expand=False) for part in body), Text("")
    )


def _bullet(line: str) -> Table:
    """A line with a dash before it; what does not fit goes on under the text, not under the dash."""
    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_row("-", Text(line, overflow="fold"))
    return row


def _per_rank(hardware: Hardware) -> str:
    return " per rank" if hardware.local_world_size > 1 else ""
