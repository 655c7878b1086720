"""Why a run waited, with the figures that say so, and the one change to try first.

What cost most comes first: the data wait in training steps, at epoch boundaries or in validation. Everything is on one
base, the run after its start-up, so that the share and the speedup bound agree.
"""

from collections.abc import Sequence
from dataclasses import replace

from lightning_fastdata.results.advice import Advice, of_a_healthy_run, of_steady_waiting
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.speedup_bound import estimate_speedup_bound
from lightning_fastdata.results.stats import SpeedupBound
from lightning_fastdata.results.summary import RunSummary
from lightning_fastdata.results.verdict import FEW_STEPS, Verdict, headline, level_of

__all__ = ["diagnosed"]

_PARTS = {"steady_s": "in training steps", "boundary_s": "at epoch boundaries", "validation_s": "in validation"}
# A part below this share of the data wait is not mentioned.
_WORTH_NAMING = 0.05
# Fewer steps than that allow no conclusion.
_STEPS_FOR_ADVICE = 5
_MOST_OF = 0.5


def diagnosed(summary: RunSummary, records: Sequence[StepRecord]) -> RunSummary:
    """The summary with its speedup bound, and with a verdict that names the cause.

    Args:
        summary: A run whose ledger, kinds of waiting and loading are filled in, as far as they were measured.
        records: Its steps, as many as were kept.

    Returns:
        The same summary where it has no ledger or no step: then the verdict stays that of the bare share.
    """
    bound = estimate_speedup_bound(summary, records)
    summary = replace(summary, speedup_bound=bound)
    if bound is None or not summary.steps:
        return summary
    share = bound.exposed_s / bound.of_s
    advice = _advice(summary, bound, level_of(share))
    detail = f" ({bound.exposed_s:.2f} s of {bound.of_s:.2f} s{_parts(bound)})"
    text = headline(share, "run after its start-up", summary.steps, speedup=bound.speedup, detail=detail)
    change = advice.change if summary.steps >= _STEPS_FOR_ADVICE else ""
    if change and summary.steps < FEW_STEPS:
        change += " First measure a longer run, though."
    verdict = Verdict(level_of(share), f"{text} {advice.why}".rstrip(), advice.cause, change)
    return replace(summary, verdict=verdict)


def _parts(bound: SpeedupBound) -> str:
    """Where the data wait was, if in more than one place."""
    parts = sorted(((getattr(bound, name), where) for name, where in _PARTS.items()), reverse=True)
    named = [f"{part_s:.2f} s {where}" for part_s, where in parts if part_s >= _WORTH_NAMING * bound.exposed_s]
    return f": {', '.join(named)}" if len(named) > 1 else ""


def _advice(summary: RunSummary, bound: SpeedupBound, level: str) -> Advice:
    """What to say of the part that cost most."""
    if level == "fine":
        return of_a_healthy_run(summary)
    largest = max(_PARTS, key=lambda name: getattr(bound, name))
    if largest == "boundary_s":
        return _of_boundary(summary, bound)
    if largest == "validation_s":
        why = f"Most of it was in validation ({bound.validation_s:.2f} s)."
        change = "Give the validation loader workers or cheaper data, or validate less often (check_val_every_n_epoch)."
        return Advice("validation", why, change)
    own_s = summary.ledger.get("wait_s", 0.0)
    if bound.exposed_by == "ranks" and own_s < _MOST_OF * bound.steady_s:
        return _of_straggler(summary, own_s)
    return of_steady_waiting(summary)


def _of_boundary(summary: RunSummary, bound: SpeedupBound) -> Advice:
    boundary = summary.boundary
    if boundary is not None and boundary.restart_s > _MOST_OF * bound.boundary_s:
        why = f"Most of it was the restart of a shorter loader of several ({boundary.restart_s:.2f} s)."
        change = "Make the loaders equally long, or keep their workers (persistent_workers=True)."
        return Advice("boundary", why, change)
    number = 0 if boundary is None else boundary.boundaries
    why = f"Most of it was at {number} epoch boundaries ({bound.boundary_s:.2f} s)."
    change = "Longer epochs: fewer boundaries, as with a sampler that repeats the data several times."
    if boundary is not None and boundary.saving_s_per_epoch:
        least = "" if boundary.saving_is_exact else "at least "
        change = f"persistent_workers=True would have saved {least}{boundary.saving_s_per_epoch * number:.2f} s."
    return Advice("boundary", why, change)


def _of_straggler(summary: RunSummary, own_s: float) -> Advice:
    ranks = summary.ranks
    assert ranks is not None
    if ranks.slowest_rank is None or ranks.slowest_share < _MOST_OF:
        why = "No rank is always the slowest: the ranks take turns in stalling each other."
        return Advice("straggler", why, "Make loading more even: a deeper prefetch_factor, samples of like size.")
    where = f"rank {ranks.slowest_rank}" + (f" on {ranks.slowest_host}" if ranks.slowest_host else "")
    why = (
        f"{where.capitalize()} stalled the other ranks in {ranks.slowest_share * 100:.0f} % of the steps. Rank"
        f" {summary.rank} itself waited {own_s:.2f} s and lost the rest to the straggler, within the all-reduce."
    )
    return Advice("straggler", why, f"Look at {where}: its own run file, its disk, its cores.")
