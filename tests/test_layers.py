"""The layers of the package as one table, and the limits of a module, a function and a folder."""

import ast
import io
import tokenize
from functools import cache
from pathlib import Path

import pytest

import lightning_fastdata

ROOT = Path(lightning_fastdata.__file__).parent
PACKAGE = ROOT.name
ARCHITECTURE = ROOT.parent / "ARCHITECTURE.md"

STANDARD = frozenset[str]()
NUMERIC = frozenset({"numpy"})
TORCH = NUMERIC | {"torch"}

LAYERS = (
    # modules (a name is a module or a folder)                  what else they may import
    (("errors",), STANDARD),
    (("compat",), TORCH | {"lightning", "pytorch_lightning", "lightning_utilities"}),
    (("hardware",), frozenset({"psutil"})),
    (("results",), NUMERIC | {"msgspec"}),
    (("planning",), STANDARD),
    (("loaders.splitmix", "loaders.order", "loaders.progress"), NUMERIC),
    (("report",), NUMERIC | {"rich", "jinja2", "matplotlib"}),
    (("_native",), NUMERIC),
    (("stores",), NUMERIC | {"pyarrow", "fsspec"}),
    (("loaders",), TORCH | {"threadpoolctl", "lightning_utilities"}),
    (("callbacks",), TORCH | {"lightning_utilities"}),
    (("callbacks.audit",), TORCH | {"lightning_utilities"}),
    (("callbacks.monitor",), TORCH | {"lightning_utilities", "rich"}),
    (("callbacks.tuner",), TORCH | {"lightning_utilities"}),
    (("datamodules",), TORCH | {"lightning_utilities", "torchvision", "PIL", "simplejpeg", "filelock"}),
    (("lightning",), frozenset({"lightning"})),
    (("pytorch_lightning",), frozenset({"pytorch_lightning"})),
    (("cli",), frozenset({"rich", "jsonargparse", "lightning", "pytorch_lightning"})),
    (("__main__",), STANDARD),
)
"""From the bottom to the top: a module imports from rows above its own in this list, or from its own folder."""

APART = (
    ("datamodules", "callbacks"),
    ("callbacks.audit", "callbacks.monitor"),
    ("report", "loaders"),
    ("datamodules.images.decoder", "datamodules.base"),
    ("datamodules.images.crops", "datamodules.base"),
    ("datamodules.images.batch_decoder", "datamodules.base"),
    ("datamodules.images.cache", "datamodules.base"),
)
"""Pairs that never import each other, in either direction: each works alone."""

INSIDE_FUNCTIONS = frozenset({"psutil", "matplotlib", "pyarrow", "fsspec", "jsonargparse"})
"""Libraries that are imported where they are used, so that nothing else pays for them."""

ROOT_ENTRIES, FLOORS, FOLDER_FILES, MODULE_LINES, FUNCTION_LINES, PARAMETERS = 14, 9, 25, 400, 60, 10

STANDARD_LIBRARY = __import__("sys").stdlib_module_names


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
INNER = [name for name in MODULES if name != "__init__"]  # the package's own face loads names of every row on demand


@cache
def tree_of(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def belongs(module, entry):
    return module == entry or module.startswith(entry + ".")


def row_of(module):
    """The row of the longest entry that the module belongs to."""
    rows = [
        (len(entry), number)
        for number, (entries, _) in enumerate(LAYERS)
        for entry in entries
        if belongs(module, entry)
    ]
    assert rows, f"{module} stands in no row of the table"
    return max(rows)[1]


def imports_of(module, tree):
    """What is imported, in functions and for type checkers too: absolute name, node.

    Lightning's base classes are imported for type checkers in the mixins; those imports run nowhere and do not count.
    """
    names = {f"{PACKAGE}.{name}" for name in MODULES} | {
        f"{PACKAGE}.{name.rpartition('.')[0]}" for name in MODULES if "." in name
    }
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    here = [PACKAGE, *module.split(".")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*here[: -node.level], node.module or ""]).strip(".") if node.level else node.module
            if id(node) in for_checkers and base.split(".")[0] != PACKAGE:
                continue
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield (whole if whole in names else base), node


def in_functions(tree):
    """Nodes that run only when a function is called."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }


def faults_of(module, tree):
    row = row_of(module)
    late, folder = in_functions(tree), module.split(".")[0]
    for name, node in imports_of(module, tree):
        top, _, inner = name.partition(".")
        if top != PACKAGE:
            if top not in STANDARD_LIBRARY and top not in LAYERS[row][1]:
                yield f"{module} imports {name}, which its row does not allow"
            if top in INSIDE_FUNCTIONS and id(node) not in late:
                yield f"{module} imports {name} at its top"
        elif not inner:
            if module != "pytorch_lightning":  # it offers the names of the package that need no base class
                yield f"{module} imports the package's own face"
        else:
            same = folder not in ("callbacks", "loaders") and belongs(inner, folder)
            if not same and row_of(inner) > row:
                yield f"{module} imports {inner}, which is not below it"
            for one, other in APART:
                if (belongs(module, one) and belongs(inner, other)) or (belongs(module, other) and belongs(inner, one)):
                    yield f"{module} imports {inner}: these two stay apart"


@pytest.mark.parametrize("module", INNER)
def test_a_module_imports_only_what_its_row_allows(module):
    """Imports within functions and for type checkers count as well."""
    assert list(faults_of(module, tree_of(module))) == []


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        ("planning.plan", "import torch", "imports torch"),
        ("planning.plan", "import numpy", "imports numpy"),
        ("loaders.order", "def f():\n    import torch", "imports torch"),
        ("loaders.order", "from lightning_fastdata.loaders import build", "imports loaders.build, which is not below"),
        ("hardware.detect", "from lightning_fastdata.planning.plan import make_plan", "which is not below"),
        ("hardware.detect", "import psutil", "at its top"),
        ("errors", "from .planning.options import LoaderPlan", "imports planning.options, which is not below"),
        ("loaders.build", "from lightning.pytorch import Trainer", "imports lightning.pytorch"),
        ("loaders.build", "from lightning_fastdata.report.text import summary_table", "stay apart"),
        ("datamodules.base", "from lightning_fastdata.callbacks.monitor.callback import M", "stay apart"),
        ("callbacks.audit.callback", "from lightning_fastdata.callbacks.monitor import session", "stay apart"),
        ("datamodules.images.cache.folder", "from lightning_fastdata.datamodules.base import M", "stay apart"),
        ("callbacks.monitor.session", "from lightning_fastdata.callbacks.tuner import search", "which is not below"),
        ("callbacks.monitor.session", "from lightning_fastdata import __version__", "the package's own face"),
        ("report.text", "import torch", "imports torch"),
        ("report.plots", "import matplotlib", "at its top"),
        ("compat.torch_internals", "from lightning_fastdata.hardware import probe", "which is not below"),
        ("pytorch_lightning.core", "from lightning.pytorch import Callback", "imports lightning.pytorch"),
    ],
)
def test_a_planted_import_is_found(module, line, words):
    """The check can fail."""
    faults = list(faults_of(module, ast.parse(line)))
    assert any(words in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("datamodules.images.datamodule", "from lightning_fastdata.datamodules.base import FastDataModuleMixin"),
        ("datamodules.base", "if TYPE_CHECKING:\n    from lightning.pytorch import LightningDataModule"),
        ("loaders.build", "import torch"),
        ("planning.plan", "from lightning_fastdata.hardware import Hardware"),
        ("callbacks.tuner.callback", "from lightning_fastdata.callbacks.monitor.callback import DataWaitMonitorMixin"),
    ],
)
def test_what_is_allowed_is_not_found(module, line):
    """The check can pass."""
    assert not list(faults_of(module, ast.parse(line)))


def graph():
    """Which module imports which of ours; importing a module out of a folder does not read the folder's other names."""
    arrows = {module: set() for module in INNER}
    for module in INNER:
        for name, _ in imports_of(module, tree_of(module)):
            inner = name.partition(".")[2]
            if name.partition(".")[0] == PACKAGE and inner in arrows and inner != module:
                arrows[module].add(inner)
    return arrows


def circles(arrows):
    """Groups of names that lead back to themselves (Tarjan's strongly connected components of more than one)."""
    number, low, stack, found = {}, {}, [], []

    def visit(name):
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(arrows[name]):
            if other not in number:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == number[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in arrows:
        if name not in number:
            visit(name)
    return found


def test_no_circle_of_imports():
    """Between modules, imports for type checkers included; and between entries of the package's root."""
    assert circles(graph()) == []
    assert circles(entry_graph()) == []


def test_a_planted_circle_is_found():
    """This check can fail too."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


def entry_graph():
    arrows = {}
    for module, others in graph().items():
        entry = module.split(".")[0]
        arrows.setdefault(entry, set()).update(o.split(".")[0] for o in others if o.split(".")[0] != entry)
    return arrows


def floors():
    """The longest chain of root entries in which each imports the next."""
    arrows = entry_graph()

    @cache
    def height(entry):
        return 1 + max((height(other) for other in arrows[entry]), default=0)

    return max(height(entry) for entry in arrows)


def code_lines(text):
    """Lines that hold code: no docstring of a module, class or function, no comment, no empty line."""
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in blank and token.string:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def sizes():
    """Lines by entry of the root: code of Python, and every non-empty line of templates, CSS, JavaScript and C."""
    size = {}
    for path in sorted(ROOT.rglob("*")):
        if path.suffix in (".py", ".j2", ".html", ".css", ".js", ".c", ".h"):
            text = path.read_text(encoding="utf-8")
            entry = path.relative_to(ROOT).parts[0]
            count = code_lines(text) if path.suffix == ".py" else sum(1 for line in text.splitlines() if line.strip())
            size[entry] = size.get(entry, 0) + count
    return size


def test_the_size_and_the_floors(capsys):
    """The figures are printed (``pytest -s``), so that ARCHITECTURE.md can show them."""
    size = sizes()
    with capsys.disabled():
        print(f"\n{sum(size.values())} lines of code, {len(MODULES)} modules, {floors()} floors")  # noqa: T201
    assert floors() <= FLOORS
    for entry, lines in size.items():
        assert lines > 0 or entry == "py.typed", entry


def test_the_root_has_few_entries():
    """Beside ``__init__.py``, ``__main__.py`` and ``py.typed``."""
    present = (path.name for path in ROOT.iterdir() if path.is_file() or any(path.rglob("*.py")))
    entries = set(present) - {"__init__.py", "__main__.py", "py.typed"}
    assert len(entries) <= ROOT_ENTRIES, sorted(entries)


def test_no_folder_is_full():
    """A folder that reaches its limit gets subfolders."""
    for folder in {path.parent for path in MODULES.values()}:
        assert len(list(folder.glob("*.py"))) <= FOLDER_FILES, folder.name


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_stay_short(module):
    """Lines of a module; of a function without its docstring; parameters of a function that is not public."""
    text = MODULES[module].read_text(encoding="utf-8")
    assert text.count("\n") <= MODULE_LINES
    for node in ast.walk(tree_of(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            doc = ast.get_docstring(node, clean=False)
            lines = node.end_lineno - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
            assert lines <= FUNCTION_LINES, f"{node.name} has {lines} lines"
            count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
            assert count - (
                1 if node.args.args[:1] and node.args.args[0].arg in ("self", "cls") else 0
            ) <= PARAMETERS or (is_public(node.name, module)), f"{node.name} has {count} parameters"


def is_public(function, module):
    """Constructors of classes that users make have the arguments that users need."""
    return function == "__init__" and module.startswith(("datamodules", "callbacks"))


def test_every_module_is_named_in_the_architecture():
    """A reader finds each one there; ``__init__`` of a folder is the folder."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    missing = [
        module
        for module, path in MODULES.items()
        if path.name != "__init__.py" and module.rpartition(".")[2] not in text
    ]
    assert missing == []


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


@pytest.mark.parametrize("module", [name for name in MODULES if not belongs(name, "compat")])
def test_private_names_are_imported_in_one_place_only(module):
    """What torch and Lightning may rename at any time is touched in ``compat`` alone."""
    assert list(private_imports(tree_of(module))) == []


def test_a_planted_private_import_is_found():
    """This check can fail too."""
    assert list(private_imports(ast.parse("from torch.utils.data import _utils"))) == ["torch.utils.data._utils"]


def test_no_module_reads_the_others_private_names():
    """``from lightning_fastdata.x import _name`` would make a private name public."""
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                assert not [
                    alias.name for alias in node.names if alias.name.startswith("_") and alias.name[:2] != "__"
                ], module
