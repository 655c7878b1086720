"""What batches, loaders and a DataModule show of themselves, by duck typing; None where they do not."""

import inspect
import operator
import os
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_fastdata.loaders.trainer_context import iter_loaders

__all__ = ["LoaderInfo", "fetches_for_itself", "overrides", "plans_of", "sample_path", "samples_in"]

# Views of views that are looked through; only a dataset that contains itself has more.
_MOST_VIEWS = 32
_LISTS = ("samples", "imgs", "paths", "files")


def samples_in(batch: Any) -> int | None:
    """Number of samples in a batch, where its form leaves no doubt.

    A tensor counts its first dimension; a tuple, list or dict counts that of the first tensor in it. Lists of lists
    are left alone: they are samples by field or fields by sample, and a wrong number is worse than none.

    Args:
        batch: What the loader gave.

    Returns:
        Samples (count), or None.
    """
    shape: Any = getattr(batch, "shape", None)
    if shape is None and isinstance(batch, (tuple, list, Mapping)):
        parts = batch.values() if isinstance(batch, Mapping) else batch
        shape = next((shape for part in parts if (shape := getattr(part, "shape", None)) is not None), None)
        if shape is None and isinstance(batch, Mapping):
            # The first batch of a dict of batches, as a CombinedLoader over a dict gives it.
            return next((samples for part in parts if (samples := samples_in(part)) is not None), None)
    try:
        return int(shape[0])
    except (IndexError, TypeError, ValueError):
        return None


def _no_dataset() -> None:
    """The dataset of loaders that are not known, or of several."""


@dataclass(frozen=True)
class LoaderInfo:
    """The training loaders of a run."""

    num_workers: int | None = None
    """The most worker processes of one loader (count); None where no loader shows them."""
    all_workers: int | None = None
    """Worker processes of all loaders together (count); None where no loader shows them."""
    persistent_workers: bool | None = None
    """Whether they keep their workers from epoch to epoch; None where there are none, or none shows it."""
    dataset: Callable[[], Any] = _no_dataset
    """Gives the dataset of the only loader while something keeps it alive; else None: of several loaders, an index
    says nothing."""

    @classmethod
    def of(cls, loaders: Any) -> "LoaderInfo":
        """What loaders show.

        Args:
            loaders: ``trainer.train_dataloader``: a loader or a collection of loaders.
        """
        single = list(iter_loaders(loaders))
        workers = list(_num_workers(single))
        kept = [loader.persistent_workers for loader in single if getattr(loader, "num_workers", 0)]
        kept = [persistent for persistent in kept if isinstance(persistent, bool)]
        return cls(
            num_workers=max(workers, default=None),
            all_workers=sum(workers) if workers else None,
            persistent_workers=all(kept) if kept else None,
            dataset=_reference(getattr(single[0], "dataset", None)) if len(single) == 1 else _no_dataset,
        )


def _num_workers(loaders: Any) -> Iterator[int]:
    """Worker processes of each loader; WebDataset's WebLoader has its DataLoader in ``pipeline``."""
    for loader in loaders:
        if isinstance(getattr(loader, "num_workers", None), int):
            yield loader.num_workers
        elif isinstance(stages := getattr(loader, "pipeline", None), (list, tuple)):
            yield from _num_workers(stages)


def _reference(dataset: Any) -> Callable[[], Any]:
    try:
        return _no_dataset if dataset is None else weakref.ref(dataset)
    except TypeError:  # a list, for instance
        return _no_dataset


def plans_of(trainer: Any) -> dict[str, Any]:
    """The loader plans that the DataModule keeps by split, as plain values; empty where it keeps none."""
    # Not by the public name, which a subclass may use for something else.
    plans = getattr(getattr(getattr(trainer, "datamodule", None), "_fastdata", None), "plans", {})
    return {split: plan.to_dict() for split, plan in plans.items()}


def fetches_for_itself(step: Any) -> bool:
    """Whether a step takes ``dataloader_iter``, and so calls ``next`` itself, as often as it likes.

    Args:
        step: ``validation_step`` and the like.
    """
    try:
        return "dataloader_iter" in inspect.signature(step).parameters
    except (TypeError, ValueError):  # no Python function
        return False


def overrides(hook_name: str, *owners: Any) -> bool:
    """Whether a module or DataModule has a batch-transfer hook of its own, and not Lightning's.

    Args:
        hook_name: Name of the hook.
        owners: Modules and DataModules; None is passed over.
    """
    hooks = [getattr(type(owner), hook_name, None) for owner in owners]
    return any(hook is not None and not hook.__module__.endswith(".core.hooks") for hook in hooks)


def sample_path(dataset: Any, index: Any) -> str | None:
    """The file of a sample, where the dataset keeps a list of its files as torchvision's folders and ours do.

    Only lists in the dataset's own attributes are looked at (``samples``, ``imgs``, ``paths``, ``files``), through
    subsets and concatenations. None of the dataset's code runs, so nothing is loaded and nothing can go wrong.

    Args:
        dataset: Any dataset.
        index: The sample's index, as a sampler gave it.

    Returns:
        Its path, or None.
    """
    try:
        for _ in range(_MOST_VIEWS):
            own, number = vars(dataset), _plain_number(index)
            if _is_list(own.get("indices")) and "dataset" in own:
                dataset, index = own["dataset"], own["indices"][number]
            elif _is_list(own.get("cumulative_sizes")) and _is_list(own.get("datasets")):
                ends = own["cumulative_sizes"]
                number += ends[-1] if number < 0 else 0
                if number < 0:
                    return None
                part = bisect_right(ends, number)
                dataset, index = own["datasets"][part], number - (ends[part - 1] if part else 0)
            else:
                return _path_in(own, number)
    except Exception:  # an index of another kind, a list that is too short, attributes that only look alike
        return None
    return None


def _path_in(own: Mapping[str, Any], number: int) -> str | None:
    for name in _LISTS:
        if _is_list(own.get(name)):
            entry = own[name][number]
            entry = entry[0] if type(entry) in (tuple, list) else entry
            if isinstance(entry, (str, os.PathLike)):
                return str(path) if isinstance(path := os.fspath(entry), str) else None
    return None


def _is_list(value: Any) -> bool:
    return type(value) in (list, tuple, range) or _is_of_library(value)


def _plain_number(index: Any) -> int:
    if type(index) is not int and not _is_of_library(index):
        raise TypeError("no index")
    return operator.index(index)


def _is_of_library(value: Any) -> bool:
    """Whether a value is an array, a tensor or a number of NumPy or torch, or a list of ours: no user's methods."""
    return type(value).__module__ in ("numpy", "torch", "lightning_fastdata.datamodules.images.packed_lists")
