"""What cannot go into a worker process."""

import functools
import io
import multiprocessing
import pdb
import socket
import sqlite3
import sys
import tempfile
import threading
import weakref
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
from lightning_fastdata.loaders.state.snapshot import take_snapshot


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


class Averages(torch.nn.Module):
    """Kept up to date by the training."""

    def __init__(self, *, persistent=True):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2), persistent=persistent)


class Proxy:
    """Says that it is another class, as proxies of objects do, and tells when it is asked."""

    asked = 0

    @property
    def __class__(self):
        Proxy.asked += 1
        return list

    @property
    def __dict__(self):
        Proxy.asked += 1
        return {}


KEPT = Data()


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
        (lambda p: Averages(), "dataset.x is a network with buffers (Averages)"),
        (lambda p: v2.Compose([Averages()]), "dataset.x.transforms[0] is a network with buffers (Averages)"),
        (lambda p: torch.nn.BatchNorm1d(2, affine=False), "dataset.x is a network with buffers (BatchNorm1d)"),
        (lambda p: weakref.proxy(KEPT), "dataset.x is a weakref.proxy"),
        (lambda p: torch.zeros(3).share_memory_(), "dataset.x is a tensor in shared memory"),
        (lambda p: {"a": torch.zeros(9).share_memory_()[:3]}, "dataset.x['a'] is a tensor in shared memory"),
        (lambda p: functools.partial(str, held_lock()), "dataset.x.args[0] is a lock that is held"),
        (lambda p: Breaks(), "dataset.x (Breaks).__getitem__ has a breakpoint"),
    ],
)
def test_a_hazard_is_named_with_its_attribute(make, words, tmp_path):
    """And with what would allow workers."""
    value = make(tmp_path)
    found = survey({"dataset": Data(x=value)})
    held = value[0]["a"] if type(value) is list else value
    getattr(held, "close", getattr(held, "shutdown", lambda: None))()
    assert str(found.hazards[0]).startswith(words)
    assert found.against_workers == f"{found.hazards[0]}; {found.hazards[0].remedy}"


@pytest.mark.parametrize(
    "value",
    [
        io.BytesIO(b"a"),
        threading.Lock(),
        v2.Compose([v2.RandomCrop(4), v2.Normalize([0.5], [0.5])]),
        torch.nn.Sequential(v2.Normalize([0.5], [0.5]), torch.nn.Identity()),
        Averages(persistent=False),
        torch.zeros(3)[:2],
        np.lib.format.open_memmap,
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
    """Files in memory, free locks, transforms without parameters, constants, data."""
    assert survey({"dataset": Data(x=value)}).hazards == ()


def test_what_our_own_datasets_share_is_none():
    """Their workers count in it which images could not be read."""
    dataset = type("Ours", (Data,), {"__module__": "lightning_fastdata.datamodules"})(x=torch.zeros(3).share_memory_())
    assert survey({"dataset": dataset}).hazards == ()


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


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"length": 3})

    def cut(self, batch):
        return torch.stack(batch).float()[: self.hparams.length]

    def by_epoch(self, batch):
        return batch, self.epoch()

    def epoch(self):
        return self.current_epoch

    def by_step(self, batch):
        return [(one, self.global_step) for one in batch]

    def encode(self, batch):
        return self(batch)


def test_a_collate_function_of_a_model():
    """What Lightning's own properties reach counts too, and so does the model where the method hands it on."""
    model = Model()
    model.trainer = L.Trainer(logger=False, accelerator="cpu")
    assert survey({"collate_fn": model.cut}).hazards == ()
    assert survey({"collate_fn": model.by_epoch}).against_workers.startswith("collate_fn._trainer is the Trainer")
    assert survey({"collate_fn": model.by_step}).against_workers.startswith("collate_fn._trainer is the Trainer")
    assert survey({"collate_fn": model.encode}).against_workers.startswith("collate_fn.__self__ is the model")


class Tracer:
    def trace(self, *args):
        return None


class Monitoring:
    """``sys.monitoring`` of Python 3.12."""

    DEBUGGER_ID, COVERAGE_ID = 0, 1

    def __init__(self, **tools):
        self.tools = tools

    def get_tool(self, number):
        return self.tools.get({0: "debugger", 1: "coverage"}[number])


@pytest.mark.parametrize(
    ("where", "name", "hook", "debugged"),
    [
        (sys, "gettrace", lambda: Tracer().trace, False),  # as coverage has one
        (sys, "gettrace", lambda: type("Tracer", (Tracer,), {"__module__": "pydevd.tracing"})().trace, True),
        (sys, "gettrace", lambda: pdb.Pdb().trace_dispatch, True),
        (sys, "monitoring", Monitoring(debugger="bdb"), True),
        (sys, "monitoring", Monitoring(coverage="coverage.py"), False),
        (sys, "breakpointhook", pdb.Pdb().set_trace, True),
        (sys, "breakpointhook", sys.__breakpointhook__, False),
        (sys, "breakpointhook", type(sys)("debugpy").__init__, False),  # a notebook has it without debugging
    ],
)
def test_under_a_debugger(where, name, hook, debugged, monkeypatch):
    """A worker would not stop for it; a coverage tool is none."""
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.setattr(where, name, hook, raising=False)
    assert ("runs in a debugger" in (survey({"dataset": Data()}).against_workers or "")) is debugged


@pytest.mark.parametrize(("debugger", "debugged"), [(None, False), (object(), True)])
def test_under_pydevd(debugger, debugged, monkeypatch):
    """It sets hooks wherever it is imported; with frame evaluation it debugs without a tracer."""
    constants = ModuleType("_pydevd_bundle.pydevd_constants")
    constants.GlobalDebuggerHolder = SimpleNamespace(global_dbg=debugger)
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.setitem(sys.modules, "_pydevd_bundle.pydevd_constants", constants)
    assert bool(survey({"dataset": Data()}).hazards) is debugged


def test_a_proxy_is_not_asked():
    """``isinstance`` would run its ``__class__``."""
    before = Proxy.asked
    parts = {"dataset": Data(x=[Proxy(), {"a": Proxy()}]), "collate_fn": Proxy()}
    survey(parts)
    take_snapshot(parts)
    unknown_part({"dataset": [Proxy()]})
    assert Proxy.asked == before


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
