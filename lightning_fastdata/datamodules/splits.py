"""Held-out parts of a dataset that still answer for the whole one."""

from array import array
from collections.abc import Mapping, Sized
from typing import Any, cast

from torch.utils.data import IterableDataset, Subset

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.order import split_indices

__all__ = ["STAGES", "SplitView", "check_shares", "split_dataset"]

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ()}
"""Splits that a stage of the Trainer reads; no stage reads all."""
PER_SAMPLE = ("targets", "samples", "imgs", "labels")
"""Attributes that torchvision's datasets, and those written like them, keep with one entry per sample."""


class SplitView(Subset[Any]):
    """Some samples of a dataset, which still answers for it.

    ``targets``, ``samples``, ``imgs`` and ``labels`` are cut to the view, so that class weights computed from them fit
    it; any other attribute (``classes``, ``class_to_idx``, ...) is that of the whole dataset.
    """

    def __getattr__(self, name: str) -> Any:
        # Reached only for names a Subset lacks. While unpickling, "dataset" itself is one of them.
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self.dataset, name)
        if name not in PER_SAMPLE or not hasattr(value, "__len__") or len(value) != len(cast(Sized, self.dataset)):
            return value
        if isinstance(value, (list, tuple)):
            return type(value)(value[index] for index in self.indices)
        return value[list(self.indices)]  # a tensor or an array


def check_shares(val_split: float | int, test_split: float | int) -> None:
    """Refuse shares that cannot be meant, before any data is looked at.

    Args:
        val_split: A share in [0, 1) as a float, or a number of samples as an int.
        test_split: Likewise.

    Raises:
        FastDataError: A negative or absurd value, or shares that leave nothing to train on.
    """
    for name, share in (("val_split", val_split), ("test_split", test_split)):
        numeric = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not numeric or share < 0 or (isinstance(share, float) and not share < 1):
            raise FastDataError(
                f"{name}={share!r}.",
                expected="a share of the training data in [0, 1) as a float, or a number of samples as an int.",
                fix=f"for a tenth pass {name}=0.1, for 500 samples {name}=500.",
            )
    shares = [share for share in (val_split, test_split) if isinstance(share, float)]
    if sum(shares) >= 1:
        raise FastDataError(
            f"val_split={val_split!r} and test_split={test_split!r} sum to {sum(shares):g}.",
            expected="shares that sum to less than 1, so that something is left to train on.",
            fix="lower one of them.",
        )


def split_dataset(dataset: Any, shares: Mapping[str, float | int], split_seed: int) -> dict[str, SplitView]:
    """Cut a map-style dataset into views.

    Args:
        dataset: The dataset to cut.
        shares: Held-out parts by name; see ``order.split_indices``.
        split_seed: Decides, alone, which sample goes where.

    Returns:
        A view by name, with ``"train"`` for the rest.

    Raises:
        FastDataError: The dataset cannot be cut, or a part would be empty.
    """
    collection = isinstance(dataset, (IterableDataset, list, tuple, dict))
    if collection or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise FastDataError(
            f"val_split or test_split with {type(dataset).__name__} as training data.",
            expected="one map-style dataset (with a length and __getitem__).",
            fix="set val_dataset and test_dataset yourself.",
        )
    indices = split_indices(len(dataset), shares, split_seed)
    # Packed, 8 bytes a sample where Python's integers take 40, and yet each comes out as one of those.
    return {name: SplitView(dataset, array("q", numbers.tobytes())) for name, numbers in indices.items()}
