"""A run that is resumed on another number of ranks at the same global batch: the same samples with the same values."""

from pathlib import Path

import programs
import pytest
import torch
from resume_cases import every_step, loader_states
from resume_ddp import LENGTH, STEPS, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*ckpt_path"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

SCRIPT = Path(__file__).with_name("resume_ddp.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One process with batches of eight, then all that two ranks with batches of four do."""
    folder = tmp_path_factory.mktemp("ranks")
    run("one", folder, callbacks=[every_step(folder, filename="one-{step}")], batch_size=8, devices=1)
    done = programs.run(SCRIPT, folder, LIGHTNING_FASTDATA_NUM_CPUS="6")
    assert done.returncode == 0, done.stderr
    return folder


def report(folder, scenario, rank=0):
    return torch.load(folder / f"{scenario}-{rank}.pt", weights_only=True)


def steps(folder, scenario, ranks=2):
    """For each step, the epoch and the samples of all ranks with their random values, in any order.

    Of an epoch's last batch, of five, the repeat of the last rank is left out.
    """
    seen = [report(folder, scenario, rank)["seen"] for rank in range(ranks)]
    rows = [[tuple(row) for _, batch in parts for row in batch.tolist()] for parts in zip(*seen, strict=True)]
    epochs = [epoch for epoch, _ in seen[0]]
    return [(epoch, sorted(row[:5] if len(row) == 6 else row)) for epoch, row in zip(epochs, rows, strict=True)]


def test_two_ranks_see_what_one_process_sees(folder):
    """Each global batch, the smaller last one included, holds the same samples with the same random values."""
    whole = steps(folder, "one", ranks=1)
    assert steps(folder, "two") == whole
    assert [len(samples) for _, samples in whole] == [8, 8, 5] * 2
    assert [epoch for epoch, _ in whole] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_one_process_resumed_on_two_ranks(folder, step):
    """From any step, an epoch's last included: what was left, dealt to two."""
    assert steps(folder, f"one-to-two-{step}") == steps(folder, "one", ranks=1)[step:]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_two_ranks_resumed_on_one_process(folder, tmp_path, step):
    """And the reverse."""
    run("back", tmp_path, path=folder / f"two-step={step}.ckpt", batch_size=8, devices=1)
    assert steps(tmp_path, "back", ranks=1) == steps(folder, "one", ranks=1)[step:]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_two_ranks_resumed_on_two(folder, step):
    """Each rank sees its own rest, in its order, without the workers of the first run."""
    for rank in (0, 1):
        whole = report(folder, "two", rank)["seen"][step:]
        found = report(folder, f"two-to-two-{step}", rank)["seen"]
        assert [epoch for epoch, _ in found] == [epoch for epoch, _ in whole]
        assert all(torch.equal(one, other) for (_, one), (_, other) in zip(found, whole, strict=True))


def test_the_checkpoint_is_that_of_every_rank(folder):
    """Lightning saves rank 0; its numbers are those of one process at the same global batch."""
    for step in range(1, STEPS + 1):
        (one,), (two,) = (loader_states(folder / f"{name}-step={step}.ckpt") for name in ("one", "two"))
        assert {**one, "generators": 0} == {**two, "generators": 0}
        assert one["global_batch_size"] == 8
        assert one["samples_consumed"] == [8, 16, LENGTH][(step - 1) % 3]


def test_ranks_draw_random_numbers_of_their_own(folder):
    """Resumed, rank 0 goes on with its numbers; rank 1 repeats neither those nor any of its own."""
    for step in range(1, STEPS):
        zero, one = (report(folder, f"two-to-two-{step}", rank)["drawn"] for rank in (0, 1))
        assert zero == report(folder, "two", 0)["drawn"][step:]
        assert set(one).isdisjoint(zero)
        assert set(one).isdisjoint(report(folder, "two", 1)["drawn"])


def test_another_global_batch_is_refused(folder):
    """Two ranks with the batch size of the one process would skip samples: both values are named."""
    error = (folder / "refused.txt").read_text()
    assert "FastDataError: the global batch size (batch_size times ranks) was 8" in error
    assert "and is 16" in error
    assert not (folder / "refused-0.pt").exists()
