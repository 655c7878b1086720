"""Ways of measuring wrongly that need no Trainer to be tried: memory, percentiles, names that are gone.

docs/traps.md says which test is for which trap.
"""

import ast
import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch.profilers import PassThroughProfiler

from lightning_fastdata.callbacks.monitor import event_buffer, instrumentation
from lightning_fastdata.callbacks.monitor.event_buffer import EventBuffer, LoadersOpened, StepEnd
from lightning_fastdata.callbacks.monitor.fetch_probe import Fetch, FetchInfo, WaitSplit
from lightning_fastdata.callbacks.monitor.instrumentation import Instrumentation
from lightning_fastdata.callbacks.monitor.profiler_tap import Interval
from lightning_fastdata.callbacks.monitor.step_meter import FIRST_WAITS, StepMeter
from lightning_fastdata.compat import lightning_monitoring
from lightning_fastdata.loaders.batch_requests import LoadedBatch
from lightning_fastdata.loaders.seeded_dataset import LoadTimes
from lightning_fastdata.results.records import RECENT_STEPS
from lightning_fastdata.results.summary import summarize

TESTS = Path(__file__).parents[2]
TABLE = (TESTS.parent / "docs" / "traps.md").read_text(encoding="utf-8")


def functions_in(path):
    return {
        node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if hasattr(node, "decorator_list")
    }


def test_the_table_of_traps_names_tests_that_are_there():
    assert re.findall(r"^\| (\d+) \|", TABLE, re.MULTILINE) == [str(number) for number in range(1, 49)]
    named = re.findall(r"`(\S+\.py)::(\w+)`", TABLE)
    assert len(named) > 48
    for file, function in named:
        assert function in functions_in(TESTS / file), function


def fetch_info(took, *, index=0, epoch=0, **others):
    """A fetch from one of our loaders with workers, half of it blocked."""
    times = LoadTimes(0.0, 0.5 * took, 4, 0, 0.1 * took, index % 2)
    loaded = LoadedBatch(epoch, index, times, index % 2, index, None)
    split = WaitSplit(0.0, 0.5 * took, 0.5 * took)
    return FetchInfo(False, True, split, True, False, index % 4, 4, False, None, (loaded,))._replace(**others)


class Run:
    """Training in epochs of 100 steps, as the events are noted."""

    def __init__(self, clock, monkeypatch):
        self.clock = clock
        self.events, self.step = EventBuffer(StepMeter(clock), pytest.fail), 0
        monkeypatch.setattr(event_buffer, "interpret", lambda fetch: fetch.before[0])

    def train(self, waits):
        note, forward = self.events.note, self.clock.forward
        for wait in waits:
            epoch, number = divmod(self.step, 100)
            if not number:
                note(LoadersOpened(self.clock.now, replaced=False))
                self.events.meter.start_epoch(epoch)
            start, wait = self.clock.now, float(wait)
            note(Fetch((fetch_info(wait, index=self.step, epoch=epoch),), (), None, start, forward(wait)))
            note(Interval("compute", self.clock.now, forward(0.25)))
            note(Interval("callback", self.clock.now, forward(0.01)))
            if number % 10 == 5:
                note(Interval("checkpoint", self.clock.now, forward(0.5)))
            note(StepEnd(self.step, 4, self.clock.now))
            self.step += 1
            if number % 50 == 49:
                meter = self.events.meter
                meter.take_records()
                meter.ledger.take_spans()
                meter.take_window()


@pytest.mark.slow
def test_memory_is_constant_and_percentiles_are_those_of_all_waits(fake_clock, monkeypatch):
    """Traps 32 and 34: 100,000 steps; what is kept is full after 50,000, and what is told is of all."""
    waits = np.random.default_rng(5).lognormal(mean=-4.0, sigma=1.5, size=100_000)
    run = Run(fake_clock, monkeypatch)
    tracemalloc.start()
    run.train(waits[:50_000])
    before = tracemalloc.get_traced_memory()[0]
    run.train(waits[50_000:])
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000
    assert len(run.events) == 0
    meter = run.events.meter
    summary = summarize(meter.records, totals=meter.totals())
    assert (summary.steps, summary.percentile_steps) == (100_000, 100_000)
    told = (summary.wait_s_median, summary.wait_s_p95, summary.wait_s_p99)
    assert told == pytest.approx(np.percentile(waits, (50, 95, 99)), rel=0.01)
    assert summary.wait_s_max == pytest.approx(waits.max())
    assert summary.wait_s == pytest.approx(waits.sum())
    assert sum(meter.ledger.accounts.sums(fake_clock.now).values()) == pytest.approx(fake_clock.now - 100.0)
    assert meter.loads.loading(lambda index: None).batches == 100_000
    assert (len(meter.records), len(meter.first_waits)) == (RECENT_STEPS, FIRST_WAITS)
    assert meter.totals().samples == 400_000


def test_bursts_are_told_and_not_averaged_away(fake_clock):
    """Trap 34: with 4 workers one fetch is slow and three cost nothing."""
    meter = StepMeter(fake_clock)
    for step in range(400):
        start = fake_clock.now
        meter.train_fetch(start, fake_clock.forward(0.2 if step % 4 == 0 else 0.0), FetchInfo())
        meter.add_batch(1)
        meter.close_step(step, fake_clock.forward(0.1))
    summary = summarize(meter.records, totals=meter.totals())
    assert summary.wait_s / summary.steps == pytest.approx(0.05)
    assert (summary.wait_s_median, summary.wait_s_p95, summary.wait_s_max) == pytest.approx((0.0, 0.2, 0.2))


def test_the_call_that_finds_the_end_is_in_no_wait(fake_clock):
    """Trap 7: a loader without a length ends in one call more, which may take long where workers go."""
    meter = StepMeter(fake_clock)
    start = fake_clock.now
    meter.train_fetch(start, fake_clock.forward(1.0), fetch_info(1.0, from_workers=False))
    start = fake_clock.now
    meter.train_fetch(start, fake_clock.forward(8.0), fetch_info(8.0, exhausted=True))
    meter.close_step(0, fake_clock.now)
    (record,) = meter.records
    assert (record.wait_s, record.fetches, meter.fetches) == (1.0, 1, 1)
    sums = meter.ledger.accounts.sums(fake_clock.now)
    assert (sums["wait_s"], sums["boundary_s"]) == (1.0, 8.0)
    assert meter.loads.loading(lambda index: None).batches == 1


class Strategy:
    root_device = SimpleNamespace(type="cpu")

    def __init__(self, clock):
        self.clock = clock

    def barrier(self):
        self.clock.forward(2.0)


class Loop:
    """Lightning's training epoch loop, of which only the meeting before each batch matters."""

    def __init__(self, clock):
        self.clock = clock

    def _broadcast_sigterm_tensor(self):
        self.clock.forward(4.0)


@pytest.fixture
def two_ranks(fake_clock, monkeypatch):
    """Put an Instrumentation on a made-up Trainer of two ranks."""
    monkeypatch.setattr(instrumentation, "device_timer", lambda device: None)
    made = []

    def build(loop=None):
        trainer = SimpleNamespace(
            profiler=PassThroughProfiler(),
            strategy=Strategy(fake_clock),
            loggers=[],
            callbacks=[],
            datamodule=None,
            world_size=2,
            fit_loop=SimpleNamespace(epoch_loop=loop or Loop(fake_clock)),
        )
        events = EventBuffer(StepMeter(fake_clock), pytest.fail)
        events.meter.ledger.accounts.enter("loop", fake_clock.now)
        installed = Instrumentation(
            *(trainer, SimpleNamespace(), object()),
            events=events,
            on_error=pytest.fail,
            clock=fake_clock,
            fitting=True,
            device_events=True,
        )
        made.append(installed)
        return trainer, installed, lambda: events.meter.ledger.accounts.sums(fake_clock.now)

    yield build
    for installed in made:
        installed.restore()


def test_the_meeting_before_each_batch_is_no_wait(two_ranks):
    """Trap 15."""
    trainer, installed, sums = two_ranks()
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    trainer.strategy.barrier()
    assert (sums()["sync_s"], sums()["wait_s"], installed.not_measured) == (6.0, 0.0, ("transfer_s",))
    installed.restore()
    assert "barrier" not in vars(trainer.strategy)
    assert "_broadcast_sigterm_tensor" not in vars(trainer.fit_loop.epoch_loop)


def test_a_meeting_that_is_held_elsewhere_is_not_measured(two_ranks):
    """``RunSummary.not_measured``: these accounts read 0, and not a part; and the reader learns why."""
    trainer, installed, sums = two_ranks(SimpleNamespace())
    assert "sync_s" in installed.not_measured
    assert lightning_monitoring.sigterm_broadcast(trainer) is None
    trainer.strategy.barrier()
    assert sums()["sync_s"] == 0.0
    assert any("rank" in note for note in installed.notes.values())
