"""What the hardware probe reports, as names and values, for the doctor and for the page of a run.

On the page it comes from a file that another version may have written: nothing is taken for granted but that it exists.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning_fastdata.report.units import count, number, size

__all__ = ["cpu_facts", "has_cuda", "machine_facts", "machine_notes"]

_UNKNOWN = "unknown"


def cpu_facts(hardware: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """CPUs that the process may use, with the limit that decides."""
    usable, per_rank = _number(hardware, "usable_cpus"), _number(hardware, "cpus_per_rank")
    if usable is not None:
        limit = hardware.get("rank_binding_limit")
        source = limit.get("source") if isinstance(limit, Mapping) else None
        yield "Usable CPUs", number(usable) + (f" ({source})" if source else "")
    if per_rank is not None and per_rank != usable:
        yield "CPUs for each rank", number(per_rank)


def machine_facts(hardware: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Cores, memory, files, ranks and accelerators.

    Args:
        hardware: ``Hardware.to_dict()``, of this machine or from a file.
    """
    cores = _number(hardware, "physical_cores")
    yield "Physical cores", _UNKNOWN if cores is None else count(cores)
    yield "Memory", _memory(hardware, "ram_bytes", "ram_available_bytes", "available")
    limit_bytes = _number(hardware, "ram_limit_bytes")
    if limit_bytes is not None:
        yield "Memory limit", f"{size(limit_bytes)} ({hardware.get('ram_limit_source') or 'source unknown'})"
    if _number(hardware, "shm_total_bytes") is not None:
        yield "/dev/shm", _memory(hardware, "shm_total_bytes", "shm_free_bytes", "free")
    yield "Open files", _open_files(hardware)
    rank, ranks, local = (_number(hardware, name) for name in ("rank", "world_size", "local_world_size"))
    if rank is not None and ranks is not None and local is not None and ranks > 1:
        yield "Rank", f"{count(rank)} of {count(ranks)}, {count(local)} on this node"
    devices = Counter(f"{one.get('name', _UNKNOWN)} ({one.get('kind', _UNKNOWN)})" for one in _accelerators(hardware))
    named = [f"{several} x {name}" if several > 1 else name for name, several in devices.items()]
    yield "Accelerators", ", ".join(named) or "none found"


def machine_notes(hardware: Mapping[str, Any]) -> list[str]:
    """What the probe found unreadable or odd."""
    return [str(note) for note in _list(hardware, "notes")]


def has_cuda(hardware: Mapping[str, Any]) -> bool:
    """Whether a CUDA device was found."""
    return any(one.get("kind") == "cuda" for one in _accelerators(hardware))


def _memory(hardware: Mapping[str, Any], total: str, free: str, word: str) -> str:
    total_bytes, free_bytes = _number(hardware, total), _number(hardware, free)
    if total_bytes is None:
        return _UNKNOWN
    return size(total_bytes) + ("" if free_bytes is None else f", {size(free_bytes)} {word}")


def _open_files(hardware: Mapping[str, Any]) -> str:
    names = ("open_file_limit", "open_file_hard_limit", "open_files")
    soft, hard, used = (_number(hardware, name) for name in names)
    if soft is None:
        return "no limit found"
    raisable = "" if hard is None or hard == soft else f", can be raised to {count(hard)}"
    return f"at most {count(soft)}{raisable}" + ("" if used is None else f", {count(used)} are open")


def _accelerators(hardware: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in _list(hardware, "accelerators") if isinstance(one, Mapping)]


def _list(hardware: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = hardware.get(name)
    return value if isinstance(value, (list, tuple)) else ()


def _number(hardware: Mapping[str, Any], name: str) -> float | None:
    value = hardware.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value
