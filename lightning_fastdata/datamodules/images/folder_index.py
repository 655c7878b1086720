"""Finding the images of an ImageFolder layout, and saying exactly what is wrong with one."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
    left_out: str = ""
    """What lies between the images and is none, in words; empty where there is nothing."""


def split_folders(root: Path) -> dict[str, Path]:
    """The split folders below ``root``.

    Args:
        root: A dataset's folder.

    A folder named like a split that holds images and no folder is a class, where folders of other names lie beside it:
    "train" among vehicles.

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
    below = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    named = [folder for folder in below if folder.name.lower() in SPLIT_FOLDERS]
    if len(named) < len(below) and not any(inner.is_dir() for folder in named for inner in folder.iterdir()):
        return {}
    folders: dict[str, Path] = {}
    for folder in below:
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


def index_images(
    folder: Path, classes: tuple[str, ...] | None = None, *, on_error: Literal["raise", "skip"] = "raise"
) -> ImageIndex:
    """List the images below a folder of class folders.

    Args:
        folder: Holds one folder per class; images may lie deeper. Links are followed, hidden folders are left out.
        classes: The training classes, which must be the same here; None takes what is there.
        on_error: "raise" refuses names of images that lead to no file; "skip" keeps a link to nothing, which cannot be
            read later either, and leaves out what is no file at all.

    Returns:
        The index, in a fixed order.

    Raises:
        FastDataError: No class folders, a class without images, classes that differ, or an image that is no file.
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
    paths, beside = PathsBuilder(str(folder)), _Beside()
    counts: list[int] = []
    for name in names:
        images = _images(folder / name, beside)
        if on_error == "raise":
            _refuse_no_files(folder / name, beside)
        counts.append(paths.extend(os.path.join(name, image) for image in sorted(images + beside.dangling)))
        beside.dangling.clear()
        if not counts[-1]:
            raise FastDataError(
                f"{folder / name}: 0 images of class {name!r}" + (f" ({beside.in_words()})." if beside else "."),
                expected=f"files ending in {', '.join(EXTENSIONS)}.",
                fix="add images, or remove the folder.",
            )
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    return ImageIndex(tuple(names), paths.finish(), PackedLabels(torch.from_numpy(labels)), beside.in_words())


@dataclass
class _Beside:
    """What lies between the images of a folder and is none."""

    dangling: list[str] = field(default_factory=list)
    """Images that are links to nothing, of the class that is listed."""
    special: list[str] = field(default_factory=list)
    """Sockets, pipes and devices that are named like images: opening one may wait for ever."""
    endings: Counter[str] = field(default_factory=Counter)
    """Other files by their ending (count)."""
    hidden_folders: int = 0

    def __bool__(self) -> bool:
        return bool(self.special or self.endings or self.hidden_folders)

    def in_words(self) -> str:
        parts = []
        if self.endings:
            ordered = sorted(self.endings.items(), key=lambda entry: (-entry[1], entry[0]))
            most = ", ".join(f"{ending} {count:,}" for ending, count in ordered[:3])
            parts.append(f"{self.endings.total():,} files of other types left out: {most}")
        if self.special:
            parts.append(f"{len(self.special)} left out that are no files, {self.special[0]} for one")
        if self.hidden_folders:
            parts.append(f"hidden folders left out: {self.hidden_folders}")
        return "; ".join(parts)


def _images(folder: Path | str, beside: _Beside, below: str = "", above: tuple[os.stat_result, ...] = ()) -> list[str]:
    """Image files below a folder, as paths relative to it; a link to a folder above it is not followed again."""
    here = os.stat(folder)
    if any(os.path.samestat(here, one) for one in above):
        return []
    images: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name, ending = entry.name, os.path.splitext(entry.name)[1].lower()
            if entry.is_dir():
                if name.startswith("."):
                    beside.hidden_folders += 1
                else:
                    images += _images(entry.path, beside, f"{below}{name}{os.sep}", (*above, here))
            elif ending not in EXTENSIONS:
                if not name.startswith("."):
                    beside.endings[ending or "no ending"] += 1
            elif entry.is_file():
                images.append(below + name)
            elif entry.is_symlink() and not os.path.exists(entry.path):
                beside.dangling.append(below + name)
            else:
                beside.special.append(entry.path)
    return images


def _refuse_no_files(folder: Path, beside: _Beside) -> None:
    no_files = [os.path.join(folder, name) for name in sorted(beside.dangling)] + beside.special
    if no_files:
        kind = "a link to nothing" if beside.dangling else "a socket, a pipe or a device"
        raise FastDataError(
            f"{folder}: {len(no_files)} names of images lead to no file, {no_files[0]} for one: {kind}.",
            expected="files that can be read.",
            fix='mount the disk that the links lead to, or remove them; on_error="skip" leaves them out.',
        )


def _refuse_classes(folder: Path, names_here: tuple[str, ...], classes: tuple[str, ...]) -> None:
    missing = sorted(set(classes) - set(names_here))
    extra = sorted(set(names_here) - set(classes))
    parts = [f"{word} {', '.join(names[:5])}" for word, names in (("lacks", missing), ("adds", extra)) if names]
    raise FastDataError(
        f"{folder}: its classes differ from those of training: it {' and '.join(parts)}.",
        expected="the same class folders, since a label is the position of the class name.",
        fix="make the class folders equal (rename, add or remove).",
    )
