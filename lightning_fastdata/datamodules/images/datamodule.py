"""Images in folders, one folder per class."""

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from PIL import Image

from lightning_fastdata.compat.rank_zero import warn_rank_zero
from lightning_fastdata.datamodules.base import FastDataModuleMixin
from lightning_fastdata.datamodules.images.cache.entry_format import EntryFormat
from lightning_fastdata.datamodules.images.cache.image_cache import CacheOptions, ImageCache, header_of
from lightning_fastdata.datamodules.images.cache.placement import CachePlan
from lightning_fastdata.datamodules.images.crops import CenterCrop, RandomCrop
from lightning_fastdata.datamodules.images.datasets import (
    BatchCropDataset,
    CropDataset,
    ImageDataset,
    ImageFiles,
    SkippedSample,
    Transform,
    collate_readable,
)
from lightning_fastdata.datamodules.images.decode_threads import decide_threads
from lightning_fastdata.datamodules.images.folder_index import ImageIndex, index_images, split_folders
from lightning_fastdata.datamodules.images.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalizer, is_lightnings
from lightning_fastdata.datamodules.images.preview import image_grid
from lightning_fastdata.datamodules.images.sources import Source
from lightning_fastdata.datamodules.option_lookup import Option, keep_given, known_options, option, peek, state_of
from lightning_fastdata.datamodules.options import PLAIN_OPTIONS, FastDataModuleOptions, Unpack
from lightning_fastdata.datamodules.split_loaders import has_collate_fn
from lightning_fastdata.errors import FastDataError, check_choice, check_int
from lightning_fastdata.hardware.detect import probe
from lightning_fastdata.loaders.factory import SPLITS
from lightning_fastdata.loaders.order import split_indices
from lightning_fastdata.loaders.rng import generators_kept
from lightning_fastdata.loaders.trainer_context import trainer_context
from lightning_fastdata.planning.options import Reason
from lightning_fastdata.planning.plan import Split

__all__ = ["RESIZE_FOR_CROP", "ImageFolderDataModuleMixin"]

HYPERPARAMETERS = (
    *("root", "image_size", "on_error", "decode_threads", "cache", "cache_dir", "cache_bytes", "cache_format"),
    *PLAIN_OPTIONS,
)
"""Arguments with plain values: what a checkpoint keeps, as given ("auto" stays "auto")."""
CACHE_OPTIONS = ("image_size", "cache", "cache_dir", "cache_bytes", "cache_format")
RESIZE_FOR_CROP = 256 / 224
"""torchvision's evaluation presets resize the short side to 256 and crop 224."""


class ImageFolderDataModuleMixin(FastDataModuleMixin):
    """Images in an ImageFolder layout: ``root/train/<class>/*.jpg`` with ``val`` and ``test`` beside ``train``.

    Or class folders directly in ``root``, of which ``val_split`` and ``test_split`` hold out a part. Training images
    are cropped at random and flipped, evaluation images resized and cropped in the middle; both are normalized with
    ImageNet's mean and standard deviation. A transform of your own replaces all of that.

    Without one, images are decoded, cut and resized by the pack, a whole batch at a time, with the crops and the pixels
    of torchvision's transforms (docs/images.md has what may differ). Within a run, batches travel as uint8 and become
    normalized floats, in the Trainer's precision, in ``on_after_batch_transfer``; the model's own hooks run after that.
    A loader that you read without a Trainer gives normalized floats, with the same values.

    Args:
        root: The folder.
        image_size: Height and width of what the model gets (pixels); None = 224.
        train_transform: Takes a PIL image (RGB); replaces the default augmentation and normalization.
        eval_transform: The same for validation, test and prediction.
        on_error: "raise" (None) stops at an unreadable image and names it; "skip" leaves it out of its batch, counts it
            in ``unreadable`` and warns once at the end (each rank knows its own). A batch of nothing but unreadable
            images becomes the next image that can be read.
        decode_threads: Threads that decode in each process that loads, or "auto"; transforms of your own never run in
            threads. The choice and its reason are in ``decoding`` once a loader is made.
        cache: "disk" keeps what was read in the first epoch for those after it and for the next run, shared by the
            processes of a node. Whether there is one, where, and why is in ``cache_plan`` after ``setup``. Batches are
            the same with a cold, a part-filled and a full cache. docs/cache.md has more.
        cache_dir: Where caches are; None = ``~/.cache/lightning_fastdata/cache``. Best a disk of the node.
        cache_bytes: What the cache may grow to (bytes); None = what is free, less a reserve.
        cache_format: What is kept of an image: "original" (None), its file; or, made smaller before anything else is
            done with it, "jpeg" or "raw" pixels with a short side of 256, which load several times faster. The last two
            change what the model sees a little, in each epoch alike, so the choice is never made for you.
        **kwargs: Arguments of ``FastDataModule``: ``batch_size``, ``num_workers``, ``val_split``, ``seed``, ...

    Raises:
        FastDataError: No such folder, no class folders, an empty class, or classes that differ between splits; in
            ``setup``, before the first batch.
    """

    image_size: Any = Option(224)
    train_transform: Any = Option(arguments=1)
    eval_transform: Any = Option(arguments=1)
    on_error: Any = Option("raise")
    decode_threads: Any = Option("auto")
    cache: Any = Option()
    cache_dir: Any = Option()
    cache_bytes: Any = Option()
    cache_format: Any = Option("original")

    def __init__(
        self,
        root: str | Path,
        image_size: int | None = None,
        *,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
        on_error: Literal["raise", "skip"] | None = None,
        decode_threads: int | Literal["auto"] = "auto",
        cache: Literal["disk"] | None = None,
        cache_dir: str | Path | None = None,
        cache_bytes: int | None = None,
        cache_format: Literal["original", "jpeg", "raw"] | None = None,
        **kwargs: Unpack[FastDataModuleOptions],
    ) -> None:
        given = {**locals(), "cache_dir": None if cache_dir is None else str(cache_dir)}
        super().__init__(**kwargs)
        keep_given(self, given)
        self.root = str(Path(root).expanduser())
        known = known_options(self, HYPERPARAMETERS[1:])
        known["image_size"] = check_int("image_size", known["image_size"], 1, allow=(None,))
        check_choice("on_error", known["on_error"], ("raise", "skip", None), fix='pass on_error="raise".')
        check_int("decode_threads", known["decode_threads"], 1, 256, allow=("auto", None))
        if None not in (known["image_size"], known["cache_format"]):  # None where a property has it
            _cache_options(**{name: known[name] for name in CACHE_OPTIONS})  # refuses what cannot be meant
        self._cache: ImageCache | None = None
        self._cache_logged = ""
        self.decoding: dict[str, tuple[int, Reason]] = {}
        self._normalize = Normalizer()
        self._classes: tuple[str, ...] | None = None
        self._reported: dict[str, int] = {}
        # The folders do not replace datasets of your own.
        self._given = {split for split in SPLITS if peek(self, f"{split}_dataset") is not None}
        # Named one by one: Lightning would otherwise collect a subclass's arguments as well, datasets and all.
        self.save_hyperparameters({"root": self.root, **known}, logger=False)

    def setup(self, stage: str | None = None) -> None:
        """List the images and make the datasets; nothing is decoded yet."""
        folders = split_folders(Path(self.root)) or {"train": Path(self.root)}
        held_out = {name: share for name in ("val", "test") if (share := option(self, f"{name}_split"))}
        for name in held_out:
            if name in folders:
                raise FastDataError(
                    f"{name}_split={held_out[name]!r}, but there is a folder {folders[name]}.",
                    expected="one of the two.",
                    fix=f"leave {name}_split at 0, or point root at {folders['train']}.",
                )
        train = index_images(folders["train"], on_error=option(self, "on_error"))
        parts = split_indices(len(train.paths), held_out, option(self, "split_seed")) if held_out else {}
        self._classes = train.classes
        others = self._other_folders(folders, train.classes, stage)
        for name, index in {"train": train, **others}.items():
            if index.left_out:
                self._log_once(f"{folders[name]}: {index.left_out}.")
        sources = self._sources({"train": train, **others})
        datasets = {"train": self._dataset("train", train, sources["train"], parts.get("train"))}
        datasets |= {name: self._dataset(name, train, sources["train"], parts[name]) for name in held_out}
        datasets |= {name: self._dataset(name, index, sources[name]) for name, index in others.items()}
        for name in datasets.keys() - self._given:
            setattr(self, f"{name}_dataset", datasets[name])

    def _other_folders(
        self, folders: Mapping[str, Path], classes: tuple[str, ...], stage: str | None
    ) -> dict[str, ImageIndex]:
        """The images of validation and test; what is wrong with the test folder matters where it is read."""
        others: dict[str, ImageIndex] = {}
        for name in sorted(folders.keys() - {"train"}):
            try:
                others[name] = index_images(folders[name], classes, on_error=option(self, "on_error"))
            except FastDataError as error:
                if name != "test" or stage in (None, "test"):
                    raise
                self._log_once(f"{error.what} It is left out of this run.")
        return others

    def _log_once(self, text: str) -> None:
        """Lightning calls setup again for every fit, test, ..."""
        if text not in (logged := state_of(self).logged):
            logged.add(text)
            rank_zero_info(text)

    def teardown(self, stage: str) -> None:
        """Say, once, which images were left out, and what the cache holds."""
        if self._cache is not None and (text := "; ".join(self._cache.lines())) not in ("", self._cache_logged):
            self._cache_logged = text
            rank_zero_info(f"  cache: {text}.")
        for split, paths in self.unreadable.items():
            if paths and len(paths) != self._reported.get(split):
                self._reported[split] = len(paths)
                more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
                warn_rank_zero(
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
    def cache_plan(self) -> CachePlan | None:
        """Whether there is a cache, where, how large it may become and why; None without ``cache``."""
        return None if self._cache is None else self._cache.plan

    @property
    def unreadable(self) -> dict[str, list[str]]:
        """With ``on_error="skip"``, the files that were left out so far, by split."""
        named = {split: peek(self, f"{split}_dataset") for split in SPLITS}
        return {split: data.unreadable_paths() for split, data in named.items() if isinstance(data, ImageFiles)}

    def show_batch(self, split: Split = "train", count: int = 16) -> Image.Image:
        """A grid of some samples as the model gets them, with their class names.

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
        check_int("count", count, 1)
        splits = [name for name in SPLITS if peek(self, f"{name}_dataset") is not None]
        if split not in splits:
            raise FastDataError(
                f"show_batch({split!r}): there is no such data.",
                expected=f"one of {', '.join(splits)}.",
                fix='pass split="train".',
            )
        dataset = option(self, f"{split}_dataset")
        numbers = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long().tolist()
        with generators_kept():
            samples = [dataset[number] for number in numbers]
        own = option(self, "train_transform" if split == "train" else "eval_transform")
        statistics = None if own else (IMAGENET_MEAN, IMAGENET_STD)
        return image_grid(
            [sample for sample in samples if not isinstance(sample, SkippedSample)], self.classes, statistics
        )

    def make_dataloader(self, split: Split, dataset: Any, *, name: str | None = None, loaders: int = 1) -> Any:
        """Make one loader; see ``FastDataModule``. Of data that is decoded here, it serves uint8 within a run."""
        if not isinstance(dataset, BatchCropDataset):
            return super().make_dataloader(split, dataset, name=name, loaders=loaders)
        served = copy.copy(dataset)
        served.as_pixels = self._normalizes_on_device()
        loader = super().make_dataloader(split, served, name=name, loaders=loaders)
        facts = trainer_context(self.trainer)
        cpus = probe(local_world_size=facts.local_world_size).cpus_per_rank
        busy = torch.get_num_threads() if facts.device_type == "cpu" and torch.get_num_threads() > 1 else 0
        threads, reason = decide_threads(option(self, "decode_threads"), loader.num_workers, cpus, busy)
        served.decode_threads = threads  # workers start with the first batch
        key = name or split
        if self.decoding.get(key) != (threads, reason):
            rank_zero_info(f"  {f'decode_threads={threads}':<30}{reason.text}{' [you]' * (reason.source == 'user')}")
        self.decoding[key] = (threads, reason)
        return loader

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalize images on the device, then hand the batch to the model's hook, which Lightning would leave out."""
        trainer: Any = self.trainer
        batch = self._normalize.of_batch(batch, trainer)
        return trainer.lightning_module.on_after_batch_transfer(batch, dataloader_idx)

    def _normalizes_on_device(self) -> bool:
        """Whether the batches of a loader made now will come through our hook, unseen by any other before it."""
        trainer: Any = self.trainer
        if trainer is None or getattr(trainer, "datamodule", None) is not self or trainer.state.status != "running":
            return False  # you read the loader without a Trainer
        ours = ImageFolderDataModuleMixin.on_after_batch_transfer
        if getattr(type(self), "on_after_batch_transfer", None) is not ours or "on_after_batch_transfer" in vars(self):
            return False
        before = ("on_before_batch_transfer", "transfer_batch_to_device")
        return all(is_lightnings(owner, hook) for owner in (self, trainer.lightning_module) for hook in before)

    def _sources(self, indexes: Mapping[str, ImageIndex]) -> dict[str, Source | None]:
        """Where the images of each folder come from; None = from its files."""
        options = _cache_options(**{name: option(self, name) for name in CACHE_OPTIONS})
        if options.kind is None:
            self._cache = None
            return dict.fromkeys(indexes)
        paths = {name: index.paths for name, index in indexes.items()}
        header = header_of(self.root, paths, options.entry_format)
        # Lightning calls setup again for every fit, test, ...: what is open stays open.
        if self._cache is None or (self._cache.header, self._cache.options) != (header, options):
            self._cache = ImageCache(header, paths, options)
            rank_zero_info(f"  {f'cache={options.kind!r}':<30}{self._cache.plan.reason.text}")
        return {name: self._cache.source(name, listed) for name, listed in paths.items()}

    def _dataset(self, split: Any, index: ImageIndex, source: Source | None, indices: Any = None) -> ImageFiles:
        own = option(self, "train_transform" if split == "train" else "eval_transform")
        on_error = option(self, "on_error")
        dataset: ImageFiles
        if own is not None:
            dataset = ImageDataset(index, own, indices=indices, on_error=on_error, source=source)
        else:
            make = CropDataset if has_collate_fn(self, split) else BatchCropDataset
            dataset = make(index, self._crop(split), indices=indices, on_error=on_error, source=source)
        before = peek(self, f"{split}_dataset")
        if isinstance(before, ImageFiles) and before.paths == dataset.paths:
            dataset.unreadable = before.unreadable  # Lightning calls setup again for every fit, test, ...
        return dataset

    def _crop(self, split: str) -> RandomCrop | CenterCrop:
        size = option(self, "image_size")
        return RandomCrop(size) if split == "train" else CenterCrop(size, round(size * RESIZE_FOR_CROP))

    def _kwargs_for(self, split: Any) -> dict[str, Any]:
        kwargs = super()._kwargs_for(split)
        if option(self, "on_error") == "skip" and not isinstance(peek(self, f"{split}_dataset"), BatchCropDataset):
            own = kwargs.get("collate_fn")
            kwargs["collate_fn"] = partial(collate_readable, collate_fn=own) if own else collate_readable
        return kwargs


def _cache_options(*, image_size: int, cache: Any, cache_format: Any, **where: Any) -> CacheOptions:
    return CacheOptions(cache, **where, entry_format=EntryFormat.for_images(cache_format, image_size))
