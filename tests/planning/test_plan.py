"""The plan as a table: (machine, wishes, load) -> values, who decided, and what the reason says."""

import dataclasses
import random

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware, Limit
from lightning_fastdata.planning.options import FIELDS, LoaderOptions, Workload
from lightning_fastdata.planning.plan import make_plan

MIB = 2**20


def machine(cpus=5.5, **changes):
    return Hardware(cpu_limits=(Limit("cgroup quota 6", float(cpus), "quota"),), **changes)


def decided(cpus=5.5, wishes=None, **workload):
    hardware = cpus if isinstance(cpus, Hardware) else machine(cpus)
    return make_plan(LoaderOptions(**(wishes or {})), hardware, Workload(**workload))


ON_CUDA = {"device_type": "cuda"}
SMALL_SHM = machine(shm_free_bytes=64 * MIB)

TABLE = {
    "the issue's example": (
        (5.5, {}, {}),
        {
            "num_workers": (
                4,
                "hardware",
                "5.5 usable cores (cgroup quota 6, one rank), 1 kept for the training process",
            )
        },
    ),
    "one CPU": ((1, {}, {}), {"num_workers": (0, "hardware", "nothing to spare")}),
    "two CPUs": (
        (2, {}, {}),
        {"num_workers": (1, "hardware", "1 kept"), "prefetch_factor": (4, "rule", "ride out a slow one")},
    ),
    "four CPUs": ((4, {}, {}), {"num_workers": (2, "hardware", "0.5 left"), "prefetch_factor": (2, "rule", "default")}),
    "128 CPUs": ((128, {}, {}), {"num_workers": (16, "hardware", "never more than 16")}),
    "four ranks": (
        (machine(24, local_world_size=4), {}, {}),
        {"num_workers": (4, "hardware", "6 usable cores (cgroup quota 6, 4 ranks on this node)")},
    ),
    "data in memory": (
        (64, {}, {"in_memory": True, **ON_CUDA}),
        {
            "num_workers": (0, "rule", "in memory"),
            "prefetch_factor": (None, "rule", "0 workers"),
            "pin_memory": (False, "rule", "in the training process"),
            "persistent_workers": (False, "rule", "no workers"),
            "multiprocessing_context": (None, "rule", "no worker processes"),
        },
    ),
    "an iterable": ((64, {}, {"is_iterable": True}), {"num_workers": (0, "rule", "IterableDataset")}),
    "three batches": ((64, {}, {"samples": 9, "batch_size": 3}), {"num_workers": (3, "rule", "3 batches")}),
    "small /dev/shm": (
        (SMALL_SHM, {}, {"batch_bytes": 8 * MIB}),
        {"num_workers": (4, "hardware", "usable cores"), "prefetch_factor": (1, "hardware", "/dev/shm")},
    ),
    "small /dev/shm, sample unknown": (
        (SMALL_SHM, {}, {"batch_size": 32}),
        {"num_workers": (1, "hardware", "size is not known"), "prefetch_factor": (1, "hardware", "assumed")},
    ),
    "on CUDA": (
        (8, {}, ON_CUDA),
        {
            "pin_memory": (True, "rule", "runs on cuda"),
            "persistent_workers": (True, "rule", "no restart"),
            "multiprocessing_context": (None, "rule", "fork"),
        },
    ),
    "on XPU": ((8, {}, {"device_type": "xpu"}), {"pin_memory": (True, "rule", "xpu")}),
    "on the CPU": ((8, {}, {"device_type": "cpu"}), {"pin_memory": (False, "rule", "runs on cpu")}),
    "on Apple": ((8, {}, {"device_type": "mps"}), {"pin_memory": (False, "rule", "runs on mps")}),
    "on an unknown plugin": ((8, {}, {"device_type": "hpu"}), {"pin_memory": (False, "rule", "runs on hpu")}),
    "without a Trainer": ((8, {}, {}), {"pin_memory": (False, "rule", "without a Trainer")}),
    "read once": ((8, {}, {"single_pass": True}), {"persistent_workers": (False, "rule", "read once")}),
    "reloaded every epoch": (
        (8, {}, {"reload_every_n_epochs": 1}),
        {"persistent_workers": (False, "rule", "a single epoch")},
    ),
    "reloaded every 3 epochs": (
        (8, {}, {"reload_every_n_epochs": 3}),
        {"persistent_workers": (True, "rule", "no restart")},
    ),
    "reloaded and pinned": (
        (8, {}, {"reload_every_n_epochs": 3, **ON_CUDA}),
        {"pin_memory": (True, "rule", "cuda"), "persistent_workers": (False, "rule", "pytorch#91252")},
    ),
    "reloaded, and kept by the user": (
        (8, {"persistent_workers": True}, {"reload_every_n_epochs": 3, **ON_CUDA}),
        {"pin_memory": (False, "rule", "pytorch#91252"), "persistent_workers": (True, "user", "set by you")},
    ),
    "reloaded, kept and pinned by the user": (
        (8, {"persistent_workers": True, "pin_memory": True}, {"reload_every_n_epochs": 3, **ON_CUDA}),
        {"pin_memory": (True, "user", "set by you"), "persistent_workers": (True, "user", "pytorch#91252")},
    ),
    "several validation loaders": (
        (8, {}, {"split": "val", "loaders": 2}),
        {"persistent_workers": (False, "rule", "2 loaders follow each other")},
    ),
    "several training loaders": (
        (8, {}, {"loaders": 2}),
        {"num_workers": (3, "hardware", "2 training loaders"), "persistent_workers": (True, "rule", "no restart")},
    ),
    "fork is unsafe": (
        (8, {}, {"fork_problem": "polars is loaded"}),
        {"num_workers": (6, "hardware", ""), "multiprocessing_context": ("forkserver", "rule", "polars is loaded")},
    ),
    "neither fork nor forkserver": (
        (8, {}, {"fork_problem": "polars is loaded", "spawn_problem": "no guard"}),
        {"num_workers": (0, "rule", "polars is loaded"), "multiprocessing_context": (None, "rule", "no worker")},
    ),
    "spawn by default, no guard": (
        (8, {}, {"start_method": "spawn", "spawn_problem": "train.py has no guard"}),
        {"num_workers": (0, "rule", "under spawn, train.py has no guard"), "persistent_workers": (False, "rule", "")},
    ),
    "spawn by default, all well": (
        (8, {}, {"start_method": "spawn"}),
        {"num_workers": (6, "hardware", ""), "multiprocessing_context": (None, "rule", "spawn, the default here")},
    ),
    "spawn by the user, no guard": (
        (8, {"multiprocessing_context": "spawn"}, {"spawn_problem": "no guard"}),
        {"num_workers": (0, "rule", "no guard"), "multiprocessing_context": (None, "rule", "you set 'spawn', but")},
    ),
    "no guard does not matter to fork": ((8, {}, {"spawn_problem": "no guard"}), {"num_workers": (6, "hardware", "")}),
    "persistent for data in memory": (
        (8, {"persistent_workers": True}, {"in_memory": True}),
        {"num_workers": (1, "user", "persistent_workers"), "persistent_workers": (True, "user", "set by you")},
    ),
    "prefetch for data in memory": (
        (8, {"prefetch_factor": 4}, {"in_memory": True}),
        {"num_workers": (1, "user", "prefetch_factor"), "prefetch_factor": (4, "user", "set by you")},
    ),
    "pinning where it does nothing": (
        (8, {"pin_memory": True}, {"device_type": "mps"}),
        {"pin_memory": (True, "user", "no effect on mps")},
    ),
}


@pytest.mark.parametrize(("given", "expected"), TABLE.values(), ids=TABLE)
def test_the_rules(given, expected):
    """Each row: the value, who decided it, and what its reason names."""
    cpus, wishes, workload = given
    plan = decided(cpus, wishes, **workload)
    for name, (value, source, words) in expected.items():
        assert getattr(plan, name) == value, name
        assert type(getattr(plan, name)) is type(value), name
        assert plan.reasons[name].source == source, name
        assert words in plan.reasons[name].text, name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_workers", 3),
        ("num_workers", 0),
        ("prefetch_factor", 7),
        ("pin_memory", True),
        ("pin_memory", False),
        ("persistent_workers", True),
        ("persistent_workers", False),
        ("multiprocessing_context", "spawn"),
        ("multiprocessing_context", "fork"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_users_value_always_wins(name, value, split):
    """Whatever "auto" would have taken, the user's value stands and its reason says whose it is."""
    plan = decided(8, {name: value}, split=split, device_type="cuda", concurrent_pool=True)
    assert getattr(plan, name) == value
    assert plan.reasons[name].source == "user"
    assert "set by you" in plan.reasons[name].text


@pytest.mark.parametrize(
    ("name", "value"),
    [("persistent_workers", True), ("prefetch_factor", 2), ("multiprocessing_context", "spawn")],
)
def test_what_needs_workers_cannot_go_with_none(name, value):
    """Two values of the user that torch refuses, or ignores, are refused here, with both names."""
    with pytest.raises(FastDataError) as caught:
        decided(8, {"num_workers": 0, name: value})
    assert caught.value.what == f"num_workers=0 together with {name}={value!r}."
    assert name in caught.value.fix


@pytest.mark.parametrize(
    "wishes",
    [
        {"persistent_workers": False},
        {"prefetch_factor": None},
        {"multiprocessing_context": None},
        {"pin_memory": True},
    ],
)
def test_what_goes_with_no_workers_is_taken(wishes):
    """A DataLoader takes these together with 0 workers, so they are not refused."""
    assert decided(8, {"num_workers": 0, **wishes}).num_workers == 0


def test_workers_of_the_user_that_cannot_start_are_refused():
    """Before the first batch."""
    with pytest.raises(FastDataError, match="no guard"):
        decided(8, {"num_workers": 2, "multiprocessing_context": "spawn"}, spawn_problem="no guard")


@pytest.mark.parametrize("cpus", [2, 8])
def test_the_plan_never_names_what_changes_results(cpus):
    """Batch size, drop_last and order are no business of a plan."""
    assert set(decided(cpus).as_kwargs()) == set(FIELDS)
    assert not {"batch_size", "drop_last", "shuffle", "sampler"} & {f.name for f in dataclasses.fields(LoaderOptions)}


ANY = {
    "num_workers": [0, 1, 3],
    "prefetch_factor": [None, 1, 4],
    "pin_memory": [True, False],
    "persistent_workers": [True, False],
    "multiprocessing_context": [None, "fork", "spawn", "forkserver"],
}


@pytest.mark.parametrize("some_wishes", [False, True], ids=["all auto", "some set by the user"])
def test_no_plan_is_a_known_bad_one(some_wishes):
    """For any machine, load and wishes: no automatic value completes a combination known to be bad."""
    generator = random.Random(11)
    refused = 0
    for _ in range(4000):
        pick = generator.choice
        hardware = machine(
            pick([0.5, 1, 1.5, 2, 4, 5.5, 64]),
            local_world_size=pick([1, 4]),
            shm_free_bytes=pick([None, 64 * MIB, 2**34]),
            ram_available_bytes=pick([None, 2**30, 2**36]),
            open_file_limit=pick([None, 256, 4096]),
        )
        workload = Workload(
            split=pick(["train", "val", "test", "predict"]),
            samples=pick([None, 1, 10**5]),
            batch_size=pick([None, 32]),
            batch_bytes=pick([None, MIB, 64 * MIB]),
            in_memory=pick([False, False, True]),
            is_iterable=pick([False, False, True]),
            loaders=pick([1, 3]),
            concurrent_pool=pick([False, True]),
            device_type=pick([None, "cpu", "mps", "cuda", "xpu"]),
            reload_every_n_epochs=pick([0, 1, 5]),
            single_pass=pick([False, True]),
            start_method=pick(["fork", "spawn", "forkserver"]),
            spawn_problem=pick([None, "no guard"]),
            fork_problem=pick([None, "polars"]),
        )
        wishes = {name: pick(values) for name, values in ANY.items() if some_wishes and generator.random() < 0.4}
        try:
            plan = make_plan(LoaderOptions(**wishes), hardware, workload)
        except FastDataError:
            refused += 1
            assert wishes
            continue
        auto = set(FIELDS) - set(wishes)
        if plan.num_workers == 0:
            assert plan.prefetch_factor is None
            assert not plan.persistent_workers
            assert plan.multiprocessing_context is None
        else:
            assert plan.prefetch_factor >= 1
            method = plan.multiprocessing_context or workload.start_method
            if method != "fork":
                assert workload.spawn_problem is None
            elif "num_workers" in auto:
                assert workload.fork_problem is None
        if "pin_memory" in auto and plan.pin_memory:
            assert workload.device_type in ("cuda", "xpu")
        if plan.pin_memory and plan.persistent_workers and workload.reload_every_n_epochs:
            assert {"pin_memory", "persistent_workers"} <= set(wishes)
        if "num_workers" in auto and hardware.shm_free_bytes is not None and workload.batch_bytes and plan.num_workers:
            assert plan.num_workers * plan.prefetch_factor * workload.batch_bytes <= hardware.shm_free_bytes
        for name, value in wishes.items():
            dropped = plan.num_workers == 0 and name in ("prefetch_factor", "multiprocessing_context")
            assert dropped or (getattr(plan, name), plan.reasons[name].source) in ((value, "user"), (2, "user"))
        assert all(plan.reasons[name].source != "user" for name in auto - {"num_workers"})
        assert all(plan.reasons[name].text for name in FIELDS)
    assert refused < 3000
