"""What cannot go into a worker process: found by looking at attributes, before anything is forked."""

import io
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from multiprocessing import process
from types import FunctionType
from typing import Any, NamedTuple

import torch

from lightning_fastdata.loaders.state.attributes import AttributeWalk, Visited, file_library, kinds_of, names_in
from lightning_fastdata.loaders.state.handles import is_harmless, may_reopen

__all__ = ["Hazard", "Survey", "survey"]

NATIVE_LIBRARIES = ("tensorstore", "zarrs")
"""Libraries whose native threads do not survive a fork: reading hangs or aborts in the child."""
CLIENTS = {
    *(
        ("socket", "socket"),
        ("http", "HTTPConnection"),
        ("subprocess", "Popen"),
        ("asyncio", "AbstractEventLoop"),
        ("ssl", "SSLSocket"),
        ("requests", "Session"),
        ("httpx", "Client"),
        ("aiohttp", "ClientSession"),
    ),
    *(("botocore", "BaseClient"), ("boto3", "ServiceResource"), ("redis", "Redis"), ("pymongo", "MongoClient")),
    *(("psycopg2", "connection"), ("psycopg", "Connection"), ("sqlalchemy", "Engine"), ("grpc", "Channel")),
}
"""Connections: two processes that were forked from one would talk over the same socket."""
HANDLES = {
    *(("h5py", "HLObject"), ("sqlite3", "Connection"), ("zipfile", "ZipFile")),
    *(("tempfile", "_TemporaryFileWrapper"), ("codecs", "StreamReaderWriter"), ("shelve", "Shelf")),
    *(("tarfile", "TarFile"), ("netCDF4", "Dataset"), ("rasterio", "DatasetBase")),
}
"""Open files that are not Python's own file objects."""
OPEN_LATER = "open it at the first __getitem__ instead"
SHARED = {
    ("multiprocessing", name)
    for name in (
        *("Queue", "JoinableQueue", "SimpleQueue", "Pool", "BaseManager", "BaseProxy", "SemLock", "Event", "Condition"),
        *("Barrier", "SynchronizedBase", "_ConnectionBase", "SharedMemory"),
    )
}
"""What processes share by inheritance: a worker would take from it, or write to it, what is meant for another."""
OF_THE_TRAINING = {
    "Trainer": "is the Trainer",
    "LightningModule": "is the model",
    "LightningDataModule": "is a DataModule",
}
DEBUGGERS = ("pdb", "bdb", "ipdb", "pudb", "pydevd", "debugpy", "_pydevd_bundle")
MANY_OBJECTS = 300_000
"""Items of a container from which on its memory is estimated (count)."""
SAMPLED_ITEMS = 200


class Hazard(NamedTuple):
    """One reason against worker processes."""

    path: str
    """Which attribute: ``dataset.archive``."""
    what: str
    """What it is, as the end of a sentence: "is an open file"."""
    remedy: str
    """What would allow workers."""

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


@dataclass(frozen=True)
class Survey:
    """What one walk found."""

    hazards: tuple[Hazard, ...] = ()
    """What forbids worker processes, the most telling first."""
    large: tuple[Hazard, ...] = ()
    """Containers of very many Python objects, which every worker comes to copy."""
    stopped_at: str | None = None
    """The first attribute that was not looked at any more; None = everything was seen."""
    reopened_files: tuple[str, ...] = ()
    """Open files of which each worker gets its own."""

    @property
    def against_workers(self) -> str | None:
        """The reason for no workers, a sentence fragment; None where nothing was found."""
        return f"{self.hazards[0]}; {self.hazards[0].remedy}" if self.hazards else None

    @property
    def reopened_in_words(self) -> str | None:
        """Those files, a sentence fragment: "dataset.file is reopened in each worker"; None where there are none."""
        more = f" (and {len(self.reopened_files) - 1} more)" if len(self.reopened_files) > 1 else ""
        return f"{self.reopened_files[0]}{more} is reopened in each worker" if self.reopened_files else None


def survey(parts: Mapping[str, Any], start_method: str | None = None) -> Survey:
    """Look at everything that a worker would receive. None of its code runs.

    Args:
        parts: The dataset, and what else a worker gets (``collate_fn``, ``worker_init_fn``, ``sampler``), by name.
        start_method: How workers of a loader of this package are started, which reopens files in them; None = of a
            loader that does not.

    Returns:
        What was found.
    """
    parts = {name: part for name, part in parts.items() if part is not None}
    walk = AttributeWalk(parts)
    hazards, large, opened = [], [], []
    if _is_debugged():
        hazards.append(Hazard("this program", "runs in a debugger", "a worker process would not stop for it"))
    for visited in walk:
        if _gets_own(visited, start_method):
            opened.append(visited.path)
            continue
        hazards += [hazard for look in DETECTORS if (hazard := look(visited)) is not None][:1]
        large += _large(visited)
    if opened and not hazards:  # then it matters that none is left out
        whole = AttributeWalk(parts, complete=True)
        files = [visited for visited in whole if file_library(visited.value) is not None]
        opened = [visited.path for visited in files if _gets_own(visited, start_method)] or opened
        hazards += [found for visited in files if visited.path not in opened and (found := _handle(visited))]
        if whole.stopped_at is not None:
            remedy = f"{OPEN_LATER}, or let the dataset hold fewer objects"
            hazards.append(
                Hazard(opened[0], f"is open, and there may be more such files in {whole.stopped_at}", remedy)
            )
    return Survey(tuple(hazards), tuple(large), walk.stopped_at, tuple(opened))


def _gets_own(visited: Visited, start_method: str | None) -> bool:
    """Whether each worker gets its own of an open file: of what it is sent, and not of a sampler."""
    sent = visited.path.startswith(("dataset", "collate_fn"))
    return start_method is not None and sent and may_reopen(visited.value, start_method)


def _is_debugged() -> bool:
    tracer = sys.gettrace()
    name = getattr(type(tracer), "__module__", "") if not isinstance(tracer, FunctionType) else tracer.__module__
    owner = getattr(tracer, "__self__", None)
    names = {str(name).partition(".")[0], str(type(owner).__module__).partition(".")[0]}
    return tracer is not None and bool(names & set(DEBUGGERS))


def _training(visited: Visited) -> Hazard | None:
    """The Trainer, a DataModule, a model: a worker's copy of it stands still while training goes on."""
    for module, name in kinds_of(visited.value):
        what = OF_THE_TRAINING.get(name) if module in ("lightning", "pytorch_lightning") else None
        if what is not None:
            remedy = "pass what the dataset needs of it instead, so that a worker's copy does not stand still"
            return Hazard(visited.path, what, remedy)
    if issubclass(type(visited.value), torch.nn.Module) and _has_parameters(visited.value):
        remedy = "a worker's copy would not be trained on; num_workers=4 if that does not matter"
        return Hazard(visited.path, f"is a network with parameters ({type(visited.value).__name__})", remedy)
    return None


def _has_parameters(module: Any) -> bool:
    """Out of the dictionaries: ``parameters()`` may be overridden."""
    held = vars(module)
    if any(one is not None for one in held.get("_parameters", {}).values()):
        return True
    return any(_has_parameters(one) for one in held.get("_modules", {}).values() if one is not None)


def _handle(visited: Visited) -> Hazard | None:
    value = visited.value
    if isinstance(value, io.IOBase):
        if isinstance(value, (io.BytesIO, io.StringIO)) or _is_closed(value) or _is_standard(value):
            return None
        return Hazard(visited.path, "is an open file", "open it in __getitem__, where each worker has one of its own")
    library = file_library(value)
    if (library is None and kinds_of(value) & HANDLES) or (library is not None and not is_harmless(value)):
        remedy = f"pass readonly=True, lock=False, or {OPEN_LATER}" if library == "lmdb" else OPEN_LATER
        return Hazard(visited.path, f"is open ({type(value).__name__})", remedy)
    return None


def _is_closed(file: io.IOBase) -> bool:
    """By the interpreter's own class: a subclass may answer as it likes."""
    kind = next(kind for kind in type(file).__mro__ if kind.__module__ == "_io")
    return bool(vars(kind)["closed"].__get__(file)) if "closed" in vars(kind) else file.closed


def _is_standard(file: io.IOBase) -> bool:
    own = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)
    return any(file is one for one in own)


def _threads(visited: Visited) -> Hazard | None:
    """What a forked child has only half of: the object without its threads, the lock without its owner."""
    value = visited.value
    remedy = "make it at the first __getitem__, where each worker has one of its own"
    if isinstance(value, Executor):
        return Hazard(visited.path, f"is a pool of threads or processes ({type(value).__name__})", remedy)
    if isinstance(value, (threading.Thread, process.BaseProcess)):
        return Hazard(visited.path, f"is a {type(value).__name__}, which a worker would not have", remedy)
    if type(value) is type(threading.Lock()) and value.locked():
        return Hazard(visited.path, "is a lock that is held", "release it before training begins")
    if kinds_of(value) & SHARED:
        return Hazard(
            visited.path, f"is shared between processes ({type(value).__name__})", "num_workers=4 if it may be"
        )
    if kinds_of(value) & CLIENTS:
        return Hazard(visited.path, f"is a connection ({type(value).__name__})", remedy)
    return None


def _native(visited: Visited) -> Hazard | None:
    module = str(getattr(type(visited.value), "__module__", "")).partition(".")[0]
    if module in NATIVE_LIBRARIES:
        remedy = 'multiprocessing_context="spawn" together with num_workers=4'
        return Hazard(visited.path, f"is of {module}, whose threads do not survive a fork", remedy)
    return None


def _device(visited: Visited) -> Hazard | None:
    value = visited.value
    if type(value) in (torch.Tensor, torch.nn.Parameter) and value.device.type not in ("cpu", "meta"):
        remedy = "keep the data on the CPU; Lightning moves the batches"
        return Hazard(visited.path, f"is a tensor on {value.device}", remedy)
    return None


def _breakpoint(visited: Visited) -> Hazard | None:
    if isinstance(visited.value, FunctionType) and names_in(visited.value.__code__) & {"breakpoint", "set_trace"}:
        return Hazard(visited.path, "has a breakpoint", "a worker process has no terminal to stop at")
    return None


def _iterator(visited: Visited) -> Hazard | None:
    """An iterator written in C, or a generator: nothing shows where it stands, and reading a sample may move it on."""
    kind = type(visited.value)
    step = next((vars(base)["__next__"] for base in kind.__mro__ if "__next__" in vars(base)), None)
    if step is None or isinstance(step, FunctionType) or isinstance(visited.value, io.IOBase):
        return None
    remedy = "samples that depend on their index alone may be loaded by workers (num_workers=4 takes them all the same)"
    return Hazard(visited.path, f"is an iterator ({kind.__name__}), which each worker would move on by itself", remedy)


DETECTORS: tuple[Callable[[Visited], Hazard | None], ...] = (
    _training,
    _handle,
    _threads,
    _native,
    _device,
    _breakpoint,
    _iterator,
)


def _large(visited: Visited) -> list[Hazard]:
    """Containers whose every item has a counter of its own in memory: reading them copies the page they lie on."""
    value = visited.value
    if type(value) not in (list, tuple, dict, set) or len(value) < MANY_OBJECTS:
        return []
    items = dict.values(value) if isinstance(value, dict) else value
    sample = [item for _, item in zip(range(SAMPLED_ITEMS), items, strict=False)]
    if all(item is None or isinstance(item, bool) for item in sample):
        return []
    mib = len(value) * (8 + sum(map(sys.getsizeof, sample)) / len(sample)) / 2**20
    what = f"holds {len(value):,} Python objects: each worker comes to copy up to {mib:.0f} MiB"
    return [Hazard(visited.path, what, "put them into one NumPy array (np.array of numbers, or of fixed-length bytes)")]
