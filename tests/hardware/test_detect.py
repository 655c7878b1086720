"""The probe on made-up machines."""

import dataclasses
import json
import os

import pytest

from lightning_fastdata.hardware.detect import Accelerator, Hardware, Limit, probe

STEP = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
MPI = {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
BOUND_8 = {**STEP, "SLURM_CPUS_PER_TASK": "8"}
JOB_8 = {"SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "8"}
ONE_TASK = {"SLURM_STEP_TASKS_PER_NODE": "1"}
CPUSET = "/sys/fs/cgroup/job/cpuset.cpus.effective"
QUOTA_8 = {"/sys/fs/cgroup/job/cpu.max": "800000 100000", "/sys/fs/cgroup/job/task/x": ""}


def parent(own: str, launcher: str) -> dict[str, str]:
    """A process with mask ``own`` started by one with mask ``launcher``."""
    return {
        "/proc/self/status": f"PPid:\t77\nCpus_allowed_list:\t{own}\n",
        "/proc/77/status": f"PPid:\t1\nCpus_allowed_list:\t{launcher}\n",
    }


LEAST = [
    # files, mask, environment, usable CPUs, kind of the limit that binds
    ({}, None, {}, 32, "machine"),
    ({}, "0-3", {}, 4, "affinity"),
    ({"/sys/fs/cgroup/job/cpu.max": "150000 100000"}, None, {}, 1.5, "quota"),
    ({"/sys/fs/cgroup/job/cpu.max": "50000 100000"}, None, {}, 0.5, "quota"),
    ({"/sys/fs/cgroup/cpu.max": "50000 100000", "/sys/fs/cgroup/job/cpu.max": "max 100000"}, None, {}, 0.5, "quota"),
    ({"/sys/fs/cgroup/other/cpu.max": "50000 100000", "/sys/fs/cgroup/job/x": ""}, None, {}, 32, "machine"),
    ({"/sys/fs/cgroup/job/cpu.max": "6400000 100000"}, None, {}, 32, "machine"),
    ({CPUSET: "0-5"}, None, {}, 6, "cpuset"),
    ({}, None, {"SLURM_CPUS_PER_TASK": "8"}, 8, "scheduler"),
    ({}, "0-3", {"SLURM_CPUS_PER_TASK": "8"}, 4, "affinity"),
    ({}, None, {"SLURM_CPUS_PER_TASK": "64"}, 32, "machine"),
    ({}, None, {"LIGHTNING_FASTDATA_NUM_CPUS": "3"}, 3, "override"),
    ({}, "0-1", {"LIGHTNING_FASTDATA_NUM_CPUS": "48"}, 48, "override"),
    ({"/sys/fs/cgroup/job/cpu.max": "50000 100000"}, "0", {"LIGHTNING_FASTDATA_NUM_CPUS": "1.5"}, 1.5, "override"),
]


@pytest.mark.parametrize(("files", "mask", "environ", "usable", "kind"), LEAST)
def test_the_least_limit_binds_and_the_override_wins(files, mask, environ, usable, kind, fake_root):
    """The least of all limits decides; the override replaces them upwards and downwards."""
    hardware = probe(fake_root(files, cpus=32, mask=mask, cgroup="0::/job"), environ)
    assert hardware.usable_cpus == usable
    assert hardware.cpus_per_rank == usable
    assert hardware.binding_limit.kind == kind
    assert hardware.rank_binding_limit == hardware.binding_limit


def test_every_limit_is_kept(fake_root):
    """Limits that do not bind, and those that an override replaces, are all listed."""
    files = {"/sys/fs/cgroup/job/cpu.max": "6400000 100000", CPUSET: "0-7"}
    environ = {"SLURM_CPUS_PER_TASK": "4", "LIGHTNING_FASTDATA_NUM_CPUS": "3"}
    hardware = probe(fake_root(files, cpus=32, mask="0-7", cgroup="0::/job"), environ)
    assert [(limit.kind, limit.cpus, limit.source) for limit in hardware.cpu_limits] == [
        ("override", 3, "LIGHTNING_FASTDATA_NUM_CPUS=3"),
        ("machine", 32, "machine, CPUs 0-31 online"),
        ("affinity", 8, "affinity mask 0-7"),
        ("cpuset", 8, "cpuset 0-7 at /job"),
        ("quota", 64, "cgroup quota 6400000/100000 us at /job"),
        ("scheduler", 4, "SLURM_CPUS_PER_TASK=4"),
    ]


RANKS = [
    # name, files, mask, environment, what the Trainer says, whether the mask is shared, CPUs per rank
    ("one rank", {}, "0-7", {}, None, True, 8),
    ("Lightning's own ranks on the whole machine", {}, None, {}, 4, True, 8),
    ("Lightning's own ranks on a part of it", {}, "0-7", {}, 4, True, 2),
    ("torchrun shares its mask", parent("0-31", "0-31"), None, TORCHRUN, None, True, 8),
    ("taskset torchrun", parent("0-7", "0-7"), None, TORCHRUN, None, True, 2),
    ("torchrun with a binding", parent("0-7", "0-31"), None, TORCHRUN, None, False, 8),
    ("torchrun bound two by two", parent("0-15", "0-31"), None, TORCHRUN, 4, False, 8),
    ("mpirun unbound", parent("0-31", "0-31"), None, MPI, None, True, 8),
    ("mpirun bound", parent("8-15", "0-31"), None, MPI, None, False, 8),
    ("mpirun bound, launcher hidden", {CPUSET: "0-31"}, "8-15", MPI, None, False, 8),
    ("SLURM tasks bound", {}, "8-15", BOUND_8, None, False, 8),
    ("SLURM tasks bound, Trainer agrees", {}, "8-15", BOUND_8, 4, False, 8),
    ("SLURM tasks unbound", {}, None, BOUND_8, None, True, 8),
    ("SLURM tasks unbound on a larger node", {}, None, {**STEP, "SLURM_CPUS_PER_TASK": "4"}, None, True, 4),
    ("SLURM tasks bound, no size", {}, "8-15", {**STEP, "SLURM_CPUS_ON_NODE": "32"}, None, False, 8),
    ("SLURM tasks unbound, no size", {}, None, {**STEP, "SLURM_CPUS_ON_NODE": "32"}, None, True, 8),
    ("SLURM says it binds", {}, "8-15", {**STEP, "SLURM_CPU_BIND": "quiet,mask_cpu:0xff,0xff00"}, None, False, 8),
    ("SLURM says it does not", {}, "0-7", {**STEP, "SLURM_CPU_BIND": "quiet,none"}, None, True, 2),
    ("SLURM bound, variables of the job only", {}, "8-15", JOB_8, None, False, 8),
    ("one SLURM task that starts four ranks", {}, None, {**ONE_TASK, "SLURM_CPUS_PER_TASK": "32"}, 4, True, 8),
    ("torchrun in one SLURM task", parent("0-7", "0-7"), None, {**ONE_TASK, **TORCHRUN}, None, True, 2),
    ("quota above bound ranks", QUOTA_8, "8-15", BOUND_8, None, False, 2),
    ("quota above unbound ranks", QUOTA_8, None, {}, 4, True, 2),
    ("node's cpuset above bound ranks", {**parent("0-7", "0-31"), CPUSET: "0-15"}, None, TORCHRUN, None, False, 4),
    ("bound ranks in cpusets of their own", {**parent("0-7", "0-31"), CPUSET: "0-7"}, None, TORCHRUN, None, False, 8),
    ("override is divided", {}, "8-15", {**BOUND_8, "LIGHTNING_FASTDATA_NUM_CPUS": "6"}, None, False, 1.5),
    ("Python's count is per process", {}, None, {"PYTHON_CPU_COUNT": "4"}, 4, True, 4),
]


@pytest.mark.parametrize(
    ("files", "mask", "environ", "told", "shared", "per_rank"), [case[1:] for case in RANKS], ids=[c[0] for c in RANKS]
)
def test_cpus_per_rank_are_never_divided_twice(files, mask, environ, told, shared, per_rank, fake_root):
    """What ranks share is divided by their number; what each has for itself is not."""
    root = fake_root(files, cpus=32, mask=mask, cgroup="0::/job/task" if files is QUOTA_8 else "0::/job")
    hardware = probe(root, environ, local_world_size=told)
    assert hardware.cpus_per_rank == per_rank
    assert hardware.ranks_share_mask == shared


def test_the_limit_that_decides_for_a_rank_can_be_another(fake_root):
    """Own masks of 4 under a shared quota of 8: the mask bounds the process, the quota each of the four ranks."""
    environ = {**STEP, "SLURM_CPUS_PER_TASK": "4"}
    hardware = probe(fake_root(QUOTA_8, cpus=32, mask="4-7", cgroup="0::/job/task"), environ)
    assert (hardware.usable_cpus, hardware.binding_limit.kind) == (4, "affinity")
    assert (hardware.cpus_per_rank, hardware.rank_binding_limit.kind) == (2, "quota")


def test_a_hand_made_hardware_divides_a_mask_by_the_flag():
    """Without marks on the limits the flag alone says whether masks are divided."""
    mask = Limit("affinity mask 0-31", 32.0, "affinity")
    assert Hardware(cpu_limits=(mask,), local_world_size=4).cpus_per_rank == 8
    assert Hardware(cpu_limits=(mask,), local_world_size=4, ranks_share_mask=False).cpus_per_rank == 32


def test_kubernetes_without_a_limit_is_said(fake_root):
    """A pod with a request only has no quota: the figure may be too high, and a note says so."""
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert any("CPU request" in note for note in probe(fake_root(), environ).notes)
    limited = fake_root({"/sys/fs/cgroup/cpu.max": "200000 100000"})
    assert probe(limited, environ).notes == ()


def test_notes_of_every_reader_arrive(fake_root):
    """Unreadable files and garbled variables are all told."""
    files = {"/sys/fs/cgroup/cpu.max": "", "/sys/fs/cgroup/memory.max/x": ""}
    notes = "\n".join(probe(fake_root(files), {"NCPUS": "x", "SLURM_CPUS_PER_TASK": "y"}).notes)
    for part in ("cpu.max of the cgroup /", "memory.max could not be read", "NCPUS=x", "SLURM_CPUS_PER_TASK=y"):
        assert part in notes


def test_memory(fake_root):
    """Machine, limit and what is left are in bytes; what is left is the least of machine and cgroup."""
    files = {
        "/proc/meminfo": "MemTotal:       8000 kB\nMemFree:  1 kB\nMemAvailable:   6000 kB\n",
        "/sys/fs/cgroup/memory.max": "4096000",
        "/sys/fs/cgroup/memory.current": "2048000",
        "/sys/fs/cgroup/memory.stat": "inactive_file 1024000\n",
    }
    hardware = probe(fake_root(files), {})
    assert (hardware.ram_bytes, hardware.ram_limit_bytes) == (8000 * 1024, 4096000)
    assert hardware.ram_available_bytes == 4096000 - 2048000 + 1024000
    assert hardware.ram_limit_source == "cgroup memory limit 4096000 bytes at /"
    files["/proc/meminfo"] = "MemTotal: 8000 kB\nMemAvailable: 10 kB\n"  # a looser limit does not raise it
    assert probe(fake_root(files), {}).ram_available_bytes == 10 * 1024


OPEN_FILES = "Limit                     Soft Limit           Hard Limit           Units\nMax processes 1 2 processes\n"


@pytest.mark.parametrize(
    ("line", "soft", "hard"),
    [
        ("Max open files            1024                 524288               files", 1024, 524288),
        ("Max open files            1024                 unlimited            files", 1024, None),
        ("Max open files            unlimited            unlimited            files", None, None),
        ("Max open files", None, None),
        ("", None, None),
    ],
)
def test_open_file_limits(line, soft, hard, fake_root):
    """The soft and the hard limit are read; "unlimited" and a broken line are None."""
    hardware = probe(fake_root({"/proc/self/limits": f"{OPEN_FILES}{line}\n"}), {})
    assert (hardware.open_file_limit, hardware.open_file_hard_limit) == (soft, hard)


def test_shared_memory_is_measured_below_the_root(fake_root):
    """The file system of root/dev/shm is asked; without such a folder nothing is claimed."""
    assert probe(fake_root(), {}).shm_total_bytes is None
    hardware = probe(fake_root({"/dev/shm/x": ""}), {})
    assert hardware.shm_total_bytes is not None
    assert hardware.shm_free_bytes is not None
    assert 0 <= hardware.shm_free_bytes <= hardware.shm_total_bytes


def test_an_empty_root_is_survived(tmp_path):
    """With no file at all one CPU is assumed, everything else is unknown, and nothing of the real machine leaks in."""
    hardware = probe(tmp_path, {})
    assert hardware.usable_cpus == 1
    assert "1 is assumed" in hardware.notes[0]
    unknown = ("physical_cores", "ram_bytes", "ram_available_bytes", "ram_limit_bytes", "shm_free_bytes")
    assert all(getattr(hardware, name) is None for name in (*unknown, "open_file_limit", "open_file_hard_limit"))
    assert hardware.accelerators == ()


def test_to_dict_is_json_with_every_field(fake_root):
    """Every field and the derived figures survive a trip through JSON unchanged."""
    model = {"/proc/driver/nvidia/gpus/0/information": "Model: X\n"}
    hardware = probe(fake_root(model), {})
    plain = hardware.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert {field.name for field in dataclasses.fields(Hardware)} < set(plain)
    assert plain["usable_cpus"] == plain["cpus_per_rank"] == 8
    assert plain["binding_limit"] == plain["cpu_limits"][0]
    assert plain["accelerators"] == [{"kind": "cuda", "name": "X", "source": "/proc/driver/nvidia/gpus/0/information"}]


@pytest.mark.parametrize("kind", [Hardware, Limit, Accelerator])
def test_every_field_is_documented(kind):
    """Each field of the nouns has a line of its own below it that says unit and meaning."""
    import inspect

    source = inspect.getsource(kind)
    for field in dataclasses.fields(kind):
        after = source.split(f"\n    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.strip().startswith('"""'), field.name


def test_the_real_machine():
    """On the machine that runs the tests the figures are sane and agree with the system calls."""
    hardware = probe(environ={})
    assert 0 < hardware.usable_cpus <= (os.cpu_count() or 1)
    assert hardware.ram_bytes is not None
    assert hardware.ram_available_bytes is not None
    assert 0 < hardware.ram_available_bytes <= hardware.ram_bytes
    if hasattr(os, "sched_getaffinity"):
        masks = [limit.cpus for limit in hardware.cpu_limits if limit.kind == "affinity"]
        assert masks == [len(os.sched_getaffinity(0))]
    resource = pytest.importorskip("resource")
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert hardware.open_file_limit == (None if soft == resource.RLIM_INFINITY else soft)
