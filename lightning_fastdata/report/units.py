"""Figures as text: milliseconds and percent signs are made here. What was not measured reads so, and never 0."""

import math
from collections.abc import Callable

__all__ = [
    "NOT_MEASURED",
    "aligned_seconds",
    "count",
    "difference",
    "factor",
    "is_known",
    "milliseconds",
    "percent",
    "percent_points",
    "rate",
    "seconds",
    "times",
]

NOT_MEASURED = "not measured"


def is_known(value: float | None) -> bool:
    """Whether a figure was measured: neither None nor something that is no number."""
    return value is not None and math.isfinite(value)


def milliseconds(value_s: float | None) -> str:
    """Seconds as milliseconds with three digits that mean something: ``0.004 ms``, ``20.3 ms``, ``1,240 ms``."""
    if value_s is None or not math.isfinite(value_s):
        return NOT_MEASURED
    value = value_s * 1000
    size = abs(value)
    digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:,.{digits}f} ms"


def seconds(value_s: float | None) -> str:
    """Seconds, with a digit more where there are few."""
    if value_s is None or not math.isfinite(value_s):
        return NOT_MEASURED
    return f"{value_s:,.{2 if abs(value_s) < 100 else 0}f} s"


def aligned_seconds(value_s: float | None) -> str:
    """Seconds with two digits after the point whatever their size: in a column that adds up."""
    return NOT_MEASURED if value_s is None or not math.isfinite(value_s) else f"{value_s:,.2f} s"


def percent(share: float | None) -> str:
    """A share of 0..1 as percent."""
    return NOT_MEASURED if share is None or not math.isfinite(share) else f"{share * 100:.1f} %"


def percent_points(share: float | None) -> str:
    """A difference of two shares of 0..1, in points of a hundredth."""
    return NOT_MEASURED if share is None or not math.isfinite(share) else f"{share * 100:.1f} points"


def times(value: float) -> str:
    """A factor, as in ``1.61x``."""
    return f"{value:.2f}x"


def factor(value: float | None) -> str:
    """A factor that may not have been measured."""
    return NOT_MEASURED if value is None or not math.isfinite(value) else times(value)


def count(value: float | None, *, digits: int = 0) -> str:
    """A number with thousands apart."""
    return NOT_MEASURED if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def rate(value: float | None) -> str:
    """A number per second, with one digit after the point."""
    return count(value, digits=1)


def difference(before: float | None, after: float | None, show: Callable[[float | None], str]) -> str:
    """``after`` less ``before`` with its sign, as ``show`` writes it; "-" where one of them was not measured."""
    if before is None or after is None or not is_known(after - before):
        return "-"
    size = show(abs(after - before))
    if size == show(0.0):
        return size  # too small to have a sign
    return ("+" if after > before else "-") + size
