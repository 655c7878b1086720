"""All ranks decide from the same figures: what is gathered, with a strategy that is made up."""

from types import SimpleNamespace

import pytest
import torch

from lightning_fastdata.callbacks.tuner.rank_consensus import (
    agreed_probe,
    agreed_window,
    all_can,
    machine_of,
    with_machine,
)
from lightning_fastdata.callbacks.tuner.throughput_model import Setting
from lightning_fastdata.callbacks.tuner.window import Window
from lightning_fastdata.hardware.detect import Hardware, Limit
from lightning_fastdata.results.tuning import Probe


def probe(**more):
    figures = {"batches": 8, "batch_s": 0.08, "batch_cpu_s": 0.04, "batch_s_cv": 0.1, "worker_transfer_s": 0.001}
    sizes = {"batch_bytes": 1000, "batch_tensors": 2, "worker_bytes": 10**8, "start_s": 0.2}
    return Probe(**{**figures, **sizes, **more})


def machine(cpus=8.0, **more):
    return Hardware(cpu_limits=(Limit("mask", cpus, "affinity"),), **more)


class Strategy:
    """Gathers this rank's tensor and those that others are said to have given."""

    root_device = torch.device("cpu")

    def __init__(self, others):
        self.others, self.calls = others, 0

    def all_gather(self, own):
        self.calls += 1
        return torch.stack([own, *(other(own) for other in self.others)])


def ranks(*others):
    return SimpleNamespace(world_size=1 + len(others), strategy=Strategy(others))


def scaled(factor):
    return lambda own: torch.cat([own[:1], own[1:] * factor])


SETTING = Setting(2, 3)


def test_one_rank_agrees_with_itself():
    """Every figure comes back as it was, those that are not known too."""
    alone = SimpleNamespace(world_size=1)
    agreed, least, alike = agreed_probe(alone, probe(worker_bytes=None), machine_of(machine(open_files=7), SETTING))
    assert agreed == probe(worker_bytes=None)
    assert with_machine(machine(open_files=7), least) == machine(open_files=7)
    assert alike


def test_the_slowest_worker_and_the_smallest_machine_count():
    """The other rank is twice as slow, on a machine of half the size that is fuller."""

    def other(own):
        changed = own.clone()
        changed[1:12] *= 2
        changed[12:16] /= 2  # CPUs, and what is free
        changed[16] = 4.0  # ranks of the node
        return changed

    trainer = ranks(other)
    mine = machine_of(machine(shm_free_bytes=1000, open_file_limit=None), SETTING)
    slowest, least, alike = agreed_probe(trainer, probe(), mine)
    assert (slowest.batch_s, slowest.batch_bytes, slowest.worker_bytes) == (0.16, 2000, 2 * 10**8)
    assert least.cpus == 4.0
    agreed = with_machine(machine(ram_available_bytes=7), least)
    assert (agreed.shm_free_bytes, agreed.local_world_size, agreed.open_file_limit) == (500, 4, None)
    assert alike
    assert trainer.strategy.calls == 1


@pytest.mark.parametrize("setting", [Setting(0, None), Setting(2, 2), Setting(3, 2)])
def test_ranks_that_begin_with_other_workers_are_found(setting):
    """Windows would end after other batches, and ranks wait for each other forever."""
    theirs = machine_of(machine(), setting)
    trainer = ranks(lambda own: torch.cat([own[:12], torch.tensor(theirs, dtype=own.dtype)]))
    *_, alike = agreed_probe(trainer, probe(), machine_of(machine(), SETTING))
    assert not alike


@pytest.mark.parametrize("own", [probe(), None])
def test_where_one_rank_has_no_probe_none_has(own):
    """And still all of them take part in the collective."""
    trainer = ranks(lambda mine: torch.cat([torch.zeros(1, dtype=mine.dtype), mine[1:]]))
    assert agreed_probe(trainer, own, machine_of(machine(), SETTING))[0] is None
    assert trainer.strategy.calls == 1


def test_windows_become_that_of_the_slowest_rank():
    """Gathered by one collective; the longest time is that of any."""
    window = Window(batches=40, step_s=0.1, step_s_error=0.001, exposed_s=0.08, cpu_s=0.01, load_s=None)

    def other(own):
        changed = own.clone()
        changed[1], changed[6] = 9.0, 0.0  # its time, and its exposed waiting
        return changed

    trainer = ranks(other)
    both, longest, failed = agreed_window(trainer, window, 4.0)
    assert (longest, failed) == (9.0, False)
    assert both.exposed_s == pytest.approx(0.08)
    assert both.load_s is None
    assert trainer.strategy.calls == 1


def test_where_one_rank_has_no_window_there_is_none():
    """Its time counts all the same."""
    window = Window(batches=40, step_s=0.1, step_s_error=0.001, exposed_s=0.08, cpu_s=0.01)
    trainer = ranks(scaled(3.0))
    assert agreed_window(trainer, None, 2.0) == (None, 6.0, False)
    assert agreed_window(SimpleNamespace(world_size=1), window, 2.0) == (window, 2.0, False)


def test_where_one_rank_fails_all_stop():
    """None goes on to the next collective alone."""
    window = Window(batches=40, step_s=0.1, step_s_error=0.001, exposed_s=0.08, cpu_s=0.01)

    def failing(own):
        changed = own.clone()
        changed[2] = 1.0
        return changed

    assert agreed_window(ranks(failing), window, 2.0).failed
    assert agreed_window(ranks(lambda own: own), None, 2.0, failed=True).failed
    assert all_can(ranks(lambda own: own), True)
    assert not all_can(ranks(torch.zeros_like), True)
    assert not all_can(SimpleNamespace(world_size=1), False)
