"""The private names of torch that this package leans on, each guarded."""

import contextlib
import sys
from collections.abc import Iterator
from multiprocessing.queues import Queue
from typing import Any, NamedTuple

import torch

__all__ = [
    "QueueState",
    "loads_inline",
    "pretend_worker",
    "process_store",
    "queue_state",
    "resize_into",
    "send_failures",
    "shared_bytes",
    "show_dataset",
    "stop_workers",
]


class QueueState(NamedTuple):
    """Where the batches are that torch's iterator has asked its workers for."""

    in_queue: int | None
    """Batches that are ready and have not been taken out of the queue (count); with pinning, those that are pinned.
    Without it, a batch counts from when its worker handed it over, although it may still be on its way through the
    pipe. Where an IterableDataset ends, a worker's word that it has no more counts as well. None where the system does
    not tell (macOS, without pinning)."""
    set_aside: int
    """Batches that came before their turn, were taken out of the queue and are kept (count)."""
    in_flight: int
    """Batches that were asked for and not given yet, the ready ones included (count)."""
    capacity: int
    """The most of them: ``num_workers * prefetch_factor`` (count)."""
    in_order: bool
    """Whether batches are given in the sampler's order; else any that is ready is."""
    ended: int
    """Workers that have no more data in this pass (count); only an IterableDataset has them."""
    given: int
    """Batches of this pass that were given (count)."""
    turn: int
    """Names this pass: persistent workers serve several with one iterator."""


def queue_state(iterator: Any) -> QueueState | None:
    """How full the queue of a torch iterator with workers is.

    Args:
        iterator: What ``iter`` of a DataLoader gave.

    Returns:
        None for any other iterator, and where torch keeps its batches elsewhere.
    """
    try:
        tasks = iterator._task_info
        # torch counts the tasks without data, so the others are those that came before their turn.
        set_aside, ended = len(tasks) - iterator._tasks_outstanding, 0
        if iterator._dataset_kind:  # iterable: no answer comes to what a worker was asked for beyond its end
            ended = iterator._workers_status.count(False)
            if ended:
                set_aside = sum(len(task) == 2 for task in tasks.values())
        try:
            in_queue = iterator._data_queue.qsize()
        except NotImplementedError:
            in_queue = None
        capacity = iterator._num_workers * iterator._prefetch_factor
        in_order, given, turn = iterator._in_order, iterator._num_yielded, id(iterator._sampler_iter)
    except (AttributeError, TypeError, OSError, ValueError):
        return None
    if set_aside < 0:
        return None
    return QueueState(in_queue, set_aside, len(tasks), capacity, in_order, ended, given, turn)


def loads_inline(iterator: Any) -> bool | None:
    """Whether a torch iterator loads in the training process.

    Args:
        iterator: What ``iter`` of a DataLoader gave.

    Returns:
        False for one with workers, None for any other iterator.
    """
    workers = getattr(iterator, "_num_workers", None)
    return workers == 0 if isinstance(workers, int) and hasattr(iterator, "_index_sampler") else None


def process_store() -> Any:
    """The key-value store through which the ranks of this process's default group found each other.

    Returns:
        The store, or None where there is no process group, or torch keeps its store elsewhere.
    """
    distributed = sys.modules.get("torch.distributed.distributed_c10d")  # absent: no group was made
    try:
        if distributed is None or not distributed.is_initialized():
            return None
        return distributed._get_default_store()
    except Exception:
        return None


def stop_workers(iterator: Any, *, at_once: bool = False) -> bool:
    """End the worker processes of a torch iterator.

    Args:
        iterator: What ``iter`` of a DataLoader gave; one without workers, and None, is left alone.
        at_once: Whether to kill them rather than to wait, 5 s at most, for the batches they are at.

    Returns:
        False where torch shuts its workers down elsewhere; they then end when the iterator is freed.
    """
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if not callable(shut_down):
        return iterator is None or loads_inline(iterator) is True
    if not (at_once and _kill_workers(iterator)):
        # A worker that died meanwhile is no error any more, nor that torch's handler of SIGCHLD reports it.
        with contextlib.suppress(RuntimeError):
            shut_down()
    return True


def _kill_workers(iterator: Any) -> bool:
    """Kill workers, and take from torch all that it would do with them.

    One that is killed may hold the lock of a queue or an event, so nothing that takes one may follow: torch's own way
    of shutting down would wait for ever.
    """
    workers, queues = getattr(iterator, "_workers", None), getattr(iterator, "_index_queues", None)
    signals = getattr(sys.modules.get("torch.utils.data._utils"), "signal_handling", None)
    forget = getattr(signals, "_remove_worker_pids", None)
    pinning = hasattr(iterator, "_pin_memory_thread")  # it reads from the queue, and has to be ended as torch does
    if not workers or queues is None or not callable(forget) or pinning or not hasattr(iterator, "_shutdown"):
        return False
    iterator._shutdown = True
    if getattr(iterator, "_worker_pids_set", False):
        forget(id(iterator))  # from here on torch does not take their end for an accident
        iterator._worker_pids_set = False
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(1.0)
    for queue in queues:
        queue.cancel_join_thread()
        queue.close()
    return True


def resize_into(image: torch.Tensor, out: torch.Tensor) -> None:
    """Resize with torch's own uint8 kernel (bilinear, antialiased), without a tensor in between.

    ``interpolate`` cannot write into a given tensor; into a fresh one of a few hundred KiB, page faults take longer
    than the resizing. Both give the same bytes.

    Args:
        image: uint8, shape (1, 3, height, width).
        out: uint8, shape (1, 3, new height, new width).
    """
    size = list(out.shape[-2:])
    try:
        torch.ops.aten._upsample_bilinear2d_aa.out(image, size, False, None, None, out=out)
    except (AttributeError, TypeError, RuntimeError):
        out.copy_(torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True))


def shared_bytes(count: int) -> torch.Tensor:
    """Uninitialized memory that a worker's batch passes to the training process without being copied.

    Args:
        count: Bytes.

    Returns:
        uint8, shape (count,); in ordinary memory where torch makes its shared memory elsewhere, which then is copied.
    """
    try:
        storage = torch.UntypedStorage._new_shared(count, device="cpu")  # type: ignore[no-untyped-call]
        return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (count,), (1,))
    except (AttributeError, TypeError):
        return torch.empty(count, dtype=torch.uint8)


def show_dataset(worker_id: int) -> None:
    """A ``worker_init_fn``: ``get_worker_info().dataset`` is the user's own, not the wrapper that torch got.

    Args:
        worker_id: Which worker this is.
    """
    info = torch.utils.data.get_worker_info()
    wrapped = getattr(info, "dataset", None)
    if "_fastdata_dataset" in getattr(wrapped, "__dict__", {}):
        object.__setattr__(info, "dataset", vars(wrapped)["_fastdata_dataset"])  # torch freezes its attributes


def send_failures(worker_id: int) -> None:
    """A ``worker_init_fn``: a batch that cannot be pickled is an error in the training process, which else waits on.

    The thread that pickles what a worker has put into its queue prints such an error and drops the batch.

    Args:
        worker_id: Which worker this is.
    """
    wrapper: Any = getattr(torch._utils, "ExceptionWrapper", None)
    dropped: Any = getattr(Queue, "_on_queue_feeder_error", None)
    if wrapper is None or dropped is None:
        return

    def answer(queue: Any, error: Exception, item: Any) -> None:
        if not (type(item) is tuple and len(item) == 2 and type(item[0]) is int):
            dropped(error, item)
            return
        text = (
            f"A batch cannot be sent from its worker process ({type(error).__name__}: {error}). num_workers=0 sends "
            "none; else leave out of the batch what cannot be pickled, and detach() what requires grad."
        )
        queue.put((item[0], wrapper((RuntimeError, RuntimeError(text), error.__traceback__), where="in a worker")))

    setattr(Queue, "_on_queue_feeder_error", answer)  # noqa: B010


@contextlib.contextmanager
def pretend_worker(dataset: Any) -> Iterator[None]:
    """Let ``get_worker_info()`` answer as in the first of one worker.

    Args:
        dataset: What its ``dataset`` is. Where torch keeps this elsewhere, ``get_worker_info()`` stays None.
    """
    worker: Any = sys.modules.get("torch.utils.data._utils.worker")
    if worker is None or not hasattr(worker, "_worker_info") or not hasattr(worker, "WorkerInfo"):
        yield
        return
    before = worker._worker_info
    worker._worker_info = worker.WorkerInfo(id=0, num_workers=1, seed=torch.initial_seed(), dataset=dataset)
    try:
        yield
    finally:
        worker._worker_info = before
