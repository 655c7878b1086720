"""Made-up image folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Path:
    """One picture of noise; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def write_folder(root: Path, splits: dict[str, int], classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """``root/<split>/<class>/<n>.jpg``; a split named "" puts the classes into ``root`` itself."""
    for split, count in splits.items():
        for label, name in enumerate(classes):
            for number in range(count):
                write_image(root / split / name / f"{number}.jpg", seed=label * 100 + number)
    return root


@pytest.fixture
def photos(tmp_path):
    """train/val/test of two classes with 6, 3 and 2 images each."""
    return write_folder(tmp_path / "photos", {"train": 6, "val": 3, "test": 2})


@pytest.fixture
def flat(tmp_path):
    """Two class folders with 10 images each, no split folders."""
    return write_folder(tmp_path / "flat", {"": 10})


@pytest.fixture
def make_folder(tmp_path):
    """``make_folder({"train": 2, "val": 1}, classes=(...))`` writes a folder of one's own."""
    return lambda splits, **more: write_folder(tmp_path / "made", splits, **more)


@pytest.fixture
def make_image():
    """``make_image(path, mode="CMYK")`` writes one image."""
    return write_image
