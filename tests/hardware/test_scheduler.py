"""machine.scheduler: the variables of schedulers and launchers."""

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.scheduler import read_bounds, read_override, read_ranks, read_slurm


def ranks_of(environ, local_world_size=None):
    notes: list[str] = []
    return read_ranks(environ, read_slurm(environ, notes.append), local_world_size, notes.append), notes


def bounds_of(environ, local_world_size=None):
    notes: list[str] = []
    slurm = read_slurm(environ, notes.append)
    ranks = read_ranks(environ, slurm, local_world_size, notes.append)
    bounds = read_bounds(environ, slurm, ranks, notes.append)
    return [(bound.source, bound.cpus, bound.per_rank) for bound in bounds], notes


STEP = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "4"}
TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}


@pytest.mark.parametrize(("value", "cpus"), [("3", 3.0), (" 1.5 ", 1.5), ("0.5", 0.5), ("1e2", 100.0)])
def test_override_takes_any_number_above_zero(value, cpus):
    """The override may be a fraction; its source shows what was set."""
    (limit,) = read_override({"LIGHTNING_FASTDATA_NUM_CPUS": value})
    assert (limit.cpus, limit.kind) == (cpus, "override")
    assert limit.source == f"LIGHTNING_FASTDATA_NUM_CPUS={value.strip()}"


@pytest.mark.parametrize("value", ["many", "0", "-2", "nan", "inf", "1,5", "4 cpus"])
def test_override_refuses_what_is_no_number_of_cpus(value):
    """A wrong override stops the run with what, what was expected and what to do."""
    with pytest.raises(FastDataError, match="LIGHTNING_FASTDATA_NUM_CPUS=") as caught:
        read_override({"LIGHTNING_FASTDATA_NUM_CPUS": value})
    assert value in caught.value.what
    assert "above 0" in caught.value.expected
    assert "export LIGHTNING_FASTDATA_NUM_CPUS=" in caught.value.fix


@pytest.mark.parametrize("environ", [{}, {"LIGHTNING_FASTDATA_NUM_CPUS": ""}, {"LIGHTNING_FASTDATA_NUM_CPUS": " "}])
def test_no_override(environ):
    """Unset and blank are the same."""
    assert read_override(environ) == ()


LOCAL_WORLD_SIZES = [
    # environment, what the Trainer says, ranks on this node, launcher
    ({}, None, 1, None),
    ({}, 4, 4, None),
    (TORCHRUN, None, 4, "torchrun"),
    (TORCHRUN, 2, 2, None),
    ({**TORCHRUN, "SLURM_NTASKS_PER_NODE": "1"}, None, 4, "torchrun"),
    ({"SLURM_NTASKS_PER_NODE": "4"}, None, 4, "slurm"),
    ({"SLURM_NTASKS_PER_NODE": "4"}, 4, 4, "slurm"),
    ({"SLURM_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "0"}, None, 2, "slurm"),
    ({"SLURM_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "2"}, None, 2, "slurm"),
    ({"SLURM_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "3"}, None, 1, None),
    ({"SLURM_TASKS_PER_NODE": "8"}, None, 8, "slurm"),
    ({"SLURM_NTASKS_PER_NODE": "8", **STEP}, None, 4, "slurm"),
    ({"SLURM_NTASKS_PER_NODE": "8", "SLURM_STEP_TASKS_PER_NODE": "1"}, 4, 4, None),
    ({"SLURM_TASKS_PER_NODE": "4", "SLURM_JOB_NAME": "interactive"}, None, 1, None),
    ({"SLURM_JOB_NAME": "interactive", **STEP}, None, 4, "slurm"),
    ({"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, None, 2, "mpi"),
    ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, None, 4, "mpi"),
    ({"MPI_LOCALNRANKS": "3"}, None, 3, "mpi"),
    ({"PMI_LOCAL_SIZE": "2"}, None, 2, "mpi"),
]


@pytest.mark.parametrize(("environ", "told", "local", "launcher"), LOCAL_WORLD_SIZES)
def test_ranks_on_this_node(environ, told, local, launcher):
    """The caller's number wins, then torchrun's, MPI's, SLURM's; a launcher counts only if its number is the one."""
    ranks, notes = ranks_of(environ, told)
    assert (ranks.local_world_size, ranks.launcher) == (local, launcher)
    assert notes == []


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1)),
        (TORCHRUN, (5, 8)),
        ({"SLURM_PROCID": "6", "SLURM_NTASKS": "8"}, (6, 8)),
        (
            {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"},
            (3, 4),
        ),
        ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "2"}, (0, 4)),
    ],
)
def test_place_among_the_ranks(environ, expected):
    """Rank and world size come from the launcher; the world is never smaller than the node."""
    ranks, _ = ranks_of(environ)
    assert (ranks.rank, ranks.world_size) == expected


def test_no_ranks_is_an_error():
    """A caller that knows of no rank is told so."""
    with pytest.raises(FastDataError, match="local_world_size=0"):
        ranks_of({}, 0)


BOUNDS = [
    # environment, what the Trainer says, (source, CPUs, whether each rank has it for itself)
    ({}, None, []),
    ({"SLURM_CPUS_PER_TASK": "8"}, None, [("SLURM_CPUS_PER_TASK=8", 8, False)]),
    ({"SLURM_CPUS_PER_TASK": "8"}, 4, [("SLURM_CPUS_PER_TASK=8", 8, False)]),
    ({"SLURM_CPUS_PER_TASK": "8", "SLURM_NTASKS_PER_NODE": "4"}, None, [("SLURM_CPUS_PER_TASK=8", 8, True)]),
    ({"SLURM_CPUS_PER_TASK": "8", **STEP}, None, [("SLURM_CPUS_PER_TASK=8", 8, True)]),
    ({"SLURM_CPUS_PER_TASK": "8", **STEP, **TORCHRUN}, None, [("SLURM_CPUS_PER_TASK=8", 8, False)]),
    (
        {"SLURM_CPUS_PER_TASK": "8", "SLURM_NTASKS_PER_NODE": "4"},
        2,
        [("SLURM_CPUS_PER_TASK=8 x 4 tasks on this node", 32, False)],
    ),
    (
        {"SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "64", "SLURM_JOB_NUM_NODES": "1"},
        None,
        [("SLURM_CPUS_PER_TASK=8", 8, False)],
    ),
    ({"SLURM_CPUS_ON_NODE": "32", "SLURM_JOB_NUM_NODES": "1"}, None, [("SLURM_CPUS_ON_NODE=32", 32, False)]),
    ({"SLURM_CPUS_ON_NODE": "32", "SLURM_JOB_NUM_NODES": "2"}, None, []),
    ({"SLURM_CPUS_ON_NODE": "32"}, None, []),
    ({"SLURM_CPUS_ON_NODE": "32", "SLURM_JOB_NUM_NODES": "1", **STEP}, None, [("SLURM_CPUS_ON_NODE=32", 32, False)]),
    (
        {"SLURM_CPUS_ON_NODE": "32", "SLURM_NNODES": "1", **STEP, **TORCHRUN},
        None,
        [("SLURM_CPUS_ON_NODE=32 / 4 tasks on this node", 8, False)],
    ),
    ({"NCPUS": "6"}, 2, [("PBS NCPUS=6", 6, False)]),
    ({"LSB_DJOB_NUMPROC": "6"}, None, [("LSF LSB_DJOB_NUMPROC=6", 6, False)]),
    ({"NSLOTS": "6"}, None, [("Grid Engine NSLOTS=6", 6, False)]),
    ({"PYTHON_CPU_COUNT": "3"}, None, [("PYTHON_CPU_COUNT=3", 3, True)]),
    ({"PYTHON_CPU_COUNT": "default"}, None, []),
    ({"LOKY_MAX_CPU_COUNT": "2"}, 4, [("LOKY_MAX_CPU_COUNT=2", 2, True)]),
]


@pytest.mark.parametrize(("environ", "told", "expected"), BOUNDS)
def test_bounds(environ, told, expected):
    """Each scheduler's bound is found, with who has it: every rank for itself, or all of the node together."""
    bounds, notes = bounds_of(environ, told)
    assert bounds == expected
    assert notes == []


@pytest.mark.parametrize(
    "name",
    ["SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "NCPUS", "NSLOTS", "LSB_DJOB_NUMPROC", "LOKY_MAX_CPU_COUNT"],
)
@pytest.mark.parametrize("value", ["eight", "0", "-1", "2.5"])
def test_garbage_leaves_a_note(name, value):
    """A value that is no count is left out and told, with its name."""
    bounds, notes = bounds_of({name: value, "SLURM_JOB_NUM_NODES": "1"})
    assert bounds == []
    assert notes == [f"{name}={value} is not a whole number of at least 1; it was left out."]


@pytest.mark.parametrize("value", ["x", "2(x", "0", "2(x1)", "2,,1"])
def test_garbage_in_the_task_list_leaves_a_note(value):
    """A task list that cannot be read, or has no entry for this node, counts as one rank and is told."""
    ranks, notes = ranks_of({"SLURM_TASKS_PER_NODE": value, "SLURM_NODEID": "5"})
    assert ranks.local_world_size == 1
    assert len(notes) == 1
    assert notes[0].startswith(f"SLURM_TASKS_PER_NODE={value} ")


def test_a_huge_task_list_is_not_unfolded():
    """A repeat count of a billion is counted, not written out."""
    ranks, _ = ranks_of({"SLURM_TASKS_PER_NODE": "2(x999999999)", "SLURM_NODEID": "999999998"})
    assert ranks.local_world_size == 2
