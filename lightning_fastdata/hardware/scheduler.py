"""What the environment variables of schedulers and launchers say: CPU bounds, and the ranks of this node."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from lightning_fastdata.errors import FastDataError, check_int
from lightning_fastdata.hardware.limits import Limit
from lightning_fastdata.hardware.sysfiles import parse_int, plain

__all__ = ["OVERRIDE", "Ranks", "Slurm", "read_bounds", "read_override", "read_ranks", "read_slurm"]

OVERRIDE = "LIGHTNING_FASTDATA_NUM_CPUS"
"""The variable with which a person says how many CPUs all ranks of a node may use together."""

Note = Callable[[str], None]

_LOCAL_SIZE_MPI = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE", "PMI_LOCAL_SIZE")
_WORLD_SIZE = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
_PER_NODE = (
    ("PBS ", "NCPUS"),
    ("PBS ", "PBS_NUM_PPN"),
    ("LSF ", "LSB_DJOB_NUMPROC"),
    ("Grid Engine ", "NSLOTS"),
)
_PER_PROCESS = ("PYTHON_CPU_COUNT", "LOKY_MAX_CPU_COUNT")


@dataclass(frozen=True)
class Slurm:
    """What SLURM says about this node; every figure is None where it says nothing."""

    tasks_on_node: int | None = None
    """Tasks of the job, or inside ``srun`` of the step, on this node."""

    cpus_per_task: int | None = None
    """CPUs asked for per task (SLURM_CPUS_PER_TASK)."""

    cpus_on_node: int | None = None
    """CPUs of the job on this node (SLURM_CPUS_ON_NODE)."""

    nodes: int | None = None
    """Nodes of the job."""

    in_step: bool = False
    """True: started by ``srun``, this process is one task. False: the batch script itself, it has all tasks' CPUs."""

    interactive: bool = False
    """A shell in an allocation: its tasks were requested, nothing has been started."""

    binds: bool = False
    """``srun`` gives each task CPUs of its own (SLURM_CPU_BIND)."""

    @property
    def cpus_of_all_tasks(self) -> int | None:
        """CPUs that the tasks of this node have together, as far as SLURM says."""
        if self.cpus_per_task is not None:
            return self.cpus_per_task * (self.tasks_on_node or 1)
        return self.cpus_on_node


@dataclass(frozen=True)
class Ranks:
    """Which of the training run's processes this one is."""

    rank: int = 0
    """Its number in the whole run, from 0."""

    world_size: int = 1
    """Processes of the run."""

    local_world_size: int = 1
    """Processes of the run on this node."""

    launcher: Literal["torchrun", "mpi", "slurm"] | None = None
    """Who started each of the ranks; None: one process, or Lightning starts the others from the first."""


def read_override(environ: Mapping[str, str]) -> tuple[Limit, ...]:
    """The user's own word on the CPUs of this node (``LIGHTNING_FASTDATA_NUM_CPUS``); nothing where unset or blank.

    It counts for all ranks of the node together and replaces every other limit, upwards and downwards: with 4 ranks
    and ``LIGHTNING_FASTDATA_NUM_CPUS=6`` each rank has 1.5 CPUs, whatever masks and quotas say.

    Raises:
        FastDataError: It is not a number above 0.
    """
    value = environ.get(OVERRIDE, "").strip()
    if not value:
        return ()
    try:
        cpus = float(value)
    except ValueError:
        cpus = math.nan
    if not (math.isfinite(cpus) and cpus > 0):
        raise FastDataError(
            f"{OVERRIDE}={plain(value, 60)}: not a number of CPUs.",
            expected="a number above 0, such as 8 or 1.5: the CPUs that all ranks of this node may use together.",
            fix=f"export {OVERRIDE}=8, or unset it to let the limits of the machine be found.",
        )
    return (Limit(f"{OVERRIDE}={plain(value, 60)}", cpus, "override"),)


def read_slurm(environ: Mapping[str, str], note: Note) -> Slurm:
    """Collect SLURM's variables; a value that cannot be read is left out with a note."""
    node = _first_number(environ, ("SLURM_NODEID",), note, least=0) or 0
    step_tasks = _tasks_on_node(environ, "SLURM_STEP_TASKS_PER_NODE", node, note)
    job_tasks = _first_number(environ, ("SLURM_NTASKS_PER_NODE",), note)
    if job_tasks is None:
        job_tasks = _tasks_on_node(environ, "SLURM_TASKS_PER_NODE", node, note)
    binding = f"{environ.get('SLURM_CPU_BIND', '')},{environ.get('SLURM_CPU_BIND_TYPE', '')}".lower()
    return Slurm(
        tasks_on_node=job_tasks if step_tasks is None else step_tasks,
        cpus_per_task=_first_number(environ, ("SLURM_CPUS_PER_TASK",), note),
        cpus_on_node=_first_number(environ, ("SLURM_CPUS_ON_NODE",), note),
        nodes=_first_number(environ, ("SLURM_JOB_NUM_NODES", "SLURM_NNODES"), note),
        in_step=step_tasks is not None or "SLURM_STEP_NUM_TASKS" in environ,
        interactive=environ.get("SLURM_JOB_NAME") in ("bash", "interactive"),
        binds=re.search(r"\b(mask|map|rank|threads|cores|sockets|ldoms)", binding) is not None,
    )


def read_ranks(environ: Mapping[str, str], slurm: Slurm, local_world_size: int | None, note: Note) -> Ranks:
    """Find this process's rank and how many ranks the node has.

    Args:
        environ: The variables that launchers set.
        slurm: What SLURM says.
        local_world_size: Ranks on this node as the Trainer knows them; wins over every variable. Without it:
            torchrun's LOCAL_WORLD_SIZE, then MPI's (mpirun runs inside SLURM jobs, never around them), then SLURM's.
        note: Takes a line about a value that could not be read.
    """
    fix = "pass the number of processes that train on this node (trainer.num_devices)."
    check_int("local_world_size", local_world_size, 1, allow=(None,), fix=fix)
    started: dict[Literal["torchrun", "mpi", "slurm"], int | None] = {
        "torchrun": _first_number(environ, ("LOCAL_WORLD_SIZE",), note),
        "mpi": _first_number(environ, _LOCAL_SIZE_MPI, note),
        "slurm": slurm.tasks_on_node if slurm.in_step or not slurm.interactive else None,
    }
    local = local_world_size or next((count for count in started.values() if count is not None), 1)
    launcher = next((name for name, count in started.items() if count is not None), None)
    world = _first_number(environ, _WORLD_SIZE, note) or local
    return Ranks(
        rank=_first_number(environ, _RANK, note, least=0) or 0,
        world_size=max(world, local),
        local_world_size=local,
        launcher=launcher if local > 1 and launcher and started[launcher] == local else None,
    )


def read_bounds(environ: Mapping[str, str], slurm: Slurm, ranks: Ranks, note: Note) -> tuple[Limit, ...]:
    """The upper bounds that schedulers and Python's own variables set.

    Bounds per task or per process are marked ``per_rank`` when each rank is such a task or process; bounds per node
    are shared by the ranks. Nothing here can raise what the mask or the quota allows.
    """
    bounds = [bound for bound in (_slurm_bound(slurm, ranks),) if bound is not None]
    for prefix, name in _PER_NODE:
        count = _first_number(environ, (name,), note)
        if count is not None:
            bounds.append(Limit(f"{prefix}{name}={count}", float(count), "scheduler"))
    for name in _PER_PROCESS:
        if environ.get(name, "").strip() == "default":  # Python's word for "as if it were not set"
            continue
        count = _first_number(environ, (name,), note)
        if count is not None:
            bounds.append(Limit(f"{name}={count}", float(count), "scheduler", per_rank=True))
    return tuple(bounds)


def _slurm_bound(slurm: Slurm, ranks: Ranks) -> Limit | None:
    """SLURM's bound: per task where it is known, else per node in a job of one node (elsewhere nodes may differ)."""
    tasks = slurm.tasks_on_node or 1
    inside_one_task = slurm.in_step and ranks.launcher in ("torchrun", "mpi")
    rank_is_task = tasks > 1 and tasks == ranks.local_world_size and not inside_one_task
    if slurm.cpus_per_task is not None:
        cpus, source = slurm.cpus_per_task, f"SLURM_CPUS_PER_TASK={slurm.cpus_per_task}"
        if rank_is_task or slurm.in_step or tasks == 1:
            return Limit(source, float(cpus), "scheduler", per_rank=rank_is_task)
        return Limit(f"{source} x {tasks} tasks on this node", float(cpus * tasks), "scheduler")
    if slurm.cpus_on_node is None or slurm.nodes != 1:
        return None
    source = f"SLURM_CPUS_ON_NODE={slurm.cpus_on_node}"
    if slurm.in_step and tasks > 1 and not rank_is_task:
        return Limit(f"{source} / {tasks} tasks on this node", slurm.cpus_on_node / tasks, "scheduler")
    return Limit(source, float(slurm.cpus_on_node), "scheduler")


def _first_number(environ: Mapping[str, str], names: tuple[str, ...], note: Note, least: int = 1) -> int | None:
    """The first of ``names`` that is set to a whole number of at least ``least``; others leave a note."""
    for name in names:
        value = environ.get(name, "").strip()
        if not value:
            continue
        number = parse_int(value)
        if number is not None and number >= least:
            return number
        note(f"{name}={plain(value, 60)} is not a whole number of at least {least}; it was left out.")
    return None


def _tasks_on_node(environ: Mapping[str, str], name: str, node: int, note: Note) -> int | None:
    """The entry of node ``node`` in a list such as ``2(x3),1`` (three nodes with 2 tasks, one with 1)."""
    value = environ.get(name, "").strip()
    if not value:
        return None
    first_node = 0
    for part in value.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?", part.strip())
        if match is None or int(match[1]) < 1:
            note(f"{name}={plain(value, 60)} is not a list such as 2(x3),1; it was left out.")
            return None
        first_node += int(match[2] or 1)
        if node < first_node:
            return int(match[1])
    note(f"{name}={plain(value, 60)} has no entry for node {node}; it was left out.")
    return None
