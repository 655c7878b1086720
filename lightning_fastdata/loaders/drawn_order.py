"""The order of a sampler that is not ours, drawn while the global generators have states of its own."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from lightning_fastdata.compat.rank_zero import warn_rank_zero
from lightning_fastdata.loaders.dataset_traits import length_of
from lightning_fastdata.loaders.rng import isolated_draws, seeded_generators
from lightning_fastdata.loaders.samplers import has_fixed_order
from lightning_fastdata.loaders.state.snapshot import Snapshot, changed_between, take_snapshot

__all__ = ["SamplerDraws"]

SEEDED_ONCE = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
"""torch's samplers that use the global generators, if at all, before they give their first index."""
MOST_BYTES, MOST_ITEMS = 2**24, 10_000
"""The largest array (bytes) and container (count) of a sampler that is compared: it takes some milliseconds."""


@dataclass
class SamplerDraws:
    """How a loader draws from its sampler, and what it knows of earlier passes."""

    epoch_batches: int | None = None
    """Batches that the sampler gave in a pass from its beginning (count); None = not known."""
    _warned: set[str] = field(default_factory=set)

    def batches(self, sampler: Any, batch_sampler: Any, word: int, first: int) -> Iterator[tuple[int, Any]]:
        """Batches of an epoch as lists of indices, without batching indices, each with its number.

        Args:
            sampler: The loader's sampler.
            batch_sampler: The loader's batch sampler; None = without batching.
            word: 64 bits that the global generators are seeded from while the sampler draws.
            first: The number of the first batch that is wanted. Those before it come too, unless the sampler has
                skipped them itself.
        """
        source = sampler if batch_sampler is None else batch_sampler
        innermost, length = source, length_of(source)
        while type(innermost) is BatchSampler:
            innermost = innermost.sampler
        if has_fixed_order(sampler, batch_sampler):
            return enumerate(source)
        if type(innermost) in SEEDED_ONCE:
            with seeded_generators(word):
                iterator = iter(source)
                begun = list(islice(iterator, 1))
            return enumerate(chain(begun, iterator))
        if length is None:
            return enumerate(isolated_draws(source, word))
        # The generators are put back at once, so the whole order is drawn now; up to its length, for it may never end.
        with seeded_generators(word):
            drawn = list(islice(source, length))
        return self._watched(source, drawn, self._number_of(innermost, len(drawn), length, first))

    def _number_of(self, sampler: Any, drawn: int, length: int, first: int) -> int:
        """The number of the first batch that was drawn: not 0 where a sampler itself begins where a run stopped."""
        expected = self.epoch_batches if first and self.epoch_batches is not None else length
        if first and drawn <= expected - first / 2:  # nearer to what is left than to all
            self._warn_once(
                f"{type(sampler).__name__} gave {drawn} of {expected} batches in a resumed epoch: it has itself "
                f"skipped what the model was trained on, so the first {first} are not skipped once more."
            )
            self.epoch_batches = expected
            return first
        self.epoch_batches = drawn
        return 0

    def _watched(self, source: Any, drawn: list[Any], number: int) -> Iterator[tuple[int, Any]]:
        """The batches; when the last one is asked for, whether the sampler would have given others by now."""
        before = _small_parts(source)
        yield from enumerate(drawn[:-1], number)
        after = _small_parts(source)
        changed = () if before is None or after is None else changed_between(before, after)
        if changed:
            self._warn_once(
                f"{changed[0]} has changed within the epoch, whose order was drawn when it began: the sampler follows "
                "the training from epoch to epoch only. Without __len__ it is drawn as batches are asked for."
            )
        yield from enumerate(drawn[-1:], number + len(drawn) - 1)

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            warn_rank_zero(text)
        self._warned.add(text)


def _small_parts(source: Any) -> Snapshot | None:
    """What a sampler, and one within it, holds itself: numbers, text, and arrays and containers that are small."""
    parts, sampler = {}, source
    while sampler is not None and hasattr(sampler, "__dict__"):
        own = {name: value for name, value in vars(sampler).items() if _is_small(value)}
        parts[type(sampler).__name__] = SimpleNamespace(**own)
        sampler = getattr(sampler, "sampler", None)
    try:
        return take_snapshot(parts)
    except Exception:  # a container that another thread changes
        return None


def _is_small(value: Any) -> bool:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return bool(value.nbytes <= MOST_BYTES)
    if isinstance(value, (list, tuple, dict, set)):
        return len(value) <= MOST_ITEMS
    return isinstance(value, (int, float, str, bytes))
