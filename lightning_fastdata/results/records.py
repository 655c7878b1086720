"""What was measured, as plain data: one record a step, with what "data wait" is, and one for each evaluation stage.

Records are frozen, become a dict and come back, and share one schema number. Every time is in seconds, every share lies
in 0..1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from lightning_fastdata.results.json_fields import convert_fields
from lightning_fastdata.results.verdict import Verdict, judge

__all__ = ["NAMES_OF_SCHEMA_1", "RECENT_STEPS", "SCHEMA", "STAGE_NAMES", "Span", "StageWait", "StepRecord", "elapsed_s"]

# What a reader of an older version would misread makes this number go up; what such a reader passes over does not.
# Schema 2 has other names for some keys and causes.
SCHEMA = 2
# Keys at any depth, and causes.
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

    The four times add up to the wall time from the end of the previous step to the end of this one, validation left
    out. A time that was not measured is None, never 0; it is then part of ``other_s``.
    """

    epoch: int
    """Epoch the step belongs to, from 0 (count)."""
    step: int
    """Index of the step, from 0, going on after a resume; with several optimizers it jumps as ``global_step`` does."""
    samples: int | None
    """Samples in the step's batches (count); None where the batch does not show its size."""
    wait_s: float | None
    """Data wait: time of the training process in the loader's ``next`` (s); near 0 means the data was ready."""
    transfer_s: float | None
    """Host time of moving the batches to the device, without ``on_after_batch_transfer`` (s); None on the CPU."""
    compute_s: float | None
    """Host time of training step, backward and optimizer, without any fetch inside it (s)."""
    other_s: float
    """The rest: callbacks, loggers, checkpoints, epoch ends, worker startup at ``iter()`` (s)."""
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
    """Part of ``wait_s`` loaded in the main process: work, not waiting (s). The three parts sum to it."""
    stalled_s: float | None = None
    """Part of ``wait_s`` stalled on workers: the wanted batch was not ready yet (s)."""
    worker_transfer_s: float | None = None
    """Part of ``wait_s`` for the worker-to-main transfer: a ready batch is dequeued, unpickled, pinned (s)."""
    refill_s: float = 0.0
    """Part of ``wait_s`` for an epoch's first batch from workers: start-up or epoch boundary in the ledger (s)."""
    queue_ready: int | None = None
    """Batches that were ready when the step's fetch began, the least of several (count); None without workers."""
    load_s: float | None = None
    """Loading and collating in the loading processes, summed over the batches (s); None for foreign loaders."""
    device_idle_s: float | None = None
    """GPU starved: the device had nothing to do during the fetch (s); CUDA only."""
    copy_s: float | None = None
    """The copy's own time on the device (s); CUDA only."""

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, in field order."""
        return self._asdict()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StepRecord":
        """The record that ``to_dict`` gave; entries it does not know are ignored.

        Raises:
            ValueError: An entry is missing, or of another type.
        """
        needed = [name for name in cls._fields if name not in values and name not in cls._field_defaults]
        try:
            ordered = [values.get(name, cls._field_defaults.get(name)) for name in cls._fields]
            if not needed:
                return msgspec.convert(ordered, cls)
        except msgspec.ValidationError:
            needed = convert_fields(cls, values)[1]
        raise ValueError(f"a step without a readable {', '.join(needed)}")


def elapsed_s(record: StepRecord) -> float:
    """The whole time of a step (s)."""
    times_s = (record.wait_s, record.transfer_s, record.compute_s)
    return record.other_s + sum(time_s or 0.0 for time_s in times_s)


@dataclass(frozen=True)
class Span:
    """A stretch of the time line outside the training steps."""

    kind: str
    """"validation", "checkpoint" or "boundary"."""
    start_s: float
    """Start, counted from the callback's ``setup`` (s)."""
    end_s: float
    """End, counted likewise (s)."""
    epoch: int = 0
    """Epoch in which it lay; of a boundary the one that starts (count)."""


@dataclass(frozen=True)
class StageWait:
    """The data wait of one evaluation stage, or of one of its loaders, over all its runs."""

    stage: str
    """"val", "test" or "predict"; of one loader with its ``dataloader_idx``, "val/0"."""
    runs: int
    """Times the stage was run, or the loader was read from (count)."""
    batches: int
    """Batches that were evaluated (count)."""
    wait_s: float | None
    """Total time in the loader's ``next`` (s); None where it could not be measured."""
    wait_s_max: float | None
    """Longest single ``next`` (s)."""
    elapsed_s: float
    """Wall time of the stage (s). Of one loader: its waits and the work on its batches."""
    loaders: tuple["StageWait", ...] = ()
    """Each loader on its own, where there were several, read one after the other. The figures above hold their sums,
    and what belongs to no batch. Empty where a fetch is not of one loader."""

    @property
    def wait_share(self) -> float | None:
        """``wait_s / elapsed_s``; near 0 means the data was ready, near 1 means nothing but data wait."""
        if self.wait_s is None or self.elapsed_s <= 0:
            return None
        return min(1.0, self.wait_s / self.elapsed_s)

    @property
    def verdict(self) -> Verdict:
        """What that share means."""
        name = STAGE_NAMES.get(self.stage, self.stage)
        return judge(self.wait_share, self.batches, what=f"{name} time", unit="batch")
