"""Forms in which a dataset changes between two epochs: each is seen, or is said to be one that cannot be seen."""

import collections
import dataclasses
import enum
import functools
import importlib
import itertools
import os
import sys
import types
import weakref
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from lightning_fastdata.loaders.state.snapshot import changed_between, take_snapshot

INSTALLED = """
import functools
import os
from torch.utils.data import Dataset
from mine import settings

STATE = {"level": 0}
LEVEL = 0

def made(level):
    def inner():
        return level[0]
    return inner

def wraps(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args)
    return call

class Data(Dataset):
    shared = 0
    def __init__(self):
        self.cell = [0]
        self.made = made(self.cell)
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return STATE["level"], LEVEL, settings.level, settings.nested.level, os.environ["OF_MINE"], os.getenv("A")

class Wrapped(Data):
    @wraps
    def __getitem__(self, index):
        return STATE["level"]
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A project that is itself installed: its files lie where those of the libraries lie."""
    folder = tmp_path_factory.mktemp("venv") / "site-packages"
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "__init__.py").write_text("")
    (folder / "mine" / "settings.py").write_text("level = 0\nfrom mine import nested\n")
    (folder / "mine" / "nested.py").write_text("level = 0\n")
    (folder / "mine" / "data.py").write_text(INSTALLED)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("mine.data")
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


@dataclasses.dataclass(slots=True)
class Fields:
    level: int = 0


@dataclasses.dataclass
class Frozen:
    level: int = 0


class Options(NamedTuple):
    level: int = 0


class Slots:
    __slots__ = ("level", "never_set")

    def __init__(self):
        self.level = 0


class Steps(enum.Enum):
    ONE = 1
    TWO = 2


class Names(enum.StrEnum):
    TRAIN = "train"


class Descriptor:
    def __init__(self):
        self.level = 0

    def __get__(self, instance, owner):
        return self.level


class Holds:
    described: ClassVar = Descriptor()

    def __init__(self, held: Any = None):
        self.held = held

    @property
    def level(self):
        return READ_BY_PROPERTY["level"]

    def scale(self, x):
        return x * self.held

    def __getitem__(self, index):
        return self.level


class OfClass(Holds):
    level = 0

    def collate(self, batch):
        return self.level, self.helper()

    def helper(self):
        return READ_BY_HELPER["level"]


class Transformed(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 2


READ_BY_PROPERTY, READ_BY_HELPER, READ_BY_CACHED = {"level": 0}, {"level": 0}, {"level": 0}
KEPT = Frozen()


@functools.lru_cache
def cached(index):
    return READ_BY_CACHED["level"]


def plain(batch):
    return batch


def generates():
    yield from range(3)


def set_to(of, **values):
    for name, value in values.items():
        setattr(of, name, value)


def put(of, key, value=1):
    of[key] = value


class Counts(itertools.count):
    def __init__(self):
        self.name = "a"


def masked():
    return np.ma.array([1.0, 2.0], mask=[False, False])


# name: what the dataset holds, and what changes it
FORMS = {
    "a field of a dataclass": (lambda: Fields(), lambda x: set_to(x, level=1)),
    "a field of a dataclass with a dictionary": (lambda: Frozen(), lambda x: set_to(x, level=1)),
    "a slot": (lambda: Slots(), lambda x: set_to(x, level=1)),
    "a slot that was never set": (lambda: Slots(), lambda x: set_to(x, never_set=1)),
    "a partial's argument": (lambda: functools.partial(min, [0]), lambda x: put(x.args[0], 0)),
    "a partial of a bound method": (
        lambda: functools.partial(Holds(1).scale, 2),
        lambda x: set_to(x.func.__self__, held=2),
    ),
    "an attribute of a partial": (lambda: functools.partial(min), lambda x: set_to(x, level=1)),
    "a bound method": (lambda: Holds(1).scale, lambda x: set_to(x.__self__, held=2)),
    "a class attribute that a bound method reads": (lambda: OfClass().collate, lambda x: set_to(OfClass, level=1)),
    "a global of a bound method's helper": (lambda: OfClass().collate, lambda x: put(READ_BY_HELPER, "level")),
    "an attribute of a function": (lambda: plain, lambda x: set_to(plain, level=1)),
    "a global behind a property": (lambda: Holds(), lambda x: put(READ_BY_PROPERTY, "level")),
    "a descriptor of the class": (lambda: Holds(), lambda x: set_to(Holds.__dict__["described"], level=1)),
    "a global of a cached function": (lambda: cached, lambda x: put(READ_BY_CACHED, "level")),
    "a cache that is cleared": (lambda: [cached(1), cached][1], lambda x: cached.cache_clear()),
    "a weak reference's target": (lambda: weakref.ref(KEPT), lambda x: set_to(KEPT, level=5)),
    "a weak set": (lambda: weakref.WeakValueDictionary(a=KEPT), lambda x: set_to(KEPT, level=6)),
    "a namespace": (lambda: types.SimpleNamespace(), lambda x: set_to(x, level=1)),
    "a default dictionary": (lambda: collections.defaultdict(list), lambda x: x["a"].append(1)),
    "a deque": (lambda: collections.deque([1]), lambda x: x.append(2)),
    "a chain of maps": (lambda: collections.ChainMap({}), lambda x: put(x, "a")),
    "a bytearray": (lambda: bytearray(b"a"), lambda x: put(x, 0)),
    "an object array": (lambda: np.array([[1]], dtype=object), lambda x: put(x, 0)),
    "a masked array": (masked, lambda x: put(x, 0, np.ma.masked)),
    "a record array": (lambda: np.rec.array([(1, 2.0)]), lambda x: put(x, 0, (5, 5.0))),
    "a dataset within views": (
        lambda: ConcatDataset([Subset(Transformed([0]), [0])]),
        lambda x: put(x.datasets[0].dataset.transform, 0),
    ),
    "an iterator": (lambda: iter([1, 2]), next),
    "a generator": (generates, next),
    "a count that has attributes": (Counts, next),
    "a buffer of a module": (lambda: torch.nn.BatchNorm1d(2, affine=False), lambda x: x(torch.rand(4, 2))),
    "an enum": (lambda: [Steps.ONE], lambda x: put(x, 0, Steps.TWO)),
    "a mapping's view": (lambda: types.MappingProxyType({"a": [0]}), lambda x: put(x["a"], 0)),
}


def seen(dataset, change):
    before = take_snapshot({"dataset": dataset})
    change()
    return before.unseen or changed_between(before, take_snapshot({"dataset": dataset}))


@pytest.mark.parametrize("form", FORMS)
def test_a_change_is_seen_or_said_to_be_hidden(form):
    """Whatever holds the state: else workers would live on with the old one."""
    make, change = FORMS[form]
    held = make()
    assert seen(Transformed(held), lambda: change(held))


@pytest.mark.parametrize("form", FORMS)
def test_two_looks_at_the_same_are_the_same(form):
    """Nothing is taken for a change that is none."""
    dataset = Transformed(FORMS[form][0]())
    assert changed_between(take_snapshot({"dataset": dataset}), take_snapshot({"dataset": dataset})) == ()


def test_a_named_tuple_that_is_replaced_is_seen():
    """Its values are immutable, the attribute is not."""
    dataset = Transformed(Options())
    assert seen(dataset, lambda: set_to(dataset, transform=Options(level=1))) == ("dataset.transform",)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda data, mine: put(mine.STATE, "level"), "(global STATE)"),
        (lambda data, mine: set_to(mine, LEVEL=1), "(global LEVEL)"),
        (lambda data, mine: set_to(mine.settings, level=1), "(global settings).level"),
        (lambda data, mine: set_to(mine.settings.nested, level=1), "(global settings).nested.level"),
        (lambda data, mine: put(data.cell, 0), "cell"),
        (lambda data, mine: put(os.environ, "OF_MINE", "1"), "(global os).environ"),
        (lambda data, mine: set_to(mine.Data, shared=1), "(Data).shared"),
    ],
)
def test_a_project_that_is_installed_is_followed(change, path, mine, monkeypatch):
    """Its files lie in ``site-packages``, and its state is the user's all the same; modules' attributes too."""
    monkeypatch.setenv("OF_MINE", "0")
    data = mine.Data()
    assert any(path in one for one in seen(data, lambda: change(data, mine)))


def test_a_function_that_was_wrapped_is_followed(mine):
    """A decorator's own function stands in front of it."""
    assert seen(mine.Wrapped(), lambda: put(mine.STATE, "level", 7))


def test_a_module_of_the_user_with_the_name_of_a_library_is_the_users(tmp_path, monkeypatch):
    """``datasets/`` in one's own project is usual."""
    (tmp_path / "datasets.py").write_text("STATE = {}\nclass Data:\n    def __getitem__(self, i): return STATE\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    module = importlib.import_module("datasets")
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert seen(module.Data(), lambda: put(module.STATE, "level"))


def test_what_libraries_do_is_not_followed():
    """Functions of NumPy and torch that code names hide nothing, and cost nothing."""

    class Uses:
        def __getitem__(self, index):
            return np.stack([np.zeros(1)]), torch.nn.functional.relu(torch.zeros(1)), os.path.join("a", "b")

    assert take_snapshot({"dataset": [Uses(), Names.TRAIN]}).unseen is None
