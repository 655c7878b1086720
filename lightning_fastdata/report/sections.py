"""Which figures of a summary are shown, and under which heading: only what was measured takes up a line."""

from lightning_fastdata.report.figures import Figure, Section, share_of
from lightning_fastdata.report.ledger import ledger_section
from lightning_fastdata.report.terminal import clean, shortened
from lightning_fastdata.report.units import count, factor, is_known, milliseconds, percent, rate, seconds
from lightning_fastdata.results.stats import Boundary, DeviceTimes, Loading, RankTimes, WaitKinds
from lightning_fastdata.results.summary import RunSummary

__all__ = ["INTERVAL_UNKNOWN", "PER_EPOCH", "loading_workers", "sections"]

PER_EPOCH = "Change of epochs, mean"
INTERVAL_UNKNOWN = "interval not measured"

_MOST_EPOCHS = 3
_MOST_SAMPLES = 3
_MOST_RANKS = 4
# With figures and what stands beside them that fills 80 columns.
_NAME_WIDTH = 36


def sections(summary: RunSummary, *, brief: bool = False, fold: bool = False) -> list[Section]:
    """Everything that is to be said of one run in figures.

    Args:
        summary: One run.
        brief: For a run that has nothing to complain of: without what would explain its waiting.
        fold: Whether lines that say nothing are left out: 0.00 s, and what could not be measured on such a machine.

    Returns:
        The sections that have something to show, from top to bottom.
    """
    found = [_headline(summary), ledger_section(summary, fold=fold), _waits_of_steps(summary, brief=brief)]
    if summary.waits is not None and not brief:
        found.append(_kinds(summary.waits))
    if summary.boundary is not None:
        found.append(_boundary(summary.boundary))
    if summary.loading is not None and not brief:
        found.append(_loading(summary.loading, loading_workers(summary)))
    if summary.device is not None:
        found.append(_device(summary.device, summary.train_s))
    if summary.ranks is not None:
        found.append(_ranks(summary.ranks))
    return [section for section in found if any(not (fold and figure.is_nothing) for figure in section.figures)]


def loading_workers(summary: RunSummary) -> int | None:
    """Workers that did the loading (count): of all loaders that told, else of the training loader."""
    told = None if summary.loading is None else summary.loading.num_workers
    return summary.num_workers if told is None else told


def _headline(summary: RunSummary) -> Section:
    status = "" if summary.status == "finished" else f" ({clean(summary.status)})"
    figures = [Figure("Steps", text=count(summary.steps) + status)]
    if summary.world_size > 1:
        figures.append(Figure("Measured on rank", text=f"{summary.rank} of {summary.world_size}"))
    if summary.resumed_from is not None:
        figures.append(Figure("Steps before the checkpoint", text=count(summary.resumed_from.get("steps"))))
    figures += [
        Figure("Training time", summary.train_s),
        Figure("Samples per second", summary.samples_per_s, rate),
        Figure("In next(), first batches included", summary.wait_s),
        Figure("Share of time waiting", summary.wait_share, percent),
    ]
    if summary.ranks is not None:
        figures.append(Figure("  of all ranks together", summary.ranks.wait_share, percent))
    ceiling = summary.speedup_bound
    if ceiling is not None:
        known = is_known(ceiling.low) and is_known(ceiling.high)
        interval = f"95 %: {factor(ceiling.low)} to {factor(ceiling.high)}" if known else INTERVAL_UNKNOWN
        figures.append(Figure("Ceiling with instant data", ceiling.speedup, factor, beside=interval))
    if summary.validation_wait_s is not None:
        figures.append(Figure("Waiting in the fit's validations", summary.validation_wait_s, may_fold=True))
    return Section("", tuple(figures))


def _waits_of_steps(summary: RunSummary, *, brief: bool) -> Section:
    """Nothing where the wait was not measured: the first section says so already."""
    if summary.wait_s is None:
        return Section("", ())
    figures = [
        Figure("Median", summary.wait_s_median, milliseconds),
        Figure("95th percentile", summary.wait_s_p95, milliseconds),
        Figure("99th percentile", summary.wait_s_p99, milliseconds),
        Figure("Largest", summary.wait_s_max, milliseconds),
    ]
    if summary.percentile_steps < summary.steps:
        figures.append(Figure("  (percentiles: of the last", text=f"{count(summary.percentile_steps)} steps)"))
    first, most = summary.first_batch_wait_s, 1 if brief else _MOST_EPOCHS
    figures += [Figure(f"First batch of epoch {epoch}", wait, milliseconds) for epoch, wait in first[:most]]
    if len(first) > most:
        figures.append(Figure(f"  largest of {count(summary.epochs)} epochs", max(w for _, w in first), milliseconds))
    if brief and summary.waits is not None:
        figures += _queue(summary.waits)
    return Section("Wait of a step", tuple(figures))


def _kinds(waits: WaitKinds) -> Section:
    parts = (waits.main_process_s, waits.stalled_s, waits.worker_transfer_s, waits.unknown_s)
    whole = sum(part for part in parts if part is not None)
    named = (
        ("Inline: no workers", waits.main_process_s),
        ("Blocked: not there yet", waits.stalled_s),
        ("Handed over: was there", waits.worker_transfer_s),
        ("Not known which", waits.unknown_s),
    )
    figures = [
        Figure(name, part, share=share_of(part, whole), may_fold=True) for name, part in named if part is not None
    ]
    if waits.stalled_fetches:
        figures.append(Figure("Blocked fetches", waits.stalled_fetches, count, beside=f"of {count(waits.fetches)}"))
    if waits.head_of_line_fetches:
        beside = f"{count(waits.head_of_line_fetches)} of them"
        figures.append(Figure("  while later ones were ready", waits.head_of_line_s, beside=beside))
    from_workers = (waits.stalled_s or 0.0) + (waits.worker_transfer_s or 0.0) > 0
    heading = "Kinds of waiting" + (" (estimated)" if from_workers and not waits.exact else "")
    return Section(heading, (*figures, *_queue(waits)))


def _queue(waits: WaitKinds) -> list[Figure]:
    if waits.queue_ready_mean is None:
        return []
    capacity = "" if waits.queue_capacity is None else f" of {count(waits.queue_capacity)}"
    ready = f"{count(waits.queue_ready_mean, digits=1)}{capacity} ready"
    return [Figure("Queue at a fetch, mean", text=ready)]


def _boundary(boundary: Boundary) -> Section:
    figures = []
    if boundary.boundaries:
        figures.append(
            Figure(PER_EPOCH, boundary.per_epoch_s, beside=f"of {count(boundary.boundaries)}", may_fold=True)
        )
    if boundary.saving_s_per_epoch is not None:
        saving = seconds(boundary.saving_s_per_epoch)
        text = saving if boundary.saving_is_exact else f"at least {saving}"
        figures.append(Figure("  persistent_workers saves", text=text, beside="each"))
    figures.append(Figure("Shorter loaders anew", boundary.restart_s, may_fold=True))
    figures.append(Figure("Shutdown at the end", boundary.shutdown_s, may_fold=True))
    return Section("Epoch boundary", tuple(figures))


def _loading(loading: Loading, num_workers: int | None) -> Section:
    figures = [
        Figure("A batch, mean", loading.batch_s_mean, milliseconds),
        Figure("  largest", loading.batch_s_max, milliseconds),
        Figure("A sample, mean", loading.sample_s_mean, milliseconds),
    ]
    for place, sample in enumerate(loading.slowest[:_MOST_SAMPLES]):
        where = f"epoch {sample.epoch}" + ("" if sample.worker is None else f", worker {sample.worker}")
        before = "  then: " if place else "  slowest: "
        name = before + shortened(sample.path or f"sample {sample.index}", _NAME_WIDTH - len(before))
        figures.append(Figure(name, sample.load_s, milliseconds, beside=where, in_comparisons=False))
    workers = f", by {count(num_workers)} worker{'' if num_workers == 1 else 's'}" if num_workers else ""
    return Section(f"Loading{workers}", tuple(figures))


def _device(device: DeviceTimes, train_s: float) -> Section:
    figures = [
        Figure("Idle for want of data", device.idle_s, share=share_of(device.idle_s, train_s)),
        Figure("  95th percentile of a step", device.idle_s_p95, milliseconds),
        Figure("Waits hidden by queued work", device.hidden_s),
        Figure("Copying, on the device", device.copy_s),
    ]
    return Section("Device", tuple(figures))


def _ranks(ranks: RankTimes) -> Section:
    figures = [
        Figure("Largest wait, mean", ranks.wait_s_max_mean, milliseconds),
        Figure("  95th percentile", ranks.wait_s_max_p95, milliseconds),
        Figure("Largest / mean wait", ranks.imbalance, factor),
        Figure("The others lost", ranks.lost_s),
    ]
    if ranks.slowest_rank is not None:
        beside = f"{percent(ranks.slowest_share)} of steps"
        figures.append(Figure("Most often the slowest", text=f"rank {ranks.slowest_rank}", beside=beside))
    worst = sorted(ranks.rank_wait_share, key=lambda entry: entry[2], reverse=True)[:_MOST_RANKS]
    for rank, host, share in worst:
        where = f" on {shortened(host, _NAME_WIDTH - len(f'Rank {rank} on  waited'))}" if host else ""
        name = f"Rank {rank}{where} waited"
        figures.append(Figure(name, share, percent, in_comparisons=False))
    left = len(ranks.rank_wait_share) - len(worst)
    if left:
        figures.append(Figure(f"  and {count(left)} more, each at most", worst[-1][2], percent, in_comparisons=False))
    if ranks.missing:
        text = ", ".join(map(str, ranks.missing[:8])) + (", ..." if len(ranks.missing) > 8 else "")
        figures.append(Figure("Ranks that did not report", text=text, in_comparisons=False))
    return Section(f"Ranks ({count(ranks.ranks)} of {count(ranks.world_size)})", tuple(figures))
