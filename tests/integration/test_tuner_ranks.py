"""Two real ranks, one of them with slow data: both take the same workers, and see the same batches as without it."""

import json
from pathlib import Path

import programs
import pytest

from lightning_fastdata.loaders.order import epoch_order, rank_share

pytestmark = [pytest.mark.slow, pytest.mark.timed]

SCRIPT = Path(__file__).with_name("tuner_ddp.py")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of both runs, and what each of them printed."""
    folder = tmp_path_factory.mktemp("tuner")
    done = programs.run(SCRIPT, folder)
    assert done.returncode == 0, done.stderr
    return folder, *done.stderr.split("Run: ")[1:]


def report(folder, name):
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture
def ranks(done):
    """The run in which both could have what was decided."""
    return report(done[0], "agreed")


def test_both_ranks_decide_the_same(ranks):
    """From the same figures, which are those of the slow one: its probe, and its pace."""
    one, other = ranks
    assert one["trials"] == other["trials"]
    assert one["result"] == other["result"]
    assert one["workers"] == other["workers"] == one["result"][0]
    assert one["batch_s"] == other["batch_s"] > 0.025


def test_the_slow_rank_gets_what_it_needs(ranks):
    """32 ms a batch and a step of some milliseconds: workers were tried, and kept."""
    one, _ = ranks
    assert "kept" in [trial[3] for trial in one["trials"]]
    assert one["result"][0] > one["trials"][0][0]


def test_only_rank_0_tells(done):
    """Each line once."""
    lines = [line for line in done[1].splitlines() if "LoaderTuner: " in line]
    assert lines
    assert len(lines) == len(set(lines)) < 10


def test_the_batches_are_those_of_the_order(ranks):
    """Through every change in the middle of the epoch, on both ranks."""
    for rank, found in enumerate(ranks):
        share = rank_share(epoch_order(1, 0, 19_200), rank, 2, 16).tolist()
        seen = [int(number) for batch in found["seen"] for number in batch]
        assert len(seen) > 40 * 16
        assert seen == share[: len(seen)]


def test_what_one_rank_cannot_have_none_has(done):
    """No rank goes on to a collective in which the other is missing."""
    one, other = report(done[0], "refused")
    assert one["workers"] == other["workers"] == one["trials"][0][0]
    assert "cannot be had, so the workers stay as they are: not on another rank" in done[2]
