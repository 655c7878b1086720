"""Ranks, loading, the device and the evaluations of a run, as sections of the page."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning_fastdata.report.figures import share_of
from lightning_fastdata.report.html.tags import Html, facts, figure, join, section, table, tag
from lightning_fastdata.report.sections import loading_workers
from lightning_fastdata.report.units import NOT_MEASURED, count, factor, is_known, milliseconds, percent, seconds
from lightning_fastdata.results.records import STAGE_NAMES, StageWait
from lightning_fastdata.results.stats import DeviceTimes, Loading, RankTimes
from lightning_fastdata.results.summary import RunSummary

__all__ = ["device_section", "loading_section", "ranks_section", "stages_section"]

_MOST_RANKS = 32


def ranks_section(ranks: RankTimes | None) -> Html | None:
    """Each rank's own share, and what the slowest cost all; None with one rank."""
    if ranks is None:
        return None
    aside = join(
        "In every step all ranks wait for the slowest. Counting each step’s longest wait of any rank, ",
        figure("ranks-wait_share", ranks.wait_share, percent(ranks.wait_share)),
        " of the time was waiting; no single rank sees that.",
    )
    shown: list[tuple[object, object]] = [
        ("Longest wait of a step, mean", milliseconds(ranks.wait_s_max_mean)),
        ("Longest wait of a step, 95th percentile", milliseconds(ranks.wait_s_max_p95)),
        ("Longest over mean wait", factor(ranks.imbalance)),
        ("Lost by waiting for one rank", figure("ranks-lost_s", ranks.lost_s, seconds(ranks.lost_s))),
        ("Steps compared", count(ranks.steps)),
    ]
    arrived = f"{count(ranks.ranks)} of {count(ranks.world_size)}"
    shown.append(("Ranks whose figures arrived", arrived + _missing(ranks.missing)))
    return section("ranks", "Ranks", _slowest(ranks), _strips(ranks), facts(shown), aside=aside)


def _missing(missing: tuple[int, ...]) -> str:
    if not missing:
        return ""
    return f"; missing {', '.join(map(str, missing[:8]))}{', …' if len(missing) > 8 else ''}"


def _slowest(ranks: RankTimes) -> Html | None:
    if ranks.slowest_rank is None:
        return tag("p", "No rank held the others up.")
    rank = figure("ranks-slowest_rank", ranks.slowest_rank, f"Rank {ranks.slowest_rank}")
    host = f" on {ranks.slowest_host}" if ranks.slowest_host else ""
    held_up = f" most often held the others up: in {percent(ranks.slowest_share)} of the steps."
    return tag("p", tag("strong", rank, host), held_up)


def _strips(ranks: RankTimes) -> Html | None:
    """A bar a rank, in the order of ranks; of very many those that waited most."""
    shares = [entry for entry in ranks.rank_wait_share if is_known(entry[2])]
    if not shares:
        return None
    kept = sorted(sorted(shares, key=lambda entry: entry[2], reverse=True)[:_MOST_RANKS])
    longest = max(share for _, _, share in kept) or 1.0
    strips = []
    for rank, host, share in kept:
        slowest = rank == ranks.slowest_rank
        name = join(
            tag("span", f"Rank {rank}", class_="rank"), tag("small", f" {host}", class_="quiet") if host else None
        )
        fill = tag("span", class_="fill", style=f"width:{max(0.0, share / longest) * 100:.2f}%")
        said = join(figure(f"rank-{rank}", share, percent(share)), " – slowest" if slowest else "")
        inner = (tag("span", name), tag("span", fill, class_="track"), tag("span", said, class_="share"))
        strips.append(tag("li", *inner, class_="slowest" if slowest else None))
    left = len(shares) - len(kept)
    more = f"; the {count(len(kept))} that waited most of {count(len(shares))}" if left else ""
    caption = tag("p", f"Each rank’s own share of time waiting{more}.", class_="quiet")
    return join(caption, tag("ul", *strips, class_="ranks"))


def loading_section(summary: RunSummary) -> Html:
    """Loading as the processes that load have measured it, with the slowest samples."""
    heading, loading = "Loading", summary.loading
    if loading is None:
        why = "only the loaders of this package tell"
        return section("loading", heading, tag("p", f"Time of loading a batch: {NOT_MEASURED} ({why}).", class_="none"))
    workers = loading_workers(summary)
    by = "the training process" if workers == 0 else "the workers"
    shown: list[tuple[object, object]] = [
        ("A batch, mean", figure("batch_s_mean", loading.batch_s_mean, milliseconds(loading.batch_s_mean))),
        ("A batch, largest", milliseconds(loading.batch_s_max)),
        ("A sample, mean, collating included", milliseconds(loading.sample_s_mean)),
        ("All processes together", figure("load_s", loading.load_s, seconds(loading.load_s))),
        ("Batches", count(loading.batches)),
        ("Samples", count(loading.samples)),
    ]
    if summary.train_s > 0 and workers:
        busy = f"{loading.load_s / summary.train_s:.1f} of {count(workers)}"
        shown.append(("Workers kept busy, on average", busy))
    aside = f"Loading and collating as {by} measured it; it came with the batches."
    return section("loading", heading, facts(shown), *_slow_samples(loading), aside=aside)


def _slow_samples(loading: Loading) -> Iterable[Html]:
    if not loading.slowest:
        return
    yield tag("h3", "Slowest samples")
    rows = [
        (
            sample.index,
            tag("span", sample.path, class_="path") if sample.path else tag("span", "not told", class_="quiet"),
            figure(f"slow-{place}", sample.load_s, milliseconds(sample.load_s)),
            "training process" if sample.worker is None else sample.worker,
            sample.epoch,
        )
        for place, sample in enumerate(loading.slowest)
    ]
    yield table(("Index", "File", "Time", "Worker", "Epoch"), rows, caption="The slowest samples", words=2)


def device_section(summary: RunSummary) -> Html:
    """What the device saw of the waiting."""
    heading, device = "The device’s view", summary.device
    if device is None:
        why = (
            "it takes CUDA events, and this run saw no CUDA device"
            if not _has_cuda(summary.hardware)
            else "it takes CUDA events"
        )
        return section(
            "device",
            heading,
            tag("p", f"How long the device had nothing to do: {NOT_MEASURED} ({why}).", class_="none"),
        )
    shown = _device_facts(device, summary.train_s)
    aside = "From pairs of CUDA events around each fetch: waiting behind which the device still had work costs nothing."
    return section("device", heading, facts(shown), aside=aside)


def _device_facts(device: DeviceTimes, train_s: float) -> list[tuple[object, object]]:
    share = share_of(device.idle_s, train_s)
    idle = join(
        figure("device-idle_s", device.idle_s, seconds(device.idle_s)), "" if share is None else f" ({percent(share)})"
    )
    return [
        ("Nothing to do for want of data", idle),
        ("Nothing to do in a step, 95th percentile", milliseconds(device.idle_s_p95)),
        ("Waits of the host hidden behind work", figure("device-hidden_s", device.hidden_s, seconds(device.hidden_s))),
        ("Copies, on the device", seconds(device.copy_s)),
        ("Steps measured", count(device.steps)),
    ]


def _has_cuda(hardware: Mapping[str, Any]) -> bool:
    found = hardware.get("accelerators")
    return any(
        isinstance(one, Mapping) and one.get("kind") == "cuda"
        for one in (found if isinstance(found, (list, tuple)) else ())
    )


def stages_section(stages: Iterable[StageWait]) -> Html | None:
    """Validation, test and prediction; None where there were none."""
    stages = tuple(stages)
    if not stages:
        return None
    rows = [_stage_row(line) for stage in stages for line in (stage, *stage.loaders)]
    headings = ("Stage", "Runs", "Batches", "Waiting", "Elapsed", "Share", "Longest")
    verdicts = tag("ul", *(tag("li", stage.verdict.text) for stage in stages), class_="notes")
    return section("stages", "Evaluation", table(headings, rows, caption="Evaluation stages"), verdicts)


def _stage_row(line: StageWait) -> tuple[object, ...]:
    stage, _, loader = line.stage.partition("/")
    name = tag("span", f"loader {loader}", class_="inner") if loader else STAGE_NAMES.get(stage, stage).capitalize()
    return (
        name,
        count(line.runs),
        count(line.batches),
        figure(f"stage-{line.stage}-wait_s", line.wait_s, seconds(line.wait_s)),
        seconds(line.elapsed_s),
        percent(line.wait_share),
        milliseconds(line.wait_s_max),
    )
