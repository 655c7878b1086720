"""Lightning's own features on top: the right samples, and the same bytes with and without workers."""

import json
from itertools import chain, zip_longest
from pathlib import Path

import albumentations
import numpy as np
import programs
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.utilities import CombinedLoader
from sameness_cases import LENGTH, Augmented, fit, make_model, make_module, make_trainer
from torch.utils.data import BatchSampler, Dataset, RandomSampler, Sampler, WeightedRandomSampler

from lightning_fastdata import FastDataModule, auto_dataloader
from lightning_fastdata.loaders.order import derive_seed, epoch_order

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),  # Lightning: no validation data
]

WORKERS = pytest.mark.parametrize("workers", [0, 2])


def numbers(model, stage="train"):
    """The samples of each epoch, batches joined."""
    return [[n for batch in epoch for n in batch] for epoch in model.epochs("numbers", stage)]


@pytest.fixture(scope="module")
def plain():
    """Three epochs without any feature and without workers, what the others are compared to."""
    return fit(make_module(), max_epochs=3, limit_val_batches=0)


def run(module, **kwargs):
    return fit(module, **{"limit_val_batches": 0, **kwargs})


def both(build, **kwargs):
    """The same run with 0 and 2 workers, which must agree; the first of them."""
    none, two = (run(build(workers), **kwargs) for workers in (0, 2))
    assert none.seen == two.seen
    assert none.weights() == two.weights()
    return none


def usual(workers):
    return make_module(num_workers=workers)


# Generators that a dataset holds (those of the other tests draw from one, too)


class HoldsOne(Dataset):
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return self.rng.random()


class Painted(Augmented):
    """Images through albumentations, whose transforms hold two generators each and keep what they drew last."""

    def __init__(self, seed):
        super().__init__(16)
        blur = albumentations.OneOf([albumentations.Blur(), albumentations.MedianBlur()])
        noise = [albumentations.GaussNoise(p=1), albumentations.GaussNoise(p=1)]
        self.painter = albumentations.Compose([albumentations.HorizontalFlip(), blur, *noise], seed=seed)

    def __getitem__(self, index):
        image = np.full((8, 8, 3), 128, dtype=np.uint8)
        return {**super().__getitem__(index), "noise": self.painter(image=image)["image"].astype(np.float32)}


def test_a_generator_in_the_dataset():
    """No number comes twice, and four workers give what none gives."""

    def numbers_of(workers, dataset):
        return torch.cat(list(auto_dataloader(dataset, seed=7, num_workers=workers, batch_size=2))).tolist()

    dataset = HoldsOne()
    four = numbers_of(4, dataset)
    assert len(set(four)) == 16
    assert numbers_of(0, dataset) == four


def test_albumentations():
    """Every image is another, in every epoch; whatever the workers and the seed that the transforms were given."""
    none, two = (run(make_module(Painted(seed), num_workers=workers)) for seed, workers in ((None, 0), (1, 2)))
    assert none.seen == two.seen
    assert len({value for epoch in none.epochs("noise") for batch in epoch for value in batch}) == 32


# Parts of an epoch


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize("batches", [2, 0.5])
def test_overfit_batches(batches):
    """The first samples of the data in every epoch, in order; augmented anew, as Lightning does."""
    model = both(lambda n: make_module(Augmented(32), num_workers=n), overfit_batches=batches, max_epochs=3)
    assert numbers(model) == [list(range(16))] * 3
    noise = [value for epoch in model.epochs("noise") for batch in epoch for value in batch]
    assert len(set(noise)) == 48


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({"limit_train_batches": 2}, (2, 2, 2)),
        ({"limit_train_batches": 0.75}, (3, 3, 3)),
        ({"fast_dev_run": True}, (1,)),
        ({"fast_dev_run": 3}, (3,)),
        ({"max_steps": 6, "max_epochs": -1}, (4, 2)),
        ({"reload_dataloaders_every_n_epochs": 1}, (4, 4, 4)),
        ({"reload_dataloaders_every_n_epochs": 2}, (4, 4, 4)),
        ({"accumulate_grad_batches": 2}, (4, 4, 4)),
    ],
    ids=str,
)
def test_the_first_batches_of_each_epoch(plain, options, batches):
    """As they are without the feature; new loaders go on where the old ones were."""
    model = both(usual, **{"max_epochs": 3, **options})
    assert model.epochs() == [epoch[:count] for epoch, count in zip(plain.epochs(), batches, strict=False)]
    if "reload_dataloaders_every_n_epochs" in options:
        assert model.weights() == plain.weights()


# Tuning


@WORKERS
def test_batch_size_finder(workers, tmp_path):
    """The fit after the search is that of a run which had the batch size from the start, weights included.

    Without dropout: Lightning's trials draw from the model's generators, and it does not put those back.
    """

    class Finder(BatchSizeFinder):
        def on_fit_start(self, trainer, pl_module):
            super().on_fit_start(trainer, pl_module)
            trials.append({len(batch) for epoch in pl_module.epochs("numbers") for batch in epoch})
            pl_module.seen.clear()

    trials = []
    module = make_module(Augmented(64), batch_size=4, num_workers=workers)
    finder = Finder(steps_per_trial=2, init_val=4, max_trials=3)
    model = run(module, model=make_model(dropout=0), callbacks=[finder], default_root_dir=tmp_path)
    assert trials == [{4, 8, 16}]
    assert module.batch_size == 16
    expected = run(make_module(Augmented(64), batch_size=16), model=make_model(dropout=0))
    assert model.epochs("numbers") == expected.epochs("numbers")
    assert model.seen == expected.seen
    assert model.weights() == expected.weights()


@WORKERS
def test_learning_rate_finder(workers, tmp_path):
    """The fit after the search begins with the first batch of epoch 0; its weights are those of its rate."""

    class Finder(LearningRateFinder):
        def on_fit_start(self, trainer, pl_module):
            super().on_fit_start(trainer, pl_module)
            assert len(pl_module.epochs()[0]) == 30
            pl_module.seen.clear()

    module = make_module(Augmented(128), batch_size=4, num_workers=workers)
    finder = Finder(num_training_steps=30, min_lr=1e-4, max_lr=1e-2, early_stop_threshold=None)
    model = run(module, callbacks=[finder], default_root_dir=tmp_path)
    expected = run(make_module(Augmented(128), batch_size=4), model=make_model(lr=model.lr))
    assert model.lr != 0.01
    assert model.epochs("numbers") == expected.epochs("numbers")
    assert model.seen == expected.seen
    assert model.weights() == expected.weights()


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_loaders_that_the_search_has_read_begin_anew(tmp_path):
    """Loaders handed to ``fit`` are the same objects before and after; the shorter one had come round meanwhile."""

    class Finder(LearningRateFinder):
        def on_fit_start(self, trainer, pl_module):
            super().on_fit_start(trainer, pl_module)
            pl_module.seen.clear()

    def trained(*callbacks):
        trainer = make_trainer(callbacks=list(callbacks), limit_val_batches=0, default_root_dir=tmp_path)
        model = make_model()
        options = {"trainer": trainer, "split": "train", "batch_size": 4, "num_workers": 0}
        long, short = (auto_dataloader(data, **options) for data in (Augmented(24), Augmented(10, start=100)))
        trainer.fit(model, {"long": long, "short": short})
        return model.seen

    assert trained(Finder(num_training_steps=5, early_stop_threshold=None)) == trained()


# Several loaders


def of(model, name, what="numbers"):
    """What one of the loaders gave, by epoch."""
    return [
        [value for step in epoch if step[name] is not None for value in step[name][what]]
        for _, epoch in sorted(model.seen["train"].items())
    ]


def orders_of_long(epoch):
    """Loaders side by side draw orders of their own."""
    return epoch_order(derive_seed(42, "train/long"), epoch, 24).tolist()


def orders_of_short(epoch, cycle=0):
    return [100 + index for index in epoch_order(derive_seed(42, "train/short"), epoch, 10, cycle).tolist()]


def test_a_shorter_loader_comes_round():
    """max_size_cycle, Lightning's default: each time round has an order and random numbers of its own."""

    class Combining(FastDataModule):
        def train_dataloader(self):
            return CombinedLoader(super().train_dataloader(), "max_size_cycle")

    data = {"long": Augmented(24), "short": Augmented(10, start=100)}
    model = both(lambda n: make_module(data, batch_size=4, num_workers=n), max_epochs=2)
    assert of(model, "long") == [orders_of_long(epoch) for epoch in range(2)]
    assert of(model, "short") == [orders_of_short(epoch) + orders_of_short(epoch, 1) for epoch in range(2)]
    noise = [value for epoch in of(model, "short", "noise") for value in epoch]
    assert len(set(noise)) == len(noise) == 40
    assert model.seen == run(Combining(data, batch_size=4, num_workers=0, seed=42), max_epochs=2).seen


def test_validation_loaders_one_after_the_other():
    """Each sees its samples in order, with the same random numbers in every epoch."""
    parts = [Augmented(6, start=100), Augmented(5, start=200)]
    model = both(lambda n: make_module(Augmented(), parts, batch_size=4, num_workers=n), limit_val_batches=1.0)
    assert numbers(model, "val") == [[*range(100, 106), *range(200, 205)]] * 2
    first, second = model.seen["val"].values()
    assert first == second


# Samplers of the user's


class Permutation(Sampler):
    """SampleRng from the global generator, and gives tensors, as samplers written by hand do."""

    def __init__(self, length=LENGTH):
        self.length = length

    def __iter__(self):
        return iter(torch.randperm(self.length))

    def __len__(self):
        return self.length


def with_kwargs(make):
    return lambda workers: make_module(num_workers=workers, dataloader_kwargs={"train": make()})


def test_a_sampler_of_the_users_draws_the_same_in_every_run():
    """From generators seeded for the epoch, whatever ran before; its order differs between epochs."""
    model = both(with_kwargs(lambda: {"sampler": Permutation()}))
    first, second = numbers(model)
    assert sorted(first) == sorted(second) == list(range(LENGTH))
    assert first != second
    other = make_model(dropout=0)
    torch.manual_seed(9)
    run(with_kwargs(lambda: {"sampler": Permutation()})(0), model=other)
    assert other.seen == model.seen


def test_samples_drawn_with_replacement_are_augmented_differently():
    """The second time an epoch draws a sample its random numbers are others, in any worker."""
    weights = [5.0] * 3 + [1.0] * (LENGTH - 3)
    model = both(with_kwargs(lambda: {"sampler": WeightedRandomSampler(weights, 40)}))
    for epoch in model.seen["train"].values():
        drawn = [n for batch in epoch for n in batch["numbers"]]
        noise = [value for batch in epoch for value in batch["noise"]]
        assert len(set(drawn)) < len(drawn) == len(set(noise)) == 40


def test_tensors_drawn_with_replacement_are_augmented_differently():
    """A sampler may give indices as tensors: equal ones are the same sample."""

    class Twice(Sampler):
        def __iter__(self):
            return iter(torch.tensor([3, 3, 4, 3]))

        def __len__(self):
            return 4

    model = both(with_kwargs(lambda: {"sampler": Twice()}))
    noise = [value for epoch in model.epochs("noise") for batch in epoch for value in batch]
    assert len(set(noise)) == len(noise) == 8


def test_a_sampler_without_a_length_is_drawn_apart():
    """It is drawn while the model works, earlier with more prefetching: that must not shift dropout."""

    class Endless(Sampler):
        def __iter__(self):
            while True:
                yield int(torch.randint(LENGTH, ()))

    model = both(with_kwargs(lambda: {"sampler": Endless()}), limit_train_batches=4)
    first, second = numbers(model)
    assert first != second


def test_a_generator_of_the_users_decides_the_order():
    """A RandomSampler with a generator of its own goes on with it from epoch to epoch, as in torch."""

    def seeded():
        return {"sampler": RandomSampler(range(LENGTH), generator=torch.Generator().manual_seed(5))}

    model = both(with_kwargs(seeded))
    again = seeded()["sampler"]
    assert numbers(model) == [list(again), list(again)]


def test_a_batch_sampler_of_the_users():
    """Its batches are the batches; every sample as it would be in any other batch of the epoch."""

    class Batches(BatchSampler):
        pass

    model = both(with_kwargs(lambda: {"batch_sampler": Batches(Permutation(), 5, True)}))
    assert [[len(batch) for batch in epoch] for epoch in model.epochs("numbers")] == [[5] * 5] * 2
    plain = both(usual)
    for epoch, other in zip(model.seen["train"].values(), plain.seen["train"].values(), strict=True):
        usual_samples = {sample for batch in other for sample in batch["samples"]}
        assert usual_samples.issuperset(sample for batch in epoch for sample in batch["samples"])


def test_training_data_in_order(plain):
    """shuffle=False: other batches, but each sample has the random numbers it has in the shuffled run."""
    model = both(lambda n: make_module(num_workers=n, shuffle=False))
    assert numbers(model) == [list(range(LENGTH))] * 2
    for number, epoch in enumerate(model.epochs("samples")):
        shuffled = {sample for batch in plain.epochs("samples")[number] for sample in batch}
        assert shuffled == {sample for batch in epoch for sample in batch}


# Samplers of the user's on two ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """For each scenario, by rank, what it saw with 0 workers; with 2 it is asserted to be the same."""
    folder = tmp_path_factory.mktemp("ranks")
    done = programs.run(Path(__file__).with_name("sameness_ddp.py"), folder)
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def seen_by(ranks, scenario, what="numbers"):
    """By rank, then by epoch."""
    return [
        [[value for batch in epoch for value in batch[what]] for epoch in ranks[f"{scenario}-0-{rank}"]["seen"]]
        for rank in (0, 1)
    ]


@pytest.mark.parametrize("scenario", ["everything", "own-share", "sampler", "replacement", "batches", "dict"])
def test_workers_change_nothing_on_either_rank(ranks, scenario):
    """Every batch and the final weights, whoever deals the samples."""
    for rank in (0, 1):
        assert ranks[f"{scenario}-0-{rank}"] == ranks[f"{scenario}-2-{rank}"]
    assert ranks[f"{scenario}-0-0"]["weights"] == ranks[f"{scenario}-0-1"]["weights"]


def test_without_lightnings_dealing_every_rank_sees_everything(ranks):
    """use_distributed_sampler=False: the same batches on both ranks, those of one process with that batch size."""
    alone = run(make_module(batch_size=4))
    for rank in (0, 1):
        assert ranks[f"everything-0-{rank}"]["seen"] == list(alone.seen["train"].values())


@pytest.mark.parametrize("scenario", ["own-share", "sampler", "batches"])
def test_each_sample_is_what_it_is_in_one_process(ranks, scenario, plain):
    """Whoever deals: a sample's bytes depend on seed, epoch and index, not on the rank or the batch."""
    for epoch in (0, 1):
        usual_samples = {sample for batch in plain.epochs("samples")[epoch] for sample in batch}
        parts = [seen_by(ranks, scenario, "samples")[rank][epoch] for rank in (0, 1)]
        assert usual_samples == {*parts[0], *parts[1]}


def test_a_sampler_that_deals_itself_is_left_alone(ranks):
    """With use_distributed_sampler=False its share is the rank's share."""
    even, odd = seen_by(ranks, "own-share")
    assert even == [list(range(0, LENGTH, 2))] * 2
    assert odd == [[*range(1, LENGTH, 2), 0]] * 2


@pytest.mark.parametrize("scenario", ["sampler", "batches"])
def test_lightning_deals_what_one_draw_of_the_users_sampler_gave(ranks, scenario):
    """All ranks draw the same order, though it comes from a global generator; Lightning repeats one of 27 to deal it.

    Not promised for a sampler of the user's: that the global batches are those of one process.
    """
    for zero, one in zip(*seen_by(ranks, scenario), strict=True):
        assert len(zero) == len(one) == 14
        assert set(zero) | set(one) == set(range(LENGTH))
    assert seen_by(ranks, scenario)[0][0] != seen_by(ranks, scenario)[0][1]


def test_samples_drawn_with_replacement_differ_on_each_rank(ranks):
    """A rank that draws a sample again augments it differently.

    Not promised: the same for two draws of which each rank has one; they are alike.
    """
    for rank in (0, 1):
        for drawn, noise in zip(
            seen_by(ranks, "replacement")[rank], seen_by(ranks, "replacement", "noise")[rank], strict=True
        ):
            assert len(drawn) == len(noise) == len(set(noise)) == 20
            assert len(set(drawn)) < 20


def test_combined_loaders_are_dealt_loader_by_loader(ranks):
    """The shorter one comes round within the epoch on both ranks, in the order of its next cycle."""
    for epoch in (0, 1):
        steps = [ranks[f"dict-0-{rank}"]["seen"][epoch] for rank in (0, 1)]
        long, short = (
            [
                index
                for step in zip(*steps, strict=True)
                for index in chain(*zip_longest(*(part[name]["numbers"] for part in step)))
                if index is not None
            ]
            for name in ("long", "short")
        )
        assert long == orders_of_long(epoch)
        assert short == (orders_of_short(epoch) + orders_of_short(epoch, 1))[: len(short)]
        assert len(short) == 18
