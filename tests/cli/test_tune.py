"""`lightning-fastdata tune`, as a person types it."""

import json
import subprocess
import sys

import pytest
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_fastdata import FastDataError
from lightning_fastdata.cli import tune
from lightning_fastdata.cli.main import main
from lightning_fastdata.results.tuning import Trial, TuneResult, read_tuning, write_tuning

RESULT = TuneResult(4, 2, "because", trials=(Trial(4, 2, 0.021, 0.0205, 0.001),))

MODULE = """
import time
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset


class Slow(Dataset):
    def __len__(self):
        return 4000

    def __getitem__(self, index):
        time.sleep(0.002)
        return index


class Mine(LightningDataModule):
    def __init__(self, batch_size: int = 4, num_workers: int = 0):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage):
        self.data = Slow()

    def train_dataloader(self):
        return DataLoader(self.data, self.batch_size)
"""


def run(folder, *arguments):
    (folder / "my_module.py").write_text(MODULE)
    tune = [sys.executable, "-m", "lightning_fastdata", "tune", *arguments]
    return subprocess.run(tune, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.timed
@pytest.mark.slow
def test_a_data_module_is_tuned_from_the_command_line(tmp_path):
    """A table, the arguments to paste, and a file that `report` reads."""
    names = ("--data", "my_module.Mine", "--data.batch_size", "16", "--step-ms", "10", "--budget-s", "3")
    done = run(tmp_path, *names, "--save-to", "tuning.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = read_tuning(tmp_path / "tuning.json")
    assert result.batch_size == 16
    assert result.num_workers >= 2
    assert f"Take: num_workers={result.num_workers}, prefetch_factor=" in done.stdout
    assert f"--data.num_workers {result.num_workers}" in done.stdout
    assert "0 workers" in done.stdout


class NeedsTrainer(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(range(10), self.trainer.accumulate_grad_batches)


class Two(LightningDataModule):
    def train_dataloader(self):
        return [DataLoader(range(10)), DataLoader(range(10))]


@pytest.mark.parametrize(
    ("kind", "words"),
    [(NeedsTrainer, "gave no training loader: AttributeError"), (Two, "has 2 training loaders")],
)
def test_a_data_module_that_cannot_be_tuned_is_said(kind, words):
    """With what to do instead."""
    with pytest.raises(FastDataError, match=words) as raised:
        tune.train_loader(kind())
    assert "Fix:" in str(raised.value)


def test_a_file_that_cannot_be_written_is_said_before_anything_is_tuned(tmp_path, capsys):
    """Ten seconds are not spent on an answer that is lost."""
    arguments = ["--data", "lightning_fastdata.TensorDataModule", "--save-to", str(tmp_path / "nowhere" / "x.json")]
    assert main(["tune", *arguments]) == 2
    assert "is not there or cannot be written" in capsys.readouterr().err


def test_report_shows_a_tuning(tmp_path, capsys):
    """As a table, and as JSON; what only a run has is refused."""
    path = tmp_path / "tuning.json"
    write_tuning(path, RESULT)
    assert main(["report", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "Take: num_workers=4, prefetch_factor=2, persistent_workers=True" in shown
    assert "Because." in shown
    assert main(["report", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_workers"] == 4
    assert main(["report", str(path), "--fail-above", "0.1"]) == 2
    assert "a tuning has no training steps" in capsys.readouterr().err


def test_without_jsonargparse_it_says_what_to_install(monkeypatch, capsys):
    """It is an extra: the rest of the command line does without."""
    monkeypatch.setattr(tune.importlib.util, "find_spec", lambda name: None)
    assert main(["tune", "--data", "x.Y"]) == 2
    assert 'pip install "jsonargparse[signatures]"' in capsys.readouterr().err
