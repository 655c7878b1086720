"""Dealing out an iterable dataset: the arithmetic, who is asked for the rank, and what is refused."""

import pickle
from dataclasses import dataclass, field
from itertools import count, islice, product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch.utils.data import Dataset, IterableDataset

from lightning_fastdata import FastDataError, shard
from lightning_fastdata.loaders import sharding
from lightning_fastdata.loaders.sharding import SetShard, iterable_warning


class Stream(IterableDataset):
    def __iter__(self):
        return shard(range(6))


@pytest.fixture(autouse=True)
def no_rank_in_the_environment(monkeypatch):
    """No rank in the environment, whatever the tests themselves run under."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def as_worker(monkeypatch):
    """From here on the code runs in this worker; 0 workers is the training process."""

    def become(worker: int, workers: int, dataset: Any = None) -> None:
        info = SimpleNamespace(id=worker, num_workers=workers, dataset=dataset) if workers else None
        monkeypatch.setattr(sharding, "get_worker_info", lambda: info)

    return become


@pytest.fixture
def distributed(monkeypatch):
    """A process group that says this rank."""

    def initialize(rank: int, ranks: int) -> None:
        said = {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "get_rank": lambda: rank,
            "get_world_size": lambda: ranks,
        }
        monkeypatch.setattr(sharding, "distributed", SimpleNamespace(**said))

    return initialize


def everybody(as_worker, length, ranks, workers, **kwargs):
    """What each (rank, worker) gets of ``range(length)``."""
    found = {}
    for rank, worker in product(range(ranks), range(max(workers, 1))):
        as_worker(worker, workers)
        found[rank, worker] = list(shard(range(length), share=(rank, ranks), **kwargs))
    return found


# Who gets what

CASES = list(product(range(1, 5), range(4), range(14)))


@pytest.mark.parametrize("even", [False, True])
def test_element_i_goes_where_the_page_says(as_worker, even):
    """Rank i % ranks, worker (i // ranks) % workers, in the order they came."""
    for ranks, workers, length in CASES:
        for (rank, worker), got in everybody(as_worker, length, ranks, workers, even=even).items():
            kept = range(length - length % ranks if even else length)
            right = [i for i in kept if i % ranks == rank and i // ranks % max(workers, 1) == worker]
            assert got == right, (ranks, workers, length)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_leaving_out_what_is_done_goes_on_where_it_stopped(as_worker, workers):
    """The page's formula: nothing skipped; exact where the batches are a multiple of the workers."""
    items, ranks, size = range(240), 2, 4
    for batches in range(9):
        trained = set()
        for (_, worker), part in everybody(as_worker, 240, ranks, workers).items():
            mine = len(range(worker, batches, max(workers, 1)))
            trained.update(part[: mine * size])
        done = batches // max(workers, 1) * max(workers, 1) * size * ranks
        assert trained >= set(range(done))
        assert len(trained) - done <= max(workers - 1, 0) * size * ranks
        as_worker(0, 0)
        assert next(shard(islice(items, done, None), share=(0, ranks))) == done


# Streams


@pytest.mark.parametrize(("even", "read"), [(False, 3), (True, 5)])
def test_an_endless_stream_is_read_as_far_as_needed(as_worker, even, read):
    """Up to its own element, or to the end of that element's round."""
    source = count()
    as_worker(0, 0)
    mine = shard(source, share=(2, 5), even=even)
    assert next(source) == 0  # nothing is read before the first is asked for
    assert next(mine) == 3
    assert next(source) == read + 1


def test_any_iterable_will_do(as_worker, tmp_path):
    """Files, arrays, dicts and generators."""
    as_worker(0, 0)
    (tmp_path / "lines").write_text("a\nb\nc\n")
    with open(tmp_path / "lines") as lines:
        assert list(shard(lines, share=(1, 2))) == ["b\n"]
    assert list(shard(np.arange(4), share=(1, 2))) == [1, 3]
    assert list(shard({"x": 1, "y": 2, "z": 3}, share=(0, 2))) == ["x", "z"]
    assert list(shard((n for n in range(4)), share=(0, 2))) == [0, 2]
    assert list(shard([None, None], share=(0, 1), even=True)) == [None, None]
    assert list(shard(range(4), share=(np.int64(1), np.int32(2)))) == [1, 3]


def test_who_asks_is_found_out_when_it_is_read(as_worker):
    """An iterator made in the training process and forked into a worker counts as that worker."""
    as_worker(0, 0)
    mine = shard(range(6))
    as_worker(1, 2)
    assert list(mine) == [1, 3, 5]


# Which rank


def test_who_is_asked_first(as_worker, distributed, monkeypatch):
    """The environment, then torch.distributed, then the loader, then the argument: each outweighs the one before."""
    dataset = Stream()
    as_worker(0, 1, dataset)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "10")
    assert next(shard(count())) == 1
    distributed(2, 10)
    assert next(shard(count())) == 2
    SetShard(3, 10)(0)
    assert next(shard(count())) == 3
    assert next(shard(count(), share=(4, 10))) == 4


@pytest.mark.parametrize("said", [{"WORLD_SIZE": "2"}, {"LOCAL_RANK": "0"}, {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}])
def test_a_worker_that_cannot_know_its_rank_says_so(as_worker, monkeypatch, said):
    """What Lightning's launchers leave to a spawned worker: repeating the data in silence would be worse."""
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    as_worker(1, 3, Stream())
    with pytest.raises(FastDataError, match=r"worker 1 of 3 .*one of several ranks(.|\n)*SetShard"):
        next(shard(range(3)))
    assert next(shard(range(3), share=(0, 1))) == 1
    monkeypatch.setenv("WORLD_SIZE", "1")  # then one rank is an answer
    assert list(shard(range(6))) == [1, 4]
    as_worker(0, 0)  # the training process, where torch.distributed would say if there were several
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE")  # RANK alone may be anybody's
    assert list(shard(range(3))) == [0, 1, 2]


# SetShard


def test_a_dataset_inside_another_finds_the_share(as_worker):
    """It is left on the dataset the loader has, and looked for there."""

    class Wrapper(IterableDataset):
        inner = Stream()

        def __iter__(self):
            return iter(self.inner)

    outer = Wrapper()
    as_worker(1, 2, outer)
    SetShard(1, 2)(1)
    assert outer.fastdata_share == (1, 2)
    assert list(outer) == [3]


def test_it_travels_to_a_spawned_worker():
    assert pickle.loads(pickle.dumps(SetShard(1, 2))) == SetShard(1, 2)
    SetShard(1, 2)(0)  # outside a worker it changes nothing


@dataclass(frozen=True)
class Frozen(Stream):
    paths: list[str] = field(default_factory=list)


class Forwarding(Stream):
    """A wrapper that answers every name, as some do that stand before another dataset."""

    def __getattr__(self, name):
        return "anything"

    def __setattr__(self, name, value):
        raise TypeError("read-only")


@pytest.mark.parametrize("kind", [Frozen, Forwarding])
def test_datasets_that_guard_their_attributes_get_it_too(as_worker, kind):
    """Classes of torch have a __dict__ whatever a subclass says."""
    dataset = kind()
    as_worker(0, 1, dataset)
    assert list(shard(range(4))) == [0, 1, 2, 3]
    SetShard(1, 2)(0)
    assert list(shard(range(4))) == [1, 3]


def test_a_dataset_without_room_says_so(as_worker):
    """A class that is not torch's, with __slots__."""

    class Slots:
        __slots__ = ("paths",)

    as_worker(0, 1, Slots())
    assert list(shard(range(4))) == [0, 1, 2, 3]
    with pytest.raises(FastDataError, match=r"Slots takes no attributes(.|\n)*__slots__"):
        SetShard(1, 2)(0)


# What is refused


@pytest.mark.parametrize(
    "share", [(2, 2), (-1, 2), (0, 0), (0,), (0, 1, 2), 3, (0.0, 2), (True, 2), ("0", "2"), "02", [1, 1]]
)
def test_a_share_that_cannot_be(share):
    """At the call, not at the first element."""
    with pytest.raises(FastDataError, match=r"share=.*\n.*0 <= rank < ranks"):
        shard(range(3), share=share)
    if isinstance(share, tuple) and len(share) == 2:
        with pytest.raises(FastDataError, match=r"0 <= rank < ranks"):
            SetShard(*share)


@pytest.mark.parametrize(("rank", "ranks"), [("2", "2"), ("one", "2"), ("-1", "2"), ("", "")])
def test_an_environment_that_cannot_be(as_worker, monkeypatch, rank, ranks):
    """A message that names the variables."""
    as_worker(0, 0)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", ranks)
    with pytest.raises(FastDataError, match=r"\(RANK, WORLD_SIZE\)="):
        next(shard(range(3)))


class Numbered(Dataset):
    """Map-style: no __iter__."""

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ("data.txt", r"'data\.txt'.*single characters(.|\n)*\[path\]"),
        (b"data", r"single characters"),
        ({"a", "b"}, r"a set(.|\n)*same order(.|\n)*sorted"),
        (frozenset("ab"), r"a frozenset"),
        (7, r"a int, which is not iterable"),
        (Numbered(), r"a Numbered, which is not iterable(.|\n)*range\(len"),
    ],
)
def test_items_that_cannot_be_dealt_out(items, words):
    """At the call, each with what to pass instead."""
    with pytest.raises(FastDataError, match=words):
        shard(items)


# The warning


@pytest.mark.parametrize(
    ("ranks", "workers", "readers"),
    [
        (1, 0, None),
        (1, 1, None),
        (1, 3, "each of the 3 workers reads all of it"),
        (2, 0, "each of the 2 ranks reads all of it"),
        (2, 1, "each of the 2 ranks reads all of it"),
        (2, 3, "each of the 2 ranks x 3 workers reads all of it"),
    ],
)
def test_the_warning_says_what_is_not_promised(ranks, workers, readers):
    """The dataset, order, randomness, restart, who repeats what, and what to do; at most three sentences."""
    text = iterable_warning(Stream(), ranks=ranks, workers=workers)
    for words in (
        "Stream is an IterableDataset",
        "order and random values",
        "restart in mid-epoch",
        "shard()",
        "map-style",
    ):
        assert words in text
    assert (readers in text) if readers else ("reads all of it" not in text)
    assert text.count(". ") <= 2
