"""How many threads decode, and why."""

import pytest

from lightning_fastdata.datamodules.images.decode_threads import decide_threads


@pytest.mark.parametrize(
    ("workers", "cpus", "busy", "threads", "source"),
    [
        (0, 2, 0, 2, "hardware"),  # idle while the process loads
        (0, 0.5, 0, 1, "hardware"),
        (0, 64, 64, 16, "hardware"),
        (1, 2, 0, 2, "hardware"),  # an accelerator trains
        (1, 2, 2, 1, "rule"),  # the CPU trains
        (2, 2, 0, 1, "rule"),
        (7, 8, 0, 1, "rule"),
        (16, 64, 0, 4, "hardware"),
        (1, 64, 0, 16, "hardware"),
    ],
)
def test_threads_use_what_processes_leave(workers, cpus, busy, threads, source):
    count, reason = decide_threads("auto", workers, cpus, busy)
    assert (count, reason.source) == (threads, source)
    assert "cores" in reason.text


def test_the_users_number_wins():
    assert decide_threads(3, 8, 2) == (3, decide_threads(1, 0, 1)[1])
    assert decide_threads(3, 8, 2)[1].source == "user"
