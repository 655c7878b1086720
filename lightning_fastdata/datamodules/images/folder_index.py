"""Finding the images of an ImageFolder layout, and saying exactly what is wrong with one."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lightning_fastdata.datamodules.images.packed_lists import PackedLabels, PackedPaths, PathsBuilder
from lightning_fastdata.errors import FastDataError

__all__ = ["ImageIndex", "index_images", "split_folders"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What torchvision's ImageFolder takes, lower case."""
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folder name -> split."""


@dataclass(frozen=True)
class ImageIndex:
    """The images of one folder."""

    classes: tuple[str, ...]
    """Class names, sorted; the position is the label."""
    paths: PackedPaths
    """Image files, sorted within their class, as paths."""
    labels: PackedLabels
    """Class number of each file."""


def split_folders(root: Path) -> dict[str, Path]:
    """The split folders below ``root``.

    Args:
        root: A dataset's folder.

    Returns:
        Folder by split; empty when the class folders lie directly in ``root``.

    Raises:
        FastDataError: No such folder, two folders for one split, or a val or test folder without train.
    """
    if not root.is_dir():
        kind = "it is a file" if root.exists() else "there is no such folder"
        raise FastDataError(
            f"root={str(root)!r}: {kind}.",
            expected="a folder with one folder of images per class, or with train/ and val/ that have.",
            fix="check the path" + (f"; the nearest that exists is {_nearest(root)}." if not root.exists() else "."),
        )
    folders: dict[str, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        split = SPLIT_FOLDERS.get(folder.name.lower())
        if split is not None and split in folders:
            raise FastDataError(
                f"root={str(root)!r} has both {folders[split].name} and {folder.name}.",
                expected=f"one folder for the split {split!r}.",
                fix="rename or remove one of them.",
            )
        if split is not None:
            folders[split] = folder
    if folders and "train" not in folders:
        names = ", ".join(folder.name for folder in folders.values())
        raise FastDataError(
            f"root={str(root)!r} has {names}, but no train folder.",
            expected="train/<class>/*.jpg beside it.",
            fix="add train/, or point root at a folder whose subfolders are the classes.",
        )
    return folders


def _nearest(path: Path) -> Path:
    return next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))


def index_images(folder: Path, classes: tuple[str, ...] | None = None) -> ImageIndex:
    """List the images below a folder of class folders.

    Args:
        folder: Holds one folder per class; images may lie deeper.
        classes: The training classes, which must be the same here; None takes what is there.

    Returns:
        The index, in a fixed order.

    Raises:
        FastDataError: No class folders, a class without images, or classes that differ.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        loose = sum(path.suffix.lower() in EXTENSIONS for path in folder.iterdir())
        raise FastDataError(
            f"{folder}: no class folders" + (f", but {loose} images lie directly in it." if loose else "."),
            expected="one folder per class: <class>/*.jpg.",
            fix="move the images into a folder per class; for data without classes subclass FastDataModule.",
        )
    if classes is not None and tuple(names) != classes:
        _refuse_classes(folder, tuple(names), classes)
    paths = PathsBuilder(str(folder))
    counts: list[int] = []
    for name in names:
        counts.append(paths.extend(os.path.join(name, image) for image in sorted(_images(folder / name))))
        if not counts[-1]:
            raise FastDataError(
                f"{folder / name}: 0 images of class {name!r}.",
                expected=f"files ending in {', '.join(EXTENSIONS)}.",
                fix="add images, or remove the folder.",
            )
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    return ImageIndex(tuple(names), paths.finish(), PackedLabels(torch.from_numpy(labels)))


def _images(folder: Path | str, below: str = "") -> Iterator[str]:
    """Image files below a folder, as paths relative to it. Links to files are followed, links to folders are not."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _images(entry.path, f"{below}{entry.name}{os.sep}")
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS and entry.is_file():
                yield below + entry.name


def _refuse_classes(folder: Path, names_here: tuple[str, ...], classes: tuple[str, ...]) -> None:
    missing = sorted(set(classes) - set(names_here))
    extra = sorted(set(names_here) - set(classes))
    parts = [f"{word} {', '.join(names[:5])}" for word, names in (("lacks", missing), ("adds", extra)) if names]
    raise FastDataError(
        f"{folder}: its classes differ from those of training: it {' and '.join(parts)}.",
        expected="the same class folders, since a label is the position of the class name.",
        fix="make the class folders equal (rename, add or remove).",
    )
