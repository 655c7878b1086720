"""Images in folders, one folder per class."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from PIL import Image, ImageDraw
from torch.utils.data import Dataset, default_collate
from torchvision.transforms import v2

from lightning_fastdata.auto import SPLITS
from lightning_fastdata.data.base import FastDataModuleMixin
from lightning_fastdata.data.folders import ImageIndex, index_images, split_folders
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.order import split_indices
from lightning_fastdata.plan import Split

__all__ = ["ImageDataset", "ImageFolderDataModuleMixin"]

Transform = Callable[[Any], Any]
HYPERPARAMETERS = (
    *("root", "image_size", "on_error", "batch_size", "eval_batch_size", "num_workers", "pin_memory"),
    *("persistent_workers", "prefetch_factor", "drop_last", "shuffle", "val_split", "test_split", "seed", "split_seed"),
    "deterministic",
)
"""Arguments with plain values: what a checkpoint keeps, as given ("auto" stays "auto")."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per-channel mean and standard deviation of ImageNet, which torchvision's pretrained models expect."""
RESIZE_FOR_CROP = 256 / 224
"""torchvision's evaluation presets resize the short side to 256 and crop 224."""


class ImageDataset(Dataset[tuple[Any, int]]):
    """Images of one split, decoded and transformed on demand.

    Args:
        index: All images of the folder.
        transform: Takes a PIL image (RGB), returns what the model gets.
        indices: Which images of the index belong to this split; None = all.
        on_error: "raise" names the file and stops; "skip" leaves the image out of its batch and counts it.
        sample_bytes: Size of one transformed sample (bytes), where it is known.
    """

    def __init__(
        self,
        index: ImageIndex,
        transform: Transform,
        *,
        indices: Sequence[int] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        sample_bytes: int | None = None,
    ) -> None:
        chosen = range(len(index.paths)) if indices is None else indices
        self.classes = list(index.classes)
        self.class_to_idx = {name: label for label, name in enumerate(index.classes)}
        self.paths = [index.paths[number] for number in chosen]
        self.targets = [index.labels[number] for number in chosen]
        self.transform = transform
        self.on_error = on_error
        self.sample_bytes = sample_bytes
        # Shared with the workers: each marks what it could not read, the training process reports it.
        self.unreadable = torch.zeros(len(self.paths), dtype=torch.bool)
        self.unreadable.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Any:
        path = self.paths[number]
        try:
            with Image.open(path) as file:
                # Straight to RGB, Pillow would warn about a palette with transparent colours.
                see_through = file.mode == "P" and "transparency" in file.info
                image = (file.convert("RGBA") if see_through else file).convert("RGB")
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ... for broken files
            if self.on_error == "raise":
                raise FastDataError(
                    f"cannot read the image {path}: {type(error).__name__}: {error}",
                    expected="an image file that Pillow can decode.",
                    fix='mend or remove the file, or pass on_error="skip" to leave such files out and count them.',
                ) from error
            self.unreadable[number] = True
            return LeftOut(self, number)
        return self.transform(image), self.targets[number]

    def unreadable_paths(self) -> list[str]:
        """Files that could not be read so far, with ``on_error="skip"``."""
        return [self.paths[number] for number in self.unreadable.nonzero().flatten().tolist()]


class LeftOut(NamedTuple):
    """Stands for an image that could not be read; it never leaves the process that tried."""

    dataset: ImageDataset
    """Where it belongs."""
    number: int
    """Its place in the dataset (index)."""

    def next_readable(self) -> Any:
        """The sample after it that can be read, going round the dataset once."""
        length = len(self.dataset)
        for step in range(1, length):
            sample = self.dataset[(self.number + step) % length]
            if not isinstance(sample, LeftOut):
                return sample
        raise FastDataError(
            f"none of the {length} images can be read, {self.dataset.paths[0]} for one.",
            expected="image files that Pillow can decode.",
            fix="look at the files.",
        )


def collate_readable(samples: list[Any], collate_fn: Callable[[list[Any]], Any] = default_collate) -> Any:
    """Collate the samples that could be read.

    A batch of which nothing could be read (a single broken image at the end, say) becomes the next image that can:
    a run that asked to skip must not end on it.

    Args:
        samples: Samples of a batch, some of which may be left out.
        collate_fn: Puts the others together; torch's default unless the user has one.

    Returns:
        What ``collate_fn`` returns.

    Raises:
        FastDataError: Not one image of the dataset can be read.
    """
    readable = [sample for sample in samples if not isinstance(sample, LeftOut)]
    return collate_fn(readable or [samples[0].next_readable()])


class ImageFolderDataModuleMixin(FastDataModuleMixin):
    """Images in an ImageFolder layout: ``root/train/<class>/*.jpg`` with ``val`` and ``test`` beside ``train``.

    Or class folders directly in ``root``, of which ``val_split`` and ``test_split`` hold out a part. Training images
    are cropped at random and flipped, evaluation images resized and cropped in the middle; both are normalised with
    ImageNet's mean and standard deviation. A transform of your own replaces all of that.

    Args:
        root: The folder.
        image_size: Height and width of what the model gets (pixels).
        train_transform: Takes a PIL image (RGB); replaces the default augmentation and normalisation.
        eval_transform: The same for validation, test and prediction.
        on_error: "raise" stops at an unreadable image and names it; "skip" leaves it out of its batch, counts it in
            ``unreadable`` and warns once at the end (each rank knows its own). A batch of nothing but unreadable
            images becomes the next image that can be read.
        **kwargs: Arguments of ``FastDataModule``: ``batch_size``, ``num_workers``, ``val_split``, ``seed``, ...

    Raises:
        FastDataError: No such folder, no class folders, an empty class, or classes that differ between splits; in
            ``setup``, before the first batch.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int = 224,
        *,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
            raise FastDataError(f"image_size={image_size!r}.", expected="pixels, >= 1.", fix="pass image_size=224.")
        if on_error not in ("raise", "skip"):
            raise FastDataError(f"on_error={on_error!r}.", expected='"raise" or "skip".', fix='pass on_error="raise".')
        self.root = str(Path(root).expanduser())
        self.image_size = image_size
        self.train_transform = train_transform
        self.eval_transform = eval_transform
        self.on_error = on_error
        self._classes: tuple[str, ...] | None = None
        self._reported: dict[str, int] = {}
        # Datasets that the user passed are his; the folders do not replace them.
        self._given = {split for split in SPLITS if getattr(self, f"{split}_dataset") is not None}
        # Named one by one: Lightning would otherwise collect a subclass's arguments as well, datasets and all.
        self.save_hyperparameters({name: getattr(self, name) for name in HYPERPARAMETERS}, logger=False)

    def setup(self, stage: str | None = None) -> None:
        """List the images and make the datasets; nothing is decoded yet."""
        folders = split_folders(Path(self.root)) or {"train": Path(self.root)}
        held_out = {name: share for name, share in (("val", self.val_split), ("test", self.test_split)) if share}
        for name in held_out:
            if name in folders:
                raise FastDataError(
                    f"{name}_split={held_out[name]!r}, but there is a folder {folders[name]}.",
                    expected="one of the two.",
                    fix=f"leave {name}_split at 0, or point root at {folders['train']}.",
                )
        train = index_images(folders["train"])
        parts = split_indices(len(train.paths), held_out, self.split_seed) if held_out else {}
        self._classes = train.classes
        found = {"train": self._dataset("train", train, parts.get("train"))}
        found |= {name: self._dataset(name, train, parts[name]) for name in held_out}
        for name in folders.keys() - {"train"}:
            found[name] = self._dataset(name, index_images(folders[name], train.classes))
        for name in found.keys() - self._given:
            setattr(self, f"{name}_dataset", found[name])

    def teardown(self, stage: str) -> None:
        """Say, once, which images were left out."""
        for split, paths in self.unreadable.items():
            if paths and len(paths) != self._reported.get(split):
                self._reported[split] = len(paths)
                more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
                rank_zero_warn(
                    f"{len(paths)} images of split {split!r} could not be read and were left out: "
                    f"{', '.join(paths[:5])}{more}."
                )

    @property
    def classes(self) -> list[str]:
        """Class names; the position is the label. Known after ``setup``."""
        if self._classes is None:
            raise FastDataError(
                "classes are not known yet.", expected="setup() to have run.", fix='call datamodule.setup("fit") first.'
            )
        return list(self._classes)

    @property
    def num_classes(self) -> int:
        """Classes (count). Known after ``setup``."""
        return len(self.classes)

    @property
    def unreadable(self) -> dict[str, list[str]]:
        """With ``on_error="skip"``, the files that were left out so far, by split."""
        named = {split: getattr(self, f"{split}_dataset") for split in SPLITS}
        return {split: data.unreadable_paths() for split, data in named.items() if isinstance(data, ImageDataset)}

    def show_batch(self, split: Split = "train", count: int = 16) -> Image.Image:
        """A picture of some samples as the model gets them, with their class names.

        Args:
            split: Which part of the data.
            count: Samples to show (count), spread evenly over the split.

        Returns:
            A PIL image; a notebook shows it, ``.save("batch.png")`` keeps it. No random state is left changed.

        Raises:
            FastDataError: The split has no data.
        """
        if self.train_dataset is None:
            self.setup()
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise FastDataError(f"show_batch(count={count!r}).", expected="a whole number >= 1.", fix="pass count=16.")
        there = [name for name in SPLITS if getattr(self, f"{name}_dataset") is not None]
        if split not in there:
            raise FastDataError(
                f"show_batch({split!r}): there is no such data.",
                expected=f"one of {', '.join(there)}.",
                fix='pass split="train".',
            )
        dataset = getattr(self, f"{split}_dataset")
        numbers = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long().tolist()
        with _random_state_kept():
            samples = [dataset[number] for number in numbers]
        own = self.train_transform if split == "train" else self.eval_transform
        statistics = None if own else (IMAGENET_MEAN, IMAGENET_STD)
        return picture([sample for sample in samples if not isinstance(sample, LeftOut)], self.classes, statistics)

    def _dataset(self, split: str, index: ImageIndex, indices: Any = None) -> ImageDataset:
        own = self.train_transform if split == "train" else self.eval_transform
        default = train_transform(self.image_size) if split == "train" else eval_transform(self.image_size)
        dataset = ImageDataset(
            index,
            own or default,
            indices=None if indices is None else indices.tolist(),
            on_error=self.on_error,
            sample_bytes=None if own else 3 * self.image_size**2 * 4,
        )
        before = getattr(self, f"{split}_dataset")
        if isinstance(before, ImageDataset) and before.paths == dataset.paths:
            dataset.unreadable = before.unreadable  # Lightning calls setup again for every fit, test, ...
        return dataset

    def _kwargs_for(self, split: Any) -> dict[str, Any]:
        kwargs = super()._kwargs_for(split)
        if self.on_error == "skip":
            own = kwargs.get("collate_fn")
            kwargs["collate_fn"] = partial(collate_readable, collate_fn=own) if own else collate_readable
        return kwargs


def train_transform(image_size: int) -> Transform:
    """The default augmentation: a random crop, a random flip, float32 normalised with ImageNet's statistics.

    Args:
        image_size: Height and width of the result (pixels).
    """
    crop = [v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()]
    pipeline: Transform = v2.Compose([v2.ToImage(), *crop, *_to_normalised_float()])
    return pipeline


def eval_transform(image_size: int) -> Transform:
    """The default for evaluation: resize, crop the middle, float32 normalised with ImageNet's statistics.

    Args:
        image_size: Height and width of the result (pixels).
    """
    crop = [v2.Resize(round(image_size * RESIZE_FOR_CROP), antialias=True), v2.CenterCrop(image_size)]
    pipeline: Transform = v2.Compose([v2.ToImage(), *crop, *_to_normalised_float()])
    return pipeline


def _to_normalised_float() -> list[torch.nn.Module]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Looking at samples must not move the random numbers of the run that follows."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)


TILE_PX, MARGIN_PX, CAPTION_PX = 160, 4, 20


def picture(
    samples: list[tuple[torch.Tensor, int]],
    classes: list[str],
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Image.Image:
    """A grid of images with their class names.

    Args:
        samples: Pairs of an image, float or uint8, (channels, height, width), and its label.
        classes: Name by label.
        statistics: Mean and standard deviation per channel to undo; None stretches each image to its own range, so
            that any normalisation shows.

    Returns:
        The picture.
    """
    tiles = [_tile(image, classes[label], statistics) for image, label in samples]
    columns = math.ceil(math.sqrt(len(tiles)))
    width, height = tiles[0].width, max(tile.height for tile in tiles)
    sheet = Image.new("RGB", (columns * width, math.ceil(len(tiles) / columns) * height), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * width, place // columns * height))
    return sheet


def _tile(image: torch.Tensor, caption: str, statistics: tuple[Sequence[float], Sequence[float]] | None) -> Image.Image:
    # A transform of the user's may end in an array or a PIL image.
    pixels = (image if isinstance(image, torch.Tensor) else v2.functional.to_image(image)).float()
    if statistics is None:
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / (high - low).clamp_min(1e-6)
    else:
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in statistics)
        pixels = (pixels * std + mean).clamp(0, 1)
    shown = v2.functional.to_pil_image((pixels * 255).byte()).convert("RGB")
    shown = shown.resize((TILE_PX, TILE_PX * shown.height // shown.width))
    tile = Image.new("RGB", (TILE_PX + 2 * MARGIN_PX, shown.height + MARGIN_PX + CAPTION_PX), "white")
    tile.paste(shown, (MARGIN_PX, MARGIN_PX))
    ImageDraw.Draw(tile).text((MARGIN_PX + 1, shown.height + MARGIN_PX + 3), caption[:24], fill="black")
    return tile
