"""What cannot go into a worker process."""

import functools
import io
import multiprocessing
import socket
import sqlite3
import sys
import tempfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lightning_fastdata.loaders.state.hazards import survey
from lightning_fastdata.loaders.state.known import unknown_part


class Data(Dataset):
    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index


class Module(L.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.tokenizer, self.encoder = str.upper, torch.nn.Linear(1, 1)

    def collate(self, batch):
        return self.tokenizer(batch)

    def encode(self, batch):
        return self.encoder(batch)

    def by_epoch(self, batch):
        return batch, self.trainer.current_epoch


class Breaks(Data):
    def __getitem__(self, index):
        breakpoint()
        return index


def zip_file(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "b")
    return zipfile.ZipFile(path)


def held_lock():
    lock = threading.Lock()
    lock.acquire()
    return lock


def started_thread():
    thread = threading.Thread(target=str)
    thread.start()
    thread.join()
    return thread


def of_a_native_library():
    return type("Store", (), {"__module__": "tensorstore._core"})()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda p: open(p / "f", "wb"),  # noqa: SIM115
            "dataset.x is an open file",
        ),
        (
            lambda p: [{"a": open(p / "f", "w")}],  # noqa: SIM115
            "dataset.x[0]['a'] is an open file",
        ),
        (lambda p: zip_file(p / "z"), "dataset.x is open (ZipFile)"),
        (lambda p: sqlite3.connect(p / "d"), "dataset.x is open (Connection)"),
        (lambda p: ThreadPoolExecutor(1), "dataset.x is a pool of threads or processes (ThreadPoolExecutor)"),
        (lambda p: started_thread(), "dataset.x is a Thread"),
        (lambda p: held_lock(), "dataset.x is a lock that is held"),
        (lambda p: socket.socket(), "dataset.x is a connection (socket)"),
        (lambda p: multiprocessing.get_context("spawn").Lock(), "dataset.x is shared between processes (Lock)"),
        (lambda p: multiprocessing.get_context("spawn").Queue(), "dataset.x is shared between processes (Queue)"),
        (lambda p: multiprocessing.get_context("spawn").Value("i", 0), "dataset.x is shared between processes"),
        (lambda p: multiprocessing.get_context("spawn").Event(), "dataset.x is shared between processes (Event)"),
        (lambda p: multiprocessing.Pipe()[0], "dataset.x is shared between processes (Connection)"),
        (lambda p: tempfile.NamedTemporaryFile(), "dataset.x is open (_TemporaryFileWrapper)"),  # noqa: SIM115
        (lambda p: of_a_native_library(), "dataset.x is of tensorstore"),
        (lambda p: L.Trainer(logger=False, accelerator="cpu"), "dataset.x is the Trainer"),
        (lambda p: Module(), "dataset.x is a DataModule"),
        (lambda p: L.LightningModule(), "dataset.x is the model"),
        (
            lambda p: v2.Compose([torch.nn.Linear(1, 1)]),
            "dataset.x.transforms[0] is a network with parameters (Linear)",
        ),
        (lambda p: functools.partial(str, held_lock()), "dataset.x.args[0] is a lock that is held"),
        (lambda p: Breaks(), "dataset.x (Breaks).__getitem__ has a breakpoint"),
    ],
)
def test_a_hazard_is_named_with_its_attribute(make, words, tmp_path):
    """And with what would allow workers."""
    value = make(tmp_path)
    found = survey({"dataset": Data(x=value)})
    held = value[0]["a"] if isinstance(value, list) else value
    getattr(held, "close", getattr(held, "shutdown", lambda: None))()
    assert str(found.hazards[0]).startswith(words)
    assert found.against_workers == f"{found.hazards[0]}; {found.hazards[0].remedy}"


@pytest.mark.parametrize(
    "value",
    [
        io.BytesIO(b"a"),
        threading.Lock(),
        v2.Compose([v2.RandomCrop(4), v2.Normalize([0.5], [0.5])]),
        torch.zeros(3),
        np.zeros(3),
        sys.stdout,
        SimpleNamespace(a=ModuleType("m")),
        [f"{number}.jpg" for number in range(1000)],
        print,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_go_into_a_worker(value):
    """Files in memory, free locks, transforms without parameters, data."""
    assert survey({"dataset": Data(x=value)}).hazards == ()


def test_a_closed_file_is_none(tmp_path):
    """It was read in ``__init__`` and closed."""
    with open(tmp_path / "f", "w") as file:
        pass
    assert survey({"dataset": Data(x=file)}).hazards == ()


def test_a_collate_function_of_a_datamodule():
    """Only what the method names counts: most reach neither Trainer nor model."""
    module = Module()
    module.trainer = L.Trainer(logger=False, accelerator="cpu")
    assert survey({"collate_fn": module.collate}).hazards == ()
    assert "network with parameters" in survey({"collate_fn": module.encode}).against_workers
    assert survey({"collate_fn": module.by_epoch}).against_workers.startswith("collate_fn.trainer is the Trainer")


def test_under_a_debugger(monkeypatch):
    """A worker would not stop for it; a coverage tracer is none."""

    class Tracer:
        def trace(self, *args):
            return None

    tracer = Tracer()
    monkeypatch.setattr(sys, "gettrace", lambda: tracer.trace)
    assert survey({"dataset": Data()}).hazards == ()
    monkeypatch.setattr(Tracer, "__module__", "pydevd.tracing")
    assert "runs in a debugger" in survey({"dataset": Data()}).against_workers


def test_very_many_python_objects_are_estimated():
    """They go into workers, each of which comes to copy them; said with attribute and MiB."""
    found = survey({"dataset": Data(paths=[f"/data/{number:09d}.jpg" for number in range(300_000)])})
    assert found.hazards == ()
    assert found.large[0].path == "dataset.paths"
    assert "300,000 Python objects" in found.large[0].what
    mib = float(found.large[0].what.split("up to ")[1].split()[0])
    assert mib == pytest.approx(300_000 * (8 + sys.getsizeof("/data/000000000.jpg")) / 2**20, abs=1)
    assert survey({"dataset": Data(paths=np.zeros(300_000))}).large == ()


def own(batch):
    return batch


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        ({"dataset": Data()}, "dataset"),
        ({"dataset": torch.utils.data.TensorDataset(torch.zeros(3))}, None),
        ({"dataset": torch.utils.data.Subset(Data(), [1])}, "dataset.dataset"),
        ({"dataset": torch.utils.data.TensorDataset(torch.zeros(3)), "collate_fn": own}, "collate_fn"),
        ({"dataset": [v2.RandomCrop(3)], "worker_init_fn": None}, None),
        ({"dataset": [v2.Lambda(lambda x: x)]}, "dataset[0].lambd"),
        ({"dataset": [functools.partial(own, 1)]}, "dataset[0].func"),
    ],
)
def test_what_is_known(parts, path):
    """Exactly the libraries' own; a subclass, a function or a lambda of the user's is not."""
    assert unknown_part(parts) == path or (path and (unknown_part(parts) or "").startswith(path))
