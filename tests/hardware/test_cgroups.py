"""machine.cgroups: limits of the own group and all its ancestors, compared with the package proclimits."""

from pathlib import Path

import pytest
from proclimits import _cgroup as oracle

from lightning_fastdata.hardware import cgroups
from lightning_fastdata.hardware.sysfiles import SystemFiles

V2 = "30 23 0:26 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "31 23 0:27 {root} /sys/fs/cgroup/{c} rw - cgroup cgroup rw,{c}\n"


CONTROLLERS = ("cpu,cpuacct", "cpuset", "memory")


def mounts_v1(root: str = "/") -> str:
    return "".join(V1.format(root=root, c=controller) for controller in CONTROLLERS)


def _below(own: str, root: str) -> str:
    return own.removeprefix(root) if root != "/" else own


def v2_tree(own: str, levels: dict[str, str], root: str = "/") -> dict[str, str]:
    """A cgroup v2 machine: own group, and file contents by path below the mount."""
    return {
        "/proc/self/cgroup": f"0::{own}\n",
        "/proc/self/mountinfo": V2.format(root=root),
        "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu memory\n",
        **{f"/sys/fs/cgroup{name}": text for name, text in levels.items()},
    }


def v1_tree(own: str, levels: dict[str, str], root: str = "/", exists: bool = True) -> dict[str, str]:
    """A cgroup v1 machine: own group, and file contents by controller and path."""
    return {
        "/proc/self/cgroup": f"4:memory:{own}\n3:cpuset:{own}\n1:cpu,cpuacct:{own}\n",
        "/proc/self/mountinfo": mounts_v1(root),
        **{f"/sys/fs/cgroup/{c}{_below(own, root)}/tasks": "" for c in CONTROLLERS if exists},
        **{f"/sys/fs/cgroup{name}": text for name, text in levels.items()},
    }


def quota_v1(path: str, quota: str, period: str = "100000") -> dict[str, str]:
    folder = f"/cpu,cpuacct{path}"
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}


HYBRID = {
    "/proc/self/cgroup": "1:cpu,cpuacct:/job\n0::/user.slice\n",
    "/proc/self/mountinfo": mounts_v1() + "40 23 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
    "/sys/fs/cgroup/unified/user.slice/cgroup.procs": "1",
    "/sys/fs/cgroup/cpuset/tasks": "1",
    "/sys/fs/cgroup/memory/tasks": "1",
    "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "150000",
    "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
}

QUOTAS = {
    # name: (files, the least quota in CPUs or None)
    "own group": (v2_tree("/a", {"/a/cpu.max": "150000 100000"}), 1.5),
    "half a CPU": (v2_tree("/a", {"/a/cpu.max": "50000 100000\n"}), 0.5),
    "max is no limit": (v2_tree("/a", {"/a/cpu.max": "max 100000"}), None),
    "parent below own max": (v2_tree("/a/b", {"/a/cpu.max": "50000 100000", "/a/b/cpu.max": "max 100000"}), 0.5),
    "parent below own quota": (v2_tree("/a/b", {"/a/cpu.max": "100000 100000", "/a/b/cpu.max": "150000 100000"}), 1.0),
    "own below parent": (v2_tree("/a/b", {"/a/cpu.max": "400000 100000", "/a/b/cpu.max": "150000 100000"}), 1.5),
    "grandparent": (v2_tree("/a/b/c", {"/a/cpu.max": "200000 100000", "/a/b/c/cpu.max": "800000 100000"}), 2.0),
    "own group without the controller": (v2_tree("/a/b", {"/a/cpu.max": "100000 100000", "/a/b/x": ""}), 1.0),
    "a sibling does not count": (
        v2_tree(
            "/a/b", {"/a/b/cpu.max": "400000 100000", "/a/c/cpu.max": "100000 100000", "/c/cpu.max": "1000 100000"}
        ),
        4.0,
    ),
    "a child does not count": (v2_tree("/a", {"/a/cpu.max": "max 100000", "/a/b/cpu.max": "100000 100000"}), None),
    "namespace: own group is the mount's top": (v2_tree("/", {"/cpu.max": "200000 100000"}), 2.0),
    "mount shows the container only": (v2_tree("/docker/c", {"/cpu.max": "200000 100000"}, root="/docker/c"), 2.0),
    "group below what the mount shows": (
        v2_tree("/docker/c/app", {"/cpu.max": "300000 100000", "/app/cpu.max": "200000 100000"}, root="/docker/c"),
        2.0,
    ),
    "other period": (v2_tree("/a", {"/a/cpu.max": "25000 50000"}), 0.5),
    "v1 own group": (v1_tree("/a", quota_v1("/a", "150000")), 1.5),
    "v1 -1 is no limit": (v1_tree("/a", quota_v1("/a", "-1")), None),
    "v1 parent": (v1_tree("/a/b", quota_v1("/a", "100000") | quota_v1("/a/b", "-1")), 1.0),
    "v1 sibling": (v1_tree("/a/b", quota_v1("/a/c", "50000") | quota_v1("/a/b", "300000")), 3.0),
    "v1 container": (v1_tree("/docker/c", quota_v1("", "50000"), root="/docker/c"), 0.5),
    "hybrid": (HYBRID, 1.5),
    "nothing": ({"/proc/self/cgroup": "0::/\n", "/proc/self/mountinfo": ""}, None),
}

ONLY_OURS = {
    # The oracle finds nothing, or refuses to name any limit; the groups above still bind.
    "host path, container mounted as the top": (v2_tree("/docker/c", {"/cpu.max": "200000 100000"}), 2.0),
    "v1 host path, container mounted as the top": (v1_tree("/docker/c", quota_v1("", "50000"), exists=False), 0.5),
    "host path, subgroup of the container": (
        v2_tree("/docker/c/app", {"/cpu.max": "300000 100000", "/app/cpu.max": "200000 100000"}),
        2.0,
    ),
    "path out of the namespace": (v2_tree("/../../other", {"/cpu.max": "200000 100000"}), 2.0),
    "mount from above the namespace": (v2_tree("/", {"/cpu.max": "200000 100000"}, root="/../.."), 2.0),
    "own group gone, parent still there": (v2_tree("/a/b", {"/a/cpu.max": "100000 100000"}), 1.0),
    "empty file below a parent's quota": (v2_tree("/a/b", {"/a/cpu.max": "100000 100000", "/a/b/cpu.max": ""}), 1.0),
    "garbage below a parent's quota": (
        v2_tree("/a/b", {"/a/cpu.max": "100000 100000", "/a/b/cpu.max": "lots of"}),
        1.0,
    ),
}


def quotas_of(root: Path) -> tuple[list[float], list[str]]:
    files = SystemFiles(root)
    limits = cgroups.read_cpu_quotas(files, cgroups.locate(files))
    return [limit.cpus for limit in limits], files.notes


def ask_oracle(root: Path, monkeypatch: pytest.MonkeyPatch) -> float | None:
    """What proclimits says about the same tree: it knows no root, so its mount points are moved below ours."""
    mountinfo = root / "mountinfo-of-oracle"
    mountinfo.write_text((root / "proc/self/mountinfo").read_text().replace(" /sys/fs/", f" {root}/sys/fs/"))
    monkeypatch.setattr(oracle, "_PROC_SELF_CGROUP", root / "proc/self/cgroup")
    monkeypatch.setattr(oracle, "_PROC_SELF_MOUNTINFO", mountinfo)
    oracle.locate_controllers.cache_clear()
    try:
        quota = oracle.read_cpu().quota
    finally:
        oracle.locate_controllers.cache_clear()
    return None if quota is None else quota.cores


@pytest.mark.parametrize("name", QUOTAS)
def test_least_quota_of_all_levels(name, fake_root, monkeypatch):
    """The least quota of the own group and its ancestors is found, as the oracle finds it."""
    files, expected = QUOTAS[name]
    root = fake_root(files)
    quotas, notes = quotas_of(root)
    assert min(quotas, default=None) == expected
    assert notes == []
    assert ask_oracle(root, monkeypatch) == expected


@pytest.mark.parametrize("name", ONLY_OURS)
def test_quota_where_the_path_or_a_file_is_broken(name, fake_root, monkeypatch):
    """Where the oracle reports nothing, the limits that can be read still count, and a note says what is odd."""
    files, expected = ONLY_OURS[name]
    root = fake_root(files)
    quotas, notes = quotas_of(root)
    assert min(quotas, default=None) == expected
    assert len(notes) >= 1
    assert ask_oracle(root, monkeypatch) is None


def test_real_machine_agrees_with_the_oracle():
    """On the machine that runs the tests both find the same quota and the same memory limit."""
    files = SystemFiles("/")
    groups = cgroups.locate(files)
    oracle.locate_controllers.cache_clear()
    if files.notes:
        pytest.skip(f"this machine's cgroups are odd: {files.notes}")
    quotas = [limit.cpus for limit in cgroups.read_cpu_quotas(files, groups)]
    quota = oracle.read_cpu_quota()
    memory = cgroups.read_memory_limit(files, groups)
    assert min(quotas, default=None) == (None if quota is None else quota.cores)
    limit = oracle.read_memory().limit
    unlimited = limit is None or limit >= 1 << 60
    assert (None if memory is None else memory.limit_bytes) == (None if unlimited else limit)


@pytest.mark.parametrize(
    "text", ["", "max", "0 100000", "-1 100000", "100000 0", "100000", "a b", "1 2 3", "1e5 100000"]
)
def test_a_quota_file_that_says_nothing_usable(text, fake_root):
    """Empty and garbled files leave a note that names the group, never an error and never a number."""
    quotas, notes = quotas_of(fake_root(v2_tree("/a", {"/a/cpu.max": text})))
    assert quotas == []
    assert text == "max" or ("cpu.max of the cgroup /a" in notes[0] and len(notes) == 1)


def test_the_source_names_file_value_and_group(fake_root):
    """A limit is told with its numbers and with the group's own name, the mount's root included."""
    files = SystemFiles(fake_root(v2_tree("/pod/ctr", {"/cpu.max": "400000 100000"}, root="/pod/ctr")))
    (limit,) = cgroups.read_cpu_quotas(files, cgroups.locate(files))
    assert limit.source == "cgroup quota 400000/100000 us at /pod/ctr"
    assert limit.kind == "quota"


def test_every_level_is_listed_own_first(fake_root):
    """Quotas that do not bind are kept too, so that a person sees the whole chain."""
    levels = {"/a/cpu.max": "800000 100000", "/a/b/cpu.max": "200000 100000"}
    quotas, _ = quotas_of(fake_root(v2_tree("/a/b", levels)))
    assert quotas == [2.0, 8.0]


def test_a_strangers_mount_does_not_count(fake_root):
    """A mount of another container's group is no ancestor of ours; where it is the only one, that is said."""
    quotas, notes = quotas_of(fake_root(v2_tree("/pod/ours", {"/cpu.max": "100000 100000"}, root="/pod/other")))
    assert quotas == []
    assert "No mounted cgroup hierarchy shows the cgroup /pod/ours" in notes[0]


def test_the_mount_with_most_ancestors_is_used(fake_root):
    """With the own group mounted twice, the mount that also shows the ancestors is read."""
    tree = v2_tree("/pod/ctr", {"/cpu.max": "max 100000"}, root="/pod/ctr")
    tree["/proc/self/mountinfo"] += "50 23 0:26 / /host\\040groups rw - cgroup2 cgroup2 rw\n"
    tree["/host groups/pod/cpu.max"] = "200000 100000"
    tree["/host groups/pod/ctr/cpu.max"] = "max 100000"
    quotas, notes = quotas_of(fake_root(tree))
    assert quotas == [2.0]
    assert notes == []


CPUSETS = {
    "v2 effective": (v2_tree("/a", {"/a/cpuset.cpus.effective": "0-3\n"}), 4, "cpuset 0-3 at /a"),
    "v2 nearest level that has one": (v2_tree("/a/b", {"/a/cpuset.cpus.effective": "0-1", "/a/b/x": ""}), 2, "at /a"),
    "v1 effective first": (
        v1_tree("/a", {"/cpuset/a/cpuset.effective_cpus": "0-1", "/cpuset/a/cpuset.cpus": "0-7"}),
        2,
        "cpuset 0-1",
    ),
    "v1 without the effective file": (v1_tree("/a", {"/cpuset/a/cpuset.cpus": "2,4-5"}), 3, "cpuset 2,4-5 at /a"),
    "v1 empty is inherited": (
        v1_tree("/a/b", {"/cpuset/a/b/cpuset.cpus": "", "/cpuset/a/cpuset.cpus": "0-3"}),
        4,
        "at /a",
    ),
}


@pytest.mark.parametrize("name", CPUSETS)
def test_cpusets(name, fake_root):
    """The set of CPUs comes from the nearest level that names one."""
    tree, count, source = CPUSETS[name]
    files = SystemFiles(fake_root(tree))
    cpuset = cgroups.read_cpuset(files, cgroups.locate(files))
    assert cpuset is not None
    assert len(cpuset.cpus) == count
    assert source in cpuset.source


def test_a_garbled_cpuset_is_left_out(fake_root):
    """A set that is no list of CPUs leaves a note."""
    files = SystemFiles(fake_root(v2_tree("/a", {"/a/cpuset.cpus.effective": "all"})))
    assert cgroups.read_cpuset(files, cgroups.locate(files)) is None
    assert "cpuset.cpus.effective of the cgroup /a says" in files.notes[0]


def memory_v2(path: str, limit: str, current: int = 0, stat: str = "inactive_file 0") -> dict[str, str]:
    return {f"{path}/memory.max": limit, f"{path}/memory.current": str(current), f"{path}/memory.stat": stat}


def memory_v1(path: str, limit: str, usage: int, stat: str) -> dict[str, str]:
    folder = f"/memory{path}"
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": str(usage),
        f"{folder}/memory.stat": stat,
    }


MEMORY = {
    # name: (tree, limit_bytes, available_bytes); None: no limit
    "own limit": (v2_tree("/a", memory_v2("/a", "1000", 300)), 1000, 700),
    "max": (v2_tree("/a", memory_v2("/a", "max", 300)), None, None),
    "inactive file cache is room": (v2_tree("/a", memory_v2("/a", "1000", 600, "inactive_file 500")), 1000, 900),
    "cache that must be written first is not": (
        v2_tree("/a", memory_v2("/a", "1000", 600, "inactive_file 500\nfile_dirty 300\nfile_writeback 100")),
        1000,
        500,
    ),
    "tightest limit, but least room above": (
        v2_tree("/a/b", memory_v2("/a", "2000", 1950) | memory_v2("/a/b", "1000", 100)),
        1000,
        50,
    ),
    "a sibling does not count": (v2_tree("/a", memory_v2("/a", "1000") | memory_v2("/b", "10")), 1000, 1000),
    "above its limit": (v2_tree("/a", memory_v2("/a", "1000", 1200)), 1000, 0),
    "v1": (v1_tree("/a", memory_v1("/a", "1000", 600, "inactive_file 9\ntotal_inactive_file 200")), 1000, 600),
    "v1 unlimited is a huge number": (v1_tree("/a", memory_v1("/a", "9223372036854771712", 600, "")), None, None),
    "v1 parent": (
        v1_tree("/a/b", memory_v1("/a", "500", 100, "") | memory_v1("/a/b", "9223372036854771712", 100, "")),
        500,
        400,
    ),
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_limits(name, fake_root, monkeypatch):
    """The tightest limit and the least room of all levels, as the oracle finds them."""
    tree, limit_bytes, available_bytes = MEMORY[name]
    root = fake_root(tree)
    files = SystemFiles(root)
    memory = cgroups.read_memory_limit(files, cgroups.locate(files))
    found = (None, None) if memory is None else (memory.limit_bytes, memory.available_bytes)
    assert found == (limit_bytes, available_bytes)
    assert files.notes == []
    if "v1" in name:  # the oracle leaves the huge number in, and wants total_inactive_file everywhere
        return
    ask_oracle(root, monkeypatch)
    theirs = oracle.read_memory()
    assert (theirs.limit, theirs.available) == found


@pytest.mark.parametrize("text", ["", "-5", "a lot"])
def test_a_garbled_memory_limit_leaves_a_note(text, fake_root):
    """A memory limit that says nothing usable is left out, and that is said."""
    files = SystemFiles(fake_root(v2_tree("/a", memory_v2("/a", text))))
    assert cgroups.read_memory_limit(files, cgroups.locate(files)) is None
    assert "memory.max of the cgroup /a" in files.notes[0]


def test_a_limit_with_unknown_usage_counts_whole(fake_root):
    """Where only the limit can be read, all of it is taken as room, and a note says so."""
    files = SystemFiles(fake_root(v2_tree("/a", {"/a/memory.max": "1000"})))
    memory = cgroups.read_memory_limit(files, cgroups.locate(files))
    assert memory is not None
    assert memory.available_bytes == 1000
    assert "memory in use by the cgroup /a" in files.notes[0]


@pytest.mark.parametrize(
    ("cgroup", "mountinfo"),
    [("", ""), ("garbage", "garbage"), ("0::relative", "1 2 3 - cgroup2"), ("0:", " - "), ("0::/a\n" * 9, "\x00")],
)
def test_broken_tables_are_survived(cgroup, mountinfo, fake_root):
    """Broken /proc files yield no limit and no error."""
    root = fake_root({"/proc/self/cgroup": cgroup, "/proc/self/mountinfo": mountinfo})
    assert quotas_of(root) == ([], [])
