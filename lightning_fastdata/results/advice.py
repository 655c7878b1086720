"""From the data wait in training steps to its cause and the one change to try first."""

import math
from dataclasses import dataclass

from lightning_fastdata.results.stats import WaitKinds
from lightning_fastdata.results.summary import RunSummary

__all__ = ["Advice", "of_a_healthy_run", "of_steady_waiting"]

_MOST_OF = 0.5
# The transfer of one batch from a worker takes about so long, whatever it holds.
_TRANSFER_S = 2e-3
# Workers that are busy for more than this share of the time cannot catch up with a burst.
_BUSY = 0.9
# A queue that is this full at most fetches has workers to spare.
_FULL = 0.9
_SPARE = 1.3
# A queue that is never full is filled more slowly than it is emptied; one that often is runs dry now and then only.
_EVER_FULL = 0.1
# A sample this many times slower than the mean stalls others; below that loading is merely uneven.
_OUTLIER = 5.0


@dataclass(frozen=True)
class Advice:
    """What a verdict adds to its headline."""

    cause: str
    """One of ``Verdict.cause``."""
    why: str
    """A sentence with the figures."""
    change: str
    """The one change to try first; "" for none."""


def of_a_healthy_run(summary: RunSummary) -> Advice:
    """Nothing to change; perhaps fewer workers are enough.

    Args:
        summary: A run that hardly waited.
    """
    waits, workers = summary.waits, _workers(summary)
    if waits is None:
        return Advice("", "", "")
    full = waits.queue_full_share
    if workers < 2 or full is None or full < _FULL or waits.stalled_fetches * 20 > waits.fetches:
        return Advice("healthy", "", "")
    why, fewer = "Over-provisioned", workers // 2
    if summary.loading is not None and summary.train_s > 0:
        busy = summary.loading.load_s / summary.train_s
        why += f": loading is work for {busy:.1f} of {workers} workers"
        fewer = max(1, math.ceil(busy * _SPARE))
    if fewer >= workers:
        return Advice("healthy", "", "")
    change = f"num_workers={fewer} is enough (now {workers}) and leaves cores and memory to others."
    return Advice("over-provisioned", f"{why}{_ready(waits)}.", change)


def of_steady_waiting(summary: RunSummary) -> Advice:
    """The cause of most of the data wait in training steps.

    Args:
        summary: A run that waited in its training steps.
    """
    waits = summary.waits
    if waits is None:
        return Advice("", "", "")
    main_process_s, worker_transfer_s = waits.main_process_s, waits.worker_transfer_s or 0.0
    steady_s = waits.unknown_s + (main_process_s or 0.0) + (waits.stalled_s or 0.0) + worker_transfer_s
    if main_process_s is None or waits.unknown_s > _MOST_OF * steady_s:
        why = "The cause of the data wait is not known for this loader."
        return Advice("", why, "Give it more workers, if it can have them; else cheaper transforms or smaller data.")
    if main_process_s > _MOST_OF * steady_s:
        return _main_process(summary, main_process_s / waits.fetches, waits.fetches)
    if worker_transfer_s > _MOST_OF * steady_s:
        return _ipc_bound(summary, worker_transfer_s / waits.fetches)
    return _head_of_line(summary, waits) or _stalled(summary, waits)


def _main_process(summary: RunSummary, load_s: float, fetches: int) -> Advice:
    """The main process loads; the gain of workers is bounded by what they would do beside it."""
    rest_s = max(1e-9, summary.train_s - (summary.wait_s or 0.0)) / fetches
    why = (
        f"The main process loads the data (num_workers=0): {load_s * 1000:.1f} ms a batch, beside"
        f" {rest_s * 1000:.1f} ms of everything else."
    )
    cpus = _usable_cpus(summary)
    room = 1_000 if cpus is None else int(cpus) - 1
    if load_s < _TRANSFER_S:
        change = (
            "Larger batches, or whole batches by one index operation (TensorDataModule): the transfer of one from a"
            " worker would take as long."
        )
    elif room < 1:
        change = "Cheaper loading, or data stored decoded or smaller: there is one core for loading and training."
    elif _without_accelerator(summary):
        gain = (load_s + rest_s) / max(load_s, rest_s)
        change = (
            f"torch.set_num_threads({room}) and num_workers=1: without an accelerator computing and loading share"
            f" {cpus:g} cores, so at most {gain:.2f}x the training speed."
        )
    else:
        number = max(1, min(math.ceil(load_s / rest_s), room))
        gain = (load_s + rest_s) / max(load_s / number, rest_s)
        change = f"num_workers={number}, at most {gain:.2f}x the training speed."
    return Advice("main-process loading", why, change)


def _ipc_bound(summary: RunSummary, each_s: float) -> Advice:
    why = f"The batches were ready, but their worker-to-main transfer took {each_s * 1000:.1f} ms on average."
    change = "Send less per batch: uint8 instead of float32, whole tensors instead of many small objects"
    if each_s < _TRANSFER_S:
        change = "Larger batches: the transfer of any batch takes about that long."
    elif _without_accelerator(summary):
        change += "; or leave a core to it (fewer workers or torch threads)."
    else:
        change += "; pin_memory=True moves the unpickling to a thread."
    return Advice("ipc-bound", why, change)


def _head_of_line(summary: RunSummary, waits: WaitKinds) -> Advice | None:
    """One slow sample while other batches are ready; None where loading is merely uneven."""
    if waits.head_of_line_s <= _MOST_OF * (waits.stalled_s or 0.0) or not waits.head_of_line_fetches:
        return None
    stalled_each_s = waits.head_of_line_s / waits.head_of_line_fetches
    step_s = max(0.0, summary.train_s - (summary.wait_s or 0.0)) / max(1, summary.steps)
    slowest = summary.loading.slowest[0] if summary.loading is not None and summary.loading.slowest else None
    usual_s = 0.0 if summary.loading is None else summary.loading.sample_s_mean
    if stalled_each_s < step_s or (slowest is not None and slowest.load_s < _OUTLIER * usual_s):
        return None
    why = (
        f"One slow sample stalls ready batches: in {waits.head_of_line_fetches} of {waits.stalled_fetches} stalled"
        f" fetches later batches were ready ({waits.head_of_line_s:.2f} s of {waits.stalled_s or 0.0:.2f} s stalled)."
    )
    change = "in_order=False does not wait for it, but changes the order of batches"
    if slowest is None:
        return Advice("head of line", why, f"{change}; loaders of this package name the slowest samples.")
    sample = f"{slowest.path or f'sample {slowest.index}'} ({slowest.load_s * 1000:.0f} ms"
    change = f"a sample takes {usual_s * 1000:.1f} ms on average): repair it or make it smaller. {change}"
    return Advice("head of line", why, f"Look at {sample}; {change}.")


def _stalled(summary: RunSummary, waits: WaitKinds) -> Advice:
    """Worker processes that were too slow, always or now and then."""
    workers, loading, ready = _workers(summary), summary.loading, _ready(waits)
    rest_s, full = summary.train_s - (summary.wait_s or 0.0), waits.queue_full_share or 0.0
    if loading is not None and workers and rest_s > 0:
        needed = loading.load_s / rest_s
        if needed <= _BUSY * workers:
            why = f"Bursty: on average {needed:.1f} of {workers} workers are enough, but the queue runs dry at times"
            return Advice("bursty", f"{why}{ready}.", _deeper(waits, workers))
        number = max(math.ceil(needed), workers + 1)
        are = "is" if workers == 1 else "are"
        why = f"Loader-bound: loading is work for {needed:.1f} workers, and there {are} {workers}{ready}."
        change = f"num_workers={number} (now {workers})."
    else:
        if full >= _EVER_FULL:
            why = f"Bursty: the queue was full at {full * 100:.0f} % of the fetches and ran dry at others{ready}."
            return Advice("bursty", why, _deeper(waits, workers))
        number = workers + 1
        why = f"Loader-bound: the workers cannot keep up{ready}."
        change = f"More workers (now {workers}), cheaper transforms, or data stored decoded or smaller."
    fits = not workers or _may_have(summary, number)
    return Advice("loader-bound", why, change if fits else _cheaper(summary, workers))


def _cheaper(summary: RunSummary, workers: int) -> str:
    cpus = _usable_cpus(summary) or 0.0
    shared = ", which computing shares" if _without_accelerator(summary) else ""
    return (
        f"Cheaper loading, a cache, or smaller or decoded data: more than {workers} worker{'s' * (workers != 1)} on"
        f" {cpus:g} usable cores{shared} help only where loading waits for a disk or a network."
    )


def _deeper(waits: WaitKinds, workers: int) -> str:
    if waits.queue_capacity and workers:
        depth = max(1, waits.queue_capacity // workers)
        return f"prefetch_factor={2 * depth} (now {depth}) lets the prefetch queue bridge the slow batches."
    return "A higher prefetch_factor lets the prefetch queue bridge the slow batches."


def _ready(waits: WaitKinds) -> str:
    """How full the queue was; "" where it is not known."""
    if waits.queue_ready_mean is None:
        return ""
    capacity = f" of {waits.queue_capacity}" if waits.queue_capacity else ""
    return f" ({waits.queue_ready_mean:.1f}{capacity} batches were ready at a fetch)"


def _workers(summary: RunSummary) -> int:
    """Worker processes of all training loaders (count), as far as known."""
    return (summary.loading and summary.loading.num_workers) or summary.num_workers or 0


def _may_have(summary: RunSummary, workers: int) -> bool:
    """Whether the machine has a core for each of so many workers and one for the main process."""
    cpus = _usable_cpus(summary)
    return cpus is None or workers <= cpus - 1


def _usable_cpus(summary: RunSummary) -> float | None:
    value = summary.hardware.get("cpus_per_rank", summary.hardware.get("usable_cpus"))
    return float(value) if isinstance(value, (int, float)) else None


def _without_accelerator(summary: RunSummary) -> bool:
    """Whether the training computes on the cores that load, too."""
    return summary.hardware.get("accelerators") in ([], ())
