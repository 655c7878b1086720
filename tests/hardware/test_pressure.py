"""Counters of a busy machine, on made-up ones."""

import pytest

from lightning_fastdata.hardware.cgroups import locate
from lightning_fastdata.hardware.pressure import Pressure, kept_waiting_s, read_pressure
from lightning_fastdata.hardware.sysfiles import SystemFiles

PSI = "some avg10=41.23 avg60=23.14 avg300=6.79 total=25858734\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"


def look(root):
    files = SystemFiles(root)
    return read_pressure(files, locate(files))


def test_both_counters_are_read(fake_root):
    """The line of "some", and the group that was throttled most among all above this process."""
    root = fake_root(
        {
            "/proc/pressure/cpu": PSI,
            "/sys/fs/cgroup/a/b/cpu.stat": "usage_usec 5\nnr_throttled 2\nthrottled_usec 1500000\n",
            "/sys/fs/cgroup/a/cpu.stat": "throttled_usec 4000000\n",
        },
        cgroup="0::/a/b",
    )
    assert look(root) == Pressure(pytest.approx(25.858734), 4.0)


def test_version_one_counts_in_nanoseconds(fake_root):
    """And calls it otherwise."""
    root = fake_root(
        {
            "/proc/self/mountinfo": "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
            "/sys/fs/cgroup/cpu/a/cpu.stat": "nr_periods 4\nnr_throttled 2\nthrottled_time 2500000000\n",
        },
        cgroup="1:cpu:/a",
    )
    assert look(root).throttled_s == 2.5


@pytest.mark.parametrize("text", [None, "", "some avg10=1", "full avg10=0 total=3", "some total=many", "some total=-"])
def test_what_is_not_there_or_not_to_be_read_is_not_known(fake_root, text):
    """None, and never 0."""
    assert look(fake_root({"/proc/pressure/cpu": text})) == Pressure(None, None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("123 2500000000 9", 2.5), ("0 0 0", 0.0), (None, None), ("1 2", None), ("a b c", None)]
)
def test_time_without_a_cpu(fake_root, text, seconds):
    """The second number of schedstat, in nanoseconds."""
    assert kept_waiting_s(SystemFiles(fake_root({"/proc/self/schedstat": text}))) == seconds
