"""A process that an OpenMP binding has moved onto one CPU: its workers get the others back."""

import os
import threading

import pytest
from torch.utils.data import Dataset

from lightning_fastdata import auto_dataloader

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs and Linux"
)


class Mask(Dataset):
    """Each sample is the number of CPUs of the process that loads it."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return len(os.sched_getaffinity(0))


@pytest.fixture
def bound_to_one_cpu(monkeypatch):
    """What importing torch under OMP_PROC_BIND does to the main thread, while another thread keeps the whole mask."""
    before = os.sched_getaffinity(0)
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    os.sched_setaffinity(0, {min(before)})
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    yield len(before)
    os.sched_setaffinity(0, before)
    done.set()
    other.join()


def test_workers_get_their_cpus_back(bound_to_one_cpu):
    """They would inherit the mask of one CPU, and take turns on it."""
    seen = []
    loader = auto_dataloader(Mask(), batch_size=8, num_workers=1, worker_init_fn=seen.append)
    assert next(iter(loader)).tolist() == [bound_to_one_cpu] * 8
    assert loader.worker_init_fn.functions[-1] == seen.append


def test_without_a_binding_nothing_is_touched(monkeypatch):
    """A mask set by taskset is a wish of the user's, not an accident."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        loader = auto_dataloader(Mask(), batch_size=8, num_workers=1)
        assert loader.worker_init_fn is None
        assert next(iter(loader)).tolist() == [1] * 8
    finally:
        os.sched_setaffinity(0, before)
