"""The end of a worker, explained by what the machine counted."""

import errno
from dataclasses import replace

import pytest

from lightning_fastdata.hardware.detect import Hardware, Limit
from lightning_fastdata.loaders.worker_crash import WorkerDiedError, diagnose_crash

MIB = 2**20
BEFORE = Hardware(
    cpu_limits=(Limit("8 CPUs", 8.0, "machine"),),
    ram_limit_source="cgroup memory limit 536870912 bytes at /pod",
    shm_free_bytes=60 * MIB,
    shm_total_bytes=64 * MIB,
    open_file_limit=256,
    oom_kills=2,
)
KILLED = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
GONE = RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly")
BUS = RuntimeError("DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's ...")
NO_ROOM = RuntimeError(
    "Caught RuntimeError ...\nunable to allocate shared memory(shm) for file </torch_1>: No space left"
)
ANCDATA = RuntimeError("received 0 items of ancdata")
TOO_MANY = RuntimeError("Too many open files. Communication with the workers is no longer possible.")


@pytest.mark.parametrize(
    ("error", "changes", "words", "fix"),
    [
        (
            KILLED,
            {"oom_kills": 3},
            "killed 1 process of this cgroup for want of memory (cgroup memory limit",
            "--memory",
        ),
        (GONE, {"oom_kills": 4}, "killed 2 processes", "fewer workers"),
        (GONE, {"shm_free_bytes": 2 * MIB}, "/dev/shm was full (2 MiB of 64 MiB free now)", "--shm-size"),
        (BUS, {}, "/dev/shm was full (60 MiB of 64 MiB free now)", "--shm-size"),
        (NO_ROOM, {}, "/dev/shm was full", "--shm-size"),
        (ANCDATA, {}, "the limit of 256 open files was reached", "ulimit -n"),
        (TOO_MANY, {"open_file_limit": None}, "the limit of 256 open files was reached", "ulimit -n"),
        (OSError(errno.EMFILE, "Too many open files"), {}, "256 open files", "ulimit -n"),
    ],
)
def test_what_the_counters_say(error, changes, words, fix):
    """The cause, the loader, torch's own words and the flag to change."""
    found = diagnose_crash(error, "num_workers=4, prefetch_factor=2", BEFORE, replace(BEFORE, **changes))
    assert isinstance(found, WorkerDiedError)
    assert isinstance(found, RuntimeError), "whoever catches torch's error catches this one"
    assert words in found.what
    assert "num_workers=4, prefetch_factor=2" in found.what
    assert str(error).strip().splitlines()[-1] in found.what
    assert fix in found.fix


@pytest.mark.parametrize(
    "error",
    [KILLED, GONE, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError(errno.ENOENT, "No such file")],
)
def test_what_nothing_explains_stays_torchs_own(error):
    """No counter rose and nothing is full: a guess would mislead."""
    assert diagnose_crash(error, "num_workers=4", BEFORE, BEFORE) is None
    assert diagnose_crash(error, "num_workers=4", None, replace(BEFORE, oom_kills=9)) is None
