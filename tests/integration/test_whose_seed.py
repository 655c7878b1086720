"""Whose seed decides: seed=, a generator, seed_everything, or one number of torch's default generator a run."""

import json
import logging
import random
from itertools import pairwise
from pathlib import Path

import programs
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder, ModelCheckpoint
from torch.utils.data import Dataset, IterableDataset

from lightning_fastdata import FastDataModule, LoaderTuner, auto_dataloader
from lightning_fastdata.errors import FastDataError

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
    pytest.mark.filterwarnings("ignore:Your `.*_dataloader`'s sampler has shuffling enabled"),
    pytest.mark.filterwarnings("ignore:.*is an IterableDataset"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*ckpt_path"),
]
LENGTH, BATCH = 16, 4


@pytest.fixture(autouse=True)
def without_global_seed(monkeypatch):
    """seed_everything of another test must not be seen here, nor those of this module by another."""
    state = torch.get_rng_state(), random.getstate()
    monkeypatch.setenv("PL_GLOBAL_SEED", "")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    torch.manual_seed(12345)  # where a test does not say otherwise
    yield
    torch.set_rng_state(state[0])
    random.setstate(state[1])


class Noisy(Dataset):
    """Sample i is (i, noise)."""

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return torch.tensor([float(index), torch.rand(()).item()])


class Model(LightningModule):
    """Keeps what it got, and the number that a dropout would have drawn."""

    def __init__(self, loaders=1):
        super().__init__()
        self.net, self.lr, self.batch_size = torch.nn.Linear(1, 1), 0.01, BATCH
        self.seen, self.validated, self.dropout = [], [], []

    def on_train_epoch_start(self):
        self.seen.append([])

    def on_validation_epoch_start(self):
        self.validated.append([])

    def training_step(self, batch, batch_idx):
        if not self.seen:  # resumed within an epoch
            self.seen.append([])
        self.seen[-1].append(batch)
        self.dropout.append(torch.rand(()).item())
        return self.net(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.validated[-1].append(batch)

    test_step = validation_step

    def on_test_epoch_start(self):
        self.validated.append([])

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def quiet_trainer(**wanted):
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(**{"accelerator": "cpu", "max_epochs": 1, "num_sanity_val_steps": 0, **off, **wanted})


def numbers(batches):
    """(index, noise) of each sample."""
    return [tuple(row) for batch in batches for row in batch.tolist()]


def module(**wanted):
    return FastDataModule(Noisy(), **{"batch_size": BATCH, "num_workers": 0, **wanted})


def loader(**wanted):
    return auto_dataloader(Noisy(), **{"split": "train", "batch_size": BATCH, "num_workers": 0, **wanted})


class Calls(LightningDataModule):
    """auto_dataloader where DataLoader stood."""

    def __init__(self, **wanted):
        super().__init__()
        self.wanted = wanted

    def train_dataloader(self):
        return loader(trainer=self.trainer, **self.wanted)


def fit(data, **wanted):
    model = Model()
    given = {"datamodule": data} if isinstance(data, LightningDataModule) else {"train_dataloaders": data}
    quiet_trainer(**wanted).fit(model, **given)
    return model


def first_epoch(data, **wanted):
    return numbers(fit(data, **wanted).seen[0])


MAKERS = pytest.mark.parametrize("make", [module, Calls, loader], ids=["module", "hook", "loader"])


@MAKERS
def test_manual_seed_decides_a_fit(make):
    """Two seeds, two orders and two augmentations; the first again for the first."""
    seen = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        seen.append(first_epoch(make()))
    assert seen[0] == seen[2] != seen[1]
    assert sorted(seen[0]) != sorted(seen[1])


@MAKERS
def test_without_a_seed_each_fit_has_its_own(make):
    """Four fits, four orders; so has a loader that is trained with again."""
    seen = [first_epoch(make()) for _ in range(4)]
    same = make()
    seen += [first_epoch(same) for _ in range(2)]
    assert len({str(sorted(one)) for one in seen}) == len({str([i for i, _ in one]) for one in seen}) == 6


def test_one_trainer_fits_twice():
    """Its second fit has a number of its own."""
    trainer, model, same = quiet_trainer(), Model(), loader()
    trainer.fit(model, same)
    trainer.fit_loop.epoch_progress.reset()
    trainer.fit(model, same)
    one, two = model.seen
    assert sorted(numbers(one)) != sorted(numbers(two))


@pytest.mark.parametrize("per_split", [True, False])
def test_a_generator_of_the_users_decides(per_split):
    """Each seed another order; the generator moves on by one number a fit, torch's default one not at all."""

    def seen(generator):
        kwargs = {"train": {"generator": generator}} if per_split else {"generator": generator}
        return first_epoch(module(dataloader_kwargs=kwargs))

    by_seed = [seen(torch.Generator().manual_seed(seed)) for seed in (1, 2, 3, 1)]
    assert by_seed[0] == by_seed[3]
    assert len({str(one) for one in by_seed}) == 3
    generator, other = (torch.Generator().manual_seed(1) for _ in range(2))
    torch.manual_seed(7)
    assert seen(generator) != seen(generator)  # the model draws a number a step as well
    for _ in range(2):
        torch.empty((), dtype=torch.int64).random_(generator=other)
    assert torch.equal(generator.get_state(), other.get_state())


def test_what_comes_before_what():
    """seed=, then generator=, then seed_everything, then the default generator."""
    generator = torch.Generator().manual_seed(5)

    def seen(**wanted):
        seed_everything(3, verbose=False)
        return first_epoch(loader(**wanted))

    assert seen(seed=9, generator=generator) == seen(seed=9) == first_epoch(module(seed=9))
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())
    assert seen(generator=generator) not in (seen(), seen(seed=9))
    assert seen() == seen() == seen(seed=3)


# Dropout, and what draws nothing


class Tried(LearningRateFinder):
    def __init__(self):
        super().__init__(num_training_steps=3)


class InEpochs(Tried):
    """As Lightning's page on it shows; the numbers that its trials draw are not of interest."""

    def on_fit_start(self, trainer, pl_module):
        pass

    def on_train_epoch_start(self, trainer, pl_module):
        before = list(pl_module.dropout)
        self.lr_find(trainer, pl_module)
        pl_module.dropout[:] = before
        del pl_module.seen[trainer.current_epoch :]


FINDERS = {
    "none": list,
    "rate in epochs": lambda: [InEpochs()],
    "rate": lambda: [Tried()],
    "size": lambda: [BatchSizeFinder(steps_per_trial=2, init_val=BATCH, max_trials=2)],
    "tuner": lambda: [LoaderTuner()],
}


def with_finder(finder, sanity, make):
    torch.manual_seed(1)
    model = Model()
    options = {"enable_checkpointing": finder != "none", "max_epochs": 2, "num_sanity_val_steps": sanity}
    quiet_trainer(callbacks=FINDERS[finder](), **options).fit(model, datamodule=make())
    trained = model.seen[-2:]
    return [numbers(epoch) for epoch in trained], model.dropout[-sum(map(len, trained)) :], numbers(model.validated[-1])


class Own(Calls):
    """Loaders of a hook, in the size that a finder may change."""

    batch_size = BATCH

    def train_dataloader(self):
        return loader(trainer=self.trainer, batch_size=self.batch_size)

    def val_dataloader(self):
        return loader(trainer=self.trainer, split="val")


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: module(val_dataset=Noisy()), Own], ids=["module", "hook"])
@pytest.mark.parametrize("finder", FINDERS)
def test_nothing_but_training_draws(make, finder, tmp_path, monkeypatch):
    """With 0 and 2 sanity steps, with and without a finder: equal batches, and equal dropout.

    The trials of BatchSizeFinder draw for dropout, which Lightning does not put back, as with any loader.
    """
    monkeypatch.chdir(tmp_path)
    plain = with_finder("none", 0, make)
    none, two = (with_finder(finder, steps, make) for steps in (0, 2))
    assert none[0] == two[0] == plain[0]
    assert none[1] == two[1]
    if finder != "size":
        assert none[1] == plain[1]
    assert none[2] == two[2] == plain[2]


@pytest.mark.parametrize("make", [module, Calls], ids=["module", "hook"])
def test_loaders_made_in_each_epoch_draw_nothing(make):
    """reload_dataloaders_every_n_epochs gives what one loader gives, and the model the same numbers."""
    found = []
    for every in (0, 1):
        torch.manual_seed(1)
        model = fit(make(), max_epochs=3, reload_dataloaders_every_n_epochs=every)
        found.append(([numbers(epoch) for epoch in model.seen], model.dropout))
    assert found[0] == found[1]
    assert len({str(epoch) for epoch in found[0][0]}) == 3


def test_reading_in_a_hook_leaves_no_trace():
    """A callback that reads the training data, or a loader of its own, before and within the fit."""

    class Reads(Callback):
        def on_fit_start(self, trainer, pl_module):
            next(iter(trainer.datamodule.train_dataloader()))
            list(loader(trainer=trainer))

        def on_train_epoch_start(self, trainer, pl_module):
            self.read = numbers(trainer.train_dataloader)
            self.own = numbers(loader(trainer=trainer))

    found = []
    for callbacks in ([], [Reads()]):
        torch.manual_seed(1)
        model = fit(module(), callbacks=callbacks)
        found.append((numbers(model.seen[0]), model.dropout))
    assert found[0] == found[1]
    assert callbacks[0].read == found[0][0]
    assert callbacks[0].own != found[0][0]


@pytest.mark.parametrize("seed", [None, 3])
def test_each_call_draws_once(seed):
    """validate, test and predict: the default generator moves by one number, or by none where a seed is given."""
    model = Model()
    for call in ("validate", "test", "predict"):
        torch.manual_seed(1)
        data = FastDataModule(
            val_dataset=[Noisy(), Noisy()], test_dataset=Noisy(), predict_dataset=Noisy(), num_workers=0, seed=seed
        )
        getattr(quiet_trainer(), call)(model, datamodule=data, **({} if call == "predict" else {"verbose": False}))
        found = torch.rand(())
        torch.manual_seed(1)
        if seed is None:
            torch.empty((), dtype=torch.int64).random_()
        assert found == torch.rand(()), call


# Several passes and calls


def spread(passes):
    return torch.stack(passes)[:, :, 1].std(dim=0).mean().item()


@pytest.mark.parametrize("seeding", ["none", "seed_everything", "seed="])
@pytest.mark.parametrize("what", ["trainer", "loader"])
def test_predictions_differ(seeding, what):
    """Five predictions by one Trainer, or with one loader, whoever set the seed; in plain the spread is 0.28."""
    if seeding == "seed_everything":
        seed_everything(1, verbose=False)
    seed = 1 if seeding == "seed=" else None
    data = FastDataModule(predict_dataset=Noisy(), batch_size=BATCH, num_workers=0, seed=seed)
    trainer, same = quiet_trainer(), loader(split="predict", seed=seed)
    if what == "trainer":
        passes = [torch.cat(trainer.predict(Model(), datamodule=data)) for _ in range(5)]
    else:
        passes = [torch.cat(quiet_trainer().predict(Model(), same)) for _ in range(5)]
    assert [one[:, 0].tolist() for one in passes] == [list(range(LENGTH))] * 5
    assert spread(passes) > 0.15


def test_passes_of_a_test_count():
    """With a given seed the first test of a Trainer is that of another Trainer, the second is not the first."""

    def tested(trainer):
        model = Model()
        trainer.test(model, loader(split="test", seed=1, shuffle=True), verbose=False)
        return numbers(model.validated[0])

    trainer = quiet_trainer()
    first, second = tested(trainer), tested(trainer)
    assert first == tested(quiet_trainer()) != second
    assert [i for i, _ in first] != [i for i, _ in second]


def test_validation_draws_the_same_in_each_epoch():
    """So that a curve of validation shows the model alone; and not what training drew."""
    model = fit(module(val_dataset=Noisy()), max_epochs=3)
    assert numbers(model.validated[0]) == numbers(model.validated[1]) == numbers(model.validated[2])
    assert not set(numbers(model.validated[0])) & set(numbers(model.seen[0]))


def test_a_loop_of_ones_own():
    """A loader draws once; its later passes are its next epochs; another one draws for itself."""
    torch.manual_seed(1)
    one, two = loader(), loader()
    passes = [numbers(one), numbers(one), numbers(two)]
    assert len({str(sorted(one)) for one in passes}) == 3
    found = torch.rand(())
    torch.manual_seed(1)
    again = loader()
    assert [numbers(again), numbers(again)] == passes[:2]
    torch.empty((), dtype=torch.int64).random_()
    assert found == torch.rand(())


def test_a_sampler_read_before_its_loader():
    """It shows the order that comes."""
    torch.manual_seed(1)
    made = loader()
    assert list(made.sampler) == list(loader(seed=made.determinism.source).sampler)


def test_split_seed_alone_decides_the_splits():
    """Whatever the other seeds."""

    def held_out(seed):
        torch.manual_seed(seed or 0)
        data = module(val_split=4, seed=seed)
        return [int(i) for i, _ in numbers(data.val_dataloader())]

    assert held_out(None) == held_out(1) == held_out(2)


# Loaders beside each other


class Parts(LightningDataModule):
    """DataModules in a DataModule."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def train_dataloader(self):
        return [part.train_dataloader() for part in self.parts]


class Several(LightningDataModule):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def train_dataloader(self):
        return self.make(self.trainer)


class Zipped:
    """A wrapper that Lightning cannot look into."""

    def __init__(self, *loaders):
        self.loaders = loaders

    def __iter__(self):
        return zip(*self.loaders, strict=True)

    def __len__(self):
        return len(self.loaders[0])


class Wrapped(Zipped):
    """One loader in a wrapper, as a prefetcher is."""

    def __iter__(self):
        return iter(self.loaders[0])


SIDE_BY_SIDE = {
    "datamodules": lambda: Parts(module(), module()),
    "collections": lambda: Parts(module(), FastDataModule([Noisy()], batch_size=BATCH, num_workers=0)),
    "calls": lambda: Several(lambda trainer: [loader(trainer=trainer), loader()]),
    "a dict": lambda: Several(lambda trainer: {"a": loader(trainer=trainer), "b": {"c": loader()}}),
    "a zip": lambda: Several(lambda trainer: Zipped(loader(trainer=trainer), loader(trainer=trainer))),
    "one wrapped": lambda: Several(lambda trainer: [loader(trainer=trainer), Wrapped(loader(trainer=trainer))]),
    "generators": lambda: Several(
        lambda trainer: [loader(trainer=trainer, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    ),
}


def flat(batch):
    if isinstance(batch, torch.Tensor):
        return [batch]
    return [one for part in (batch.values() if isinstance(batch, dict) else batch) for one in flat(part)]


def pairs_of(data, epochs=10, **wanted):
    """How many different samples came together, and how many with equal noise."""
    met, equal = set(), 0
    for epoch in fit(data, max_epochs=epochs, **wanted).seen:
        one, two = zip(*map(flat, epoch), strict=True)
        for a, b in zip(torch.cat(one).tolist(), torch.cat(two).tolist(), strict=True):
            met.add((a[0], b[0]))
            equal += a[1] == b[1]
    return len(met), equal


@pytest.mark.parametrize("seeding", ["none", "seed_everything"])
@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_loaders_side_by_side_draw_apart(name, seeding):
    """Of 256 possible pairs some 120 in 160 draws, none with the same noise."""
    if seeding == "seed_everything":
        seed_everything(1, verbose=False)
    met, equal = pairs_of(SIDE_BY_SIDE[name]())
    assert met > 90
    assert equal == 0


def test_loaders_given_one_seed_keep_it(caplog):
    """One line says so, once a fit."""
    with caplog.at_level(logging.INFO):
        made = Several(lambda trainer: [loader(trainer=trainer, seed=1), loader(trainer=trainer, seed=1)])
        assert pairs_of(made, 3, reload_dataloaders_every_n_epochs=1) == (16, 48)
    assert caplog.text.count("2 loaders that are read together were given seed=1: those of equal length come in") == 1
    caplog.clear()
    with caplog.at_level(logging.INFO):
        other = pairs_of(Several(lambda trainer: [loader(trainer=trainer, seed=seed) for seed in (1, 2)]), 3)
    assert other[0] > 30
    assert "were given" not in caplog.text


def test_a_second_fit_under_seed_everything_says_so(caplog):
    """The same order, as today, and one line; none under other seeds."""
    seed_everything(90125, verbose=False)
    lines = []
    with caplog.at_level(logging.INFO):
        seen = []
        for data in (module(val_dataset=Noisy()), module(), module(seed=1)):
            caplog.clear()
            seen.append(first_epoch(data))
            lines.append([r.getMessage() for r in caplog.records if "seed_everything" in r.getMessage()])
    assert seen[0] == seen[1]
    assert [len(found) for found in lines] == [0, 1, 0]
    assert "give seed= to make them differ" in lines[1][0]


# Resume


def checkpointed(folder, data, **wanted):
    save = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    return fit(data, max_epochs=2, enable_checkpointing=True, callbacks=[save], **wanted)


@pytest.mark.parametrize(
    "make",
    [
        lambda: module(val_dataset=Noisy()),
        Calls,
        lambda: Calls(generator=torch.Generator().manual_seed(random.getrandbits(9))),
    ],
    ids=["module", "hook", "generator"],
)
@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_resumed_fit_takes_the_seed_of_its_checkpoint(make, step, tmp_path):
    """Whatever the generators hold then: the rest of the batches, and the same dropout, for nothing is drawn."""
    torch.manual_seed(1)
    whole = checkpointed(tmp_path, make())
    for global_seed in ("", "77"):
        torch.manual_seed(2)
        model = Model()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PL_GLOBAL_SEED", global_seed)
            quiet_trainer(max_epochs=2).fit(model, datamodule=make(), ckpt_path=tmp_path / f"step={step}.ckpt")
        seen = [numbers([batch]) for epoch in model.seen for batch in epoch]
        assert seen == [numbers([batch]) for epoch in whole.seen for batch in epoch][step:]
        assert model.dropout == whole.dropout[step:]
        if model.validated:
            assert numbers(model.validated[-1]) == numbers(whole.validated[-1])


def test_a_checkpoint_before_the_first_batch(tmp_path):
    """The whole fit again, dropout too: the number is not drawn a second time, nor missing."""

    class Saves(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "start.ckpt")

    torch.manual_seed(1)
    whole, resumed = fit(module(), callbacks=[Saves()]), Model()
    torch.manual_seed(2)
    quiet_trainer().fit(resumed, datamodule=module(), ckpt_path=tmp_path / "start.ckpt")
    assert numbers(resumed.seen[0]) == numbers(whole.seen[0])
    assert resumed.dropout == whole.dropout


def test_loaders_side_by_side_are_resumed(tmp_path):
    """Each goes on with the seed that its index gave it."""
    torch.manual_seed(1)
    whole = checkpointed(tmp_path, SIDE_BY_SIDE["calls"]())
    resumed = Model()
    quiet_trainer(max_epochs=2).fit(resumed, datamodule=SIDE_BY_SIDE["calls"](), ckpt_path=tmp_path / "step=3.ckpt")
    rest = [[numbers([one]) for one in flat(batch)] for epoch in resumed.seen for batch in epoch]
    assert rest == [[numbers([one]) for one in flat(batch)] for epoch in whole.seen for batch in epoch][3:]


def test_loaders_made_anew_after_the_checkpoint_are_resumed(tmp_path):
    """From an epoch's end: the loader that gets the state is replaced before it has given a batch."""
    torch.manual_seed(1)
    anew, resumed = {"reload_dataloaders_every_n_epochs": 1}, Model()
    whole = checkpointed(tmp_path, Calls(), **anew)
    last = tmp_path / f"step={LENGTH // BATCH}.ckpt"
    quiet_trainer(max_epochs=2, **anew).fit(resumed, datamodule=Calls(), ckpt_path=last)
    assert [numbers(epoch) for epoch in resumed.seen if epoch] == [numbers(whole.seen[1])]


def test_only_a_given_seed_that_differs_is_an_error(tmp_path):
    """In the middle of an epoch."""
    checkpointed(tmp_path, module(seed=5))
    path = tmp_path / "step=1.ckpt"
    fitted = Model()
    quiet_trainer(max_epochs=2).fit(fitted, datamodule=module(), ckpt_path=path)
    assert len(numbers(fitted.seen[-1])) == LENGTH
    with pytest.raises(FastDataError, match=r"the seed was 5 .* and is 6"):
        quiet_trainer(max_epochs=2).fit(Model(), datamodule=module(seed=6), ckpt_path=path)


def test_a_state_of_a_loop_of_ones_own(tmp_path):
    """The loader goes on with its seed in a process whose generator holds something else."""
    torch.manual_seed(1)
    made = loader()
    iterator = iter(made)
    next(iterator)
    state, rest = made.state_dict(), numbers(iterator)
    torch.manual_seed(2)
    resumed = loader()
    resumed.load_state_dict(state)
    assert numbers(resumed) == rest


# Streams, workers and ranks


class Stream(IterableDataset):
    def __iter__(self):
        for index in range(8):
            yield torch.tensor([float(index), torch.rand(()).item()])


@pytest.mark.slow
def test_streams_draw_as_the_user_seeds():
    """The random numbers in the workers follow from the default generator too, which moves by one number a fit."""
    seen = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        model = fit(auto_dataloader(Stream(), batch_size=4, num_workers=1), max_epochs=2)
        seen.append((str([numbers(epoch) for epoch in model.seen]), str(model.dropout)))
        assert numbers(model.seen[0]) != numbers(model.seen[1])
    assert seen[0] == seen[2]
    assert seen[0][0] != seen[1][0]


@pytest.mark.slow
def test_kept_workers_follow_a_new_seed():
    """Workers that one pass left alive must not serve the next run with its seed."""
    torch.manual_seed(1)
    made = loader(num_workers=1, persistent_workers=True)
    by_hand = numbers(made)
    fitted = first_epoch(made)
    assert sorted(fitted) != sorted(by_hand)
    torch.manual_seed(1)
    again = loader()
    numbers(again)
    assert first_epoch(again) == fitted


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks saw, by scenario."""
    folder = tmp_path_factory.mktemp("ranks")
    done = programs.run(Path(__file__).with_name("seed_ddp.py"), folder)
    assert done.returncode == 0, done.stderr
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return lambda scenario: [found[f"{scenario}-{rank}"] for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["module", "hook", "generator", "read", "late", "zip", "fabric"])
def test_two_ranks_agree(ranks, scenario):
    """Each sample once an epoch over both ranks, although their generators hold other states; in a wrapper on each."""
    zero, one = ranks(scenario)
    for a, b in zip(zero["epochs"], one["epochs"], strict=True):
        over_both = sorted([i for i, _ in a] + [i for i, _ in b])
        assert over_both == sorted([*range(LENGTH)] * (1 + (scenario == "zip")))
        assert a != b
    assert all(sorted(map(tuple, x)) != sorted(map(tuple, y)) for x, y in pairwise(zero["epochs"]))


@pytest.mark.slow
def test_two_ranks_see_what_one_process_sees(ranks):
    """The number is that of rank 0, and taken from every rank's generator."""
    zero, one = ranks("module")
    model = Model()
    torch.manual_seed(100)
    quiet_trainer(max_epochs=2, num_sanity_val_steps=2).fit(model, datamodule=module(val_dataset=Noisy()))
    for epoch, a, b in zip(model.seen, zero["epochs"], one["epochs"], strict=True):
        assert sorted(numbers(epoch)) == sorted(map(tuple, a + b))
    assert sorted(numbers(model.validated[-1])) == sorted(map(tuple, zero["validated"] + one["validated"]))
    assert model.dropout == zero["dropout"]
    torch.manual_seed(101)
    torch.empty((), dtype=torch.int64).random_()
    assert one["dropout"][0] == torch.rand(()).item()
    assert ranks("module")[0]["epochs"] != ranks("again")[0]["epochs"]
