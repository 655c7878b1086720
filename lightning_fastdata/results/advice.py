"""From the kind of waiting in training steps to a cause and the one change to try first."""

import math
from dataclasses import dataclass

from lightning_fastdata.results.stats import WaitKinds
from lightning_fastdata.results.summary import RunSummary

__all__ = ["Advice", "of_a_healthy_run", "of_steady_waiting"]

_MOST_OF = 0.5
# Handing one batch over from a worker takes about so long, whatever it holds.
_HANDOFF_S = 2e-3
# Workers that are busy more than this share of the time cannot catch up with a burst.
_BUSY = 0.9
# A queue that is this full at most fetches has workers to spare.
_FULL = 0.9
_SPARE = 1.3
# A queue that is never full is filled more slowly than it is emptied; one that often is runs dry now and then only.
_EVER_FULL = 0.1
# A sample this many times slower than the mean is one that holds others up, and no mere unevenness.
_OUTLIER = 5.0


@dataclass(frozen=True)
class Advice:
    """What a verdict adds to its headline."""

    cause: str
    """The kind of waiting, in a word or two; "" where it is not known."""
    why: str
    """A sentence with the figures."""
    change: str
    """The one change to try first; "" for none."""


def of_a_healthy_run(summary: RunSummary) -> Advice:
    """Nothing to complain of; perhaps fewer workers would do.

    Args:
        summary: A run that hardly waited.
    """
    waits, workers = summary.waits, _workers(summary)
    if waits is None:
        return Advice("", "", "")
    full = waits.queue_full_share
    if workers < 2 or full is None or full < _FULL or waits.stalled_fetches * 20 > waits.fetches:
        return Advice("healthy", "", "")
    why = f"Headroom: {_ready(waits)} batches were ready when the next one was asked for"
    if summary.loading is not None and summary.train_s > 0:
        busy = summary.loading.load_s / summary.train_s
        fewer = max(1, math.ceil(busy * _SPARE))
        why += f", and {workers} workers had work for {busy:.1f}"
        if fewer >= workers:
            return Advice("healthy", "", "")
    else:
        fewer = workers // 2
    change = f"num_workers={fewer} would do (now {workers}), which leaves cores and memory to others."
    return Advice("over-provisioned", f"{why}.", change)


def of_steady_waiting(summary: RunSummary) -> Advice:
    """The kind of waiting that most of the time in training steps went to.

    Args:
        summary: A run that waited in its training steps.
    """
    waits = summary.waits
    if waits is None:
        return Advice("", "", "")
    kinds = (waits.main_process_s, waits.stalled_s, waits.worker_transfer_s)
    steady = waits.unknown_s + sum(part or 0.0 for part in kinds)
    if waits.main_process_s is None or waits.unknown_s > _MOST_OF * steady:
        why = "What kind of waiting it was is not known for this loader."
        return Advice("", why, "If it can have more workers, those; else cheaper transforms or smaller data.")
    if waits.main_process_s > _MOST_OF * steady:
        return _inline(summary, waits, waits.main_process_s)
    if (waits.worker_transfer_s or 0.0) > _MOST_OF * steady:
        return _handoff(summary, waits)
    return _held_up(summary, waits) or _blocked(summary, waits)


def _inline(summary: RunSummary, waits: WaitKinds, main_process_s: float) -> Advice:
    """The training process loads; what workers could gain is bounded by what they would do beside it."""
    load_s = main_process_s / waits.fetches
    rest_s = max(1e-9, summary.train_s - (summary.wait_s or 0.0)) / waits.fetches
    why = (
        f"The training process loads the data itself (num_workers=0), {load_s * 1000:.1f} ms a batch beside"
        f" {rest_s * 1000:.1f} ms of everything else."
    )
    if load_s < _HANDOFF_S:
        change = "Larger batches, or whole batches by one index operation (TensorDataModule): handing one over from a"
        return Advice("main-process loading", why, f"{change} worker would take as long.")
    cpus = _usable_cpus(summary)
    room = 1_000 if cpus is None else int(cpus) - 1
    if room < 1:
        change = (
            "Cheaper loading, or data that is stored decoded or smaller: there is one core for loading and training."
        )
        return Advice("main-process loading", why, change)
    if _without_accelerator(summary):
        gain = (load_s + rest_s) / max(load_s, rest_s)
        change = f"torch.set_num_threads({room}) and num_workers=1: without an accelerator computing and loading share"
        return Advice(
            "main-process loading", why, f"{change} {cpus:g} cores, so at most {gain:.2f}x the training speed."
        )
    number = max(1, min(math.ceil(load_s / rest_s), room))
    gain = (load_s + rest_s) / max(load_s / number, rest_s)
    return Advice("main-process loading", why, f"num_workers={number}, at most {gain:.2f}x the training speed.")


def _handoff(summary: RunSummary, waits: WaitKinds) -> Advice:
    each_s = (waits.worker_transfer_s or 0.0) / waits.fetches
    why = f"The batches were ready; taking one out of the queue took {each_s * 1000:.1f} ms on average."
    if each_s < _HANDOFF_S:
        return Advice("ipc-bound", why, "Larger batches: about that long is what handing over any batch costs.")
    change = "Send less per batch: uint8 instead of float32, whole tensors instead of many small objects"
    if not _without_accelerator(summary):
        return Advice("ipc-bound", why, f"{change}; pin_memory=True moves the unpickling to a thread.")
    return Advice("ipc-bound", why, f"{change}; or leave a core to it (fewer workers or torch threads).")


def _held_up(summary: RunSummary, waits: WaitKinds) -> Advice | None:
    """One slow sample while others are ready; None where loading is merely uneven."""
    if waits.head_of_line_s <= _MOST_OF * (waits.stalled_s or 0.0) or not waits.head_of_line_fetches:
        return None
    blocked_each = waits.head_of_line_s / waits.head_of_line_fetches
    step_s = max(0.0, summary.train_s - (summary.wait_s or 0.0)) / max(1, summary.steps)
    slowest = summary.loading.slowest[0] if summary.loading is not None and summary.loading.slowest else None
    usual_s = 0.0 if summary.loading is None else summary.loading.sample_s_mean
    if blocked_each < step_s or (slowest is not None and slowest.load_s < _OUTLIER * usual_s):
        return None
    why = (
        f"One slow sample holds up ready batches: in {waits.head_of_line_fetches} of {waits.stalled_fetches} blocked"
        f" fetches later batches were ready ({waits.head_of_line_s:.2f} s of {waits.stalled_s or 0.0:.2f} s blocked)."
    )
    order = "in_order=False does not wait for it, but changes the order of batches"
    if slowest is None:
        return Advice("head of line", why, f"{order}; loaders of this package name the slowest samples.")
    sample = slowest.path or f"sample {slowest.index}"
    change = f"Look at {sample} ({slowest.load_s * 1000:.0f} ms; a sample takes {usual_s * 1000:.1f} ms on average)"
    return Advice("head of line", why, f"{change}: mend it or make it smaller. {order}.")


def _blocked(summary: RunSummary, waits: WaitKinds) -> Advice:
    """Worker processes that were too slow, always or now and then."""
    workers, loading = _workers(summary), summary.loading
    seen = "" if waits.queue_ready_mean is None else f"{_ready(waits)} batches were ready when the next was asked for"
    step_s = summary.train_s - (summary.wait_s or 0.0)
    if loading is not None and workers and step_s > 0:
        needed = loading.load_s / step_s
        if needed > _BUSY * workers:
            return _too_slow(summary, needed, seen)
        why = f"Bursty: on average {needed:.1f} of {workers} workers are enough, but now and then the queue runs dry"
        return Advice("bursty", f"{why} ({seen})." if seen else f"{why}.", _deeper(waits, workers))
    if waits.queue_full_share is not None and waits.queue_full_share >= _EVER_FULL:
        why = f"Bursty: the queue was full at {waits.queue_full_share * 100:.0f} % of the fetches and ran dry at others"
        return Advice("bursty", f"{why} ({seen}).", _deeper(waits, workers))
    why = f"Too slow: the workers cannot keep up ({seen})." if seen else "Too slow: the workers cannot keep up."
    if workers and not _may_have(summary, workers + 1):
        return Advice("loader-bound", why, _cheaper(summary, workers))
    change = f"More workers (now {workers}), cheaper transforms, or data that is stored decoded or smaller."
    return Advice("loader-bound", why, change)


def _too_slow(summary: RunSummary, needed: float, seen: str) -> Advice:
    workers = _workers(summary)
    why = f"Too slow: loading is work for {needed:.1f} workers, and there {'is' if workers == 1 else 'are'} {workers}"
    why += f" ({seen})." if seen else "."
    number = max(math.ceil(needed), workers + 1)
    if _may_have(summary, number):
        return Advice("loader-bound", why, f"num_workers={number} (now {workers}).")
    return Advice("loader-bound", why, _cheaper(summary, workers))


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
        return f"prefetch_factor={2 * depth} (now {depth}) lets the queue carry over the slow stretches."
    return "A higher prefetch_factor lets the queue carry over the slow stretches."


def _ready(waits: WaitKinds) -> str:
    capacity = f" of {waits.queue_capacity}" if waits.queue_capacity else ""
    return f"{waits.queue_ready_mean or 0.0:.1f}{capacity}"


def _workers(summary: RunSummary) -> int:
    """Worker processes of all training loaders (count), as far as known."""
    told = None if summary.loading is None else summary.loading.num_workers
    return told or summary.num_workers or 0


def _may_have(summary: RunSummary, workers: int) -> bool:
    """Whether the machine has a core for each of so many workers and one for the training process."""
    cpus = _usable_cpus(summary)
    return cpus is None or workers <= cpus - 1


def _usable_cpus(summary: RunSummary) -> float | None:
    value = summary.hardware.get("cpus_per_rank", summary.hardware.get("usable_cpus"))
    return float(value) if isinstance(value, (int, float)) else None


def _without_accelerator(summary: RunSummary) -> bool:
    """Whether the training computes on the cores that load, too."""
    return summary.hardware.get("accelerators") in ([], ())
