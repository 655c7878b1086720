"""Percentiles of a stream of times in constant memory.

Bins that grow by a fixed factor, as in DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019): a value lies within half a
bin of what is reported for it, so the relative error is bounded whatever the distribution.
"""

import math

__all__ = ["Quantiles"]

_ACCURACY = 0.005
_GROWTH = (1 + _ACCURACY) / (1 - _ACCURACY)
_PER_LOG = 1 / math.log(_GROWTH)
# Below 10 ns the clock resolves nothing; up to 10^6 s there are some 3,300 bins, and a run fills a few hundred.
_SMALLEST = 1e-8
_LARGEST = 1e6


class Quantiles:
    """Quantiles of non-negative values, each within 0.5 % of a value at that rank; below 10 ns they read 0."""

    def __init__(self) -> None:
        self.count = 0
        """Values added (count)."""
        self._bins: dict[int, int] = {}
        self._zeros = 0

    def add(self, value: float) -> None:
        """Add one value (s), >= 0."""
        self.count += 1
        if value < _SMALLEST:
            self._zeros += 1
            return
        number = math.ceil(math.log(min(value, _LARGEST)) * _PER_LOG)
        self._bins[number] = self._bins.get(number, 0) + 1

    def quantile(self, q: float) -> float | None:
        """The value at rank ``q * (count - 1)``, rounded down.

        Args:
            q: 0..1; 0.5 is the median.

        Returns:
            The value (s), or None where nothing was added.
        """
        if not self.count:
            return None
        left = int(q * (self.count - 1)) - self._zeros
        if left < 0:
            return 0.0
        for number in sorted(self._bins):
            left -= self._bins[number]
            if left < 0:
                return float(2 * _GROWTH**number / (_GROWTH + 1))
        raise AssertionError("the bins hold as many values as were counted")
