"""All ranks of a run decide from the same figures: one collective gathers them."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch

from lightning_fastdata.callbacks.tuner.throughput_model import Setting
from lightning_fastdata.callbacks.tuner.window import Window, merged
from lightning_fastdata.hardware.detect import Hardware
from lightning_fastdata.results.tuning import Probe

__all__ = [
    "Machine",
    "WindowConsensus",
    "agreed_probe",
    "agreed_window",
    "all_can",
    "machine_of",
    "with_machine",
]

_PROBE = tuple(field.name for field in fields(Probe))
_COUNTS = ("batches", "batch_bytes", "batch_tensors", "worker_bytes", "disk_bytes")
_WINDOW = tuple(field.name for field in fields(Window))


class Machine(NamedTuple):
    """What the ranks of a run have to agree on of their machines and loaders."""

    cpus: float
    """CPUs of a rank (count)."""
    shm_free_bytes: float
    """Free shared memory (bytes); infinite where it is not known."""
    ram_available_bytes: float
    """Available memory (bytes); infinite where it is not known."""
    open_file_limit: float
    """Open files (count); infinite where there is no limit."""
    local_world_size: float
    """Ranks of the node (count)."""
    open_files: float
    """Files that are open (count)."""
    num_workers: float
    """Workers that the loader begins with (count)."""
    prefetch_factor: float
    """Batches that each of them prepares ahead (count)."""


_MOST = ("local_world_size", "open_files")
"""Of these the fullest node counts, of the others the least."""


def machine_of(hardware: Hardware, setting: Setting) -> Machine:
    """A rank's own machine and loader.

    Args:
        hardware: What it may use.
        setting: The workers that its loader begins with.
    """
    bounds = (hardware.shm_free_bytes, hardware.ram_available_bytes, hardware.open_file_limit)
    shm, ram, files = (math.inf if value is None else float(value) for value in bounds)
    ranks, open_files = hardware.local_world_size, hardware.open_files or 0
    return Machine(hardware.cpus_per_rank, shm, ram, files, ranks, open_files, *(value or 0 for value in setting))


def with_machine(hardware: Hardware, machine: Machine) -> Hardware:
    """The figures that all ranks agreed on instead of a rank's own; ``cpus`` are for the caller to use.

    Args:
        hardware: A rank's own.
        machine: What ``agreed_probe`` gave.
    """

    def bound(value: float) -> int | None:
        return None if math.isinf(value) else int(value)

    return replace(
        hardware,
        shm_free_bytes=bound(machine.shm_free_bytes),
        ram_available_bytes=bound(machine.ram_available_bytes),
        open_file_limit=bound(machine.open_file_limit),
        local_world_size=int(machine.local_world_size),
        open_files=None if hardware.open_files is None else int(machine.open_files),
    )


def agreed_probe(trainer: Any, probe: Probe | None, machine: Machine) -> tuple[Probe | None, Machine, bool]:
    """The slowest rank's probe and the smallest machine, or no probe where one rank has none.

    Args:
        trainer: The Trainer; with several ranks, all must call this at the same point.
        probe: This rank's; None = it could not be measured.
        machine: This rank's.

    Returns:
        Probe, machine, and whether the loaders of all ranks begin with the same workers.
    """
    own = [_number(getattr(probe, name, None)) for name in _PROBE]
    rows = _gathered(trainer, [float(probe is not None), *own, *machine])
    columns = list(zip(*rows, strict=True))
    machines = [Machine(*row[1 + len(_PROBE) :]) for row in rows]
    smallest = Machine(
        *((max if name in _MOST else min)(getattr(one, name) for one in machines) for name in Machine._fields)
    )
    alike = len({(one.num_workers, one.prefetch_factor) for one in machines}) == 1
    if probe is None or not all(columns[0]):
        return None, smallest, alike
    slowest: dict[str, Any] = {}
    for name, column in zip(_PROBE, columns[1:], strict=False):
        value = max((one for one in column if not math.isnan(one)), default=None)
        slowest[name] = int(value) if value is not None and name in _COUNTS else value
    return Probe(**slowest), smallest, alike


class WindowConsensus(NamedTuple):
    """The window that all ranks agree on."""

    window: Window | None
    """The merged window; None where a rank has none."""
    elapsed_s: float
    """The longest time that it took (s)."""
    failed: bool
    """Whether a rank cannot go on: then all stop."""


def agreed_window(trainer: Any, window: Window | None, elapsed_s: float, *, failed: bool = False) -> WindowConsensus:
    """The window of all ranks together.

    Args:
        trainer: The Trainer; with several ranks, all must call this at the same point.
        window: This rank's; None = too few steps, or not measured.
        elapsed_s: How long this rank's has taken so far (s).
        failed: Whether this rank cannot go on.
    """
    own = [_number(getattr(window, name, None)) for name in _WINDOW]
    rows = _gathered(trainer, [float(window is not None), elapsed_s, float(failed), *own])
    longest, stopped = max(row[1] for row in rows), any(row[2] for row in rows)
    if stopped or not all(row[0] for row in rows):
        return WindowConsensus(None, longest, stopped)
    windows = []
    for row in rows:
        values: dict[str, Any] = dict(zip(_WINDOW, row[3:], strict=True))
        values["batches"] = int(values["batches"])
        values["load_s"] = None if math.isnan(values["load_s"]) else values["load_s"]
        windows.append(Window(**values))
    return WindowConsensus(merged(windows), longest, failed=False)


def all_can(trainer: Any, can: bool) -> bool:
    """Whether every rank can do what was decided.

    Args:
        trainer: The Trainer; with several ranks, all must call this at the same point.
        can: Whether this one can.
    """
    return all(row[0] for row in _gathered(trainer, [float(can)]))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _gathered(trainer: Any, values: Sequence[float]) -> list[list[float]]:
    """The values of every rank."""
    if trainer.world_size == 1:
        return [list(values)]
    own = torch.tensor(values, dtype=torch.float64, device=trainer.strategy.root_device)
    rows: list[list[float]] = trainer.strategy.all_gather(own).reshape(trainer.world_size, len(values)).tolist()
    return rows
