"""torchvision's classification datasets, by name."""

import copy
import difflib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision.datasets
from PIL import Image
from torchvision.datasets.vision import StandardTransform
from torchvision.transforms import v2

from lightning_fastdata.compat.rank_zero import warn_rank_zero
from lightning_fastdata.datamodules.base import FastDataModuleMixin
from lightning_fastdata.datamodules.images.datamodule import RESIZE_FOR_CROP
from lightning_fastdata.datamodules.images.normalize import IMAGENET_MEAN, IMAGENET_STD
from lightning_fastdata.datamodules.option_lookup import UNREAD, Option, keep_given, known_options, option, peek
from lightning_fastdata.datamodules.options import PLAIN_OPTIONS, Unpack, UnsplitOptions, accepted_arguments
from lightning_fastdata.datamodules.splits import STAGES, SplitView
from lightning_fastdata.datamodules.torchvision.download_errors import absent, one_at_a_time, undownloaded
from lightning_fastdata.datamodules.torchvision.lookup import spec_of, with_choice
from lightning_fastdata.datamodules.torchvision.registry import DatasetSpec
from lightning_fastdata.errors import FastDataError, check_bool, check_int
from lightning_fastdata.loaders.factory import SPLITS
from lightning_fastdata.loaders.order import split_indices

__all__ = ["TorchvisionDataModuleMixin"]

Transform = Callable[[Any], Any]
DEFAULT_VAL_SPLIT = 0.1
"""Part of the training images to validate on where a dataset has no validation images."""
DEFAULT_SIZE = 224
"""Height and width of a sample (pixels) where the images differ in size: what torchvision's models were trained on."""
SHIFT = 1 / 8
"""How far images are shifted at most, as a part of their size: the 4 of 32 pixels of He et al. (2015) on CIFAR-10."""


def _default_share(module: Any, _: object) -> float:
    """The ``val_split`` where none is said."""
    own = "val" in module.spec.splits or bool({"train", "val"} & module._given)
    return 0.0 if own else DEFAULT_VAL_SPLIT


class TorchvisionDataModuleMixin(FastDataModuleMixin):
    """A classification dataset of torchvision by its name: ``TorchvisionDataModule("CIFAR10", "data")``.

    ``prepare_data`` downloads what is not there yet; Lightning calls it on one rank of each node. Number of classes,
    shape and normalization of a sample are known before.

    Small images are shifted by up to an eighth for training and, where the class allows it, mirrored; large ones are
    cropped at random and mirrored. For evaluation small ones stay as they are, large ones are resized and cropped in
    the middle. All become float32 (channels, height, width), normalized with ``mean`` and ``std``; grayscale keeps
    its one channel. A transform of your own replaces all of that.

    Where the dataset has validation images of its own, they are used, and ``val_split`` is an error. Where it has
    none, ``val_split`` holds out a part of the training images, chosen by ``split_seed`` alone and not augmented. Its
    test images are the test split; a dataset without any has none, unless ``test_split`` holds out a part as well.

    Args:
        name: Name of a class in ``torchvision.datasets``.
        root: The folder that torchvision keeps the files in.
        image_size: Height and width of what the model gets (pixels); None = that of the files where they are small
            and all of one size, else 224 (48 for GTSRB).
        train_transform: Takes the image as the dataset gives it, a PIL image; replaces the default augmentation and
            normalization.
        eval_transform: The same for validation and test.
        val_split: Part of the training images to validate on, a share in [0, 1) as a float or a number of samples as
            an int; None = 0.1 where the dataset has no validation images and you passed no data of your own. 0 trains
            on everything.
        download: Whether to download what is not there; None = yes.
        dataset_kwargs: Further arguments of the dataset: ``{"split": "balanced"}`` for EMNIST,
            ``{"annotation_level": "family"}`` for FGVCAircraft.
        **kwargs: Arguments of ``FastDataModule``: ``batch_size``, ``num_workers``, ``seed``, ...

    Raises:
        FastDataError: An unknown dataset or argument, at once; a failed download, in ``prepare_data``; missing or
            incomplete files, in ``setup``.
    """

    name: str
    image_size: Any = Option()
    train_transform: Any = Option(arguments=1)
    eval_transform: Any = Option(arguments=1)
    val_split: Any = Option(computed=_default_share, kinds=(int, float))
    download: Any = Option(True)
    dataset_kwargs: Any = Option()

    def __init__(
        self,
        name: str,
        root: str | Path,
        *,
        image_size: int | None = None,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
        val_split: int | float | None = None,
        download: bool | None = None,
        dataset_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Unpack[UnsplitOptions],
    ) -> None:
        given, self.name = locals(), name
        self._given: set[str] = set()
        self.spec = spec_of(name)
        super().__init__(val_split=val_split, **kwargs)
        keep_given(self, given)
        # torchvision's datasets do not replace those of your own.
        self._given = {split for split in SPLITS if peek(self, f"{split}_dataset") is not None}
        known = known_options(self, ("image_size", "download", "dataset_kwargs", *PLAIN_OPTIONS))
        chosen = dict(known.pop("dataset_kwargs") or {})
        _check_dataset_kwargs(name, self.spec, chosen)
        self.root = str(Path(root).expanduser())
        known["image_size"] = check_int("image_size", known["image_size"], 1, allow=(None,))
        check_bool("download", known["download"], allow=(None,))
        self.spec = with_choice(name, self.spec, chosen)
        self._opened: dict[str, Any] = {}
        self._classes: list[str] | None = None
        self._check_held_out()
        plain = {each: value for each, value in chosen.items() if _is_plain(value)}
        kept = {"name": name, "root": self.root, **known, "val_split": val_split, "dataset_kwargs": plain}
        self.save_hyperparameters(kept, logger=False)

    @property
    def num_classes(self) -> int:
        """Classes (count), known before the download for all but a few datasets."""
        known = self.spec.num_classes or len(self._classes or ())
        if not known:
            raise FastDataError(
                f"the number of classes of {self.name} is not known.",
                expected="a dataset that has class names, after setup(), or one in this package's table.",
                fix='call datamodule.setup("fit") first; if that does not help, count the labels.',
            )
        return known

    @property
    def classes(self) -> list[str] | None:
        """Class names, known after ``setup``; the position is the label. None where the dataset names none."""
        if not self._opened:
            raise FastDataError(
                "classes are not known yet.", expected="setup() to have run.", fix='call datamodule.setup("fit") first.'
            )
        return None if self._classes is None else list(self._classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width (pixels) of a sample, unless a transform of your own decides."""
        return (self.spec.channels, *self._size)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel that is subtracted; where no figure is known, ImageNet's for color and 0.5 for gray."""
        return self.spec.mean or (IMAGENET_MEAN if self.spec.channels == 3 else (0.5,))

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel that is divided by, likewise."""
        return self.spec.std or (IMAGENET_STD if self.spec.channels == 3 else (0.5,))

    def prepare_data(self) -> None:
        """Download and unpack what is not there; Lightning calls it on one rank of each node."""
        if not (option(self, "download") and self.spec.download) and not self.spec.unpacks:
            return
        with one_at_a_time(self.root, self.name):
            for split in self.spec.splits:
                if split not in self._given:
                    self._make(split, preparing=True)

    def setup(self, stage: str | None = None) -> None:
        """Make the datasets that a stage needs; those of an earlier stage stay."""
        for split in STAGES.get(stage or "", SPLITS):
            own = split in self.spec.splits
            if split in self._given or not (own or split in self._held_out):
                continue
            if own and split != "train":
                self._put(split, self._open(split))
            else:
                self._put_training()

    @property
    def _size(self) -> tuple[int, int]:
        default = option(self, "image_size") or self.spec.default_size
        if default is None and self.spec.image_size is not None:
            return self.spec.image_size
        return (default or DEFAULT_SIZE,) * 2

    @property
    def _held_out(self) -> dict[str, float | int]:
        """Parts to cut from torchvision's training images; FastDataModule cuts training data that the user passed."""
        shares = {name: option(self, f"{name}_split") for name in ("val", "test")}
        return {} if "train" in self._given else {split: share for split, share in shares.items() if share}

    def _check_held_out(self) -> None:
        for split in ("val", "test"):
            share = peek(self, f"{split}_split")
            if share and share is not UNREAD and split in self.spec.splits:
                raise FastDataError(
                    f"{split}_split={share!r}, but {self.name} has {split} images of its own.",
                    expected="one of the two.",
                    fix=f"leave out {split}_split, or use FastDataModule with datasets that you cut yourself.",
                )

    def _put_training(self) -> None:
        """All that comes from the training images, together: a part put alone would be cut from the rest again."""
        source, held_out = self._open("train"), self._held_out
        parts = split_indices(len(source), held_out, option(self, "split_seed")) if held_out else {"train": None}
        for split, indices in parts.items():
            if split not in self._given:
                self._put(split, source, indices)

    def _put(self, split: str, source: Any, indices: Any = None) -> None:
        if source is None:
            return
        training = split == "train"
        own = option(self, "train_transform" if training else "eval_transform")
        transform = own or default_transform(self.spec, self._size, self.mean, self.std, training=training)
        view = copy.copy(source)  # shares the images with the other splits
        # torchvision's datasets use the one or the other.
        view.transform = transform
        view.transforms = StandardTransform(transform, source.target_transform)
        channels, height, width = self.image_shape
        view.sample_bytes = None if own else channels * height * width * 4
        setattr(self, f"{split}_dataset", view if indices is None else SplitView(view, indices.tolist()))

    def _open(self, split: str) -> Any:
        """The dataset of a split, without transforms; None where it turns out not to exist."""
        if split not in self._opened:
            dataset = self._make(split)
            if dataset is not None:
                self._check_complete(split, dataset)
                if self.spec.unlabelled_test and split == "test" and len(dataset) and dataset[0][1] is None:
                    warn_rank_zero(f"the test images of {self.name} in {self.root} have no labels: no test split.")
                    dataset = None
            self._opened[split] = dataset
        return self._opened[split]

    def _make(self, split: str, *, preparing: bool = False) -> Any:
        spec = self.spec
        kwargs = {**spec.splits[split], **(option(self, "dataset_kwargs") or {})}
        if spec.download:  # in any case: some datasets download by default
            kwargs["download"] = preparing
        try:
            return getattr(torchvision.datasets, self.name)(root=self.root, **kwargs)
        except Exception as error:
            if spec.guessed and split != "train" and isinstance(error, ValueError):
                return None
            if preparing and spec.download:
                raise undownloaded(self.name, spec, self.root, error) from error
            raise absent(self.name, spec, self.root, error, download=option(self, "download")) from error

    def _check_complete(self, split: str, dataset: Any) -> None:
        """An interrupted download leaves folders that torchvision takes for whole."""
        names = getattr(dataset, self.spec.names, None) if self.spec.names else None
        where = ", ".join(str(Path(self.root) / file) for file in self.spec.files)
        if names is not None:
            self._classes = [", ".join(name) if isinstance(name, (tuple, list)) else str(name) for name in names]
        if names is not None and self.spec.num_classes not in (None, len(names)):
            raise FastDataError(
                f"{self.name} in {self.root} has {len(names)} classes.",
                expected=f"{self.spec.num_classes} classes.",
                fix=f"if a download was interrupted, remove {where} and start again; a part of it that you chose can "
                "be read with ImageFolderDataModule.",
            )
        if split == "train" and len(dataset) < (self.spec.listed or 0):
            warn_rank_zero(
                f"{self.name} in {self.root} has {len(dataset):,} training images, of {self.spec.listed:,}. If a "
                f"download was interrupted, remove {where} and start again."
            )


def default_transform(spec: DatasetSpec, size: tuple[int, int], mean: Any, std: Any, *, training: bool) -> Transform:
    """The default transform. Training augments as far as it leaves the class alone; evaluation resizes and crops.

    Args:
        spec: What is known of the dataset.
        size: Height and width of the result (pixels).
        mean: Mean per channel.
        std: Standard deviation per channel.
        training: Whether to augment.
    """
    # Among the photographs of Caltech and iNaturalist some are gray.
    steps: list[Any] = [partial(_in_mode, mode="RGB" if spec.channels == 3 else "L"), v2.ToImage()]
    if spec.augment != "crop":
        steps += [v2.Resize(size, antialias=True)] if spec.image_size != size else []
    elif training:
        steps.append(v2.RandomResizedCrop(size, antialias=True))
    else:
        steps += [v2.Resize(round(max(size) * RESIZE_FOR_CROP), antialias=True), v2.CenterCrop(size)]
    if training and spec.augment == "shift":
        height, width = size
        steps.append(v2.RandomCrop(size, padding=[round(width * SHIFT), round(height * SHIFT)]))
    if training and spec.flip:
        steps.append(v2.RandomHorizontalFlip())
    pipeline: Transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    return pipeline


def _in_mode(image: Any, mode: str) -> Any:
    return image.convert(mode) if isinstance(image, Image.Image) and image.mode != mode else image


def _check_dataset_kwargs(name: str, spec: DatasetSpec, given: Mapping[str, Any]) -> None:
    decided = {"root", "transform", "transforms", "download"}.union(*spec.splits.values())
    known = accepted_arguments(getattr(torchvision.datasets, name)) - decided
    for argument in given:
        if argument in known:
            continue
        near = difflib.get_close_matches(argument, known, n=2)
        fix = f"did you mean {' or '.join(near)}?" if near else f"remove {argument!r}."
        if argument in decided:
            fix = f"remove {argument!r}, which this module decides; or use FastDataModule with a dataset of your own."
        raise FastDataError(
            f"dataset_kwargs for {name} has {argument!r}.",
            expected=f"one of {', '.join(sorted(known))}.",
            fix=fix,
        )


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float))
