"""Claim: a warm cache gives images 4.5 times (JPEG) and 9 times (raw pixels) as fast as torchvision's best loader.

Crop 224 and flip, batches of 64, all cores, in turn on one folder: the photos of ``--photos``, copied until there are
``--images`` of them, all in the page cache. (The default is ../shared/photos where it exists, else the demo's
photographs.) A measurement is an epoch from ``iter`` to its last batch, of workers that are alive already. Every loader
was tuned first: it has the number of workers that was fastest for it (0 with threads for ours, and 1 to 3). Beside
images/s, the CPU time per image of all processes. torchvision's batches are normalized floats, ours are uint8, as they
are in a run, where they are normalized on the device; ``normalized on the CPU`` does that in this process. The first
epoch with an empty cache is measured against that of no cache, on a fresh folder each.
"""

import gc
import logging
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import psutil
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_fastdata import ImageFolderDataModule

BATCH, SIZE = 64, 224
PEER = "torchvision, tuned"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def one_thread(worker_id: int) -> None:
    torch.set_num_threads(1)


def larger_folder(photos: Path, folder: Path, images: int) -> Path:
    """As many copies of the photos as it takes, in their class folders."""
    found = sorted((photos / "train").glob("*/*.jp*g"))
    for number in range(images):
        source = found[number % len(found)]
        target = folder / "train" / source.parent.name / f"{number // len(found):04d}-{source.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return folder


def torchvision_loader(folder: Path, workers: int) -> Any:
    """What most people write, with every setting that helps."""
    crop = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    floats = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    dataset = ImageFolder(str(folder / "train"), v2.Compose([v2.PILToTensor(), *crop, *floats]))
    return DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=True, prefetch_factor=4, drop_last=True
    )


def our_loader(folder: Path, workers: int, cache_dir: Path | None = None, kind: str = "original", **more: Any) -> Any:
    """The training loader, with batches as they are within a run."""
    cached = {} if cache_dir is None else {"cache": "disk", "cache_dir": cache_dir, "cache_format": kind}
    options = {"num_workers": workers, "persistent_workers": bool(workers), **cached, **more}
    data = ImageFolderDataModule(folder, SIZE, batch_size=BATCH, drop_last=True, **options)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.dataset.as_pixels = True
    return loader


def epoch(loader: Any, each: Callable[[Any], Any] = lambda batch: None) -> dict[str, float]:
    """Images per second of one epoch, and the CPU time of all processes per image (ms)."""
    before, started, images = cpu_s(), time.perf_counter(), 0
    for batch in loader:
        each(batch)
        images += len(batch[1])
    took = time.perf_counter() - started
    return {"images_per_s": images / took, "cpu_ms": (cpu_s() - before) / images * 1e3, "epoch_s": took}


def cpu_s() -> float:
    """CPU time of this process and its workers that live (s)."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [this, *this.children(recursive=True)])


def tuned(make: Callable[[int], Any], choices: tuple[int, ...]) -> tuple[Any, int]:
    """The loader with the number of workers that was fastest in its second epoch, and that number."""
    speeds = {}
    for workers in choices:
        loader = make(workers)
        epoch(loader)
        speeds[workers] = epoch(loader)["images_per_s"]
        del loader
        gc.collect()
    best = max(speeds, key=lambda workers: speeds[workers])
    loader = make(best)
    epoch(loader)
    return loader, best


def warm(folder: Path, caches: Path, rounds: int, workers: tuple[int, ...]) -> dict[str, Any]:
    """Epochs of every loader in turn."""
    on_cpu = normaliser()
    makers: dict[str, Callable[[int], Any]] = {
        PEER: lambda count: torchvision_loader(folder, count),
        "ours, no cache": lambda count: our_loader(folder, count),
        "ours, original files": lambda count: our_loader(folder, count, caches),
        "ours, JPEG cache": lambda count: our_loader(folder, count, caches, "jpeg"),
        "ours, raw cache": lambda count: our_loader(folder, count, caches, "raw"),
    }
    loaders, counts = {}, {}
    for name, make in makers.items():
        choices = tuple(count for count in workers if count or name != PEER)
        loaders[name], counts[name] = tuned(make, choices)
    variants = {name: lambda loader=loader: epoch(loader) for name, loader in loaders.items()}
    variants["ours, raw cache, normalized on the CPU"] = lambda: epoch(loaders["ours, raw cache"], on_cpu)
    counts["ours, raw cache, normalized on the CPU"] = counts["ours, raw cache"]
    runs = harness.interleaved(variants, rounds)
    peer = [run["images_per_s"] for run in runs[PEER]]
    return {
        name: {
            "ratio": statistics.median(run["images_per_s"] / base for run, base in zip(found, peer, strict=True)),
            "images_per_s": statistics.median(run["images_per_s"] for run in found),
            "cpu_ms_per_image": statistics.median(run["cpu_ms"] for run in found),
            "workers": counts[name],
        }
        for name, found in runs.items()
    }


def normaliser() -> Callable[[Any], Any]:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return lambda batch: batch[0].to(torch.float32).mul_(1 / 255).sub_(mean).div_(std)


def first_epochs(folder: Path, scratch: Path, rounds: int, workers: int) -> dict[str, Any]:
    """The first epoch, with an empty cache, against that of no cache; the workers' start is in all of them."""

    def cold(kind: str | None) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            with tempfile.TemporaryDirectory(dir=scratch) as empty:
                loader = our_loader(folder, workers, None if kind is None else Path(empty), kind or "original")
                found = epoch(loader)
                del loader
                gc.collect()  # its workers end before others are forked
                return found

        return measure

    runs = harness.interleaved({str(kind): cold(kind) for kind in (None, "original", "jpeg", "raw")}, rounds)
    base = [run["epoch_s"] for run in runs["None"]]
    return {
        name: {
            "of_no_cache": statistics.median(run["epoch_s"] / b for run, b in zip(found, base, strict=True)),
            "epoch_s": statistics.median(run["epoch_s"] for run in found),
            "cpu_ms_per_image": statistics.median(run["cpu_ms"] for run in found),
        }
        for name, found in runs.items()
    }


def memory(folder: Path, caches: Path, epochs: int = 10) -> dict[str, list[float]]:
    """Memory of the worker that has most, after each epoch (MiB): its own, and that with what it maps of the cache."""
    loader = our_loader(folder, 2, caches, "raw")
    own, mapped = [], []
    for _ in range(epochs):
        epoch(loader)
        infos = [child.memory_full_info() for child in psutil.Process().children() if is_worker(child)]
        own.append(max(info.uss for info in infos) / 2**20)
        mapped.append(max(info.rss for info in infos) / 2**20)
    return {"own_mib": own, "rss_mib": mapped}


def is_worker(process: psutil.Process) -> bool:
    return process.memory_info().rss > 50 * 2**20


def main() -> None:
    parser = harness.parser(__doc__, photos=True)
    parser.add_argument("--images", type=int, default=1920, help="images of the larger folder (count)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 3], help="numbers of workers to tune over")
    parser.add_argument("--only", choices=("warm", "cold", "memory"), help="one part alone")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    logging.disable(logging.INFO)  # plans
    warnings.filterwarnings("ignore", ".*worker processes in total")  # more than cores are tried as well
    results: dict[str, Any] = {"images": arguments.images, "batch": BATCH, "size": SIZE}
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        folder = larger_folder(harness.photos_folder(arguments.photos), scratch / "images", arguments.images)
        caches = scratch / "caches"
        if arguments.only in (None, "warm"):
            results["warm"] = warm(folder, caches, arguments.rounds, tuple(arguments.workers))
            rows = [
                [
                    name,
                    f"{one['ratio']:.2f}x",
                    f"{one['images_per_s']:,.0f}",
                    f"{one['cpu_ms_per_image']:.2f}",
                    str(one["workers"]),
                ]
                for name, one in results["warm"].items()
            ]
            headings = ["loader", "of torchvision", "images/s", "CPU ms/image", "workers"]
            harness.print_table(f"Epochs of {arguments.images} photos, crop 224 + flip", headings, rows)
        if arguments.only in (None, "cold"):
            results["first_epoch"] = first_epochs(folder, scratch, max(3, arguments.rounds // 2), 2)
            rows = [
                [name, f"{one['of_no_cache']:.2f}", f"{one['epoch_s']:.2f}", f"{one['cpu_ms_per_image']:.2f}"]
                for name, one in results["first_epoch"].items()
            ]
            harness.print_table(
                "The first epoch, 2 workers", ["cache_format", "of no cache", "s", "CPU ms/image"], rows
            )
        if arguments.only in (None, "memory"):
            results["memory"] = memory(folder, caches)
            rows = [
                [str(number), f"{own:.0f}", f"{rss:.0f}"]
                for number, (own, rss) in enumerate(zip(*results["memory"].values(), strict=True))
            ]
            harness.print_table("A worker's memory, raw cache (MiB)", ["after epoch", "its own", "with the map"], rows)
    harness.write_json(arguments.json, results)


if __name__ == "__main__":
    main()
