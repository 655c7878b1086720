"""What the control groups of this process allow: CPU quota, CPU set and memory, on every level above it.

A group is bound by its own limits and by those of all its ancestors, so every file is read on the whole chain from
the process's own group up to the top of what is mounted, in cgroup v1, v2 and both at once (hybrid). The kernel binds
a controller to one hierarchy only, hence reading both interfaces never counts a limit twice.
"""

from collections.abc import Collection
from dataclasses import dataclass

from lightning_fastdata.hardware.limits import CpuSet, Limit
from lightning_fastdata.hardware.sysfiles import SystemFiles, parse_cpu_list, parse_fields, parse_int, plain

__all__ = [
    "Groups",
    "Level",
    "MemoryLimit",
    "locate",
    "read_cpu_quotas",
    "read_cpuset",
    "read_memory_limit",
    "read_oom_kills",
]

_MOUNTINFO_MAX_BYTES = 1 << 20  # a container host lists thousands of mounts
_MAX_DEPTH = 64
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 says "no limit" with the largest number of whole pages


@dataclass(frozen=True)
class Level:
    """One group on the way from the process's own group to the top."""

    directory: str
    """The folder that holds its files, below the root."""

    name: str
    """Its path in the hierarchy, for people."""

    is_v2: bool
    """Whether its files follow cgroup v2."""


@dataclass(frozen=True)
class Groups:
    """The groups that bind this process, per controller; own group first, then its ancestors."""

    cpu: tuple[Level, ...] = ()
    """Where CPU quotas are set."""

    cpuset: tuple[Level, ...] = ()
    """Where CPU sets are set."""

    memory: tuple[Level, ...] = ()
    """Where memory limits are set."""


@dataclass(frozen=True)
class MemoryLimit:
    """The memory that the groups of this process still allow."""

    limit_bytes: int
    """The tightest limit of all levels, bytes."""

    source: str
    """Where it was read, with the value, for people."""

    available_bytes: int
    """The least room left under any level's limit, bytes; file cache that can be dropped at once counts as room."""


@dataclass(frozen=True)
class _Mount:
    root: str
    point: str
    is_v2: bool
    controllers: frozenset[str]


def locate(files: SystemFiles) -> Groups:
    """Find the groups of this process from ``/proc/self/cgroup`` and ``/proc/self/mountinfo``.

    The mount's root field is honored: in a container the mount often shows only the container's own group, and the
    path in ``/proc/self/cgroup`` starts with that root, or, without a cgroup namespace, cannot be found below the
    mount at all. In the last case the top of the mount is taken for the own group, and a note says so.
    """
    own_paths = _read_own_paths(files)
    mounts = _read_mounts(files)

    def chain(controller: str) -> tuple[Level, ...]:
        unified = _best_chain(files, [m for m in mounts if m.is_v2], own_paths.get("", "/"))
        v1_mounts = [m for m in mounts if controller in m.controllers]
        return unified + _best_chain(files, v1_mounts, own_paths.get(controller, "/"))

    return Groups(cpu=chain("cpu"), cpuset=chain("cpuset"), memory=chain("memory"))


def read_cpu_quotas(files: SystemFiles, groups: Groups) -> tuple[Limit, ...]:
    """Every CPU quota on the chain, own group first; a level without one is left out."""
    limits = []
    for level in groups.cpu:
        quota = _read_quota(files, level)
        if quota is not None:
            quota_us, period_us = quota
            source = f"cgroup quota {quota_us}/{period_us} us at {plain(level.name)}"
            limits.append(Limit(source, quota_us / period_us, "quota"))
    return tuple(limits)


def read_cpuset(files: SystemFiles, groups: Groups) -> CpuSet | None:
    """The CPUs of the nearest level that names any; its ancestors' sets are already worked into it."""
    for level in groups.cpuset:
        names = ("cpuset.cpus.effective",) if level.is_v2 else ("cpuset.effective_cpus", "cpuset.cpus")
        for name in names:
            text = files.read(f"{level.directory}/{name}")
            if not text:  # an empty cgroup v1 set is inherited
                continue
            cpus = parse_cpu_list(text)
            if cpus is None:
                _note_garbage(files, level, name, text)
                continue
            return CpuSet(cpus, f"cpuset {text} at {plain(level.name)}")
    return None


def read_memory_limit(files: SystemFiles, groups: Groups) -> MemoryLimit | None:
    """The tightest hard memory limit on the chain, and the room left under all of them.

    ``memory.high`` is left out: above it the kernel slows a group down, it does not kill.
    """
    limits = [(limit, level) for level in groups.memory if (limit := _read_memory_max(files, level)) is not None]
    if not limits:
        return None
    limit_bytes, tightest = min(limits, key=lambda pair: pair[0])
    room_bytes = min(limit - _read_unreclaimable(files, level) for limit, level in limits)
    source = f"cgroup memory limit {limit_bytes} bytes at {plain(tightest.name)}"
    return MemoryLimit(limit_bytes, source, max(0, room_bytes))


def read_oom_kills(files: SystemFiles, groups: Groups) -> int | None:
    """Processes that the kernel has killed for want of memory in the own group; None where nothing counts them.

    Sources: ``oom_kill`` in cgroup v2's ``memory.events`` (which counts groups below as well) and in v1's
    ``memory.oom_control``.
    """
    for level in groups.memory:
        name = "memory.events" if level.is_v2 else "memory.oom_control"
        kills = _read_stat(files, f"{level.directory}/{name}").get("oom_kill")
        if kills is not None:
            return kills
    return None


def _read_own_paths(files: SystemFiles) -> dict[str, str]:
    """The own group per controller; the key "" is the unified hierarchy (cgroup v2)."""
    paths = {}
    for line in (files.read("/proc/self/cgroup") or "").splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3 and fields[2].startswith("/"):
            paths.update(dict.fromkeys(fields[1].split(","), fields[2]))
    return paths


def _read_mounts(files: SystemFiles) -> list[_Mount]:
    text = files.read("/proc/self/mountinfo", _MOUNTINFO_MAX_BYTES) or ""
    return [mount for line in text.splitlines() if (mount := _parse_mount(line)) is not None]


def _parse_mount(line: str) -> _Mount | None:
    """One line of mountinfo: ``31 23 0:28 ROOT POINT options ... - cgroup2 source superoptions``."""
    before, _, after = line.partition(" - ")
    fields, tail = before.split(" "), after.split(" ")
    if len(fields) < 6 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
        return None
    is_v2 = tail[0] == "cgroup2"
    controllers = frozenset() if is_v2 else frozenset(tail[2].split(","))
    return _Mount(_unescape(fields[3]), _unescape(fields[4]), is_v2, controllers)


def _unescape(field: str) -> str:
    # The backslash goes last, else "\134040" would become a blank.
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


def _best_chain(files: SystemFiles, mounts: Collection[_Mount], own: str) -> tuple[Level, ...]:
    """The chain through the mount that shows the own group; where several do, through the one with most ancestors."""
    candidates = [(mount, *found) for mount in mounts if (found := _below(files, mount, own)) is not None]
    if not candidates:
        if mounts:
            files.note(
                f"No mounted cgroup hierarchy shows the cgroup {plain(own)} of this process; limits may be missing."
            )
        return ()
    mount, parts, followed = min(candidates, key=lambda c: (not c[2], len(_parts(c[0].root))))
    levels = tuple(_level(mount, parts[:depth]) for depth in range(len(parts), -1, -1))
    if not followed:
        files.note(
            f"The cgroup {plain(own)} of this process is not visible below {plain(mount.point)}; "
            f"the limits of {plain(levels[0].name)} there are taken for its own."
        )
    return levels


def _below(files: SystemFiles, mount: _Mount, own: str) -> tuple[tuple[str, ...], bool] | None:
    """The way from the mount point down to the own group, and whether it is certain; None for a stranger's mount."""
    own_parts, root_parts = _parts(own), _parts(mount.root)
    if own_parts[: len(root_parts)] != root_parts:
        # "/../.." is a mount made outside our cgroup namespace: its top is an ancestor, the names between are hidden.
        return ((), False) if set(root_parts) == {".."} else None
    parts = own_parts[len(root_parts) :]
    if not parts or (".." not in parts and files.exists("/".join((mount.point, *parts)))):
        return parts, True
    return _nearest(files, mount, tuple(part for part in parts if part != "..")), False


def _nearest(files: SystemFiles, mount: _Mount, parts: tuple[str, ...]) -> tuple[str, ...]:
    """The most of ``parts`` that exists below the mount: its start where the mount is the true top, else its end."""
    if parts and files.exists(f"{mount.point}/{parts[0]}"):
        attempts = [parts[:length] for length in range(len(parts), 0, -1)]
    else:
        attempts = [parts[start:] for start in range(1, len(parts))]
    return next((attempt for attempt in attempts if files.exists("/".join((mount.point, *attempt)))), ())


def _level(mount: _Mount, parts: tuple[str, ...]) -> Level:
    name = "/" + "/".join((*_parts(mount.root), *parts))
    return Level("/".join((mount.point.rstrip("/"), *parts)), name, mount.is_v2)


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))[:_MAX_DEPTH]


def _read_quota(files: SystemFiles, level: Level) -> tuple[int, int] | None:
    """Quota and period, both positive, microseconds; None for no limit, and with a note for anything else."""
    name = "cpu.max" if level.is_v2 else "cpu.cfs_quota_us"
    text = files.read(f"{level.directory}/{name}")
    if text is None:
        return None
    fields = text.split() if level.is_v2 else [text, files.read(f"{level.directory}/cpu.cfs_period_us")]
    numbers = [parse_int(field) for field in fields]
    if fields[:1] == ["max"] or (not level.is_v2 and (numbers[0] or 0) < 0):  # "-1" is how v1 says "no limit"
        return None
    if len(numbers) == 2:
        quota_us, period_us = numbers
        if quota_us is not None and period_us is not None and quota_us > 0 and period_us > 0:
            return quota_us, period_us
    _note_garbage(files, level, name, text)
    return None


def _read_memory_max(files: SystemFiles, level: Level) -> int | None:
    name = "memory.max" if level.is_v2 else "memory.limit_in_bytes"
    text = files.read(f"{level.directory}/{name}")
    if text is None or text == "max":
        return None
    limit = parse_int(text)
    if limit == -1 and not level.is_v2:
        return None
    if limit is None or limit < 0:
        _note_garbage(files, level, name, text)
        return None
    return limit if limit < _UNLIMITED_BYTES else None


def _read_unreclaimable(files: SystemFiles, level: Level) -> int:
    """Bytes in use that the kernel cannot drop at once; 0 where the usage cannot be read.

    Inactive file cache can be dropped, except the pages that wait to be written to disk.
    """
    used = parse_int(files.read(f"{level.directory}/" + ("memory.current" if level.is_v2 else "memory.usage_in_bytes")))
    if used is None:
        files.note(f"The memory in use by the cgroup {plain(level.name)} could not be read; taken as 0.")
        return 0
    stat = _read_stat(files, f"{level.directory}/memory.stat")
    if level.is_v2:
        inactive, waiting = stat.get("inactive_file", 0), stat.get("file_dirty", 0) + stat.get("file_writeback", 0)
    else:
        inactive = stat.get("total_inactive_file", 0)
        waiting = stat.get("total_dirty", 0) + stat.get("total_writeback", 0)
    return max(0, used - max(0, inactive - waiting))


def _read_stat(files: SystemFiles, name: str) -> dict[str, int]:
    """The lines ``key value`` of a file; a line that is not of that form is left out."""
    numbers = {key: parse_int(value) for key, value in parse_fields(files.read(name), " ").items()}
    return {key: max(0, number) for key, number in numbers.items() if number is not None}


def _note_garbage(files: SystemFiles, level: Level, name: str, text: str) -> None:
    says = f"says {plain(ascii(text), 60)}" if text else "is empty"
    files.note(f"{name} of the cgroup {plain(level.name)} {says}, which is no limit that can be used; it was left out.")
