"""What a batch and a loader tell about themselves, by duck typing; None where they do not."""

import inspect
from collections.abc import Mapping
from typing import Any

__all__ = ["fetches_for_itself", "overrides", "samples_in", "workers_of"]


def samples_in(batch: Any) -> int | None:
    """Number of samples in a batch, where its form leaves no doubt.

    A tensor counts its first dimension; a tuple, list or dict counts that of the first tensor in it. Lists of lists
    are left alone: they are samples by field or fields by sample, and a wrong number is worse than none.

    Args:
        batch: What the loader gave.

    Returns:
        Samples (count), or None.
    """
    shape = getattr(batch, "shape", None)
    if shape is None:
        if isinstance(batch, (tuple, list)):
            parts: Any = batch
        elif isinstance(batch, Mapping):
            parts = batch.values()
        else:
            return None
        for part in parts:
            shape = getattr(part, "shape", None)
            if shape is not None:
                break
        else:
            return _samples_by_loader(parts) if isinstance(batch, Mapping) else None
    try:
        return int(shape[0])
    except (IndexError, TypeError, ValueError):
        return None


def _samples_by_loader(parts: Any) -> int | None:
    """The first batch of a dict of batches, as a ``CombinedLoader`` over a dict gives it."""
    return next((samples for part in parts if (samples := samples_in(part)) is not None), None)


def workers_of(loaders: Any) -> int | None:
    """The most workers of one loader or of a collection of loaders; None where none tells."""
    if loaders is None or isinstance(loaders, str):
        return None
    number = getattr(loaders, "num_workers", None)
    if isinstance(number, int):
        return number
    if isinstance(loaders, Mapping):
        parts: Any = loaders.values()
    else:
        # A CombinedLoader has its loaders in ``flattened``, WebDataset's WebLoader its DataLoader in ``pipeline``.
        parts = getattr(loaders, "flattened", None) or getattr(loaders, "pipeline", None) or loaders
        parts = parts if isinstance(parts, (list, tuple)) else ()
    return max((known for part in parts if (known := workers_of(part)) is not None), default=None)


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
