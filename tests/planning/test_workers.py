"""Worker counts: the cores first, then what shared memory, memory and open files allow."""

import math
import random
from dataclasses import replace

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware, Limit
from lightning_fastdata.planning import workers
from lightning_fastdata.planning.options import LoaderOptions, Pool, Rehearsed, Workload
from lightning_fastdata.planning.workers import decide_workers

MIB, GIB = 2**20, 2**30


def machine(cpus=8.0, **changes):
    return Hardware(cpu_limits=(Limit(f"quota of {cpus:g} CPUs", float(cpus), "quota"),), **changes)


def decide(cpus=8.0, options=None, **workload):
    hardware = cpus if isinstance(cpus, Hardware) else machine(cpus)
    return decide_workers(options or LoaderOptions(), hardware, Workload(**workload), "fork")


def test_cores_left_by_the_training_process_and_the_system():
    """One CPU is the training process's, half a one the system's, a process each for the rest, 16 at most."""
    workers = {0.1: 0, 1: 0, 1.4: 0, 1.5: 1, 2: 1, 2.5: 1, 3: 1, 3.5: 2, 4: 2, 5.5: 4, 8: 6, 128: 16}
    assert {cpus: decide(cpus).num_workers for cpus in workers} == workers


@pytest.mark.parametrize(("ranks", "workers"), [(1, 16), (2, 14), (4, 6), (8, 2), (16, 1), (32, 0)])
def test_ranks_divide_the_cores(ranks, workers):
    """32 CPUs for n ranks; every rank keeps its own CPU for training."""
    choice = decide(machine(32, local_world_size=ranks))
    assert choice.num_workers == workers
    assert ("one rank" if ranks == 1 else f"{ranks} ranks on this node") in choice.workers_reason.text


def test_the_reason_names_the_limit_that_binds_the_rank():
    """4 ranks with 10 CPUs each on one machine of 32: the machine's 8 per rank bind, not the 10."""
    own = Limit("10 CPUs for each task", 10.0, "scheduler", per_rank=True)
    hardware = Hardware(cpu_limits=(own, Limit("machine of 32", 32.0, "machine")), local_world_size=4)
    choice = decide(hardware)
    assert choice.num_workers == 6
    assert "8 usable cores (machine of 32, 4 ranks on this node)" in choice.workers_reason.text


@pytest.mark.parametrize("cpus", [0.5, 1, 1.5, 1.9, 2, 2.5, 3, 3.5, 4, 5, 5.5, 6, 7, 8, 9.5, 12, 17, 24, 33, 64, 256])
def test_training_and_validation_share_one_budget(cpus):
    """Both pools alive together never take more processes than cores that training does not need, nor than 16."""
    train = decide(cpus, split="train", concurrent_pool=True)
    val = decide(cpus, split="val", concurrent_pool=True)
    alone = decide(cpus, split="train")
    together = train.num_workers + val.num_workers
    assert together <= max(0 if cpus < 1.5 else 1, min(16, math.floor(cpus - 1)))
    assert train.num_workers <= alone.num_workers
    assert train.num_workers >= val.num_workers
    assert (train.num_workers > 0) == (cpus >= 1.5)


@pytest.mark.parametrize(("cpus", "train", "val"), [(2, 1, 0), (3, 1, 1), (5, 3, 1), (9, 6, 2), (24, 12, 4)])
def test_validation_gets_a_quarter(cpus, train, val):
    """Training is read all the time, validation now and then."""
    counts = [decide(cpus, split=split, concurrent_pool=True).num_workers for split in ("train", "val")]
    assert counts == [train, val]


def test_sharing_is_said():
    """Whoever gets fewer workers than alone reads why."""
    assert "16 workers shared with validation" in decide(24, split="train", concurrent_pool=True).workers_reason.text
    assert "7 workers shared with training" in decide(8, split="val", concurrent_pool=True).workers_reason.text
    nothing = decide(2, split="val", concurrent_pool=True)
    assert nothing.num_workers == 0
    assert "the one worker that fits serves training" in nothing.workers_reason.text


@pytest.mark.parametrize(
    ("cpus", "threads", "workers", "words"),
    [
        (4, None, 2, "1 kept for the training process"),
        (4, 1, 2, "1 kept for the training process"),
        (4, 2, 1, "2 kept for the threads that train on the CPU"),
        (4, 4, 0, r"torch.set_num_threads(2) before training would leave some for workers"),
        (2, 2, 0, r"torch.set_num_threads(1) before training would leave some for workers"),
        (1, 1, 0, "nothing to spare for workers"),
        (1, 4, 0, "nothing to spare for workers"),
        (16, 4, 11, "4 kept for the threads that train on the CPU, 0.5 left to the system"),
    ],
)
def test_threads_that_train_on_the_cpu_keep_their_cores(cpus, threads, workers, words):
    """All of torch's threads wait for the slowest, so a worker on the core of one slows them all."""
    choice = decide(cpus, training_threads=threads)
    assert choice.num_workers == workers
    assert words in choice.workers_reason.text


# Shared memory, memory and open files


@pytest.mark.parametrize(
    ("limits", "workload", "workers", "prefetch", "words"),
    [
        ({"shm_free_bytes": 64 * MIB}, {"batch_bytes": 16 * MIB}, 2, 1, "/dev/shm"),  # after the prefetch
        ({"shm_free_bytes": 64 * MIB}, {"batch_bytes": 40 * MIB}, 0, None, "/dev/shm"),  # the process loads itself
        ({"shm_free_bytes": 64 * GIB}, {"batch_bytes": 16 * MIB}, 4, 2, "usable cores"),  # it does not bind
        (
            {"ram_available_bytes": 4 * GIB, "cpus": 16},
            {"batch_bytes": 8 * MIB},
            3,
            2,
            "4.0 GiB of memory available, about 520 MiB per worker",
        ),
        ({"ram_available_bytes": 4 * GIB, "cpus": 16}, {"batch_bytes": MIB, "worker_bytes": 100 * MIB}, 14, 2, "cores"),
        ({"ram_available_bytes": 2 * GIB, "cpus": 2}, {"batch_bytes": 128 * MIB, "device_type": "cpu"}, 1, 4, ""),
        ({"ram_available_bytes": 2 * GIB, "cpus": 2}, {"batch_bytes": 128 * MIB, "device_type": "cuda"}, 1, 2, ""),
        ({"open_file_limit": 256, "cpus": 64}, {}, 10, 1, "256 more open files allowed, up to 12 per worker"),
        ({"open_file_limit": 256, "open_files": 100, "cpus": 64}, {}, 6, 1, "156 more open files"),
        ({"open_file_limit": 256, "local_world_size": 2, "cpus": 64}, {}, 10, 1, "256 more"),  # it is per process
    ],
)
def test_limits_lower_the_prefetch_then_the_workers(limits, workload, workers, prefetch, words):
    """Half of what is free is ours; a worker is assumed to take 512 MiB, and a pinned batch is in memory twice."""
    choice = decide(machine(**{"cpus": 5.5, **limits}), **workload)
    assert (choice.num_workers, choice.prefetch_factor) == (workers, prefetch)
    assert words in choice.workers_reason.text


# The user's values


def test_the_users_prefetch_is_kept_and_the_workers_give_way():
    """With prefetch_factor=4 of the user and room for 8 batches, two workers."""
    hardware = machine(16, shm_free_bytes=64 * MIB)
    choice = decide(hardware, LoaderOptions(prefetch_factor=4), batch_bytes=4 * MIB)
    assert (choice.num_workers, choice.prefetch_factor) == (2, 4)
    assert (choice.prefetch_reason.source, choice.workers_reason.source) == ("user", "hardware")


def test_fatal_shared_memory_of_the_user_is_refused():
    """8 workers x 4 x 8 MiB do not fit into 64 MiB; torch would end in a bus error."""
    options = LoaderOptions(num_workers=8, prefetch_factor=4)
    with pytest.raises(FastDataError) as caught:
        decide(machine(16, shm_free_bytes=64 * MIB), options, batch_bytes=8 * MIB)
    assert "num_workers=8 with prefetch_factor=4 for the train loader" in caught.value.what
    assert "/dev/shm would have to hold 256 MiB (32 batches under way x 8 MiB)" in caught.value.what
    assert caught.value.expected == "at most 64 MiB; more ends in a bus error."
    assert "--shm-size" in caught.value.fix


def test_the_user_may_fill_shared_memory_to_the_brim():
    """What fits is not refused, even where auto would take half; nor is a guess held against the user."""
    hardware = machine(16, shm_free_bytes=64 * MIB)
    options = LoaderOptions(num_workers=8, prefetch_factor=1)
    assert decide(hardware, options, batch_bytes=8 * MIB).num_workers == 8
    assert decide(hardware, LoaderOptions(num_workers=8), batch_size=512).num_workers == 8


def test_too_many_files_of_the_user_are_refused():
    """Each of 80 workers holds at least 4 files open in the training process: more than a limit of 256."""
    with pytest.raises(FastDataError, match=r"open files would have to hold 320 \(80 workers x 4") as caught:
        decide(machine(64, open_file_limit=256), LoaderOptions(num_workers=80))
    assert "ulimit -n" in caught.value.fix


def test_files_that_may_not_be_opened_are_a_warning():
    """32 workers could hold 512 files open if their batches came out of order: that may happen or not."""
    choice = decide(machine(64, open_file_limit=256), LoaderOptions(num_workers=32))
    assert (choice.num_workers, choice.prefetch_factor) == (32, 2)
    assert any("512 expected" in line and "too much: raise ulimit -n" in line for line in choice.warnings)


def test_measured_memory_of_the_user_is_refused_and_assumed_is_not():
    """8 workers of a measured GiB do not fit into 4; of unknown size they may."""
    hardware = machine(16, ram_available_bytes=4 * GIB)
    options = LoaderOptions(num_workers=8)
    assert decide(hardware, options).num_workers == 8
    with pytest.raises(FastDataError, match=r"memory would have to hold 8.0 GiB \(8 workers x 1.0 GiB") as caught:
        decide(hardware, options, worker_bytes=GIB)
    assert "a killed worker" in caught.value.expected
    assert "--memory" in caught.value.fix
    swapping = replace(hardware, swap_free_bytes=8 * GIB)
    assert decide(swapping, options, worker_bytes=GIB).num_workers == 8, "slow, but it runs"


def test_batches_that_are_never_under_way_are_not_refused():
    """An epoch of 3 batches never has 32 under way."""
    options = LoaderOptions(num_workers=8, prefetch_factor=4)
    hardware = machine(16, shm_free_bytes=64 * MIB)
    assert decide(hardware, options, batch_bytes=8 * MIB, samples=12, batch_size=4).num_workers == 8


def test_the_ranks_of_a_node_are_refused_together_against_the_whole():
    """Other ranks may have begun to fill what was free; of the whole, 4 x 32 MiB are too much for 100."""
    options = LoaderOptions(num_workers=4, prefetch_factor=1)
    room = {"shm_free_bytes": 60 * MIB, "local_world_size": 4}
    small, large = (machine(16, shm_total_bytes=total * MIB, **room) for total in (100, 128))
    with pytest.raises(FastDataError, match=r"128 MiB \(4 ranks x \(4 batches"):
        decide(small, options, batch_bytes=8 * MIB)
    assert decide(large, options, batch_bytes=8 * MIB).num_workers == 4


OTHER = Pool(4, 1, batch_bytes=8 * MIB, batches=100)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"validates_after": 0.5}, True),
        ({"validates_after": None}, False),  # at the end of an epoch the training queue is empty
        ({"validates_after": 0.98}, False),  # 4 of 200 batches are left, not 5
        ({"validates_after": 0.5, "other_pool_started": True}, False),  # then it is missing from what is free
        ({"validates_after": 0.5, "replaces_loader": True}, False),  # its predecessor is counted in what is used
    ],
)
def test_training_and_validation_of_the_user_are_refused_together(changes, refused):
    """5 batches of 8 MiB and 4 of the other pool do not fit into 64 MiB, if both are there at once."""
    options = LoaderOptions(num_workers=5, prefetch_factor=1)
    hardware = machine(16, shm_free_bytes=64 * MIB)
    load = {"batch_bytes": 8 * MIB, "samples": 200, "batch_size": 1, "concurrent_pool": True, "other_pool": OTHER}
    if refused:
        with pytest.raises(FastDataError, match="for the train loader beside validation's 4") as caught:
            decide(hardware, options, **load, **changes)
        assert "72 MiB (5 batches under way x 8 MiB + 4 batches under way x 8 MiB)" in caught.value.what
    else:
        assert decide(hardware, options, **load, **changes).num_workers == 5


def test_a_prefetch_left_open_gives_way_to_the_users_workers():
    """4 workers of the user, 8 MiB batches, half of 64 MiB: one each, not two; an unknown size lowers nothing."""
    options = LoaderOptions(num_workers=4)
    hardware = machine(16, shm_free_bytes=64 * MIB)
    choice = decide(hardware, options, batch_bytes=8 * MIB)
    assert (choice.num_workers, choice.prefetch_factor, choice.prefetch_reason.source) == (4, 1, "hardware")
    assert decide(hardware, options, batch_size=512).prefetch_factor == 2


def test_what_is_near_a_limit_is_a_warning():
    """Above half of what is free, a line says how it comes about; below, none."""
    options = LoaderOptions(num_workers=4, prefetch_factor=2)
    (line,) = decide(machine(16, shm_free_bytes=100 * MIB), options, batch_bytes=8 * MIB).warnings
    assert line.startswith("/dev/shm: 64 MiB expected (8 batches under way x 8 MiB), 64% of the 100 MiB free; enlarge")
    assert decide(machine(16, shm_free_bytes=GIB), options, batch_bytes=8 * MIB).warnings == ()
    (reduced,) = decide(machine(5.5, shm_free_bytes=64 * MIB), batch_bytes=8 * MIB).warnings
    assert reduced == "/dev/shm: 32 MiB expected (4 batches under way x 8 MiB), 50% of the 64 MiB free"


@pytest.mark.parametrize("requested", [{"persistent_workers": True}, {"prefetch_factor": 4}])
def test_options_that_need_a_worker_that_cannot_be_are_refused(requested):
    """No room for a worker, or none can start: an error, not a plan without the wish."""
    name = next(iter(requested))
    with pytest.raises(FastDataError, match=rf"{name}=.*no worker process fits.*memory available"):
        decide(machine(8, ram_available_bytes=MIB), LoaderOptions(**requested))
    with pytest.raises(FastDataError, match=rf"{name}=.*polars"):
        decide_workers(LoaderOptions(**requested), machine(), Workload(fork_problem="polars is loaded"), "fork")


@pytest.mark.parametrize("requested", [{"persistent_workers": False}, {"prefetch_factor": None}])
def test_options_that_need_no_worker_get_none(requested):
    """persistent_workers=False and torch's own prefetch ask for nothing that 0 workers could not give."""
    assert decide(8, LoaderOptions(**requested), in_memory=True).num_workers == 0
    assert decide(machine(8, ram_available_bytes=MIB), LoaderOptions(**requested)).num_workers == 0


def test_nothing_automatic_goes_beyond_a_limit():
    """For any machine and any load: workers, prefetch and batches within the share of every limit."""
    generator = random.Random(20)
    for _ in range(3000):
        ranks = generator.choice([1, 1, 2, 8])
        hardware = machine(
            generator.choice([0.3, 1, 1.5, 2, 3, 7.9, 16, 64, 256]),
            local_world_size=ranks,
            shm_free_bytes=generator.choice([None, 0, MIB, 64 * MIB, GIB]),
            ram_available_bytes=generator.choice([None, 0, GIB, 8 * GIB, 512 * GIB]),
            open_file_limit=generator.choice([None, 16, 64, 256, 1024]),
        )
        workload = Workload(
            split=generator.choice(["train", "val", "test", "predict"]),
            samples=generator.choice([None, 0, 1, 100, 10**6]),
            batch_size=generator.choice([None, 1, 32, 4096]),
            batch_bytes=generator.choice([None, 0, 100, MIB, 100 * MIB]),
            in_memory=generator.random() < 0.1,
            is_iterable=generator.random() < 0.2,
            loaders=generator.choice([1, 1, 2, 9]),
            concurrent_pool=generator.random() < 0.5,
        )
        choice = decide_workers(LoaderOptions(), hardware, workload, "fork")
        workers, prefetch = choice.num_workers, choice.prefetch_factor
        assert 0 <= workers <= 16
        assert (prefetch is None) == (workers == 0)
        if workers == 0:
            continue
        assert prefetch >= 1
        assert workers <= max(1, hardware.cpus_per_rank - 1)
        samples = workload.batch_size or 32
        size = samples * 3 * 224 * 224 * 4 if workload.batch_bytes is None else workload.batch_bytes
        pools = (2 if workload.concurrent_pool else 1) * (workload.loaders if workload.split == "train" else 1)
        if hardware.shm_free_bytes is not None:
            assert ranks * pools * workers * prefetch * size <= hardware.shm_free_bytes / 2
        if hardware.ram_available_bytes is not None:
            assert ranks * pools * workers * (512 * MIB + prefetch * size) <= hardware.ram_available_bytes / 2
        if hardware.open_file_limit is not None:
            assert pools * workers * (8 + 4 * prefetch) <= hardware.open_file_limit / 2


# What a rehearsal measured

TRIED = Rehearsed(
    samples=8,
    sample_wall_s=20e-6,
    sample_cpu_s=20e-6,
    quickest_s=10e-6,
    batch_bytes=8 * MIB,
    batch_tensors=2,
    transfer_s=1.2e-3,
    took_s=0.05,
)


@pytest.fixture
def cheap_rule(monkeypatch):
    monkeypatch.setattr(workers, "CHEAP_SHARE", 1.0)


@pytest.mark.parametrize(
    ("changes", "load", "words"),
    [
        ({}, {}, "the data is cheap: a batch takes about 0.32 ms here, and 0.9 ms to take over from a worker"),
        ({"transfer_s": 0.4e-3}, {}, "0.32 ms here, and 0.4 ms"),
        ({"transfer_s": 0.3e-3}, {}, None),
        ({"transfer_s": None}, {}, "0.9 ms"),
        ({"transfer_s": 50e-3, "quickest_s": 50e-6}, {}, None),
        ({"batch_tensors": 12}, {"batch_size": 100}, "1.2 ms to take over"),
        ({"quickest_s": 100e-6, "sample_wall_s": 110e-6}, {}, None),
        ({"quickest_s": 100e-6, "sample_wall_s": 110e-6}, {"data_attribute": "dataset.x"}, "in memory (dataset.x)"),
        ({"quickest_s": 200e-6, "sample_wall_s": 210e-6}, {"data_attribute": "dataset.x"}, None),
        ({"sample_wall_s": 2e-3}, {}, None),
        ({}, {"batch_size": 256}, None),
        ({}, {"batch_size": None}, None),
        ({"quickest_s": None, "sample_wall_s": None}, {}, None),
    ],
    ids=[
        "cheaper than taking it over",
        "on a fast machine",
        "on a faster one",
        "transfer not known",
        "a transfer that was held up",
        "many tensors",
        "dear",
        "in memory",
        "in memory and dear",
        "some are dear",
        "large batches",
        "batches of a sampler",
        "not measured",
    ],
)
def test_cheap_data_stays_here(cheap_rule, changes, load, words):
    """Where a batch is loaded before another would be taken over; four times that for data in memory."""
    choice = decide(rehearsed=replace(TRIED, **changes), **{"batch_size": 32, **load})
    assert choice.num_workers == (6 if words is None else 0)
    if words is not None:
        assert words in choice.workers_reason.text
        assert choice.workers_reason.source == "measured"


def test_a_finding_and_the_users_wishes_come_before_cheapness(cheap_rule):
    """The reason names what matters more; a prefetch_factor of the user's gets its worker."""
    problem = decide(rehearsed=TRIED, batch_size=32, worker_problem="dataset.count changes")
    assert problem.workers_reason.text == "dataset.count changes"
    assert decide(options=LoaderOptions(prefetch_factor=3), rehearsed=TRIED, batch_size=32).num_workers == 1
    assert decide(options=LoaderOptions(num_workers=5), rehearsed=TRIED, batch_size=32).num_workers == 5


def test_measured_sizes_stand_in_for_assumed_ones():
    """8 MiB by a few samples, against the 18 MiB that a batch of 32 images would be assumed to have."""
    small = machine(8, shm_free_bytes=96 * MIB, open_file_limit=200, open_files=0)
    choice = decide(small, rehearsed=TRIED, batch_size=32)
    assert (choice.num_workers, choice.prefetch_factor) == (6, 1)
    assert "a batch is 8 MiB by a few samples that were tried" in choice.prefetch_reason.text
    assert any("6 batches under way x 8 MiB measured" in line for line in choice.warnings)
    assert decide(small, batch_size=32).num_workers < 6
    declared = decide(small, rehearsed=TRIED, batch_size=32, batch_bytes=4 * MIB, tensors_per_batch=0)
    assert declared.prefetch_factor == 2
    assert not any("measured" in line for line in declared.warnings)


def test_a_bound_of_the_look_at_a_dataset_is_in_the_reason():
    """Whoever decided."""
    bound = "looked at 20,000 objects and 10 levels at most, not beyond dataset.tree"
    for load in ({}, {"worker_problem": "dataset.count changes"}, {"samples": 2, "batch_size": 1}):
        assert decide(walk_stopped_at=bound, **load).workers_reason.text.endswith(f"({bound})")
    by_memory = decide(machine(8, shm_free_bytes=0), walk_stopped_at=bound)
    assert (by_memory.num_workers, bound in by_memory.workers_reason.text) == (0, True)
    assert decide(options=LoaderOptions(num_workers=5), walk_stopped_at=bound).workers_reason.text == "set by you"
