"""Why a run waited, with the figures that say so, and the one change to try first.

What cost most is told first: the waiting in training steps, at changes of epochs or in validation. Everything is on one
base, the run after its start-up, so that the share and the bound that follows from it agree.
"""

from collections.abc import Sequence
from dataclasses import replace

from lightning_fastdata.results.advice import Advice, of_a_healthy_run, of_steady_waiting
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.speedup_bound import estimate_speedup_bound
from lightning_fastdata.results.stats import SpeedupBound
from lightning_fastdata.results.summary import RunSummary
from lightning_fastdata.results.verdict import FEW_STEPS, Verdict, level_of, opening_of

__all__ = ["diagnosed"]

_PARTS = {"steady_s": "in training steps", "boundary_s": "at changes of epochs", "validation_s": "in validation"}
# A part below this share of the waiting is not worth a word.
_WORTH_TELLING = 0.05
# Of fewer steps than that nothing can be concluded.
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
    level = level_of(share)
    advice = _advice(summary, bound, level)
    sentences = [_headline(bound, share, level, summary.steps), advice.why]
    change = advice.change
    if summary.steps < _STEPS_FOR_ADVICE:
        change = ""
    elif summary.steps < FEW_STEPS and change:
        change = f"{change} First measure a longer run, though."
    text = " ".join(sentence for sentence in sentences if sentence)
    return replace(summary, verdict=Verdict(level, text, advice.cause, change))


def _headline(bound: SpeedupBound, share: float, level: str, steps: int) -> str:
    percent = f"{share * 100:.1f} %" if share < 0.01 else f"{share * 100:.0f} %"
    text = f"{opening_of(level)}: {percent} of the run after its start-up went into waiting for data"
    if level != "fine":
        text += f" ({bound.exposed_s:.2f} s of {bound.of_s:.2f} s{_parts(bound)})"
        most = f"at most {bound.speedup:.2f}x" if bound.speedup < 99 else "about 100x or more"
        text += f"; an instant loader would make this run {most} faster"
    if steps < FEW_STEPS:
        text += f"; the figure rests on only {steps} step{'s' * (steps != 1)}"
    return text + "."


def _parts(bound: SpeedupBound) -> str:
    """Where the waiting was, if in more than one place."""
    told = {name: getattr(bound, name) for name in _PARTS}
    told = {name: part_s for name, part_s in told.items() if part_s >= _WORTH_TELLING * bound.exposed_s}
    if len(told) < 2:
        return ""
    ordered = sorted(told.items(), key=lambda part: -part[1])
    return ": " + ", ".join(f"{part_s:.2f} s {_PARTS[name]}" for name, part_s in ordered)


def _advice(summary: RunSummary, bound: SpeedupBound, level: str) -> Advice:
    """What to say of the part that cost most."""
    if level == "fine":
        return of_a_healthy_run(summary)
    parts = {name: getattr(bound, name) for name in _PARTS}
    largest = max(parts, key=lambda name: parts[name])
    if largest == "boundary_s":
        return _of_boundary(summary, bound)
    if largest == "validation_s":
        why = f"Most of it was in validation ({bound.validation_s:.2f} s)."
        change = "Give the validation loader workers or cheaper data, or validate less often (check_val_every_n_epoch)."
        return Advice("validation", why, change)
    own_s = summary.ledger.get("wait_s", 0.0)
    if bound.exposed_by == "ranks" and own_s < _MOST_OF * bound.steady_s:
        return _of_slow_rank(summary, own_s)
    return of_steady_waiting(summary)


def _of_boundary(summary: RunSummary, bound: SpeedupBound) -> Advice:
    boundary = summary.boundary
    if boundary is not None and boundary.restart_s > _MOST_OF * bound.boundary_s:
        why = f"Most of it was a shorter loader of several that began anew ({boundary.restart_s:.2f} s)."
        return Advice(
            "boundary", why, "Make the loaders equally long, or keep their workers (persistent_workers=True)."
        )
    number = 0 if boundary is None else boundary.boundaries
    why = f"Most of it were the {number} changes of epochs ({bound.boundary_s:.2f} s)."
    saving = None if boundary is None else boundary.saving_s_per_epoch
    if boundary is not None and saving:
        least = "" if boundary.saving_is_exact else "at least "
        change = f"persistent_workers=True would have saved {least}{saving * number:.2f} s."
        return Advice("boundary", why, change)
    return Advice("boundary", why, "Longer epochs: fewer changes, as with a sampler that goes round several times.")


def _of_slow_rank(summary: RunSummary, own_s: float) -> Advice:
    ranks = summary.ranks
    assert ranks is not None
    if ranks.slowest_rank is None or ranks.slowest_share < _MOST_OF:
        why = "No rank is always the slowest: they take turns in holding each other up."
        return Advice("straggler", why, "Make loading more even: a deeper prefetch_factor, samples of like size.")
    where = f"rank {ranks.slowest_rank}" + (f" on {ranks.slowest_host}" if ranks.slowest_host else "")
    why = (
        f"{where.capitalize()} held the others up in {ranks.slowest_share * 100:.0f} % of the steps; rank"
        f" {summary.rank} itself waited {own_s:.2f} s, and lost the rest within the all-reduce."
    )
    return Advice("straggler", why, f"Look at {where}: its own run file, its disk, the cores that it has.")
