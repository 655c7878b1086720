"""Figures as text: every unit is written here. What was not measured reads so, and never 0."""

import math
from collections.abc import Callable
from typing import TypeGuard

__all__ = [
    "NOT_MEASURED",
    "aligned_seconds",
    "count",
    "difference",
    "factor",
    "is_known",
    "milliseconds",
    "number",
    "percent",
    "percent_points",
    "plural",
    "rate",
    "seconds",
    "size",
]

NOT_MEASURED = "not measured"
_SIZES = ((" GiB", 1 << 30), (" MiB", 1 << 20), (" KiB", 1 << 10))


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether a figure was measured: neither None nor something that is no number."""
    return value is not None and math.isfinite(value)


def count(value: float | None, *, digits: int = 0, unit: str = "") -> str:
    """A number with thousands apart.

    Args:
        value: The number; None or one that is not finite reads "not measured".
        digits: Digits after the point (count).
        unit: What stands after the number, with the space before it.
    """
    return f"{value:,.{digits}f}{unit}" if is_known(value) else NOT_MEASURED


def milliseconds(value_s: float | None) -> str:
    """Seconds as milliseconds with three significant digits: ``0.004 ms``, ``20.3 ms``, ``1,240 ms``."""
    if not is_known(value_s):
        return NOT_MEASURED
    value = abs(value_s) * 1000
    return count(value_s * 1000, digits=3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0, unit=" ms")


def seconds(value_s: float | None) -> str:
    """Seconds, with two digits after the point below 100 s."""
    return aligned_seconds(value_s) if value_s is None or abs(value_s) < 100 else count(value_s, unit=" s")


def aligned_seconds(value_s: float | None) -> str:
    """Seconds with two digits after the point whatever their size: in a column that adds up."""
    return count(value_s, digits=2, unit=" s")


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 0..1 as percent."""
    return count(None if share is None else share * 100, digits=digits, unit=" %")


def percent_points(share: float | None) -> str:
    """A difference of two shares of 0..1, in points of a hundredth."""
    return count(None if share is None else share * 100, digits=1, unit=" points")


def factor(value: float | None) -> str:
    """A factor, as in ``1.61x``."""
    return f"{value:.2f}x" if is_known(value) else NOT_MEASURED


def rate(value: float | None) -> str:
    """A number per second, with one digit after the point."""
    return count(value, digits=1)


def number(value: float, digits: int = 2) -> str:
    """A number without zeros at its end, and never "0" for a little: ``0.3``, ``1,200``, ``0.002``."""
    if abs(value) < 10**-digits:
        return f"{value:.2g}"
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".")


def plural(value: float, one: str, many: str = "") -> str:
    """A number with its noun: ``1 step``, ``2.5 CPUs``, ``3 batches``."""
    return f"{number(value)} {one if value == 1 else many or one + 's'}"


def size(value_bytes: float | None) -> str:
    """Bytes in the unit that fits: ``2.0 KiB``, ``64 MiB``, ``23.5 GiB``."""
    if not is_known(value_bytes):
        return NOT_MEASURED
    unit, unit_bytes = next(entry for entry in _SIZES if value_bytes >= entry[1] or entry is _SIZES[-1])
    value = value_bytes / unit_bytes
    return (count(value, digits=1) if value < 10 else number(value, 1)) + unit


def difference(before: float | None, after: float | None, show: Callable[[float | None], str]) -> str:
    """``after`` less ``before`` with its sign, as ``show`` writes it; "-" where one of them was not measured."""
    if before is None or after is None or not is_known(after - before):
        return "-"
    change = show(abs(after - before))
    if change == show(0.0):
        return change  # too small to have a sign
    return ("+" if after > before else "-") + change
