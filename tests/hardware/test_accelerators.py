"""machine.accelerators: devices told from files and variables."""

import shutil
import subprocess
import sys

import pytest

from lightning_fastdata.hardware.accelerators import find_accelerators
from lightning_fastdata.hardware.sysfiles import SystemFiles

GPUS = {
    f"/proc/driver/nvidia/gpus/0000:0{slot}:00.0/information": (
        f"Model: \t\t NVIDIA {model}\nIRQ:   \t\t 77\nGPU UUID: \t GPU-{uuid}\nVideo BIOS: \t ??.??.??.??.??\n"
    )
    for slot, model, uuid in ((1, "A", "aa11"), (2, "B", "bb22"), (3, "C", "ab33"))
}


@pytest.mark.parametrize(
    ("visible", "names", "noted"),
    [
        (None, "ABC", False),
        ("", "", False),
        ("-1", "", False),
        ("0", "A", False),
        ("2,0", "CA", False),
        ("0,-1,2", "A", False),
        ("0,9,1", "A", True),
        ("1,1", "", True),
        ("0,,1", "A", False),
        ("GPU-bb22", "B", False),
        ("GPU-b", "B", False),
        ("GPU-a", "", True),
        ("nonsense", "", True),
    ],
)
def test_visible_nvidia_gpus(visible, names, noted, fake_root):
    """CUDA_VISIBLE_DEVICES chooses by number and id as CUDA does: a wrong entry ends the list, a double empties it."""
    files = SystemFiles(fake_root(GPUS))
    found = find_accelerators(files, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert "".join(gpu.name.removeprefix("NVIDIA ") for gpu in found) == names
    assert all(gpu.kind == "cuda" for gpu in found)
    assert bool(files.notes) == noted


def test_a_mig_slice_is_one_device_where_there_is_a_gpu(fake_root):
    """A leftover variable on a machine without GPUs claims nothing."""
    environ = {"CUDA_VISIBLE_DEVICES": "MIG-1234"}
    assert find_accelerators(SystemFiles(fake_root()), environ) == ()
    (found,) = find_accelerators(SystemFiles(fake_root(GPUS)), environ)
    assert (found.kind, found.name) == ("cuda", "slice MIG-1234 of an NVIDIA GPU")


@pytest.mark.parametrize(("device", "count"), [({}, 0), ({"/dev/nvidiactl": ""}, 3)])
def test_gpus_that_were_not_handed_in(device, count, fake_root):
    """A container sees the machine's GPUs in /proc also where it has none: /dev decides, and a note says so."""
    files = SystemFiles(fake_root({**GPUS, "/dev/null": "", **device}))
    assert len(find_accelerators(files, {})) == count
    assert bool(files.notes) == (count == 0)


@pytest.mark.parametrize(
    ("uevent", "count"),
    [
        ("DRIVER=xe\nPCI_ID=8086:E20B\n", 1),
        ("DRIVER=i915\nPCI_ID=8086:56C0\n", 1),
        ("DRIVER=i915\nPCI_ID=8086:0BD5\n", 1),
        ("DRIVER=i915\nPCI_ID=8086:9A49\n", 0),
        ("DRIVER=vfio-pci\nPCI_ID=8086:E20B\n", 0),
        ("DRIVER=amdgpu\nPCI_ID=1002:E20B\n", 0),
        ("garbage", 0),
        ("DRIVER=xe\nPCI_ID=8086:what\n", 0),
    ],
)
def test_intel_gpus(uevent, count, fake_root):
    """Intel's discrete GPUs under Intel's drivers count; integrated graphics are not claimed."""
    files = SystemFiles(
        fake_root({"/sys/class/drm/card0/device/uevent": uevent, "/sys/class/drm/card0-DP-1/device/uevent": uevent})
    )
    assert [found.kind for found in find_accelerators(files, {})] == ["xpu"] * count


def test_a_made_up_root_has_no_apple_gpu(fake_root, monkeypatch):
    """Below another root the real machine's platform is not asked."""
    monkeypatch.setattr("lightning_fastdata.hardware.accelerators.sys.platform", "darwin")
    monkeypatch.setattr("lightning_fastdata.hardware.accelerators.platform.machine", lambda: "arm64")
    assert find_accelerators(SystemFiles(fake_root()), {}) == ()
    assert [found.kind for found in find_accelerators(SystemFiles("/"), {"CUDA_VISIBLE_DEVICES": ""})] == ["mps"]


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA GPU")
def test_the_real_gpus_are_found_as_torch_finds_them():
    """On a machine with CUDA the same number of devices is seen as torch sees, without initialising CUDA."""
    code = (
        "from lightning_fastdata.hardware.detect import probe; n = len(probe().accelerators); import torch; "
        "assert not torch.cuda.is_initialized(); print(n, torch.cuda.device_count())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours, theirs = result.stdout.split()
    assert int(theirs) >= 1
    assert ours == theirs
