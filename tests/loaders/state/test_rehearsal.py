"""A child process that loads samples as a worker would."""

import functools
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import albumentations
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, default_collate, get_worker_info

from lightning_fastdata.loaders.seeded_dataset import SeededDataset
from lightning_fastdata.loaders.state import rehearsal
from lightning_fastdata.loaders.state.rehearsal import RehearsalSetup, rehearse, spread_indices

pytestmark = pytest.mark.slow


class Numbers(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return torch.full((3, 4), float(index)), index


class Random(Numbers):
    def __getitem__(self, index):
        return torch.rand(2)


class Lazy(Numbers):
    file, names = None, None

    @functools.cached_property
    def table(self):
        return [1]

    @functools.lru_cache(8)  # noqa: B019
    def twice(self, index):
        return 2 * index

    def __getitem__(self, index):
        if self.file is None:
            self.file = open("/dev/null")  # noqa: SIM115
        return index + len(self.table) + self.twice(index)


class HoldsGenerator(Numbers):
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __getitem__(self, index):
        return self.rng.random()


class Waits(Numbers):
    def __getitem__(self, index):
        time.sleep(0.02)
        return index


class Counts(Numbers):
    repaired = 0

    def __getitem__(self, index):
        self.repaired += 1
        return index


class Caches(Numbers):
    def __init__(self):
        self.cache = {}

    def __getitem__(self, index):
        self.cache[index] = index
        return index


class Closures(Numbers):
    def __getitem__(self, index):
        return lambda x: x + index


class Gradients(Numbers):
    def __init__(self):
        self.weight = torch.ones(3, requires_grad=True)

    def __getitem__(self, index):
        return self.weight * index


class Raises(Numbers):
    def __getitem__(self, index):
        raise KeyError(index)


class Gaussian(Numbers):
    """Python's generator keeps every second number in an attribute."""

    def __init__(self):
        self.rng = random.Random(0)

    def __getitem__(self, index):
        return self.rng.gauss(0, 1)


class Painted(Numbers):
    """Each transform that is applied keeps the parameters that it drew last, one of several by turns."""

    def __init__(self):
        box = albumentations.BboxParams("pascal_voc", label_fields=["labels"])
        crops = [albumentations.CoarseDropout(p=1), albumentations.RandomCrop(8, 8), albumentations.Affine()]
        noise = albumentations.OneOf([albumentations.GaussNoise(), albumentations.MultiplicativeNoise()])
        self.painter = albumentations.Compose([*crops, noise], bbox_params=box)

    def __getitem__(self, index):
        image = np.zeros((16, 16, 3), dtype=np.uint8)
        boxes = {"bboxes": [[index % 8, 1, 12, 13]], "labels": [f"label {index}"]}
        return torch.from_numpy(self.painter(image=image, **boxes)["image"])


class CountsPainted(Painted):
    """A function of its own among them counts."""

    def __init__(self):
        super().__init__()
        self.painter = albumentations.Compose([albumentations.Lambda(image=self.count), *self.painter.transforms])
        self.painted = 0

    def count(self, image, **params):
        self.painted += 1
        return image

    def __getitem__(self, index):
        return torch.from_numpy(self.painter(image=np.zeros((16, 16, 3), dtype=np.uint8))["image"])


class Aborts(Numbers):
    def __getitem__(self, index):
        os.abort()


class Pooled(Numbers):
    def __init__(self):
        self.pool = ThreadPoolExecutor(2)
        list(self.pool.map(abs, [1]))

    def __getitem__(self, index):
        return sum(self.pool.map(abs, [index]))


class AsksWorker(Numbers):
    def __getitem__(self, index):
        return int(type(get_worker_info().dataset) is AsksWorker and get_worker_info().id == 0)


class Reads(Numbers):
    def __init__(self, file):
        self.number = file.fileno()

    def __getitem__(self, index):
        return len(os.read(self.number, 10))


def run(dataset, collate_fn=default_collate, batch_size=4, **settings):
    setup = RehearsalSetup(
        SeededDataset(dataset, only_sample, None, batched=True),
        dataset,
        length=len(dataset),
        collate_fn=collate_fn,
        batch_size=batch_size,
        sampler=None,
        samples_in_batches=False,
        worker_init_fn=None,
    )
    return rehearse(setup, **settings)


def only_sample(samples):
    return samples[0]


def test_a_dataset_that_is_the_same_there():
    """Nothing found; sizes and times are kept for the plan."""
    found = run(Numbers())
    assert (found.problem, found.samples, found.batch_tensors) == (None, 8, 2)
    assert found.batch_bytes == 4 * 12 * 4 + 4 * 8
    assert found.sample_cpu_s < 0.01
    assert 0 < found.quickest_s <= found.sample_wall_s < found.took_s
    assert 0 < found.transfer_s < found.took_s


class Slow(Numbers):
    """Its first sample imports and opens what the others find there."""

    ready = False

    def __getitem__(self, index):
        if not self.ready:
            time.sleep(0.2)
            self.ready = True
        return super().__getitem__(index)


class Graph:
    """A sample with attributes, as those of PyTorch Geometric."""

    def __init__(self, x):
        self.store = {"x": x, "name": "graph"}


class Graphs(Numbers):
    def __getitem__(self, index):
        return Graph(torch.zeros(10))


def stacked_and_listed(graphs):
    return torch.stack([graph.store["x"] for graph in graphs]), graphs


@pytest.mark.parametrize(
    ("dataset", "collate_fn", "batch_size", "expected"),
    [
        (Numbers(), default_collate, 64, (64 * (12 * 4 + 8), 2)),
        (Numbers(), default_collate, 3, (3 * (12 * 4 + 8), 2)),
        (Slow(), default_collate, 800, (800 * (12 * 4 + 8), 2)),
        (Graphs(), list, 16, (16 * 40, 16)),
        (Graphs(), stacked_and_listed, 16, (16 * 80, 17)),
        (Numbers(), len, 64, (None, None)),
    ],
    ids=["larger", "smaller", "after a slow first one", "objects", "one and many", "nothing seen"],
)
def test_the_size_of_a_whole_batch(dataset, collate_fn, batch_size, expected):
    """In proportion to the samples that were tried; None where no tensor is seen, which is not nothing."""
    found = run(dataset, collate_fn, batch_size=batch_size)
    assert (found.batch_bytes, found.batch_tensors) == expected
    assert found.sample_wall_s < 0.1, "the first sample is no measure of the others"


def test_waiting_is_told_from_computing():
    """Which decides how many workers pay."""
    found = run(Waits())
    assert found.sample_wall_s >= 0.02 > 10 * found.sample_cpu_s


@pytest.mark.parametrize(
    "dataset", [Lazy(), HoldsGenerator(), Gaussian(), Painted(), AsksWorker()], ids=lambda one: type(one).__name__
)
def test_what_is_no_finding(dataset):
    """What the first sample sets up, random generators and what they leave behind, questions about the worker."""
    assert run(dataset).problem is None


@pytest.mark.parametrize(
    ("dataset", "collate_fn", "words"),
    [
        (Counts(), default_collate, "dataset.repaired changes while samples are loaded"),
        (Caches(), default_collate, "dataset.cache changes while samples are loaded"),
        (CountsPainted(), default_collate, "dataset.painted changes while samples are loaded"),
        (Closures(), list, "a batch cannot be sent (AttributeError"),
        (Gradients(), list, "a batch cannot be sent (RuntimeError"),
        (Raises(), default_collate, "a sample raises in a worker (KeyError: 0)"),
        (Aborts(), default_collate, "ended the process (by SIGABRT)"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Dataset) else "",
)
def test_a_finding_is_named(dataset, collate_fn, words):
    """With what to do about it."""
    found = run(dataset, collate_fn)
    assert words in found.problem
    assert found.remedy


def test_a_child_that_hangs_is_ended(monkeypatch):
    """In a future whose thread was not forked; the line of the stack is named."""
    monkeypatch.setattr(rehearsal, "STUCK_S", 0.3)
    began = time.perf_counter()
    found = run(Pooled())
    assert "hangs" in found.problem
    assert "threading.py" in found.problem
    assert time.perf_counter() - began < 10


def test_nothing_of_this_process_is_touched(tmp_path):
    """Random generators, threads and children are as before."""
    torch.manual_seed(1)
    before, threads = torch.get_rng_state(), set(threading.enumerate())
    run(Random())
    assert torch.equal(torch.get_rng_state(), before)
    assert set(threading.enumerate()) <= threads


def test_a_file_whose_position_moves_is_set_back(tmp_path):
    """It is named, and this process reads on where it was."""
    (tmp_path / "numbers.bin").write_bytes(bytes(range(250)))
    with open(tmp_path / "numbers.bin", "rb", buffering=0) as file:
        file.seek(7)
        found = run(Reads(file))
        assert str(tmp_path / "numbers.bin") in found.problem
        assert file.tell() == 7


def test_slow_samples_are_tried_twice_only(monkeypatch):
    """One of three seconds is not loaded a third time."""
    monkeypatch.setattr(rehearsal, "LONG_ENOUGH_S", 0.0)
    assert run(Numbers()).samples == 2


def test_indices_are_spread():
    """Over the whole dataset, the first and the last among them."""
    assert spread_indices(1) == [0]
    assert spread_indices(3) == [0, 1, 2]
    assert spread_indices(1000)[0] == 0
    assert spread_indices(1000)[-1] == 999
    assert len(set(spread_indices(1000))) == 8


def full_only(samples):
    assert len(samples) == 64
    return torch.stack(samples)


class Polls(Numbers):
    """Waits for what a child does not have, without standing still."""

    def __getitem__(self, index):
        while True:
            time.sleep(0.001)


class DiesLater(Numbers):
    """A thread of its own ends the process after the batch was sent."""

    def __getitem__(self, index):
        if index == 99:
            threading.Timer(0.01, os._exit, (1,)).start()
        return torch.zeros(300_000)


def test_a_collate_function_that_wants_a_whole_batch_is_no_finding():
    """It would refuse the few samples that are tried, and never sees such a batch in training."""
    found = run(Waits(), full_only, batch_size=64)
    assert (found.problem, found.batch_bytes) == (None, None)


def test_a_child_that_never_stands_still_is_ended(monkeypatch):
    """There is a limit over everything, and one line says what is waited for."""
    monkeypatch.setattr(rehearsal, "LOGGED_S", 0.1)
    lines = []
    found = run(Polls(), longest_s=0.5, log=lines.append)
    assert "took over" in found.problem
    assert len(lines) == 1


def test_a_child_that_dies_while_it_sends_holds_up_nothing():
    """Either the batch has arrived, or the end of the process is the finding; and this process goes on."""
    began = time.perf_counter()
    found = run(DiesLater(), batch_size=8)
    assert found.problem is None or "ended the process" in found.problem
    assert time.perf_counter() - began < 20
