"""Changes of what a dataset holds, by content."""

import argparse
import itertools
import math
import pickle
import re
import sys
from collections import UserDict
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import ImageFile
from torch.utils.data import Subset
from torchvision.transforms import v2

from lightning_fastdata.loaders.state.snapshot import changed_between, held_by_name, take_snapshot

SETTINGS = {"level": 0}
WORDS = ["a"]


class Data:
    shared = 1
    names: ClassVar = ["a"]

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __getitem__(self, index):
        return SETTINGS["level"], WORDS


def changes(data, change):
    before = take_snapshot({"dataset": data})
    change(data)
    return changed_between(before, take_snapshot({"dataset": data}))


def counting():
    count = 0

    def step():
        nonlocal count
        count += 1

    return step


def set_item(of, key, value):
    of[key] = value


def view_of(array):
    view = array[:]
    view.flags.writeable = False
    return view


ARRAY, HIDDEN, TENSOR = np.zeros(1000), np.zeros(10), torch.zeros(1000)
CASES = {
    "an attribute": (Data(level=0), lambda d: setattr(d, "level", 1), ("dataset.level",)),
    "a new attribute": (Data(), lambda d: setattr(d, "level", 1), ("dataset.level",)),
    "an attribute that goes": (Data(level=1), lambda d: delattr(d, "level"), ("dataset.level",)),
    "a new attribute that is a list": (Data(), lambda d: setattr(d, "levels", [1]), ("dataset.levels",)),
    "a growing list": (Data(items=[1]), lambda d: d.items.append(2), ("dataset.items",)),
    "one of 100,000": (
        Data(items=[(f"{i}.jpg", i % 10) for i in range(100_000)]),
        lambda d: set_item(d.items, 50_000, ("x.jpg", 3)),
        ("dataset.items",),
    ),
    "a dictionary": (Data(d={1: {"a": 2}}), lambda d: set_item(d.d[1], "a", 3), ("dataset.d[1]",)),
    "the order of a dictionary": (Data(d={1: 1, 2: 2}), lambda d: set_item(d.d, 1, d.d.pop(1)), ("dataset.d",)),
    "a set": (Data(d={1}), lambda d: d.d.add(2), ("dataset.d",)),
    "an array in place": (Data(a=ARRAY), lambda d: set_item(d.a, 500, 1), ("dataset.a",)),
    "the base of a read-only view": (Data(a=view_of(HIDDEN)), lambda d: set_item(HIDDEN, 3, 1), ("dataset.a",)),
    "a tensor through .data": (Data(t=TENSOR), lambda d: d.t.data.fill_(2), ("dataset.t",)),
    "a tensor through NumPy": (Data(t=TENSOR), lambda d: set_item(d.t.numpy(), 7, 9), ("dataset.t",)),
    "a bfloat16 tensor": (Data(t=torch.zeros(3, dtype=torch.bfloat16)), lambda d: d.t.add_(1), ("dataset.t",)),
    "a scalar tensor": (Data(t=torch.tensor(1)), lambda d: d.t.add_(1), ("dataset.t",)),
    "a class attribute": (Data(), lambda d: setattr(Data, "shared", 2), ("dataset (Data).shared",)),
    "a list of the class": (Data(), lambda d: Data.names.append("b"), ("dataset (Data).names",)),
    "a global": (
        Data(),
        lambda d: set_item(SETTINGS, "level", 1),
        ("dataset (Data).__getitem__ (global SETTINGS)",),
    ),
    "a closure": (Data(f=counting()), lambda d: d.f(), ("dataset.f (closure over count)",)),
    "a nested transform": (
        Data(t=v2.Compose([v2.RandomCrop(8)])),
        lambda d: setattr(d.t.transforms[0], "padding", 3),
        ("dataset.t.transforms[0].padding",),
    ),
    "a swapped transform": (Data(t=[min]), lambda d: set_item(d.t, 0, max), ("dataset.t",)),
    "a transform of another kind": (
        Data(t=[v2.RandomCrop(8)]),
        lambda d: set_item(d.t, 0, v2.CenterCrop(8)),
        ("dataset.t",),
    ),
    "a generator": (Data(g=np.random.default_rng(0)), lambda d: d.g.random(), ("dataset.g",)),
    "minus one": (Data(level=-1), lambda d: setattr(d, "level", -2), ("dataset.level",)),
    "bytes that add up alike": (
        Data(a=np.array([0, 1, 1, 0], dtype=np.uint8)),
        lambda d: d.a.__setitem__(slice(None), [1, 0, 0, 1]),
        ("dataset.a",),
    ),
    "a NumPy number": (Data(x=np.float64(1.0)), lambda d: setattr(d, "x", d.x * 0.5), ("dataset.x",)),
    "a float for an int": (Data(a=[1, 2]), lambda d: set_item(d.a, 0, 1.0), ("dataset.a",)),
    "a namespace": (Data(c=argparse.Namespace(level=0)), lambda d: setattr(d.c, "level", 1), ("dataset.c.level",)),
    "a user's dictionary": (Data(c=UserDict(a=1)), lambda d: d.c.update(a=2), ("dataset.c.data",)),
    "indices of a Subset": (
        Data(s=Subset(range(300), list(range(200)))),
        lambda d: d.s.indices.reverse(),
        ("dataset.s.indices",),
    ),
    "a conjugated view": (Data(t=torch.ones(2, dtype=torch.complex64).conj()), lambda d: None, ()),
    "nothing": (Data(a=[1, 2], b={"c": np.ones(3)}, p=re.compile("a")), lambda d: None, ()),
    "the same once more": (Data(a=[1]), lambda d: setattr(d, "a", [1]), ()),
}


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_seen_and_named(name):
    """By the attribute that a person would look at; equal content in a new object is no change."""
    assert changes(*CASES[name][:2]) == CASES[name][2]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (itertools.count(), "dataset.x"),
        (np.array([{}], dtype=object), "dataset.x"),
        (torch.zeros(2).to_sparse(), "dataset.x"),
        ([object() for _ in range(1000)], "dataset.x"),
        (iter([1]), "dataset.x"),
    ],
)
def test_what_cannot_be_seen_is_said(value, path):
    """State in a C object, Python objects in an array: no promise is made for those."""
    assert take_snapshot({"dataset": Data(x=value)}).unseen == path


def test_what_is_read_only_counts_by_identity():
    """An array that no name can write to is not read through every time."""
    array = np.zeros(3)
    array.flags.writeable = False
    mapped = torch.zeros(3).share_memory_()
    assert changes(Data(a=array, m=mapped), lambda d: d.m.add_(1)) == ()
    assert changes(Data(a=array), lambda d: setattr(d, "a", view_of(np.zeros(3)))) == ("dataset.a",)


def test_generators_can_be_left_out():
    """Drawing from one is what loading a sample does."""
    data = Data(g=np.random.default_rng(0), r=np.random.RandomState(0), t=torch.Generator())
    before = take_snapshot({"dataset": data}, generators=False)
    data.g.random()
    data.r.rand()
    torch.rand(1, generator=data.t)
    assert changed_between(before, take_snapshot({"dataset": data}, generators=False)) == ()


ROOT, LEVELS, KINDS = Path("a"), [1, 2], [list, dict]


class NamesGlobals:
    scale = 2

    def __init__(self):
        self.levels, self.own = LEVELS, 1

    def __getitem__(self, index):
        return ROOT, LEVELS, KINDS, math.pi, self.scale


def test_what_a_spawned_worker_imports_anew_can_be_compared_there(monkeypatch):
    """Globals, class attributes, what libraries are set to; nothing that the dataset carries, nor an identity."""
    found = held_by_name({"dataset": NamesGlobals()})
    assert pickle.loads(pickle.dumps(found)) == found
    assert not any(path.startswith(("dataset.own", "dataset.levels")) for path in found)
    settings = (ImageFile, "LOAD_TRUNCATED_IMAGES", True), (torch, "get_default_dtype", lambda: torch.float64)
    for owner, name, value in ((NamesGlobals, "scale", 3), (sys.modules[__name__], "ROOT", Path("b")), *settings):
        with monkeypatch.context() as changed:
            changed.setattr(owner, name, value)
            after = held_by_name({"dataset": NamesGlobals()})
            assert [name in path for path in found if found[path] != after[path]] == [True]
