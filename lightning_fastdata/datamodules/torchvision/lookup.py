"""Finding a dataset of torchvision by its name, and what may be said to it."""

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torchvision.datasets

from lightning_fastdata.datamodules.torchvision.registry import DATASETS, REFUSED, TRAIN_FLAG, TWO_SPLITS, DatasetSpec
from lightning_fastdata.errors import FastDataError

__all__ = ["spec_of", "with_choice"]


def spec_of(name: str) -> DatasetSpec:
    """What is known of a dataset.

    Args:
        name: Name of a class in ``torchvision.datasets``.

    Returns:
        Its spec. Of one that is not in ``DATASETS``, the arguments for its splits as far as the signature shows them.

    Raises:
        FastDataError: No such dataset, or none for classification.
    """
    if not isinstance(name, str):
        said = getattr(name, "__name__", "CIFAR10")
        raise FastDataError(
            f"TorchvisionDataModule({name!r}).", expected="the name of a dataset.", fix=f'pass "{said}".'
        )
    cls = getattr(torchvision.datasets, name, None)
    if not (inspect.isclass(cls) and issubclass(cls, torchvision.datasets.VisionDataset)):
        near = _nearest(name)
        raise FastDataError(
            f"torchvision has no dataset {name!r}.",
            expected=f"one of {', '.join(sorted(DATASETS))}.",
            fix=f"did you mean {' or '.join(near)}?" if near else "pass one of these names.",
        )
    spec = None if name in REFUSED else DATASETS.get(name) or _from_signature(cls)
    if spec is None:
        raise FastDataError(
            f"torchvision's {name} {REFUSED.get(name, 'does not show how to ask for its training part')}.",
            expected="a dataset of images that have one class each, with train= or split= for its parts.",
            fix=f"make it yourself: FastDataModule(torchvision.datasets.{name}(root, ...), collate_fn=...).",
        )
    return spec


def _nearest(name: str) -> list[str]:
    """Names that may have been meant: the same letters first, then those that contain it, then similar ones."""
    plain = {known.lower(): known for known in DATASETS}
    said = "".join(letter for letter in name.lower() if letter.isalnum())
    if said in plain:
        return [plain[said]]
    parts = [known for known in plain if said and (said in known or known in said)]
    close = difflib.get_close_matches(said, plain, n=3)
    return [plain[known] for known in dict.fromkeys([*close, *parts])][:3]


def _from_signature(cls: type) -> DatasetSpec | None:
    parameters = inspect.signature(cls).parameters
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if needed != ["root"] or "transform" not in parameters:
        return None
    download = "download" in parameters
    if "train" in parameters and parameters["train"].default in (True, False):
        return DatasetSpec(splits=TRAIN_FLAG, guessed=True, download=download)
    if "split" in parameters and parameters["split"].default == "train":
        return DatasetSpec(splits=TWO_SPLITS, guessed=True, download=download)
    return None


def with_choice(name: str, spec: DatasetSpec, dataset_kwargs: Mapping[str, Any]) -> DatasetSpec:
    """The spec under the arguments that decide what the labels are.

    Args:
        name: The dataset.
        spec: What is known of it.
        dataset_kwargs: The user's arguments for it.

    Returns:
        The spec, with those replaced that the choice changes.

    Raises:
        FastDataError: A choice without one class per image, or none where one is needed.
    """
    if not spec.choices or (spec.option not in dataset_kwargs and spec.num_classes is not None):
        return spec
    value = dataset_kwargs.get(spec.option)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, (list, tuple, dict)) or value not in spec.choices:
        said = f"{spec.option}={value!r}" if spec.option in dataset_kwargs else f"no {spec.option}"
        raise FastDataError(
            f"TorchvisionDataModule({name!r}) with {said}.",
            expected=f"one of {', '.join(map(repr, spec.choices))}, which give each image one class.",
            fix=f"pass dataset_kwargs={{{spec.option!r}: {next(iter(spec.choices))!r}}}, for one.",
        )
    return replace(spec, **spec.choices[value])
