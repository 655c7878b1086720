"""Two ranks on the CPU: one line, the same as of one process, and nobody left waiting."""

import json
from pathlib import Path

import programs
import pytest

from lightning_fastdata.results.audit_compare import compare
from lightning_fastdata.results.audit_file import read_audit

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("ranks.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = programs.run(SCRIPT, folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


def audit(ranks, name):
    return read_audit(ranks[0] / f"{name}.jsonl")


def test_two_ranks_say_the_same_as_one_process(ranks):
    """Order and content of 10 global batches of 8, as one process makes them."""
    assert audit(ranks, "two") == audit(ranks, "one")
    found = compare(audit(ranks, "two"), audit(ranks, "one"))
    assert (found.same, found.batches, found.samples, found.aspects) == (True, 20, 160, ("order", "content"))


def test_one_reduction_an_epoch(ranks):
    assert json.loads((ranks[0] / "reductions.json").read_text()) == 2


@pytest.mark.parametrize(("name", "samples"), [("uneven", 77), ("padded", 73)])
def test_repeats_are_left_out(ranks, name, samples):
    """Five samples for two ranks, or one, which both then have: still the batch of one process, order and content."""
    assert audit(ranks, f"two-{name}") == audit(ranks, f"one-{name}")
    assert [line.samples for line in audit(ranks, f"two-{name}")] == [samples]


def test_a_rank_whose_audit_broke_leaves_no_wrong_line(ranks):
    """The other rank does not wait for it in vain, and what is left of the global batches is not measured."""
    assert [(line.digest, line.samples, line.batches) for line in audit(ranks, "broken")] == [(None, None, 10)] * 2
    assert ranks[1].count("DataAudit stopped") == 1


def test_a_run_resumed_in_mid_epoch_tells_the_rest(ranks):
    """Rank 0's sums are all that the checkpoint holds; the line begins where all ranks are known again."""
    resumed = audit(ranks, "resumed")
    assert [(line.epoch, line.first_batch, line.batches) for line in resumed] == [(0, 0, 10), (1, 3, 7)]
    found = compare(audit(ranks, "two"), resumed)
    assert found.difference is None
    assert found.from_batch == ((1, 3),)


def test_a_file_that_cannot_be_written_stops_all_ranks(ranks):
    """Before training, with the reason, and without a rank that waits for the others."""
    told = (ranks[0] / "folder.txt").read_text()
    assert "FastDataError" in told
    assert "cannot write there" in told


def test_ranks_that_are_not_forked(ranks):
    """The callback crosses to them by pickle, as under ddp_spawn."""
    assert audit(ranks, "two-pickled") == audit(ranks, "one")
