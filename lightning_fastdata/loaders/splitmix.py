"""The step of SplitMix64, from which all random numbers of this package are made; NumPy only."""

import numpy as np
import numpy.typing as npt

__all__ = ["GOLDEN", "WORD", "Words", "mix", "mix_all"]

Words = npt.NDArray[np.uint64]

WORD = (1 << 64) - 1
"""The largest of 64 bits; ``number & WORD`` keeps the lowest 64."""
GOLDEN = 0x9E3779B97F4A7C15
"""What SplitMix64 adds to its state for each number."""


def mix(word: int) -> int:
    """Scramble 64 bits: neighbouring numbers give unrelated ones.

    It is the step of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014):
    add 0x9E3779B97F4A7C15, then the finaliser with the shifts 30, 27, 31 and the multipliers 0xBF58476D1CE4E5B9 and
    0x94D049BB133111EB, all modulo 2**64.

    Args:
        word: Any integer; its lowest 64 bits count.

    Returns:
        An integer in [0, 2**64).
    """
    word = (word + GOLDEN) & WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


def mix_all(words: Words) -> Words:
    """``mix`` of every element.

    Args:
        words: uint64, any shape.

    Returns:
        uint64, of the same shape.
    """
    words = words + np.uint64(GOLDEN)
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words
