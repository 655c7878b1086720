"""Fixtures that several test modules use."""

import gc
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

# Before torch is imported, here and in the processes that tests start: plans for training on the CPU count its
# threads, and with one of them the expected numbers are the same on every machine.
os.environ["OMP_NUM_THREADS"] = "1"

FakeRoot = Callable[..., Path]

TIMED = (
    *("test_monitor_truth.py", "test_rank_times.py", "test_ledger.py", "test_traps.py", "test_monitor_runs.py"),
    *(
        "test_fetch_probe.py",
        "test_tuner_ranks.py",
        "tuner/test_callback.py",
        "tuner/test_measurement.py",
        "tuner/test_search.py",
    ),
    *("test_foreign_loaders.py", "test_many_loaders.py", "test_preflight_real.py", "test_monitor_ranks.py"),
)
"""Files whose tests compare times, or take the machine's limits: nothing else should run beside them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs alone (``make test`` runs the others two at a time)."""
    for item in items:
        if item.path.as_posix().endswith(TIMED):
            item.add_marker("timed")


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


@pytest.fixture
def no_planned_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no loader of another test were alive: a library may hold on to the Trainer of a run that is over."""
    from lightning_fastdata.compat import lightning_loops  # not before the environment is set above

    gc.collect()
    for module, (original, _) in lightning_loops._checks.items():
        monkeypatch.setattr(module, "_worker_check", original)
    monkeypatch.setattr(lightning_loops, "_planned", {})
    monkeypatch.setattr(lightning_loops, "_checks", {})
