"""One run that is being measured: the meter, the seam that feeds it, and where its figures go."""

import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import nan
from multiprocessing.util import Finalize
from typing import Any

from lightning_fastdata.callbacks.monitor.cuda_timer import DeviceTimer
from lightning_fastdata.callbacks.monitor.event_buffer import EventBuffer
from lightning_fastdata.callbacks.monitor.instrumentation import Instrumentation
from lightning_fastdata.callbacks.monitor.live_metrics import LiveReport
from lightning_fastdata.callbacks.monitor.loader_info import (
    LoaderInfo,
    fetches_for_itself,
    plans_of,
    sample_path,
    samples_in,
)
from lightning_fastdata.callbacks.monitor.optimizer_steps import OptimizerSteps
from lightning_fastdata.callbacks.monitor.rank_exchange import RankExchange
from lightning_fastdata.callbacks.monitor.run_info import RunInfo
from lightning_fastdata.callbacks.monitor.step_meter import StepMeter, Window
from lightning_fastdata.compat.torch_internals import process_store
from lightning_fastdata.results.diagnosis import diagnosed
from lightning_fastdata.results.records import StageWait, StepRecord
from lightning_fastdata.results.run_file_writer import RunFileWriter
from lightning_fastdata.results.summary import RunSummary, summarize

__all__ = ["MonitorSession"]

# Batches without one labeled fetch after which the label must be another one in this version of Lightning.
_SILENT_BATCHES = 5
# Steps that are kept as events before they are worked through; bounds the memory where nothing is logged.
_MOST_UNWRITTEN = 256
# The same for the micro-batches of a step.
_MOST_EVENTS = 4_096
# A device's idle time is part of the wait, but for the resolution of events and the recording of them.
_MOST_BEYOND_S = 1e-4
_LATER = "The table at the end of the run says more."
# A long epoch is told in parts, or only its last 10,000 steps would be compared.
_MOST_UNTOLD = 5_000
_STEPS = {"val": "validation_step", "test": "test_step", "predict": "predict_step"}


@dataclass
class MonitorSession:
    """What one fit (and the evaluations after it) has measured so far.

    Everything that cannot cross a process border is in here, and it exists only once the run has begun.
    """

    facts: RunInfo
    live: LiveReport
    meter: StepMeter
    sink: RunFileWriter | None = None
    interval: int = 0
    device_events: bool = True
    hardware: Mapping[str, Any] = field(default_factory=dict)
    place: int = 0
    """Which of the Trainer's monitors this one is, the same on every rank."""
    listening: Instrumentation | None = None
    steps: OptimizerSteps | None = None
    status: str = "running"

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
        self.fitting = False
        self.not_measured: tuple[str, ...] = ()
        self.exchange: RankExchange | None = None
        self._device: DeviceTimer | None = None
        self._resolved = self._published = 0
        self._blind = False
        self._at_exit: Finalize | None = None
        self.loaders = LoaderInfo()
        self._failed: Callable[[Exception], None] = _nothing_to_tell
        self.journal = EventBuffer(self.meter)

    # Listening.

    def listen(
        self, trainer: Any, pl_module: Any, monitor: Any, failed: Callable[[Exception], None], *, fitting: bool
    ) -> None:
        """Hear where the time of ``trainer`` goes, as long as ``monitor`` is among its callbacks.

        ``failed`` is called with an error of our own, which must not reach the training.
        """
        self._failed = failed
        self.listening = Instrumentation(
            trainer,
            pl_module,
            monitor,
            journal=self.journal,
            up_to_date=lambda: self.up_to_date,
            failed=failed,
            clock=self.clock,
            fitting=fitting,
            device_events=self.device_events,
        )
        self.notes |= self.listening.notes
        if self.sink is not None and self._at_exit is None:
            self._at_exit = Finalize(None, self._save_at_exit, exitpriority=10)
        if fitting:
            self.fitting = True
            self.not_measured = self.listening.not_measured
            self._device = self.listening.device
            if self.facts.world_size > 1:
                self.exchange = RankExchange(
                    rank=self.facts.rank,
                    world_size=self.facts.world_size,
                    host=self.facts.host,
                    store=process_store(),
                    key=f"lightning_fastdata/{self.place}",
                )

    def loss(self) -> str | None:
        """What private names turned out to be gone, once: to be warned of."""
        if self.listening is None:
            return None
        loss = self.listening.loss()
        self.notes |= self.listening.notes
        return loss

    def stop_listening(self) -> None:
        """Take everything out of the Trainer again."""
        if self.listening is not None:
            listening, self.listening = self.listening, None
            self._blind |= listening.probe.blind
            listening.restore()

    @property
    def up_to_date(self) -> StepMeter:
        """The meter, after everything that was noted until now."""
        self.catch_up()
        return self.meter

    def catch_up(self) -> None:
        """Work through everything that was noted until now."""
        try:
            self.journal.replay()
        except Exception as error:
            self._failed(error)

    # Training.

    def start_training(self, trainer: Any, pl_module: Any) -> None:
        """The first epoch is about to begin; loaders and loop state are there."""
        self.up_to_date.start_training(self.clock())
        first_step = int(trainer.global_step)
        self.steps = OptimizerSteps(automatic=bool(pl_module.automatic_optimization), first_step=first_step)
        self._until_due = self.interval - first_step % self.interval if self.interval else 0
        self.learn_loaders(trainer)
        if self.exchange is not None:
            self.exchange.collect()
        self.start_epoch(trainer)

    def learn_loaders(self, trainer: Any) -> None:
        """Take down what the loaders and the DataModule show of themselves."""
        if trainer.train_dataloader is not None:
            self.loaders = LoaderInfo.of(trainer.train_dataloader)
            if trainer.reload_dataloaders_every_n_epochs:  # a new loader for each epoch cannot keep its workers
                self.loaders = replace(self.loaders, persistent_workers=None)
        self.plans = {**self.plans, **plans_of(trainer)}

    def advice(self) -> str:
        """What to try first, as far as can be said by now."""
        try:
            verdict = self.summary().verdict
        except Exception as error:
            self._failed(error)
            return _LATER
        return _LATER if verdict.level == "fine" or not verdict.try_first else verdict.try_first

    def start_epoch(self, trainer: Any) -> None:
        """An epoch begins."""
        self._epoch = trainer.current_epoch
        self.up_to_date.start_epoch(self._epoch)

    def end_epoch(self) -> None:
        """An epoch has ended: what no step used is added up, and the other ranks are told."""
        self.up_to_date.end_tail(self.clock())
        if self._device is not None:
            self._device.forget_fetches()
        self._tell_ranks()

    def enter(self, phase: str) -> None:
        """Training is over: "shutdown" of loaders and loops comes, and then what is "after" it."""
        self.up_to_date.ledger.accounts.enter(phase, self.clock())

    def _tell_ranks(self, *, at_least: int = 0) -> None:
        """Send rank 0 what is new, or on rank 0 take what is there, if it is ``at_least`` so many steps."""
        if self.exchange is not None and self.meter.steps - self._published >= at_least:
            self._publish(self.exchange)
            self.exchange.collect()

    def _publish(self, exchange: RankExchange) -> None:
        """Take down the steps since the last time for rank 0."""
        meter = self.up_to_date
        rows = list(meter.rows)[-(meter.steps - self._published) :] if meter.steps > self._published else []
        self._published = meter.steps
        for epoch, group in groupby(rows, key=lambda record: record.epoch):
            exchange.publish(epoch, [steady(row) for row in group])

    def end_batch(self, trainer: Any, batch: Any, batch_idx: int) -> bool:
        """A batch was dealt with; gives whether a window of steps is to be told now."""
        steps = self.steps
        if steps is None or (batch is None and not self.up_to_date.batch_was_computed):
            return False  # a batch that was skipped: its wait goes to the next step
        step = steps.ended(trainer, batch_idx)
        if step is None:
            self.journal.note((samples_in(batch),))
            if len(self.journal) > _MOST_EVENTS:
                self.catch_up()
            return False
        self.journal.note((self._epoch, step, samples_in(batch), self.clock()))
        if self._device is not None:
            self._device.end_step()
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
        meter = self.up_to_date
        self._ask_device()
        if self.status == "running":
            self._tell_ranks(at_least=_MOST_UNTOLD)
        rows = meter.take_rows(hold=0 if self._device is None else min(_MOST_UNWRITTEN, meter.steps - self._resolved))
        if any(record.first_in_epoch and record.fetches > record.batches for record in rows):
            self.notes["ahead"] = (
                "The loader has no length, so Lightning reads it one batch ahead: the wait of a step is that for the"
                " batch of the next one, and the first step of an epoch waits for two."
            )
        sink = self.sink
        if sink is not None:
            self._write(sink, lambda: self._write_down(sink, rows))

    def _write_down(self, sink: RunFileWriter, rows: list[StepRecord]) -> None:
        sink.write_steps(rows)
        for span in self.meter.ledger.take_spans():
            sink.write_span(span)
        now, accounts = self.clock(), self.meter.ledger.accounts
        sink.write_so_far(accounts.total_s(now), accounts.sums(now))

    def _ask_device(self, *, last: bool = False) -> None:
        """Take down what the device has to tell of earlier steps by now."""
        device = self._device
        if device is None:
            return
        for step, idle_s, copy_s in device.close() if last else device.resolved():
            self.meter.set_device(step, idle_s, copy_s)
            self._resolved = step + 1
        if self.meter.idle_beyond_wait_s > _MOST_BEYOND_S:
            self.notes["stream"] = (
                "The loader works on the device's own stream within a fetch, so device starvation is too large."
            )
        if device.failed is not None:
            self.notes["device"] = f"Device starvation: not measured ({device.failed})."
        if last:
            self._device = None

    # Evaluation.

    def start_stage(self, pl_module: Any, stage: str) -> None:
        """An evaluation run begins."""
        # With a fetch unheard, or several in a step, a wait would be given to another loader's batch.
        heard = self.listening is not None and self.listening.seam.hears_first_fetches
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
        self.stop_listening()
        now = self.clock()
        self.up_to_date.end_tail(now)
        self.meter.end_stages(now)
        if fitting:
            self.meter.ledger.accounts.close(now)
            self._ask_device(last=True)
            if self.exchange is not None:
                self._publish(self.exchange)
                # After an exception others may hang in a collective until this process is gone.
                self.exchange.finish(at_most_s=2.0 if status == "finished" else 0.2)
                self.notes |= {"ranks": self.exchange.note} if self.exchange.note else {}
        self._write_steps()
        if fitting or self.steps is None:
            self.status = status
        if self.steps is not None:
            self.learn_loaders(trainer)
            if self.steps.every_batch_counts:
                self.notes["manual"] = "trainer.global_step did not move: each batch was counted as a step."

    def _save_at_exit(self) -> None:
        """Save what there is: in a process that Lightning itself forks or spawns, an exception calls no callback."""
        try:
            self.status = "interrupted"
            self._write_steps()
            self.close_sink()
        except Exception as error:
            self._failed(error)

    def close_sink(self) -> None:
        """Write the summary into the run file and close it."""
        if self._at_exit is not None:
            self._at_exit.cancel()
            self._at_exit = None
        if self.sink is not None:
            sink, self.sink = self.sink, None
            self._write(sink, lambda: sink.close(self.summary()))

    def _write(self, sink: RunFileWriter, act: Callable[[], None]) -> None:
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
        now = self.clock()
        summary = summarize(
            meter.records(),
            totals=meter.totals(),
            first_waits=meter.first_waits(),
            stages=meter.stages(),
            num_workers=self.loaders.num_workers,
        )
        accounts = meter.ledger.accounts
        if self.fitting:
            summary = replace(
                summary,
                total_s=accounts.total_s(now),
                ledger=accounts.sums(now),
                not_measured=self.not_measured,
                validation_wait_s=meter.ledger.validation_wait_s,
                boundary=None
                if self._is_blind
                else meter.ledger.boundary(self.loaders.persistent_workers, summary.epochs),
                waits=meter.waits.kinds(),
                loading=meter.loads.loading(
                    lambda index: sample_path(self.loaders.dataset(), index), self.loaders.all_workers
                ),
                device=meter.device.times(),
                ranks=None if self.exchange is None else self.exchange.times(),
                hardware=self.hardware,
                spans=tuple(meter.ledger.spans),
            )
            summary = diagnosed(summary, list(meter.records()))
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

    @property
    def _is_blind(self) -> bool:
        """Whether nobody can know from where a first batch came."""
        return self._blind or (self.listening is not None and self.listening.probe.blind)

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


def steady(record: StepRecord) -> tuple[int, float, float]:
    """A step for the comparison of ranks: its index, its wait and its wall time (s), without filling an empty pipeline.

    A wait that was not measured is nan, which drops the step.
    """
    wait_s = record.wait_s or 0.0
    elapsed_s = wait_s + (record.transfer_s or 0.0) + (record.compute_s or 0.0) + record.other_s - record.refill_s
    return record.step, nan if record.wait_s is None else wait_s - record.refill_s, elapsed_s


def _nothing_to_tell(error: Exception) -> None:
    """Before anything is listened to, nothing can fail."""
