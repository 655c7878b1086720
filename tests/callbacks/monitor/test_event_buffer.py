"""Journal: events in order, later."""

from lightning_fastdata.callbacks.monitor.event_buffer import EventBuffer
from lightning_fastdata.callbacks.monitor.step_meter import StepMeter


def test_a_replay_is_the_same_as_having_been_there(fake_clock):
    direct, meter = StepMeter(fake_clock), StepMeter(fake_clock)
    journal = EventBuffer(meter)
    for step in range(3):
        at = 10.0 * step
        direct.train_fetch(at, at + 1)
        direct.transfer(at + 1, at + 3)
        direct.compute(at + 3, at + 7)
        direct.add_batch(4)
        for kind, start, end in (("train", at, at + 1), ("transfer", at + 1, at + 3), ("compute", at + 3, at + 7)):
            journal.note((kind, start, end))
        direct.train_fetch(at + 8, at + 9)
        direct.add_batch(None if step == 2 else 4)
        direct.close_step(0, step, at + 10)
        journal.note((4,))
        journal.note(("train", at + 8, at + 9))
        journal.note((0, step, None if step == 2 else 4, at + 10))
    assert list(meter.records()) == []
    journal.replay()
    journal.replay()
    assert list(meter.records()) == list(direct.records())
    assert meter.totals() == direct.totals()
