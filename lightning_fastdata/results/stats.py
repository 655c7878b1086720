"""What a run's figures say beside the sums: each finding a frozen record that can be saved and read back.

Standard library only. Times are in seconds, shares lie in 0..1; what was not measured is None, never 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

__all__ = [
    "ACCOUNTS",
    "Boundary",
    "DeviceTimes",
    "Loading",
    "RankTimes",
    "SlowSample",
    "SpeedupBound",
    "WaitKinds",
    "known",
    "read_finding",
]

ACCOUNTS = {
    "startup_s": "Start-up",
    "boundary_s": "Epoch boundary",
    "wait_s": "Waiting for data",
    "transfer_s": "Transfer to the device",
    "compute_s": "Compute",
    "validation_s": "Validation",
    "checkpoint_s": "Checkpoints",
    "callbacks_s": "Callbacks, hooks, loggers",
    "sync_s": "Rank synchronization",
    "loop_s": "Lightning's own loop",
    "unattributed_s": "Unattributed",
}
"""The accounts of the ledger, in order, and what a reader calls them."""

_T = TypeVar("_T")


def known(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``values`` that ``cls`` has a field for: a newer minor version may have written more."""
    names = {entry.name for entry in fields(cls)}
    return {key: value for key, value in values.items() if key in names}


def read_finding(cls: type[_T], values: Any) -> _T | None:
    """A finding as ``dataclasses.asdict`` gave it; None where there was none.

    Args:
        cls: One of the classes here.
        values: Its dict, or None.
    """
    return None if values is None else cls(**known(cls, values))


@dataclass(frozen=True)
class Boundary:
    """What the change from one epoch to the next costs; the beginning of the first epoch is start-up."""

    boundaries: int
    """Changes from one epoch to the next (count)."""
    per_epoch_s: float | None
    """Mean of one change: ``iterator_s + refill_s`` over ``boundaries`` (s); None before there was one."""
    iterator_s: float
    """Making or resetting the loaders' iterators, with what they do to old workers, outside the fetch (s)."""
    refill_s: float
    """Time in ``next`` for the first batch of an epoch from worker processes, and for a call that only found the loader
    at its end (s). The first epoch's is not in it."""
    shutdown_s: float
    """After the last epoch: workers and loops torn down (s)."""
    restart_s: float = 0.0
    """Time in fetches in which a shorter loader of several began anew (s)."""
    persistent_workers: bool | None = None
    """Whether the training loaders keep their workers from epoch to epoch; None where unknown or without workers."""
    saving_s_per_epoch: float | None = None
    """What ``persistent_workers=True`` would have saved at each change, as measured: starting the workers anew (s).
    None where they persist, where there are none, and where it was not measured."""
    saving_is_exact: bool = False
    """Whether the workers themselves told when they were up; else the figure holds only what ``iter()`` took, and the
    real saving is at least that."""


@dataclass(frozen=True)
class WaitKinds:
    """What kind of waiting ``wait_s`` was, over the fetches in the steady part of the run."""

    fetches: int
    """Fetches, without the first of an epoch from worker processes (count)."""
    main_process_s: float | None
    """The training process loaded the data itself: work, not waiting (s)."""
    stalled_s: float | None
    """The wanted batch was not there yet (s)."""
    worker_transfer_s: float | None
    """The batch was there; taking it out of the queue, unpickling and pinning it took the time (s)."""
    unknown_s: float
    """Waiting whose kind was not measured, with loaders that do not show their queue (s)."""
    exact: bool
    """Whether workers stamped when each batch was ready. Else a fetch counts as blocked or handed over as a whole, by
    whether the batch was there when it was asked for."""
    stalled_fetches: int
    """Fetches that were blocked for more than 1 ms (count)."""
    head_of_line_fetches: int
    """Of these, fetches during which later batches were ready and only the wanted one was not (count)."""
    head_of_line_s: float
    """Blocked time in these fetches (s)."""
    queue_ready_mean: float | None
    """Batches that were ready when a fetch began, on average (count); None without worker processes."""
    queue_ready_min: int | None
    """The fewest of them (count)."""
    queue_capacity: int | None
    """Batches that workers keep under way or ready: ``num_workers * prefetch_factor`` (count)."""
    queue_full_share: float | None
    """Share of fetches that found at least three quarters of the capacity ready (0..1)."""


@dataclass(frozen=True)
class SlowSample:
    """A sample that took long to load."""

    index: str
    """Its index in the dataset, as the sampler gave it."""
    load_s: float
    """Time in the dataset's ``__getitem__`` (s)."""
    epoch: int
    """Epoch it was loaded for, from 0."""
    worker: int | None
    """Worker that loaded it (index); None = the training process."""
    path: str | None = None
    """Its file, where the dataset tells."""


@dataclass(frozen=True)
class Loading:
    """Loading as the processes that load have measured it, for loaders of this package; it came with the batches."""

    batches: int
    """Batches (count)."""
    samples: int
    """Samples in them (count)."""
    load_s: float
    """Total time of loading and collating them, over all processes (s)."""
    batch_s_mean: float
    """Mean of a batch (s)."""
    batch_s_max: float
    """Largest of a batch (s)."""
    sample_s_mean: float
    """Mean of a sample, collating included (s)."""
    num_workers: int | None = None
    """Worker processes of all training loaders together (count); None where unknown."""
    slowest: tuple[SlowSample, ...] = ()
    """The slowest samples, slowest first, at most ten; only the slowest one of a batch is considered."""

    @classmethod
    def from_dict(cls, values: Any) -> "Loading | None":
        """What ``dataclasses.asdict`` gave; None where there was none."""
        if values is None:
            return None
        slowest = tuple(SlowSample(**known(SlowSample, sample)) for sample in values.get("slowest", ()))
        return cls(**{**known(cls, values), "slowest": slowest})


@dataclass(frozen=True)
class DeviceTimes:
    """How the device saw the fetches, from pairs of CUDA events on the current stream."""

    steps: int
    """Steady steps in which it was measured, those with the first batch of an epoch from workers left out (count)."""
    idle_s: float
    """Exposed starvation: the stream had nothing to do while a batch was fetched (s)."""
    hidden_s: float
    """Waiting of the host during which the stream still had work: harmless (s)."""
    copy_s: float | None
    """The copy's own time on the device (s)."""
    idle_s_p95: float | None = None
    """95th percentile of a step's exposed starvation (s)."""


@dataclass(frozen=True)
class RankTimes:
    """All ranks together: what a run in which everybody waits for the slowest really lost."""

    ranks: int
    """Ranks whose figures arrived (count)."""
    world_size: int
    """Ranks of the run (count)."""
    steps: int
    """Steps that were compared (count)."""
    wait_share: float
    """Sum of each step's largest wait over the sum of step times (0..1): the truth that no single rank sees."""
    wait_s_max_mean: float
    """Mean over steps of the largest wait of any rank (s)."""
    wait_s_max_p95: float
    """95th percentile over steps of the largest wait of any rank (s)."""
    imbalance: float | None
    """Mean of the largest wait over the mean of all ranks' waits (ratio, >= 1); None where nobody waited."""
    slowest_rank: int | None
    """The rank that most often held the others up (index); None where nobody did."""
    slowest_host: str
    """Its machine."""
    slowest_share: float
    """Share of the steps in which it was the one (0..1)."""
    lost_s: float
    """What a typical other rank lost by it: over steps, the largest wait less the median of the *other* ranks' (s).
    With two ranks that is the difference between them."""
    rank_wait_share: tuple[tuple[int, str, float], ...] = ()
    """(rank, host, its own wait share) of every rank that arrived."""
    missing: tuple[int, ...] = ()
    """Ranks whose figures did not arrive for the last epoch."""

    @classmethod
    def from_dict(cls, values: Any) -> "RankTimes | None":
        """What ``dataclasses.asdict`` gave, also after JSON; None where there was none."""
        if values is None:
            return None
        shares = tuple((int(rank), str(host), float(share)) for rank, host, share in values.get("rank_wait_share", ()))
        return cls(**{**known(cls, values), "rank_wait_share": shares, "missing": tuple(values.get("missing", ()))})


@dataclass(frozen=True)
class SpeedupBound:
    """How much faster the run could get at most, if data cost nothing. From the run itself, not from another one."""

    speedup: float
    """``of_s / (of_s - exposed_s)`` (ratio, >= 1)."""
    low: float | None
    """The same at the lower end of the 95 % interval of the exposed share (ratio); None where it is not known."""
    high: float | None
    """The same at its upper end (ratio)."""
    exposed_s: float
    """Waiting that instant loaders would spare (s): the three parts below."""
    of_s: float
    """The run after its start-up: validation, checkpoints and everything else included (s)."""
    steady_s: float = 0.0
    """Waiting in training steps (s): by the device's clock on CUDA, by each step's largest wait of all ranks where
    there are several, else all waiting of the host, which is an upper bound."""
    boundary_s: float = 0.0
    """Changes of epochs: iterators made, workers started, first batches, shorter loaders that began anew (s)."""
    validation_s: float = 0.0
    """Waiting in the fit's validations (s)."""
    exposed_by: str = "host"
    """What ``steady_s`` is measured by: "device", "host" or "ranks"."""
    steps: int = 0
    """Steps behind the interval (count)."""
