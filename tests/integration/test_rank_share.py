"""What each of several ranks gets of the samples, with a real Trainer and gloo."""

import json
from pathlib import Path

import programs
import pytest

from lightning_fastdata.loaders.order import epoch_order

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("rank_share_ddp.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank left by scenario, and what was printed."""
    folder = tmp_path_factory.mktemp("share")
    done = programs.run(SCRIPT, folder, LIGHTNING_FASTDATA_NUM_CPUS="6")
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}, done.stdout + done.stderr


def batches(ranks, scenario, stage, count=2):
    """For each step, the batches of all ranks; and what the first one gathered."""
    parts = [ranks[0][f"{scenario}-{rank}"][stage] for rank in range(count)]
    steps = [[mine for mine, _ in step] for step in zip(*parts, strict=True)]
    return steps, [gathered for _, gathered in parts[0]]


def samples(ranks, scenario, stage="train"):
    """All samples of each of two ranks, as numbers."""
    return [[int(n) for mine, _ in ranks[0][f"{scenario}-{rank}"][stage] for n in mine] for rank in (0, 1)]


@pytest.mark.parametrize("stage", ["train", "val"])
def test_what_a_step_gathers_has_one_shape(ranks, stage):
    """17 samples in batches of 12: of the five that are left, 2 ranks get 3 each and 3 ranks 2, a repeat included.

    It has the noise of the first occurrence. All else is what one process sees.
    """
    ((first,), (last,)), _ = batches(ranks, "fit-1", stage, 1)
    assert (len(first), len(last)) == (12, 5)
    for count, size in ((2, 3), (3, 2)):
        steps, gathered = batches(ranks, f"fit-{count}", stage, count)
        assert [[len(mine) for mine in step] for step in steps] == [[12 // count] * count, [size] * count]
        assert gathered == [sorted(first), sorted([*last, first[0]])]


def test_a_test_repeats_less_than_a_sample_a_rank(ranks):
    """Also where the last batch is the repeat alone."""
    assert samples(ranks, "test-7", "test") == [[0, 2, 4, 6], [1, 3, 5, 0]]
    assert samples(ranks, "test-9", "test") == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 0]]


def test_prediction_repeats_nothing(ranks):
    """A rank has a batch less then, and nothing of ours waits for it: the run was measured."""
    assert samples(ranks, "predict-7", "predict") == [[0, 2, 4, 6], [1, 3, 5]]
    assert samples(ranks, "predict-9", "predict") == [[0, 2, 4, 6, 8], [1, 3, 5, 7]]


def test_evaluation_without_repeats(ranks):
    """Each sample once; training of the same fit repeats one."""
    assert samples(ranks, "once", "val") == [list(range(0, 17, 2)), list(range(1, 17, 2))]
    assert [len(part) for part in samples(ranks, "once")] == [9, 9]
    assert samples(ranks, "once-test", "test") == [[0, 2, 4, 6, 8], [1, 3, 5, 7]]


@pytest.mark.parametrize("scenario", ["wrapped", "wrapped-auto"])
def test_a_wrapped_loader_is_not_dealt_and_counts_its_passes(ranks, scenario):
    """As in plain Lightning each rank reads all 8 samples, in six orders with as many noises, not in one."""
    assert all(sorted(part) == sorted([*range(8)] * 3) for part in samples(ranks, scenario))
    seen = [[n for mine, _ in ranks[0][f"{scenario}-{rank}"]["train"] for n in mine] for rank in (0, 1)]
    assert len({tuple(part[at : at + 8]) for part in seen for at in (0, 8, 16)}) == 6
    assert len({n for part in seen for n in part}) == 48


def test_ranks_that_load_samples_of_their_own_and_wrap_the_loader_train_on_all(ranks):
    """Eight a rank and epoch, where a share of a share would be four. That nothing is dealt is said once a run."""
    assert [sorted(part) for part in samples(ranks, "wrapped-own")] == [
        sorted([*range(100 * rank, 100 * rank + 8)] * 3) for rank in (0, 1)
    ]
    assert ranks[1].count("No Trainer took this loader of Noisy") == 3


def test_a_loader_made_before_the_ranks_is_dealt_to_them(ranks):
    """It was made where rank 0 was to be."""
    order = epoch_order(7, 0, 16).tolist()
    assert samples(ranks, "before") == [order[0::2], order[1::2]]
