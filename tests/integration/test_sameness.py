"""The same batches, byte for byte, whatever the workers, prefetching, start method and ranks."""

import json
from itertools import chain, combinations, product
from pathlib import Path

import programs
import pytest
import torch
from sameness_cases import GLOBAL_BATCH, LENGTH, Augmented, fit, make_module, name_of
from torch.utils.data import DataLoader

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

SCRIPT = Path(__file__).with_name("sameness_cases.py")

WORKERS, PREFETCH, CONTEXTS, RANKS = (0, 1, 4), (2, 4), ("fork", "spawn", "forkserver"), (1, 2)

INLINE = [(0, None, None, ranks) for ranks in RANKS]
"""Without workers there is no prefetching and no start method."""

PAIRWISE = [
    *INLINE,
    (1, 2, "fork", 1),
    (1, 4, "spawn", 2),
    (1, 2, "forkserver", 2),
    (4, 4, "fork", 2),
    (4, 2, "spawn", 1),
    (4, 4, "forkserver", 1),
]
"""(workers, prefetch factor, start method, ranks): every pair of values comes together in at least one row."""

PRODUCT = [*INLINE, *product(WORKERS[1:], PREFETCH, CONTEXTS, RANKS)]
REST = [case for case in PRODUCT if case not in PAIRWISE]


def run_script(folder, cases):
    done = programs.Program(SCRIPT, folder, json.dumps(cases)).wait(900)
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.fixture(scope="module")
def pairwise(tmp_path_factory):
    return run_script(tmp_path_factory.mktemp("pairwise"), PAIRWISE)


@pytest.fixture(scope="module")
def rest(tmp_path_factory):
    return run_script(tmp_path_factory.mktemp("rest"), REST)


@pytest.fixture(scope="module")
def reference():
    """Two epochs in one process without workers; the keys are those of the script."""
    model = fit(make_module(), limit_val_batches=0)
    return {**{what: model.epochs(what) for what in ("digest", "samples")}, "weights": model.weights(), "model": model}


def flat(epochs):
    return [value for epoch in epochs for batch in epoch for value in batch]


def pairs_of(case):
    return {pair for pair in combinations(enumerate(case), 2) if None not in (pair[0][1], pair[1][1])}


def test_the_table_covers_every_pair():
    """Of any two of the four settings, every two values meet in one of its rows; no row is there twice."""
    assert set(chain(*map(pairs_of, PRODUCT))) == set(chain(*map(pairs_of, PAIRWISE)))
    assert len(set(PAIRWISE)) == len(PAIRWISE) == 8
    assert len(PRODUCT) == 2 + 2 * 2 * 3 * 2


# Without workers: what the comparisons below rest on


def test_random_values_differ_between_samples_and_epochs(reference):
    """Equal batches would be easy if nothing were random: no two samples of two epochs have the same noise."""
    noise = flat(reference["model"].epochs("noise"))
    assert len(set(noise)) == len(noise) == 2 * LENGTH
    assert set(flat(reference["model"].epochs("label"))) == {"cat", "dog", "cow", "owl"}


def test_flips_and_crops_are_drawn_anew_for_every_sample_and_epoch():
    """2 flips times 25 crops make 50 pictures: 60 samples show many of them, and change with the epoch."""

    class Same(Augmented):
        def __getitem__(self, index):
            return {**super().__getitem__(0), "index": index}

    model = fit(make_module(Same(60)), limit_val_batches=0)
    pictures = [
        {n: image for batch in epoch for n, image in zip(batch["numbers"], batch["image"], strict=True)}
        for epoch in model.seen["train"].values()
    ]
    assert 25 <= len(set(pictures[0].values())) <= 50
    assert sum(pictures[0][n] != pictures[1][n] for n in range(60)) > 50


def test_a_second_run_is_the_same_and_another_seed_is_not(reference):
    """Whatever the global generators held before."""
    torch.rand(5)
    again = fit(make_module(), limit_val_batches=0)
    other = fit(make_module(seed=43), limit_val_batches=0)
    assert (again.epochs(), again.weights()) == (reference["digest"], reference["weights"])
    assert set(flat(other.epochs("samples"))).isdisjoint(flat(reference["samples"]))


# The matrix


def check(case, found, reference):
    """One rank: every batch byte for byte, and the final weights. Two: every global batch, sample by sample."""
    workers, prefetch, context, ranks = case
    runs = [found[f"{name_of(case)}-{rank}"] for rank in range(ranks)]
    assert [run["used"] for run in runs] == [[workers, prefetch, context]] * ranks
    assert runs[0]["weights"] == runs[-1]["weights"]
    if ranks == 1:
        assert runs[0]["digest"] == reference["digest"]
        assert runs[0]["weights"] == reference["weights"]
        return
    for expected, *dealt in zip(reference["samples"], *(run["samples"] for run in runs), strict=True):
        for whole, *parts in zip(expected, *dealt, strict=True):
            filled = [*whole, *expected[0][: -len(whole) % ranks]]  # the last, with the first samples of the epoch
            assert [filled[rank::ranks] for rank in range(ranks)] == parts


@pytest.mark.slow
@pytest.mark.parametrize("case", PAIRWISE, ids=name_of)
def test_every_batch_is_the_same(case, pairwise, reference):
    """Two epochs of random flips, crops, NumPy noise and Python's choice, in any setting."""
    check(case, pairwise, reference)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("case", REST, ids=name_of)
def test_every_batch_is_the_same_in_the_full_product(case, rest, reference):
    """What the pairwise table leaves out."""
    check(case, rest, reference)


# That the comparison can fail


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_plain_loader_gives_other_bytes():
    """Torch's own DataLoader, seeded alike: its samples differ between 0 and 2 workers, so this test would see it."""

    def plain(workers):
        torch.manual_seed(1)
        loader = DataLoader(
            Augmented(), batch_size=GLOBAL_BATCH, num_workers=workers
        )  # in order: samples can be compared
        return fit(train=loader, limit_val_batches=0)

    none, two = plain(0), plain(2)
    assert none.epochs("numbers") == two.epochs("numbers")
    assert set(flat(none.epochs("noise"))).isdisjoint(flat(two.epochs("noise")))


@pytest.mark.slow
def test_undetermined_samples_differ_too():
    """``deterministic=False`` keeps the order, and gives up the bytes."""
    none, two = (fit(make_module(num_workers=n, deterministic=False), limit_val_batches=0) for n in (0, 2))
    assert none.epochs("numbers") == two.epochs("numbers")
    assert none.epochs() != two.epochs()


# Weights, and validation between the epochs


@pytest.fixture(scope="module")
def validated():
    return fit(make_module(Augmented(), Augmented(12, start=100)), max_epochs=3)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "persistent"), [(2, True), (2, False), (1, False)])
def test_the_final_weights_are_the_same(workers, persistent, validated):
    """Dropout draws from the training process's generators: loading must neither use them up nor put them off."""
    module = make_module(
        Augmented(), Augmented(12, start=100), num_workers=workers, persistent_workers=persistent, prefetch_factor=4
    )
    model = fit(module, max_epochs=3)
    assert model.epochs() == validated.epochs()
    assert model.epochs(stage="val") == validated.epochs(stage="val")
    assert model.weights() == validated.weights()


def test_validation_uses_up_no_random_numbers(validated, reference):
    """Training is the same with validation in between as without."""
    assert validated.epochs()[:2] == reference["digest"]
    longer = fit(make_module(), max_epochs=3, limit_val_batches=0)
    assert validated.weights() == longer.weights()


def test_every_validation_is_the_same(validated):
    """Random transforms in validation data draw the numbers of epoch 0 each time, so its figures can be compared."""
    first, second, third = validated.epochs(stage="val")
    assert first == second == third
    assert validated.epochs("numbers", "val")[0] == [list(range(100, 108)), list(range(108, 112))]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_validation_in_mid_epoch_changes_nothing(workers, validated):
    """With ``val_check_interval`` both loaders are open at once."""
    module = make_module(Augmented(), Augmented(12, start=100), num_workers=workers)
    model = fit(module, max_epochs=3, val_check_interval=2)
    assert model.epochs() == validated.epochs()
    assert model.weights() == validated.weights()
    val = model.epochs(stage="val")
    assert [batches[:2] for batches in val] == [batches[2:] for batches in val] == validated.epochs(stage="val")
