"""The public names: all there, loaded on first use, and cheap to import."""

import ast
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from collections.abc import Mapping
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
        "Rehearsed",
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


@pytest.mark.parametrize(
    ("code", "reference"),
    [
        ("import lightning_fastdata", "pass"),
        (
            "from lightning_fastdata.cli.main import main; main(['doctor'])",
            "import argparse, json, rich.console, rich.table",
        ),
    ],
    ids=["import", "doctor"],
)
def test_it_costs_at_most_three_times_the_bare_minimum(code, reference):
    """CPU time of fresh interpreters, the least of seven: importing adds about 10 ms to 15, the doctor 80 to 70."""
    resource = pytest.importorskip("resource")

    def cpu_s(code):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        fresh(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    pairs = [(cpu_s(code), cpu_s(reference)) for _ in range(7)]
    assert min(ours_s for ours_s, _ in pairs) <= 3 * min(reference_s for _, reference_s in pairs)


def functions_of(module):
    """Every function and method that a module defines, private ones too."""
    for value in vars(module).values():
        for member in (value, *(vars(value).values() if inspect.isclass(value) else ())):
            function = inspect.unwrap(getattr(member, "__func__", member))
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                yield function


def test_no_default_holds_the_environment():
    """``help`` prints defaults, and the variables of a process hold secrets."""
    walked = 0
    for info in pkgutil.walk_packages(lightning_fastdata.__path__, "lightning_fastdata."):
        if info.name != "lightning_fastdata.__main__":
            for function in functions_of(importlib.import_module(info.name)):
                walked += 1
                for parameter in inspect.signature(function).parameters.values():
                    default = parameter.default
                    holds = isinstance(default, Mapping) and os.environ.keys() <= default.keys()
                    assert not holds, f"{function.__module__}.{function.__qualname__}({parameter.name}=...)"
    assert walked > 1000
