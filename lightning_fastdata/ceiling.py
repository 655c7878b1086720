"""How much faster a run could get at most if its data cost nothing, from what the run itself has measured."""

import math
from collections.abc import Sequence

from lightning_fastdata.findings import Ceiling, DeviceTimes, RankTimes
from lightning_fastdata.records import StepRecord
from lightning_fastdata.summary import RunSummary

__all__ = ["ceiling_of"]

_BLOCKS = 20
_NORMAL_95 = 1.96
# Above this a ratio says nothing any more but "very much".
_MOST_SHARE = 0.99


def ceiling_of(summary: RunSummary, records: Sequence[StepRecord]) -> Ceiling | None:
    """The bound ``of_s / (of_s - exposed_s)``: the whole exposed wait gone and nothing else changed.

    Its interval comes from the spread of the exposed share between up to 20 blocks of consecutive steps (batch means,
    which allow for neighbouring steps being alike), so it says how the figure would differ in another stretch of such
    a run. The start-up is left out: it would hide the waiting of a short trial, and is paid once.

    Args:
        summary: A run with a ledger.
        records: Its steps, as many as were kept.

    Returns:
        None where there is no ledger, or the wait was not measured.
    """
    ledger = summary.ledger
    if not ledger or summary.total_s is None or summary.wait_s is None:
        return None
    of_s = summary.total_s - ledger.get("startup_s", 0.0)
    if of_s <= 0:
        return None
    exposed_s, exposed_by = _exposed(summary, ledger.get("wait_s", 0.0))
    boundary = summary.boundary
    exposed_s += 0.0 if boundary is None else boundary.iterator_s + boundary.refill_s + boundary.restart_s
    share = min(_MOST_SHARE, exposed_s / of_s)
    error, steps = _error_of_share(records, exposed_by)
    # The spread is that of the steps; what is not in steps (validation, boundaries) dilutes it likewise.
    error *= summary.train_s / of_s if of_s else 0.0
    low, high = max(0.0, share - error), min(_MOST_SHARE, share + error)
    return Ceiling(
        speedup=1 / (1 - share),
        low=1 / (1 - low),
        high=1 / (1 - high),
        exposed_s=exposed_s,
        of_s=of_s,
        exposed_by=exposed_by,
        steps=steps,
    )


def _exposed(summary: RunSummary, wait_s: float) -> tuple[float, str]:
    """Waiting in the steady run that was really lost (s), and who measured it."""
    ranks, device = summary.ranks, summary.device
    if ranks is not None and ranks.wait_share * summary.train_s > wait_s:
        return _of_ranks(ranks, summary.train_s), "ranks"
    if device is not None and device.steps >= summary.steps > 0:
        return min(wait_s, _of_device(device)), "device"
    return wait_s, "host"


def _of_ranks(ranks: RankTimes, train_s: float) -> float:
    return ranks.wait_share * train_s


def _of_device(device: DeviceTimes) -> float:
    return device.idle_s


def _error_of_share(records: Sequence[StepRecord], exposed_by: str) -> tuple[float, int]:
    """Half the width of the 95 % interval of waiting over step time, and the steps it rests on (count)."""
    steady = [record for record in records if record.wait_s is not None]
    size = max(1, len(steady) // _BLOCKS)
    blocks = [steady[start : start + size] for start in range(0, len(steady) - size + 1, size)]
    if len(blocks) < 2:
        return 1.0, len(steady)
    waits = [sum(_exposed_of(record, exposed_by) for record in block) for block in blocks]
    times = [sum(_elapsed(record) for record in block) for block in blocks]
    total, number = sum(times), len(blocks)
    if total <= 0:
        return 1.0, len(steady)
    share = sum(waits) / total
    spread = sum((wait - share * time) ** 2 for wait, time in zip(waits, times, strict=True)) / (number - 1)
    return _NORMAL_95 * math.sqrt(spread * number) / total, len(steady)


def _exposed_of(record: StepRecord, exposed_by: str) -> float:
    if exposed_by == "device" and record.device_idle_s is not None:
        return record.device_idle_s
    return max(0.0, (record.wait_s or 0.0) - record.refill_s)


def _elapsed(record: StepRecord) -> float:
    return record.other_s + sum(part or 0.0 for part in (record.wait_s, record.transfer_s, record.compute_s))
