"""Whether "auto" may give a dataset worker processes: what can be seen of it, then a rehearsal."""

import contextlib
import multiprocessing
import weakref
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from torch.utils.data import default_collate, default_convert

from lightning_fastdata.compat.rank_zero import log_rank_zero
from lightning_fastdata.loaders.dataset_traits import DatasetTraits
from lightning_fastdata.loaders.seeded_dataset import SeededDataset
from lightning_fastdata.loaders.state.hazards import Hazard, Survey, survey
from lightning_fastdata.loaders.state.known import unknown_part
from lightning_fastdata.loaders.state.rehearsal import LONGEST_S, Rehearsal, RehearsalSetup, rehearse

__all__ = ["looked_at", "rehearsed"]

_rehearsed: dict[int, tuple[list[Callable[[], Any]], tuple[Any, ...], Rehearsal]] = {}
"""Results by the identity of a dataset, so that a loader that is made again costs no second rehearsal. Nothing of it is
kept alive: a collate function may be a method of what holds the dataset."""


def looked_at(dataset: Any, arguments: Mapping[str, Any], start_method: str | None = None) -> Survey:
    """What a dataset's attributes show of whether it may go into a worker. None of its code runs.

    Args:
        dataset: A map-style dataset.
        arguments: Arguments of torch's DataLoader.
        start_method: How workers of a loader of this package are started; None = another loader, which
            reopens no files.

    Returns:
        What was found.
    """
    if multiprocessing.current_process().daemon:
        return Survey((Hazard("this process", "is a daemon", "the program's first process may start workers"),))
    try:
        return survey(_sent(dataset, arguments), start_method)
    except Exception as error:  # a proxy, a container that another thread changes: what cannot be seen stays here
        what = f"could not be looked at ({type(error).__name__}: {error})"
        return Survey((Hazard("the dataset", what, "num_workers=4 takes workers"),))


def rehearsed(
    dataset: Any, arguments: Mapping[str, Any], traits: DatasetTraits, start_method: str, longest_s: float = LONGEST_S
) -> Rehearsal | None:
    """Whether workers would give what this process gives, by loading a few samples in a child process.

    Datasets, transforms and collate functions of torch, torchvision and this package are known and not tried.

    Args:
        dataset: A map-style dataset with a length.
        arguments: Arguments of torch's DataLoader.
        traits: The traits of the dataset.
        start_method: How workers will be started.
        longest_s: The longest that it may take (s).

    Returns:
        What was found, with what it took; None where everything is known.
    """
    try:
        return _tried(dataset, arguments, traits, start_method, longest_s)
    except Exception as error:
        problem = f"no sample could be tried ({type(error).__name__}: {error})"
        return Rehearsal(problem, "num_workers=4 takes workers all the same")


def _tried(
    dataset: Any, arguments: Mapping[str, Any], traits: DatasetTraits, start_method: str, longest_s: float
) -> Rehearsal | None:
    sent = _sent(dataset, arguments)
    if unknown_part(sent) is None:
        return None
    if not traits.length and "sampler" not in sent and "batch_sampler" not in sent:
        return Rehearsal(
            f"{type(dataset).__name__} has no length, so no sample can be tried", "num_workers=4 takes workers"
        )
    settings = start_method, arguments.get("batch_size", 1), *list(sent)
    kept = _rehearsed.get(id(dataset))
    if kept is not None and kept[1] == settings and all(map(_is_same, kept[0], sent.values())):
        return kept[2]
    found = _rehearse(dataset, arguments, traits, start_method, longest_s)
    if found.samples == 0 and longest_s < LONGEST_S:
        return found  # another one may have the time
    with contextlib.suppress(TypeError):  # what has slots, or is a list, has no weak references
        weakref.finalize(dataset, _rehearsed.pop, id(dataset), None)
        _rehearsed[id(dataset)] = list(map(_weak, sent.values())), settings, found
    return found


def _weak(sent: Any) -> Callable[[], Any]:
    return weakref.WeakMethod(sent) if isinstance(sent, MethodType) else weakref.ref(sent)


def _is_same(kept: Callable[[], Any], sent: Any) -> bool:
    """Whether it is the same object; a bound method is a new one each time it is asked for."""
    return kept() is sent or (isinstance(sent, MethodType) and kept() == sent)


def _rehearse(
    dataset: Any, arguments: Mapping[str, Any], traits: DatasetTraits, start_method: str, longest_s: float
) -> Rehearsal:
    by_batch, sampler = arguments.get("batch_sampler"), arguments.get("sampler")
    batched = by_batch is not None or arguments.get("batch_size", 1) is not None
    collate = arguments.get("collate_fn")
    if collate is None:
        collate = default_collate if batched else default_convert
    one_by_one = batched and not traits.has_getitems
    setup = RehearsalSetup(
        SeededDataset(dataset, _only_sample if one_by_one else collate, None, batched=batched, traits=traits),
        dataset,
        length=traits.length or 0,
        collate_fn=collate if one_by_one else None,
        batch_size=arguments.get("batch_size", 1) if by_batch is None else None,
        sampler=sampler if by_batch is None else by_batch,
        samples_in_batches=by_batch is not None,
        worker_init_fn=arguments.get("worker_init_fn"),
    )
    return rehearse(setup, start_method=start_method, longest_s=longest_s, log=log_rank_zero)


def _only_sample(samples: Any) -> Any:
    return samples[0]


def _sent(dataset: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker gets, by the name a person knows it under."""
    names = ("collate_fn", "worker_init_fn", "sampler", "batch_sampler")
    of_torch = (None, default_collate, default_convert)  # what a loader has where nothing was passed
    given = {name: part for name in names if not any((part := arguments.get(name)) is one for one in of_torch)}
    return {"dataset": dataset, **given}
