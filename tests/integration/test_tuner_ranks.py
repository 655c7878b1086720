"""Two real ranks, one of them with slow data: both take the same workers, and see the same batches as without it."""

import json
from pathlib import Path

import programs
import pytest

from lightning_fastdata.loaders.order import epoch_order, rank_share

pytestmark = [pytest.mark.slow, pytest.mark.timed]

SCRIPT = Path(__file__).with_name("tuner_ddp.py")


def run(folder, mode):
    done = programs.run(SCRIPT, folder, mode)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)], done.stdout + done.stderr


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run(tmp_path_factory.mktemp("tuner"), "agreed")


def test_both_ranks_decide_the_same(ranks):
    """From the same figures, which are those of the slow one: its probe, and its pace."""
    (one, other), _ = ranks
    assert one["trials"] == other["trials"]
    assert one["result"] == other["result"]
    assert one["workers"] == other["workers"] == one["result"][0]
    assert one["batch_s"] == other["batch_s"] > 0.025


def test_the_slow_rank_gets_what_it_needs(ranks):
    """32 ms a batch and a step of some milliseconds: workers were tried, and kept."""
    (one, _), _ = ranks
    assert "kept" in [trial[3] for trial in one["trials"]]
    assert one["result"][0] > one["trials"][0][0]


def test_only_rank_0_tells(ranks):
    """Each line once."""
    lines = [line for line in ranks[1].splitlines() if "LoaderTuner: " in line]
    assert lines
    assert len(lines) == len(set(lines)) < 10


def test_the_batches_are_those_of_the_order(ranks):
    """Through every change in the middle of the epoch, on both ranks."""
    for rank, found in enumerate(ranks[0]):
        share = rank_share(epoch_order(1, 0, 19_200), rank, 2, 16).tolist()
        seen = [int(number) for batch in found["seen"] for number in batch]
        assert len(seen) > 40 * 16
        assert seen == share[: len(seen)]


def test_what_one_rank_cannot_have_none_has(tmp_path):
    """No rank goes on to a collective in which the other is missing."""
    (one, other), printed = run(tmp_path, "refused")
    assert one["workers"] == other["workers"] == one["trials"][0][0]
    assert "cannot be had, so the workers stay as they are: not on another rank" in printed
