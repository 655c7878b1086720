"""Every example runs as its first lines say, from a folder that is not the repository."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_fastdata.monitor.sinks import read_run

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_example(name: str, *arguments: str, folder: Path) -> str:
    """Run one example as a user would and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A small image folder cut from scikit-image's photographs."""
    pytest.importorskip("skimage", reason="the demo's photographs come from scikit-image")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import photographs as module

    folder = module.write_photographs(tmp_path / "cache" / "photographs", {"train": 6, "val": 2})
    return module, folder


def test_photographs_are_written_once_and_whole(photographs):
    """The image folder has all classes, is not written a second time, and leaves nothing half-finished beside it."""
    module, folder = photographs
    files = sorted(folder.rglob("*.jpg"))
    assert len(files) == len(module.PHOTOGRAPHS) * 8
    before = [file.stat().st_mtime_ns for file in files]
    assert module.write_photographs(folder, {"train": 1}) == folder
    assert [file.stat().st_mtime_ns for file in files] == before
    assert [path.name for path in folder.parent.iterdir()] == ["photographs"]


@pytest.mark.slow
def test_demo_prints_both_reports_and_the_plan(photographs, tmp_path):
    """The demo trains twice, shows the two reports side by side with the plan, and saves the run file."""
    _, folder = photographs
    printed = run_example(
        "demo.py", "--data", str(folder), "--epochs", "2", "--image-size", "64", "--batch-size", "8", folder=tmp_path
    )
    assert "plain Lightning" in printed
    assert "Share of time waiting" in printed
    assert "usable cores" in printed
    _, records, summary = read_run(tmp_path / "runs" / "demo.jsonl")
    assert len(records) == 2 * 6  # 8 classes x 6 tiles in batches of 8, two epochs
    assert summary is not None
    assert summary.steps == 12


@pytest.mark.slow
def test_own_dataset_trains_and_reports():
    """Subclassing FastDataModule needs nothing but setup()."""
    printed = run_example("own_dataset.py", folder=EXAMPLES.parent)
    assert "Share of time waiting" in printed
    assert "Validation" in printed


@pytest.mark.slow
def test_the_callback_alone_measures_a_plain_project(tmp_path):
    """16 samples of 2 ms in the training process are at least 32 ms of wait per step."""
    printed = run_example("only_the_callback.py", folder=tmp_path)
    assert "went into waiting for data" in printed
    _, records, _ = read_run(tmp_path / "runs" / "only_the_callback.jsonl")
    assert len(records) == 80
    assert all(record.wait_s >= 0.032 for record in records)
