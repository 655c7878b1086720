"""DataAudit with the real Trainer on the CPU: what it writes, and that it never costs anybody a training."""

import pickle
import warnings
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from datamodule_cases import Numbers, quiet_trainer
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from lightning_fastdata import DataAudit, FastDataModule
from lightning_fastdata.callbacks.audit.digest import sum_of_samples
from lightning_fastdata.callbacks.audit.session import AuditSession
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.audit_compare import compare
from lightning_fastdata.results.audit_file import read_audit

pytestmark = [
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*`dataloader_iter`"),
]

SERVED = namedtuple("SERVED", "epoch cycle number indices padded", defaults=(0,))


class TellingLoader:
    """The contract with the package's loaders and nothing else: ``last_served``, and a length or none."""

    def __init__(self, batches=5, size=4, start=0, sized=True):
        self.batches, self.size, self.start, self.last_served = batches, size, start, None
        self.sampler = self
        self.epoch = self.cycle = 0
        self.sized = sized

    def __len__(self):
        if not self.sized:
            raise TypeError("no length")
        return self.batches

    def set_epoch(self, epoch):
        self.epoch, self.cycle = epoch, 0

    def __iter__(self):
        cycle = self.cycle
        for number in range(self.batches):
            indices = [self.start + number * self.size + offset for offset in range(self.size)]
            self.last_served = SERVED(self.epoch, cycle, number, indices)
            yield torch.tensor(indices, dtype=torch.float32)
        self.cycle += 1


class Stops(LightningModule):
    """Raises at a batch, as a killed run does, or runs through."""

    def __init__(self, at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.at = at

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == self.at:
            raise InterruptedError
        return self.weight * 1.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def fit(path, data=None, *, model=None, content=False, callbacks=(), ckpt_path=None, **kwargs):
    """Train with an audit; the epochs of its file."""
    trainer = quiet_trainer(callbacks=[DataAudit(path, content=content), *callbacks], **kwargs)
    source = {"datamodule": data} if isinstance(data, FastDataModule) else {"train_dataloaders": data}
    trainer.fit(model or Stops(), **source, ckpt_path=ckpt_path)
    return read_audit(path)


def module(length=40, **kwargs):
    return FastDataModule(Numbers(length), batch_size=4, **{"num_workers": 0, "seed": 42, **kwargs})


# What a line says.


@pytest.mark.slow
def test_a_line_per_epoch(path):
    """The digest is that of the samples each batch held."""
    first, second = fit(path, TellingLoader())
    assert (first.epoch, first.first_batch, first.batches, first.samples) == (0, 0, 5, 20)
    assert (first.content, first.content_marks) == (None, ())
    sums = [sum_of_samples((1, 0, 0, number), range(4 * number, 4 * number + 4)) for number in range(5)]
    assert second.digest == f"{sum(sums) % 2**64:016x}"
    assert second.marks == tuple(f"{sum(sums[: number + 1]) % 2**32:08x}" for number in range(5))


@pytest.mark.slow
def test_the_loaders_of_this_package(path):
    """Workers change nothing, the seed changes all; the content is measured where it is asked for."""
    one = fit(path, module())
    with_workers = fit(path.with_name("b"), module(num_workers=2), content=True)
    other_seed = fit(path.with_name("c"), module(seed=1))
    assert compare(one, with_workers).same
    assert compare(one, one).samples == 80
    assert [epoch.content is None for epoch in (*one, *with_workers)] == [True, True, False, False]
    assert compare(one, other_seed).difference.first == 0


@pytest.mark.slow
def test_content_of_any_loader(path):
    """The same bytes have the same digest, whoever loaded them; another number shows."""
    plain = DataLoader(Numbers(8), batch_size=4)
    with pytest.warns(UserWarning, match="samples of batches are not measured: DataLoader does not say"):
        lines = fit(path, plain, content=True)
    ours = fit(path.with_name("b"), module(8, shuffle=False), content=True)
    assert [(line.digest, line.samples, line.batches) for line in lines] == [(None, 8, 2)] * 2
    assert compare(lines, ours).same
    assert compare(lines, ours).aspects == ("content",)
    assert lines[0].content == lines[1].content
    with pytest.warns(UserWarning, match="not measured"):
        other = fit(path, DataLoader(Numbers(8, start=1), batch_size=4), content=True)
    assert compare(lines, other).difference.aspects == ("content",)


@pytest.mark.slow
def test_a_loader_that_does_not_tell(path):
    """Not measured, said once, with what to do; the training goes on and the lines say so."""
    with pytest.warns(UserWarning, match="not measured") as caught:
        lines = fit(path, DataLoader(Numbers(8), batch_size=4))
    (warning,) = [str(each.message) for each in caught if "DataAudit" in str(each.message)]
    assert "content=True" in warning
    assert [(line.digest, line.content, line.samples, line.batches) for line in lines] == [(None, None, None, 2)] * 2


@pytest.mark.slow
def test_a_batch_read_ahead_is_not_taken_for_the_one_before(path):
    """Lightning fetches one batch ahead where a loader has no length: better no digest than a wrong one."""
    with pytest.warns(UserWarning, match="reads one batch ahead"):
        lines = fit(path, [TellingLoader(), TellingLoader(sized=False)])
    assert [(line.digest, line.batches) for line in lines] == [(None, 5)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["max_size_cycle", "max_size", "min_size"])
def test_several_loaders(path, mode):
    """A shorter loader comes round, or is done; each sample counts when it was given."""
    expected = {"max_size_cycle": 5 * 6, "max_size": 5 * 4 + 2 * 2, "min_size": 2 * 6}[mode]

    def loaders(start=100):
        return CombinedLoader({"a": TellingLoader(5), "b": TellingLoader(2, 2, start)}, mode)

    lines = fit(path, loaders(), content=True)
    assert [line.samples for line in lines] == [expected] * 2
    assert compare(lines, fit(path, loaders(), content=True)).same
    changed = compare(lines, fit(path, loaders(start=101), content=True))
    assert changed.difference.aspects == ("order", "content")


@pytest.mark.slow
def test_reloaded_loaders_and_limits(path):
    """Loaders that the Trainer asks for anew in each epoch, batches it leaves out, gradients it accumulates."""
    lines = fit(path, module(), reload_dataloaders_every_n_epochs=1, limit_train_batches=7, accumulate_grad_batches=2)
    assert [(line.epoch, line.batches, line.samples) for line in lines] == [(0, 7, 28), (1, 7, 28)]
    found = compare(lines, fit(path, module()))
    assert found.difference.batches == (7, 10)
    assert found.difference.first == 7


# Runs that stop and go on.


def stop_and_resume(path, at, tmp_path, *, ckpt=None, ends=({}, {}), **kwargs):
    """A run that is killed at (epoch, batch) and resumed from its last checkpoint, or from another."""
    saver = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    with pytest.raises(InterruptedError):
        fit(path, module(), model=Stops(at), callbacks=[saver], enable_checkpointing=True, **kwargs, **ends[0])
    newest = max((tmp_path / "saved").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    ckpt = newest if ckpt is None else tmp_path / "saved" / ckpt
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint")
        return fit(path, module(), ckpt_path=ckpt, **kwargs, **ends[1])


@pytest.mark.slow
@pytest.mark.parametrize("at", [(0, 3), (1, 0), (1, 1), (1, 9), (2, 5)])
def test_a_resumed_run_tells_the_same(path, tmp_path, at):
    """Killed in mid-epoch, before the first or the last batch: the lines are those of a run that went through."""
    whole = fit(path.with_name("whole"), module(), content=True, max_epochs=3)
    resumed = stop_and_resume(path, at, tmp_path, content=True, max_epochs=3)
    assert resumed == whole


@pytest.mark.slow
@pytest.mark.parametrize("step", [10, 13])
def test_resuming_from_an_older_checkpoint(path, tmp_path, step):
    """Epochs that are done again replace their lines, and those of the abandoned run after them are gone."""
    whole = fit(path.with_name("whole"), module(), max_epochs=2)
    ends = (
        [{"max_epochs": 3}, {"max_epochs": 2}]
        if step == 13
        else [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 20}]
    )
    resumed = stop_and_resume(path, (2, 5), tmp_path, ckpt=f"step={step}.ckpt", ends=ends)
    assert resumed == whole
    assert len(path.read_text().splitlines()) == {10: 4, 13: 3}[step]


@pytest.mark.slow
def test_the_line_of_an_epoch_whose_end_was_missed(path, tmp_path):
    """Saved after the last batch, killed before the end of the epoch: the resumed run writes the line."""
    whole = fit(path.with_name("whole"), module(), max_epochs=2)
    saved = tmp_path / "saved.ckpt"

    class KilledAtTheEnd(Callback):
        def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
            if batch_idx == 9:
                trainer.save_checkpoint(saved)
                raise InterruptedError

    with pytest.raises(InterruptedError), pytest.raises(FastDataError):
        fit(path, module(), callbacks=[KilledAtTheEnd()])
    assert path.read_text() == ""
    assert fit(path, module(), ckpt_path=saved, max_epochs=2) == whole


@pytest.mark.slow
def test_a_checkpoint_of_an_exception(path, tmp_path):
    """Saved in the midst of a batch, which the resumed run then sees again."""
    saved = tmp_path / "saved.ckpt"

    class SavesOnException(Callback):
        def on_exception(self, trainer, model, exception):
            trainer.save_checkpoint(saved)

    whole = fit(path.with_name("whole"), module())
    with pytest.raises(InterruptedError):
        fit(path, module(), model=Stops((1, 4)), callbacks=[SavesOnException()])
    assert fit(path, module(), ckpt_path=saved) == whole


@pytest.mark.slow
def test_a_checkpoint_without_an_audit(path, tmp_path):
    """The line begins where the audit does, and a comparison takes it for what it is."""
    whole = fit(path, module())
    saver = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=13, filename="saved")
    with pytest.raises(InterruptedError):
        quiet_trainer(callbacks=[saver], enable_checkpointing=True).fit(Stops((1, 5)), datamodule=module())
    other = path.with_name("other")
    with pytest.warns(UserWarning, match="callbacks used to create"):
        (line,) = fit(other, module(), ckpt_path=tmp_path / "saved" / "saved.ckpt")
    assert (line.epoch, line.first_batch, line.batches, line.samples) == (1, 3, 7, 28)
    found = compare(whole, [line])
    assert found.difference is None
    assert found.from_batch == ((1, 3),)


@pytest.mark.slow
def test_sums_of_one_of_several_ranks_are_not_taken_over(path, tmp_path):
    """A checkpoint of two ranks holds those of rank 0 only."""
    saver = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=13, filename="saved")
    with pytest.raises(InterruptedError):
        fit(path, module(), model=Stops((1, 5)), callbacks=[saver], enable_checkpointing=True)
    saved = torch.load(tmp_path / "saved" / "saved.ckpt", weights_only=False)
    saved["callbacks"]["DataAudit"]["world_size"] = 2
    torch.save(saved, tmp_path / "saved" / "saved.ckpt")
    with pytest.warns(UserWarning, match="callbacks used to create"):
        lines = fit(path, module(), ckpt_path=tmp_path / "saved" / "saved.ckpt")
    assert [(line.epoch, line.first_batch) for line in lines] == [(0, 0), (1, 3)]


@pytest.mark.slow
def test_a_new_fit_begins_the_file_anew_and_the_same_trainer_goes_on(path):
    path.write_text("something else\n")
    assert len(fit(path, TellingLoader(), max_epochs=3)) == 3
    assert len(fit(path, TellingLoader(), max_epochs=1)) == 1
    trainer = quiet_trainer(callbacks=[DataAudit(path)], max_epochs=1)
    loader = TellingLoader()
    trainer.fit(Stops(), loader)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Stops(), loader)
    assert [line.epoch for line in read_audit(path)] == [0, 1]


# Faults.


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_told_before_training(tmp_path):
    model = Stops((0, 0))
    with pytest.raises(FastDataError, match="cannot write there"):
        fit(tmp_path, TellingLoader(), model=model)


@pytest.mark.slow
@pytest.mark.parametrize("function", ["AuditSession.note", "AuditSession.end_epoch", "append_epoch", "start_file"])
def test_a_fault_of_its_own_ends_the_audit_not_the_training(path, monkeypatch, function):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(f"lightning_fastdata.callbacks.audit.callback.{function}", broken)
    trainer = quiet_trainer(callbacks=[DataAudit(path)])
    with pytest.warns(UserWarning, match="DataAudit stopped: ZeroDivisionError: broken") as caught:
        trainer.fit(Stops(), TellingLoader())
    assert trainer.global_step == 10
    assert len([each for each in caught if "DataAudit" in str(each.message)]) == 1
    assert path.read_text() == ""


@pytest.mark.slow
def test_a_step_that_fetches_for_itself(path):
    """With dataloader_iter nobody but the step knows its batch."""

    class Fetches(Stops):
        def training_step(self, dataloader_iter):
            next(dataloader_iter)
            return self.weight * 1.0

    with pytest.warns(UserWarning, match="takes dataloader_iter"), pytest.raises(FastDataError, match="no epoch"):
        fit(path, TellingLoader(), model=Fetches())


# Without a Trainer.


@pytest.mark.parametrize("arguments", [{"path": ""}, {"path": 3}, {"path": None}, {"content": 1}, {"content": "yes"}])
def test_arguments_that_cannot_be_meant_are_refused_with_their_name(arguments):
    (name,) = arguments
    with pytest.raises(FastDataError, match=name) as caught:
        DataAudit(**arguments)
    assert caught.value.expected
    assert caught.value.fix


def test_all_ranks_stop_where_rank_0_cannot_write():
    """One alone would leave the others waiting; they are told what rank 0 found."""
    strategy = SimpleNamespace(broadcast=lambda own: own or FastDataError("what", fix="fix"))
    trainer = SimpleNamespace(is_global_zero=False, world_size=2, strategy=strategy)
    with pytest.raises(FastDataError, match="what"):
        DataAudit("audit.jsonl").setup(trainer, None, "fit")


def test_the_file_is_no_part_of_its_identity():
    """A run that goes on may write elsewhere; audits of order and of content go side by side."""
    assert DataAudit("a").state_key == DataAudit("b").state_key == "DataAudit"
    assert DataAudit(content=True).state_key != DataAudit().state_key


def test_hooks_without_a_run_do_nothing(tmp_path):
    audit = DataAudit()
    audit.on_train_start(None, None)
    audit.on_train_batch_start(None, None, None, 0)
    audit.on_train_epoch_end(None, None)
    audit.load_state_dict({"schema": 1})
    assert audit.state_dict() == {}
    audit.setup(None, None, "test")
    assert audit._session is None
    audit._session = AuditSession(tmp_path, False, 1)
    for state in ({"schema": 9, "new": 1}, {"run_id": "x", "schema": 1, "world_size": 1, "sums": {"old": 1}}):
        audit.load_state_dict(state)  # another version's
    assert audit._session.sums is None


def test_it_goes_through_a_pickle():
    """ddp_spawn hands callbacks to its processes so."""
    audit = DataAudit("a", content=True)
    audit._session, audit.log = (lambda: 0), (lambda: 0)
    audit = pickle.loads(pickle.dumps(audit))
    assert audit.state_key == DataAudit(content=True).state_key
    assert audit._session is None
