"""The decisions within a run, against made-up machines that behave like the model, and others that do not."""

import pytest

from lightning_fastdata.callbacks.tuner.controller import Controller
from lightning_fastdata.callbacks.tuner.throughput_model import Limits, Setting, expected_step_s
from lightning_fastdata.callbacks.tuner.window import Window, merged, window_of
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.tuning import Consumer, Probe


def probe(batch_s=0.08, cpu=0.05, cv=0.05):
    return Probe(
        batches=8,
        batch_s=batch_s,
        batch_cpu_s=batch_s * cpu,
        batch_s_cv=cv,
        worker_transfer_s=0.0005,
        batch_bytes=1000,
        batch_tensors=1,
        worker_bytes=None,
        start_s=0.1,
    )


def window(step_s, exposed_s=0.0, error_s=0.0001, **more):
    return Window(batches=100, step_s=step_s, step_s_error=error_s, exposed_s=exposed_s, cpu_s=0.001, **more)


def drive(controller, world):
    """Let a run go on until the tuner has settled; ``world`` gives the step's time for a setting."""
    lines = []
    for _ in range(12):
        step_s, exposed_s = world(controller.setting)
        decision = controller.decide(window(step_s, exposed_s))
        lines.append(decision.line)
        assert decision.change_to in (None, controller.setting)
        if decision.settled:
            return lines
    raise AssertionError(f"not settled: {lines}")


def as_modelled(found, limits, alone_s=0.02):
    def world(setting):
        step_s = expected_step_s(found, Consumer(alone_s, 0.001), limits, setting)
        return step_s, step_s - alone_s

    return world


def test_a_slow_loader_gets_the_workers_it_needs():
    """From 0 workers at 100 ms a step to what the model says, kept, in three lines."""
    found, limits = probe(), Limits(8)
    controller = Controller(found, limits, Setting(0, None))
    lines = drive(controller, as_modelled(found, limits))
    assert controller.setting.num_workers in (4, 5, 6)
    assert [trial.verdict for trial in controller.trials] == ["baseline", "kept"]
    assert len(lines) <= 3
    assert "100 ms a step" in lines[0]
    assert "promises" in lines[0]
    assert "predicted" in lines[1]
    assert "before 100 ms" in lines[1]
    assert controller.throughput_limit is None


def test_a_fast_loader_gives_its_workers_back():
    """Six workers for what one does, or none: the same speed with less."""
    found, limits = probe(0.002, cpu=0.9), Limits(2)
    controller = Controller(found, limits, Setting(6, 2))
    drive(controller, as_modelled(found, limits))
    assert controller.setting.num_workers <= 1
    assert controller.trials[-1].verdict == "kept"


def test_five_workers_are_not_changed_for_four():
    """The same speed with one worker less is not worth a change."""
    found, limits = probe(0.08), Limits(8)
    controller = Controller(found, limits, Setting(7, 2))
    drive(controller, as_modelled(found, limits))
    assert controller.setting == Setting(7, 2)


def test_what_did_not_help_is_undone():
    """A machine on which workers make everything slower: as it was in the end, each trial on record."""

    def world(setting):
        return (0.1, 0.08) if setting.num_workers == 0 else (0.1 + 0.01 * setting.num_workers, 0.09)

    controller = Controller(probe(), Limits(8), Setting(0, None))
    lines = drive(controller, world)
    assert controller.setting == Setting(0, None)
    assert {trial.verdict for trial in controller.trials[1:]} == {"rolled back"}
    assert lines[-1].endswith("back to 0 workers")
    assert len(lines) < 10


def test_a_leap_that_was_too_far_is_halved():
    """Six workers thrash a disk, three do not."""

    def world(setting):
        step_s = {0: 0.1, 1: 0.082, 2: 0.042, 3: 0.03}.get(setting.num_workers, 0.15)
        return step_s, step_s - 0.02

    controller = Controller(probe(), Limits(8), Setting(0, None))
    drive(controller, world)
    assert controller.setting.num_workers in (2, 3)


@pytest.mark.parametrize(("step_s", "error_s", "verdict"), [(0.095, 0.003, "rolled back"), (0.06, 0.0001, "kept")])
def test_the_measurement_decides_and_not_the_model(step_s, error_s, verdict):
    """5 % faster, give or take 10 %, is no gain; 40 % faster is one, whatever was predicted."""
    controller = Controller(probe(), Limits(8), Setting(0, None))
    assert controller.decide(window(0.1, 0.08, error_s=error_s)).change_to is not None
    controller.decide(window(step_s, step_s - 0.02, error_s=error_s))
    assert controller.trials[-1].verdict == verdict


def test_nothing_is_tried_for_a_run_that_does_not_wait():
    """1 % of waiting with the fewest workers: settled at the first look."""
    controller = Controller(probe(0.01), Limits(8), Setting(1, 2))
    decision = controller.decide(window(0.0202, 0.0002))
    assert decision == (None, decision.line, True)
    assert "no other setting promises more" in decision.line


def test_handing_over_is_no_reason_for_more_workers():
    """30 % of a step is waiting, and all of it is taking batches over that are there."""
    controller = Controller(probe(0.015), Limits(8), Setting(1, 2))
    assert controller.decide(window(0.03, 0.01, worker_transfer_s=0.0098)).settled
    starved = Controller(probe(0.015), Limits(8), Setting(1, 2))
    assert starved.decide(window(0.03, 0.01)).change_to is not None


def test_where_no_number_of_workers_is_enough_it_says_so():
    """80 ms of CPU a batch on one core, and a step of 10 ms."""
    found, limits = probe(0.08, cpu=1.0), Limits(1)
    controller = Controller(found, limits, Setting(1, 2))
    lines = drive(controller, as_modelled(found, limits, alone_s=0.01))
    assert controller.throughput_limit is not None
    assert "1 core can give at most" in lines[-1]


def test_a_given_depth_stays_and_a_needed_worker_too():
    """prefetch_factor=3 of the user's needs a worker, and is not changed."""
    found, limits = probe(0.0001), Limits(8)
    controller = Controller(found, limits, Setting(4, 3), fewest=1, depth=3)
    drive(controller, as_modelled(found, limits))
    assert controller.setting == Setting(1, 3)


def test_shared_memory_bounds_what_is_tried():
    """The resource_caps of the pre-flight hold for neighbors as well."""
    from lightning_fastdata.hardware.detect import Hardware, Limit
    from lightning_fastdata.planning.preflight import Pool, resource_caps

    hardware = Hardware(cpu_limits=(Limit("mask", 16.0, "affinity"),), shm_free_bytes=64 * 2**20)
    limits = Limits(16, resource_caps(hardware, Pool(1, 1, batch_bytes=8 * 2**20, tensors_per_batch=1)))
    controller = Controller(probe(1.0), limits, Setting(0, None))

    def world(setting):
        step_s = 0.02 + 1.0 / max(1, setting.num_workers)
        return step_s, step_s - 0.02

    drive(controller, world)
    assert all(trial.num_workers * (trial.prefetch_factor or 0) <= 4 for trial in controller.trials)


# Windows.


def record(number, wait_s, compute_s=0.02, **more):
    return StepRecord(0, number, 8, wait_s, None, compute_s, 0.0, False, 1, 1, 0)._replace(**more)


def test_a_window_is_the_mean_of_its_steps():
    """Waiting of 10 ms beside 20 ms of training; 5 ms of CPU, of which loading took some without workers."""
    found = window_of([record(n, 0.01) for n in range(32)], 0.005, Setting(0, None), probe(0.01, cpu=0.1))
    assert found is not None
    assert found.step_s == pytest.approx(0.03)
    assert found.exposed_s == pytest.approx(0.01)
    assert found.cpu_s == pytest.approx(0.004)
    assert found.step_s_error == pytest.approx(0.0, abs=1e-12)
    assert found.wait_share == pytest.approx(1 / 3)
    found = window_of([record(n, 0.01) for n in range(32)], 0.005, Setting(2, 2), probe(0.01, cpu=0.1))
    assert found.cpu_s == pytest.approx(0.005)


def test_first_steps_of_epochs_and_checkpoints_are_left_out():
    """A worker's start and a checkpoint say nothing of a steady step."""
    steps = [record(n, 0.01) for n in range(32)]
    steps[5] = record(5, 3.0, first_in_epoch=True)
    steps[9] = record(9, 0.01, other_s=2.0)
    found = window_of(steps, 0.005, Setting(2, 2), probe())
    assert found.step_s == pytest.approx(0.03)
    assert found.batches == 30


def test_a_slow_fetch_is_no_checkpoint():
    """One slow sample in sixteen belongs to the data: it counts."""
    steps = [record(n, 0.5 if n % 16 == 7 else 0.0) for n in range(32)]
    assert window_of(steps, 0.0, Setting(2, 2), probe()).exposed_s == pytest.approx(0.5 / 16)


def test_accumulated_steps_count_by_the_batch():
    """Four batches a step: times of one batch."""
    steps = [record(n, 0.04, 0.08, batches=4, load_s=0.4) for n in range(32)]
    found = window_of(steps, 0.005, Setting(2, 2), probe())
    assert found.step_s == pytest.approx(0.03)
    assert found.load_s == pytest.approx(0.1)
    assert found.batches == 128


def test_the_device_says_what_it_was_exposed_to():
    """90 ms of the host's waiting, hidden behind queued work but for 1 ms."""
    steps = [record(n, 0.09, 0.01, device_idle_s=0.001) for n in range(32)]
    found = window_of(steps, 0.005, Setting(2, 2), probe())
    assert found.exposed_s == pytest.approx(0.001)
    assert found.step_s == pytest.approx(0.1)


def test_what_was_handed_over_is_known():
    """2 ms of the 10 ms of waiting; of the device's idling no part is known."""
    steps = [record(n, 0.01, worker_transfer_s=0.002) for n in range(32)]
    assert window_of(steps, 0.0, Setting(2, 2), probe()).worker_transfer_s == pytest.approx(0.002)
    steps = [record(n, 0.01, worker_transfer_s=0.002, device_idle_s=0.001) for n in range(32)]
    assert window_of(steps, 0.0, Setting(2, 2), probe()).worker_transfer_s == 0.0


def test_too_few_steps_are_no_window():
    """And neither are steps whose wait was not measured."""
    assert window_of([record(n, 0.01) for n in range(10)], 0.0, Setting(0, None), probe()) is None
    assert window_of([record(n, None) for n in range(64)], 0.0, Setting(0, None), probe()) is None


def test_bursts_make_a_window_less_sure():
    """The same mean and the same spread of single steps: stretches of waiting make means of windows differ."""
    regular = [record(n, 0.1 if n % 2 else 0.0) for n in range(64)]
    bursts = [record(n, 0.1 if n // 16 % 2 else 0.0) for n in range(64)]
    errors = [window_of(steps, 0.0, Setting(2, 2), probe()).step_s_error for steps in (regular, bursts)]
    assert errors[1] > 10 * max(errors[0], 1e-6)


def test_ranks_go_at_the_pace_of_the_slowest():
    """What the fast rank's step holds beyond the least is waiting for the other in the collective."""
    both = merged([window(0.1, 0.08), window(0.1, 0.0)])
    assert both.step_s == pytest.approx(0.1)
    assert both.exposed_s == pytest.approx(0.08)
