"""Worker counts: the cores first, then what shared memory, memory and open files allow."""

import math
import random
from dataclasses import replace

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware, Limit
from lightning_fastdata.planning.options import LoaderOptions, Pool, Workload
from lightning_fastdata.planning.workers import decide_workers

MIB, GIB = 2**20, 2**30


def machine(cpus=8.0, **changes):
    return Hardware(cpu_limits=(Limit(f"quota of {cpus:g} CPUs", float(cpus), "quota"),), **changes)


def decide(cpus=8.0, options=None, **workload):
    hardware = cpus if isinstance(cpus, Hardware) else machine(cpus)
    return decide_workers(options or LoaderOptions(), hardware, Workload(**workload), "fork")


@pytest.mark.parametrize(
    ("cpus", "workers"),
    [
        (0.1, 0),
        (0.5, 0),
        (1, 0),
        (1.4, 0),
        (1.5, 1),
        (2, 1),
        (2.5, 1),
        (3, 1),
        (3.5, 2),
        (4, 2),
        (5.5, 4),
        (8, 6),
        (128, 16),
    ],
)
def test_cores_left_by_the_training_process_and_the_system(cpus, workers):
    """One CPU is the training process's, half a one the system's, a process each for the rest, 16 at most."""
    assert decide(cpus).num_workers == workers


def test_the_sentence_a_user_reads():
    """The reason names the limit, the ranks and both parts that are kept back."""
    reason = decide(5.5).workers_reason
    assert reason.source == "hardware"
    assert reason.text == (
        "5.5 usable cores (quota of 5.5 CPUs, one rank), 1 kept for the training process, 0.5 left to the system"
    )


def test_too_few_cores_say_so():
    """With one CPU a worker would only take turns with the training process."""
    assert "nothing to spare for workers" in decide(1).workers_reason.text


def test_the_cap_on_large_machines_says_so():
    """More than 16 are only taken after a measurement, and the reason says that."""
    assert "never more than 16 without a measurement" in decide(128).workers_reason.text
    assert "never more" not in decide(8).workers_reason.text


def test_the_system_is_not_named_where_nothing_is_left_for_it():
    """The sentence claims no half CPU for the system that one worker takes."""
    assert "left to the system" not in decide(2).workers_reason.text


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


@pytest.mark.parametrize(("loaders", "each"), [(1, 6), (2, 3), (3, 2), (4, 1), (7, 0)])
def test_training_loaders_share_the_workers(loaders, each):
    """Several training loaders are alive together; they divide the workers."""
    choice = decide(8, loaders=loaders)
    assert choice.num_workers == each
    assert loaders == 1 or f"6 shared by {loaders} training loaders" in choice.workers_reason.text


def test_evaluation_loaders_follow_each_other():
    """Validation reads its loaders one by one, so each may have the whole share."""
    assert decide(8, split="val", loaders=5).num_workers == decide(8, split="val").num_workers


def test_data_in_memory_gets_no_workers():
    """A worker could but copy what lies in memory already."""
    choice = decide(64, in_memory=True)
    assert (choice.num_workers, choice.prefetch_factor, choice.workers_reason.source) == (0, None, "rule")
    assert "in memory" in choice.workers_reason.text
    assert "0 workers" in choice.prefetch_reason.text


@pytest.mark.parametrize(("cpus", "workers"), [(64, 1), (2, 1), (1, 0)])
def test_an_iterable_dataset_gets_at_most_one(cpus, workers):
    """Every worker would repeat the whole stream."""
    choice = decide(cpus, is_iterable=True)
    assert choice.num_workers == workers
    assert cpus != 64 or "repeats its data in every worker" in choice.workers_reason.text


@pytest.mark.parametrize(("length", "workers"), [(1, 1), (10, 1), (11, 2), (25, 3), (1000, 16)])
def test_no_more_workers_than_batches(length, workers):
    """A worker without a batch to make is only a start-up cost."""
    choice = decide(64, samples=length, batch_size=10)
    assert choice.num_workers == workers
    assert length == 1000 or f"the {workers} batches" in choice.workers_reason.text


def test_fork_problem_and_spawn_problem_mean_no_workers():
    """Workers that could not start safely are not started, and the reason names the cause."""
    forked = decide_workers(LoaderOptions(), machine(), Workload(fork_problem="polars is loaded"), "fork")
    spawned = decide_workers(LoaderOptions(), machine(), Workload(spawn_problem="no guard"), "spawn")
    assert (forked.num_workers, spawned.num_workers) == (0, 0)
    assert "polars is loaded" in forked.workers_reason.text
    assert "no guard" in spawned.workers_reason.text
    assert decide_workers(LoaderOptions(), machine(), Workload(spawn_problem="no guard"), "fork").num_workers == 6
    assert decide_workers(LoaderOptions(), machine(), Workload(fork_problem="polars"), "spawn").num_workers == 6


@pytest.mark.parametrize(("cpus", "prefetch"), [(2, 4), (4, 2), (16, 2)])
def test_a_single_worker_looks_further_ahead(cpus, prefetch):
    """At least four batches are under way, so that one slow batch is ridden out."""
    assert decide(cpus).prefetch_factor == prefetch


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


# Shared memory


def test_small_shared_memory_lowers_prefetch_first():
    """64 MiB, half of it ours, batches of 8 MiB: 4 may be under way, so 4 workers keep one each."""
    choice = decide(machine(5.5, shm_free_bytes=64 * MIB), batch_bytes=8 * MIB)
    assert (choice.num_workers, choice.prefetch_factor) == (4, 1)
    assert choice.prefetch_reason.source == "hardware"
    for word in ("64 MiB free in /dev/shm", "a batch is 8 MiB", "--shm-size"):
        assert word in choice.prefetch_reason.text
    assert "usable cores" in choice.workers_reason.text


def test_then_it_lowers_the_workers():
    """Batches of 16 MiB: two may be under way, so two workers, and their reason is shared memory."""
    choice = decide(machine(5.5, shm_free_bytes=64 * MIB), batch_bytes=16 * MIB)
    assert (choice.num_workers, choice.prefetch_factor) == (2, 1)
    assert "/dev/shm" in choice.workers_reason.text


def test_a_batch_beyond_the_share_leaves_no_worker():
    """With a batch larger than what may be used, the training process loads by itself."""
    choice = decide(machine(5.5, shm_free_bytes=64 * MIB), batch_bytes=40 * MIB)
    assert (choice.num_workers, choice.prefetch_factor) == (0, None)
    assert "/dev/shm" in choice.workers_reason.text


def test_an_unknown_sample_is_taken_for_an_image_and_that_is_said():
    """Docker's 64 MiB and batches of 32 assumed images of 588 KiB: one batch under way."""
    choice = decide(machine(5.5, shm_free_bytes=64 * MIB), batch_size=32)
    assert (choice.num_workers, choice.prefetch_factor) == (1, 1)
    assert "assumed to be 18.4 MiB (its size is not known)" in choice.workers_reason.text


def test_unknown_or_ample_shared_memory_changes_nothing():
    """None means not known, and a large one does not bind."""
    assert decide(5.5, batch_bytes=16 * MIB) == decide(machine(5.5, shm_free_bytes=64 * GIB), batch_bytes=16 * MIB)


def test_shared_memory_is_divided_by_ranks_and_pools():
    """Two ranks and two pools leave a quarter each: 2 of the 8 batches."""
    room = {"shm_free_bytes": 64 * MIB}
    alone = decide(machine(32, **room), batch_bytes=4 * MIB)
    shared = decide(machine(64, local_world_size=2, **room), batch_bytes=4 * MIB, concurrent_pool=True)
    assert alone.num_workers * alone.prefetch_factor == 8
    assert shared.num_workers * shared.prefetch_factor == 2


# Memory and open files


def test_little_memory_means_fewer_workers():
    """4 GiB, half of it ours, 512 MiB and a batch of 8 MiB a worker: 3 fit, then with two batches each."""
    choice = decide(machine(16, ram_available_bytes=4 * GIB), batch_bytes=8 * MIB)
    assert choice.num_workers == int(2 * GIB // (512 * MIB + 8 * MIB)) == 3
    assert choice.prefetch_factor == 2
    assert choice.workers_reason.source == "hardware"
    assert "4.0 GiB of memory available, about 520 MiB per worker" in choice.workers_reason.text


def test_measured_workers_take_what_was_measured():
    """100 MiB instead of the assumed 512."""
    assert decide(machine(16, ram_available_bytes=4 * GIB), batch_bytes=MIB, worker_bytes=100 * MIB).num_workers == 14


@pytest.mark.parametrize(("device", "prefetch"), [("cpu", 4), ("cuda", 2)])
def test_pinned_batches_are_in_memory_twice(device, prefetch):
    """1 GiB for one worker of 512 MiB: 512 are left, for 4 batches of 128 or, twice in memory, for 2."""
    machine_ = machine(2, ram_available_bytes=2 * GIB)
    assert decide(machine_, batch_bytes=128 * MIB, device_type=device).prefetch_factor == prefetch


def test_no_memory_means_no_worker():
    """Half a GiB has no room for a process."""
    choice = decide(machine(16, ram_available_bytes=GIB // 2), batch_bytes=MIB)
    assert (choice.num_workers, choice.prefetch_factor) == (0, None)
    assert "memory available" in choice.workers_reason.text


def test_memory_is_divided_by_ranks():
    """Two ranks have half the memory each."""
    one = decide(machine(32, ram_available_bytes=8 * GIB), batch_bytes=MIB).num_workers
    two = decide(machine(64, ram_available_bytes=8 * GIB, local_world_size=2), batch_bytes=MIB).num_workers
    assert (one, two) == (7, 3)


def test_few_open_files_mean_fewer_workers():
    """With ulimit -n 256: 128 of them, and a worker with a single batch ahead may hold 12."""
    choice = decide(machine(64, open_file_limit=256))
    assert (choice.num_workers, choice.prefetch_factor) == (10, 1)
    assert choice.workers_reason.text == "256 more open files allowed, up to 12 per worker: raise ulimit -n"
    assert decide(machine(64, open_file_limit=256, open_files=100)).num_workers == 6, "100 are open already"
    assert decide(machine(64, open_file_limit=256, local_world_size=2)).num_workers == 10, "the limit is per process"


# The user's values


def test_the_users_count_is_kept_whatever_the_machine():
    """A user's number always wins, and its reason says so."""
    choice = decide(machine(1, ram_available_bytes=MIB), LoaderOptions(num_workers=7), in_memory=True)
    assert (choice.num_workers, choice.workers_reason.source) == (7, "user")


def test_the_users_prefetch_is_kept_and_the_workers_give_way():
    """With prefetch_factor=4 of the user and room for 8 batches, two workers."""
    hardware = machine(16, shm_free_bytes=64 * MIB)
    choice = decide(hardware, LoaderOptions(prefetch_factor=4), batch_bytes=4 * MIB)
    assert (choice.num_workers, choice.prefetch_factor) == (2, 4)
    assert (choice.prefetch_reason.source, choice.workers_reason.source) == ("user", "hardware")


def test_torchs_own_default_may_be_asked_for():
    """prefetch_factor=None is a value of the user's: torch's 2, also where a plan would take 4."""
    choice = decide(2, LoaderOptions(prefetch_factor=None))
    assert (choice.prefetch_factor, choice.prefetch_reason.source) == (2, "user")


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


def test_files_that_may_not_be_opened_are_told_and_not_refused():
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


def test_auto_keeps_off_what_the_user_gave_to_the_other_pool():
    """32 MiB are for both; 4 batches of 4 MiB are validation's by the user's own word, so 4 are left."""
    choice = decide(
        machine(16, shm_free_bytes=64 * MIB),
        batch_bytes=4 * MIB,
        concurrent_pool=True,
        other_pool=Pool(4, 1, batch_bytes=4 * MIB),
    )
    assert (choice.num_workers, choice.prefetch_factor) == (4, 1)


def test_a_prefetch_left_open_gives_way_to_the_users_workers():
    """4 workers of the user, 8 MiB batches, half of 64 MiB: one each, not two; an unknown size lowers nothing."""
    options = LoaderOptions(num_workers=4)
    hardware = machine(16, shm_free_bytes=64 * MIB)
    choice = decide(hardware, options, batch_bytes=8 * MIB)
    assert (choice.num_workers, choice.prefetch_factor, choice.prefetch_reason.source) == (4, 1, "hardware")
    assert decide(hardware, options, batch_size=512).prefetch_factor == 2


def test_what_is_near_a_limit_is_told():
    """Above half of what is free, a line says how it comes about; below, none."""
    options = LoaderOptions(num_workers=4, prefetch_factor=2)
    (line,) = decide(machine(16, shm_free_bytes=100 * MIB), options, batch_bytes=8 * MIB).warnings
    assert line.startswith("/dev/shm: 64 MiB expected (8 batches under way x 8 MiB), 64% of the 100 MiB free; enlarge")
    assert decide(machine(16, shm_free_bytes=GIB), options, batch_bytes=8 * MIB).warnings == ()
    (reduced,) = decide(machine(5.5, shm_free_bytes=64 * MIB), batch_bytes=8 * MIB).warnings
    assert reduced == "/dev/shm: 32 MiB expected (4 batches under way x 8 MiB), 50% of the 64 MiB free"


def test_workers_of_the_user_that_cannot_start_are_refused():
    """Under spawn without a guard the run would end inside torch."""
    with pytest.raises(FastDataError, match=r"train\.py has no guard"):
        decide_workers(
            LoaderOptions(num_workers=2), machine(), Workload(spawn_problem="train.py has no guard"), "spawn"
        )
    with_none = decide_workers(LoaderOptions(num_workers=0), machine(), Workload(spawn_problem="no guard"), "spawn")
    assert with_none.num_workers == 0


@pytest.mark.parametrize("requested", [{"persistent_workers": True}, {"prefetch_factor": 4}])
@pytest.mark.parametrize("workload", [{"in_memory": True}, {"loaders": 100}])
def test_a_wish_that_needs_a_worker_gets_one(requested, workload):
    """persistent_workers=True or prefetch_factor=4 win over an auto that would take 0, and the reason says so."""
    choice = decide(8, LoaderOptions(**requested), **workload)
    assert (choice.num_workers, choice.workers_reason.source) == (1, "user")
    assert f"your {next(iter(requested))} needs a worker" in choice.workers_reason.text


@pytest.mark.parametrize("requested", [{"persistent_workers": True}, {"prefetch_factor": 4}])
def test_a_wish_for_a_worker_that_cannot_be_is_refused(requested):
    """No room for a worker, or none can start: an error, not a plan without the wish."""
    name = next(iter(requested))
    with pytest.raises(FastDataError, match=rf"{name}=.*none fits.*memory available"):
        decide(machine(8, ram_available_bytes=MIB), LoaderOptions(**requested))
    with pytest.raises(FastDataError, match=rf"{name}=.*polars"):
        decide_workers(LoaderOptions(**requested), machine(), Workload(fork_problem="polars is loaded"), "fork")


@pytest.mark.parametrize("requested", [{"persistent_workers": False}, {"prefetch_factor": None}])
def test_a_wish_that_needs_no_worker_gets_none(requested):
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
