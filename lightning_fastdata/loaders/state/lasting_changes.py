"""Which changes that loading makes to a dataset matter: those that add up from sample to sample."""

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lightning_fastdata.loaders.rng import random_state, set_random_state
from lightning_fastdata.loaders.state.attributes import AttributeWalk
from lightning_fastdata.loaders.state.held_generators import find_generators
from lightning_fastdata.loaders.state.known import KNOWN
from lightning_fastdata.loaders.state.libraries import is_library
from lightning_fastdata.loaders.state.snapshot import NOTHING, Snapshot, changed_between

__all__ = ["adds_up", "generator_states", "lasting_changes"]


def lasting_changes(
    pictures: Sequence[Snapshot],
    *,
    load_again: Callable[[int], object],
    look: Callable[[], Snapshot],
    generators: Sequence[Callable[[], object]],
    parts: Mapping[str, Any],
) -> list[str]:
    """Attributes that loading goes on changing.

    Three kinds of change are none. What the first sample sets and later ones leave alone: a cached property. An object
    that a later one makes once: of several datasets in a row each opens its own file. And what a library's own object
    only notes of the sample that it loads: random transforms of albumentations and MONAI keep what they drew last.
    Nothing adds up in them: with the same random numbers the first sample leaves behind what it left the first time.
    What a class of the user's notes may be read by the user, so it stays a change.

    Args:
        pictures: What was held before the first sample, after it, and after some or all of the further ones.
        load_again: Loads the first (0) or the last (-1) of the samples once more; called only where that may tell.
        look: Takes another picture.
        generators: Where all random generators stood before the first one; see ``generator_states``.
        parts: As for ``take_snapshot``.

    Returns:
        Paths.
    """
    changes = _further_changes(pictures)
    if any(_opens_once(pictures, path) for path in changes):
        load_again(-1)
        pictures = [*pictures, look()]
        changes = [path for path in _further_changes(pictures) if not _opens_once(pictures, path)]
    owners = _library_objects(parts) if changes else []
    noted = [path for path in changes if any(path.startswith(owner) for owner in owners)]
    if not noted:
        return changes
    for restore in generators:
        restore()
    load_again(0)
    again = changed_between(pictures[1], look())
    lasting = [path for path in noted if any(path.startswith(one) or one.startswith(path) for one in again)]
    return [path for path in changes if path not in noted or path in lasting]


def adds_up(before: Snapshot, after: Snapshot) -> bool:
    """Whether loading changed more than what it makes once, so that loading the same again would do harm.

    Args:
        before: What was held before.
        after: What is held now.
    """
    pictures = before, before, after
    return not all(_opens_once(pictures, path) for path in _further_changes(pictures))


def generator_states(parts: Mapping[str, Any]) -> Sequence[Callable[[], object]]:
    """Where every random generator stands: the global ones, and those that some parts hold.

    Args:
        parts: As for ``take_snapshot``.

    Returns:
        Functions that put them back there.
    """
    return partial(set_random_state, random_state()), *(one.save() for one in find_generators(parts).derived)


def _further_changes(pictures: Sequence[Snapshot]) -> list[str]:
    changes = [path for pair in itertools.pairwise(pictures[1:]) for path in changed_between(*pair)]
    return list(dict.fromkeys(changes))


def _opens_once(pictures: Sequence[Snapshot], path: str) -> bool:
    """Whether None, or an attribute that was not there, became an object once; data is a cache, or an answer."""
    if len(changes := _changes(pictures, path)) > 1:
        return False
    if all(_is_opening(*change) for change in changes):
        return True
    owners = itertools.accumulate(path.split("."), "{}.{}".format)  # an attribute of the object that has appeared
    return any(_is_opening(*change) for owner in owners if owner != path for change in _changes(pictures, owner)[:1])


def _changes(pictures: Sequence[Snapshot], path: str) -> list[tuple[Any, Any]]:
    contents = [one.contents.get(path, NOTHING) for one in pictures]
    return [(before, after) for before, after in itertools.pairwise(contents) if before != after]


def _is_opening(before: Any, after: Any) -> bool:
    of_object = type(after) is tuple and type(after[0]) is int and type(after[-1]) is frozenset
    if before == NOTHING or not of_object or type(before) is not tuple or len(before) != 2:
        return before == NOTHING and (of_object or type(after) is int)
    # What cannot be seen, such as a connection, shows in its owner's names only.
    kind, names = before
    return bool(kind == after[0] and names < after[1]) and all(type(name) is tuple for name in after[1] - names)


def _library_objects(parts: Mapping[str, Any]) -> list[str]:
    """Paths of objects whose class is, or is made from, one of an installed library that is not known."""
    return [path for path, value in AttributeWalk(parts) if any(map(_is_of_unknown_library, type(value).__mro__))]


def _is_of_unknown_library(kind: type) -> bool:
    top = kind.__module__.partition(".")[0]
    return is_library(kind.__module__) and top not in KNOWN and top not in sys.stdlib_module_names
