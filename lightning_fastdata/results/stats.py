"""What a run's figures say beside the sums: each a frozen record that can be saved and read back.

Standard library only. Times are in seconds, shares lie in 0..1; what was not measured is None, never 0.
"""

from dataclasses import dataclass

__all__ = ["ACCOUNTS", "Boundary", "DeviceTimes", "Loading", "RankTimes", "SlowSample", "SpeedupBound", "WaitKinds"]

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


@dataclass(frozen=True)
class Boundary:
    """What the epoch boundaries cost; the beginning of the first epoch is start-up."""

    boundaries: int
    """Boundaries between two epochs (count)."""
    per_epoch_s: float | None
    """Mean of one boundary: ``iterator_s + refill_s`` over ``boundaries`` (s); None before there was one."""
    iterator_s: float
    """Making or resetting the loaders' iterators, old workers' shutdown included, outside the fetch (s)."""
    refill_s: float
    """Time in ``next`` for a later epoch's first batch from workers, or to find the loader at its end (s)."""
    shutdown_s: float
    """Teardown of workers and loops after the last epoch (s)."""
    restart_s: float = 0.0
    """Time in fetches in which a shorter loader of several restarted (s)."""
    persistent_workers: bool | None = None
    """Whether the training loaders keep their workers from epoch to epoch; None where unknown or without workers."""
    saving_s_per_epoch: float | None = None
    """Worker startup that ``persistent_workers=True`` would save at a boundary (s); None where not measured."""
    saving_is_exact: bool = False
    """Whether workers reported when they were up; else ``iter()`` was timed, and the saving is at least that."""


@dataclass(frozen=True)
class WaitKinds:
    """The data wait by cause, over the fetches in the steady part of the run."""

    fetches: int
    """Fetches, without the first of an epoch from worker processes (count)."""
    main_process_s: float | None
    """Loaded in the main process: work, not waiting (s)."""
    stalled_s: float | None
    """Stalled on workers: the wanted batch was not ready yet (s)."""
    worker_transfer_s: float | None
    """Worker-to-main transfer: the batch was ready, but had to be taken out of the queue, unpickled and pinned (s)."""
    unknown_s: float
    """Data wait of unknown cause, with loaders that do not show their queue (s)."""
    exact: bool
    """Whether workers stamped when each batch was ready; else a whole fetch counts as a stall or a transfer."""
    stalled_fetches: int
    """Fetches that stalled for more than 1 ms (count)."""
    head_of_line_fetches: int
    """Stalled fetches during which later batches were ready and only the wanted one was not (count)."""
    head_of_line_s: float
    """Time stalled in these fetches (s)."""
    queue_ready_mean: float | None
    """Batches that were ready when a fetch began, on average (count); None without worker processes."""
    queue_ready_min: int | None
    """The fewest of them (count)."""
    queue_capacity: int | None
    """The most batches that are under way or ready: ``num_workers * prefetch_factor`` (count)."""
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
    """Its file, where the dataset names it."""


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


@dataclass(frozen=True)
class DeviceTimes:
    """The fetches on the device's clock, from pairs of CUDA events on the current stream."""

    steps: int
    """Steady steps in which it was measured, those with the first batch of an epoch from workers left out (count)."""
    idle_s: float
    """GPU starved: the stream had nothing to do while a batch was fetched (s)."""
    hidden_s: float
    """Overlapped wait: the host waited while the stream still had work, which costs nothing (s)."""
    copy_s: float | None
    """The copy's own time on the device (s)."""
    idle_s_p95: float | None = None
    """95th percentile of ``idle_s`` over steps (s)."""


@dataclass(frozen=True)
class RankTimes:
    """All ranks together: the slowest rank stalls all ranks, and on the others that stall shows up as compute."""

    ranks: int
    """Ranks whose figures arrived (count)."""
    world_size: int
    """Ranks of the run (count)."""
    steps: int
    """Steps that were compared (count)."""
    wait_share: float
    """Sum of each step's largest wait over the sum of step times (0..1), which no single rank can see."""
    wait_s_max_mean: float
    """Mean over steps of the largest wait of any rank (s)."""
    wait_s_max_p95: float
    """95th percentile over steps of the largest wait of any rank (s)."""
    imbalance: float | None
    """Mean of the largest wait over the mean of all ranks' waits (ratio, >= 1); None where no rank waited."""
    slowest_rank: int | None
    """The straggler: the rank that most often stalled the others (index); None where none did."""
    slowest_host: str
    """Its machine."""
    slowest_share: float
    """Share of the steps in which it did (0..1)."""
    lost_s: float
    """What a typical other rank lost to the straggler: its wait less the median of the others', over steps (s)."""
    rank_wait_share: tuple[tuple[int, str, float], ...] = ()
    """(rank, host, its own wait share) of every rank that arrived."""
    missing: tuple[int, ...] = ()
    """Ranks whose figures did not arrive for the last epoch."""


@dataclass(frozen=True)
class SpeedupBound:
    """The max speedup at zero data wait, from the run itself, not from another one."""

    speedup: float
    """``of_s / (of_s - exposed_s)`` (ratio, >= 1)."""
    low: float | None
    """The same at the lower end of the 95 % interval of the exposed share (ratio); None where it is not known."""
    high: float | None
    """The same at its upper end (ratio)."""
    exposed_s: float
    """Exposed data wait (s): the three parts below."""
    of_s: float
    """The run after its start-up, with validation, checkpoints and everything else (s)."""
    steady_s: float = 0.0
    """Data wait in training steps (s): by the device's clock on CUDA, by each step's largest wait of all ranks where
    there are several, else all waiting of the host, which is an upper bound."""
    boundary_s: float = 0.0
    """Epoch boundaries: iterators, worker startup, first batches, restarts of shorter loaders (s)."""
    validation_s: float = 0.0
    """Data wait in the fit's validations (s)."""
    exposed_by: str = "host"
    """What ``steady_s`` is measured by: "device", "host" or "ranks"."""
    steps: int = 0
    """Steps behind the interval (count)."""
