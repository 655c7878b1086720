"""Every example runs as its first lines say, from a folder that is not the repository."""

import re
from pathlib import Path

import nbclient
import nbformat
import programs
import pytest
import yaml

from lightning_fastdata.results.run_file import read_run

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_example(name: str, *arguments: str, folder: Path) -> str:
    """Run one example as a user would and return what it printed."""
    done = programs.run(EXAMPLES / name, *arguments, cwd=folder)
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
def test_the_tuner_logs_its_decisions(tmp_path):
    """On a machine that is too busy to measure it says that instead."""
    printed = run_example("tuned.py", folder=tmp_path)
    assert "Data wait" in printed
    assert "Next time: FastDataModule(..." in printed


@pytest.mark.slow
def test_demo_prints_both_reports_and_the_plan(photographs, tmp_path):
    """The demo trains twice, shows the two reports side by side with the plan, and saves the run file."""
    _, folder = photographs
    printed = run_example(
        "demo.py", "--data", str(folder), "--epochs", "2", "--image-size", "64", "--batch-size", "8", folder=tmp_path
    )
    assert "plain Lightning" in printed
    assert "Data wait / training" in printed
    assert "usable cores" in printed
    run = read_run(tmp_path / "runs" / "demo.jsonl")
    records, summary = run.records, run.summary
    assert len(records) == 2 * 6  # 8 classes x 6 tiles in batches of 8, two epochs
    assert summary is not None
    assert summary.steps == 12


@pytest.mark.slow
def test_own_dataset_trains_and_reports():
    """Subclassing FastDataModule needs nothing but setup()."""
    printed = run_example("own_dataset.py", folder=EXAMPLES.parent)
    assert "Data wait / training time" in printed
    assert "Validation" in printed


@pytest.mark.slow
def test_the_callback_alone_measures_a_plain_project(tmp_path):
    """16 samples of 2 ms in the training process are at least 32 ms of wait per step."""
    printed = run_example("only_the_callback.py", folder=tmp_path)
    assert "of the training time was data wait" in printed
    records = read_run(tmp_path / "runs" / "only_the_callback.jsonl").records
    assert len(records) == 80
    assert all(record.wait_s >= 0.032 for record in records)


@pytest.mark.slow
def test_tensors_in_memory(tmp_path):
    """No worker, and the reason; validation on a tenth."""
    printed = run_example("tensors_in_memory.py", folder=tmp_path)
    assert "Workers: 0, because the data is in memory" in printed
    assert "Data wait / training time" in printed


@pytest.mark.slow
def test_two_processes_see_each_sample_once(tmp_path):
    """Both ranks are named with their samples, epoch by epoch, in one voice."""
    printed = run_example("two_processes.py", folder=tmp_path)
    ranks = re.findall(r"rank (\d) of 2 saw (\d+) samples: ([\d ]+)$", printed, re.MULTILINE)
    assert [(rank, count) for rank, count, _ in ranks] == [("0", "11"), ("1", "11")] * 2
    for first, second in (ranks[:2], ranks[2:]):
        assert sorted(map(int, f"{first[2]} {second[2]}".split())) == list(range(22))
    assert ranks[0] != ranks[2]
    assert printed.count("together every sample once: True") == 2


@pytest.mark.slow
def test_lightning_cli(tmp_path):
    """The run of the file, with a value changed on the command line; what ran is written down."""
    config = str(EXAMPLES / "lightning_cli" / "config.yaml")
    printed = run_example("lightning_cli/main.py", "fit", "--config", config, "--data.batch_size=256", folder=tmp_path)
    assert "Data wait / training time" in printed
    folder = tmp_path / "runs" / "lightning_cli"
    assert read_run(folder / "run.jsonl").summary.steps == 3 * 13  # 3200 of 4000 points, in batches of 256
    ran = yaml.safe_load((folder / "config.yaml").read_text())["data"]
    assert (ran["points"], ran["batch_size"], ran["num_workers"], ran["pin_memory"]) == (4000, 256, "auto", "auto")


@pytest.mark.slow
def test_the_configuration_of_lightning_cli_prints_clean(tmp_path):
    """Nothing but YAML on the one stream, and no warning on the other."""
    main, config = EXAMPLES / "lightning_cli" / "main.py", EXAMPLES / "lightning_cli" / "config.yaml"
    done = programs.run(main, "fit", "--config", config, "--print_config", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout)["data"]["num_workers"] == "auto"


@pytest.mark.slow
def test_hydra_style(tmp_path):
    """The file, changed on the command line."""
    printed = run_example("hydra_style/main.py", "trainer.max_epochs=1", "data.num_workers=2", folder=tmp_path)
    assert "FastDataModule(batch_size=32, num_workers=2" in printed
    run = read_run(tmp_path / "runs" / "hydra_style" / "run.jsonl")
    records, summary = run.records, run.summary
    assert len(records) == summary.steps == 15  # 500 of 600 samples, in whole batches of 32
    assert summary.plans["train"]["num_workers"]["value"] == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own machinery
def test_notebook(photographs, tmp_path, monkeypatch):
    """From the first cell to the last: the machine, the picture, the summary, the plan with reasons."""
    _, folder = photographs
    for name in ("XDG_CACHE_HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    cache = tmp_path / "XDG_CACHE_HOME" / "lightning_fastdata"
    cache.mkdir(parents=True)
    folder.rename(cache / "photographs")
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    resources = {"metadata": {"path": str(EXAMPLES)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "What this means for a loader" in text
    assert [output.data["text/plain"] for output in outputs if "image/png" in output.get("data", {})]
    assert "Data wait / training time" in text
    assert re.search(r"num_workers = \d+: \d+ usable cores", text)
    assert "Longest wait: " in text


def test_every_example_is_listed():
    """In the folder's own README, each with a line."""
    text = (EXAMPLES / "README.md").read_text()
    programs = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*/main.py"), *EXAMPLES.glob("*.ipynb")]
    assert len(programs) >= 9
    assert {path.relative_to(EXAMPLES).as_posix() for path in programs} <= set(re.findall(r"\]\(([^)]+)\)", text))
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (EXAMPLES / link).exists(), link


@pytest.mark.slow
def test_tokens(tmp_path):
    """Learns something of its text, in blocks of a file that it wrote; the plan says why it takes what workers."""
    printed = run_example("tokens.py", folder=tmp_path)
    assert "Data wait / training time" in printed
    assert re.search(r"Workers: \d+, because ", printed)
    assert float(re.search(r"Validation: (\d+\.\d+) nats a byte", printed).group(1)) < 4


@pytest.mark.slow
def test_image_cache_is_filled_by_the_first_epoch(photographs, tmp_path):
    """Three epochs, and why there is a cache."""
    _, folder = photographs
    printed = run_example("image_cache.py", str(folder), folder=tmp_path)
    assert printed.count("Epoch ") >= 3
    assert "Cache: " in printed
    assert "all samples need about" in printed
