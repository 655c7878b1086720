"""The demo's data: an image folder cut from the photographs that scikit-image ships. No network."""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
TILE_PX = (448, 336)  # width and height of a tile: about what photographs in image data sets have
TILES = {"train": 72, "val": 12}


def default_cache() -> Path:
    """Where the image folder is kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lightning_fastdata" / "photographs"


def write_photographs(folder: Path, tiles: dict[str, int] = TILES) -> Path:
    """Cut the photographs into tiles, once: an existing folder stays unchanged.

    Args:
        folder: Where to write ``train/<photograph>/*.jpg`` and ``val/<photograph>/*.jpg``.
        tiles: Tiles per photograph and split (count).
    """
    if folder.exists():
        return folder
    try:
        import skimage
    except ModuleNotFoundError as error:
        raise SystemExit("The demo needs scikit-image for its photographs: pip install scikit-image") from error
    source = Path(skimage.__file__).parent / "data"
    unfinished = folder.with_name(f"{folder.name}.unfinished-{os.getpid()}")
    rng = np.random.default_rng(0)
    work = [(name, split) for name in PHOTOGRAPHS for split in tiles]
    console = Console(force_jupyter=False)  # in a notebook the bar would ask for ipywidgets
    for name, split in track(work, description=f"Writing photographs to {folder}", console=console):
        target = unfinished / split / name
        target.mkdir(parents=True)
        with Image.open(source / PHOTOGRAPHS[name]) as file:
            photograph = file.convert("RGB")
        for number in range(tiles[split]):
            _tile(photograph, rng).save(target / f"{number:03d}.jpg", quality=90)
    try:
        unfinished.rename(folder)  # all or nothing: an interrupted run leaves no half folder behind
    except OSError:
        shutil.rmtree(unfinished)  # another process was faster
    return folder


def _tile(photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random part of the photograph, between half and all of its height, at the size of a tile."""
    height = int(photograph.height * rng.uniform(0.5, 1.0))
    width = min(photograph.width, height * TILE_PX[0] // TILE_PX[1])
    left = int(rng.integers(0, photograph.width - width + 1))
    top = int(rng.integers(0, photograph.height - height + 1))
    return photograph.crop((left, top, left + width, top + height)).resize(TILE_PX)
