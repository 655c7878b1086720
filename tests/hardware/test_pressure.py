"""Counters of a busy machine, on made-up ones, and what is concluded from them."""

import pytest

from lightning_fastdata.hardware.pressure import PressureReading, ProcessUsage, contention, private_bytes
from lightning_fastdata.hardware.sysfiles import SystemFiles

PSI = "some avg10=41.23 avg60=23.14 avg300=6.79 total=25858734\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"


def counters(root):
    return PressureReading.now(SystemFiles(root))[1:]


def test_both_counters_are_read(fake_root):
    """The line of "some", and the group that was throttled most among all above this process."""
    files = {
        "/proc/pressure/cpu": PSI,
        "/sys/fs/cgroup/a/b/cpu.stat": "usage_usec 5\nnr_throttled 2\nthrottled_usec 1500000\n",
        "/sys/fs/cgroup/a/cpu.stat": "throttled_usec 4000000\n",
    }
    assert counters(fake_root(files, cgroup="0::/a/b")) == (pytest.approx(25.858734), 4.0)


def test_version_one_counts_in_nanoseconds(fake_root):
    """And calls it otherwise."""
    files = {
        "/proc/self/mountinfo": "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
        "/sys/fs/cgroup/cpu/a/cpu.stat": "nr_periods 4\nnr_throttled 2\nthrottled_time 2500000000\n",
    }
    assert counters(fake_root(files, cgroup="1:cpu:/a")) == (None, 2.5)


@pytest.mark.parametrize("text", [None, "", "some avg10=1", "full avg10=0 total=3", "some total=many", "some total=-"])
def test_what_is_absent_or_cannot_be_read_is_not_known(fake_root, text):
    """None, and never 0."""
    assert counters(fake_root({"/proc/pressure/cpu": text})) == (None, None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("123 2500000000 9", 2.5), ("0 0 0", 0.0), (None, None), ("1 2", None), ("a b c", None)]
)
def test_what_a_process_has_used(fake_root, text, seconds):
    """The second number of schedstat, in nanoseconds; the bytes of io; and what was used between two readings."""
    files = {"/proc/self/schedstat": text, "/proc/self/io": "rchar: 7\nread_bytes: 4096\n"}
    usage = ProcessUsage.now(SystemFiles(fake_root(files)))
    assert (usage.kept_waiting_s, usage.disk_bytes) == (seconds, 4096)
    before = ProcessUsage(usage.cpu_s - 1.0, 0.0, None)
    assert usage.since(before) == (pytest.approx(1.0), seconds, None)
    assert (private_bytes() or 2**21) > 2**20


@pytest.mark.parametrize(
    ("waited", "stalled_s", "throttled_s", "words"),
    [
        (0.01, 0.9, None, None),  # the worker had its CPU: what others on the machine wait for is their affair
        (0.4, 0.0, 0.0, "the worker got no CPU for 40% of its time"),
        (None, 0.9, None, "tasks of this machine waited for a CPU in 90% of the probe's time"),
        (None, 0.1, None, None),
        (0.0, 0.0, 0.5, "a CPU quota stopped this process for 50% of the probe"),
        (None, None, None, None),
    ],
)
def test_a_busy_machine_is_known_by_who_was_kept_waiting(waited, stalled_s, throttled_s, words):
    """A second between two readings; an unknown figure is no reason to stop."""
    before = PressureReading(10.0, None if stalled_s is None else 5.0, None if throttled_s is None else 7.0)
    after = PressureReading(
        11.0, None if stalled_s is None else 5.0 + stalled_s, None if throttled_s is None else 7.0 + throttled_s
    )
    assert contention(waited, before, after) == words
