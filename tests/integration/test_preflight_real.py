"""The pre-flight against real limits of the kernel: what torch dies of, ours trains through or refuses beforehand.

All cases run in one process beside this one (preflight_cases.py) under a mount namespace, a ulimit and control groups.
Where one of those cannot be made, its test is skipped with the reason. Made-up machines: planning/test_preflight.py.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_fastdata.hardware import cgroups
from lightning_fastdata.hardware.detect import probe
from lightning_fastdata.hardware.sysfiles import SystemFiles

pytestmark = [pytest.mark.slow, pytest.mark.timed]

MIB = 2**20
CASES = str(Path(__file__).with_name("preflight_cases.py"))


class CannotBeMadeError(Exception):
    """A limit that this machine, or its user's rights, do not allow; the text says why."""


@pytest.fixture(scope="module")
def result():
    """What a case found, by its name; skips where its limit cannot be made."""
    cases, reasons = {"files": ()}, {}
    with contextlib.ExitStack() as stack:
        before = []
        try:
            before = own_mounts()
            cases["shm"] = ()
        except CannotBeMadeError as error:
            reasons["shm"] = str(error)
        for case, controller in (("ram", "memory"), ("cpu", "cpu")):
            try:
                if case == "ram":
                    room_for_two_gib()
                group = stack.enter_context(group_below(controller))
                cases[case] = (str(group),)
                if case == "ram":
                    v1 = group / "memory.limit_in_bytes"
                    (v1 if v1.exists() else group / "memory.max").write_text(str(2048 * MIB))
            except CannotBeMadeError as error:
                reasons[case] = str(error)
        command = [*before, sys.executable, "-W", "ignore", CASES, json.dumps(cases)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    found = {each["case"]: each for each in map(json.loads, lines)}

    def look_up(case):
        if case in reasons:
            pytest.skip(reasons[case])
        assert case in found, f"ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return found[case]

    return look_up


def own_mounts():
    """The command that gives a program mounts of its own."""
    command = ["unshare", "--mount"]
    try:
        tried = subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise CannotBeMadeError(f"no mount namespace can be made here: {error}") from error
    if tried.returncode:
        raise CannotBeMadeError(f"no mount namespace can be made here: {tried.stderr.strip()}")
    return command


def room_for_two_gib():
    machine = probe()
    if machine.ram_available_bytes is None or machine.ram_available_bytes < 4096 * MIB or machine.swap_free_bytes:
        raise CannotBeMadeError("needs 4 GiB of memory and a machine without swap, where too much would only be slow")
    if machine.shm_free_bytes is None or machine.shm_free_bytes < 3072 * MIB:
        raise CannotBeMadeError("needs a /dev/shm with 3 GiB free, so that memory ends first")


@contextlib.contextmanager
def group_below(controller):
    """A control group below the one we are in, so that no limit above is left."""
    levels = getattr(cgroups.locate(SystemFiles()), controller)
    own = [level for is_v2 in (False, True) for level in [each for each in levels if each.is_v2 is is_v2][:1]]
    usable = [level for level in own if not level.is_v2 or hands_on(level, controller)]
    if not usable:
        raise CannotBeMadeError(f"our control group does not hand the {controller} controller on to groups below it")
    group = Path(usable[0].directory, f"lightning-fastdata-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        raise CannotBeMadeError(f"no {controller} control group can be made here: {error}") from error
    try:
        yield group
    finally:
        for _ in range(100):  # the last process may still be on its way out
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.05)


def hands_on(level, controller):
    return controller in Path(level.directory, "cgroup.subtree_control").read_text().split()


def test_a_small_dev_shm(result):
    """64 MiB, as Docker gives: 6 x 2 batches of 8 MiB do not fit."""
    found = result("shm")
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
    assert "32 MiB expected (4 batches under way x 8 MiB), 50% of the 64 MiB free" in auto["warnings"][0]
    refused = found["refused"]
    assert "num_workers=6 with prefetch_factor=2" in refused["what"]
    assert "96 MiB (12 batches under way x 8 MiB)" in refused["what"]
    assert "64 MiB" in refused["expected"]
    assert "--shm-size" in refused["fix"]


def test_few_open_files(result):
    """``ulimit -n 256``: with one slow batch, 30 others of 8 tensors wait for it in the training process."""
    found = result("files")
    assert found["torch"]["type"] in ("RuntimeError", "OSError"), found["torch"]
    assert found["ours"]["type"] == "WorkerDiedError", found["ours"]
    assert "open files was reached" in found["ours"]["says"]
    assert "raise ulimit -n" in found["ours"]["says"]
    auto = found["auto"]
    assert auto["seen"] == 200
    assert auto["num_workers"] == (256 - found["open"]) // 2 // (8 + 8) < 16, "eight tensors, as the rehearsal counted"
    assert auto["prefetch_factor"] == 1
    assert "raise ulimit -n" in auto["reasons"]["num_workers"]
    assert "320 (80 workers x 4" in found["refused"]["what"]
    assert "ulimit -n" in found["refused"]["fix"]


def test_a_memory_limit(result):
    """2 GiB for the control group: 6 x 2 batches of 160 MiB lie in /dev/shm, whose pages are charged to it."""
    found = result("ram")
    assert found["limit"] == 2048 * MIB
    assert found["undeclared"]["type"] == "WorkerDiedError", found["undeclared"]
    assert "the kernel has killed" in found["undeclared"]["says"]
    assert "for want of memory (cgroup memory limit" in found["undeclared"]["says"]
    assert "--memory" in found["undeclared"]["says"]
    auto = found["auto"]
    assert auto["seen"] == 6
    assert auto["num_workers"] == 1, "512 MiB for a worker, and its batches, within half of what is left"
    assert "of memory available" in auto["reasons"]["num_workers"]
    assert "2.8 GiB (6 workers x 0 MiB + 18 batches under way x 160 MiB)" in found["refused"]["what"]
    assert "--memory" in found["refused"]["fix"]


def test_a_cpu_quota(result):
    """A quota of 1 and of 0.5: nothing dies of it, so nothing is refused; "auto" takes no worker and trains."""
    found = result("cpu")
    for cpus in ("1.0", "0.5"):
        seen = found[cpus]
        assert seen["usable"] == float(cpus)
        assert seen["auto"]["num_workers"] == 0
        assert "cgroup quota" in seen["auto"]["reasons"]["num_workers"]
        assert seen["auto"]["seen"] == 20
        assert seen["own"] == {"type": "whole", "says": "20"}, "the user's own two workers only take turns"
