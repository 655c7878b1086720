"""The orders of `order.py` as torch samplers."""

from collections.abc import Iterator
from typing import Any, SupportsInt, cast

import numpy as np
from torch.utils.data import BatchSampler, RandomSampler, Sampler, SequentialSampler, SubsetRandomSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_fastdata.loaders.order import Indices, derive_seed, epoch_order, padding, rank_share

__all__ = ["EpochSampler", "RankSampler", "has_fixed_order", "may_repeat", "order_kind", "packed_order"]


class EpochSampler(Sampler[int]):
    """Shuffled indices that depend on seed and epoch alone.

    torch's RandomSampler draws from a generator whose state depends on what ran before, so that keeping workers
    alive, or restarting, changes the order. This one does not.

    Args:
        length: Samples in the dataset (count).
        seed: The loader's seed, >= 0, asked for with each pass.
        epoch: Epoch to begin with; Lightning calls ``set_epoch`` before each later one. Without such a call, as in a
            loop of your own, every pass is the next epoch.
    """

    def __init__(self, length: int, seed: SupportsInt, epoch: int = 0) -> None:
        self.length, self.seed, self.epoch = length, seed, epoch
        self.cycle = 0
        """How often the order has been used up within the epoch; the loader sets it."""
        self._counts_itself = True

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of every epoch."""
        self.epoch, self._counts_itself = epoch, False

    def continue_from(self, epoch: int) -> None:
        """Continue from a saved epoch, unless ``set_epoch`` was called."""
        if self._counts_itself:
            self.epoch = epoch

    def order(self) -> Indices:
        """The order of the next pass, int64, shape (length,): as iterating yields it, without an integer each."""
        order = epoch_order(int(self.seed), self.epoch, self.length, self.cycle)
        if self._counts_itself:
            self.epoch += 1
        return order

    def __iter__(self) -> Iterator[int]:
        return _one_by_one(self.order())

    def __len__(self) -> int:
        return self.length


class RankSampler(DistributedSampler[int]):
    """One rank's share of an epoch, dealt out of the order that a single process would follow; see ``rank_share``.

    Lightning keeps a DistributedSampler; its own would shuffle once more, also where the user said
    ``shuffle=False``. Like that one it deals only in a loader that Lightning takes (``dealt``): it does not know the
    loader within a wrapper, and there each rank may have samples of its own.

    Args:
        length: Samples in the dataset (count).
        seed: The loader's seed, >= 0, asked for with each pass.
        ranks: Ranks that share the data (count).
        rank: Which of them this is.
        batch_size: Samples per batch and rank (count).
        shuffle: Whether the order changes from epoch to epoch.
        drop_last: Whether an incomplete last global batch is left out.
        repeats: Whether an incomplete last global batch is filled up, so that each rank gets equally many samples.
        epoch: Epoch to begin with; as for ``EpochSampler``.
    """

    def __init__(
        self,
        length: int,
        seed: SupportsInt,
        ranks: int,
        rank: int,
        *,
        batch_size: int,
        shuffle: bool,
        drop_last: bool = False,
        repeats: bool = True,
        epoch: int = 0,
    ) -> None:
        samples: Any = range(length)  # torch only reads the length of a dataset here
        super().__init__(samples, num_replicas=ranks, rank=rank, shuffle=shuffle, drop_last=drop_last)
        self.length, self.batch_size, self.epoch = length, batch_size, epoch
        self.seed: Any = seed
        self.repeats = repeats and not drop_last
        self.dealt = True
        """Whether this is a share of the samples, not all of them in an order of the rank's own."""
        self._counts_itself = True
        self.cycle = 0
        """How often the order has been used up within the epoch; the loader sets it."""

    @property
    def padded(self) -> int:
        """Samples at the end of this rank's share that are repeats, so that ranks get equally many (0 or 1)."""
        return int(
            self.dealt and self.repeats and self.rank >= self.num_replicas - padding(self.length, self.num_replicas)
        )

    def seed_of_rank(self, seed: int) -> int:
        """A seed for what this rank draws: where nothing is dealt, ranks differ by their random numbers alone."""
        return seed if self.dealt else derive_seed(seed, f"rank {self.rank}")

    def undealt_in_words(self, dataset: object) -> str:
        """The line for a loader that no Trainer took."""
        return (
            f"No Trainer took this loader of {type(dataset).__name__}, as within a wrapper: each of "
            f"{self.num_replicas} ranks reads all of its samples, in an order of its own. Return the loader itself "
            "to have them dealt."
        )

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of every epoch, but not within a wrapper."""
        self.epoch, self._counts_itself = epoch, False

    def continue_from(self, epoch: int) -> None:
        """Continue from a saved epoch."""
        self.epoch = epoch

    def order(self) -> Indices:
        """This rank's share of the pass, int64: as iterating yields it, without an integer each."""
        order = np.arange(self.length)
        if self.shuffle:
            order = epoch_order(self.seed_of_rank(int(self.seed)), self.epoch, self.length, self.cycle)
        self.epoch += self._counts_itself
        if not self.dealt:
            return order
        deal = {"drop_last": self.drop_last, "repeats": self.repeats}
        share = rank_share(order, self.rank, self.num_replicas, self.batch_size, **deal)
        return np.array(share)  # a view would keep the shares of all ranks in memory

    def __iter__(self) -> Iterator[int]:
        return _one_by_one(self.order())

    def __len__(self) -> int:
        if not self.dealt:
            return self.length
        left = self.length % (self.num_replicas * self.batch_size) if self.drop_last else 0
        return len(range(self.rank, self.length - left, self.num_replicas)) + self.padded


def _one_by_one(order: Indices) -> Iterator[int]:
    """Python's integers, which torch's own classes want, some thousand at a time: each takes 40 bytes, packed 8."""
    for start in range(0, len(order), 4096):
        yield from order[start : start + 4096].tolist()


def packed_order(sampler: object) -> Indices | None:
    """The order of a sampler's next pass as one array.

    Args:
        sampler: What a loader draws indices from.

    Returns:
        int64, the same indices that iterating would yield; None for a sampler that only yields them one by one.
    """
    if type(sampler) in (EpochSampler, RankSampler):
        return cast(EpochSampler | RankSampler, sampler).order()
    if type(sampler) is SequentialSampler:
        return np.arange(len(sampler))
    return None


def has_fixed_order(sampler: object, batch_sampler: Any = None) -> bool:
    """Whether an order depends on its sampler's own numbers alone, not on a random state outside it.

    Args:
        sampler: What a loader draws indices from.
        batch_sampler: Its batch sampler, which then decides; None = without batching.

    Returns:
        True for ours, torch's SequentialSampler and torch's DistributedSampler, also in batches of torch's own; False
        where that is not known.
    """
    if batch_sampler is not None:
        if type(batch_sampler) is not BatchSampler:
            return False
        sampler = batch_sampler.sampler
    own = isinstance(sampler, (EpochSampler, RankSampler))
    return own or type(sampler) in (SequentialSampler, DistributedSampler)


def order_kind(sampler: Any, batch_sampler: Any = None) -> str:
    """What orders, as a checkpoint names it; the arguments are those of ``has_fixed_order``."""
    if not has_fixed_order(sampler, batch_sampler):
        return "own sampler"
    in_order = isinstance(sampler, SequentialSampler) or (isinstance(sampler, RankSampler) and not sampler.shuffle)
    return "in order" if in_order else "shuffled"


def may_repeat(sampler: Any, batch_sampler: Any = None) -> bool:
    """Whether an epoch may draw a sample again, as far as is known; the arguments are those of ``has_fixed_order``."""
    if type(batch_sampler) not in (BatchSampler, type(None)):
        return True
    inner = sampler if batch_sampler is None else batch_sampler.sampler
    if type(inner) is RandomSampler:
        return bool(inner.replacement) or inner.num_samples > len(inner.data_source)
    return type(inner) is not SubsetRandomSampler and not has_fixed_order(inner)
