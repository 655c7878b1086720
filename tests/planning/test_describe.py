"""A plan in words."""

from lightning_fastdata.hardware.detect import Hardware, Limit
from lightning_fastdata.planning.describe import plan_lines
from lightning_fastdata.planning.options import Rehearsed
from lightning_fastdata.planning.plan import LoaderOptions, Workload, make_plan


def lines(options=None, **workload):
    hardware = Hardware(cpu_limits=(Limit("quota of 4 CPUs", 4.0, "quota"),))
    return plan_lines("val", make_plan(options or LoaderOptions(), hardware, Workload(**workload)))


def test_each_option_is_a_line_with_its_value_and_reason():
    """A heading, then value and reason of every option, in columns."""
    heading, *options = lines()
    assert heading == "Data loading for val:"
    assert [line.split("=")[0].strip() for line in options] == [
        "num_workers",
        "prefetch_factor",
        "pin_memory",
        "persistent_workers",
        "multiprocessing_context",
    ]
    assert options[0].startswith("  num_workers=2 ")
    assert "4 usable cores" in options[0]


def test_without_workers_only_what_says_something_is_told():
    """Options that need workers are left out when there are none."""
    _, *options = lines(in_memory=True)
    assert [line.split("=")[0].strip() for line in options] == ["num_workers", "pin_memory"]


def test_the_users_own_values_are_marked():
    """Who decided can be seen at a glance."""
    marked = [line for line in lines(LoaderOptions(num_workers=3, pin_memory=False)) if line.endswith("[you]")]
    assert [line.split("=")[0].strip() for line in marked] == ["num_workers", "pin_memory"]


def test_what_a_few_samples_took_is_a_line():
    """Times, the size of a batch, and what trying cost."""
    tried = Rehearsed(
        samples=8, sample_wall_s=2e-3, sample_cpu_s=1e-3, batch_bytes=3 * 2**19, batch_tensors=1, took_s=0.06
    )
    assert lines(rehearsed=tried)[-1] == (
        "  8 samples tried in 60 ms: 2 ms each (1 ms of CPU), a batch is 1.5 MiB in 1 tensor"
    )
    assert str(Rehearsed(samples=2, took_s=1.0)) == "2 samples tried in 1000 ms"
    assert str(Rehearsed(samples=2, batch_bytes=512, batch_tensors=2)).endswith(", a batch is 0.5 KiB in 2 tensors")
