"""What cannot go into a worker process: found by looking at attributes, before anything is forked."""

import io
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from multiprocessing import process
from types import FunctionType
from typing import Any, NamedTuple

import torch

from lightning_fastdata.loaders.state.attributes import (
    AttributeWalk,
    Visited,
    file_library,
    instance_attributes,
    is_a,
    is_of_library,
    kinds_of,
    names_in,
)
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
OF_THE_TERMINAL = ("pdb", "bdb", "ipdb", "pudb")
DEBUGGERS = (*OF_THE_TERMINAL, "pydevd", "debugpy", "_pydevd_bundle")
TRANSFORMS_OF = ("torchvision", "torchaudio", "kornia")
"""Libraries whose modules without parameters are transforms: their buffers are constants."""
SHARED_TENSOR = "is a tensor in shared memory"
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
        return next(iter(self.reasons), None)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Everything that was found, a sentence fragment for each kind of thing, with its first attribute."""
        first = {hazard.what: hazard for hazard in reversed(self.hazards)}
        return tuple(f"{one}; {one.remedy}" for one in self.hazards if first[one.what] is one)

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
    ours: set[int] = set()  # tensors through which this package's own workers tell something back
    for visited in walk:
        if _gets_own(visited, start_method):
            opened.append(visited.path)
            continue
        if str(type(visited.value).__module__).partition(".")[0] == __name__.partition(".")[0]:
            ours |= {id(held) for _, held in instance_attributes(visited.value)}
        found = [hazard for look in DETECTORS if (hazard := look(visited)) is not None][:1]
        hazards += [hazard for hazard in found if hazard.what != SHARED_TENSOR or id(visited.value) not in ours]
        large += _large(visited)
    if opened and not hazards:  # then it matters that none is left out
        whole = AttributeWalk(parts, complete=True)
        files = [visited for visited in whole if file_library(visited.value) is not None]
        opened = [visited.path for visited in files if _gets_own(visited, start_method)] or opened
        hazards += [shut for visited in files if visited.path not in opened and (shut := _handle(visited))]
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
    """A tracer, a monitor or ``breakpoint()`` of a debugger's; coverage tools have names of their own."""
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None:
        return True
    # pydevd sets breakpointhook where it is only imported, which a notebook does: it debugs where it has a debugger.
    pydevd = getattr(sys.modules.get("_pydevd_bundle.pydevd_constants"), "GlobalDebuggerHolder", None)
    if getattr(pydevd, "global_dbg", None) is not None or _owners(sys.gettrace()) & set(DEBUGGERS):
        return True
    return bool(_owners(sys.breakpointhook) & set(OF_THE_TERMINAL))


def _owners(hook: Any) -> set[str]:
    """The top-level modules that a hook, and the object it is a method of, come from."""
    kinds = (getattr(hook, "__module__", None), type(hook).__module__, type(getattr(hook, "__self__", None)).__module__)
    return {str(kind).partition(".")[0] for kind in kinds}


def _training(visited: Visited) -> Hazard | None:
    """The Trainer, a DataModule, a model: a worker's copy of it stands still while training goes on."""
    for module, name in kinds_of(visited.value):
        what = OF_THE_TRAINING.get(name) if module in ("lightning", "pytorch_lightning") else None
        if what is not None:
            remedy = "pass what the dataset needs of it instead, so that a worker's copy does not stand still"
            return Hazard(visited.path, what, remedy)
    kind = type(visited.value)
    if issubclass(kind, torch.nn.Module) and (trained := _trained(visited.value)):
        remedy = "a worker's copy would not be trained on; num_workers=4 if that does not matter"
        if trained == "buffers":
            remedy = "a worker's copy would stand still; register_buffer(..., persistent=False) says it is a constant"
        return Hazard(visited.path, f"is a network with {trained} ({kind.__name__})", remedy)
    if kind in (weakref.ProxyType, weakref.CallableProxyType):
        return Hazard(visited.path, "is a weakref.proxy, which hides what it refers to", "use weakref.ref instead")
    return None


def _trained(module: Any) -> str:
    """What training may change in a module: "parameters", else "buffers", else "".

    Out of the dictionaries: ``parameters()`` may be overridden. A buffer that is left out of ``state_dict`` is a
    constant.
    """
    held = dict(instance_attributes(module))
    inner = {_trained(one) for one in held.get("._modules", {}).values() if one is not None}
    if "parameters" in inner or any(one is not None for one in held.get("._parameters", {}).values()):
        return "parameters"
    constant = held.get("._non_persistent_buffers_set", ())
    own = any(one is not None and name not in constant for name, one in held.get("._buffers", {}).items())
    own = own and str(type(module).__module__).partition(".")[0] not in TRANSFORMS_OF
    return "buffers" if own or "buffers" in inner else ""


def _handle(visited: Visited) -> Hazard | None:
    value = visited.value
    if is_a(value, io.IOBase):
        if is_a(value, (io.BytesIO, io.StringIO)) or _is_closed(value) or _is_standard(value):
            return None
        return Hazard(visited.path, "is an open file", "open it in __getitem__, where each worker has one of its own")
    library = file_library(value)
    if (library is None and kinds_of(value) & HANDLES) or (library is not None and not is_harmless(value)):
        remedy = f"pass readonly=True, lock=False, or {OPEN_LATER}" if library == "lmdb" else OPEN_LATER
        return Hazard(visited.path, f"is open ({type(value).__name__})", remedy)
    return None


def _is_closed(file: io.IOBase) -> bool:
    """By the interpreter's own class: a subclass may answer as it likes."""
    kind = next(kind for kind in type(file).__mro__ if kind.__module__ == "_io" and "closed" in vars(kind))
    return bool(vars(kind)["closed"].__get__(file))


def _is_standard(file: io.IOBase) -> bool:
    own = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)
    return any(file is one for one in own)


def _threads(visited: Visited) -> Hazard | None:
    """What a forked child has only half of: the object without its threads, the lock without its owner."""
    value = visited.value
    remedy = "make it at the first __getitem__, where each worker has one of its own"
    if is_a(value, Executor):
        return Hazard(visited.path, f"is a pool of threads or processes ({type(value).__name__})", remedy)
    if is_a(value, (threading.Thread, process.BaseProcess)):
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


def _tensor(visited: Visited) -> Hazard | None:
    """One on a device; one in shared memory, which the training may write while workers read ahead of it."""
    value = visited.value
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return None
    if value.device.type not in ("cpu", "meta"):
        remedy = "keep the data on the CPU; Lightning moves the batches"
        return Hazard(visited.path, f"is a tensor on {value.device}", remedy)
    # In a process that was spawned every tensor is shared: it came through a queue.
    if process.parent_process() is None and value.layout == torch.strided and value.is_shared():
        remedy = "num_workers=4 if nothing writes to it during an epoch: workers read ahead of the training"
        return Hazard(visited.path, SHARED_TENSOR, remedy)
    return None


def _breakpoint(visited: Visited) -> Hazard | None:
    value = visited.value
    if not is_a(value, FunctionType) or is_of_library(value):
        return None
    if names_in(value.__code__) & {"breakpoint", "set_trace"}:
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
    _tensor,
    _breakpoint,
    _iterator,
)


def _large(visited: Visited) -> list[Hazard]:
    """Containers whose every item has a counter of its own in memory: reading them copies the page they lie on."""
    value = visited.value
    if type(value) not in (list, tuple, dict, set) or len(value) < MANY_OBJECTS:
        return []
    items = dict.values(value) if is_a(value, dict) else value
    sample = [item for _, item in zip(range(SAMPLED_ITEMS), items, strict=False)]
    if all(item is None or is_a(item, bool) for item in sample):
        return []
    mib = len(value) * (8 + sum(map(sys.getsizeof, sample)) / len(sample)) / 2**20
    what = f"holds {len(value):,} Python objects: each worker comes to copy up to {mib:.0f} MiB"
    return [Hazard(visited.path, what, "put them into one NumPy array (np.array of numbers, or of fixed-length bytes)")]
