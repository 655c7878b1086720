"""All ranks of a run decide from the same figures: each gives its own, all get all of them, by one collective."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from lightning_fastdata.hardware import Hardware
from lightning_fastdata.trials import Probe
from lightning_fastdata.tune.live import Window, merged

__all__ = ["Machine", "agreed_probe", "agreed_window", "machine_of", "with_machine"]

_PROBE = (
    *("batches", "batch_s", "batch_cpu_s", "batch_s_cv", "handoff_s", "batch_bytes", "batch_tensors", "worker_bytes"),
    *("start_s", "disk_bytes", "kept_waiting_share"),
)
_COUNTS = ("batches", "batch_bytes", "batch_tensors", "worker_bytes", "disk_bytes")
_WINDOW = ("batches", "step_s", "step_s_error", "exposed_s", "cpu_s", "load_s", "handoff_s")


class Machine(NamedTuple):
    """What the ranks of a run have to agree on of their machines: the least of each."""

    cpus: float
    """CPUs of a rank (count)."""
    shm_free_bytes: float
    """Free shared memory (bytes); infinite where it is not known."""
    ram_available_bytes: float
    """Available memory (bytes); infinite where it is not known."""
    open_file_limit: float
    """Open files (count); infinite where there is no limit."""


def machine_of(hardware: Hardware) -> Machine:
    """A rank's own machine."""
    known = (hardware.shm_free_bytes, hardware.ram_available_bytes, hardware.open_file_limit)
    return Machine(hardware.cpus_per_rank, *(math.inf if value is None else float(value) for value in known))


def with_machine(hardware: Hardware, machine: Machine) -> Hardware:
    """The figures that all ranks agreed on, in the place of a rank's own; ``cpus`` are for the caller to use."""

    def bound(value: float) -> int | None:
        return None if math.isinf(value) else int(value)

    return replace(
        hardware,
        shm_free_bytes=bound(machine.shm_free_bytes),
        ram_available_bytes=bound(machine.ram_available_bytes),
        open_file_limit=bound(machine.open_file_limit),
    )


def agreed_probe(trainer: Any, probe: Probe | None, machine: Machine) -> tuple[Probe | None, Machine]:
    """The slowest rank's probe and the smallest machine, or no probe where one rank has none.

    Args:
        trainer: The Trainer; with several ranks, all must call this at the same point.
        probe: This rank's; None = it could not be measured.
        machine: This rank's.
    """
    own = [float("nan")] * len(_PROBE) if probe is None else [_number(getattr(probe, name)) for name in _PROBE]
    rows = _gathered(trainer, [float(probe is not None), *own, *machine])
    least = Machine(*(min(column) for column in list(zip(*rows, strict=True))[1 + len(_PROBE) :]))
    if probe is None or not all(row[0] for row in rows):
        return None, least
    largest: dict[str, Any] = {}
    for place, name in enumerate(_PROBE, start=1):
        known = [row[place] for row in rows if not math.isnan(row[place])]
        value = max(known, default=None)
        largest[name] = int(value) if value is not None and name in _COUNTS else value
    return Probe(**largest), least


def agreed_window(trainer: Any, window: Window | None, elapsed_s: float) -> tuple[Window | None, float]:
    """The window of all ranks together, or none where one rank has none; and the longest time that it took.

    Args:
        trainer: The Trainer; with several ranks, all must call this at the same point.
        window: This rank's; None = too few steps, or not measured.
        elapsed_s: How long this rank's has taken so far (s).
    """
    own = [float("nan")] * len(_WINDOW) if window is None else [_number(getattr(window, name)) for name in _WINDOW]
    rows = _gathered(trainer, [float(window is not None), elapsed_s, *own])
    longest = max(row[1] for row in rows)
    if not all(row[0] for row in rows):
        return None, longest
    windows = []
    for row in rows:
        values: dict[str, Any] = dict(zip(_WINDOW, row[2:], strict=True))
        values["batches"] = int(values["batches"])
        values["load_s"] = None if math.isnan(values["load_s"]) else values["load_s"]
        windows.append(Window(**values))
    return merged(windows), longest


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _gathered(trainer: Any, values: Sequence[float]) -> list[list[float]]:
    """The values of every rank."""
    if trainer.world_size == 1:
        return [list(values)]
    own = torch.tensor(values, dtype=torch.float64, device=trainer.strategy.root_device)
    rows: list[list[float]] = trainer.strategy.all_gather(own).reshape(trainer.world_size, len(values)).tolist()
    return rows
