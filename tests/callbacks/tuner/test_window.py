"""When a window is looked at, with a clock that is made up."""

from types import SimpleNamespace

from lightning_fastdata.callbacks.tuner.throughput_model import Setting
from lightning_fastdata.callbacks.tuner.window import FEWEST_BATCHES, WindowTimer


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def trainer(**more):
    return SimpleNamespace(**{"global_step": 0, "accumulate_grad_batches": 1, **more})


def run(timer, made_up, clocks, batches, step_s=0.1):
    due = []
    for number in range(batches):
        for clock in clocks:
            clock.now += step_s
        made_up.global_step += 1
        if timer.is_due(made_up, lambda: made_up.global_step):
            due.append(number + 1)
    return due


def test_what_the_workers_had_prepared_is_left_out():
    """3 workers x 2: six batches and two more, and then the shortest timer."""
    clock, cpu, made_up = Clock(), Clock(), trainer()
    timer = WindowTimer(Setting(3, 2), clock, cpu)
    assert run(timer, made_up, (clock, cpu), 8 + FEWEST_BATCHES) == [8 + FEWEST_BATCHES]
    assert timer.first_step == 8
    assert round(timer.elapsed_s(), 6) == 0.1 * FEWEST_BATCHES
    assert round(timer.cpu_s(), 6) == 0.1


def test_a_timer_of_short_steps_is_made_longer():
    """Until a second has passed; the next look comes after twice as many batches."""
    clock, cpu, made_up = Clock(), Clock(), trainer()
    timer = WindowTimer(Setting(0, None), clock, cpu)
    run(timer, made_up, (clock, cpu), 2 + FEWEST_BATCHES, step_s=0.002)
    assert not timer.is_long_enough(timer.elapsed_s())
    timer.prolong()
    assert run(timer, made_up, (clock, cpu), FEWEST_BATCHES - 1, step_s=0.002) == []
    assert run(timer, made_up, (clock, cpu), 1, step_s=1.0) == [1]
    assert timer.is_long_enough(timer.elapsed_s())


def test_a_run_of_very_short_steps_is_looked_at_all_the_same():
    """640 batches are enough, however short."""
    timer = WindowTimer(Setting(0, None), Clock(), Clock())
    for _ in range(5):
        timer.prolong()
    assert timer.is_long_enough(0.001)


def test_validation_takes_none_of_its_time():
    """Neither of the clock's nor of the processor's."""
    clock, cpu, made_up = Clock(), Clock(), trainer()
    timer = WindowTimer(Setting(0, None), clock, cpu)
    run(timer, made_up, (clock, cpu), 12)
    before = timer.elapsed_s(), timer.cpu_s()
    timer.pause()
    clock.now += 50.0
    cpu.now += 40.0
    timer.resume()
    assert (timer.elapsed_s(), timer.cpu_s()) == before


def test_accumulated_batches_make_steps():
    """20 steps of four batches."""
    timer = WindowTimer(Setting(0, None), Clock(), Clock())
    made_up = trainer(accumulate_grad_batches=4)
    due = [number for number in range(1, 100) if timer.is_due(made_up, int)]
    assert due[0] == 2 + 4 * FEWEST_BATCHES
