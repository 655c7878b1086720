"""Two processes under DDP: rank 0 tells what the slower one costs both, and neither ever waits for our sake."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from monitor_cases import three_tries

from lightning_fastdata.results.run_file import read_run
from lightning_fastdata.results.stats import RankTimes

SCRIPT = Path(__file__).parent / "rank_times.py"
MOST_S = 120.0
"""For a whole run, most of it imports (s). A rank that hung would be there until torch's time-out, 30 minutes."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(folder, slow, ending="finishes"):
    """Of each rank what it told (None where it died), its exit code and what it wrote to stderr."""
    folder.mkdir()
    usual = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(SCRIPT), str(folder / "run.jsonl"), str(slow), ending]
    processes, end = [], time.monotonic() + MOST_S
    try:
        for rank in range(2):
            with (folder / f"rank{rank}.txt").open("w") as said:
                environment = {**usual, "LOCAL_RANK": str(rank)}
                processes.append(subprocess.Popen(command, env=environment, stdout=said, stderr=said))
        codes = [process.wait(timeout=max(0.1, end - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    files = [folder / f"rank{rank}.json" for rank in range(2)]
    told = [json.loads(file.read_text()) if file.exists() else None for file in files]
    return [(told[rank], codes[rank], (folder / f"rank{rank}.txt").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("slow", [0, 1])
@three_tries
def test_rank_zero_tells_the_truth_whoever_is_slow(tmp_path, slow):
    """Trap 14: 40 ms and 4 ms a batch, 10 ms of compute; the fast rank alone believes that it hardly waits."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "run"
    (zero, code, error), (one, other_code, other_error) = run_ranks(folder, slow)
    assert (code, other_code) == (0, 0), error + other_error
    ranks = RankTimes.from_dict(zero["ranks"])
    assert one["ranks"] is None
    assert (ranks.ranks, ranks.world_size, ranks.steps, ranks.missing) == (2, 2, 25, ())
    assert 0.62 <= ranks.wait_share <= 0.80
    assert 0.040 <= ranks.wait_s_max_mean <= 0.046
    assert 0.040 <= ranks.wait_s_max_p95 <= 0.052
    assert (ranks.slowest_rank, ranks.slowest_host) == (slow, socket.gethostname())
    assert ranks.slowest_share >= 0.9
    assert ranks.lost_s == pytest.approx(25 * 0.036, rel=0.15)
    verdict = zero["verdict"]
    assert verdict["level"] == "input-bound"
    assert (verdict["cause"] == "straggler") == (slow == 1)  # where rank 0 itself is slow, its own loader is the cause
    assert (f"Rank 1 on {socket.gethostname()} held the others up" in verdict["text"]) == (slow == 1)
    own = {rank: share for rank, _, share in ranks.rank_wait_share}
    assert own[slow] == pytest.approx(ranks.wait_share, abs=0.03)
    assert own[1 - slow] <= 0.15
    assert own[0] == pytest.approx(zero["wait_share"], abs=0.05)
    assert zero["notes"] == one["notes"]
    saved = read_run(folder / "run.jsonl").summary
    assert saved.ranks == ranks


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["raises", "dies"])
def test_a_rank_that_stops_in_the_middle_holds_nobody_up(tmp_path, ending):
    """Traps 38 and 39. The other one fails in its own all-reduce; what both had done by then is compared."""
    (zero, code, error), (one, other_code, other_error) = run_ranks(tmp_path / "run", 1, ending)
    assert code == 0, error
    assert zero["raised"] is not None
    assert zero["status"] == "interrupted"
    ranks = RankTimes.from_dict(zero["ranks"])
    assert ranks.slowest_rank == 1
    assert 0.4 <= ranks.wait_share <= 0.9
    if ending == "raises":
        assert other_code == 0, other_error
        assert one["raised"] == "KeyError"
        assert one["steps"] == 5
        # Rank 0's fifth step has ended as well; the sixth has on neither.
        assert (ranks.steps, ranks.missing) == (5, ())
        assert "TCPStore" not in error + other_error
    else:
        assert (one, other_code) == (None, 9)
        assert (ranks.steps, ranks.missing) == (4, (1,))
    assert zero["fit_s"] <= 30
