"""What a data wait means, in a sentence."""

from dataclasses import dataclass

__all__ = ["FEW_STEPS", "INPUT_BOUND_SHARE", "MODERATE_SHARE", "Verdict", "headline", "judge", "level_of"]

FEW_STEPS = 20
# The bands of the TensorFlow profiler's input-pipeline analysis, which people already know how to read.
MODERATE_SHARE = 0.05
INPUT_BOUND_SHARE = 0.20

_OPENINGS = {"fine": "Not input-bound", "moderate": "Moderately input-bound", "input-bound": "Input-bound"}
# Above this a ratio says nothing any more but "very much".
_MOST_TIMES = 99


@dataclass(frozen=True)
class Verdict:
    """What the figures mean, in one sentence."""

    level: str
    """"fine" (data wait below 5 %), "moderate" (5 to 20 %), "input-bound" (above) or "unknown"."""
    text: str
    """The sentence, for people."""
    cause: str = ""
    """What cost most: "loader-bound", "main-process loading", "head of line", "bursty", "ipc-bound", "boundary",
    "validation" or "straggler"; "over-provisioned" or "healthy" where nothing did; "" where that was not measured."""
    try_first: str = ""
    """The one change to try first; "" where there is nothing to change."""


def level_of(share: float) -> str:
    """The band that a data wait (0..1 of the time) lies in: "fine", "moderate" or "input-bound"."""
    return "fine" if share < MODERATE_SHARE else "moderate" if share <= INPUT_BOUND_SHARE else "input-bound"


def headline(share: float, what: str, steps: int, *, speedup: float, detail: str = "", unit: str = "step") -> str:
    """The sentences that a verdict starts with.

    Args:
        share: Data wait as a share of the time (0..1).
        what: That time, in words.
        steps: Steps the share rests on (count).
        speedup: Max speedup at zero data wait (ratio).
        detail: What to add to the share where it is not fine.
        unit: What ``steps`` counts, in the singular.
    """
    level = level_of(share)
    percent = f"{share * 100:.1f} %" if share < 0.01 else f"{share * 100:.0f} %"
    sentences = [f"{_OPENINGS[level]}: {percent} of the {what} was data wait{'' if level == 'fine' else detail}."]
    if level != "fine":
        times = f"{speedup:.2f}x" if speedup < _MOST_TIMES else "about 100x or more"
        sentences.append(f"Max speedup at zero data wait: {times}.")
    if steps < FEW_STEPS:
        plural = unit if steps == 1 else f"{unit}{'es' if unit.endswith('ch') else 's'}"
        sentences.append(f"The figure rests on only {steps} {plural}.")
    return " ".join(sentences)


def judge(
    share: float | None, steps: int, *, num_workers: int | None = None, what: str = "training time", unit: str = "step"
) -> Verdict:
    """Say what a data wait means.

    Args:
        share: Data wait as a share of the time, 0..1; None where it was not measured.
        steps: Steps the share rests on (count).
        num_workers: Worker processes of the loader (count); 0 means that the main process loads.
        what: The time that ``share`` is a share of, as a reader would call it.
        unit: What ``steps`` counts, in the singular.

    Returns:
        Verdict. The speedup is the bound 1 / (1 - share): the whole wait gone and nothing else changed.
    """
    if share is None:
        return Verdict("unknown", "The data wait was not measured, so nothing can be said about the loader.")
    detail = " (num_workers=0: the main process loads)" if num_workers == 0 else ""
    speedup = 1 / (1 - share) if share < 1 else float("inf")
    return Verdict(level_of(share), headline(share, what, steps, speedup=speedup, detail=detail, unit=unit))
