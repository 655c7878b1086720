"""The loaders of one split of a DataModule: what its options say now, one loader for each of its datasets."""

import traceback
from collections.abc import Mapping
from numbers import Integral
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

from lightning_fastdata.datamodules.dataset_collections import COLLECTIONS, check_datasets, flattened, to_builtin
from lightning_fastdata.datamodules.option_lookup import UNREAD, State, option, own_method, peek
from lightning_fastdata.datamodules.options import PLAIN_OPTIONS, check_loader_kwargs, loader_kwargs
from lightning_fastdata.datamodules.splits import check_shares
from lightning_fastdata.errors import FastDataError, check_bool, check_int
from lightning_fastdata.loaders.dataset_traits import traits_of
from lightning_fastdata.loaders.factory import check_seed, log_plan
from lightning_fastdata.loaders.footprint import pool_of
from lightning_fastdata.loaders.trainer_context import TrainerContext
from lightning_fastdata.planning.options import FIELDS, LoaderOptions, LoaderPlan, Pool, Split

__all__ = [
    "OPTIONS",
    "batch_size_of",
    "check_options",
    "concurrent_pool",
    "handed_auto",
    "has_collate_fn",
    "keep_plan",
    "loader_arguments",
    "make_loaders",
    "other_pool",
    "other_split",
]

OPTIONS = (*PLAIN_OPTIONS, "multiprocessing_context", "collate_fn", "dataloader_kwargs")
"""What is read when the loaders of a split are made, besides its dataset."""


def loader_arguments(module: Any, split: Split) -> dict[str, Any]:
    """Loader arguments of a split: the DataModule's collate_fn, then the user's dataloader_kwargs over it."""
    collate_fn = option(module, "collate_fn")
    own = {} if collate_fn is None else {"collate_fn": collate_fn}
    return {**own, **loader_kwargs(option(module, "dataloader_kwargs") or {}, split)}


def has_collate_fn(module: Any, *splits: Split) -> bool:
    """Whether the user collates the batches of some of these splits, and so wants samples."""
    return any(loader_arguments(module, split).get("collate_fn") is not None for split in splits)


def make_loaders(module: Any, split: Split) -> Any:
    """What a hook gives: the options are read here, for none of them may be known before."""
    check_options({name: option(module, name) for name in OPTIONS})
    datasets = own_method(module, "datasets", split)(split)
    if datasets is None and split == "train":
        raise FastDataError(
            f"{type(module).__name__} has no training data: train_dataset is None after setup('fit').",
            expected="a dataset, or a list or dict of them.",
            fix="set self.train_dataset in setup(), or pass train_dataset=...",
        )
    check_datasets(split, datasets)
    if datasets is None:
        return []
    if not isinstance(datasets, COLLECTIONS):
        return _loader(module, split, datasets)
    return _collection(module, split, datasets, split, len(flattened(datasets)))


def _loader(module: Any, split: Split, dataset: Any, **named: Any) -> Any:
    make = own_method(module, "make_dataloader", split, dataset, **(named or {"name": None, "loaders": 1}))
    return make(split, dataset, **named)


def _collection(module: Any, split: Split, datasets: Any, name: str, loaders: int) -> Any:
    """Loaders in the structure of their datasets, which may be nested: Lightning gives batches in the same one."""
    if isinstance(datasets, Mapping):
        items = datasets.items()
        return {key: _collection(module, split, inner, f"{name}/{key}", loaders) for key, inner in items}
    if isinstance(datasets, (list, tuple)):
        inners = enumerate(datasets)
        return [_collection(module, split, inner, f"{name}/{index}", loaders) for index, inner in inners]
    return _loader(module, split, datasets, name=name, loaders=loaders)


def batch_size_of(module: Any, split: Split) -> Any:
    """Samples per batch (count): evaluation may have its own."""
    own = None if split == "train" else option(module, "eval_batch_size")
    return option(module, "batch_size") if own is None else own


def concurrent_pool(module: Any, split: Split, context: TrainerContext) -> bool:
    """Whether workers of training and of validation are alive together."""
    if not context.fitting or not context.validates or split not in ("train", "val"):
        return False
    other = other_split(split)
    # Uncut: cutting held-out parts here would ask for training data that a validation alone does not need.
    datasets = to_builtin(peek(module, f"{other}_dataset"))
    if datasets is None and other == "val" and option(module, "val_split"):
        datasets = to_builtin(peek(module, "train_dataset"))
    if datasets is None or module._kwargs_for(other).get("num_workers", option(module, "num_workers")) == 0:
        return False
    # A property is not run before its own loader is made.
    return datasets is UNREAD or not all(traits_of(dataset).in_memory for dataset in flattened(datasets))


def other_pool(module: Any, split: Split, context: TrainerContext) -> Pool | None:
    """The workers that live beside those of ``split``, where the user has decided their number; else None."""
    other = other_split(split)
    kwargs = module._kwargs_for(other)
    workers = kwargs.get("num_workers", option(module, "num_workers"))
    if not isinstance(workers, Integral) or not concurrent_pool(module, split, context):
        return None
    if any(peek(module, f"{name}_dataset") is UNREAD for name in (other, "train")):
        return None
    batched = kwargs.get("batch_sampler") is None
    return pool_of(
        flattened(own_method(module, "datasets", other)(other)),
        num_workers=int(workers),
        prefetch_factor=kwargs.get("prefetch_factor", option(module, "prefetch_factor")),
        batch_size=kwargs.get("batch_size", batch_size_of(module, other)) if batched else None,
        ranks=context.share[1] if context.share else 1,
        alive_together=other == "train",
    )


def keep_plan(state: State, name: str, plan: LoaderPlan) -> None:
    """Keep the plan of a loader, and log it unless the same values were logged before."""
    state.plans[name] = plan
    values = f"{name} {plan.as_kwargs()}"  # without the reasons, which hold free memory and so differ each time
    if values not in state.logged:
        state.logged.add(values)
        log_plan(name, plan)


def check_options(values: Mapping[str, Any]) -> None:
    """Refuse what cannot be meant among the options that are known."""
    check_int("batch_size", values.get("batch_size", 32), 1, allow=(None,))  # None: torch batches nothing
    check_int("eval_batch_size", values.get("eval_batch_size"), 1, allow=(None,))
    for name in ("shuffle", "drop_last", "deterministic", "eval_repeats"):
        check_bool(name, values.get(name, True))
    check_seed(values.get("seed"))
    check_int("split_seed", values.get("split_seed", 42), 0)
    LoaderOptions(**{name: value for name, value in values.items() if name in FIELDS})
    check_shares(values.get("val_split", 0.0), values.get("test_split", 0.0))
    check_loader_kwargs(values.get("dataloader_kwargs") or {})


def handed_auto(error: BaseException) -> list[str]:
    """The arguments of torch's DataLoader that were "auto" where it raised an error, as ``num_workers="auto"``."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if _makes_a_loader(frame)]
    held = frames[-1].f_locals if frames else {}
    return [f'{name}="auto"' for name in FIELDS if isinstance(held.get(name), str) and held[name] == "auto"]


def _makes_a_loader(frame: FrameType) -> bool:
    # By name: Lightning leaves its own __init__ on the class when a hook raises.
    return frame.f_code.co_name == "__init__" and frame.f_globals.get("__name__") == DataLoader.__module__


def other_split(split: Split) -> Split:
    """The split whose workers live beside those of this one."""
    return "val" if split == "train" else "train"
