"""Which accelerators this process can use, known from files and variables alone.

Neither torch nor a driver library is asked: a process that has initialized CUDA can no longer fork its workers.
"""

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lightning_fastdata.hardware.sysfiles import SystemFiles, parse_fields, parse_int, plain

__all__ = ["Accelerator", "find_accelerators"]

_NVIDIA = "/proc/driver/nvidia/gpus"
_DRM = "/sys/class/drm"
_INTEL_DISCRETE = ((0x0B69, 0x0B69), (0x0BD0, 0x0BE5), (0x5690, 0x56C2), (0xE200, 0xE223))
"""PCI ids of Intel's Data Center Max, Arc A and Flex, and Arc B; integrated graphics are never claimed."""


@dataclass(frozen=True)
class Accelerator:
    """One device that a model can be trained on."""

    kind: Literal["cuda", "mps", "xpu"]
    """What torch calls the device type."""

    name: str
    """The model's name, for people."""

    source: str
    """Where it was seen."""


def find_accelerators(files: SystemFiles, environ: Mapping[str, str]) -> tuple[Accelerator, ...]:
    """The accelerators left to this process after ``CUDA_VISIBLE_DEVICES``."""
    return (*_find_cuda(files, environ), *_find_xpu(files), *_find_mps(files))


def _find_cuda(files: SystemFiles, environ: Mapping[str, str]) -> tuple[Accelerator, ...]:
    gpus = []
    for slot in files.names(_NVIDIA):
        source = f"{_NVIDIA}/{slot}/information"
        text = files.read(source)
        if text is not None:
            fields = parse_fields(text)
            name = plain(fields.get("Model", "") or "NVIDIA GPU", 100)
            gpus.append((fields.get("GPU UUID", ""), Accelerator("cuda", name, plain(source))))
    # /proc shows the machine's GPUs in every container, also where none was handed in.
    if gpus and files.exists("/dev/null") and not files.exists("/dev/nvidiactl"):
        files.note(
            f"The machine has {len(gpus)} NVIDIA GPU(s), but /dev/nvidiactl is missing: none was handed in here."
        )
        return ()
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(gpu for _, gpu in gpus)
    return _visible(files, gpus, visible)


def _visible(files: SystemFiles, gpus: list[tuple[str, Accelerator]], visible: str) -> tuple[Accelerator, ...]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` names.

    As in CUDA, the first entry that names none ends the list, and a GPU named twice leaves none at all.
    """
    chosen: list[Accelerator] = []
    for entry in (part.strip() for part in visible.split(",")):
        gpu = _named(gpus, entry)
        if gpu is None or gpu in chosen:
            if entry not in ("", "-1"):
                files.note(f"CUDA_VISIBLE_DEVICES={plain(visible, 100)}: {plain(entry, 60)} names no further GPU here.")
            return () if gpu in chosen else tuple(chosen)
        chosen.append(gpu)
    return tuple(chosen)


def _named(gpus: list[tuple[str, Accelerator]], entry: str) -> Accelerator | None:
    if entry.startswith("MIG-"):
        slice_name = f"slice {plain(entry, 60)} of an NVIDIA GPU"
        return Accelerator("cuda", slice_name, "CUDA_VISIBLE_DEVICES") if gpus else None
    if entry.startswith("GPU-"):
        matches = [gpu for uuid, gpu in gpus if uuid.startswith(entry)]
        return matches[0] if len(matches) == 1 else None
    index = parse_int(entry)
    return gpus[index][1] if index is not None and 0 <= index < len(gpus) else None


def _find_xpu(files: SystemFiles) -> tuple[Accelerator, ...]:
    """Intel's discrete GPUs by driver and PCI id; what may be integrated graphics is left out."""
    devices = []
    for card in files.names(_DRM):
        if not card.removeprefix("card").isdecimal():
            continue
        source = f"{_DRM}/{card}/device/uevent"
        fields = parse_fields(files.read(source), separator="=")
        vendor, _, device = fields.get("PCI_ID", "").partition(":")
        if vendor.upper() == "8086" and fields.get("DRIVER") in ("xe", "i915") and _is_discrete(device):
            devices.append(Accelerator("xpu", f"Intel GPU {plain(device, 10)}", source))
    return tuple(devices)


def _is_discrete(device: str) -> bool:
    try:
        number = int(device, 16)
    except ValueError:
        return False
    return any(first <= number <= last for first, last in _INTEL_DISCRETE)


def _find_mps(files: SystemFiles) -> tuple[Accelerator, ...]:
    if files.is_real and sys.platform == "darwin" and platform.machine() == "arm64":
        return (Accelerator("mps", "Apple GPU", "macOS on arm64"),)
    return ()
