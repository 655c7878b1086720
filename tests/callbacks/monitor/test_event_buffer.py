"""EventBuffer: events in order, later."""

from lightning_fastdata.callbacks.monitor.event_buffer import EventBuffer, LoadersOpened, MicroBatch, StepEnd
from lightning_fastdata.callbacks.monitor.fetch_probe import Fetch, interpret
from lightning_fastdata.callbacks.monitor.profiler_tap import Interval
from lightning_fastdata.callbacks.monitor.step_meter import StepMeter


def test_a_replay_is_the_same_as_having_been_there(fake_clock):
    direct, meter, errors = StepMeter(fake_clock), StepMeter(fake_clock), []
    events = EventBuffer(meter, errors.append)
    for step in range(3):
        at = 10.0 * step
        samples = None if step == 2 else 4
        first, second = Fetch((), (), None, at, at + 1), Fetch((), (), None, at + 8, at + 9)
        direct.ledger.open_boundary(at)
        direct.train_fetch(at, at + 1, interpret(first))
        direct.transfer(at + 1, at + 3)
        direct.compute(at + 3, at + 7)
        direct.add_batch(4)
        direct.ledger.add("callback", at + 7, at + 8)
        direct.train_fetch(at + 8, at + 9, interpret(second))
        direct.add_batch(samples)
        direct.close_step(step, at + 10)
        noted = [
            *(LoadersOpened(at, replaced=False), first),
            *(Interval("transfer", at + 1, at + 3), Interval("compute", at + 3, at + 7), MicroBatch(4)),
            *(Interval("callback", at + 7, at + 8), second, StepEnd(step, samples, at + 10)),
        ]
        for event in noted:
            events.note(event)
    assert list(meter.records) == []
    assert events.meter is meter
    assert list(events.meter.records) == list(direct.records)
    assert meter.totals() == direct.totals()
    assert meter.ledger.accounts.sums(40.0) == direct.ledger.accounts.sums(40.0)
    assert errors == []


def test_a_fault_of_the_meter_is_reported_and_the_events_are_gone(fake_clock):
    errors = []
    events = EventBuffer(StepMeter(fake_clock), errors.append)
    events.note(Interval("no such kind", 0.0, 1.0))
    events.meter.ledger.accounts.enter("loop", fake_clock.now)
    events.note(Interval("no such kind", 0.0, 1.0))
    events.replay()
    assert [type(error) for error in errors] == [KeyError]
    assert len(events) == 0
