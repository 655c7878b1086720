"""machine.affinity: the mask, OpenMP's shrinking of it, physical cores."""

import os

import pytest

from lightning_fastdata.hardware import affinity
from lightning_fastdata.hardware.limits import CpuSet
from lightning_fastdata.hardware.sysfiles import SystemFiles

CPUSET = CpuSet(frozenset(range(16)), "cpuset 0-15 at /pod")


def status(mask: str) -> str:
    return f"Name:\tpython\nCpus_allowed_list:\t{mask}\n"


def test_mask_is_read_from_proc(fake_root):
    """The affinity mask is that of /proc/self/status below the root."""
    mask = affinity.read_mask(SystemFiles(fake_root(mask="0-2,7")), {}, None)
    assert mask == CpuSet(frozenset({0, 1, 2, 7}), "affinity mask 0-2,7")


@pytest.mark.parametrize("text", [None, "Name:\tpython\n", "Cpus_allowed_list:\tall\n", ""])
def test_no_mask_below_a_made_up_root(text, fake_root):
    """Without a usable mask nothing of the real machine is asked."""
    assert affinity.read_mask(SystemFiles(fake_root({"/proc/self/status": text})), {}, None) is None


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity here")
def test_the_system_call_is_asked_where_proc_is_missing(monkeypatch):
    """On a real machine without /proc the system call answers."""
    files = SystemFiles("/")
    monkeypatch.setattr(files, "read", lambda name: None)
    mask = affinity.read_mask(files, {}, None)
    assert mask is not None
    assert mask.cpus == os.sched_getaffinity(0)


@pytest.mark.parametrize("name", ["OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY", "GOMP_CPU_AFFINITY"])
def test_a_mask_shrunk_by_openmp_is_seen_through(name, fake_root):
    """One CPU under an OpenMP binding: the wider mask of another thread is what the process has; a note says so."""
    threads = {"/proc/self/task/1/status": status("3"), "/proc/self/task/2/status": status("0-7")}
    files = SystemFiles(fake_root(threads, mask="3"))
    mask = affinity.read_mask(files, {name: "close"}, CPUSET)
    assert mask is not None
    assert len(mask.cpus) == 8
    assert mask.source == "affinity mask 0-7 of another thread"
    assert files.notes[0].startswith(f"{affinity.OPENMP_NOTE} ({name}=close) has moved this process onto CPU 3")


def test_the_cpuset_answers_where_no_thread_kept_its_mask(fake_root):
    """With every thread bound to one CPU the CPU set of the cgroup tells what was given."""
    files = SystemFiles(fake_root({"/proc/self/task/1/status": status("3")}, mask="3"))
    mask = affinity.read_mask(files, {"OMP_PROC_BIND": "true"}, CPUSET)
    assert mask == CpuSet(CPUSET.cpus, "cpuset 0-15 at /pod, the mask before the OpenMP binding", taken=True)


@pytest.mark.parametrize(
    ("mask", "environ"),
    [
        ("3", {}),
        ("3", {"OMP_PROC_BIND": "false"}),
        ("3", {"KMP_AFFINITY": "disabled"}),
        ("2-3", {"OMP_PROC_BIND": "1"}),
    ],
)
def test_a_small_mask_without_openmp_is_believed(mask, environ, fake_root):
    """Without a binding, or with more than one CPU, the mask is what somebody wanted."""
    files = SystemFiles(fake_root({"/proc/self/task/2/status": status("0-7")}, mask=mask))
    found = affinity.read_mask(files, environ, CPUSET)
    assert found is not None
    assert found.source == f"affinity mask {mask}"
    assert files.notes == []


def test_one_cpu_under_openmp_with_nothing_wider(fake_root):
    """A container of one CPU stays one CPU, whatever OpenMP's variables say."""
    files = SystemFiles(fake_root(mask="3"))
    found = affinity.read_mask(files, {"OMP_PROC_BIND": "true"}, CpuSet(frozenset({3}), "cpuset 3 at /"))
    assert found == CpuSet(frozenset({3}), "affinity mask 3")
    assert files.notes == []


def topology(siblings: dict[int, str], name: str = "thread_siblings_list") -> dict[str, str]:
    return {f"/sys/devices/system/cpu/cpu{cpu}/topology/{name}": text for cpu, text in siblings.items()}


SMT = {0: "0,4", 1: "1,5", 2: "2,6", 3: "3,7", 4: "0,4", 5: "1,5", 6: "2,6", 7: "3,7"}


@pytest.mark.parametrize(
    ("mask", "files", "cores"),
    [
        ("0-7", topology(SMT), 4),
        ("0-3", topology(SMT), 4),
        ("0,4", topology(SMT), 1),
        ("0-1", topology({0: "0", 1: "1"}, "core_cpus_list"), 2),
        ("0-1", topology({0: "0"}), None),
        ("0-1", topology({0: "0", 1: "garbage"}), None),
        ("0-1", {}, None),
    ],
)
def test_physical_cores_within_the_mask(mask, files, cores, fake_root):
    """Threads of one core count once, CPUs outside the mask not at all; an incomplete topology is unknown."""
    system = SystemFiles(fake_root(files, mask=mask))
    assert affinity.count_physical_cores(system, affinity.read_mask(system, {}, None)) == cores


@pytest.mark.parametrize(
    ("files", "cpus", "source"),
    [
        ({}, 8, "machine, CPUs 0-7 online"),
        ({"/sys/devices/system/cpu/online": "0,2-3"}, 3, "machine, CPUs 0,2-3 online"),
        ({"/sys/devices/system/cpu/online": None}, 1, "machine, 1 CPU assumed"),
    ],
)
def test_size_of_the_machine(files, cpus, source, fake_root):
    """The machine's CPUs come from /sys, then /proc; one CPU is assumed where nothing tells."""
    system = SystemFiles(fake_root(files))
    limit = affinity.read_machine(system)
    assert (limit.cpus, limit.source, limit.kind) == (cpus, source, "machine")
    assert bool(system.notes) == ("assumed" in source)
