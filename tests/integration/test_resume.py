"""Runs that were interrupted anywhere and resumed on one process: the same batches, bitwise, and the same weights."""

import io
import signal
import warnings
from pathlib import Path

import programs
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from resume_cases import (
    SEED,
    STEPS,
    Moments,
    Net,
    Noisy,
    RaiseAt,
    StopError,
    data,
    every_step,
    fit,
    loader_states,
    numbers,
    put_states,
    rest,
)
from torch.utils.data import BatchSampler, IterableDataset, RandomSampler, Sampler, TensorDataset, WeightedRandomSampler

from lightning_fastdata import FastDataModule, TensorDataModule, auto_dataloader
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.order import epoch_order

pytestmark = [
    # Lightning's advice on callbacks, and on OnExceptionCheckpoint, which it would resume from by itself
    pytest.mark.filterwarnings("ignore:.*ckpt_path"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two epochs without interruption, and the folder with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("whole")
    return fit(data(), callbacks=[every_step(folder)]), folder


def cuts(folder):
    """The checkpoints that ModelCheckpoint(every_n_train_steps=1) left, by step."""
    found = {int(path.stem.partition("=")[2]): path for path in Path(folder).glob("step=*.ckpt")}
    return dict(sorted(found.items()))


def check_every_cut(folder, module, model=Net, seen=None, **kwargs):
    """Run once with a checkpoint at every step, and resume from each: the rest of the batches, the same weights."""
    full = fit(module(), model=model, callbacks=[every_step(folder)], **kwargs)
    found = cuts(folder)
    assert set(found) == set(range(1, full.trainer.global_step + 1))
    for step, path in found.items():
        before = step if seen is None else seen[step - 1]
        assert rest(fit(module(), model=model, path=path, **kwargs), 0) == rest(full, before), path.name
    return full


def check_goes_on(first, resumed, full):
    """An interrupted run and its resumption are the uninterrupted run, with the same weights at the end."""
    assert first.seen + resumed.seen == full.seen
    assert resumed.weights == full.weights


# Every cut


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_every_cut_of_two_epochs(whole, step):
    """After any step, the last of an epoch included, a resumed run sees the rest and ends with the same weights."""
    full, folder = whole
    assert rest(fit(data(), path=cuts(folder)[step]), 0) == rest(full, step)


def test_a_checkpoint_counts_what_the_model_saw(whole):
    """Seed, epoch, batches and samples consumed, global batch and length are what the model has had, in integers."""
    _, folder = whole
    for step, path in cuts(folder).items():
        (state,) = loader_states(path)
        batches = step - 6 * (step > 6)
        assert {name: value for name, value in state.items() if name != "generators"} == {
            "seed": SEED,
            "epoch": int(step > 6),
            "cycle": 0,
            "batches_consumed": batches,
            "samples_consumed": min(4 * batches, 22),
            "global_batch_size": 4,
            "dataset_length": 22,
            "order": "shuffled",
            "rules": 2,
            "name": None,
            "sampler_batches": None,
        }


def test_a_checkpoint_is_small_and_loads_safely(whole):
    """A loader's part is below 20 KB whatever the dataset's length, and torch.load(weights_only=True) reads it."""
    for module in (data(length=5000), data()):
        run = fit(module, max_epochs=1, limit_train_batches=2)
        written = io.BytesIO()
        torch.save(run.trainer.train_dataloader.state_dict(), written)
        assert len(written.getvalue()) < 20_000
        written.seek(0)
        assert torch.load(written, weights_only=True)["batches_consumed"] == 2


SETUPS = {
    "validation in the middle": {"val_check_interval": 2},
    "validation by share": {"val_check_interval": 0.5},
    "validation every second epoch": {"check_val_every_n_epoch": 2},
    "no validation": {"limit_val_batches": 0},
    "sanity check": {"num_sanity_val_steps": 2},
    "limit": {"limit_train_batches": 4},
    "share": {"limit_train_batches": 0.5},
    "loaders made anew": {"reload_dataloaders_every_n_epochs": 1},
    "steps, not epochs": {"max_steps": 12, "max_epochs": -1},
    "three epochs": {"max_epochs": 3, "val_check_interval": 3},
}


@pytest.mark.parametrize("setup", SETUPS)
def test_every_cut_with_other_trainers(setup, tmp_path):
    """Validation anywhere, a limit, reloaded loaders or max_steps change nothing in what a resumed run sees."""
    check_every_cut(tmp_path, data, **SETUPS[setup])


@pytest.mark.parametrize(("batches", "seen"), [(2, [2, 4, 6, 8, 10, 12]), (4, [4, 6, 10, 12])])
def test_every_cut_with_accumulation(batches, seen, tmp_path):
    """Checkpoints of optimizer steps count the batches that were accumulated, also the fewer at an epoch's end."""
    check_every_cut(tmp_path, data, seen=seen, accumulate_grad_batches=batches)


@pytest.mark.parametrize("setup", [{}, SETUPS["loaders made anew"]], ids=str)
def test_every_cut_with_estimated_stepping_batches(setup, tmp_path):
    """A schedule that asks for the number of steps makes Lightning ask for the loader first (Lightning#20550)."""
    check_every_cut(tmp_path, data, lambda: Net(estimates=True), **setup)


class Fetches(Net):
    """Takes its batches itself."""

    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return self.learn(batch, self.trainer.global_step)


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")
@pytest.mark.parametrize("setup", [{}, SETUPS["limit"]], ids=str)
def test_every_cut_with_dataloader_iter(setup, tmp_path):
    """A training_step that draws its own batches is resumed as exactly; only Lightning's batch_idx begins anew."""
    check_every_cut(tmp_path, data, Fetches, **setup)


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")
def test_resumed_twice_with_dataloader_iter(tmp_path):
    """It fetches within a step, when that counts as begun already."""
    setup = SETUPS["limit"]
    full = fit(data(), model=Fetches, callbacks=[every_step(tmp_path / "first")], **setup)
    moments = Moments(tmp_path / "second", before=1)
    fit(data(), model=Fetches, callbacks=[moments], path=cuts(tmp_path / "first")[1], **setup)
    for path, seen in moments.seen.items():
        assert rest(fit(data(), model=Fetches, path=path, **setup), 0) == rest(full, seen), path.name


# Every moment


@pytest.mark.parametrize(
    "setup",
    [{}, pytest.param(SETUPS["validation in the middle"], marks=pytest.mark.slow), SETUPS["steps, not epochs"]],
    ids=str,
)
def test_every_moment(setup, tmp_path):
    """A checkpoint may be written in any hook: of a batch, a validation or an epoch, before or after."""
    moments = Moments(tmp_path)
    full = fit(data(), callbacks=[moments], **setup)
    for path, seen in moments.seen.items():
        assert rest(fit(data(), path=path, **setup), 0) == rest(full, seen), path.name


@pytest.mark.parametrize("setup", [{}, SETUPS["validation in the middle"], SETUPS["no validation"]], ids=str)
def test_the_checkpoints_that_lightning_writes_unasked(setup, tmp_path):
    """ModelCheckpoint without arguments writes at the end of a validation, or of an epoch without one."""
    saves = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    full = fit(data(), callbacks=[saves], **setup)
    found = cuts(tmp_path)
    assert set(found) == ({2, 4, 6, 8, 10, 12} if "val_check_interval" in setup else {6, 12})
    for step, path in found.items():
        assert rest(fit(data(), path=path, **setup), 0) == rest(full, step), path.name


def test_a_run_stopped_by_max_steps_goes_on(whole, tmp_path):
    """From the checkpoint at its end, in mid-epoch, with a higher max_steps."""
    fit(data(), callbacks=[ModelCheckpoint(tmp_path, filename="{step}")], max_steps=8, max_epochs=-1)
    resumed = fit(data(), path=tmp_path / "step=8.ckpt", max_steps=12, max_epochs=-1)
    assert rest(resumed, 0) == rest(whole[0], 8)


@pytest.mark.parametrize("step", [2, 6, 7])
@pytest.mark.parametrize(
    "setup",
    [{}, *(pytest.param(SETUPS[name], marks=pytest.mark.slow) for name in ("no validation", "loaders made anew"))],
    ids=str,
)
def test_resumed_twice(setup, step, tmp_path):
    """Killed, resumed, killed again at any moment, resumed: Lightning's counts must not go astray in between."""
    full = fit(data(), callbacks=[every_step(tmp_path / "first")], **setup)
    moments = Moments(tmp_path, before=step)
    fit(data(), callbacks=[moments], path=cuts(tmp_path / "first")[step], **setup)
    for path, seen in moments.seen.items():
        assert rest(fit(data(), path=path, **setup), 0) == rest(full, seen), path.name


@pytest.mark.slow
@pytest.mark.parametrize(("setup", "stride"), [({}, 2), (SETUPS["limit"], 3)], ids=str)
def test_resumed_twice_from_any_moment(setup, stride, tmp_path):
    """Any moment, then any later moment."""
    first = Moments(tmp_path)
    full = fit(data(), callbacks=[first], **setup)
    for number, (path, seen) in enumerate([*first.seen.items()][::stride]):
        folder = tmp_path / str(number)
        second = Moments(folder, before=seen)
        assert rest(fit(data(), callbacks=[second], path=path, **setup), 0) == rest(full, seen), path.name
        for later, then in second.seen.items():
            assert rest(fit(data(), path=later, **setup), 0) == rest(full, then), (path.name, later.name)


class Fails(Callback):
    """Fails before the first batch."""

    def on_train_start(self, trainer, model):
        raise StopError


@pytest.mark.parametrize("estimates", [False, True], ids=["", "estimates"])
@pytest.mark.parametrize("step", [6, 8])
def test_a_resumed_run_that_fetches_nothing_keeps_its_place(step, estimates, tmp_path):
    """A run that fails before its first batch writes the place that it was resumed from, not the epoch's beginning."""

    def model():
        return Net(estimates=estimates)

    full = fit(data(), model=model, callbacks=[every_step(tmp_path / "first")])
    path, saves = cuts(tmp_path / "first")[step], OnExceptionCheckpoint(tmp_path, "second")
    run = fit(data(), model=model, path=path, callbacks=[Fails(), saves], catches=(StopError,))
    assert run.error is not None
    assert {**loader_states(saves.ckpt_path)[0], "generators": 0} == {**loader_states(path)[0], "generators": 0}
    assert rest(fit(data(), model=model, path=saves.ckpt_path), 0) == rest(full, step)


# Exceptions

PLACES = [(0, 0), (0, 3), (0, 5), (1, 2)]


def interrupted(folder, hook, at, module=data, saves=None, **kwargs):
    """A run that fails in a hook or a step, with the checkpoint that it left."""
    saves = saves or OnExceptionCheckpoint(folder, "failed")
    if hook == "training_step":
        return fit(module(), model=lambda: Net(at), callbacks=[saves], catches=(StopError,), **kwargs)
    return fit(module(), callbacks=[RaiseAt(hook, *at), saves], catches=(StopError,), **kwargs)


@pytest.mark.parametrize("at", PLACES, ids=str)
@pytest.mark.parametrize("hook", ["training_step", "on_train_batch_start", "on_train_batch_end"])
@pytest.mark.parametrize(
    "setup", [{}, pytest.param(SETUPS["validation in the middle"], marks=pytest.mark.slow)], ids=str
)
def test_after_an_exception(setup, hook, at, whole, tmp_path):
    """The batch of a step that failed comes again; that of a step that was done does not. Also a second time."""
    full = fit(data(), **setup)
    first = interrupted(tmp_path, hook, at, **setup)
    done = 6 * at[0] + at[1] + (hook == "on_train_batch_end")
    assert first.error is not None
    assert len(first.seen) == done
    assert loader_states(tmp_path / "failed.ckpt")[0]["batches_consumed"] == done - 6 * at[0]
    moments = Moments(tmp_path / "second", before=done)
    resumed = fit(data(), path=tmp_path / "failed.ckpt", callbacks=[moments], **setup)
    check_goes_on(first, resumed, full)
    for path in [*moments.seen][::5]:
        assert rest(fit(data(), path=path, **setup), 0) == rest(full, moments.seen[path]), path.name


def test_after_an_exception_within_a_step(whole, tmp_path):
    """Where the model had drawn random numbers already, the samples are exact; its own numbers go on from there."""

    class Late(Net):
        def on_before_zero_grad(self, optimizer):
            if (self.current_epoch, len(self.seen)) == (0, 3):
                raise StopError

    first = fit(data(), model=Late, callbacks=[OnExceptionCheckpoint(tmp_path, "failed")], catches=(StopError,))
    resumed = fit(data(), path=tmp_path / "failed.ckpt")
    assert first.seen[:-1] + resumed.seen == whole[0].seen


@pytest.mark.parametrize("batch", range(6))
def test_after_an_exception_of_the_dataset(batch, whole, tmp_path):
    """A sample that cannot be read, mended since: its batch is the first of the resumed run."""
    index = int(epoch_order(SEED, 0, 22)[4 * batch + 1])
    saves = OnExceptionCheckpoint(tmp_path, "failed")
    first = fit(data(train=Noisy(breaks_at=index)), callbacks=[saves], catches=(StopError,))
    assert str(first.error) == f"sample {index} cannot be read"
    resumed = fit(data(), path=tmp_path / "failed.ckpt")
    check_goes_on(first, resumed, whole[0])


def test_after_an_exception_of_the_validation(tmp_path):
    """What is left of training does not depend on a validation that failed."""
    setup = SETUPS["validation in the middle"]
    full = fit(data(), **setup)
    first = fit(
        data(val=Noisy(8, breaks_at=5)),
        callbacks=[OnExceptionCheckpoint(tmp_path, "failed")],
        catches=(StopError,),
        **setup,
    )
    assert len(first.seen) == 2
    resumed = fit(data(), path=tmp_path / "failed.ckpt", **setup)
    assert rest(resumed, 0) == rest(full, 2)


def test_save_on_exception(whole, tmp_path):
    """ModelCheckpoint's own way to write a checkpoint of a failed run."""
    saves = ModelCheckpoint(tmp_path, filename="{step}", save_on_exception=True)
    first = interrupted(tmp_path, "training_step", (1, 2), saves=saves)
    resumed = fit(data(), path=tmp_path / "step=8.ckpt")
    check_goes_on(first, resumed, whole[0])


def test_after_a_keyboard_interrupt(whole, tmp_path):
    """Ctrl+C in a step; Lightning ends the process with SystemExit."""
    before = signal.getsignal(signal.SIGINT)
    try:
        stop = RaiseAt("on_train_batch_start", 1, 2, KeyboardInterrupt)
        first = fit(data(), callbacks=[stop, OnExceptionCheckpoint(tmp_path, "failed")], catches=(SystemExit,))
    finally:
        signal.signal(signal.SIGINT, before)
    resumed = fit(data(), path=tmp_path / "failed.ckpt")
    check_goes_on(first, resumed, whole[0])


@pytest.mark.parametrize("at", PLACES, ids=str)
def test_after_an_exception_in_an_accumulation(at, tmp_path):
    """The samples are exact and steps fall on the same batches; gradients gathered so far are in no checkpoint."""
    full = fit(data(), accumulate_grad_batches=2)
    first = interrupted(tmp_path, "training_step", at, accumulate_grad_batches=2)
    resumed = fit(data(), path=tmp_path / "failed.ckpt", accumulate_grad_batches=2)
    assert first.seen + resumed.seen == full.seen
    assert resumed.trainer.global_step == full.trainer.global_step
    assert (resumed.weights == full.weights) is (at[1] % 2 == 0)


# What must be the same, and what need not be


CHANGES = {
    "batch_size": (lambda: data(batch_size=5), "global batch size .* was 4 .* and is 5"),
    "seed": (lambda: data(seed=8), "the seed was 7 .* and is 8"),
    "length": (lambda: data(length=23), "number of samples in the training data was 22 .* and is 23"),
    "shuffle": (lambda: data(shuffle=False), "order of the training data was 'shuffled' .* and is 'in order'"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("step", [1, 8])
def test_a_change_in_mid_epoch_is_refused(whole, change, step):
    """Samples would be lost and others repeated, so both values are named and nothing is trained."""
    module, message = CHANGES[change]
    run = fit(module(), path=cuts(whole[1])[step], catches=(FastDataError,))
    assert run.seen == []
    with pytest.raises(FastDataError, match=message):
        raise run.error


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_at_an_epochs_end_is_allowed(whole, change, tmp_path):
    """Nothing of the epoch is left, so the next may be another; from its last step as from its end."""
    fit(data(), callbacks=[ModelCheckpoint(tmp_path, filename="{step}")], max_epochs=1)
    module, _ = CHANGES[change]
    expected = fit(module(), limit_val_batches=0).seen
    second = [batch for epoch, _, batch in expected if epoch == 1]
    for path in (cuts(whole[1])[6], tmp_path / "step=6.ckpt"):
        assert [batch for _, _, batch in fit(module(), path=path).seen] == second


def test_a_refused_change_does_not_spoil_the_next_checkpoint(whole, tmp_path):
    """What on_exception writes then still holds the place in the data that was asked for."""
    saves = OnExceptionCheckpoint(tmp_path, "refused")
    fit(data(batch_size=5), path=cuts(whole[1])[8], callbacks=[saves], catches=(FastDataError,))
    assert rest(fit(data(), path=tmp_path / "refused.ckpt"), 0) == rest(whole[0], 8)


def test_a_state_of_another_package_is_refused(whole, tmp_path):
    """A checkpoint whose loader state is not ours cannot be continued, and says so."""
    written = torch.load(cuts(whole[1])[3], weights_only=True)
    put_states(written, [{"_iterator_finished": False}])
    torch.save(written, tmp_path / "theirs.ckpt")
    run = fit(data(), path=tmp_path / "theirs.ckpt", catches=(FastDataError,))
    assert "has no seed, epoch" in str(run.error)


def test_a_state_of_another_package_at_an_epochs_end_does_not_matter(tmp_path):
    """Nothing of it is needed there."""
    fit(data(), callbacks=[ModelCheckpoint(tmp_path, filename="{step}")], max_epochs=1)
    written = torch.load(tmp_path / "step=6.ckpt", weights_only=True)
    put_states(written, [{"_iterator_finished": True}])
    written["loops"]["fit_loop"]["epoch_progress"]["current"].update(ready=1, started=1, processed=1, completed=1)
    torch.save(written, tmp_path / "theirs.ckpt")
    assert len(fit(data(), path=tmp_path / "theirs.ckpt").seen) == 6


# Lightning's warning


NOT_RESUMABLE = "your dataloader is not resumable"


def test_no_warning_says_otherwise(whole):
    """Lightning's warning that a loader is not resumable does not come for one that is."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(data(), path=cuts(whole[1])[3])
    assert not [warning for warning in told if NOT_RESUMABLE in str(warning.message).replace("\n", " ")]


class Stream(IterableDataset):
    def __len__(self):
        return 22

    def __iter__(self):
        return iter(torch.rand(22, 4))


@pytest.mark.filterwarnings("ignore:Stream is an IterableDataset")
@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
def test_a_stream_is_still_warned_of(tmp_path):
    """An IterableDataset is not resumed in mid-epoch, and Lightning's warning comes."""

    def module():
        return data(train=Stream())

    fit(module(), callbacks=[every_step(tmp_path)], max_epochs=1)
    with pytest.warns(UserWarning, match="not resumable"):
        fit(module(), path=cuts(tmp_path)[3], max_epochs=1)


# Loaders of every kind


class Own(Net):
    """Makes its training loader itself."""

    def __init__(self, make, **kwargs) -> None:
        super().__init__(**kwargs)
        self.make = make

    def train_dataloader(self):
        return self.make(self.trainer)

    def val_dataloader(self):
        return loader(Noisy(8), self.trainer, split="val")


def loader(dataset=None, trainer=None, **kwargs):
    dataset = Noisy() if dataset is None else dataset
    batches = {} if "batch_sampler" in kwargs else {"batch_size": 4}
    wanted = {"split": "train", "num_workers": 0, "seed": SEED}
    return auto_dataloader(dataset, trainer=trainer, **{**wanted, **batches, **kwargs})


def nothing():
    """No DataModule."""


@pytest.mark.parametrize("estimates", [False, True], ids=["", "estimates"])
@pytest.mark.parametrize("known", [True, False], ids=["trainer given", "trainer not given"])
def test_auto_dataloader(known, estimates, tmp_path):
    """In a LightningModule, every cut is exact, whether or not the loader was told of its Trainer."""

    def model():
        return Own(lambda trainer: loader(trainer=trainer if known else None), estimates=estimates)

    full = check_every_cut(tmp_path / "cuts", nothing, model)
    for at in PLACES:
        folder = tmp_path / f"{at}"
        first = fit(
            model=lambda at=at: _broken(model(), at),
            callbacks=[OnExceptionCheckpoint(folder, "e")],
            catches=(StopError,),
        )
        resumed = fit(model=model, path=folder / "e.ckpt")
        check_goes_on(first, resumed, full)


def _broken(model, at):
    model.breaks = at
    return model


def test_a_loader_that_two_trainers_use(whole, tmp_path):
    """In a notebook the loader lives on when a new Trainer resumes; it follows the Trainer that uses it."""
    kept = loader()
    first = fit(
        model=lambda: Own(lambda trainer: kept, breaks=(0, 4)),
        callbacks=[every_step(tmp_path), OnExceptionCheckpoint(tmp_path, "failed")],
        catches=(StopError,),
    )
    for path, done in ((tmp_path / "failed.ckpt", 4), (cuts(tmp_path)[2], 2)):
        resumed = fit(model=lambda: Own(lambda trainer: kept), path=path)
        assert first.seen[:done] + resumed.seen == whole[0].seen
    again = fit(model=lambda: Own(lambda trainer: kept))
    assert again.seen == whole[0].seen


class Batches(BatchSampler):
    """A batch sampler as users write one."""


class Unsized(Sampler):
    """Does not say how many."""

    def __iter__(self):
        return iter(range(3, 22))


KINDS = {
    "in order": {"shuffle": False},
    "drop_last": {"drop_last": True},
    "weighted": {"sampler": lambda: WeightedRandomSampler([1.0] * 20 + [9.0] * 2, 18)},
    "random sampler": {"sampler": lambda: RandomSampler(range(22))},
    "batch sampler": {"batch_sampler": lambda: Batches(RandomSampler(range(22)), 5, False)},
    "plain batch sampler": {"batch_sampler": lambda: BatchSampler(RandomSampler(range(22)), 5, False)},
    "tensors": {"dataset": lambda: TensorDataset(torch.rand(22, 4, generator=torch.Generator().manual_seed(1)))},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_loader(kind, tmp_path):
    """Samplers of the user's give the same order again, though they draw from the global generators."""

    def model():
        made = {name: value() if callable(value) else value for name, value in KINDS[kind].items()}
        return Own(lambda trainer: loader(trainer=trainer, **made))

    check_every_cut(tmp_path, nothing, model)


def shaken(batch, random):
    """A batch transform, of which a resumed run must give each sample the same."""
    return batch + random.uniform(0, 0.25, size=4)


def test_a_tensor_data_module(tmp_path):
    """Data in memory, augmented a batch at a time; dropout goes on as well: the weights are the same."""
    rows = torch.rand(22, 4, generator=torch.Generator().manual_seed(1))
    options = {"batch_size": 4, "seed": SEED, "train_transform": shaken}
    check_every_cut(tmp_path, lambda: TensorDataModule(train=rows, val=rows[:8], **options))


@pytest.mark.filterwarnings("ignore:.*is_last_batch")
def test_a_sampler_without_a_length(tmp_path):
    """Lightning reads it one batch ahead, which does not count; an epoch's last step is Lightning's affair there."""

    def model(at=None):
        return Own(lambda trainer: loader(trainer=trainer, sampler=Unsized()), breaks=at)

    full = fit(model=model, callbacks=[every_step(tmp_path)])
    assert len(full.seen) == 10
    for step, path in cuts(tmp_path).items():
        if step % 5:
            assert loader_states(path)[0]["batches_consumed"] == step % 5
            assert rest(fit(model=model, path=path), 0) == rest(full, step), path.name
    for at in ((0, 0), (0, 3), (1, 0), (1, 4)):
        saves = OnExceptionCheckpoint(tmp_path / f"{at}", "failed")
        first = fit(model=lambda at=at: model(at), callbacks=[saves], catches=(StopError,))
        resumed = fit(model=model, path=saves.ckpt_path)
        assert first.seen + resumed.seen == full.seen, at


def test_without_seeded_samples(tmp_path):
    """deterministic=False: the samples are the same ones; their random values need not be."""
    full = fit(data(deterministic=False), callbacks=[every_step(tmp_path)])
    for step, path in cuts(tmp_path).items():
        resumed = fit(data(deterministic=False), path=path)
        found = [numbers(batch) for _, _, batch in resumed.model.seen]
        assert found == [numbers(batch) for _, _, batch in full.model.seen[step:]], path.name


def combined(mode, swap=False, **second):
    """Six batches of one dataset, three of another beside them."""

    def make(trainer):
        both = [loader(trainer=trainer), loader(Noisy(9, start=100, **second), trainer=trainer)]
        return CombinedLoader(both[::-1] if swap else both, mode)

    return make


@pytest.mark.parametrize("swap", [False, True], ids=["long first", "short first"])
@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
def test_two_loaders_at_once(mode, swap, tmp_path):
    """Each is resumed where the model was in it, at every cut and after an exception in any step."""
    full = check_every_cut(tmp_path / "cuts", nothing, lambda: Own(combined(mode, swap)))
    steps = 3 if mode == "min_size" else 6
    assert len(full.seen) == 2 * steps
    for at in ((0, 0), (0, steps - 1), (1, steps // 2)):
        saves = OnExceptionCheckpoint(tmp_path / f"{at}", "failed")
        first = fit(model=lambda at=at: Own(combined(mode, swap), breaks=at), callbacks=[saves], catches=(StopError,))
        resumed = fit(model=lambda: Own(combined(mode, swap)), path=saves.ckpt_path)
        check_goes_on(first, resumed, full)


@pytest.mark.parametrize("swap", [False, True], ids=["long first", "short first"])
@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
@pytest.mark.parametrize("batch", range(3))
def test_one_of_two_loaders_fails(batch, mode, swap, tmp_path):
    """The batch that the other had given already was not trained on, and comes again."""
    index = int(epoch_order(SEED, 0, 9)[4 * batch])
    saves = OnExceptionCheckpoint(tmp_path, "failed")
    fails = combined(mode, swap, breaks_at=index)
    first = fit(model=lambda: Own(fails), callbacks=[saves], catches=(StopError,))
    assert len(first.seen) == batch
    full, resumed = (
        fit(model=lambda: Own(combined(mode, swap))),
        fit(model=lambda: Own(combined(mode, swap)), path=saves.ckpt_path),
    )
    check_goes_on(first, resumed, full)


def test_the_long_loader_fails_when_the_short_one_has_come_round(tmp_path):
    """The short one had begun its second cycle, which begins anew."""

    def both(breaks_at):
        return lambda trainer: CombinedLoader(
            [loader(Noisy(9, start=100), trainer=trainer), loader(Noisy(breaks_at=breaks_at), trainer=trainer)],
            "max_size_cycle",
        )

    full = fit(model=lambda: Own(both(None)))
    for batch in (2, 3, 4):
        index = int(epoch_order(SEED, 0, 22)[4 * batch])
        saves = OnExceptionCheckpoint(tmp_path / str(batch), "failed")
        first = fit(model=lambda index=index: Own(both(index)), callbacks=[saves], catches=(StopError,))
        assert len(first.seen) == batch
        assert rest(fit(model=lambda: Own(both(None)), path=saves.ckpt_path), 0) == rest(full, batch)


def test_a_loader_that_comes_round_is_shuffled_anew():
    """The shorter loader's second cycle has the same samples in another order, with other random numbers."""
    run = fit(model=lambda: Own(combined("max_size_cycle")), max_epochs=1)
    short = [batch[1] for _, _, batch in run.model.seen]
    first, second = (torch.cat(short[:3]), torch.cat(short[3:]))
    assert sorted(numbers(first)) == sorted(numbers(second))
    assert numbers(first) != numbers(second)
    assert set(first[:, 1:].flatten().tolist()).isdisjoint(second[:, 1:].flatten().tolist())
    assert [row[0] for row in first.tolist()] == [100.0 + index for index in epoch_order(SEED, 0, 9)]
    assert [row[0] for row in second.tolist()] == [100.0 + index for index in epoch_order(SEED, 0, 9, cycle=1)]


def test_two_datasets_of_a_data_module(tmp_path):
    """A dict of datasets is resumed as one loader each."""
    check_every_cut(
        tmp_path, lambda: FastDataModule({"a": Noisy(), "b": Noisy(9)}, Noisy(8), num_workers=0, batch_size=4)
    )


# Workers and processes


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("setup", [{}, SETUPS["validation in the middle"]], ids=str)
def test_every_cut_with_another_number_of_workers(workers, setup, tmp_path):
    """0 workers resumed with 2 and the reverse, another prefetch depth: bitwise what no worker and no cut gives."""

    def module(count):
        ahead = {"prefetch_factor": 2 + count, "persistent_workers": bool(count % 2)} if count else {}
        return data(dataloader_kwargs={"train": {"num_workers": count, **ahead}, "val": {"num_workers": 0}})

    full = fit(data(), **setup)
    cut = fit(module(workers), callbacks=[every_step(tmp_path)], **setup)
    assert rest(cut, 0) == rest(full, 0)
    for step, path in cuts(tmp_path).items():
        assert loader_states(path)[0]["batches_consumed"] == (step - 1) % 6 + 1
        others = [2, 1] if workers == 0 else [0, 1]
        other = others[step % 2]
        assert rest(fit(module(other), path=path, **setup), 0) == rest(full, step), path.name


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["training_step", "on_train_batch_end"])
def test_after_an_exception_with_workers(hook, whole, tmp_path):
    """Batches that workers had ready are not counted."""
    for at in ((0, 1), (0, 5), (1, 2)):
        folder = tmp_path / f"{at}"
        first = interrupted(folder, hook, at, module=lambda: data(2, prefetch_factor=4))
        resumed = fit(data(1), path=folder / "failed.ckpt")
        check_goes_on(first, resumed, whole[0])


@pytest.mark.slow
def test_after_an_exception_in_a_worker(whole, tmp_path):
    """The dataset fails in a worker, batches before it are trained on, its own comes again."""
    index = int(epoch_order(SEED, 0, 22)[9])
    saves = OnExceptionCheckpoint(tmp_path, "failed")
    first = fit(data(2, train=Noisy(breaks_at=index)), callbacks=[saves], catches=(StopError,))
    assert len(first.seen) == 2
    assert rest(fit(data(), path=saves.ckpt_path), 0) == rest(whole[0], 2)


@pytest.mark.slow
def test_a_process_that_is_killed(whole, tmp_path):
    """SIGKILL in mid-epoch, in another process than the one that resumes."""
    done = programs.run(Path(__file__).with_name("resume_cases.py"), tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = cuts(tmp_path)
    assert max(found) == 8
    assert rest(fit(data(), path=found[8]), 0) == rest(whole[0], 8)
