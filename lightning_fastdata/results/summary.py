"""One run, reduced to its figures: sums, shares, percentiles, the ledger and what it all means."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.json_fields import with_new_names
from lightning_fastdata.results.records import NAMES_OF_SCHEMA_1, SCHEMA, Span, StageWait, StepRecord
from lightning_fastdata.results.stats import (
    Boundary,
    DeviceTimes,
    Loading,
    RankTimes,
    SpeedupBound,
    WaitKinds,
    known,
    read_finding,
)
from lightning_fastdata.results.verdict import Verdict, judge

__all__ = ["RunSummary", "Totals", "summarize"]


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
    wait_quantiles: Mapping[float, float | None] = field(default_factory=dict)
    """Median, 95th and 99th percentile of the wait of a step, from 0..1 to s, each within 1 %; empty where the records
    are to be asked."""

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
    """Steps behind the percentiles (count); of a run of more than 10,000 they are within 1 %, else exact."""
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
    hardware: Mapping[str, Any] = field(default_factory=dict)
    """What the hardware probe found (``Hardware.to_dict``)."""
    host: str = ""
    """Name of the machine."""
    date: str = ""
    """Start of the run, ISO 8601 with time zone."""
    total_s: float | None = None
    """Wall time from the callback's ``setup`` to its ``teardown`` (s); what was before reads "not measured". None where
    no fit was measured."""
    ledger: Mapping[str, float] = field(default_factory=dict)
    """Where ``total_s`` went: the accounts of ``findings.ACCOUNTS`` in s; they sum to it. Empty where not measured."""
    not_measured: tuple[str, ...] = ()
    """Accounts that could not be measured here; they read 0 in ``ledger``, and their time is in ``loop_s``."""
    wait_s_p99: float | None = None
    """99th percentile of the wait of a step (s)."""
    validation_wait_s: float | None = None
    """Waiting for data in the validations of the fit (s); None where no fit was measured."""
    boundary: Boundary | None = None
    """What the change of epochs costs."""
    waits: WaitKinds | None = None
    """What kind of waiting it was."""
    loading: Loading | None = None
    """Loading as the workers measured it."""
    device: DeviceTimes | None = None
    """How the device saw the fetches; None = not measured."""
    ranks: RankTimes | None = None
    """All ranks together; None with one rank, and on every rank but 0."""
    speedup_bound: SpeedupBound | None = None
    """What an instant loader could gain at most."""
    spans: tuple[Span, ...] = ()
    """Validations, checkpoints and epoch boundaries on the time line; the last 1,000 of a longer run."""
    schema: int = SCHEMA
    """Version of this layout."""

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values that JSON can hold."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["first_batch_wait_s"] = [list(pair) for pair in self.first_batch_wait_s]
        values["stages"] = [stage.to_dict() for stage in self.stages]
        values["verdict"] = asdict(self.verdict)
        values["notes"] = list(self.notes)
        for name in ("plans", "versions", "hardware", "ledger"):
            values[name] = dict(values[name])
        for name in ("boundary", "waits", "loading", "device", "ranks", "speedup_bound"):
            values[name] = None if values[name] is None else asdict(values[name])
        values["not_measured"] = list(self.not_measured)
        values["spans"] = [asdict(span) for span in self.spans]
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
        read = known(cls, values if schema > 1 else with_new_names(dict(values), NAMES_OF_SCHEMA_1))
        read["first_batch_wait_s"] = tuple((int(epoch), wait) for epoch, wait in read["first_batch_wait_s"])
        read["stages"] = tuple(StageWait.from_dict(stage) for stage in read["stages"])
        read["verdict"] = Verdict(**known(Verdict, read["verdict"]))
        for name in ("notes", "not_measured"):
            read[name] = tuple(read.get(name, ()))
        for name, kind in (
            ("boundary", Boundary),
            ("waits", WaitKinds),
            ("device", DeviceTimes),
            ("speedup_bound", SpeedupBound),
        ):
            read[name] = read_finding(kind, read.get(name))
        read["loading"] = Loading.from_dict(read.get("loading"))
        read["ranks"] = RankTimes.from_dict(read.get("ranks"))
        read["spans"] = tuple(Span(**known(Span, span)) for span in read.get("spans", ()))
        return cls(**read)


def summarize(
    records: Iterable[StepRecord],
    *,
    totals: Totals | None = None,
    first_waits: Iterable[tuple[int, float]] | None = None,
    stages: Iterable[StageWait] = (),
    num_workers: int | None = None,
) -> RunSummary:
    """Reduce the steps of one rank to one summary.

    Sums come from ``totals``, which may know more steps than the records that were kept; then so do the percentiles,
    and else they come from the records. Nothing is left out as warm-up: the first batch of an epoch
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
    from_totals = bool(totals.wait_quantiles) and totals.steps > len(waits)

    def quantile(q: float) -> float | None:
        return totals.wait_quantiles.get(q) if from_totals else _quantile(waits, q)

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
        wait_s_median=quantile(0.5),
        wait_s_p95=quantile(0.95),
        wait_s_p99=quantile(0.99),
        wait_s_max=totals.wait_s_max,
        percentile_steps=totals.steps if from_totals else len(waits),
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


def _quantile(ordered: Sequence[float], q: float) -> float | None:
    """Linear interpolation between the two nearest of ``ordered``; None where it is empty."""
    if not ordered:
        return None
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
