"""What was measured, as plain data: one record a step, one summary a run.

Standard library only. Records are frozen, know how to become a dict and come back, and share one schema number.
Every time is in seconds, every share lies in 0..1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from lightning_fastdata.errors import FastDataError

__all__ = [
    "FEW_STEPS",
    "INPUT_BOUND_SHARE",
    "MODERATE_SHARE",
    "RECENT_STEPS",
    "SCHEMA",
    "RunSummary",
    "StageWait",
    "StepRecord",
    "Totals",
    "Verdict",
    "judge",
    "summarise",
]

# What a reader of an older version would misread makes this number go up. Added since schema 1 was first written, and
# passed over by a reader that does not know it: StageWait.loaders.
SCHEMA = 1
STAGE_NAMES = {"val": "validation", "test": "test", "predict": "prediction"}
RECENT_STEPS = 10_000
FEW_STEPS = 20
# The bands of the TensorFlow profiler's input-pipeline analysis, which people already know how to read.
MODERATE_SHARE = 0.05
INPUT_BOUND_SHARE = 0.20


def _known(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``values`` that ``cls`` has a field for: a newer minor version may have written more."""
    names = {entry.name for entry in fields(cls)}
    return {key: value for key, value in values.items() if key in names}


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step of one rank: the sum over its micro-batches.

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

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, in field order."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StepRecord":
        """The record that ``to_dict`` gave; entries it does not know are ignored."""
        return cls(**_known(cls, values))


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
    def verdict(self) -> "Verdict":
        """What that share means, in a sentence."""
        return judge(
            self.wait_share, self.batches, what=f"{STAGE_NAMES.get(self.stage, self.stage)} time", unit="batch"
        )

    def to_dict(self) -> dict[str, Any]:
        """The stage as plain values, with its share."""
        loaders = [loader.to_dict() for loader in self.loaders]
        return {**asdict(self), "loaders": loaders, "wait_share": self.wait_share}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StageWait":
        """The stage that ``to_dict`` gave, also before it had loaders."""
        known = _known(cls, values)
        known["loaders"] = tuple(cls.from_dict(loader) for loader in known.get("loaders", ()))
        return cls(**known)


@dataclass(frozen=True)
class Totals:
    """Running sums over every step of a run, exact whatever number of records was kept."""

    steps: int = 0
    """Optimizer steps (count)."""
    epochs: int = 0
    """Epochs in which at least one step ended (count)."""
    samples: int | None = None
    """Samples in all steps (count); None where a batch did not show its size."""
    wait_s: float | None = None
    """Waiting in all steps and in fetches that no step used (s); None where no fetch was seen."""
    transfer_s: float | None = None
    """Transfer to the device (s)."""
    compute_s: float | None = None
    """Training steps, backward passes and optimizer steps (s)."""
    other_s: float = 0.0
    """Everything else between the first fetch and the last step, validation left out (s)."""
    wait_s_max: float | None = None
    """Largest wait of one step (s)."""
    tail_wait_s: float = 0.0
    """Part of ``wait_s`` that no step used: fetches before a stop, a crash or a skipped rest of an epoch (s)."""

    @property
    def train_s(self) -> float:
        """Training time: first train fetch to last step, without validation and sanity check (s)."""
        return self.other_s + sum(part for part in (self.wait_s, self.transfer_s, self.compute_s) if part is not None)

    @classmethod
    def of(cls, records: Sequence[StepRecord]) -> "Totals":
        """The sums over ``records``, for runs that are read back from a file."""
        return cls(
            steps=len(records),
            epochs=len({record.epoch for record in records}),
            samples=_sum_or_none([record.samples for record in records], every=True),
            wait_s=_sum_or_none([record.wait_s for record in records]),
            transfer_s=_sum_or_none([record.transfer_s for record in records]),
            compute_s=_sum_or_none([record.compute_s for record in records]),
            other_s=sum(record.other_s for record in records),
            wait_s_max=max((record.wait_s for record in records if record.wait_s is not None), default=None),
        )


def _sum_or_none(values: Sequence[Any], *, every: bool = False) -> Any:
    """The sum of what is not None; None where nothing is, or with ``every`` where anything is not."""
    known = [value for value in values if value is not None]
    if not known or (every and len(known) < len(values)):
        return None
    return sum(known)


@dataclass(frozen=True)
class Verdict:
    """What the figures mean, in one sentence."""

    level: str
    """"fine" (below 5 % waiting), "moderate" (5 to 20 %), "input-bound" (above) or "unknown"."""
    text: str
    """The sentence, for people."""


@dataclass(frozen=True)
class RunSummary:
    """One run of one rank. ``wait_s / train_s`` is ``wait_share``; every figure has its unit in its name."""

    steps: int
    """Optimizer steps (count)."""
    epochs: int
    """Epochs in which at least one step ended (count)."""
    samples: int | None
    """Samples trained on (count); None where a batch did not show its size."""
    train_s: float
    """Training time: first train fetch to last step, without validation and sanity check (s)."""
    wait_s: float | None
    """Total time spent waiting for training data (s); None where it was not measured."""
    wait_share: float | None
    """``wait_s / train_s``: near 0 means the data was always ready, near 1 means nothing but waiting."""
    transfer_s: float | None
    """Total host time of moving batches to the device (s)."""
    compute_s: float | None
    """Total host time of training steps, backward passes and optimizer steps (s)."""
    other_s: float
    """Total of the rest: callbacks, loggers, checkpoints, epoch ends, workers started at ``iter()`` (s)."""
    tail_wait_s: float
    """Part of ``wait_s`` in fetches that no step used (s)."""
    samples_per_s: float | None
    """``samples / train_s`` (1/s)."""
    wait_s_median: float | None
    """Median wait of a step (s)."""
    wait_s_p95: float | None
    """95th percentile of the wait of a step (s); far above the median means bursts."""
    wait_s_max: float | None
    """Largest wait of a step (s), over all steps."""
    percentile_steps: int
    """Steps behind median and p95 (count): all of them, or the last 10,000 of a longer run."""
    first_batch_wait_s: tuple[tuple[int, float], ...]
    """(epoch, wait of its first step in s); the first epoch and the last 99 of a longer run."""
    stages: tuple[StageWait, ...]
    """Validation, test and prediction, each on its own."""
    verdict: Verdict
    """What the figures mean."""
    timing_source: str
    """"fetch" (timed at the loader's ``next``) or "not measured"."""
    num_workers: int | None = None
    """Worker processes of the training loader (count), the most of several; None where unknown."""
    status: str = "finished"
    """"running", "finished" or "interrupted"."""
    rank: int = 0
    """Global rank of the process that measured (index)."""
    world_size: int = 1
    """Processes in the run (count)."""
    notes: tuple[str, ...] = ()
    """What a reader has to know to read the figures rightly."""
    resumed_from: Mapping[str, float] | None = None
    """``steps``, ``train_s`` and ``wait_s`` of the runs before the checkpoint this run went on from."""
    plans: Mapping[str, Any] = field(default_factory=dict)
    """The DataModule's loader plans by split, where it keeps any."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of what ran."""
    host: str = ""
    """Name of the machine."""
    date: str = ""
    """Start of the run, ISO 8601 with time zone."""
    schema: int = SCHEMA
    """Version of this layout."""

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values that JSON can hold."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["first_batch_wait_s"] = [list(pair) for pair in self.first_batch_wait_s]
        values["stages"] = [stage.to_dict() for stage in self.stages]
        values["verdict"] = asdict(self.verdict)
        values["notes"] = list(self.notes)
        for name in ("plans", "versions"):
            values[name] = dict(values[name])
        values["resumed_from"] = None if self.resumed_from is None else dict(self.resumed_from)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunSummary":
        """The summary that ``to_dict`` gave.

        Raises:
            FastDataError: The layout is newer than this package knows.
        """
        schema = values.get("schema", SCHEMA)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise FastDataError(
                f"This summary has schema {schema!r}.",
                expected=f"a schema up to {SCHEMA}",
                fix="Read it with the version of lightning_fastdata that wrote it, or a newer one.",
            )
        known = _known(cls, values)
        known["first_batch_wait_s"] = tuple((int(epoch), wait) for epoch, wait in known["first_batch_wait_s"])
        known["stages"] = tuple(StageWait.from_dict(stage) for stage in known["stages"])
        known["verdict"] = Verdict(**_known(Verdict, known["verdict"]))
        known["notes"] = tuple(known.get("notes", ()))
        return cls(**known)


def summarise(
    records: Iterable[StepRecord],
    *,
    totals: Totals | None = None,
    first_waits: Iterable[tuple[int, float]] | None = None,
    stages: Iterable[StageWait] = (),
    num_workers: int | None = None,
) -> RunSummary:
    """Reduce the steps of one rank to one summary.

    Sums come from ``totals``, which may know more steps than the records that were kept; median and p95 come from the
    records, and ``percentile_steps`` says from how many. Nothing is left out as warm-up: the first batch of an epoch
    is a real wait, and ``first_batch_wait_s`` shows it.

    Args:
        records: In step order, one rank, any length.
        totals: Running sums of the whole run; those of ``records`` where None.
        first_waits: (epoch, wait in s) of each epoch's first step; taken from ``records`` where None.
        stages: Evaluation stages of the same run.
        num_workers: Worker processes of the training loader (count), for the verdict.

    Returns:
        RunSummary; where it came from (host, versions, plans) is for the caller to fill in with
        ``dataclasses.replace``.
    """
    kept = list(records)
    totals = Totals.of(kept) if totals is None else totals
    if first_waits is None:
        first_waits = [(r.epoch, r.wait_s) for r in kept if r.first_in_epoch and r.wait_s is not None]
    waits = sorted(record.wait_s for record in kept if record.wait_s is not None)
    train_s = totals.train_s
    stages = tuple(stages)
    measured = totals.wait_s is not None if totals.steps else any(stage.wait_s is not None for stage in stages)
    share = None if totals.wait_s is None or train_s <= 0 else min(1.0, totals.wait_s / train_s)
    summary = RunSummary(
        steps=totals.steps,
        epochs=totals.epochs,
        samples=totals.samples,
        train_s=train_s,
        wait_s=totals.wait_s,
        wait_share=share,
        transfer_s=totals.transfer_s,
        compute_s=totals.compute_s,
        other_s=totals.other_s,
        tail_wait_s=totals.tail_wait_s,
        samples_per_s=None if totals.samples is None or train_s <= 0 else totals.samples / train_s,
        wait_s_median=_quantile(waits, 0.5),
        wait_s_p95=_quantile(waits, 0.95),
        wait_s_max=totals.wait_s_max,
        percentile_steps=len(waits),
        first_batch_wait_s=tuple(first_waits),
        stages=stages,
        verdict=Verdict("unknown", "No training step was measured."),
        timing_source="fetch" if measured else "not measured",
        num_workers=num_workers,
    )
    return replace(summary, verdict=_verdict_of(summary))


def _verdict_of(summary: RunSummary) -> Verdict:
    if summary.steps:
        return judge(summary.wait_share, summary.steps, num_workers=summary.num_workers)
    if summary.stages:
        # An evaluation on its own; the stage that took longest speaks for it.
        stage = max(summary.stages, key=lambda entry: entry.elapsed_s)
        return stage.verdict
    return summary.verdict


def judge(
    share: float | None,
    steps: int,
    *,
    num_workers: int | None = None,
    what: str = "training time",
    unit: str = "step",
) -> Verdict:
    """Say in one sentence what a share of waiting means.

    Args:
        share: Waiting as a share of the time, 0..1; None where it was not measured.
        steps: Steps the share rests on (count).
        num_workers: Worker processes of the loader (count); 0 means that the loading was done by the training process.
        what: The time that ``share`` is a share of, as a reader would call it.
        unit: What ``steps`` counts, in the singular.

    Returns:
        Verdict. The speed-up is the bound 1 / (1 - share): the whole wait gone and nothing else changed.
    """
    if share is None:
        return Verdict("unknown", "The data wait was not measured, so nothing can be said about the loader.")
    level = "fine" if share < MODERATE_SHARE else "moderate" if share <= INPUT_BOUND_SHARE else "input-bound"
    opening = {"fine": "Not input-bound", "moderate": "Moderately input-bound", "input-bound": "Input-bound"}[level]
    text = f"{opening}: {_percent(share)} of the {what} was spent waiting for data"
    if num_workers == 0 and level != "fine":
        text += " (num_workers=0: the training process itself loads it)"
    if level != "fine":
        text += f"; an instant loader would make this run {_speedup(share)} faster"
    if steps < FEW_STEPS:
        plural = f"{unit}{'es' if unit.endswith('ch') else 's'}" if steps != 1 else unit
        text += f"; the figure rests on only {steps} {plural}"
    return Verdict(level, text + ".")


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %" if share < 0.01 else f"{share * 100:.0f} %"


def _speedup(share: float) -> str:
    return f"at most {1 / (1 - share):.2f}x" if share < 0.99 else "more than 100x"


def _quantile(ordered: Sequence[float], q: float) -> float | None:
    """Linear interpolation between the two nearest of ``ordered``; None where it is empty."""
    if not ordered:
        return None
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
