"""What was measured, as plain data: one record a step, one for each evaluation stage.

Standard library only. Records are frozen, know how to become a dict and come back, and share one schema number.
Every time is in seconds, every share lies in 0..1.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from lightning_fastdata.results.stats import known
from lightning_fastdata.results.verdict import Verdict, judge

__all__ = [
    "NAMES_OF_SCHEMA_1",
    "RECENT_STEPS",
    "SCHEMA",
    "STAGE_NAMES",
    "Span",
    "StageWait",
    "StepRecord",
]

# What a reader of an older version would misread makes this number go up; what such a reader passes over does not.
# Schema 2 has other names for some keys and causes.
SCHEMA = 2
NAMES_OF_SCHEMA_1 = {
    "inline_s": "main_process_s",
    "blocked_s": "stalled_s",
    "handoff_s": "worker_transfer_s",
    "blocked_fetches": "stalled_fetches",
    "ceiling": "speedup_bound",
    "too slow": "loader-bound",
    "handoff": "ipc-bound",
    "inline": "main-process loading",
    "slow rank": "straggler",
    "headroom": "over-provisioned",
}
STAGE_NAMES = {"val": "validation", "test": "test", "predict": "prediction"}
RECENT_STEPS = 10_000


class StepRecord(NamedTuple):
    """One optimizer step of one rank: the sum over its micro-batches. A tuple, since a run keeps 10,000 of them.

    The four times add up to the wall time from the end of the step before to the end of this one, validation left out.
    A time that was not measured is None, never 0; it is then part of ``other_s``.
    """

    epoch: int
    """Epoch the step belongs to, from 0 (count)."""
    step: int
    """Index of the step, from 0, going on after a resume; with several optimizers it jumps as ``global_step`` does."""
    samples: int | None
    """Samples in the step's batches (count); None where the batch does not show its size."""
    wait_s: float | None
    """Time the training process was blocked in the loader's ``next`` (s); near 0 means the data was ready."""
    transfer_s: float | None
    """Host time of moving the batches to the device, without ``on_after_batch_transfer`` (s); None on the CPU."""
    compute_s: float | None
    """Host time of training step, backward and optimizer, without any fetch inside it (s)."""
    other_s: float
    """The rest: callbacks, loggers, checkpoints, epoch ends, workers started at ``iter()`` (s)."""
    first_in_epoch: bool
    """True for the first step of an epoch, whose wait includes the loader's warm-up."""
    batches: int
    """Micro-batches in the step (count); more than 1 under gradient accumulation."""
    fetches: int
    """Calls of the loader's ``next`` in the step (count); above ``batches`` where Lightning fetched ahead."""
    rank: int
    """Global rank of the process that measured (index)."""
    end_s: float | None = None
    """End of the step, counted from the callback's ``setup`` (s)."""
    main_process_s: float | None = None
    """Part of ``wait_s`` in which the training process loaded the data itself: work, not waiting (s). Where they were
    measured, ``main_process_s + stalled_s + worker_transfer_s = wait_s``."""
    stalled_s: float | None = None
    """Part of ``wait_s`` in which the wanted batch was not there yet (s)."""
    worker_transfer_s: float | None = None
    """Part of ``wait_s`` in which it was there, but had to be taken from the queue, unpickled or pinned (s)."""
    refill_s: float = 0.0
    """Part of ``wait_s`` for the first batch of an epoch from worker processes; the ledger has it under start-up or
    epoch boundary (s)."""
    queue_ready: int | None = None
    """Batches that were ready when the step's fetch began, the least of several (count); None without workers."""
    load_s: float | None = None
    """Loading and collating as the loading processes measured it, summed over the step's batches (s); only loaders of
    this package tell."""
    device_idle_s: float | None = None
    """Exposed starvation: the device had nothing to do during the fetch (s); CUDA only."""
    copy_s: float | None = None
    """The copy's own time on the device (s); CUDA only."""

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, in field order."""
        return self._asdict()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StepRecord":
        """The record that ``to_dict`` gave; entries it does not know are ignored."""
        return cls(**{name: values[name] for name in cls._fields if name in values})


@dataclass(frozen=True)
class Span:
    """A stretch of a run that is none of a training step's own time, for a time line."""

    kind: str
    """"validation", "checkpoint" or "boundary"."""
    start_s: float
    """Beginning, counted from the callback's ``setup`` (s)."""
    end_s: float
    """End, counted likewise (s)."""
    epoch: int = 0
    """Epoch in which it lay; of a boundary the one that began (count)."""


@dataclass(frozen=True)
class StageWait:
    """The waiting of one evaluation stage, or of one of its loaders, over all its runs."""

    stage: str
    """"val", "test" or "predict"; of one loader with its ``dataloader_idx``, "val/0"."""
    runs: int
    """Times the stage was run, or the loader was read from (count)."""
    batches: int
    """Batches that were evaluated (count)."""
    wait_s: float | None
    """Total time blocked in the loader's ``next`` (s); None where it could not be measured."""
    wait_s_max: float | None
    """Longest single ``next`` (s)."""
    elapsed_s: float
    """Wall time of the stage (s). Of one loader: its waits, and what was done with its batches."""
    loaders: tuple["StageWait", ...] = ()
    """Each loader on its own, where there were several, read one after the other; their sums are in the figures above,
    which also hold what belongs to no batch. Empty where a fetch cannot be said to be of one loader."""

    @property
    def wait_share(self) -> float | None:
        """``wait_s / elapsed_s``; near 0 means the data was ready, near 1 means nothing but waiting."""
        if self.wait_s is None or self.elapsed_s <= 0:
            return None
        return min(1.0, self.wait_s / self.elapsed_s)

    @property
    def verdict(self) -> Verdict:
        """What that share means, in a sentence."""
        name = STAGE_NAMES.get(self.stage, self.stage)
        return judge(self.wait_share, self.batches, what=f"{name} time", subject=name, unit="batch")

    def to_dict(self) -> dict[str, Any]:
        """The stage as plain values, with its share."""
        loaders = [loader.to_dict() for loader in self.loaders]
        return {**asdict(self), "loaders": loaders, "wait_share": self.wait_share}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StageWait":
        """The stage that ``to_dict`` gave, also before it had loaders."""
        read = known(cls, values)
        read["loaders"] = tuple(cls.from_dict(loader) for loader in read.get("loaders", ()))
        return cls(**read)
