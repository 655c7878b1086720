"""One run that is being measured: the meter, the seam that feeds it, and where its figures go."""

import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lightning_fastdata.monitor.batches import fetches_for_itself, overrides, samples_in, workers_of
from lightning_fastdata.monitor.facts import RunFacts, plans_of
from lightning_fastdata.monitor.journal import Journal
from lightning_fastdata.monitor.live import LiveReport
from lightning_fastdata.monitor.meter import StepMeter, Window
from lightning_fastdata.monitor.seam import FETCHES, Interval, Listener, Seam
from lightning_fastdata.monitor.sinks import JsonLinesSink
from lightning_fastdata.monitor.steps import OptimizerSteps
from lightning_fastdata.records import StageWait
from lightning_fastdata.summary import RunSummary, summarise

__all__ = ["MeasuredRun"]

# Batches without one labelled fetch after which the label must be another one in this version of Lightning.
_SILENT_BATCHES = 5
# Steps that are kept as events before they are worked through; bounds the memory where nothing is logged.
_MOST_UNWRITTEN = 256
_STEPS = {"val": "validation_step", "test": "test_step", "predict": "predict_step"}


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
        self._until_written = _MOST_UNWRITTEN
        self._silent = 0
        self.hears = False
        self._tells_loaders_apart = False
        self._failed: Callable[[Exception], None] = _nothing_to_tell
        self.journal = Journal(self.meter)

    # The seam.

    def listen(self, trainer: Any, pl_module: Any, monitor: Any, failed: Callable[[Exception], None]) -> None:
        """Hear the intervals of ``trainer``, as long as ``monitor`` is among its callbacks.

        A tuner takes all callbacks away while it runs fits of its own, which are not ours. ``failed`` is called with
        an error of our own, which must not reach the training.
        """
        self._failed = failed
        note, owners = self.journal.note, (pl_module, trainer.datamodule)
        listeners: dict[str, Listener] = {"train": self._train_listener(trainer, monitor), "compute": note}
        # Each label that is listened to costs some 5 us a step, so those behind which nothing happens are not.
        device = getattr(trainer.strategy.root_device, "type", None)  # a strategy of one's own may have none
        if device != "cpu" or overrides("transfer_batch_to_device", *owners):
            listeners["transfer"] = note
        if overrides("on_after_batch_transfer", *owners):
            listeners["after_transfer"] = note
        for stage in FETCHES[1:]:
            listeners[stage] = self._stage_listener(trainer, monitor)

        def opening(stage: str, now: float) -> None:
            # Evaluation begins where its loader is opened: starting its workers is none of training's time.
            if stage != "train" and monitor in trainer.callbacks and not trainer.sanity_checking:
                self.up_to_date.open_loaders(stage, now)

        self.seam = Seam(trainer, listeners, failed=failed, opening=opening, clock=self.clock)
        if not self.seam.install():
            kind = type(trainer.profiler).__name__
            self.notes["profiler"] = f"The Trainer's profiler ({kind}) cannot be listened to: nothing was measured."
        elif not self.seam.hears_first_fetches:
            self.notes["first"] = (
                "This Lightning hides the batch that is read ahead of a loader without a length: it is not measured."
            )

    def _train_listener(self, trainer: Any, monitor: Any) -> Listener:
        note = self.journal.note

        def heard(interval: Interval) -> None:
            if monitor in trainer.callbacks:
                note(interval)
            else:
                self.up_to_date.go_away(interval[1])

        return heard

    def _stage_listener(self, trainer: Any, monitor: Any) -> Listener:
        def heard(interval: Interval) -> None:
            meter = self.up_to_date
            if monitor in trainer.callbacks and not trainer.sanity_checking:
                meter.stage_fetch(*interval)

        return heard

    @property
    def up_to_date(self) -> StepMeter:
        """The meter, after everything that was noted until now."""
        try:
            self.journal.replay()
        except Exception as error:
            self._failed(error)
        return self.meter

    # Training.

    def start_training(self, trainer: Any, pl_module: Any) -> None:
        """The first epoch is about to begin; loaders and loop state are there."""
        self.up_to_date.start_training(self.clock())
        first_step = int(trainer.global_step)
        self.steps = OptimizerSteps(automatic=bool(pl_module.automatic_optimization), first_step=first_step)
        self._until_due = self.interval - first_step % self.interval if self.interval else 0
        self.learn_loaders(trainer)
        self.start_epoch(trainer)

    def learn_loaders(self, trainer: Any) -> None:
        """Take down what the loaders and the DataModule say about themselves."""
        workers = workers_of(trainer.train_dataloader)
        self.num_workers = self.num_workers if workers is None else workers
        self.plans = {**self.plans, **plans_of(trainer)}

    @property
    def workers_at_the_limit(self) -> bool:
        """Whether a plan says that the machine decided how many workers training has."""
        # A DataModule that is not ours may keep something else under that name.
        options = [plan.get("num_workers") for split, plan in self.plans.items() if split.split("/")[0] == "train"]
        return any(isinstance(option, dict) and option.get("source") == "hardware" for option in options)

    def start_epoch(self, trainer: Any) -> None:
        """An epoch begins."""
        self._epoch = trainer.current_epoch
        self.up_to_date.start_epoch()

    def end_batch(self, trainer: Any, batch: Any, batch_idx: int) -> bool:
        """A batch was dealt with; gives whether a window of steps is to be told now."""
        steps = self.steps
        if steps is None or (batch is None and not self.up_to_date.batch_was_computed):
            return False  # a batch that was skipped: its wait goes to the next step
        step = steps.ended(trainer, batch_idx)
        if step is None:
            self.journal.note((samples_in(batch),))
            return False
        self.journal.note((self._epoch, step, samples_in(batch), self.clock()))
        self._until_written -= 1
        if not self._until_written:
            self._write_steps()
        self._until_due -= 1
        if self._until_due:
            return False
        self._until_due = self.interval
        return True

    def heard_nothing(self) -> str | None:
        """After a batch, until a fetch was heard: what to warn of, once."""
        if self.up_to_date.fetches:
            self.hears = True
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
        self._write_steps()
        window = self.meter.take_window()
        return window if window.steps and self.meter.fetches else None

    def _write_steps(self) -> None:
        """Bring the meter up to date, and the run file."""
        self._until_written = _MOST_UNWRITTEN
        rows = self.up_to_date.take_rows()
        if any(row[7] and row[9] > row[8] for row in rows):
            self.notes["ahead"] = (
                "The loader has no length, so Lightning reads it one batch ahead: the wait of a step is that for the"
                " batch of the next one, and the first step of an epoch waits for two."
            )
        sink = self.sink
        if sink is not None:
            self._write(sink, lambda: sink.write_steps(rows))

    # Evaluation.

    def start_stage(self, pl_module: Any, stage: str) -> None:
        """An evaluation run begins."""
        # With a fetch unheard, or several in a step, a wait would be given to another loader's batch.
        heard = self.seam is not None and self.seam.hears_first_fetches
        self._tells_loaders_apart = heard and not fetches_for_itself(getattr(pl_module, _STEPS[stage], None))
        self.up_to_date.start_stage(stage, self.clock())

    def end_stage_batch(self, stage: str, dataloader_idx: int | None) -> None:
        """A batch was evaluated; Lightning gives the index where there are several loaders, one after the other."""
        known = self._tells_loaders_apart and dataloader_idx is not None
        self.up_to_date.add_stage_batch(stage, str(dataloader_idx) if known else None)

    def end_stage(self, stage: str) -> StageWait | None:
        """An evaluation run is over; gives that run alone."""
        return self.up_to_date.end_stage(stage, self.clock())

    # The end.

    def stop(self, trainer: Any, status: str, *, fitting: bool = True) -> None:
        """Nothing more will be measured now: close accounts, undo the seam.

        Args:
            trainer: The Trainer.
            status: How it ended: "finished" or "interrupted".
            fitting: False for an evaluation, which does not change how the fit before it ended.
        """
        if self.seam is not None:
            self.seam.restore()
            self.seam = None
        self._write_steps()
        self.meter.end_tail(self.clock())
        self.meter.end_stages(self.clock())
        if fitting or self.steps is None:
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
        meter = self.up_to_date
        summary = summarise(
            meter.records(),
            totals=meter.totals(),
            first_waits=meter.first_waits(),
            stages=meter.stages(),
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
        totals = self.up_to_date.totals()
        if not totals.steps:
            return {}
        before = self.resumed_from or {"steps": 0, "train_s": 0.0, "wait_s": 0.0}
        return {
            "run_id": self.run_id,
            "steps": int(before["steps"]) + totals.steps,
            "train_s": before["train_s"] + totals.train_s,
            "wait_s": before["wait_s"] + (totals.wait_s or 0.0),
        }


def _nothing_to_tell(error: Exception) -> None:
    """Before anything is listened to, nothing can fail."""
