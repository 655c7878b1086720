"""Arrays on the device that trains: whether they go there, with the reason. Awaits a GPU: tested with fakes only."""

import torch

from lightning_fastdata.datamodules.array_dataset import ArrayDataset

__all__ = ["DEVICE_SHARE", "free_device_bytes", "place_arrays", "why_in_host_memory"]

DEVICE_SHARE = 0.25
"""Share of the free device memory that arrays may take. A guess: what gradients, the optimizer and activations will
need is not known when loaders are made."""


def free_device_bytes(device: torch.device) -> int | None:
    """Free memory of a device (bytes); the one place where a device is asked.

    Args:
        device: Any device.

    Returns:
        None where that is not known.
    """
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def place_arrays(arrays: ArrayDataset, device: torch.device | None, *, num_workers: int, pin_memory: bool) -> str:
    """Copy arrays to the device, or see that they are not there.

    Args:
        arrays: The dataset that holds them.
        device: The Trainer's device, or None without a Trainer.
        num_workers: Worker processes that the user asks for, in any split (count).
        pin_memory: Whether the user asks for page-locked batches, in any split.

    Returns:
        Where they are, and why, in words.
    """
    there = device is not None and arrays.is_on(device)  # they need no more of its memory then
    size, free = (0, 0) if there else (arrays.array_bytes, None if device is None else free_device_bytes(device))
    why = why_in_host_memory(device, size, free, num_workers=num_workers, pin_memory=pin_memory)
    if why is None and device is not None:
        try:
            arrays.move_to(device)
        except torch.OutOfMemoryError:  # free, but in pieces; or another process was faster
            why = f"{device} has no piece of {_gb(arrays.array_bytes)} free"
    if why is None:
        return f"on {device}"
    arrays.move_back()
    return f"in host memory: {why}"


def why_in_host_memory(
    device: torch.device | None, array_bytes: int, free_bytes: int | None, *, num_workers: int, pin_memory: bool
) -> str | None:
    """Why arrays stay in host memory.

    Args:
        device: The Trainer's device, or None without a Trainer.
        array_bytes: Size of the arrays (bytes).
        free_bytes: Free memory of the device (bytes); None where that is not known.
        num_workers: Worker processes that the user asks for, in any split (count).
        pin_memory: Whether the user asks for page-locked batches, in any split.

    Returns:
        The reason in words; None where they may be moved.
    """
    if device is None:
        return "without a Trainer the device is not known"
    if device.type == "cpu":
        return "the Trainer runs on the CPU"
    if num_workers:
        return f"num_workers={num_workers}: worker processes cannot read them on {device}"
    if pin_memory:
        return f"pin_memory=True: what is on {device} cannot be pinned"
    if free_bytes is None:
        return f"how much memory of {device} is free is not known"
    if array_bytes > DEVICE_SHARE * free_bytes:
        return (
            f"they take {_gb(array_bytes)}, more than {DEVICE_SHARE:.0%} of the {_gb(free_bytes)} that are free on"
            f" {device}"
        )
    return None


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
