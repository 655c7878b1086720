"""Two processes under DDP: rank 0 tells what the slower one costs both, and neither ever waits for our sake."""

import json
import socket
import tempfile
from pathlib import Path

import msgspec
import programs
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


def run_ranks(folder, ending):
    """Both ranks to their end; gives the exit code of each, and what both printed."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    started = [programs.Program(SCRIPT, folder, ending, LOCAL_RANK=str(rank), **meeting) for rank in range(2)]
    done = [program.wait(MOST_S) for program in started]
    return [one.returncode for one in done], "".join(one.stdout + one.stderr for one in done)


def told_by(folder, run):
    """What each rank told of a run; None where it died."""
    files = [folder / f"{run}-{rank}.json" for rank in range(2)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


def check_slow(folder, slow):
    """40 ms and 4 ms a batch, 10 ms of compute; the fast rank alone believes that it hardly waits."""
    zero, one = told_by(folder, f"slow{slow}")
    ranks = msgspec.convert(zero["ranks"], RankTimes)
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
    assert (f"Rank 1 on {socket.gethostname()} stalled the other ranks" in verdict["text"]) == (slow == 1)
    own = {rank: share for rank, _, share in ranks.rank_wait_share}
    assert own[slow] == pytest.approx(ranks.wait_share, abs=0.03)
    assert own[1 - slow] <= 0.15
    assert own[0] == pytest.approx(zero["wait_share"], abs=0.05)
    assert zero["notes"] == one["notes"]
    assert read_run(folder / f"slow{slow}.jsonl").summary.ranks == ranks


def check_files(folder):
    """Each rank keeps its own records."""
    for rank, name in enumerate(["slow1.jsonl", "slow1.rank1.jsonl"]):
        run = read_run(folder / name)
        assert (run.header["rank"], run.summary.rank, run.summary.world_size) == (rank, rank, 2)
        assert len(run.records) == 25
        assert all(record.rank == rank and record.wait_s >= 0.004 for record in run.records)


def check_meeting(folder):
    """Rank 0 comes late to the meeting before each batch: that is no wait of rank 1."""
    late, waiting = (read_run(folder / file).summary for file in ("late.jsonl", "late.rank1.jsonl"))
    assert waiting.ledger["sync_s"] >= 0.5 * 25 * 0.02
    assert waiting.wait_s < 25 * 0.008
    assert late.ledger["sync_s"] < 0.5 * waiting.ledger["sync_s"]


@pytest.mark.slow
@three_tries
def test_rank_zero_tells_the_truth_whoever_is_slow_or_late(tmp_path):
    """Traps 14 and 15."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    codes, printed = run_ranks(folder, "finishes")
    assert codes == [0, 0], printed
    assert printed.count("Data wait / training time") == 1, "rank 0 alone prints"
    for slow in (0, 1):
        check_slow(folder, slow)
    check_files(folder)
    check_meeting(folder)


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.parametrize("ending", ["raises", "dies"])
def test_a_rank_that_stops_in_the_middle_holds_nobody_up(tmp_path, ending):
    """Traps 38 and 39. The other one fails in its own all-reduce; what both had done by then is compared."""
    codes, printed = run_ranks(tmp_path, ending)
    zero, one = told_by(tmp_path, "slow1")
    assert codes == [0, 0 if ending == "raises" else 9], printed
    assert zero["raised"] is not None
    assert zero["status"] == "interrupted"
    ranks = msgspec.convert(zero["ranks"], RankTimes)
    assert ranks.slowest_rank == 1
    assert 0.4 <= ranks.wait_share <= 0.9
    if ending == "raises":
        assert one["raised"] == "KeyError"
        left = read_run(tmp_path / "slow1.rank1.jsonl")
        assert (left.summary.status, left.summary.steps, len(left.records), one["steps"]) == ("interrupted", 5, 5, 5)
        # Rank 0's fifth step has ended as well; the sixth has on neither.
        assert (ranks.steps, ranks.missing) == (5, ())
        assert "TCPStore" not in printed
    else:
        assert one is None
        assert (ranks.steps, ranks.missing) == (4, (1,))
    assert zero["fit_s"] <= 30
