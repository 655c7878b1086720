"""A sample's index as a number, whatever kind of key a sampler yields: one hash for the seeds and for the audit."""

import operator
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

__all__ = ["sample_number"]


def sample_number(index: Any) -> int:
    """A sample's index as an integer, the same in every process.

    Args:
        index: What a sampler yielded. A whole number counts as itself, be it Python's, NumPy's or a tensor's. Keys of
            another kind (names, tuples, arrays) get a 64-bit BLAKE2b digest of their whole content.

    Returns:
        The number; negative numbers stay negative, a digest is in [0, 2**64).
    """
    try:
        return operator.index(index)
    except TypeError:
        return int.from_bytes(blake2b(_bytes_of(index), digest_size=8).digest(), "little")


def _bytes_of(key: Any) -> bytes:
    """A key in bytes; ``repr`` would leave out the middle of a long array."""
    if isinstance(key, torch.Tensor):
        key = key.numpy(force=True)
    if isinstance(key, (np.ndarray, np.generic)) and (key.ndim == 0 or key.dtype.hasobject):
        key = key.tolist()  # the bytes of an array of objects are their addresses
    if isinstance(key, np.ndarray):
        return f"{key.dtype}{key.shape}".encode() + key.tobytes()
    if isinstance(key, (list, tuple)):
        return b"(" + b",".join(_bytes_of(part) for part in key) + b")"
    return repr(key).encode()
