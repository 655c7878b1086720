"""Two ranks on the CPU: every sample once, cores divided, one voice."""

import json
from pathlib import Path

import programs
import pytest
import torch
from datamodule_cases import tagged

from lightning_fastdata import TensorDataModule
from lightning_fastdata.loaders.order import epoch_order

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("datamodule_ddp.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank left by scenario, and what was printed."""
    folder = tmp_path_factory.mktemp("ddp")
    done = programs.run(SCRIPT, folder, LIGHTNING_FASTDATA_NUM_CPUS="6", PL_GLOBAL_SEED="42")
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}, done.stdout + done.stderr


def seen(ranks, scenario, stage="train"):
    """For each epoch, the samples of both ranks."""
    zero, one = (
        [[n for batch in epoch for n in batch] for epoch in ranks[0][f"{scenario}-{rank}"]["seen"][stage]]
        for rank in (0, 1)
    )
    return list(zip(zero, one, strict=True))


def test_one_sample_is_repeated_where_a_rank_would_have_none(ranks):
    """17 samples for two ranks, batches of 4: the last one alone cannot give both ranks a step. That is said once."""
    ((zero, one),) = seen(ranks, "padded")
    order = epoch_order(42, 0, 17).tolist()
    assert (zero, one) == (order[0::2], [*order[1::2], order[0]])
    assert [ranks[0][f"padded-{rank}"]["steps"] for rank in (0, 1)] == [3, 3]
    assert ranks[1].count("1 of 17 samples repeat") == 1


def test_workers_and_runs_change_nothing(ranks):
    """The second run, without workers, sees the same samples on the same rank."""
    assert seen(ranks, "fit") == seen(ranks, "again")


def test_the_ranks_follow_the_order_of_one_process(ranks):
    """Rank r takes every second sample of the epoch's order, in three steps; the first one fills up the last batch."""
    assert [ranks[0][f"fit-{rank}"]["steps"] for rank in (0, 1)] == [6, 6]
    for epoch, (zero, one) in enumerate(seen(ranks, "fit")):
        order = epoch_order(42, epoch, 21).tolist()
        assert (zero, one) == (order[0::2], [*order[1::2], order[0]])


def test_shuffle_false_is_kept(ranks):
    """Lightning's own sampler shuffles training data whatever the user said; ours does not."""
    in_order = list(range(21))
    assert seen(ranks, "in-order") == [(in_order[0::2], [*in_order[1::2], 0])] * 2


def test_a_trainer_that_deals_nothing_is_respected(ranks):
    """With use_distributed_sampler=False every rank gets all the data, as Lightning promises."""
    assert [(sorted(zero), sorted(one)) for zero, one in seen(ranks, "everything")] == [(list(range(21)),) * 2]


@pytest.mark.parametrize(("scenario", "stage", "epochs"), [("fit", "val", 2), ("test", "test", 1)])
def test_evaluation_is_dealt_in_order(ranks, scenario, stage, epochs):
    """7 samples: both ranks evaluate four, as with Lightning's own sampler. That is said by us, not by Lightning."""
    assert seen(ranks, scenario, stage) == [([0, 2, 4, 6], [1, 3, 5, 0])] * epochs
    assert ranks[1].count("1 of 7 samples repeat") == 3
    assert "replicates" not in ranks[1]


def test_the_loader_lightning_built_again_is_ours(ranks):
    """The class is kept, and the dataset still answers the user's attributes."""
    for rank in (0, 1):
        assert ranks[0][f"fit-{rank}"]["loader"] == "ResumableDataLoader"
        assert ranks[0][f"fit-{rank}"]["attributes"] == ["even", "odd"]


def test_the_ranks_divide_the_cores(ranks):
    """6 CPUs, two ranks: 3 each, of which one worker trains and one validates."""
    for rank in (0, 1):
        plans = ranks[0][f"fit-{rank}"]["plans"]
        assert plans["train"]["num_workers"]["value"] == 1
        assert plans["val"]["num_workers"]["value"] == 1
        assert plans["train"]["num_workers"]["reason"].startswith("3 usable cores")
        assert "2 ranks on this node" in plans["train"]["num_workers"]["reason"]


def test_the_workers_of_the_ranks_draw_other_numbers(ranks):
    """What torch draws them from differs by rank, and are the same in the next run."""
    zero, one = (ranks[0][f"fit-{rank}"]["worker_seeds"] for rank in (0, 1))
    assert zero != one
    assert [ranks[0][f"again-{rank}"]["worker_seeds"] for rank in (0, 1)] == [zero, one]


def test_plans_are_told_by_one_rank(ranks):
    """Once for each loader of each DataModule, not once per rank; those of "pickled" are printed elsewhere."""
    assert ranks[1].count("Data loading for train:") == 10
    assert ranks[1].count("Data loading for predict:") == 2


def test_tensors_under_two_ranks(ranks):
    """Whole batches by index: every row once, held-out rows never trained on."""
    val = sorted(n for epoch in seen(ranks, "tensors", "val")[:1] for part in epoch for n in part)
    assert len(set(val)) == 4
    for zero, one in seen(ranks, "tensors"):
        assert sorted(zero + one) == sorted(set(range(20)) - set(val))


def test_augmented_tensors_under_two_ranks(ranks):
    """Batch by batch what one process with both ranks' batch size gives, each sample with the same random number."""
    loader = TensorDataModule(
        train=torch.arange(21.0), batch_size=6, train_transform=tagged, seed=42
    ).train_dataloader()
    for epoch in range(2):
        expected = [batch.int().tolist() for batch in loader]
        repeated = [sorted(batch) for batch in (*expected[:-1], [*expected[-1], expected[0][0]])]
        parts = [ranks[0][f"augmented-{rank}"]["seen"]["train"][epoch] for rank in (0, 1)]
        assert [sorted(zero + one) for zero, one in zip(*parts, strict=True)] == repeated
        assert len(expected) == 4


def test_tensors_overfit_under_two_ranks(ranks):
    """The same two batches of each rank in both epochs."""
    first, second = seen(ranks, "overfit")
    assert first == second
    assert [len(part) for part in first] == [6, 6]
    assert set(first[0]).isdisjoint(first[1])


@pytest.mark.parametrize("scenario", ["predict", "predict-tensors"])
def test_predictions_are_made_once(ranks, scenario):
    """11 samples for two ranks, without padding."""
    ((zero, one),) = seen(ranks, scenario, "predict")
    assert sorted(zero + one) == list(range(11))


def test_a_batch_sampler_subclass_keeps_its_batches(ranks):
    """Batches of four, every sample once."""
    ((zero, one),) = seen(ranks, "batches")
    assert sorted(zero + one) == list(range(16))
    assert {len(batch) for rank in (0, 1) for batch in ranks[0][f"batches-{rank}"]["seen"]["train"][0]} == {4}


def test_a_plain_batch_sampler_is_refused(ranks):
    """Lightning would make batches of one of it, in silence; torch hands on the rank's error within its own."""
    assert ranks[0]["plain"] is True
    assert "plain-0" not in ranks[0]


def test_ranks_that_are_not_forked(ranks):
    """The DataModule crosses to them by pickle, as under ddp_spawn; every sample is seen once."""
    (train,), (val,) = seen(ranks, "pickled"), seen(ranks, "pickled", "val")
    assert sorted([*train[0], *train[1], *val[0], *val[1]]) == list(range(12))


def test_each_block_of_tokens_once(ranks):
    """Together the epoch of one process with twice the batch size."""
    parts = [ranks[0][f"tokens-{rank}"]["seen"]["train"][0] for rank in (0, 1)]
    order = epoch_order(7, 0, 11).tolist()
    dealt = [order[0::2], [*order[1::2], order[0]]]
    assert [[n for batch in part for n in batch["input_ids"][::8]] for part in parts] == dealt


# Streams


@pytest.mark.parametrize("scenario", ["stream", "stream-workers", "stream-told"])
def test_two_ranks_train_on_every_element_once(ranks, scenario):
    """21 elements, ``even``: 10 for each rank in both epochs, the last left out, and nobody waits forever."""
    for zero, one in seen(ranks, scenario):
        assert (sorted(zero), sorted(one)) == (list(range(0, 20, 2)), list(range(1, 20, 2)))


def test_workers_see_to_it_that_ranks_make_the_same_steps(ranks):
    """Three workers with 4, 3 and 3 elements in batches of two: six steps an epoch on either rank."""
    assert [ranks[0][f"stream-workers-{rank}"]["steps"] for rank in (0, 1)] == [12, 12]


def test_two_ranks_predict_every_element_once(ranks):
    """Without ``even`` nothing is left out: 11 and 10."""
    ((zero, one),) = seen(ranks, "stream-uneven", "predict")
    assert (sorted(zero), sorted(one)) == (list(range(0, 21, 2)), list(range(1, 21, 2)))


def test_a_worker_that_is_not_forked_and_has_no_rank_stops(ranks):
    """A plain loader under Lightning: an error instead of the same data on both ranks."""
    assert ranks[0]["stream-untold"] is True
