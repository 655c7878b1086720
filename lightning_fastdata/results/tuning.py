"""What a tuner measured and decided, as plain data that can be saved and read back.

Standard library only. Times are in seconds, shares lie in 0..1; what was not measured is None, never 0. All times "a
batch" are of one batch of one rank.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_fastdata.results.stats import known

__all__ = ["Consumer", "Probe", "Trial", "TuneResult"]


@dataclass(frozen=True)
class Probe:
    """What one worker process needed for a batch, with no other worker beside it."""

    batches: int
    """Batches behind the figures; the first one, which imports and opens files, is left out (count)."""
    batch_s: float
    """Mean time of loading and collating a batch (s)."""
    batch_cpu_s: float
    """CPU time of it, all threads of the worker together (s)."""
    batch_s_cv: float
    """Standard deviation of the time of a batch over its mean; near 0 means regular, above 1 means bursts (ratio)."""
    worker_transfer_s: float
    """What the training process needs to take over a batch that is ready (s)."""
    batch_bytes: int
    """Tensors and arrays of a batch (bytes)."""
    batch_tensors: int
    """Tensors in a batch, each of which holds a file descriptor on its way (count)."""
    worker_bytes: int | None
    """Private memory of the worker (bytes); None where the system does not tell."""
    start_s: float
    """From starting the worker until its first batch was there (s)."""
    disk_bytes: int | None = None
    """Read from a disk, not from the page cache, for a batch (bytes); None where the system does not tell."""
    kept_waiting_share: float | None = None
    """Share of its time in which the worker could have run and got no CPU, because others had it or a quota was used
    up (0..1); None where the system does not tell."""


@dataclass(frozen=True)
class Consumer:
    """What the training takes, apart from any waiting for data."""

    step_s: float
    """Time of a batch without the waiting that it was exposed to (s); 0 stands for "as fast as data comes"."""
    cpu_s: float = 0.0
    """CPU time of the training process for a batch, loading left out (s)."""


@dataclass(frozen=True)
class Trial:
    """One setting that was tried, or of which it was worked out what it gives."""

    num_workers: int
    """Worker processes (count)."""
    prefetch_factor: int | None
    """Batches per worker prepared ahead (count); None without workers."""
    step_s: float | None
    """Mean time of a step, waiting included (s); None where it was not measured."""
    predicted_step_s: float | None
    """What the model of ``tune.model`` had said (s)."""
    wait_s: float | None = None
    """Mean waiting of a step (s)."""
    steps: int = 0
    """Steps behind it (count); 0 = worked out from the probe, not tried."""
    step_s_error: float | None = None
    """Standard error of ``step_s`` (s)."""
    started_s: float | None = None
    """From asking for the first batch until it was there (s)."""
    verdict: str = ""
    """What became of it: "taken", "kept", "rolled back", or why it ended early."""

    @property
    def wait_share(self) -> float | None:
        """``wait_s / step_s``: near 0 means the data was ready."""
        if self.wait_s is None or not self.step_s:
            return None
        return min(1.0, self.wait_s / self.step_s)

    @property
    def name(self) -> str:
        """The setting in short: ``4 workers x 2``."""
        if not self.num_workers:
            return "0 workers"
        return f"{self.num_workers} worker{'s' if self.num_workers > 1 else ''} x {self.prefetch_factor}"


@dataclass(frozen=True)
class TuneResult:
    """What was decided, from what, and what was predicted and then measured."""

    num_workers: int | None
    """Worker processes to take (count); None where nothing could be decided."""
    prefetch_factor: int | None
    """Batches per worker to prepare ahead (count); None without workers."""
    reason: str
    """Why, in a sentence with the figures."""
    probe: Probe | None = None
    """The one worker's figures; None where it gave none."""
    consumer: Consumer | None = None
    """What the training takes; None where that is not known."""
    cpus: float | None = None
    """CPUs that this rank may use (count)."""
    throughput_limit: str | None = None
    """Where no number of workers is enough: what the CPUs can give at most, and what would help; else None."""
    batch_size: int | None = None
    """Samples of a batch (count); None where that is not known."""
    trials: tuple[Trial, ...] = ()
    """Everything that was tried, in order."""
    notes: tuple[str, ...] = ()
    """What a reader has to know: measurements that could not be made, doubts."""
    took_s: float | None = None
    """Time that tuning itself took (s)."""
    dataset: str = ""
    """What was loaded: the class of the dataset and its length."""
    host: str = ""
    """Name of the machine."""
    date: str = ""
    """When, ISO 8601 with time zone."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of what ran."""
    interrupted: bool = False
    """Whether somebody ended it early (Ctrl-C); then the best of what was known by then."""

    @property
    def chosen(self) -> Trial | None:
        """The trial of the setting that was decided on, the latest of several; None where it was not tried."""
        setting = (self.num_workers, self.prefetch_factor)
        same = [trial for trial in self.trials if (trial.num_workers, trial.prefetch_factor) == setting]
        return same[-1] if same else None

    def arguments(self) -> dict[str, Any]:
        """The decided arguments of a DataLoader or a FastDataModule.

        Returns:
            ``{"num_workers": 4, "prefetch_factor": 2, "persistent_workers": True}``; without workers only
            ``num_workers``; empty where nothing was decided.
        """
        if self.num_workers is None:
            return {}
        if self.num_workers == 0:
            return {"num_workers": 0}
        return {
            "num_workers": self.num_workers,
            "prefetch_factor": self.prefetch_factor,
            "persistent_workers": True,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values that JSON can hold."""
        return {**asdict(self), "trials": [asdict(trial) for trial in self.trials]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TuneResult":
        """What ``to_dict`` gave, also after JSON; entries it does not know are ignored."""
        read = known(cls, values)
        read["probe"] = None if read.get("probe") is None else Probe(**known(Probe, read["probe"]))
        read["consumer"] = None if read.get("consumer") is None else Consumer(**known(Consumer, read["consumer"]))
        read["trials"] = tuple(Trial(**known(Trial, trial)) for trial in read.get("trials", ()))
        read["notes"] = tuple(read.get("notes", ()))
        return cls(**read)
