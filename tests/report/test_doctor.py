"""What people read."""

import dataclasses
import io

import pytest
from rich.console import Console

from lightning_fastdata.hardware.affinity import OPENMP_NOTE
from lightning_fastdata.hardware.detect import Accelerator, Hardware, Limit
from lightning_fastdata.report.doctor import advice, doctor_view, meaning

GIB = 1 << 30
MACHINE = Limit("machine, CPUs 0-31 online", 32.0, "machine")
ROOMY = Hardware(
    cpu_limits=(MACHINE,),
    physical_cores=16,
    ram_bytes=256 * GIB,
    ram_available_bytes=200 * GIB,
    shm_free_bytes=100 * GIB,
    shm_total_bytes=128 * GIB,
    open_file_limit=65536,
    open_file_hard_limit=65536,
)


def bounded(source: str, cpus: float, kind: str) -> dict:
    return {"cpu_limits": (MACHINE, Limit(source, cpus, kind))}


def text_of(hardware: Hardware, width: int = 240) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(doctor_view(hardware))
    return console.file.getvalue()


ADVICE = [
    # what is different from a roomy machine, what the only advice must say
    (bounded("cgroup quota 4/1 us at /pod", 4, "quota"), ["4 of 32 CPUs", "--cpus=N", "resources.limits.cpu"]),
    (bounded("affinity mask 0-3", 4, "affinity"), ["bound to 4 of 32", "taskset", "--cpuset-cpus"]),
    (bounded("cpuset 0-3 at /pod", 4, "cpuset"), ["--cpuset-cpus"]),
    (bounded("SLURM_CPUS_PER_TASK=4", 4, "scheduler"), ["SLURM_CPUS_PER_TASK=4", "--cpus-per-task=N"]),
    (bounded("PBS NCPUS=4", 4, "scheduler"), ["ncpus=N"]),
    (bounded("LSF LSB_DJOB_NUMPROC=4", 4, "scheduler"), ["bsub -n N"]),
    (bounded("Grid Engine NSLOTS=4", 4, "scheduler"), ["qsub -pe smp N"]),
    (bounded("PYTHON_CPU_COUNT=4", 4, "scheduler"), ["PYTHON_CPU_COUNT=4", "unset that variable"]),
    (bounded("LIGHTNING_FASTDATA_NUM_CPUS=64", 64, "override"), ["more than the machine has (32 CPUs)"]),
    ({"shm_free_bytes": 64 << 20}, ["64 MiB free", "--shm-size=8g", "medium: Memory"]),
    ({"open_file_limit": 1024, "open_file_hard_limit": 524288}, ["1,024 files", "ulimit -n 65536"]),
    ({"open_file_limit": 1024, "open_file_hard_limit": None}, ["ulimit -n 65536"]),
    ({"open_file_limit": 1024, "open_file_hard_limit": 2048}, ["ulimit -n 2048"]),
    ({"open_file_limit": 1024, "open_file_hard_limit": 1024}, ["--ulimit nofile=65536:65536"]),
    ({"ram_available_bytes": GIB}, ["1.0 GiB of memory", "close other programs"]),
    ({"oom_kills": 2}, ["killed 2 processes", "fewer workers"]),
    ({"ram_available_bytes": GIB, "ram_limit_source": "cgroup"}, ["--memory=N", "--mem"]),
    ({"notes": (f"{OPENMP_NOTE} (OMP_PROC_BIND=close) has moved ...",)}, ["Unset OMP_PROC_BIND", "one CPU"]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "parts"), ADVICE)
def test_advice_says_what_to_change(changes, parts):
    """Each shortage has exactly one advice, with the figure and the option to change."""
    (line,) = advice(dataclasses.replace(ROOMY, **changes))
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    "changes",
    [
        {},
        bounded("cgroup quota 6400000/100000 us at /pod", 64, "quota"),
        bounded("affinity mask 0-31", 32, "affinity"),
        bounded("LIGHTNING_FASTDATA_NUM_CPUS=4", 4, "override"),
        {"shm_free_bytes": None, "open_file_limit": None, "ram_available_bytes": None},
    ],
)
def test_no_advice_without_a_reason(changes):
    """Where nothing is short, or nothing is known, or the user chose it, nothing is advised."""
    assert advice(dataclasses.replace(ROOMY, **changes)) == ()


def test_a_small_mask_under_slurm_points_to_srun():
    """Under SLURM a small mask is srun's doing, not taskset's."""
    mask = Limit("affinity mask 3", 1.0, "affinity")
    limits = (MACHINE, mask, Limit("SLURM_CPUS_ON_NODE=8", 8.0, "scheduler"))
    (line,) = advice(dataclasses.replace(ROOMY, cpu_limits=limits))
    assert "srun --cpus-per-task=N" in line


def test_advice_follows_the_limit_that_decides_for_a_rank():
    """A quota that four ranks share is the thing to raise, although each rank's own mask is smaller."""
    limits = (MACHINE, Limit("affinity mask 0-3", 4.0, "affinity"), Limit("cgroup quota 8", 8.0, "quota"))
    ranks = dataclasses.replace(ROOMY, cpu_limits=limits, local_world_size=4, ranks_share_mask=False)
    (line,) = advice(ranks)
    assert "cgroup quota 8" in line


MEANING = [
    ({}, ["at most 31 worker processes can work at full speed", "threads of 16 physical cores"]),
    (bounded("q", 0.5, "quota"), ["With 0.5 CPUs, worker processes", "num_workers=0 is best"]),
    (bounded("q", 2.0, "quota"), ["at most 1 worker process can"]),
    ({"local_world_size": 4}, ["One of 8 CPUs", "at most 7 worker processes per rank"]),
    ({"shm_free_bytes": 64 << 20}, ["64 MiB is room for 3 batches"]),
    ({}, ["No accelerator was found"]),
    ({"accelerators": (Accelerator("cuda", "X", "y"),)}, ["pinned memory lets the copy run beside"]),
    ({"accelerators": (Accelerator("mps", "X", "y"),)}, ["shares the machine's memory"]),
]


@pytest.mark.parametrize(("changes", "parts"), MEANING)
def test_what_it_means_for_a_loader(changes, parts):
    """The figures are put into plain sentences about workers, /dev/shm and pinned memory."""
    sentences = "\n".join(meaning(dataclasses.replace(ROOMY, **changes)))
    for part in parts:
        assert part in sentences


def test_the_view_shows_limits_and_which_one_decides():
    """Each limit has its number and source; exactly one is marked."""
    limits = (MACHINE, Limit("affinity mask 0-7", 8.0, "affinity"), Limit("cgroup quota 1/2 us at /p", 0.5, "quota"))
    text = text_of(dataclasses.replace(ROOMY, cpu_limits=limits))
    marked = [line for line in text.splitlines() if "<- decides" in line]
    assert len(marked) == 1
    assert marked[0].split() == ["0.5", "cgroup", "quota", "1/2", "us", "at", "/p", "<-", "decides"]
    assert "This process may use 0.5 CPUs." in text
    assert "Nothing stands out." not in text


def test_the_view_shows_the_share_of_each_rank():
    """With several ranks there is a column for one rank's share, and a sentence."""
    text = text_of(dataclasses.replace(ROOMY, local_world_size=4, world_size=8, rank=5))
    assert "per rank" in text
    assert "The 4 ranks on this node share one set of CPUs; each can count on 8 CPUs." in text
    assert "5 of 8, 4 on this node" in text


@pytest.mark.parametrize("width", [40, 80, 240])
def test_nothing_is_cut_at_any_width(width):
    """Long sources fold onto further lines; no character is lost to an ellipsis."""
    group = "/" + "/".join(f"level{number}" for number in range(30))
    source = f"cgroup quota 400000/100000 us at {group}"
    text = text_of(dataclasses.replace(ROOMY, **bounded(source, 4.0, "quota"), notes=("n" * 300,)), width)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert "level29" in "".join(text.split())
    assert "n" * 300 in "".join(text.split()).replace("-", "")


def test_the_view_survives_a_machine_that_tells_nothing():
    """With everything unknown the view still says so in words, and markup in a source stays text."""
    text = text_of(Hardware(cpu_limits=(Limit("[bold]odd[/bold]", 1.0, "machine"),)))
    assert "[bold]odd[/bold]" in text
    assert "unknown" in text


def test_meaning_says_what_auto_takes():
    """The doctor answers what num_workers="auto" would be, without starting a run."""
    eight = dataclasses.replace(ROOMY, cpu_limits=(Limit("machine", 8.0, "machine"),))
    assert any("takes 6 for training and 1 for validation" in line for line in meaning(eight))
