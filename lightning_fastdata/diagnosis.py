"""Why a run waited, with the figures that say so, and the one change to try first."""

import math
from collections.abc import Sequence
from dataclasses import replace

from lightning_fastdata.ceiling import ceiling_of
from lightning_fastdata.findings import Ceiling, WaitKinds
from lightning_fastdata.records import StepRecord
from lightning_fastdata.summary import RunSummary
from lightning_fastdata.verdict import FEW_STEPS, Verdict

__all__ = ["diagnosed"]

_MOST_OF = 0.5
# Workers that are busy more than this share of the time cannot catch up with a burst.
_BUSY = 0.9
# A queue that is this full at most fetches has workers to spare.
_FULL = 0.9
_SPARE = 1.3
# A queue that is never full is filled more slowly than it is emptied; one that often is runs dry now and then only.
_EVER_FULL = 0.1


def diagnosed(summary: RunSummary, records: Sequence[StepRecord]) -> RunSummary:
    """The summary with its ceiling, and with a verdict that names the kind of waiting.

    Args:
        summary: A run whose ledger, kinds of waiting and loading are filled in, as far as they were measured.
        records: Its steps, as many as were kept.
    """
    summary = replace(summary, ceiling=ceiling_of(summary, records))
    verdict = summary.verdict
    if not summary.steps or summary.wait_share is None:
        return summary
    text = _with_ceiling(verdict, summary.ceiling)
    if summary.waits is None:
        return replace(summary, verdict=replace(verdict, text=text))
    if verdict.level == "fine":
        cause, why, change = _of_fine(summary, summary.waits)
    else:
        cause, why, change = _of_waiting(summary, summary.waits)
    if summary.steps < FEW_STEPS and change:
        change = f"{change} First measure a longer run, though."
    text = f"{text} {why}" if why else text
    return replace(summary, verdict=replace(verdict, text=text, cause=cause, try_first=change))


def _with_ceiling(verdict: Verdict, ceiling: Ceiling | None) -> str:
    """The sentence, its bound replaced by the one from the ledger."""
    opening, found, rest = verdict.text.partition("; an instant loader would make this run ")
    if ceiling is None or not found:
        return verdict.text
    _, _, rest = rest.partition(" faster")
    bound = f"at most {ceiling.speedup:.2f}x" if ceiling.speedup < 99 else "about 100x or more"
    return f"{opening}; an instant loader would make this run {bound} faster{rest}"


def _of_fine(summary: RunSummary, waits: WaitKinds) -> tuple[str, str, str]:
    """Nothing to complain of; perhaps fewer workers would do."""
    workers, full = summary.num_workers or 0, waits.queue_full_share
    if workers < 2 or full is None or full < _FULL or waits.blocked_fetches * 20 > waits.fetches:
        return "healthy", "", ""
    seen = f"{_ready(waits)} batches were ready when the next one was asked for"
    if summary.loading is not None and summary.train_s > 0:
        busy = summary.loading.load_s / summary.train_s
        fewer = max(1, math.ceil(busy * _SPARE))
        if fewer >= workers:
            return "healthy", "", ""
        why = f"Headroom: {seen}, and {workers} workers had work for {busy:.1f}."
    else:
        fewer = workers // 2
        why = f"Headroom: {seen}."
    return "headroom", why, f"num_workers={fewer} would do (now {workers}), which leaves cores and memory to others."


def _of_waiting(summary: RunSummary, waits: WaitKinds) -> tuple[str, str, str]:
    """The kind of waiting that most of the time went to."""
    steady = waits.unknown_s + sum(part or 0.0 for part in (waits.inline_s, waits.blocked_s, waits.handoff_s))
    whole = summary.wait_s or 0.0
    if whole and steady < _MOST_OF * whole:
        return _at_the_boundary(summary, whole - steady)
    if waits.inline_s is None or waits.unknown_s > _MOST_OF * steady:
        return "", "What kind of waiting it was is not known for this loader.", ""
    if waits.inline_s > _MOST_OF * steady:
        return (
            "inline",
            "With num_workers=0 it is work rather than waiting: the training process loads the data itself.",
            "Give the loader worker processes (num_workers of at least 1), or make loading cheaper.",
        )
    if (waits.handoff_s or 0.0) > _MOST_OF * steady:
        each = (waits.handoff_s or 0.0) / waits.fetches
        return (
            "handoff",
            f"The batches were ready; taking one out of the queue took {each * 1000:.1f} ms on average.",
            "Send less per batch: uint8 instead of float32, whole tensors instead of small objects; pin_memory=True"
            " moves the unpickling to a thread. Small batches take that long only where the cores are busy otherwise.",
        )
    if waits.head_of_line_s > _MOST_OF * (waits.blocked_s or 0.0):
        return _head_of_line(summary, waits)
    return _blocked(summary, waits)


def _at_the_boundary(summary: RunSummary, refill_s: float) -> tuple[str, str, str]:
    boundary = summary.boundary
    why = f"Most of it was the first batch of an epoch ({refill_s:.2f} s in all), not the steady run."
    if boundary is not None and boundary.persistent_workers is False and boundary.boundaries:
        return "boundary", why, "persistent_workers=True keeps the workers from epoch to epoch."
    return "boundary", why, "Longer epochs (more steps between two beginnings), or workers that start faster."


def _head_of_line(summary: RunSummary, waits: WaitKinds) -> tuple[str, str, str]:
    why = (
        f"One slow sample holds up ready batches: in {waits.head_of_line_fetches} of {waits.blocked_fetches} blocked"
        f" fetches later batches were ready ({waits.head_of_line_s:.2f} s of {waits.blocked_s or 0.0:.2f} s blocked)."
    )
    slowest = summary.loading.slowest[:1] if summary.loading is not None else ()
    for sample in slowest:
        why += f" The slowest sample was {sample.path or sample.index} ({sample.load_s * 1000:.0f} ms)."
    change = "Mend or leave out the slowest samples; in_order=False would not wait for them, but changes the order."
    return "head of line", why, change


def _blocked(summary: RunSummary, waits: WaitKinds) -> tuple[str, str, str]:
    """Worker processes that were too slow, always or now and then."""
    workers, loading = summary.num_workers or 0, summary.loading
    seen = (
        f"{_ready(waits)} batches were ready when the next one was asked for"
        if waits.queue_ready_mean is not None
        else ""
    )
    step_s = summary.train_s - (waits.blocked_s or 0.0)
    if loading is not None and workers and step_s > 0:
        needed = loading.load_s / step_s
        if needed > _BUSY * workers:
            return _too_slow(summary, needed, seen)
        why = f"Bursty: on average {needed:.1f} of {workers} workers are enough, but now and then the queue runs dry"
        return "bursty", f"{why} ({seen}).", _deeper(waits, workers)
    if waits.queue_full_share is not None and waits.queue_full_share >= _EVER_FULL:
        why = f"Bursty: the queue was full at {waits.queue_full_share:.0%} of the fetches and ran dry at others"
        return "bursty", f"{why} ({seen}).", _deeper(waits, workers)
    why = f"Too slow: the workers cannot keep up ({seen})." if seen else "Too slow: the workers cannot keep up."
    return (
        "too slow",
        why,
        f"More workers (now {workers}), cheaper transforms, or data that is stored decoded or smaller.",
    )


def _too_slow(summary: RunSummary, needed: float, seen: str) -> tuple[str, str, str]:
    workers, number = summary.num_workers or 0, math.ceil(needed)
    why = f"Too slow: loading is work for {needed:.1f} workers, and there are {workers}"
    why += f" ({seen})." if seen else "."
    cpus = _usable_cpus(summary)
    if cpus is not None and number > cpus:
        change = f"Cheaper loading, a cache, or smaller or decoded data: {number} workers on {cpus:g} usable cores help"
        return "too slow", why, f"{change} only where loading waits for a disk or a network."
    if number > workers:
        return "too slow", why, f"num_workers={number} (now {workers})."
    return "too slow", why, f"One or two more workers (now {workers}), or cheaper loading."


def _deeper(waits: WaitKinds, workers: int) -> str:
    if waits.queue_capacity and workers:
        depth = waits.queue_capacity // workers
        return f"prefetch_factor={2 * depth} (now {depth}) lets the queue carry over the slow stretches."
    return "A higher prefetch_factor lets the queue carry over the slow stretches."


def _ready(waits: WaitKinds) -> str:
    capacity = f" of {waits.queue_capacity}" if waits.queue_capacity else ""
    return f"{waits.queue_ready_mean or 0.0:.1f}{capacity}"


def _usable_cpus(summary: RunSummary) -> float | None:
    value = summary.hardware.get("cpus_per_rank", summary.hardware.get("usable_cpus"))
    return float(value) if isinstance(value, (int, float)) else None
