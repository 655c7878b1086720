"""Tensors and NumPy arrays in memory."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from lightning_fastdata.datamodules.array_dataset import ArrayDataset, RowDataset
from lightning_fastdata.datamodules.base import FastDataModuleMixin
from lightning_fastdata.datamodules.dataset_collections import flattened, to_builtin
from lightning_fastdata.datamodules.device_placement import place_arrays
from lightning_fastdata.datamodules.option_lookup import (
    UNREAD,
    Option,
    keep_given,
    known_options,
    option,
    peek,
    state_of,
)
from lightning_fastdata.datamodules.options import FastDataModuleOptions, Unpack
from lightning_fastdata.datamodules.split_loaders import has_collate_fn
from lightning_fastdata.datamodules.transforms import BatchTransform
from lightning_fastdata.errors import FastDataError, check_bool
from lightning_fastdata.loaders.batch_fetch import batch_fetcher
from lightning_fastdata.loaders.factory import SPLITS
from lightning_fastdata.loaders.transformed_dataset import TransformedDataset
from lightning_fastdata.planning.options import Split

__all__ = ["TensorDataModuleMixin"]

Arrays = Any
"""A tensor or NumPy array, or a tuple of them whose first dimensions agree."""
Transforms = BatchTransform | Sequence[BatchTransform] | None
"""One transform of batches, or several that follow each other."""


def _dataset_of(module: Any, read: Callable[[Any, str], Any], split: str) -> Any:
    """The dataset of a split's arrays, the same one as long as they are."""
    arrays = read(module, split)
    if arrays is None or arrays is UNREAD:
        return arrays
    make, made = RowDataset if has_collate_fn(module, *SPLITS) else ArrayDataset, state_of(module).made
    if split not in made or made[split][0] is not arrays or type(made[split][1]) is not make:
        tensors, single = _tensors(split, arrays)
        made[split] = arrays, make(tensors, single=single)
    return made[split][1]


def _tensors(split: str, arrays: Arrays) -> tuple[list[torch.Tensor], bool]:
    """The arrays of a split as tensors, and whether it was one without a tuple around it."""
    arrays = to_builtin(arrays)
    single = not isinstance(arrays, (tuple, list))
    tensors = [_tensor(split, array) for array in ([arrays] if single else arrays)]
    lengths = sorted({len(tensor) for tensor in tensors})
    if len(lengths) != 1 or lengths[0] == 0:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise FastDataError(
            f"TensorDataModule {split}: {f'arrays of shapes {shapes}' if tensors else 'no arrays'}.",
            expected="first dimensions that are equal and not 0: one row per sample.",
            fix="cut the arrays to the same samples.",
        )
    return tensors, single


class TensorDataModuleMixin(FastDataModuleMixin):
    """A DataModule for arrays that fit into memory.

    ::

        TensorDataModule(train=(X, y), val=(X_val, y_val), batch_size=256)

    Batches are cut out of the arrays in one operation each, without worker processes. So are those of any dataset of
    yours that says ``batched_fetch = True``: its ``__getitems__`` gets the indices of a batch as one int64 array and
    gives the finished batch.

    A transform gets a whole batch and the random numbers of its samples, which follow from (seed, epoch, index)::

        def brighter(batch, random):
            images, labels = batch
            return images * random.uniform(0.8, 1.2).view(-1, 1, 1, 1), labels

        TensorDataModule(train=(X, y), train_transform=[RandomCrop(32, padding=4), ToFloat(), brighter])

    ``lightning_fastdata.datamodules.transforms`` has ready-made ones.

    Args:
        train: A tensor or NumPy array, or a tuple of them with equal first dimensions. A tuple gives tuples as
            batches, a bare array gives bare tensors.
        val: The same for validation; or use ``val_split``.
        test: The same for testing.
        predict: The same for prediction.
        train_transform: ``f(batch, random)``, or several that follow each other: each gets the whole batch and a
            ``transforms.SampleRandom``, and gives the batch back. Should it draw from the global generators, those are
            seeded once for the batch.
        eval_transform: The same for validation, test and prediction.
        device_resident: Copy the arrays to the Trainer's device when its loaders are made, and cut batches out of them
            there, if they fit into a quarter of the device's free memory; else, and on the CPU, they stay where they
            are. Each rank has all of them on its own device. Batches are the same. ``placements`` says where the arrays
            are, and why.
        **kwargs: Arguments of ``FastDataModule``: ``batch_size``, ``val_split``, ``seed``, ... With a ``collate_fn``
            samples are fetched one by one and handed to it as a list.

    Raises:
        FastDataError: Lengths that differ, no rows, or something that is no array.
    """

    train: Any = Option(saved=False)
    val: Any = Option(saved=False)
    test: Any = Option(saved=False)
    predict: Any = Option(saved=False)
    train_dataset: Any = Option(computed=partial(_dataset_of, split="train"))
    val_dataset: Any = Option(computed=partial(_dataset_of, split="val"))
    test_dataset: Any = Option(computed=partial(_dataset_of, split="test"))
    predict_dataset: Any = Option(computed=partial(_dataset_of, split="predict"))
    train_transform: Any = Option(arguments=2)
    eval_transform: Any = Option(arguments=2)
    device_resident: Any = Option(False)
    placements: Any = Option(computed=lambda module, _: state_of(module).placements, saved=False)

    def __init__(
        self,
        train: Arrays = None,
        val: Arrays = None,
        test: Arrays = None,
        predict: Arrays = None,
        *,
        train_transform: Transforms = None,
        eval_transform: Transforms = None,
        device_resident: bool | None = None,
        **kwargs: Unpack[FastDataModuleOptions],
    ) -> None:
        given = locals()
        super().__init__(**kwargs)
        keep_given(self, given)
        for name in ("train_transform", "eval_transform"):
            _checked(name, known_options(self, [name])[name])
        check_bool("device_resident", device_resident, allow=(None,))
        for split in SPLITS:
            arrays = peek(self, split)
            if arrays is None or arrays is UNREAD:
                continue
            _tensors(split, arrays)
            if f"{split}_dataset" in state_of(self).given:
                raise FastDataError(
                    f"{split}=... together with {split}_dataset.", expected="one of the two.", fix=f"leave out {split}."
                )
        _refuse_targets_as_val(train, val)

    def make_dataloader(self, split: Split, dataset: Any, *, name: str | None = None, loaders: int = 1) -> Any:
        """Make one loader, with the split's transforms, from the device's memory where you ask for it; see the base.

        Raises:
            FastDataError: See ``FastDataModule``; or a transform for an IterableDataset.
        """
        if check_bool("device_resident", option(self, "device_resident")):
            self._place_arrays(dataset, name or split)
        transform = "train_transform" if split == "train" else "eval_transform"
        transforms = _checked(transform, to_builtin(option(self, transform)))
        if transforms:
            if isinstance(dataset, IterableDataset):
                raise FastDataError(
                    f"{type(self).__name__} {name or split}: a batch transform for {type(dataset).__name__}.",
                    expected="a map-style dataset: the samples of a stream have no index to draw random numbers from.",
                    fix="transform samples in the dataset's __iter__.",
                )
            dataset = TransformedDataset(dataset, transforms)
        return super().make_dataloader(split, dataset, name=name, loaders=loaders)

    def teardown(self, stage: str) -> None:
        """Give the device's memory back.

        Args:
            stage: "fit", "validate", "test" or "predict".
        """
        super().teardown(stage)
        for split in SPLITS:
            for dataset in flattened(peek(self, f"{split}_dataset")):
                source = batch_fetcher(dataset)
                if source is not None and isinstance(source.dataset, ArrayDataset):
                    source.dataset.move_back()

    def _place_arrays(self, dataset: Any, name: str) -> None:
        """Copy the arrays of a loader to the device, or say why not."""
        from lightning_utilities.core.rank_zero import rank_zero_info

        source, device = batch_fetcher(dataset), getattr(getattr(self.trainer, "strategy", None), "root_device", None)
        where = "where they are: the samples are not cut out of arrays, a batch at a time"
        if source is not None and isinstance(source.dataset, ArrayDataset):
            # Of all splits: held-out parts share one copy, which the workers of any of them could not read.
            kwargs = [self._kwargs_for(split) for split in SPLITS]
            workers = [each.get("num_workers", option(self, "num_workers")) for each in kwargs]
            pinned = any(each.get("pin_memory", option(self, "pin_memory")) is True for each in kwargs)
            asked = next((count for count in workers if count not in ("auto", 0)), 0)
            where = place_arrays(source.dataset, device, num_workers=asked, pin_memory=pinned)
        placements = state_of(self).placements
        if placements.get(name) != where:
            placements[name] = where
            rank_zero_info(f"device_resident: the arrays of {name} are {where}.")


def _refuse_targets_as_val(train: Arrays, val: Arrays) -> None:
    """``TensorDataModule(X, y)`` means inputs and targets; without a word y would be validated on."""
    if not all(isinstance(arrays, (torch.Tensor, np.ndarray)) and arrays.ndim for arrays in (train, val)):
        return
    (rows, *row), (val_rows, *val_row) = train.shape, val.shape
    same_type = train.dtype == val.dtype
    if len(row) != len(val_row) or (rows == val_rows and not (row == val_row and same_type)):
        raise FastDataError(
            f"TensorDataModule: val has shape {(val_rows, *val_row)} and dtype {val.dtype}, train has "
            f"{(rows, *row)} and {train.dtype}.",
            expected="arrays of the same kind to train and to validate on.",
            fix="pass TensorDataModule((X, y)) for inputs and targets, a tuple, and val=(X_val, y_val).",
        )


def _checked(name: str, given: Transforms) -> tuple[BatchTransform, ...]:
    transforms = () if given is None else tuple(given) if isinstance(given, (list, tuple)) else (given,)
    for transform in transforms:
        if not callable(transform):
            raise FastDataError(
                f"{name}={given!r}.",
                expected="a function of a batch and its random numbers, or a list of such.",
                fix=f"pass {name}=f, where f(batch, random) gives the batch back.",
            )
    return transforms


def _tensor(split: str, array: object) -> torch.Tensor:
    if isinstance(array, torch.Tensor) and array.ndim > 0:
        return array
    if isinstance(array, np.ndarray) and array.ndim > 0 and array.dtype.kind in "biufc":
        # A read-only array (a memory map, a frozen view) cannot be shared with torch without a warning: copy it.
        # The same for the byte order of another machine and for reversed views.
        shareable = array.flags.writeable and array.dtype.isnative and min(array.strides) >= 0
        try:
            return torch.from_numpy(array if shareable else array.astype(array.dtype.newbyteorder("="), order="C"))
        except TypeError:
            pass  # a width that torch does not know, such as float128
    described = f"an array of dtype {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
    raise FastDataError(
        f"TensorDataModule {split}: {described}.",
        expected="torch tensors or numeric NumPy arrays with one row per sample.",
        fix="convert it first, for example with torch.as_tensor(...).",
    )
