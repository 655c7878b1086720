"""The max speedup of a run at zero data wait, from what the run itself has measured."""

import math
from collections.abc import Sequence

from lightning_fastdata.results.records import StepRecord, elapsed_s
from lightning_fastdata.results.stats import SpeedupBound
from lightning_fastdata.results.summary import RunSummary

__all__ = ["estimate_speedup_bound"]

_BLOCKS = 20
_NORMAL_95 = 1.96
# Above this a ratio says nothing any more but "very much".
_MOST_SHARE = 0.99
# The device's clock counts where it was read in nearly all steps; some are lost to captured graphs and at the end.
_MEASURED_SHARE = 0.9


def estimate_speedup_bound(summary: RunSummary, records: Sequence[StepRecord]) -> SpeedupBound | None:
    """The bound ``of_s / (of_s - exposed_s)``: all exposed data wait gone and nothing else changed.

    Its interval comes from the spread of the exposed share between up to 20 blocks of consecutive steps (batch means,
    which allow for neighboring steps being alike). It says how the figure would differ in another stretch of such a
    run. The start-up is left out: it would hide the data wait of a short trial, and is paid once.

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
    steady_s, exposed_by = _steady(summary, ledger.get("wait_s", 0.0))
    boundary, validation_s = summary.boundary, summary.validation_wait_s or 0.0
    boundary_s = 0.0 if boundary is None else boundary.iterator_s + boundary.refill_s + boundary.restart_s
    exposed_s = min(of_s, steady_s + boundary_s + validation_s)
    share = min(_MOST_SHARE, exposed_s / of_s)
    error, steps = _error_s(records, exposed_by)
    low = high = None
    if error is not None:
        # The spread is that of the steps; what is not in steps is the same in any stretch.
        low, high = (1 / (1 - min(_MOST_SHARE, max(0.0, share + sign * error / of_s))) for sign in (-1, 1))
    return SpeedupBound(
        speedup=1 / (1 - share),
        low=low,
        high=high,
        exposed_s=exposed_s,
        of_s=of_s,
        steady_s=steady_s,
        boundary_s=boundary_s,
        validation_s=validation_s,
        exposed_by=exposed_by,
        steps=steps,
    )


def _steady(summary: RunSummary, wait_s: float) -> tuple[float, str]:
    """Data wait in training steps that was really lost (s), and what it is measured by."""
    ranks, device = summary.ranks, summary.device
    first_batches_s = max(0.0, (summary.wait_s or 0.0) - wait_s)
    if ranks is not None:
        of_ranks = ranks.wait_share * max(0.0, summary.train_s - first_batches_s)
        if of_ranks > wait_s:
            return of_ranks, "ranks"
    if device is not None:
        expected = summary.steps - len(summary.first_batch_wait_s)
        measured = device.idle_s + device.hidden_s
        if device.steps >= _MEASURED_SHARE * expected > 0 and measured > 0:
            return wait_s * device.idle_s / measured, "device"
    return wait_s, "host"


def _error_s(records: Sequence[StepRecord], exposed_by: str) -> tuple[float | None, int]:
    """Half the width of the 95 % interval of the data wait (s), and the steps it rests on (count).

    None for all ranks together, whose steps are not known one by one, and for too few steps.
    """
    steady = [record for record in records if record.wait_s is not None]
    size = max(1, len(steady) // _BLOCKS)
    blocks = [steady[start : start + size] for start in range(0, len(steady) - size + 1, size)]
    if len(blocks) < 2 or exposed_by == "ranks":
        return None, len(steady)
    waits = [sum(_exposed_of(record, exposed_by) for record in block) for block in blocks]
    times = [sum(elapsed_s(record) - record.refill_s for record in block) for block in blocks]
    total, number = sum(times), len(blocks)
    if total <= 0:
        return None, len(steady)
    share = sum(waits) / total
    spread = sum((wait - share * time) ** 2 for wait, time in zip(waits, times, strict=True)) / (number - 1)
    return _NORMAL_95 * math.sqrt(spread * number), len(steady)


def _exposed_of(record: StepRecord, exposed_by: str) -> float:
    if exposed_by == "device" and record.device_idle_s is not None:
        return record.device_idle_s
    return max(0.0, (record.wait_s or 0.0) - record.refill_s)
