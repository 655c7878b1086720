"""What a dataset is and says of itself, read once when a loader is made."""

from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from lightning_fastdata.loaders.transformed_dataset import TransformedDataset

__all__ = ["DatasetTraits", "forwards_fetches", "length_of", "traits_of"]


@dataclass(frozen=True)
class DatasetTraits:
    """What a loader needs to know of its dataset; ``traits_of`` reads it."""

    is_iterable: bool
    """An ``IterableDataset``: it orders and deals its elements itself."""
    length: int | None
    """Samples when the traits were read (count); None without a length."""
    sample_bytes: int | None
    """Size of a sample, where the dataset says so (``sample_bytes``)."""
    in_memory: bool
    """Samples are only indexed out of memory (``in_memory = True``): a worker process could but copy them."""
    has_getitems: bool
    """It has a ``__getitems__`` of its own, which torch calls once per batch."""
    batched_fetch: bool
    """Its ``__getitems__`` returns finished batches (``batched_fetch = True``), which must not be collated again."""
    accepts_seeds: bool
    """Its ``__getitems__(indices, seeds)`` takes the samples' seeds (``accepts_seeds = True``)."""
    uses_global_rng: bool
    """Loading a sample may draw from the global generators; False for torch's TensorDataset and for classes that say
    ``uses_global_rng = False`` themselves (a subclass has to say so again: it may transform). A loader takes it for
    True where the dataset holds a generator of its own."""

    def batch_bytes(self, batch_size: int | None) -> int | None:
        """Size of a batch (bytes); None where the dataset does not say how large a sample is.

        Args:
            batch_size: Samples per batch (count); None = not known.
        """
        return self.sample_bytes * batch_size if self.sample_bytes is not None and batch_size else None


def traits_of(dataset: Any) -> DatasetTraits:
    """Read the traits of a dataset; no sample is loaded, for that could open a file before workers fork.

    Args:
        dataset: Any dataset. torch's own views (``Subset``, ``ConcatDataset``) are looked through, wrappers of the
            user's are not: they may compute.
    """
    if isinstance(dataset, TransformedDataset):
        inner = traits_of(dataset.dataset)
        return replace(inner, uses_global_rng=inner.uses_global_rng or dataset.transforms_use_global_rng)
    kind, sample_bytes = type(dataset), getattr(dataset, "sample_bytes", None)
    own = DatasetTraits(
        is_iterable=isinstance(dataset, IterableDataset),
        length=length_of(dataset),
        sample_bytes=sample_bytes if isinstance(sample_bytes, int) else None,
        in_memory=isinstance(dataset, TensorDataset) or getattr(dataset, "in_memory", False) is True,
        has_getitems=callable(getattr(dataset, "__getitems__", None)),
        batched_fetch=getattr(dataset, "batched_fetch", False) is True,
        accepts_seeds=getattr(dataset, "accepts_seeds", False) is True,
        uses_global_rng=not (kind is TensorDataset or vars(kind).get("uses_global_rng") is False),
    )
    if isinstance(dataset, Subset):
        return _of_subset(kind, own, traits_of(dataset.dataset))
    if isinstance(dataset, ConcatDataset):
        parts = [traits_of(part) for part in dataset.datasets]
        # torch's own reads its parts sample by sample, without a seed; a subclass may transform.
        draws = kind is not ConcatDataset or any(part.uses_global_rng or part.accepts_seeds for part in parts)
        in_memory = all(part.in_memory for part in parts)
        return replace(own, in_memory=in_memory, uses_global_rng=own.uses_global_rng and draws)
    return own


def _of_subset(kind: type[Subset[Any]], own: DatasetTraits, inner: DatasetTraits) -> DatasetTraits:
    """The traits of a Subset: those of what it is a part of, unless its class fetches in a way of its own."""
    forwards = forwards_fetches(kind)
    return replace(
        own,
        in_memory=inner.in_memory,
        # A __getitem__ of the user's is the way to a sample: torch advises to write __getitems__ as a loop over it.
        has_getitems=inner.has_getitems if forwards else kind.__getitem__ is Subset.__getitem__,
        batched_fetch=vars(kind).get("batched_fetch") is True or (forwards and inner.batched_fetch),
        accepts_seeds=vars(kind).get("accepts_seeds") is True or (forwards and inner.accepts_seeds),
        uses_global_rng=inner.uses_global_rng if forwards else own.uses_global_rng,
    )


def forwards_fetches(view: type[Subset[Any]]) -> bool:
    """Whether a kind of Subset fetches its samples as torch's does."""
    return all(getattr(view, name) is getattr(Subset, name) for name in ("__getitem__", "__getitems__"))


def length_of(sized: Any) -> int | None:
    """Samples in a dataset or sampler (count); None for one without a length."""
    try:
        return len(sized)
    except TypeError:
        return None
