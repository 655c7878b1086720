"""What a share of waiting means, in a sentence."""

from dataclasses import dataclass

__all__ = ["FEW_STEPS", "INPUT_BOUND_SHARE", "MODERATE_SHARE", "Verdict", "judge", "level_of", "opening_of"]

FEW_STEPS = 20
# The bands of the TensorFlow profiler's input-pipeline analysis, which people already know how to read.
MODERATE_SHARE = 0.05
INPUT_BOUND_SHARE = 0.20


@dataclass(frozen=True)
class Verdict:
    """What the figures mean, in one sentence."""

    level: str
    """"fine" (below 5 % waiting), "moderate" (5 to 20 %), "input-bound" (above) or "unknown"."""
    text: str
    """The sentence, for people."""
    cause: str = ""
    """What cost most: "loader-bound", "main-process loading", "head of line", "bursty", "ipc-bound", "boundary",
    "validation" or "straggler"; "over-provisioned" or "healthy" where nothing did; "" where that was not measured."""
    try_first: str = ""
    """The one change to try first; "" where there is nothing to change."""


def level_of(share: float) -> str:
    """The band that a share of waiting (0..1) lies in: "fine", "moderate" or "input-bound"."""
    return "fine" if share < MODERATE_SHARE else "moderate" if share <= INPUT_BOUND_SHARE else "input-bound"


def opening_of(level: str) -> str:
    """How a sentence about a level begins."""
    return {"fine": "Not input-bound", "moderate": "Moderately input-bound", "input-bound": "Input-bound"}[level]


def judge(
    share: float | None,
    steps: int,
    *,
    num_workers: int | None = None,
    what: str = "training time",
    subject: str = "run",
    unit: str = "step",
) -> Verdict:
    """Say in one sentence what a share of waiting means.

    Args:
        share: Waiting as a share of the time, 0..1; None where it was not measured.
        steps: Steps the share rests on (count).
        num_workers: Worker processes of the loader (count); 0 means that the loading was done by the training process.
        what: The time that ``share`` is a share of, as a reader would call it.
        subject: What would become faster.
        unit: What ``steps`` counts, in the singular.

    Returns:
        Verdict. The speed-up is the bound 1 / (1 - share): the whole wait gone and nothing else changed.
    """
    if share is None:
        return Verdict("unknown", "The data wait was not measured, so nothing can be said about the loader.")
    level = level_of(share)
    text = f"{opening_of(level)}: {_percent(share)} of the {what} was spent waiting for data"
    if num_workers == 0 and level != "fine":
        text += " (num_workers=0: the training process itself loads it)"
    if level != "fine":
        text += f"; an instant loader would make this {subject} {_speedup(share)} faster"
    if steps < FEW_STEPS:
        plural = f"{unit}{'es' if unit.endswith('ch') else 's'}" if steps != 1 else unit
        text += f"; the figure rests on only {steps} {plural}"
    return Verdict(level, text + ".")


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %" if share < 0.01 else f"{share * 100:.0f} %"


def _speedup(share: float) -> str:
    return f"at most {1 / (1 - share):.2f}x" if share < 0.99 else "more than 100x"
