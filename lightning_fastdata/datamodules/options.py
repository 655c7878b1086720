"""Options that all DataModules share: their types, the error for a misspelled one, loader arguments by split."""

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.build import check_kwargs
from lightning_fastdata.loaders.factory import SPLITS
from lightning_fastdata.planning.options import Split

if TYPE_CHECKING:
    from typing import Unpack
else:

    class Unpack:
        """At run time ``**kwargs: Any``: jsonargparse then finds defaults and help texts where ``**kwargs`` goes to."""

        def __class_getitem__(cls, options: Any) -> Any:
            return Any


__all__ = [
    "PLAIN_OPTIONS",
    "Auto",
    "FastDataModuleOptions",
    "UnknownArgumentError",
    "Unpack",
    "UnsplitOptions",
    "accepted_arguments",
    "check_loader_kwargs",
    "loader_kwargs",
]

Auto = Literal["auto"]
PLAIN_OPTIONS = (
    *("batch_size", "eval_batch_size", "num_workers", "pin_memory", "persistent_workers", "prefetch_factor"),
    *("drop_last", "shuffle", "val_split", "test_split", "seed", "split_seed", "deterministic", "eval_repeats"),
)
"""Shared options with plain values: what a checkpoint keeps, as given ("auto" stays "auto")."""
TRAINING_ONLY = ("sampler", "batch_sampler", "shuffle", "drop_last")
"""Loader arguments that apply to training alone when ``dataloader_kwargs`` are not written per split."""


class UnsplitOptions(TypedDict, total=False):
    """What ``FastDataModule`` takes, without ``val_split``."""

    train_dataset: Any
    val_dataset: Any
    test_dataset: Any
    predict_dataset: Any
    batch_size: int | None
    eval_batch_size: int | None
    num_workers: int | Auto
    pin_memory: bool | Auto
    persistent_workers: bool | Auto
    prefetch_factor: int | Auto | None
    drop_last: bool | None
    shuffle: bool | None
    test_split: int | float | None
    seed: int | None
    split_seed: int | None
    deterministic: bool | None
    eval_repeats: bool | None
    collate_fn: Callable[[list[Any]], Any] | None
    dataloader_kwargs: dict[str, Any] | None


class FastDataModuleOptions(UnsplitOptions, total=False):
    """What ``FastDataModule`` takes, for the ``**kwargs`` of classes that hand them on."""

    val_split: int | float | None


class UnknownArgumentError(FastDataError, TypeError):
    """An argument that a constructor does not take; a TypeError as from any constructor.

    Args:
        cls: The class that the user wrote.
        names: The arguments.
    """

    def __init__(self, cls: type, names: Collection[str]) -> None:
        known = accepted_arguments(cls)
        near = [match for name in names for match in difflib.get_close_matches(name, known, n=1)]
        super().__init__(
            f"{cls.__name__}: unknown argument {', '.join(names)}.",
            expected="arguments of this class or of FastDataModule.",
            fix=f"did you mean {', '.join(near)}?" if near else "remove it.",
        )


def accepted_arguments(cls: type) -> set[str]:
    """Arguments that a constructor takes by name, also those that it hands on to its parents.

    Args:
        cls: Any class.
    """
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            names |= {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
            if all(each.kind is not each.VAR_KEYWORD for each in parameters):
                break
    return names - {"self"}


def loader_kwargs(given: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """The part of ``dataloader_kwargs`` that a split gets.

    Args:
        given: The user's ``dataloader_kwargs``.
        split: "train", "val", "test" or "predict".
    """
    if _is_per_split(given):
        return dict(given.get(split, {}))
    # What orders or thins training data has no business in evaluation, which sees every sample once.
    return {name: value for name, value in given.items() if split == "train" or name not in TRAINING_ONLY}


def check_loader_kwargs(given: Any) -> None:
    """Refuse ``dataloader_kwargs`` that cannot be meant.

    Args:
        given: What the user passed.

    Raises:
        FastDataError: No dict, a mix of both forms, or arguments that cannot work.
    """
    for kwargs in given.values() if isinstance(given, Mapping) and _is_per_split(given) else [given]:
        if not isinstance(kwargs, Mapping):
            raise FastDataError(
                f"dataloader_kwargs={given!r}.",
                expected="a dict of DataLoader arguments, or one such dict per split.",
                fix='write {"timeout": 60} or {"train": {"timeout": 60}}.',
            )
        check_kwargs(kwargs)


def _is_per_split(given: Mapping[str, Any]) -> bool:
    """Whether ``dataloader_kwargs`` are written per split; a mix of both forms is refused."""
    named = [key for key in given if key in SPLITS]
    if named and len(named) < len(given):
        rest = ", ".join(sorted(set(given) - set(named)))
        raise FastDataError(
            f"dataloader_kwargs has splits ({', '.join(named)}) next to loader arguments ({rest}).",
            expected="either arguments for all splits, or one dict per split.",
            fix=f"move {rest} into the splits' dicts.",
        )
    return bool(named)
