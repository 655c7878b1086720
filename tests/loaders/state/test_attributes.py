"""One walk over attributes that runs none of the user's code."""

import collections
import functools
import threading
import weakref
from types import SimpleNamespace

import pytest

from lightning_fastdata.loaders.state.attributes import FEW_ITEMS, AttributeWalk

TABLE = {"a": [1]}


class Needle:
    """What is looked for."""


class Holder:
    """Fails wherever its code is run."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __getattr__(self, name):
        raise AssertionError(f"asked for {name}")

    def __iter__(self):
        raise AssertionError("iterated")

    def __repr__(self):
        raise AssertionError("printed")

    def __eq__(self, other):
        raise AssertionError("compared")

    __hash__ = None

    @property
    def dear(self):
        raise AssertionError("property read")


class Slotted:
    __slots__ = ("needle", "unset")

    def __init__(self, needle):
        self.needle = needle


class OwnList(list):
    def __iter__(self):
        raise AssertionError("iterated")

    def __len__(self):
        raise AssertionError("measured")


def path_to(needle, part):
    return next((path for path, value in AttributeWalk({"dataset": part}) if value is needle), None)


def closing_over(needle):
    return lambda: needle


def with_default(x, needle=None):
    return needle


NEEDLE = Needle()


def names_a_global():
    def inner():
        return NEEDLE

    return inner


class Bound:
    def __init__(self, needle):
        self.used, self.unused = needle, needle

    def collate(self, batch):
        return self.helper(batch)

    def helper(self, batch):
        return self.used

    def free(self, batch):
        return batch


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda n: Holder(a=n), "dataset.a"),
        (lambda n: Holder(a=[{"b": (n,)}]), "dataset.a[0]['b'][0]"),
        (lambda n: Slotted(n), "dataset.needle"),
        (lambda n: OwnList([0, n]), "dataset[1]"),
        (lambda n: collections.OrderedDict(x=n), "dataset['x']"),
        (lambda n: functools.partial(len, n), "dataset.args[0]"),
        (lambda n: SimpleNamespace(a=n), "dataset.a"),
        (closing_over, "dataset (closure over needle)"),
        (lambda n: Holder(f=closing_over(n)), "dataset.f (closure over needle)"),
        (lambda n: Bound(n).collate, "dataset.used"),
        (lambda n: [0] * 5000 + [n] + [0] * 5000, "dataset[5000]"),
        (lambda n: {**dict.fromkeys(range(5000), 0), "last": n}, "dataset[5000]"),
    ],
)
def test_everything_that_is_held_is_found(make, path):
    """By the path a person would write; one odd item among thousands too."""
    needle = Needle()
    assert path_to(needle, make(needle)) == path


def test_a_weak_reference_is_followed():
    """It leads to an object all the same."""
    needle = Needle()
    assert path_to(needle, Holder(a=weakref.ref(needle))) == "dataset.a()"


def test_globals_and_defaults_of_functions_are_followed():
    """Functions within functions too."""
    assert path_to(NEEDLE, names_a_global()) == "dataset (global NEEDLE)"
    needle = Needle()
    assert path_to(needle, functools.partial(lambda x, n=needle: x)) == "dataset.func (a default)"


def test_a_method_reaches_only_what_it_names():
    """A collate function of a DataModule is one with everything the DataModule holds; most of it is not used."""
    needle = Needle()
    assert path_to(needle, Bound(needle).free) is None


def test_a_circle_ends():
    """Each object is seen once."""
    one = Holder()
    vars(one)["self"] = one
    assert sum(value is one for _, value in AttributeWalk({"dataset": one})) == 1


def test_where_it_stopped_is_known():
    """By depth, and by the number of objects; a short walk stops nowhere."""
    deep = Needle()
    for _ in range(20):
        deep = [deep]
    walk = AttributeWalk({"dataset": deep}, depth=3)
    assert len(list(walk)) == 4
    assert walk.stopped_at == "dataset[0][0][0]"
    walk = AttributeWalk({"dataset": [Holder() for _ in range(FEW_ITEMS)]}, most=10)
    assert len(list(walk)) == 10
    assert walk.stopped_at.startswith("dataset[")
    walk = AttributeWalk({"dataset": Holder(a=[1, 2], b="c")})
    list(walk)
    assert walk.stopped_at is None


def test_what_the_standard_library_is_made_of_is_not_followed():
    """A lock is a lock."""
    assert [path for path, _ in AttributeWalk({"dataset": Holder(lock=threading.Condition())})][:3] == [
        "dataset",
        "dataset.lock",
        "dataset (Holder)",
    ]
