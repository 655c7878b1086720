"""Fixtures that several test modules use."""

import gc
import multiprocessing
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

# Before torch is imported, here and in the processes that tests start: plans for training on the CPU count its
# threads, and with one of them the expected numbers are the same on every machine.
os.environ["OMP_NUM_THREADS"] = "1"

# Imported, it would ask the network for its newest release.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

# What a process of the start method "forkserver" need not import: programs (see programs.py), ranks and workers start
# in a fraction of a second. They know as little of the process that starts them as spawned ones.
multiprocessing.set_forkserver_preload(["torch", "lightning.pytorch", "torchvision.transforms.v2"])

FakeRoot = Callable[..., Path]

CGROUP_V2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


@pytest.fixture
def fake_root(tmp_path: Path) -> FakeRoot:
    """Build a made-up machine: ``probe(fake_root({"/sys/fs/cgroup/a/cpu.max": "..."}, cpus=8, cgroup="0::/a"), {})``.

    Every file has a sensible default that ``files`` replaces; the value None leaves it out.
    """
    root = tmp_path / "root"

    def build(
        files: Mapping[str, str | None] | None = None, *, cpus: int = 8, mask: str | None = None, cgroup: str = "0::/"
    ) -> Path:
        everything: dict[str, str | None] = {
            "/sys/devices/system/cpu/online": f"0-{cpus - 1}\n",
            "/proc/self/status": f"Name:\tpython\nPPid:\t0\nCpus_allowed_list:\t{mask or f'0-{cpus - 1}'}\n",
            "/proc/self/cgroup": f"{cgroup}\n",
            "/proc/self/mountinfo": CGROUP_V2,
            **(files or {}),
        }
        for name, text in everything.items():
            if text is not None:
                path = root / name.lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return root

    return build


@pytest.fixture(autouse=True)
def workers_for_cheap_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests load in microseconds, where "auto" would take no workers; one that is about that sets the share again."""
    from lightning_fastdata.planning import workers

    monkeypatch.setattr(workers, "CHEAP_SHARE", 0.0)


@pytest.fixture
def no_planned_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no loader of another test were alive: a library may hold on to the Trainer of a run that is over."""
    from lightning_fastdata.compat import lightning_loops  # not before the environment is set above

    gc.collect()
    for module, (original, _) in lightning_loops._checks.items():
        monkeypatch.setattr(module, "_worker_check", original)
    monkeypatch.setattr(lightning_loops, "_planned", {})
    monkeypatch.setattr(lightning_loops, "_checks", {})
