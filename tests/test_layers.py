"""The layers of the package as one table: a module imports only from rows above its own, or from its own folder."""

import ast
from pathlib import Path

import pytest

import lightning_fastdata

ROOT = Path(lightning_fastdata.__file__).parent

STANDARD = frozenset({"psutil"})  # beside the standard library; psutil within functions
PLAIN = STANDARD | {"numpy"}
READABLE = PLAIN | {"rich", "matplotlib"}  # matplotlib within functions
TORCH = PLAIN | {"torch", "lightning_utilities"}
FULL = TORCH | READABLE | {"torchvision", "PIL"}

LAYERS = (
    # modules (a name ending in a dot is a folder)                    what else they may import
    (("errors", "__init__"), STANDARD),
    (("machine.",), STANDARD),
    (("hardware",), STANDARD),
    (("options", "order", "progress"), PLAIN),
    (("findings", "quantiles", "verdict"), STANDARD),
    (("trials",), STANDARD),
    (("tune_file",), STANDARD),
    (("records", "ranks"), PLAIN),
    (("summary",), STANDARD),
    (("ceiling",), STANDARD),
    (("advice",), STANDARD),
    (("diagnosis",), STANDARD),
    (("preflight", "start_method"), STANDARD),
    (("budget", "worker_death"), STANDARD),
    (("plan",), STANDARD),
    (("audit.__init__", "audit.lines", "audit.digest", "audit.content"), PLAIN),
    (("audit.file", "audit.compare", "audit.given"), PLAIN),
    (("run_file",), STANDARD),
    (("report.",), READABLE),
    (("internals", "internals_torch"), TORCH | {"lightning"}),
    (("sharding",), TORCH),
    (("sample_random",), TORCH),
    (("batched", "whole"), TORCH),
    (("native_threads",), STANDARD | {"threadpoolctl"}),
    (("planned", "samplers", "trainer_facts"), TORCH),
    (("seeded",), TORCH),
    (("passes", "footprint"), TORCH),
    (("resumable",), TORCH),
    (("loader",), TORCH),
    (("auto",), TORCH),
    (("tune.__init__", "tune.model", "tune.handles"), STANDARD),
    (
        (
            "tune.source",
            "tune.measure",
            "tune.search",
            "tune.live",
            "tune.stretch",
            "tune.agree",
            "tune.apply",
        ),
        TORCH,
    ),
    (("fast.",), FULL | {"simplejpeg"}),
    (("audit.tensors", "audit.run", "audit.callback"), TORCH),
    (("monitor.",), FULL),
    (("tune.subject", "tune.callback"), TORCH),
    (("data.",), FULL),
    (("lightning.",), {"lightning"}),
    (("pytorch_lightning.",), {"pytorch_lightning"}),
    (("tune.command",), READABLE | {"lightning", "pytorch_lightning", "jsonargparse"}),
    (("cli_cache",), READABLE),
    (("cli",), READABLE),
    (("__main__",), STANDARD),
)
"""From the bottom to the top."""

HALVES = (
    ("data.", "monitor."),
    ("tune.", "data."),
    ("audit.", "monitor."),
    ("audit.", "data."),
    ("audit.", "loader"),
    ("audit.", "auto"),
)
NEVER = (*HALVES, *((other, one) for one, other in HALVES), ("monitor.", "loader"), ("monitor.", "auto"))
"""Pairs that stay apart whatever their rows: either half works alone."""

PRIVATE_OWNERS = ("internals", "internals_torch")
"""Where names of torch and Lightning that start with an underscore may be imported."""

STANDARD_LIBRARY = __import__("sys").stdlib_module_names


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def belongs(module, entry):
    return module.startswith(entry) if entry.endswith(".") else module == entry


def row_of(module):
    rows = [number for number, (entries, _) in enumerate(LAYERS) if any(belongs(module, entry) for entry in entries)]
    assert len(rows) == 1, f"{module} stands in {len(rows)} rows of the table"
    return rows[0]


def imports_of(module, tree):
    """Absolute names of all that is imported, at the top and in functions; for type checkers, only our own."""
    package = ["lightning_fastdata", *module.split(".")]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "lightning.pytorch" and id(node) in unread(tree):
            continue  # the mixins' base class is known to mypy alone
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(package[: -node.level] + ([node.module] if node.module else [])) if node.level else node.module
            )
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole.removeprefix("lightning_fastdata.") in known_modules() else base


def unread(tree):
    """Nodes that only type checkers read."""
    checks = (node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {id(inner) for check in checks for statement in check.body for inner in ast.walk(statement)}


def known_modules():
    return {name.removesuffix(".__init__") for name in MODULES}


def faults_of(module, tree):
    row, folder = row_of(module), module.split(".")[0] + "." if "." in module else None
    allowed = LAYERS[row][1]
    lazy_names = module == "__init__"  # its imports for type checkers name every public module
    for name in imports_of(module, tree):
        top, _, inner = name.partition(".")
        if top != "lightning_fastdata":
            if top not in STANDARD_LIBRARY and top not in allowed:
                yield f"{module} imports {name}, which its row does not allow"
        elif inner and not lazy_names:
            inner = inner if inner in MODULES else f"{inner}.__init__"
            if not (folder and inner.startswith(folder)) and row_of(inner) >= row:
                yield f"{module} imports {inner}, which is not above it"
            if any(belongs(module, one) and belongs(inner, other) for one, other in NEVER):
                yield f"{module} imports {inner}: these two halves stay apart"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_row_allows(module):
    """Rows above, its own folder, and the libraries of its row; imports within functions count as well."""
    assert list(faults_of(module, ast.parse(MODULES[module].read_text()))) == []


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        ("plan", "import torch", "imports torch"),
        ("order", "def f():\n    from lightning.pytorch import Trainer", "imports lightning.pytorch"),
        ("hardware", "from lightning_fastdata.plan import make_plan", "imports plan, which is not above"),
        ("hardware", "from lightning_fastdata import plan", "imports plan, which is not above"),
        ("errors", "from .options import LoaderPlan", "imports options, which is not above"),
        ("loader", "from lightning.pytorch import Trainer", "imports lightning.pytorch"),
        ("data.base", "from lightning_fastdata.monitor.callback import DataWaitMonitor", "stay apart"),
        ("audit.callback", "from lightning_fastdata.loader import build_loader", "stay apart"),
        ("data.base", "from lightning_fastdata.audit.file import read_audit", "stay apart"),
        ("monitor.meter", "def f():\n    from lightning_fastdata.data import base", "stay apart"),
        ("report.text", "import torch", "imports torch"),
        ("machine.cgroups", "from lightning_fastdata.hardware import probe", "imports hardware"),
        ("plan", "import numpy", "imports numpy"),
        ("data.base", "from lightning.pytorch import LightningDataModule", "imports lightning.pytorch"),
        ("pytorch_lightning.core", "from lightning.pytorch import Callback", "imports lightning.pytorch"),
    ],
)
def test_a_planted_import_is_found(module, line, words):
    """The check can fail."""
    faults = list(faults_of(module, ast.parse(line)))
    assert faults
    assert words in faults[-1]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("data.images", "from lightning_fastdata.data.base import FastDataModuleMixin"),
        ("data.base", "if TYPE_CHECKING:\n    from lightning.pytorch import LightningDataModule"),
        ("loader", "import torch"),
        ("plan", "import math"),
        ("budget", "from lightning_fastdata.hardware import Hardware"),
    ],
)
def test_what_is_allowed_is_not_found(module, line):
    """The check can pass."""
    assert not list(faults_of(module, ast.parse(line)))


def test_every_module_stands_in_the_table():
    """A new module needs a place before it can be merged."""
    assert all(row_of(module) >= 0 for module in MODULES)


def private_imports(tree):
    """Names with a leading underscore that are taken out of torch or Lightning by an import."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] in ("torch", "lightning", "lightning_utilities") and "._" in name:
                yield name


@pytest.mark.parametrize("module", [name for name in MODULES if name not in PRIVATE_OWNERS])
def test_private_names_are_imported_in_one_place_only(module):
    """What torch and Lightning may rename at any time is touched in internals alone."""
    assert list(private_imports(ast.parse(MODULES[module].read_text()))) == []


def test_a_planted_private_import_is_found():
    """This check can fail too."""
    assert list(private_imports(ast.parse("from torch.utils.data import _utils"))) == ["torch.utils.data._utils"]


def test_no_module_reads_the_others_private_names():
    """``from lightning_fastdata.x import _name`` would make a private name public."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning_fastdata"):
                assert not [
                    alias.name for alias in node.names if alias.name.startswith("_") and alias.name[:2] != "__"
                ], module
