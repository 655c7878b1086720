"""Which figures of a summary are shown, and under which heading: only what was measured takes up a line.

The text report, the comparison and the page take their figures from here, so that each has one name.
"""

from lightning_fastdata.report.figures import CAUSES, Figure, Section, share_of
from lightning_fastdata.report.terminal import clean, shortened
from lightning_fastdata.report.units import (
    NOT_MEASURED,
    aligned_seconds,
    count,
    factor,
    is_known,
    milliseconds,
    percent,
    plural,
    rate,
    seconds,
)
from lightning_fastdata.results.stats import ACCOUNTS, WaitKinds
from lightning_fastdata.results.summary import RunSummary

__all__ = ["INTERVAL_UNKNOWN", "ledger_section", "loading_workers", "sections"]

INTERVAL_UNKNOWN = "95 %: not measured"

_MOST_SAMPLES = 3
_MOST_RANKS = 4
# With figures and what stands beside them that fills 80 columns.
_NAME_WIDTH = 37


def sections(summary: RunSummary, *, epochs: int = 3, brief: bool = False) -> dict[str, Section]:
    """All figures of one run, from top to bottom; a section without figures was not measured.

    Args:
        summary: One run.
        epochs: Epochs whose first batches are listed (count).
        brief: For a run without a problem: without what would explain its data wait.
    """
    return {
        "headline": _headline(summary),
        "ledger": ledger_section(summary),
        "steps": _steps(summary, 1 if brief else epochs, with_queue=brief),
        **({} if brief else {"causes": _causes(summary)}),
        "boundary": _boundary(summary),
        **({} if brief else {"loading": _loading(summary)}),
        "device": _device(summary),
        "ranks": _ranks(summary),
    }


def loading_workers(summary: RunSummary) -> int | None:
    """Workers that did the loading (count): of all loaders that report it, else of the training loader."""
    reported = None if summary.loading is None else summary.loading.num_workers
    return summary.num_workers if reported is None else reported


def _headline(summary: RunSummary) -> Section:
    figures = [Figure("Steps", text=count(summary.steps))]
    if summary.status != "finished":
        figures.append(Figure("Status", text=clean(summary.status)))
    if summary.world_size > 1:
        figures.append(Figure("Measured on rank", text=f"{summary.rank} of {summary.world_size}"))
    if summary.resumed_from is not None:
        figures.append(Figure("Steps before the checkpoint", text=count(summary.resumed_from.get("steps"))))
    figures += [
        Figure("Training time", summary.train_s, id="train_s"),
        Figure("Samples per second", summary.samples_per_s, rate, id="samples_per_s"),
        Figure("Total data wait (incl. first batches)", summary.wait_s, id="wait_s"),
        Figure("Data wait / training time", summary.wait_share, percent, id="wait_share"),
    ]
    if summary.ranks is not None:
        figures.append(Figure("  of all ranks together", summary.ranks.wait_share, percent))
    bound = summary.speedup_bound
    if bound is not None:
        known = is_known(bound.low) and is_known(bound.high)
        interval = f"95 %: {factor(bound.low)} to {factor(bound.high)}" if known else INTERVAL_UNKNOWN
        figures.append(
            Figure("Max speedup at zero data wait", bound.speedup, factor, beside=interval, id="speedup_bound")
        )
    if summary.validation_wait_s is not None:
        figures.append(Figure("Data wait in the fit's validations", summary.validation_wait_s, may_fold=True))
    return Section("", tuple(figures))


def ledger_section(summary: RunSummary) -> Section:
    """Where every second from the callback's setup to its teardown went: the accounts in order, and their total."""
    # A newer version may have more accounts; left out they would be missing from the sum.
    others = {name: name.removesuffix("_s").replace("_", " ").capitalize() for name in summary.ledger}
    names = {**ACCOUNTS, **others, **ACCOUNTS}
    figures = [_account(summary, name, called) for name, called in names.items() if name in summary.ledger]
    if summary.total_s is not None:
        share = share_of(summary.total_s, summary.total_s) if figures else None
        figures.append(Figure("Total, setup to teardown", summary.total_s, aligned_seconds, share=share))
    return Section("Where the time went", tuple(figures))


def _account(summary: RunSummary, name: str, called: str) -> Figure:
    element = f"ledger-{name}"
    if name in summary.not_measured:
        # There was nothing to measure: no device, or a single rank.
        moot = (name == "transfer_s" and summary.hardware.get("accelerators") in ([], ())) or (
            name == "sync_s" and summary.world_size == 1
        )
        return Figure(called, text=NOT_MEASURED, may_fold=moot, id=element)
    value_s, share = summary.ledger[name], share_of(summary.ledger[name], summary.total_s)
    return Figure(called, value_s, aligned_seconds, share=share, may_fold=True, id=element)


def _steps(summary: RunSummary, epochs: int, *, with_queue: bool = False) -> Section:
    """The data wait of a step; nothing where it was not measured."""
    heading = "Data wait per step"
    if summary.wait_s is None:
        return Section(heading, ())
    figures = [
        Figure("Median", summary.wait_s_median, milliseconds, id="p50"),
        Figure("95th percentile", summary.wait_s_p95, milliseconds, id="p95"),
        Figure("99th percentile", summary.wait_s_p99, milliseconds, id="p99"),
        Figure("Largest", summary.wait_s_max, milliseconds, id="wait_max"),
    ]
    if summary.percentile_steps < summary.steps:
        figures.append(Figure("  (percentiles: of the last", text=f"{count(summary.percentile_steps)} steps)"))
    first = summary.first_batch_wait_s
    for epoch, wait_s in first[:epochs]:
        figures.append(Figure(f"First batch of epoch {epoch}", wait_s, milliseconds, id=f"first-{epoch}"))
    if len(first) > epochs:
        name, largest_s = f"  largest of {count(summary.epochs)} epochs", max(wait_s for _, wait_s in first)
        figures.append(Figure(name, largest_s, milliseconds, id="first-largest"))
    if with_queue and summary.waits is not None:
        figures += _queue(summary.waits)
    return Section(heading, tuple(figures))


def _causes(summary: RunSummary) -> Section:
    """The data wait by its cause, and how full the prefetch queue was."""
    heading, waits = "Data wait by cause", summary.waits
    if waits is None:
        return Section(heading, ())
    values = {cause: getattr(waits, f"{cause}_s") for cause in CAUSES}
    total_s = sum(value_s for value_s in values.values() if value_s is not None)
    figures = [
        Figure(CAUSES[cause], value_s, share=share_of(value_s, total_s), may_fold=True, id=f"waits-{cause}_s")
        for cause, value_s in values.items()
        if value_s is not None
    ]
    stalled, fetches = waits.stalled_fetches, f"of {count(waits.fetches)}"
    figures.append(Figure("Stalls of more than 1 ms", stalled, count, may_fold=True, beside=fetches, id="waits-stalls"))
    if waits.head_of_line_fetches:
        beside = f"{count(waits.head_of_line_fetches)} of them"
        name = "  while later batches were ready"
        figures.append(Figure(name, waits.head_of_line_s, beside=beside, id="waits-head_of_line_s"))
    from_workers = (waits.stalled_s or 0.0) + (waits.worker_transfer_s or 0.0) > 0
    estimated = " (estimated)" if from_workers and not waits.exact else ""
    return Section(heading + estimated, (*figures, *_queue(waits)))


def _queue(waits: WaitKinds) -> list[Figure]:
    if waits.queue_ready_mean is None:
        return []
    capacity = f" of {count(waits.queue_capacity)}" if waits.queue_capacity else ""
    ready = f"{count(waits.queue_ready_mean, digits=1)}{capacity} ready"
    figures = [Figure("Prefetch queue at a fetch, mean", waits.queue_ready_mean, text=ready, id="queue_ready_mean")]
    if waits.queue_full_share is not None:
        name = "Fetches with a nearly full queue"
        figures.append(Figure(name, waits.queue_full_share, percent, id="queue_full_share", in_text=False))
    return figures


def _boundary(summary: RunSummary) -> Section:
    """What the change from one epoch to the next costs."""
    heading, boundary = "Epoch boundary", summary.boundary
    if boundary is None:
        return Section(heading, ())
    figures = []
    if boundary.boundaries:
        name, of = "Epoch boundary, mean", f"of {count(boundary.boundaries)}"
        figures += [
            Figure(name, boundary.per_epoch_s, beside=of, may_fold=True, id="boundary-per_epoch_s"),
            Figure("Iterators made or reset, total", boundary.iterator_s, id="boundary-iterator_s", in_text=False),
            Figure("First batches from workers, total", boundary.refill_s, id="boundary-refill_s", in_text=False),
        ]
    if boundary.saving_s_per_epoch is not None:
        name, saving_s = "persistent_workers saves", boundary.saving_s_per_epoch
        text = seconds(saving_s) if boundary.saving_is_exact else f"at least {seconds(saving_s)}"
        figures.append(Figure(name, saving_s, text=text, beside="each", id="boundary-saving_s_per_epoch"))
    elif boundary.persistent_workers:
        figures.append(Figure("Workers kept between epochs", text="yes", id="boundary-persistent", in_text=False))
    figures += [
        Figure("Restarts of shorter loaders", boundary.restart_s, may_fold=True, id="boundary-restart_s"),
        Figure("Shutdown at the end", boundary.shutdown_s, may_fold=True, id="boundary-shutdown_s"),
    ]
    return Section(heading, tuple(figures))


def _loading(summary: RunSummary) -> Section:
    """Loading as the loading processes measured it; nothing where they did not."""
    loading, workers = summary.loading, loading_workers(summary)
    if loading is None:
        return Section("Loading", ())
    figures = [
        Figure("Batch, mean", loading.batch_s_mean, milliseconds, id="batch_s_mean"),
        Figure("Batch, largest", loading.batch_s_max, milliseconds, id="batch_s_max"),
        Figure("Sample incl. collation, mean", loading.sample_s_mean, milliseconds, id="sample_s_mean"),
        Figure("All processes together", loading.load_s, id="load_s", in_text=False),
        Figure("Batches", loading.batches, count, id="loading-batches", in_text=False),
        Figure("Samples", loading.samples, count, id="loading-samples", in_text=False),
    ]
    if summary.train_s > 0 and workers:
        busy = loading.load_s / summary.train_s
        text = f"{count(busy, digits=1)} of {count(workers)}"
        figures.append(Figure("Busy workers, mean", busy, text=text, id="loading-busy", in_text=False))
    for number, sample in enumerate(loading.slowest[:_MOST_SAMPLES]):
        where = f"epoch {sample.epoch}" + ("" if sample.worker is None else f", worker {sample.worker}")
        before = "  then: " if number else "  slowest: "
        name = before + shortened(sample.path or f"sample {sample.index}", _NAME_WIDTH - len(before))
        figures.append(Figure(name, sample.load_s, milliseconds, beside=where, in_comparisons=False))
    return Section(f"Loading, by {plural(workers, 'worker')}" if workers else "Loading", tuple(figures))


def _device(summary: RunSummary) -> Section:
    """How the device saw the fetches."""
    heading, device = "Device", summary.device
    if device is None:
        return Section(heading, ())
    starved = share_of(device.idle_s, summary.train_s)
    figures = (
        Figure("GPU starved", device.idle_s, share=starved, id="device-idle_s"),
        Figure("  per step, 95th percentile", device.idle_s_p95, milliseconds, id="device-idle_s_p95"),
        Figure("Overlapped wait", device.hidden_s, id="device-hidden_s"),
        Figure("Copies on the device", device.copy_s, id="device-copy_s"),
        Figure("Steps measured", device.steps, count, id="device-steps", in_text=False),
    )
    return Section(heading, figures)


def _ranks(summary: RunSummary) -> Section:
    """All ranks together: what the straggler cost, and the ranks with the most data wait."""
    ranks = summary.ranks
    if ranks is None:
        return Section("Ranks", ())
    missing = ", ".join(map(str, ranks.missing[:8])) + (", ..." if len(ranks.missing) > 8 else "")
    reported = f"{count(ranks.ranks)} of {count(ranks.world_size)}"
    figures = [
        Figure("Largest data wait, mean", ranks.wait_s_max_mean, milliseconds, id="ranks-wait_s_max_mean"),
        Figure("  95th percentile", ranks.wait_s_max_p95, milliseconds, id="ranks-wait_s_max_p95"),
        Figure("Largest / mean data wait", ranks.imbalance, factor, id="ranks-imbalance"),
        Figure("Lost to the straggler", ranks.lost_s, id="ranks-lost_s"),
        Figure("Steps compared", ranks.steps, count, id="ranks-steps", in_text=False),
        Figure("Ranks that reported", text=reported, id="ranks-reported", in_text=False),
    ]
    if ranks.slowest_rank is not None:
        beside = f"{percent(ranks.slowest_share)} of steps"
        figures.append(Figure("Most often the straggler", text=f"rank {ranks.slowest_rank}", beside=beside))
    worst = sorted(ranks.rank_wait_share, key=lambda entry: entry[2], reverse=True)[:_MOST_RANKS]
    for rank, host, share in worst:
        start = f"Data wait, rank {rank}"
        name = start + (f" on {shortened(host, _NAME_WIDTH - len(start) - 4)}" if host else "")
        figures.append(Figure(name, share, percent, in_comparisons=False))
    left = len(ranks.rank_wait_share) - len(worst)
    if left:
        figures.append(Figure(f"  and {count(left)} more, each at most", worst[-1][2], percent, in_comparisons=False))
    if missing:
        figures.append(Figure("Ranks that did not report", text=missing, id="ranks-missing", in_comparisons=False))
    return Section(f"Ranks ({reported})", tuple(figures))
