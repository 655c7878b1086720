"""Checkpoints that change hands, or that something went wrong with: from plain loaders to ours, back, and edited."""

import copy
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from resume_cases import (
    SEED,
    Net,
    Noisy,
    StopError,
    data,
    every_step,
    fit,
    loader_states,
    numbers,
    put_states,
    rest,
)
from torch.utils.data import DataLoader

from lightning_fastdata import auto_dataloader
from lightning_fastdata.errors import FastDataError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*ckpt_path"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*`dataloader_iter`"),
]
CUTS = {step: f"step={step}.ckpt" for step in range(1, 13)}
NO_STATE = "holds no state of this package's loader"


class Own(Net):
    """Makes its training loader itself."""

    def __init__(self, make, **kwargs):
        super().__init__(**kwargs)
        self.make = make

    def train_dataloader(self):
        return self.make()

    def val_dataloader(self):
        return auto_dataloader(Noisy(8), split="val", batch_size=4, num_workers=0, seed=SEED)


def ours(shuffle=True, dataset=None):
    return auto_dataloader(dataset or Noisy(), batch_size=4, num_workers=0, seed=SEED, shuffle=shuffle)


def plain(dataset=None):
    return DataLoader(dataset or Noisy(), batch_size=4)


def own(*makes, mode="max_size_cycle", **kwargs):
    """A model with loaders of its own; several are read together."""
    return lambda: Own(
        makes[0] if len(makes) == 1 else lambda: CombinedLoader([make() for make in makes], mode), **kwargs
    )


def samples(run):
    """Epoch, batch and sample numbers of all that a run was trained on."""
    return [(epoch, batch, numbers(rows)) for epoch, batch, rows in run.model.seen]


# From plain loaders to ours


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """Two epochs in the dataset's order with torch's loader, and a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("plain")
    return samples(fit(model=own(plain), callbacks=[every_step(folder)])), folder


@pytest.mark.parametrize(("step", "estimates"), [(1, False), (4, True), (6, False), (6, True), (9, False), (12, False)])
def test_a_checkpoint_of_plain_loaders(step, estimates, plain_run, tmp_path):
    """Data in order goes on with the very batch; in mid-epoch a line says that this is so for the same order only."""
    everything, folder = plain_run
    if estimates:
        folder = tmp_path
        fit(model=own(plain, estimates=True), callbacks=[every_step(folder)])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        resumed = fit(model=own(lambda: ours(shuffle=False), estimates=estimates), path=folder / CUTS[step])
    assert samples(resumed) == everything[step:]
    assert sum(NO_STATE in str(one.message) for one in told) == (step not in (6, 12))


@pytest.mark.filterwarnings(f"ignore:.*{NO_STATE}")
def test_a_checkpoint_of_plain_loaders_is_shuffled_from_there_on(plain_run):
    """The rest of our order of the epoch, and as many batches as were left."""
    resumed = fit(data(), path=plain_run[1] / CUTS[4])
    assert samples(resumed) == samples(fit(data()))[4:]


@pytest.mark.filterwarnings(f"ignore:.*{NO_STATE}")
def test_a_loader_that_another_trainer_had_goes_on_there_as_well(plain_run):
    """What it served elsewhere, in a notebook, does not count."""
    kept = ours(shuffle=False)
    fit(model=own(lambda: kept), max_epochs=1, limit_train_batches=3)
    resumed = fit(model=own(lambda: kept), path=plain_run[1] / CUTS[4])
    assert samples(resumed) == plain_run[0][4:]


@pytest.mark.filterwarnings(f"ignore:.*{NO_STATE}")
@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
def test_two_plain_loaders_become_ours(mode, tmp_path):
    """Each goes on where it was; the shorter one in the cycle in which it was."""
    short = Noisy(9, start=100)
    full = fit(model=own(plain, lambda: plain(short), mode=mode), callbacks=[every_step(tmp_path)], max_epochs=1)
    pair = own(lambda: ours(shuffle=False), lambda: ours(shuffle=False, dataset=short), mode=mode)
    expected = [[None if part is None else numbers(part) for part in batch] for _, _, batch in full.model.seen]
    for step in range(1, len(expected)):
        resumed = fit(model=pair, path=tmp_path / CUTS[step], max_epochs=1)
        found = [[None if part is None else numbers(part) for part in batch] for _, _, batch in resumed.model.seen]
        assert found == expected[step:], step


def foreign(path, to, **state):
    """Give a checkpoint the state of another package's loader."""
    written = torch.load(path, weights_only=True)
    put_states(written, [{"_iterator_finished": True, **state}])
    torch.save(written, to)
    return to


@pytest.mark.parametrize("estimates", [False, True], ids=["", "estimates"])
def test_a_state_of_another_package_at_an_epochs_end_is_not_needed(estimates, tmp_path):
    """Neither at its last step nor after its validation, which Lightning counts as within the epoch."""
    saves = ModelCheckpoint(tmp_path, filename="val{step}", save_top_k=-1)
    model = own(ours, estimates=estimates)
    full = fit(data(), model=lambda: Net(estimates=estimates), callbacks=[every_step(tmp_path), saves])
    assert len(full.seen) == 12
    for name in ("step=6", "valstep=6"):
        path = foreign(tmp_path / f"{name}.ckpt", tmp_path / "theirs.ckpt")
        assert samples(fit(model=model, path=path)) == samples(full)[6:]


# From ours to plain loaders


@pytest.mark.parametrize(("kind", "setup"), [("module", {}), ("loader", {"max_steps": 12, "max_epochs": -1})], ids=str)
def test_plain_loaders_resume_our_checkpoints(kind, setup, tmp_path):
    """From an epoch's end as from their own; in mid-epoch with Lightning's own warning, at the batch it counts."""
    saves = ModelCheckpoint(tmp_path, filename="end{step}", save_top_k=-1)
    module, model = (data(), Net) if kind == "module" else (None, own(ours))
    fit(module, model=model, callbacks=[every_step(tmp_path), saves], **setup)
    expected = samples(fit(model=own(plain), **setup))
    for name in ("step=6", "endstep=6"):
        assert samples(fit(model=own(plain), path=tmp_path / f"{name}.ckpt", **setup)) == expected[6:]
    with pytest.warns(UserWarning, match="not resumable"):
        resumed = fit(model=own(plain), path=tmp_path / "step=8.ckpt", **setup)
    assert [place[:2] for place in samples(resumed)] == [place[:2] for place in expected[8:]]


def test_what_plain_loaders_leave_aside_is_not_passed_on(tmp_path):
    """Their own checkpoints do not claim to know our loaders' place."""
    fit(data(), callbacks=[every_step(tmp_path)])
    saves = OnExceptionCheckpoint(tmp_path, "second")
    second = fit(model=own(plain, breaks=(1, 2)), path=tmp_path / CUTS[6], callbacks=[saves], catches=(StopError,))
    assert len(second.seen) == 2
    assert "fastdata_loaders" not in str(torch.load(saves.ckpt_path, weights_only=True)["loops"])


# Runs that were stopped in mid-epoch


class StopsAt(ModelCheckpoint):
    """Has the Trainer stop after a step, as EarlyStopping within an epoch does."""

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        trainer.should_stop = trainer.should_stop or trainer.global_step == 8


STOPS = {"max_steps": {"max_steps": 8, "max_epochs": -1}, "should_stop": {"callbacks": 1}}


MORE = {"max_steps": 12, "max_epochs": -1}


class Asks(Net):
    """Has its loader made before the checkpoint is read."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


@pytest.mark.parametrize(
    ("how", "goes_on", "kind"),
    [
        ("max_steps", {}, "module"),
        ("max_steps", MORE, "module"),
        ("should_stop", {}, "module"),
        ("should_stop", MORE, "in order"),
        ("max_steps", {}, "loader"),
        ("max_steps", {}, "estimates"),
        ("should_stop", MORE, "estimates"),
    ],
)
def test_a_checkpoint_after_a_run_that_was_stopped(how, goes_on, kind, tmp_path):
    """trainer.save_checkpoint() after fit, where Lightning counts the epoch as done: the rest of it comes first."""
    module = {"loader": lambda: None, "in order": lambda: data(shuffle=False)}.get(kind, data)
    model = {"loader": own(ours), "estimates": Asks}.get(kind, Net)
    full = fit(module(), model=model)
    callbacks = [StopsAt(tmp_path / "unused")] if how == "should_stop" else []
    stopped = fit(module(), model=model, **{**STOPS[how], "callbacks": callbacks})
    assert len(stopped.seen) == 8
    path = tmp_path / "after.ckpt"
    stopped.trainer.save_checkpoint(path)
    assert rest(fit(module(), model=model, path=path, **goes_on), 0) == rest(full, 8)


@pytest.mark.parametrize("setup", [{"limit_train_batches": 4}, {"limit_train_batches": 0.5}], ids=str)
def test_an_epoch_that_a_limit_ends_is_not_opened_again(setup, tmp_path):
    """After fit as well: nothing of it is left."""
    full = fit(data(), **setup)
    once = fit(data(), max_epochs=1, **setup)
    once.trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert rest(fit(data(), path=tmp_path / "after.ckpt", **setup), 0) == rest(full, len(once.seen))


class Skips(Net):
    """Ends each epoch after three batches by the hook."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 3 else None


def test_an_epoch_that_a_hook_ends_is_not_opened_again(tmp_path):
    """It was meant."""
    full = fit(data(), model=Skips)
    once = fit(data(), model=Skips, max_epochs=1)
    once.trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert rest(fit(data(), model=Skips, path=tmp_path / "after.ckpt"), 0)[0] == rest(full, 3)[0]


# Steps that Lightning counts otherwise


@pytest.mark.parametrize("schedule", [{0: 1, 1: 2}, {0: 4, 1: 1}, {0: 3}], ids=str)
def test_every_cut_with_a_schedule_of_accumulation(schedule, tmp_path):
    """Lightning leaves out the hook in which the schedule acts; as many optimizer steps as uninterrupted."""

    def callbacks():
        return [GradientAccumulationScheduler(schedule)]

    full = fit(data(), callbacks=[*callbacks(), every_step(tmp_path)])
    for path in sorted(tmp_path.glob("*.ckpt")):
        consumed = loader_states(path)[0]
        seen = 6 * consumed["epoch"] + consumed["batches_consumed"]
        assert rest(fit(data(), callbacks=callbacks(), path=path), 0) == rest(full, seen), path.name


class TwoAStep(Net):
    """A GAN: two batches a step. ``breaks`` fails between them."""

    def training_step(self, dataloader_iter):
        first, _, _ = next(dataloader_iter)
        if self.breaks == (self.current_epoch, self.trainer.global_step):
            raise StopError("in the step")
        second, _, _ = next(dataloader_iter)
        return self.learn(torch.cat([first, second]), self.trainer.global_step)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_every_cut_with_two_batches_a_step(workers, tmp_path):
    """Batches count, not steps: those that a step has taken, and none of a step that failed."""
    full = fit(data(workers), model=TwoAStep, callbacks=[every_step(tmp_path)])
    assert len(full.seen) == 6
    for step in range(1, 7):
        path = tmp_path / CUTS[step]
        assert loader_states(path)[0]["batches_consumed"] == 2 * ((step - 1) % 3 + 1)
        assert rest(fit(data(workers), model=TwoAStep, path=path), 0) == rest(full, step), path.name
    for at in ((0, 0), (0, 2), (1, 4)):
        saves = OnExceptionCheckpoint(tmp_path / str(at), "failed")
        first = fit(data(workers), model=lambda at=at: TwoAStep(at), callbacks=[saves], catches=(StopError,))
        resumed = fit(data(workers), model=TwoAStep, path=saves.ckpt_path)
        assert first.seen + resumed.seen == full.seen, at


# Rules


def under_rules(path, to, rules):
    """A checkpoint as a version wrote it that had these rules; under the first it said nothing of them."""
    written = torch.load(path, weights_only=True)
    states = written["loops"]["fit_loop"]["epoch_progress"]["current"]["fastdata_loaders"]
    for state in states:
        state["rules"] = rules
        if rules == 1:
            del state["rules"], state["name"]
    if rules == 1:
        put_states(written, states)
    torch.save(written, to)
    return to


def test_a_checkpoint_of_the_first_rules_goes_on(tmp_path):
    """In mid-epoch and from an epoch's end: order and sample seeds of an epoch that has begun are the same."""
    full = fit(data(), callbacks=[every_step(tmp_path)])
    for step in (2, 6, 9):
        path = under_rules(tmp_path / CUTS[step], tmp_path / "old.ckpt", 1)
        assert rest(fit(data(), path=path), 0) == rest(full, step)


def test_a_checkpoint_of_later_rules_goes_on_from_an_epochs_end_only(tmp_path):
    """In mid-epoch the error names both numbers."""
    full = fit(data(), callbacks=[every_step(tmp_path)])
    run = fit(data(), path=under_rules(tmp_path / CUTS[2], tmp_path / "new.ckpt", 3), catches=(FastDataError,))
    assert "under rules 3, and this version knows rules 2" in str(run.error)
    assert run.seen == []
    assert rest(fit(data(), path=under_rules(tmp_path / CUTS[6], tmp_path / "new.ckpt", 3)), 0) == rest(full, 6)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_datasets_with_other_names_in_mid_epoch(tmp_path):
    """Their names decide their orders, so other names would be other orders."""

    def module(*names):
        return data(train=dict.fromkeys(names, Noisy()))

    full = fit(module("a", "b"), callbacks=[every_step(tmp_path)])
    run = fit(module("a", "c"), path=tmp_path / CUTS[2], catches=(FastDataError,))
    assert "the loader's name among several was 'train/b'" in str(run.error)
    assert rest(fit(module("a", "b"), path=tmp_path / CUTS[2]), 0) == rest(full, 2)


# Checkpoints that were damaged


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    fit(data(), callbacks=[every_step(folder)])
    return torch.load(folder / CUTS[9], weights_only=True), folder


DAMAGES = {
    "batches_consumed": (0, 1, 2, 4, 5, 6, 7, -1, "3", 3.0, None, True, [3]),
    "samples_consumed": (0, 11, 13, 22, "12"),
    "epoch": (0, 2, 7, -1, "1", None),
    "cycle": (1, 5, -1, None, 0.5),
    "seed": (8, "7", None, -7),
    "dataset_length": (0, 23, "22"),
    "global_batch_size": (0, 5, 8, None),
    "order": ("in order", "sorted", 1, None),
    "rules": (3, "2", None),
    "name": ("other", 1),
    "generators": ({}, {"rank": 0}, "none", {"rank": 0, "python": 1}),
}


@pytest.mark.parametrize("field", DAMAGES)
def test_a_damaged_state_is_an_error(field, cut, tmp_path):
    """Whatever the field and the value: before the first batch, and in the package's own words."""
    for value in DAMAGES[field]:
        written = copy.deepcopy(cut[0])
        (state,) = written["loops"]["fit_loop"]["epoch_progress"]["current"]["fastdata_loaders"]
        state[field] = value
        torch.save(written, tmp_path / "damaged.ckpt")
        run = fit(data(), path=tmp_path / "damaged.ckpt", catches=(FastDataError,))
        assert run.error is not None, value
        assert run.seen == []
        assert run.error.expected
        assert run.error.fix


@pytest.mark.parametrize("batches", [1, 4])
def test_damage_that_fits_itself_does_not_fit_lightnings_count(batches, cut, tmp_path):
    """Batches and samples agree with each other, and with nothing else."""
    written = copy.deepcopy(cut[0])
    (state,) = written["loops"]["fit_loop"]["epoch_progress"]["current"]["fastdata_loaders"]
    state.update(batches_consumed=batches, samples_consumed=4 * batches)
    torch.save(written, tmp_path / "damaged.ckpt")
    run = fit(data(), path=tmp_path / "damaged.ckpt", catches=(FastDataError,))
    assert f"is of batch {batches} of epoch 1, cycle 0, and the run goes on at batch 3 of epoch 1" in str(run.error)


@pytest.mark.parametrize("states", [[], [{}], None], ids=str)
def test_states_that_are_gone(states, cut, tmp_path):
    """Empty ones are an error; without any the run goes on at Lightning's batch, and says so."""
    written = copy.deepcopy(cut[0])
    put_states(written, states)
    if states is None:
        del written["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    torch.save(written, tmp_path / "empty.ckpt")
    if states == [{}]:
        run = fit(data(), path=tmp_path / "empty.ckpt", catches=(FastDataError,))
        assert "has no seed, epoch" in str(run.error)
        return
    with pytest.warns(UserWarning, match=NO_STATE):
        resumed = fit(data(), path=tmp_path / "empty.ckpt")
    assert samples(resumed) == samples(fit(data()))[9:]
