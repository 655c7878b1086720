"""What stops worker processes from starting, found beforehand, and for real in a script of its own."""

import multiprocessing
import subprocess
import sys
import textwrap
import threading
import types

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from lightning_fastdata.datamodules.splits import SplitView
from lightning_fastdata.planning.start_method import fork_problem, pickles_beyond, spawn_problem


class Samples(Dataset):
    def __init__(self, transform=None, **more):
        self.transform = transform
        self.__dict__.update(more)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index


def double(value):
    return 2 * value


def script(tmp_path, text):
    path = tmp_path / "train.py"
    path.write_text(textwrap.dedent(text))
    main = types.ModuleType("__main__")
    main.__file__ = str(path)
    return main


def problem(main, **parts):
    return spawn_problem(parts or {"dataset": Samples()}, main)


WITHOUT_GUARD = {
    "a call": "from somewhere import main\nmain()\n",
    "a call in an assignment": "trainer = Trainer()\n",
    "a call in a loop": "for seed in range(3):\n    run(seed)\n",
    "a call in a with": "with open('x') as file:\n    pass\n",
    "another condition": "import sys\nif sys.argv:\n    main()\n",
}
HARMLESS = {
    "a guard": "def main(): ...\nif __name__ == '__main__':\n    main()\n",
    "a guard the other way round": "if '__main__' == __name__:\n    main()\n",
    "a guard with more": "import sys\nif __name__ == '__main__' and sys.argv:\n    main()\n",
    "only definitions": "import os\nX = 3\ndef main():\n    run()\nclass A:\n    x = f()\n",
    "a docstring": '"""Words."""\n',
    "nothing": "",
    "no Python": "this is not python (\n",
}


@pytest.mark.parametrize("text", WITHOUT_GUARD.values(), ids=WITHOUT_GUARD)
def test_a_script_without_a_guard_is_named(tmp_path, text):
    """Every worker would run the whole script again, so the file is named."""
    assert "train.py has no `if __name__ == '__main__':` guard" in problem(script(tmp_path, text))


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_a_script_that_can_be_imported_is_no_problem(tmp_path, text):
    """A guard, or nothing that runs on import; what cannot be read is not held against the user."""
    assert problem(script(tmp_path, text)) is None


def test_a_script_that_is_gone_is_no_problem(tmp_path):
    """A frozen program has no source to read."""
    main = types.ModuleType("__main__")
    main.__file__ = str(tmp_path / "gone.py")
    assert problem(main) is None


# Notebooks: a main module without a file


@pytest.fixture
def notebook(monkeypatch):
    """A ``__main__`` as a notebook has it, with a dataset class and a function defined in a cell."""
    main = types.ModuleType("__main__")
    code = """
from torch.utils.data import Dataset
class CellDataset(Dataset):
    def __len__(self): return 4
    def __getitem__(self, index): return index
def cell_collate(samples): return samples
"""
    exec(code, main.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", main)
    return main


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (lambda cell: {"dataset": cell.CellDataset()}, "dataset (CellDataset) is defined in a notebook"),
        (
            lambda cell: {"dataset": Samples(), "collate_fn": cell.cell_collate},
            "collate_fn (cell_collate) is defined in a notebook",
        ),
        (lambda cell: {"dataset": SplitView(cell.CellDataset(), [0, 1])}, "CellDataset"),
        (lambda cell: {"dataset": Subset(Subset(cell.CellDataset(), [0, 1]), [0])}, "CellDataset"),
        (lambda cell: {"dataset": ConcatDataset([cell.CellDataset()])}, "CellDataset"),
        (lambda cell: {"dataset": Samples(transform=cell.cell_collate)}, "cell_collate"),
    ],
    ids=["dataset", "collate_fn", "val_split", "Subset", "ConcatDataset", "transform"],
)
def test_what_a_notebook_defines_is_named(notebook, sent, words):
    """Workers could not import it; a view pickles well here and fails in the worker, so what is within is found."""
    assert words in spawn_problem(sent(notebook))


def test_what_a_notebook_imports_is_no_problem(notebook):
    """Only what is defined in the notebook itself cannot be imported."""
    assert spawn_problem({"dataset": Samples(transform=double), "collate_fn": double}) is None


# Pickling


@pytest.mark.parametrize(
    ("parts", "where"),
    [
        ({"dataset": Samples(transform=lambda x: x)}, "dataset.transform"),
        ({"dataset": Subset(Samples(transform=lambda x: x), [0])}, "dataset.dataset.transform"),
        ({"dataset": Samples(steps=[double, lambda x: x])}, "dataset.steps[1]"),
        ({"dataset": Samples(by_name={"a": double, "b": lambda x: x})}, "dataset.by_name['b']"),
        ({"dataset": Samples(lock=threading.Lock())}, "dataset.lock"),
        ({"dataset": Samples(), "collate_fn": lambda samples: samples}, "collate_fn"),
        ({"dataset": (number for number in range(3))}, "dataset"),
    ],
    ids=["lambda", "inside a Subset", "in a list", "in a dict", "a lock", "collate_fn", "a generator"],
)
def test_the_part_that_does_not_pickle_is_named_by_its_path(parts, where):
    """The user reads which attribute it is, and Python's own reason."""
    found = spawn_problem(parts)
    assert found.startswith(f"{where} cannot be pickled for a worker (")
    assert "rror: " in found


def test_a_reduce_that_raises_anything_is_survived():
    """A __reduce__ of the user's may raise what it likes."""

    class Odd:
        def __reduce__(self):
            raise KeyError("odd")

    assert "KeyError" in spawn_problem({"dataset": Samples(odd=Odd())})


def test_what_workers_share_by_inheritance_may_travel():
    """A counter shared with the workers pickles only while a process is started; that is no problem."""
    shared = multiprocessing.get_context("spawn").Value("i", 0)
    assert spawn_problem({"dataset": Samples(counter=shared)}) is None


def test_tensors_are_not_moved_by_the_check():
    """Looking must not move the user's data to shared memory."""
    data = torch.ones(1000)
    spawn_problem({"dataset": Samples(data=data)})
    assert not data.is_shared()


def test_how_much_would_travel_is_counted_up_to_a_bound():
    """Arrays, tensors and Python objects; what cannot be pickled at all is another finding."""
    parts = Samples(
        array=np.zeros(500_000), data=torch.ones(125_000), names=[f"{number:07d}" for number in range(10**5)]
    )
    assert pickles_beyond(parts, 5_400_000)
    assert not pickles_beyond(parts, 7_000_000)
    assert not pickles_beyond(Samples(function=lambda x: x), 10**6)


# Fork and the default


def test_libraries_with_their_own_threads_make_fork_unsafe(monkeypatch):
    """Polars documents the deadlock; the reason names it."""
    monkeypatch.delitem(sys.modules, "polars", raising=False)
    assert fork_problem() is None
    monkeypatch.setitem(sys.modules, "polars", types.ModuleType("polars"))
    assert fork_problem().startswith("polars is loaded")


def test_asking_for_the_default_does_not_fix_it():
    """A later set_start_method of the user's must still work."""
    code = (
        "import multiprocessing as m\n"
        "from lightning_fastdata.planning.start_method import default_start_method as d\n"
        "print(d()); m.set_start_method('spawn'); print(d())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [multiprocessing.get_all_start_methods()[0], "spawn"]


# For real

REAL = """
import time
from torch.utils.data import Dataset
from lightning_fastdata import auto_dataloader

class Squares(Dataset):
    def __init__(self, transform=None):
        self.transform = transform
    def __len__(self):
        return 6
    def __getitem__(self, index):
        time.sleep(0.005)  # dearer than handing it over
        return index * index

def main(**kwargs):
    loader = auto_dataloader(Squares(kwargs.pop("transform", None)), shuffle=False, batch_size=2,
                             multiprocessing_context="spawn", **kwargs)
    print("workers", loader.num_workers, "data", [batch.tolist() for batch in loader])
"""


def run(tmp_path, text):
    path = tmp_path / "train.py"
    path.write_text(text)
    environ = {"LIGHTNING_FASTDATA_NUM_CPUS": "3", "PATH": ""}
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120, env=environ)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "workers"),
    [
        ("main()", 0),
        ("if __name__ == '__main__':\n    main()", 1),
        ("if __name__ == '__main__':\n    main(transform=lambda x: x)", 0),
    ],
    ids=["no guard", "guard", "unpicklable"],
)
def test_a_script_under_spawn_finishes(tmp_path, call, workers):
    """Without a guard, or with what does not pickle, it loads in the process, else in workers; the data is the same."""
    done = run(tmp_path, f"{REAL}\n{call}\n")
    assert done.returncode == 0, done.stderr
    assert f"workers {workers} data [[0, 1], [4, 9], [16, 25]]" in done.stdout
    assert done.stdout.count("workers") == 1, "the script ran once"


@pytest.mark.slow
def test_an_unpicklable_dataset_under_spawn_is_named(tmp_path):
    """With workers of the user's own, the attribute is named instead of a traceback out of torch."""
    done = run(tmp_path, f"{REAL}\nif __name__ == '__main__':\n    main(num_workers=2, transform=lambda x: x)\n")
    assert done.returncode != 0
    assert "FastDataError: num_workers=2 for the train loader, but under spawn, dataset.transform cannot" in done.stderr
    assert "Fix: " in done.stderr
