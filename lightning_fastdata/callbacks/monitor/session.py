"""One run that is being measured: the meter, the instrumentation that feeds it, and where its figures go."""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.util import Finalize
from typing import Any

from lightning_fastdata.callbacks.monitor.cuda_timer import DeviceTimer
from lightning_fastdata.callbacks.monitor.event_buffer import EventBuffer, MicroBatch, StepEnd
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
from lightning_fastdata.callbacks.monitor.step_meter import StepMeter
from lightning_fastdata.callbacks.monitor.wait_stats import Window
from lightning_fastdata.compat.torch_internals import process_store
from lightning_fastdata.errors import warn
from lightning_fastdata.results.diagnosis import diagnosed
from lightning_fastdata.results.records import StageWait
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
# A long epoch is sent to rank 0 in parts, or only its last 10,000 steps would be compared.
_MOST_UNSENT = 5_000
_STEPS = {"val": "validation_step", "test": "test_step", "predict": "predict_step"}


@dataclass
class MonitorSession:
    """What one fit (and the evaluations after it) has measured so far.

    Everything that cannot cross a process border is in here, and it exists only once the run has begun.
    """

    info: RunInfo
    live: LiveReport
    on_error: Callable[[Exception], None]
    """Called with an error of our own, which must not reach the training."""
    sink: RunFileWriter | None
    interval: int
    """Steps between two reports to the loggers (count); 0 for none."""
    device_events: bool
    hardware: Mapping[str, Any]
    exchange_key: str
    """The same on every rank, another one for each monitor of a Trainer."""
    clock: Callable[[], float] = time.perf_counter
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: str = "running"
    notes: dict[str, str] = field(default_factory=dict)
    resumed_from: dict[str, float] | None = None
    plans: dict[str, Any] = field(default_factory=dict)
    loaders: LoaderInfo = field(default_factory=LoaderInfo)
    instrumentation: Instrumentation | None = None
    steps: OptimizerSteps | None = None
    saw_fetch: bool = False
    exchange: RankExchange | None = None

    def __post_init__(self) -> None:
        self.events = EventBuffer(StepMeter(self.clock, rank=self.info.rank), self.on_error)
        self._fitting = False
        self._not_measured: tuple[str, ...] = ()
        self._until_due = 0
        self._until_written = _MOST_UNWRITTEN
        self._silent = 0
        self._splits_loaders = False
        self._device: DeviceTimer | None = None
        self._resolved = 0
        self._sees_iterators = True
        self._at_exit: Finalize | None = None

    @property
    def meter(self) -> StepMeter:
        """The meter, after everything that was noted until now."""
        return self.events.meter

    # Instrumentation.

    def install(self, trainer: Any, pl_module: Any, monitor: Any, *, fitting: bool) -> None:
        """Time ``trainer`` from here on, as long as ``monitor`` is among its callbacks."""
        self.instrumentation = installed = Instrumentation(
            trainer,
            pl_module,
            monitor,
            events=self.events,
            on_error=self.on_error,
            clock=self.clock,
            fitting=fitting,
            device_events=self.device_events,
        )
        self.notes |= installed.notes
        if self.sink is not None and self._at_exit is None:
            self._at_exit = Finalize(None, self._save_at_exit, exitpriority=10)
        if fitting:
            self._fitting = True
            self._not_measured, self._device = installed.not_measured, installed.device
            if self.info.world_size > 1:
                self.exchange = RankExchange(
                    rank=self.info.rank,
                    world_size=self.info.world_size,
                    host=self.info.host,
                    store=process_store(),
                    key=self.exchange_key,
                )

    def loss(self) -> str | None:
        """What private names turned out to be gone, once: to be warned of."""
        if self.instrumentation is None:
            return None
        loss = self.instrumentation.loss()
        self.notes |= self.instrumentation.notes
        return loss

    # Training.

    def start_training(self, trainer: Any, pl_module: Any) -> None:
        """The first epoch is about to begin; loaders and loop state are there."""
        self.meter.start_training(self.clock())
        first_step = int(trainer.global_step)
        self.steps = OptimizerSteps(automatic=bool(pl_module.automatic_optimization), first_step=first_step)
        self._until_due = self.interval - first_step % self.interval if self.interval else 0
        self._read_loaders(trainer)
        if self.exchange is not None:
            self.exchange.collect()
        self.start_epoch(trainer)

    def _read_loaders(self, trainer: Any) -> None:
        """Take down what the loaders and the DataModule show of themselves."""
        if trainer.train_dataloader is not None:
            self.loaders = LoaderInfo.of(trainer.train_dataloader)
            if trainer.reload_dataloaders_every_n_epochs:  # a new loader for each epoch cannot keep its workers
                self.loaders = replace(self.loaders, persistent_workers=None)
        self.plans |= plans_of(trainer)

    def advice(self) -> str:
        """What to try first, as far as can be said by now."""
        try:
            verdict = self.summary().verdict
            advice = "" if verdict.level == "fine" else verdict.try_first
        except Exception as error:
            self.on_error(error)
            advice = ""
        return advice or "The table at the end of the run says more."

    def start_epoch(self, trainer: Any) -> None:
        """An epoch begins."""
        self.meter.start_epoch(trainer.current_epoch)

    def end_epoch(self) -> None:
        """An epoch has ended: what no step used is added up, and the ranks exchange their steps."""
        self.meter.end_tail(self.clock())
        if self._device is not None:
            self._device.forget_fetches()
        self._exchange_steps()

    def enter(self, phase: str) -> None:
        """Training is over: "shutdown" of loaders and loops comes, and then what is "after" it."""
        self.meter.ledger.accounts.enter(phase, self.clock())

    def _exchange_steps(self, *, at_least: int = 0) -> None:
        """Send rank 0 the new steps, if there are ``at_least`` so many; on rank 0 take those that arrived."""
        meter = self.meter
        if self.exchange is not None and meter.steps - self.exchange.published >= at_least:
            self.exchange.publish_new(meter.records, meter.steps)
            self.exchange.collect()

    def end_batch(self, trainer: Any, batch: Any, batch_idx: int) -> bool:
        """A batch was trained on; gives whether a window of steps is to be reported now."""
        steps = self.steps
        if steps is None or (batch is None and not self.meter.batch_was_computed):
            return False  # a batch that was skipped: its wait goes to the next step
        step = steps.ended(trainer, batch_idx)
        if step is None:
            self.events.note(MicroBatch(samples_in(batch)))
            if len(self.events) > _MOST_EVENTS:
                self.events.replay()
            return False
        self.events.note(StepEnd(step, samples_in(batch), self.clock()))
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

    def check_labels(self) -> str | None:
        """After a batch, until a fetch was seen: what to warn of, once."""
        if self.meter.fetches:
            self.saw_fetch = True
            return None
        self._silent += 1
        if self._silent != _SILENT_BATCHES:
            return None
        versions = ", ".join(f"{name} {version}" for name, version in self.info.versions.items())
        self.notes["silent"] = f"No fetch was seen: this Lightning labels it differently ({versions})."
        return (
            f"DataWaitMonitor saw no fetch in {self._silent} batches: it cannot measure the data wait here"
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
        meter = self.meter
        self._ask_device()
        if self.status == "running":
            self._exchange_steps(at_least=_MOST_UNSENT)
        hold = 0 if self._device is None else min(_MOST_UNWRITTEN, meter.steps - self._resolved)
        records = meter.take_records(hold=hold)
        if any(record.first_in_epoch and record.fetches > record.batches for record in records):
            self.notes["ahead"] = (
                "The loader has no length, so Lightning reads it one batch ahead: the wait of a step is that for the"
                " batch of the next one, and the first step of an epoch waits for two."
            )

        def write(sink: RunFileWriter) -> None:
            sink.write_steps(records)
            for span in meter.ledger.take_spans():
                sink.write_span(span)
            now, accounts = self.clock(), meter.ledger.accounts
            sink.write_so_far(accounts.total_s(now), accounts.sums(now))

        self._write(write)

    def _ask_device(self, *, last: bool = False) -> None:
        """Take down what the device has measured of earlier steps by now."""
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
        # With a fetch that is not timed, or several in a step, a wait would be given to another loader's batch.
        times_all = self.instrumentation is not None and self.instrumentation.tap.times_first_fetches
        self._splits_loaders = times_all and not fetches_for_itself(getattr(pl_module, _STEPS[stage], None))
        self.meter.start_stage(stage, self.clock())

    def end_stage_batch(self, stage: str, dataloader_idx: int | None) -> None:
        """A batch was evaluated; Lightning gives the index where there are several loaders, one after the other."""
        known = self._splits_loaders and dataloader_idx is not None
        self.meter.add_stage_batch(stage, str(dataloader_idx) if known else None)

    def end_stage(self, stage: str) -> StageWait | None:
        """An evaluation run is over; gives that run alone."""
        return self.meter.end_stage(stage, self.clock())

    # The end.

    def stop(self, trainer: Any, status: str, *, fitting: bool = True) -> None:
        """Nothing more will be measured now: remove the instrumentation, close accounts and the run file.

        Args:
            trainer: The Trainer.
            status: How it ended: "finished" or "interrupted".
            fitting: False for an evaluation, which does not change how the fit before it ended.
        """
        if self.instrumentation is not None:
            installed, self.instrumentation = self.instrumentation, None
            self._sees_iterators &= not installed.probe.blind
            installed.restore()
        now = self.clock()
        self.meter.end_tail(now)
        self.meter.end_stages(now)
        if fitting:
            self.meter.ledger.accounts.close(now)
            self._ask_device(last=True)
            if self.exchange is not None:
                self.exchange.publish_new(self.meter.records, self.meter.steps)
                # After an exception others may hang in a collective until this process is gone.
                self.exchange.finish(at_most_s=2.0 if status == "finished" else 0.2)
                self.notes |= {"ranks": self.exchange.note} if self.exchange.note else {}
        self._write_steps()
        if fitting or self.steps is None:
            self.status = status
        if self.steps is not None:
            self._read_loaders(trainer)
            if self.steps.every_batch_counts:
                self.notes["manual"] = "trainer.global_step did not move: each batch was counted as a step."
        self._close_sink()

    def _save_at_exit(self) -> None:
        """Save what was measured: in a process that Lightning forks or spawns, an exception calls no callback."""
        try:
            self.status = "interrupted"
            self._write_steps()
            self._close_sink()
        except Exception as error:
            self.on_error(error)

    def _close_sink(self) -> None:
        """Write the summary into the run file and close it."""
        if self._at_exit is not None:
            self._at_exit.cancel()
            self._at_exit = None
        self._write(lambda sink: sink.close(self.summary()))
        self.sink = None

    def _write(self, act: Callable[[RunFileWriter], None]) -> None:
        """Write something into the run file, if there is one; training goes on where it can take no more."""
        sink = self.sink
        if sink is None:
            return
        try:
            act(sink)
        except OSError as error:
            self.sink = None
            sink.abandon()
            self.notes["sink"] = f"The run file is incomplete ({error.strerror or error})."
            warn(f"DataWaitMonitor: {str(sink.path)!r} gets no more records ({error}). Training goes on.", stacklevel=2)

    def summary(self) -> RunSummary:
        """What was measured so far."""
        meter, now = self.meter, self.clock()
        summary = summarize(
            tuple(meter.records),
            totals=meter.totals(),
            first_waits=meter.first_waits,
            stages=meter.stages(),
            num_workers=self.loaders.num_workers,
        )
        if self._fitting:
            summary = self._with_findings(summary, meter, now)
        return replace(
            summary,
            status=self.status,
            notes=tuple(self.notes.values()),
            resumed_from=self.resumed_from,
            plans=self.plans,
            **vars(self.info),
        )

    def _with_findings(self, summary: RunSummary, meter: StepMeter, now: float) -> RunSummary:
        """What is known of a fit beside the sums over its steps."""
        loaders, ledger = self.loaders, meter.ledger
        # Without the loaders' iterators it is not known which wait was for a first batch.
        blind = not self._sees_iterators or (self.instrumentation is not None and self.instrumentation.probe.blind)
        summary = replace(
            summary,
            total_s=ledger.accounts.total_s(now),
            ledger=ledger.accounts.sums(now),
            not_measured=self._not_measured,
            validation_wait_s=ledger.validation_wait_s,
            boundary=None if blind else ledger.boundary(loaders.persistent_workers, summary.epochs),
            waits=meter.waits.kinds(),
            loading=meter.loads.loading(lambda index: sample_path(loaders.dataset(), index), loaders.all_workers),
            device=meter.device.times(),
            ranks=None if self.exchange is None else self.exchange.times(),
            hardware=self.hardware,
            spans=tuple(ledger.spans),
        )
        return diagnosed(summary, list(meter.records))
