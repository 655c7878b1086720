"""Which changes that loading makes to a dataset matter: those that add up from sample to sample."""

import itertools
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from lightning_fastdata.loaders.state.attributes import AttributeWalk
from lightning_fastdata.loaders.state.known import KNOWN
from lightning_fastdata.loaders.state.libraries import is_library
from lightning_fastdata.loaders.state.snapshot import Snapshot, changed_between, take_snapshot

__all__ = ["generator_states", "goes_on_changing", "not_only_noted"]


def goes_on_changing(pictures: Sequence[Snapshot]) -> tuple[str, ...]:
    """Attributes that further samples change too.

    What the first sample sets (a file that is opened lazily, a cached property) and later ones leave alone is none;
    nor are random generators, which every sample is to draw from.

    Args:
        pictures: What the dataset held before the first sample and after each one.

    Returns:
        Paths.
    """
    changed: list[str] = []
    for before, after in itertools.pairwise(pictures[1:]):
        changed += [path for path in changed_between(before, after) if path not in changed]
    return tuple(changed)


def not_only_noted(
    changes: Sequence[str],
    after_first: Snapshot,
    *,
    load_first_again: Callable[[], object],
    generators: Sequence[Callable[[], object]],
    parts: Mapping[str, Any],
) -> list[str]:
    """The changes without those that a library's own object only notes of the sample that it loads.

    Random transforms of albumentations and MONAI keep what they drew last. Nothing adds up in them: with the same
    random numbers the first sample leaves behind what it left the first time. What a class of the user's notes may be
    read by the user, so it stays a change.

    Args:
        changes: What ``goes_on_changing`` gave.
        after_first: What was held after the first sample.
        load_first_again: Loads it once more; called only where something may be such a note.
        generators: Where all random generators stood before it; see ``generator_states``.
        parts: As for ``take_snapshot``.

    Returns:
        Paths.
    """
    owners = _library_objects(parts) if changes else []
    noted = [path for path in changes if any(path.startswith(owner) for owner in owners)]
    if not noted:
        return list(changes)
    for restore in generators:
        restore()
    load_first_again()
    again = changed_between(after_first, take_snapshot(parts, generators=False))
    lasting = [path for path in noted if any(path.startswith(one) or one.startswith(path) for one in again)]
    return [path for path in changes if path not in noted or path in lasting]


def generator_states(parts: Mapping[str, Any]) -> Sequence[Callable[[], object]]:
    """Where every random generator stands: the global ones, and those that some parts hold.

    Args:
        parts: As for ``take_snapshot``.

    Returns:
        Functions that put them back there.
    """
    restores: list[Callable[[], object]] = [
        partial(random.setstate, random.getstate()),
        partial(np.random.set_state, np.random.get_state()),
    ]
    restores.append(partial(torch.set_rng_state, torch.get_rng_state()))
    for _, value in AttributeWalk(parts):
        if isinstance(value, random.Random):
            restores.append(partial(value.setstate, value.getstate()))
        elif isinstance(value, np.random.RandomState):
            restores.append(partial(value.set_state, value.get_state(legacy=False)))
        elif isinstance(value, torch.Generator):
            restores.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, (np.random.Generator, np.random.BitGenerator)):
            source = value.bit_generator if isinstance(value, np.random.Generator) else value
            restores.append(partial(setattr, source, "state", source.state))
    return restores


def _library_objects(parts: Mapping[str, Any]) -> list[str]:
    """Paths of objects whose class is, or is made from, one of an installed library that is not known."""
    return [path for path, value in AttributeWalk(parts) if any(map(_is_of_unknown_library, type(value).__mro__))]


def _is_of_unknown_library(kind: type) -> bool:
    top = kind.__module__.partition(".")[0]
    return is_library(kind.__module__) and top not in KNOWN and top not in sys.stdlib_module_names
