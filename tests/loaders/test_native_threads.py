"""What a worker does first: one native thread, seen in a real OpenBLAS in a real worker, and its CPUs."""

import pickle

import numpy  # its OpenBLAS is the pool that is looked at
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch.utils.data import Dataset, IterableDataset

from lightning_fastdata.loaders.factory import auto_dataloader
from lightning_fastdata.loaders.native_threads import (
    LimitNativeThreads,
    RestoreAffinity,
    chain_init_fns,
    limit_native_threads,
)
from lightning_fastdata.loaders.sharding import SetShard


def blas_threads():
    found = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert found, f"numpy {numpy.__version__} brings no BLAS that threadpoolctl knows"
    return max(found)


class Threads(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([blas_threads(), torch.get_num_threads()])


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.tensor([blas_threads(), torch.get_num_threads()])


def three_for_blas(worker_id):
    threadpool_limits(3, user_api="blas")


def seen_with(**kwargs):
    dataset = kwargs.pop("dataset", None) or Threads()
    with threadpool_limits(4, user_api="blas"):  # as on a machine with four cores
        loader = auto_dataloader(dataset, split="val", batch_size=1, num_workers=1, **kwargs)
        batch = next(iter(loader))
        assert blas_threads() == 4, "the training process keeps its own"
    return loader, batch.flatten().tolist()


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_a_worker_has_one_blas_thread(context):
    """Left alone, torch limits its own threads only; with two workers on two cores numpy's would be four."""
    loader, seen = seen_with(multiprocessing_context=context)
    assert seen == [1, 1]
    assert loader.worker_init_fn is None, "Lightning puts its own seeding there when it is empty"


@pytest.mark.slow
def test_the_users_own_init_comes_last():
    """What a worker_init_fn sets stays."""
    loader, seen = seen_with(worker_init_fn=three_for_blas)
    assert seen == [3, 1]
    assert loader.worker_init_fn is three_for_blas


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is an IterableDataset")
def test_a_stream_is_limited_as_well():
    """Its loader is not the resumable one."""
    assert seen_with(dataset=Stream())[1] == [1, 1]


class Library:
    def __init__(self, name, calls, fails=False):
        def called(count):
            calls.append((name, count))
            if fails:
                raise RuntimeError("the pool is in use")

        self.setNumThreads = self.set_num_threads = called


def test_only_imported_libraries_are_touched():
    """Asking numba for threads would start its pool where none was wanted; a refusal is passed over."""
    calls = []
    with threadpool_limits(None):
        limit_native_threads({})
        assert calls == []
        cv2, numexpr, numba = Library("cv2", calls, fails=True), Library("numexpr", calls), Library("numba", calls)
        limit_native_threads({"cv2": cv2, "numexpr": numexpr, "numba": numba})
        assert calls == [("cv2", 0), ("numexpr", 1)]
        limit_native_threads({"numba": numba, "numba.np.ufunc.parallel": numba})
        assert calls[2:] == [("numba", 1)]


def test_functions_are_chained_in_turn():
    """The user's last; one alone stays itself, none is None, and a chain travels to a spawned worker."""
    order = []
    chain_init_fns(None, lambda number: order.append(("ours", number)), lambda number: order.append(("own", number)))(7)
    assert order == [("ours", 7), ("own", 7)]
    assert chain_init_fns(None, three_for_blas) is three_for_blas
    assert chain_init_fns(None, None) is None
    chain = chain_init_fns(LimitNativeThreads(), SetShard(1, 2), RestoreAffinity((0,)))
    assert pickle.loads(pickle.dumps(chain)) == chain


def test_a_worker_gets_the_cpus_of_the_process_back(monkeypatch):
    """Unless its cpuset has become narrower meanwhile."""
    cpus = []
    monkeypatch.setattr("os.sched_setaffinity", lambda process, mask: cpus.append((process, mask)), raising=False)
    RestoreAffinity((1, 3))(0)
    assert cpus == [(0, (1, 3))]

    def refuse(process, mask):
        raise OSError

    monkeypatch.setattr("os.sched_setaffinity", refuse, raising=False)
    RestoreAffinity((1, 3))(0)
