"""The pre-flight against real limits of the kernel: what torch dies of, ours trains through or refuses beforehand.

Each case runs in a process of its own (preflight_cases.py) under a mount namespace, a ulimit or a control group. Where those
cannot be made the test is skipped with the reason; tests/test_preflight.py has the same limits on a made-up machine.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from lightning_fastdata.hardware import probe
from lightning_fastdata.machine import cgroups
from lightning_fastdata.machine.sysfiles import SystemFiles

pytestmark = pytest.mark.slow

MIB = 2**20
CASES = str(Path(__file__).with_name("preflight_cases.py"))


def run(case, *arguments, before=(), cpus="8", within=None):
    """Run a case in a new process on as many CPUs as it is told it has; ``within`` runs in it first."""
    environ = {**os.environ, "LIGHTNING_FASTDATA_NUM_CPUS": cpus} if cpus else {**os.environ}
    done = subprocess.run(
        [*before, sys.executable, "-W", "ignore", CASES, case, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environ,
        preexec_fn=within,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert found, f"ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return json.loads(found[0].removeprefix("RESULT "))


def test_a_small_dev_shm():
    """64 MiB, as Docker gives: 6 x 2 batches of 8 MiB do not fit."""
    small = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh"]
    try:
        tried = subprocess.run([*small, "true"], capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"no mount namespace can be made here: {error}")
    if tried.returncode:
        pytest.skip(f"no mount namespace can be made here: {tried.stderr.strip()}")
    found = run("shm", before=small)
    assert found["free"] == 64 * MIB
    assert found["torch"]["type"] == "RuntimeError", found["torch"]
    assert found["undeclared"]["type"] == "WorkerDiedError", found["undeclared"]
    assert found["undeclared"]["cause"] == "RuntimeError"
    assert "/dev/shm was full" in found["undeclared"]["says"]
    assert "--shm-size" in found["undeclared"]["says"]
    auto = found["auto"]
    assert auto["seen"] == 40
    assert (auto["num_workers"], auto["prefetch_factor"]) == (4, 1), "half of 64 MiB"
    assert "64 MiB free in /dev/shm" in auto["reasons"]["num_workers"]
    assert "32 MiB expected (4 batches under way x 8 MiB), 50% of the 64 MiB free" in auto["tight"][0]
    refused = found["refused"]
    assert "num_workers=6 with prefetch_factor=2" in refused["what"]
    assert "96 MiB (12 batches under way x 8 MiB)" in refused["what"]
    assert "64 MiB" in refused["expected"]
    assert "--shm-size" in refused["fix"]


def test_few_open_files():
    """``ulimit -n 256``: with one slow batch, 30 others of 8 tensors wait for it in the training process."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = run("files", cpus="64", within=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)))
    assert found["torch"]["type"] in ("RuntimeError", "OSError"), found["torch"]
    assert found["ours"]["type"] == "WorkerDiedError", found["ours"]
    assert "open files was reached" in found["ours"]["says"]
    assert "raise ulimit -n" in found["ours"]["says"]
    auto = found["auto"]
    assert auto["seen"] == 200
    assert auto["num_workers"] == (256 - found["open"]) // 2 // 12 < 16
    assert auto["prefetch_factor"] == 1
    assert "raise ulimit -n" in auto["reasons"]["num_workers"]
    assert "320 (80 workers x 4" in found["refused"]["what"]
    assert "ulimit -n" in found["refused"]["fix"]


@contextmanager
def group_below(levels, controller):
    """A control group of our own below the one we are in, so that no limit above is left."""
    hands_on = [
        level
        for level in levels
        if not level.is_v2 or controller in Path(level.directory, "cgroup.subtree_control").read_text().split()
    ]
    if not hands_on:
        pytest.skip(f"no control group of ours hands the {controller} controller on to groups below it")
    group = Path(hands_on[0].directory, f"lightning-fastdata-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no {controller} control group can be made here: {error}")
    try:
        yield group
    finally:
        for _ in range(100):  # the last process may still be on its way out
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.05)


def test_a_memory_limit():
    """2 GiB for the control group: 6 x 2 batches of 160 MiB lie in /dev/shm, whose pages are charged to it."""
    machine = probe()
    if machine.ram_available_bytes is None or machine.ram_available_bytes < 4096 * MIB or machine.swap_free_bytes:
        pytest.skip("needs 4 GiB of memory and a machine without swap, where what is too much would only be slow")
    if machine.shm_free_bytes is None or machine.shm_free_bytes < 3072 * MIB:
        pytest.skip("needs a /dev/shm with 3 GiB free, so that memory ends first")
    groups = cgroups.locate(SystemFiles())
    with group_below(groups.memory, "memory") as group:
        name = "memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes"
        (group / name).write_text(str(2048 * MIB))
        found = run("ram", within=lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
    assert found["limit"] == 2048 * MIB
    assert found["undeclared"]["type"] == "WorkerDiedError", found["undeclared"]
    assert "the kernel has killed" in found["undeclared"]["says"]
    assert "for want of memory (cgroup memory limit" in found["undeclared"]["says"]
    assert "--memory" in found["undeclared"]["says"]
    auto = found["auto"]
    assert auto["seen"] == 24
    assert auto["num_workers"] == 1, "512 MiB for a worker, and its batches, within half of what is left"
    assert "of memory available" in auto["reasons"]["num_workers"]
    assert "1.9 GiB (6 workers x 0 MiB + 12 batches under way x 160 MiB)" in found["refused"]["what"]
    assert "--memory" in found["refused"]["fix"]


def test_a_cpu_quota():
    """A quota of 1 and of 0.5: nothing dies of it, so nothing is refused; "auto" takes no worker and trains."""
    with group_below(cgroups.locate(SystemFiles()).cpu, "cpu") as group:
        found = run("cpu", str(group), cpus=None)
    for cpus, seen in found.items():
        assert seen["usable"] == float(cpus)
        assert seen["auto"]["num_workers"] == 0
        assert "cgroup quota" in seen["auto"]["reasons"]["num_workers"]
        assert seen["auto"]["seen"] == 20
        assert seen["own"] == {"type": "whole", "says": "20"}, "the user's own two workers only take turns"
