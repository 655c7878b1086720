"""Every class with a ``pytorch_lightning.Trainer``, and both packages in one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning
import torch
from datamodule_cases import Recorder as LightningRecorder
from datamodule_cases import quiet_trainer
from only_pytorch_lightning import Numbers, Recorder, trainer
from pytorch_lightning.callbacks import ModelCheckpoint

import lightning_fastdata as on_lightning
import lightning_fastdata.pytorch_lightning as on_pytorch_lightning
from lightning_fastdata.loaders.order import epoch_order
from lightning_fastdata.results.audit_file import read_audit
from lightning_fastdata.results.run_file import read_run

SCRIPT = Path(__file__).with_name("only_pytorch_lightning.py")
pytestmark = pytest.mark.filterwarnings(
    "ignore:Total length of `list`", "ignore:You defined a `validation_step`", "ignore:This DataLoader will create"
)


# In an interpreter of its own


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a program with every class left behind."""
    folder = tmp_path_factory.mktemp("alone")
    done = subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (folder / "told.txt").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture
def found(folder):
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
def test_such_a_program_never_imports_lightning(found):
    """Nor Fabric, which comes with it; lightning_utilities belongs to both."""
    assert found["modules"] == []
    assert {"pytorch_lightning", "lightning_fabric", "lightning_utilities"} <= set(found["packages"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fit", "validate", "test", "predict"),
    [
        ("tensors", {"train": 20, "val": 4}, 4, 3, 5),
        ("datasets", {"train": 9, "val": 3}, 3, 4, 5),
        ("images", {"train": 12, "val": 4}, 4, 4, None),
        ("torchvision", {"train": 36, "val": 4}, 4, 10, None),
    ],
)
def test_every_stage_sees_its_samples(found, name, fit, validate, test, predict):
    """Each DataModule in fit, validate, test and, where it has the data, predict."""
    expected = {"fit": fit, "validate": {"val": validate}, "test": {"test": test}, "predict": {"predict": predict}}
    if predict is None:
        del expected["predict"]
    assert found[name]["counts"] == expected
    assert found[name]["plans"] == sorted({"train", "val", "test", *(["predict"] if predict else [])})
    assert "DataModule(batch_size=" in found[name]["printed"]


@pytest.mark.slow
def test_a_subclass_and_a_loader_in_a_model(found):
    """The two other ways in."""
    assert found["subclass"]["counts"] == {"fit": {"train": 9, "val": 3}}
    assert found["auto_dataloader"] == {"train": 12}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("alone", 8), ("list", 4)])
def test_the_monitor_measures_there(found, name, steps):
    """As ``callbacks=monitor`` and in a list; it knows the plans and names the package it ran in."""
    told = found["callbacks"][name]
    assert (told["steps"], told["fetches"], told["plans"], told["notes"]) == (steps, steps, ["train", "val"], [])
    assert told["wait_s"] > 0
    assert told["versions"]["pytorch_lightning"] == pytorch_lightning.__version__
    assert "lightning" not in told["versions"]


@pytest.mark.slow
def test_the_fetch_before_the_first_label_is_heard(found):
    """A loader without a length is read ahead; that is heard in Lightning's loops, which the two packages have each."""
    told = found["callbacks"]["stream"]
    assert (told["steps"], told["fetches"]) == (3, 3)  # the look that finds the end is none
    assert not any("hides the batch" in note for note in told["notes"])


@pytest.mark.slow
def test_files_of_such_a_run_are_the_usual_ones(folder):
    """``report`` and ``audit`` read them."""
    run = read_run(folder / "run.jsonl")
    records, summary = run.records, run.summary
    assert len(records) == summary.steps == 8
    assert summary.status == "finished"
    assert [(line.epoch, line.samples) for line in read_audit(folder / "audit.jsonl")] == [(0, 16)]


@pytest.mark.slow
def test_plans_are_told_there(folder):
    """Through the messages of that package."""
    assert "Data loading for train:" in (folder / "told.txt").read_text()


@pytest.mark.slow
def test_spawned_ranks(folder):
    """Module and callbacks cross the border by pickle; each sample goes to one rank; nobody imports lightning.

    The parent, which measured nothing, says where the figures are.
    """
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert sorted(n for rank in ranks for n in rank["seen"]) == list(range(12))
    assert [rank["modules"] for rank in ranks] == [[], []]
    assert "Measured on rank" in (folder / "told.txt").read_text()
    assert read_audit(folder / "ranks_audit.jsonl")[0].samples == 12
    assert [read_run(folder / name).header["rank"] for name in ("ranks.jsonl", "ranks.rank1.jsonl")] == [0, 1]
    assert "no run has begun in this process" in (folder / "parent.txt").read_text()


# In this process, where the other package is loaded too


def test_both_packages_in_one_process():
    """Each Trainer with its own classes; the same seed, so the same order."""
    models = LightningRecorder(), Recorder()
    for package, model, run in zip(
        (on_lightning, on_pytorch_lightning), models, (quiet_trainer(max_epochs=1), trainer()), strict=True
    ):
        monitor = package.DataWaitMonitor(summary=False, warn_above=None)
        run.callbacks.append(monitor)
        run.fit(model, datamodule=package.FastDataModule(Numbers(10), batch_size=4, num_workers=0, seed=3))
        assert monitor.summary().steps == 3
    one, other = models
    order = epoch_order(3, 0, 10).tolist()
    assert one.samples()[0] == [int(n) for batch in other.seen["train"] for n in batch] == order


def test_the_other_packages_module_is_refused_not_misused():
    """By the Trainer itself, before anything of ours runs."""
    with pytest.raises(ValueError, match="Expected a parent"):
        trainer().fit(Recorder(), datamodule=on_lightning.FastDataModule(Numbers(4), num_workers=0))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_resuming_in_the_middle_of_an_epoch_is_exact(tmp_path):
    """Cut after the fourth of six batches of the second epoch, the rest is what the uninterrupted run saw."""

    def fit(path=None, callbacks=(), **kwargs):
        torch.manual_seed(0 if path is None else 9)
        model = Recorder()
        data = on_pytorch_lightning.FastDataModule(Numbers(22), batch_size=4, num_workers=0, seed=5)
        run = trainer(callbacks=list(callbacks), max_epochs=3, enable_checkpointing=bool(callbacks), **kwargs)
        run.fit(model, datamodule=data, ckpt_path=path, weights_only=True)
        return model.seen["train"]

    every = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(callbacks=[every])
    rest = fit(tmp_path / "step=10.ckpt")
    assert len(whole) == 18
    assert rest == whole[10:]
    assert rest != whole[:8]


def test_a_checkpoint_rebuilds_the_module(tmp_path):
    """With the wishes it was made with, as with ``lightning`` (see test_datamodule_fit.py)."""

    class Mine(on_pytorch_lightning.FastDataModule):
        def __init__(self, count=3, **kwargs):
            super().__init__(**kwargs)
            self.save_hyperparameters(logger=False)
            self.train_dataset = Numbers(count)

    run = trainer()
    run.fit(Recorder(), datamodule=Mine(8, batch_size=4, num_workers="auto"))
    run.save_checkpoint(tmp_path / "run.ckpt")
    again = Mine.load_from_checkpoint(tmp_path / "run.ckpt")
    assert (len(again.train_dataset), again.batch_size, again.num_workers) == (8, 4, "auto")
