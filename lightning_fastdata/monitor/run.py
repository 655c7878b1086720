"""One run that is being measured: the meter, the seam that feeds it, and where its figures go."""

import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lightning_fastdata.monitor.batches import samples_in, workers_of
from lightning_fastdata.monitor.facts import RunFacts, plans_of
from lightning_fastdata.monitor.live import LiveReport
from lightning_fastdata.monitor.meter import StepMeter, Window
from lightning_fastdata.monitor.seam import FETCHES, Listener, Seam
from lightning_fastdata.monitor.sinks import JsonLinesSink
from lightning_fastdata.monitor.steps import OptimizerSteps
from lightning_fastdata.records import RunSummary, StageWait, summarise

__all__ = ["MeasuredRun"]

# Batches without one labelled fetch after which the label must be another one in this version of Lightning.
_SILENT_BATCHES = 5


@dataclass
class MeasuredRun:
    """What one fit (and the evaluations after it) has measured so far.

    Everything that cannot cross a process border is in here, and it exists only once the run has begun.
    """

    facts: RunFacts
    live: LiveReport
    meter: StepMeter
    sink: JsonLinesSink | None = None
    interval: int = 0
    seam: Seam | None = None
    steps: OptimizerSteps | None = None
    status: str = "running"
    num_workers: int | None = None

    def __post_init__(self) -> None:
        self.run_id = uuid.uuid4().hex
        self.clock: Callable[[], float] = time.perf_counter
        self.plans: dict[str, Any] = {}
        self.notes: dict[str, str] = {}
        self.resumed_from: dict[str, float] | None = None
        self._epoch = 0
        self._until_due = 0
        self._silent = 0

    # The seam.

    def listen(self, trainer: Any, counts: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        """Hear the fetches of ``trainer``, as long as ``counts()``: the fits inside a tuner are not ours."""
        meter = self.meter

        def train_fetch(start: float, end: float) -> None:
            if counts():
                meter.train_fetch(start, end)
            else:
                meter.go_away(start)

        listeners: dict[str, Listener] = {
            "train": train_fetch,
            "transfer": meter.transfer,
            "after_transfer": meter.after_transfer,
            "compute": meter.compute,
        }
        for stage in FETCHES[1:]:
            listeners[stage] = self._stage_listener(trainer, stage, counts)

        def opening(stage: str, now: float) -> None:
            # Evaluation begins where its loader is opened: starting its workers is none of training's time.
            if stage != "train" and counts() and not trainer.sanity_checking:
                meter.start_stage(stage, now)

        self.seam = Seam(trainer, listeners, failed=failed, opening=opening, clock=self.clock)
        if not self.seam.install():
            kind = type(trainer.profiler).__name__
            self.notes["profiler"] = f"The Trainer's profiler ({kind}) cannot be listened to: nothing was measured."
        elif not self.seam.hears_first_fetches:
            self.notes["first"] = (
                "This Lightning hides the batch that is read ahead of a loader without a length: it is not measured."
            )

    def _stage_listener(self, trainer: Any, stage: str, counts: Callable[[], bool]) -> Callable[[float, float], None]:
        def stage_fetch(start: float, end: float) -> None:
            if counts() and not trainer.sanity_checking:
                self.meter.stage_fetch(stage, start, end)

        return stage_fetch

    # Training.

    def start_training(self, trainer: Any, pl_module: Any) -> None:
        """The first epoch is about to begin; loaders and loop state are there."""
        self.meter.start_training(self.clock())
        first_step = int(trainer.global_step)
        self.steps = OptimizerSteps(automatic=bool(pl_module.automatic_optimization), first_step=first_step)
        self._until_due = self.interval - first_step % self.interval if self.interval else 0
        self.learn_loaders(trainer)
        self.start_epoch(trainer)

    def learn_loaders(self, trainer: Any) -> None:
        """Take down what the loaders and the DataModule say about themselves."""
        workers = workers_of(trainer.train_dataloader)
        self.num_workers = self.num_workers if workers is None else workers
        self.plans = plans_of(trainer) or self.plans

    def start_epoch(self, trainer: Any) -> None:
        """An epoch begins."""
        self._epoch = trainer.current_epoch
        self.meter.start_epoch()

    def end_batch(self, trainer: Any, batch: Any, batch_idx: int) -> bool:
        """A batch was dealt with; gives whether a window of steps is to be told now."""
        meter, steps = self.meter, self.steps
        if steps is None or (batch is None and not meter.trained_since_step):
            return False  # a batch that was skipped: its wait goes to the next step
        meter.add_batch(samples_in(batch))
        step = steps.ended(trainer, batch_idx)
        if step is None:
            return False
        row = meter.close_step(self._epoch, step)
        if row[7]:
            self._note_reading_ahead(row[8], row[9])
        if self.sink is not None and self.sink.add(row):
            self._write(self.sink, self.sink.flush)
        self._until_due -= 1
        if self._until_due:
            return False
        self._until_due = self.interval
        return True

    def _note_reading_ahead(self, batches: int, fetches: int) -> None:
        if fetches > batches:
            self.notes["ahead"] = (
                "The loader has no length, so Lightning reads it one batch ahead: the wait of a step is that for the"
                " batch of the next one, and the first step of an epoch waits for two."
            )

    def heard_nothing(self, trainer: Any) -> str | None:
        """Once, after some batches without a fetch: what to warn of."""
        if self.meter.fetches:
            return None
        self._silent += 1
        if self._silent != _SILENT_BATCHES:
            return None
        versions = ", ".join(f"{name} {version}" for name, version in self.facts.versions.items())
        self.notes["silent"] = f"No fetch was heard: this Lightning labels it differently ({versions})."
        return (
            f"DataWaitMonitor heard no fetch in {self._silent} batches: it cannot measure the data wait here"
            f" ({versions}). Its figures read 'not measured'; the training is not affected."
        )

    def take_window(self) -> Window | None:
        """The steps since the last window; None where there are none, or they were not measured."""
        if self.sink is not None:
            self._write(self.sink, self.sink.flush)
        window = self.meter.take_window()
        return window if window.steps and self.meter.fetches else None

    def end_stage(self, stage: str) -> StageWait | None:
        """An evaluation run is over; gives that run alone."""
        return self.meter.end_stage(stage, self.clock())

    # The end.

    def stop(self, trainer: Any, status: str) -> None:
        """Nothing more will be measured now: close accounts, undo the seam."""
        if self.seam is not None:
            self.seam.restore()
            self.seam = None
        self.meter.end_tail()
        self.meter.end_stages()
        self.status = status
        if self.steps is not None:
            self.learn_loaders(trainer)
            if self.steps.every_batch_counts:
                self.notes["manual"] = "trainer.global_step did not move: each batch was counted as a step."

    def close_sink(self) -> None:
        """Write the summary into the run file and close it."""
        if self.sink is not None:
            sink, self.sink = self.sink, None
            self._write(sink, lambda: sink.close(self.summary()))

    def _write(self, sink: JsonLinesSink, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            self.sink = None
            sink.abandon()
            self.notes["sink"] = f"The run file is incomplete ({error.strerror or error})."
            warnings.warn(
                f"DataWaitMonitor: {str(sink.path)!r} gets no more records ({error}). Training goes on.", stacklevel=2
            )

    def summary(self) -> RunSummary:
        """What was measured so far."""
        summary = summarise(
            self.meter.records(),
            totals=self.meter.totals(),
            first_waits=self.meter.first_waits(),
            stages=self.meter.stages(),
            num_workers=self.num_workers,
        )
        return replace(
            summary,
            status=self.status,
            rank=self.facts.rank,
            world_size=self.facts.world_size,
            notes=tuple(self.notes.values()),
            resumed_from=self.resumed_from,
            plans=self.plans,
            versions=dict(self.facts.versions),
            host=self.facts.host,
            date=self.facts.date,
        )

    # Checkpoints.

    def state(self) -> dict[str, Any]:
        """The sums of this run and of those before it, for a checkpoint."""
        totals = self.meter.totals()
        if not totals.steps:
            return {}
        before = self.resumed_from or {"steps": 0, "train_s": 0.0, "wait_s": 0.0}
        return {
            "run_id": self.run_id,
            "steps": int(before["steps"]) + totals.steps,
            "train_s": before["train_s"] + totals.train_s,
            "wait_s": before["wait_s"] + (totals.wait_s or 0.0),
        }
