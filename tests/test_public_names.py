"""The public names: all there, loaded on first use, and cheap to import."""

import ast
import importlib
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lightning_fastdata

HEAVY = ("torch", "lightning", "torchvision", "numpy", "rich", "psutil", "PIL", "matplotlib")


def fresh(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", lightning_fastdata.__all__)
def test_every_public_name_exists_and_is_documented(name):
    """Each name loads, is what its module exports, and has a docstring."""
    value = getattr(lightning_fastdata, name)
    home = importlib.import_module(f"lightning_fastdata.{lightning_fastdata._HOME_OF[name]}")
    assert getattr(home, name) is value
    assert name in home.__all__
    assert value.__doc__


def test_the_names_are_those_promised():
    """Adding or losing a public name is a decision, not an accident."""
    assert set(lightning_fastdata.__all__) == {
        "DataAudit",
        "DataWaitMonitor",
        "FastDataError",
        "FastDataModule",
        "Hardware",
        "ImageFolderDataModule",
        "LoaderOptions",
        "LoaderPlan",
        "LoaderTuner",
        "Reason",
        "RunSummary",
        "StepRecord",
        "TensorDataModule",
        "TokenDataModule",
        "TorchvisionDataModule",
        "TuneResult",
        "Workload",
        "auto_dataloader",
        "make_plan",
        "probe",
        "shard",
        "tune_loader",
    }


def test_type_checkers_see_the_same_names():
    """The block for type checkers and the table of lazily loaded names agree."""
    tree = ast.parse(Path(lightning_fastdata.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"lightning_fastdata.{home}" for name, home in lightning_fastdata._HOME_OF.items()}


def test_a_name_that_does_not_exist_says_so():
    """As any module would, so that hasattr and typos behave."""
    with pytest.raises(AttributeError, match=r"lightning_fastdata.*no attribute 'FastDataModul'"):
        _ = lightning_fastdata.FastDataModul
    assert not hasattr(lightning_fastdata, "__wrapped__")


def test_dir_offers_the_names():
    """Completion in a notebook shows them before they are loaded, and nothing else."""
    offered = {name for name in dir(lightning_fastdata) if not name.startswith("__")}
    assert offered == set(lightning_fastdata.__all__)
    assert "__version__" in dir(lightning_fastdata)


@pytest.mark.parametrize(
    "module", ["lightning_fastdata", "lightning_fastdata.planning.plan", "lightning_fastdata.hardware"]
)
def test_importing_loads_nothing_heavy(module):
    """Neither the package nor the planning needs torch, lightning or NumPy."""
    assert fresh(f"import sys, {module}; print([n for n in {HEAVY!r} if n in sys.modules])") == "[]\n"


def test_planning_for_this_machine_imports_no_torch():
    """What the doctor does answers without torch."""
    code = (
        "import sys, lightning_fastdata as f\n"
        "f.make_plan(f.LoaderOptions(), f.probe(), f.Workload())\n"
        "print([n for n in ('torch', 'lightning') if n in sys.modules])"
    )
    assert fresh(code) == "[]\n"


def test_importing_adds_at_most_50_ms():
    """The median of seven fresh interpreters with the import, less the median of seven without."""

    def seconds(code):
        start = time.perf_counter()
        fresh(code)
        return time.perf_counter() - start

    pairs = [(seconds("pass"), seconds("import lightning_fastdata")) for _ in range(7)]
    without, with_it = (statistics.median(times) for times in zip(*pairs, strict=True))
    assert with_it - without <= 0.05
