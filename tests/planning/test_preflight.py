"""What workers take against what is free: the arithmetic, the resource_caps, and whole made-up machines."""

import random

import pytest

from lightning_fastdata.hardware.detect import Hardware, Limit, probe
from lightning_fastdata.planning.options import LoaderOptions, Workload
from lightning_fastdata.planning.plan import make_plan
from lightning_fastdata.planning.preflight import MOST, Pool, preflight, resource_caps

MIB, GIB = 2**20, 2**30


def machine(**changes):
    return Hardware(cpu_limits=(Limit("8 CPUs", 8.0, "machine"),), **changes)


ROOMY = {"shm_free_bytes": 8 * GIB, "ram_available_bytes": 64 * GIB, "open_file_limit": 1024, "open_files": 24}


def demands(pool, other=None, **changes):
    return {demand.name: demand for demand in preflight(machine(**{**ROOMY, **changes}), pool, other)}


def test_the_arithmetic_of_one_pool():
    """4 x 3 batches of 100 MiB and 10 tensors from workers of 200 MiB, pinned."""
    known = Pool(4, 3, batch_bytes=100 * MIB, tensors_per_batch=10, worker_bytes=200 * MIB, pin_memory=True)
    found = demands(known)
    assert (found["shm"].needed, found["shm"].free) == (1200 * MIB, 8 * GIB)
    assert found["ram"].needed == 4 * 200 * MIB + 12 * 2 * 100 * MIB, "a batch lies in /dev/shm and page-locked"
    assert (found["files"].needed, found["files"].free) == (4 * 8 + 12 * 10, 1000)
    assert (found["shm"].least, found["ram"].least, found["files"].least) == (1200 * MIB, 2000 * MIB, 4 * 4 + 10)
    assert found["shm"].line == "/dev/shm: 1.2 GiB expected (12 batches under way x 100 MiB), 15% of the 8.0 GiB free"
    assert {demand.verdict for demand in found.values()} == {"fits"}


def test_what_is_assumed_is_said_and_never_fatal():
    """Of a pool of which nothing is known only the workers' pipes are sure."""
    found = demands(Pool(1000, 4, batch_size=64))
    assert found["shm"].needed == 4000 * 64 * 3 * 224 * 224 * 4
    assert "36.8 MiB assumed" in found["shm"].expected
    assert "512 MiB assumed" in found["ram"].expected
    assert "4 assumed" in found["files"].expected
    assert [found[name].least for name in ("shm", "ram", "files")] == [0, 0, 4000]
    assert [found[name].fatal for name in ("shm", "ram", "files")] == [False, False, True]
    assert found["shm"].verdict == "too much"
    assert "too much: enlarge it with docker run --shm-size=8g" in found["shm"].line


@pytest.mark.parametrize(("free", "verdict"), [(200, "fits"), (199, "near"), (100, "near"), (99, "too much")])
def test_the_verdict(free, verdict):
    """Half of what is free is the border of near; all of it that of too much."""
    found = demands(Pool(1, 1, batch_bytes=100), shm_free_bytes=free)["shm"]
    assert (found.verdict, found.fatal) == (verdict, verdict == "too much")
    assert ("--shm-size" in found.line) == (verdict != "fits")


def test_two_pools_are_expected_together_and_sure_alone():
    """Unless both are known to be full at once, only the one in question is sure."""
    one, two = Pool(2, 2, batch_bytes=10 * MIB), Pool(1, 2, batch_bytes=30 * MIB)
    apart = demands(one, two)["shm"]
    assert (apart.needed, apart.least) == (100 * MIB, 40 * MIB)
    together = preflight(machine(**ROOMY), one, two, filled_together=True)[0]
    assert (together.needed, together.least) == (100 * MIB, 100 * MIB)


def test_memory_of_dev_shm_is_charged_to_the_memory_limit():
    """/dev/shm with 8 GiB in a container of 1: memory ends first, and is the fatal one."""
    found = demands(Pool(8, 4, batch_bytes=64 * MIB), ram_available_bytes=GIB)
    assert [name for name, demand in found.items() if demand.fatal] == ["ram"]
    assert [name for name, demand in found.items() if demand.verdict != "fits"] == ["ram"]


def test_what_is_not_known_is_left_out():
    """Outside Linux /dev/shm tells nothing; then nothing is claimed."""
    assert preflight(machine(), Pool(1000, 100, batch_bytes=GIB)) == ()
    assert resource_caps(machine(), Pool(1, 1, batch_bytes=GIB)).workers(2) == resource_caps(
        machine(), Pool(1, 1)
    ).prefetch(3)
    assert resource_caps(machine(), Pool(1, 1)).workers(2).most == MOST


def test_an_empty_limit():
    """Nothing free is not divided by."""
    found = demands(Pool(1, 1, batch_bytes=MIB), shm_free_bytes=0)["shm"]
    assert found.fatal
    assert "far more than all of the 0 MiB free" in found.line


def test_caps_say_what_limits():
    """Half of what is free, for this pool after the other one, and the sentence with the flag."""
    hardware = machine(shm_free_bytes=64 * MIB, ram_available_bytes=64 * GIB, open_file_limit=1024)
    most = resource_caps(hardware, Pool(1, 1, batch_bytes=4 * MIB, tensors_per_batch=2, worker_bytes=100 * MIB))
    assert (most.workers(2).most, most.workers(2).name) == (4, "shm")
    assert "64 MiB free in /dev/shm, a batch is 4 MiB: enlarge it with docker run --shm-size" in most.workers(2).reason
    assert [most.prefetch(workers).most for workers in (1, 2, 8, 9)] == [8, 4, 1, 0]
    beside = resource_caps(hardware, Pool(1, 1, batch_bytes=4 * MIB), Pool(2, 2, batch_bytes=4 * MIB))
    assert beside.workers(2).most == 2
    assert resource_caps(hardware, Pool(1, 1, batch_bytes=4 * MIB), shared_by=2).workers(2).most == 2


def test_what_caps_allow_fits():
    """For any machine: the most workers fit with that prefetch, and one more would not; the same for the prefetch."""
    generator = random.Random(6)
    for _ in range(2000):
        ranks = generator.choice([1, 2, 8])
        hardware = machine(
            local_world_size=ranks,
            shm_free_bytes=generator.choice([64 * MIB, GIB, 100 * GIB]),
            ram_available_bytes=generator.choice([GIB, 8 * GIB, 512 * GIB]),
            open_file_limit=generator.choice([256, 1024, 65536]),
            open_files=generator.choice([None, 30]),
        )
        load = {
            "batch_bytes": generator.choice([1, MIB, 77 * MIB]),
            "tensors_per_batch": generator.choice([0, 2, 50]),
            "worker_bytes": generator.choice([0, 50 * MIB, GIB]),
            "pin_memory": generator.random() < 0.5,
        }
        other = generator.choice([None, Pool(2, 2, batch_bytes=MIB)])
        most, given = resource_caps(hardware, Pool(1, 1, **load), other), generator.choice([1, 2, 5])

        def fits(workers, prefetch, hardware=hardware, load=load, other=other):
            found = preflight(hardware, Pool(workers, prefetch, **load), other)
            return {demand.verdict for demand in found} == {"fits"}

        workers, prefetch = most.workers(given).most, most.prefetch(given).most
        other_fits = fits(0, 1)
        assert not workers or fits(workers, given)
        assert not prefetch or fits(given, prefetch)
        assert workers == MOST or not other_fits or not fits(workers + 1, given)
        assert prefetch == MOST or not other_fits or not fits(given, prefetch + 1)


# Whole machines, made up (a folder stands for "/"): what test_preflight_real.py does with the kernel's own limits where
# control groups can be made.


def test_a_made_up_memory_limit(fake_root):
    """A limit of 2 GiB of which 300 MiB are used: one worker, and the user's 18 batches of 160 MiB are refused."""
    files = {
        "/sys/fs/cgroup/memory.max": str(2 * GIB),
        "/sys/fs/cgroup/memory.current": str(300 * MIB),
        "/sys/fs/cgroup/memory.stat": "inactive_file 0\n",
        "/sys/fs/cgroup/memory.events": "low 0\noom 3\noom_kill 2\n",
        "/proc/meminfo": "MemTotal: 33554432 kB\nMemAvailable: 30000000 kB\nSwapFree: 0 kB\n",
    }
    hardware = probe(fake_root(files), {})
    assert (hardware.oom_kills, hardware.swap_free_bytes) == (2, 0)
    plan = make_plan(LoaderOptions(), hardware, Workload(batch_bytes=160 * MIB))
    assert (plan.num_workers, plan.prefetch_factor) == (1, 2)
    with pytest.raises(Exception, match=r"memory would have to hold 2\.8 GiB"):
        make_plan(LoaderOptions(num_workers=6, prefetch_factor=3), hardware, Workload(batch_bytes=160 * MIB))
