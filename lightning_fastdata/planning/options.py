"""The nouns of planning: the options of a loader, its work, and what was decided, with reasons."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.context import BaseContext
from types import MappingProxyType
from typing import Any, Literal

from lightning_fastdata.errors import FastDataError, check_bool, check_choice, check_int

__all__ = ["LoaderOptions", "LoaderPlan", "Pool", "Reason", "Rehearsed", "Split", "Workload"]

Split = Literal["train", "val", "test", "predict"]
Auto = Literal["auto"]
PINNING_DEVICES = ("cuda", "xpu")
"""Device types for which Lightning copies without blocking from page-locked memory."""
FIELDS = ("num_workers", "prefetch_factor", "pin_memory", "persistent_workers", "multiprocessing_context")
NEED_WORKERS = ("persistent_workers", "prefetch_factor", "multiprocessing_context")
"""Options that have no effect without workers."""
MOST = 4096
"""More workers or batches than any machine runs; what a cap is when nothing binds (count)."""


@dataclass(frozen=True)
class Reason:
    """Why a value is what it is."""

    source: Literal["user", "hardware", "rule", "measured"]
    """Who decided: the user, a limit of the machine, a written rule, or a measurement."""
    text: str
    """One sentence for a person."""

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


@dataclass(frozen=True)
class LoaderOptions:
    """What the user asks for; ``"auto"`` leaves the decision to the plan. The names are those of torch's DataLoader."""

    num_workers: int | Auto = "auto"
    """Worker processes of this loader (count); 0 loads in the training process."""
    prefetch_factor: int | Auto | None = "auto"
    """Batches each worker prepares ahead (count); None is torch's default."""
    pin_memory: bool | Auto = "auto"
    """Copy batches into page-locked memory, from which a GPU copies without blocking."""
    persistent_workers: bool | Auto = "auto"
    """Keep the worker processes alive between epochs."""
    multiprocessing_context: str | Auto | None = "auto"
    """Start method of the workers: "fork", "spawn" or "forkserver"; None is the platform's default."""

    def __post_init__(self) -> None:
        workers = check_int("num_workers", self.num_workers, 0, MOST, allow=("auto",))
        prefetch = check_int("prefetch_factor", self.prefetch_factor, 1, MOST, allow=("auto", None))
        object.__setattr__(self, "num_workers", workers)
        object.__setattr__(self, "prefetch_factor", prefetch)
        for name in ("pin_memory", "persistent_workers"):
            check_bool(name, getattr(self, name), allow=("auto",))
        context = self.multiprocessing_context
        if isinstance(context, BaseContext):  # DataLoader takes one too; its start method is all that matters
            context = context.get_start_method()
            object.__setattr__(self, "multiprocessing_context", context)
        check_choice("multiprocessing_context", context, ("fork", "spawn", "forkserver", None, "auto"))


@dataclass(frozen=True)
class Pool:
    """The workers of one loader, and what they and their batches take; None = not known."""

    num_workers: int
    """Worker processes (count)."""
    prefetch_factor: int
    """Batches per worker prepared ahead (count)."""
    batch_bytes: int | None = None
    """Size of one collated batch, bytes."""
    tensors_per_batch: int | None = None
    """Tensors in it, each of which holds a file open on its way (count); 0 under torch's ``file_system`` strategy."""
    worker_bytes: int | None = None
    """Private memory of one worker without its batches, bytes."""
    pin_memory: bool = False
    """Whether batches are copied to page-locked memory."""
    batch_size: int | None = None
    """Samples per batch (count); only where ``batch_bytes`` has to be assumed."""
    batches: int | None = None
    """Batches in one pass over the data (count): never more are under way."""
    measured: tuple[str, ...] = ()
    """Names of the sizes above that were measured on a few samples; the others were declared."""

    @property
    def in_flight(self) -> int:
        """Batches under way when the queue is full (count)."""
        most = self.num_workers * self.prefetch_factor
        return most if self.batches is None else min(most, self.batches)


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """What a few samples took that a child process loaded as a worker would; None = not known."""

    samples: int = 0
    """Samples that were loaded (count)."""
    sample_wall_s: float | None = None
    """Mean time of a sample (s), without the first, which imports and opens files, where there were others."""
    sample_cpu_s: float | None = None
    """CPU time of it (s)."""
    quickest_s: float | None = None
    """Time of the quickest sample (s): the others meet the cold caches of a new process, too."""
    batch_bytes: int | None = None
    """Memory of the tensors and arrays of a whole batch (bytes), in proportion to the samples that were collated."""
    batch_tensors: int | None = None
    """Tensors in it (count)."""
    transfer_s: float | None = None
    """What this process needed to take over the batch (s)."""
    took_s: float = 0.0
    """Time of all of it (s)."""

    def __str__(self) -> str:
        sizes = times = ""
        if self.sample_wall_s is not None and self.sample_cpu_s is not None:
            times = f": {1e3 * self.sample_wall_s:.2g} ms each ({1e3 * self.sample_cpu_s:.2g} ms of CPU)"
        if self.batch_bytes is not None:
            mib = self.batch_bytes / 2**20
            bytes_text = f"{mib:.3g} MiB" if mib >= 1 else f"{1024 * mib:.3g} KiB"
            sizes = f", a batch is {bytes_text}"
            if self.batch_tensors is not None:
                sizes += f" in {self.batch_tensors} tensor{'s' * (self.batch_tensors != 1)}"
        return f"{self.samples} samples tried in {1e3 * self.took_s:.0f} ms{times}{sizes}"


@dataclass(frozen=True)
class Workload:
    """What one loader has to do and where; what is not passed is not known."""

    split: Split = "train"
    """Which part of the data it serves."""
    samples: int | None = None
    """Samples this rank draws in an epoch (count); None where only the run will show."""
    batch_size: int | None = None
    """Samples per batch and rank (count); None when a batch sampler decides."""
    batch_bytes: int | None = None
    """Size of one collated batch; None = not known, then a 224 x 224 float image per sample is assumed."""
    tensors_per_batch: int | None = None
    """Tensors in one batch (count), 0 under torch's ``file_system`` strategy; None = not known."""
    worker_bytes: int | None = None
    """Private memory of one worker, bytes; None = not measured, then 512 MiB are assumed."""
    in_memory: bool = False
    """The samples already lie in memory and are only indexed."""
    is_iterable: bool = False
    """An IterableDataset: every worker would repeat it unless it shards itself."""
    worker_problem: str | None = None
    """Why samples would not be the same in a worker process, a sentence fragment; None = nothing was found."""
    persistence_problem: str | None = None
    """Why workers must not serve more than one pass, a sentence fragment; None = nothing was found."""
    walk_stopped_at: str | None = None
    """How far the dataset was looked at, a sentence fragment; None = all of it was seen, or nothing."""
    rehearsed: Rehearsed | None = None
    """What a few samples took; None = none were tried."""
    data_attribute: str | None = None
    """The attribute that holds all samples in memory; None = none was seen."""
    reopened_files: str | None = None
    """Open files of which each worker gets its own, a sentence fragment; None = there are none."""
    loaders: int = 1
    """Loaders of this split (count); those of training are alive together, those of evaluation follow each other."""
    concurrent_pool: bool = False
    """True when the workers of another split are alive at the same time (training beside validation)."""
    other_pool: Pool | None = None
    """Those workers, where the user has set their number; None = there are none, a plan decides them, or not known."""
    other_pool_started: bool = False
    """Whether they were started already, so that what they take is missing from what is free."""
    validates_after: float | None = None
    """Share of an epoch after which it is validated while training's queue is full; None = not in its middle."""
    replaces_loader: bool = False
    """True when the loader replaces one in the middle of a run, which may still hold what it took."""
    device_type: str | None = None
    """Type of the device the Trainer uses ("cpu", "cuda", "mps", ...); None without a Trainer."""
    training_threads: int | None = None
    """Threads torch computes with in the training process, when that trains on the CPU (count); None = it does not."""
    reload_every_n_epochs: int = 0
    """The Trainer's reload_dataloaders_every_n_epochs; 0 = loaders are made once."""
    single_pass: bool = False
    """True when the loader is iterated a single time (one epoch, or validate, test and predict on their own)."""
    start_method: str = "fork"
    """What worker processes would be started with by default on this platform."""
    spawn_problem: str | None = None
    """Why workers cannot start under spawn or forkserver (no __main__ guard, unpicklable part); None = they can."""
    fork_problem: str | None = None
    """Why fork is unsafe in this process (a library with its own threads is loaded); None = nothing known."""


@dataclass(frozen=True)
class LoaderPlan:
    """The loader options, decided. Nothing is left open, and no value stands without its reason."""

    num_workers: int
    """Worker processes (count)."""
    prefetch_factor: int | None
    """Batches per worker prepared ahead (count); None with 0 workers."""
    pin_memory: bool
    """Whether batches are copied into page-locked memory."""
    persistent_workers: bool
    """Whether workers live on between epochs."""
    multiprocessing_context: str | None
    """Start method; None = the platform's default, or no workers."""
    reasons: Mapping[str, Reason] = field(default_factory=dict)
    """For each option by name, why."""
    warnings: tuple[str, ...] = ()
    """What comes near a limit of the machine (shared memory, memory, open files), and which random generators of the
    dataset's follow the seed, a line each."""
    rehearsed: Rehearsed | None = None
    """What a few samples took that were tried for this plan; None = none were."""

    def __post_init__(self) -> None:
        missing = [name for name in FIELDS if name not in self.reasons]
        if missing:
            raise FastDataError(f"LoaderPlan without a reason for {missing}.", expected="a Reason for every option.")
        object.__setattr__(self, "reasons", MappingProxyType(dict(self.reasons)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A MappingProxyType does not pickle; the plan must (ddp_spawn carries the DataModule to its ranks).
        values = (*(getattr(self, name) for name in FIELDS), dict(self.reasons), self.warnings, self.rehearsed)
        return type(self), values

    def as_kwargs(self) -> dict[str, Any]:
        """The keyword arguments for ``torch.utils.data.DataLoader``."""
        return {name: getattr(self, name) for name in FIELDS}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: ``{option: {"value", "source", "reason"}}``, and ``rehearsed`` where samples were."""
        plain: dict[str, Any] = {
            name: {"value": getattr(self, name), "source": self.reasons[name].source, "reason": self.reasons[name].text}
            for name in FIELDS
        }
        if self.rehearsed is not None:
            plain["rehearsed"] = {
                "value": self.rehearsed.samples,
                "source": "measured",
                "reason": str(self.rehearsed),
                **asdict(self.rehearsed),
            }
        return plain


def needs_workers(options: LoaderOptions, name: str) -> bool:
    """Whether the user's value of one of ``NEED_WORKERS`` has an effect only with workers."""
    return getattr(options, name) not in ("auto", None, False)
