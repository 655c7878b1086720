"""Samplers that are not ours: how far they are drawn, those that skip themselves, those that follow the training."""

import warnings
from itertools import islice

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_fastdata import FastDataModule, auto_dataloader
from lightning_fastdata.loaders.drawn_order import SamplerDraws
from lightning_fastdata.loaders.rng import seeded_generators
from lightning_fastdata.loaders.samplers import may_repeat

LENGTH, SIZE = 24, 4
WEIGHTS = [3.0, *[1.0] * (LENGTH - 1)]


def loader(sampler, **kwargs):
    own = {"batch_sampler": sampler} if isinstance(sampler, (BatchSampler, Batches)) else {"sampler": sampler}
    own |= {"batch_size": SIZE} if "sampler" in own else {}
    return auto_dataloader(range(LENGTH), split="train", num_workers=0, seed=3, **{**own, **kwargs})


def numbers(batches):
    return [batch.tolist() for batch in batches]


# torch's own


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomSampler(range(LENGTH)),
        lambda: RandomSampler(range(LENGTH), replacement=True, num_samples=100),
        lambda: RandomSampler(range(LENGTH), replacement=True, generator=torch.Generator().manual_seed(7)),
        lambda: WeightedRandomSampler(WEIGHTS, 50),
        lambda: SubsetRandomSampler(range(3, 17)),
        lambda: BatchSampler(RandomSampler(range(LENGTH), replacement=True, num_samples=99), SIZE, drop_last=False),
    ],
    ids=["random", "replacement", "its generator", "weighted", "subset", "batches"],
)
def test_torchs_own_give_what_they_would_give_at_once(make):
    """Under the same seed, whatever draws from the generators in between; and the generators are left as they were."""
    with seeded_generators(11):
        whole = list(make())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    drawn = []
    batches = SamplerDraws().batches(make(), None, 11, 0)
    assert torch.equal(torch.get_rng_state(), before)
    for number, indices in batches:
        assert number == len(drawn)
        drawn.append(indices)
        torch.rand(1)
    assert drawn == whole


def endless(**kwargs):
    return RandomSampler(range(LENGTH), replacement=True, num_samples=10**13, **kwargs)


@pytest.mark.parametrize(
    "make", [endless, lambda: BatchSampler(endless(), SIZE, drop_last=True)], ids=["one", "batches"]
)
def test_an_endless_sampler_is_drawn_as_far_as_batches_are_asked_for(make):
    """Drawn whole it would take days; resumed, it goes on from its seed and the count of batches."""
    uninterrupted = numbers(islice(loader(make()), 7))
    assert len(uninterrupted) == 7
    first = loader(make())
    assert numbers(islice(first, 3)) == uninterrupted[:3]
    resumed = loader(make())
    resumed.load_state_dict(first.state_dict())
    assert numbers(islice(resumed, 4)) == uninterrupted[3:]


def test_a_permutation_that_repeats_is_counted():
    """More samples than there are, without replacement: torch draws permutations one after the other."""
    assert may_repeat(RandomSampler(range(5), num_samples=11))
    assert not may_repeat(RandomSampler(range(5), num_samples=5))


class Counting(Sampler):
    """Counts what was drawn of it."""

    def __init__(self, total=LENGTH):
        self.total, self.drawn = total, 0

    def __iter__(self):
        for index in range(self.total):
            self.drawn += 1
            yield index


class Sized(Counting):
    def __len__(self):
        return LENGTH


def test_a_sampler_of_the_users_is_drawn_whole_only_where_it_has_a_length():
    """Without one, as batches are asked for."""
    for sampler, drawn in ((Counting(), SIZE), (Sized(), LENGTH)):
        batches = iter(loader(sampler))
        next(batches)
        assert sampler.drawn == drawn


# Those that begin where the last run stopped


class Consumed(Sampler):
    """The way of language-model trainers; ``shrinks``: its length is what is left."""

    def __init__(self, shrinks=False):
        self.consumed, self.shrinks = 0, shrinks

    def __iter__(self):
        begin, self.consumed = self.consumed, 0
        return iter(range(begin, LENGTH))

    def __len__(self):
        return LENGTH - self.consumed * self.shrinks


class Batches(Consumed):
    def __iter__(self):
        return (list(batch) for batch in torch.tensor(list(super().__iter__())).split(SIZE))

    def __len__(self):
        return super().__len__() // SIZE


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.seen = torch.nn.Linear(1, 1), []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch.tolist()))
        return self.net(torch.ones(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Remembers(LightningDataModule):
    """Says its sampler after a restart what the model has consumed."""

    def __init__(self, sampler):
        super().__init__()
        self.sampler = sampler

    def train_dataloader(self):
        own = {"batch_sampler": self.sampler} if isinstance(self.sampler, Batches) else {"sampler": self.sampler}
        own |= {} if "batch_sampler" in own else {"batch_size": SIZE}
        return auto_dataloader(range(LENGTH), num_workers=0, **own)

    def state_dict(self):
        return {"consumed": SIZE * self.trainer.fit_loop.epoch_loop.batch_progress.current.ready % LENGTH}

    def load_state_dict(self, state):
        self.sampler.consumed = state["consumed"]


def fit(module, **kwargs):
    """What a model is trained on, by epoch and batch; checkpoints are of each step."""
    path = kwargs.pop("ckpt_path", None)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    more = {"enable_checkpointing": "callbacks" in kwargs, "max_epochs": 2, **quiet, **kwargs}
    model = Model()
    Trainer(accelerator="cpu", **more).fit(model, datamodule=module, ckpt_path=path)
    return model.seen


@pytest.mark.filterwarnings("ignore:.*ckpt_path", "ignore:The .train_dataloader. does not have many workers")
@pytest.mark.parametrize("kind", [Consumed, Batches])
def test_what_a_sampler_has_skipped_is_not_skipped_again(tmp_path, kind):
    """Resumed once, and from a checkpoint of the resumed run: the rest of the epoch, and all of the next."""
    every = {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}"}
    whole = fit(Remembers(kind()), callbacks=[ModelCheckpoint(tmp_path, **every)])
    assert len(whole) == 2 * LENGTH // SIZE
    for step in (1, 3, 6, 10):
        path = tmp_path / f"step={step}.ckpt"
        again = ModelCheckpoint(tmp_path / str(step), **every)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            resumed = fit(Remembers(kind()), ckpt_path=path, callbacks=[again])
        assert resumed == whole[step:]
        said = [str(warning.message) for warning in caught if "has itself skipped" in str(warning.message)]
        assert [text.split()[0] for text in said] == ([kind.__name__] if step % 6 else [])
        if step == 3:
            later = tmp_path / str(step) / f"step={step + 1}.ckpt"
            with pytest.warns(UserWarning, match="has itself skipped"):
                assert fit(Remembers(kind()), ckpt_path=later) == whole[step + 1 :]


@pytest.mark.parametrize("batches", [1, 3, 5])
@pytest.mark.parametrize("kind", [Consumed, Batches])
def test_a_length_of_what_is_left_is_no_length_of_an_epoch(kind, batches):
    """A sampler that says how much it will give, after a restart less; what it gave at first is in the state."""
    first, resumed = loader(kind()), loader(kind(shrinks=True))
    read = iter(first)
    uninterrupted = [next(read).tolist() for _ in range(batches)]
    resumed.load_state_dict(first.state_dict())
    (resumed.sampler if kind is Consumed else resumed.batch_sampler).consumed = batches * SIZE
    with pytest.warns(UserWarning, match=f"{kind.__name__} gave {6 - batches} of 6 batches"):
        assert [*uninterrupted, *numbers(resumed)] == numbers(loader(kind()))


class Estimates(Sampler):
    """Its length is a guess: it gives less."""

    def __iter__(self):
        return iter(torch.randperm(LENGTH)[: LENGTH - 3 * SIZE].tolist())

    def __len__(self):
        return LENGTH


@pytest.mark.parametrize("batches", [1, 2])
def test_a_length_that_is_a_guess_is_not_taken_for_skipping(batches):
    """What it gave in the first run is in the state."""
    uninterrupted = numbers(loader(Estimates()))
    first, resumed = loader(Estimates()), loader(Estimates())
    read = iter(first)
    assert [next(read).tolist() for _ in range(batches)] == uninterrupted[:batches]
    resumed.load_state_dict(first.state_dict())
    assert numbers(resumed) == uninterrupted[batches:]


# Those that follow the training


class Hard(Sampler):
    hot = 0

    def __init__(self, sized=True):
        self.losses, self.sized = torch.zeros(LENGTH), sized

    def __iter__(self):
        for _ in range(6):
            yield int(self.losses.argmax())

    def __len__(self):
        if not self.sized:
            raise TypeError
        return 6


class Hot(Hard):
    """A number, which an instance of it does not have before it is set."""

    def __iter__(self):
        for _ in range(6):
            yield self.hot


class Learns(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        sampler = trainer.datamodule.dataloader_kwargs["train"]["sampler"]
        if isinstance(sampler, Hard):
            sampler.losses[trainer.global_step] = trainer.global_step
        if isinstance(sampler, Hot):
            sampler.hot += 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Hard, ["Hard.losses has changed within the epoch"]),
        (Hot, ["Hot.hot has changed within the epoch"]),
        (lambda: Hard(sized=False), []),
        (Sized, []),
    ],
    ids=["array", "number", "without a length", "of its own"],
)
def test_a_sampler_that_follows_the_training_is_named_once(make, said):
    """Its order is drawn when an epoch begins. One without a length follows, and one that only counts is left alone."""
    sampler = make()
    module = FastDataModule(
        range(LENGTH), batch_size=1, num_workers=0, dataloader_kwargs={"train": {"sampler": sampler}}
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seen = fit(module, callbacks=[Learns()], max_epochs=3, enable_checkpointing=False)
    texts = [str(warning.message) for warning in caught if "within the epoch" in str(warning.message)]
    assert [text[: len(known)] for text, known in zip(texts, said, strict=True)] == said
    if type(sampler) is Hard:
        first = [number for epoch, (number,) in seen if epoch == 0]
        assert first == ([0] * 6 if sampler.sized else [0, 0, 1, 2, 3, 4])  # Lightning reads one ahead without a length
