"""Claim: ImageFolderDataModule reads a folder of JPEGs faster than the best torchvision DataLoader, converting nothing.

A training epoch (batches of 64, crop of 224, flip; the folder is in the page cache) through every loader in turn, all
cores, a round each, the ratio being the median of the rounds' ratios. torchvision stands for what people write: an
ImageFolder, v2's RandomResizedCrop, RandomHorizontalFlip, ToDtype and Normalize, and a DataLoader with persistent
workers; the best number of workers and prefetching is found first. Its batches are normalized floats, ours uint8, as
in a run, where the device normalizes them; "ours, floats" is what a loader read by hand gives. CPU time is that of all
processes.

With --run: an epoch under Lightning's Trainer with a step of 20 ms that leaves the CPU free, with batches that go to
torch's meta device, where transfers cost nothing: plain Lightning with its best workers against ours with its defaults,
with the monitor's ledger of both. With --accuracy: the difference to torchvision's pixels where a JPEG is shrunk while
it is decoded.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import image_peers
import psutil
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_fastdata import ImageFolderDataModule

BATCH, SIZE, STEP_S = image_peers.BATCH, image_peers.SIZE, 0.02
PHOTOS = Path(__file__).parents[1].parent / "shared" / "photos"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_folder(source: Path, target: Path, copies: int) -> Path:
    """The photographs again and again, under other names: every copy is a file of its own in the page cache."""
    for path in sorted((source / "train").rglob("*.jpg")):
        folder = target / "train" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        for number in range(copies):
            (folder / f"{number:03d}-{path.name}").write_bytes(data)
    return target


def torchvision_loader(
    folder: Path, workers: int, prefetch: int | None = None, *, floats: bool = True
) -> DataLoader[Any]:
    steps = [image_peers.augment()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)] if floats else []
    return DataLoader(
        ImageFolder(folder / "train", v2.Compose(steps)),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=prefetch,
    )


def our_loader(folder: Path, workers: int, threads: int, *, floats: bool = False) -> Any:
    data = ImageFolderDataModule(folder, SIZE, batch_size=BATCH, num_workers=workers, decode_threads=threads)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.dataset.as_pixels = not floats  # as within a run
    return loader


@contextmanager
def cpu_time(spent: list[float]) -> Iterator[None]:
    """CPU seconds of this process and of its workers, which live on."""
    before = _cpu_s()
    yield
    spent.append(_cpu_s() - before)


def _cpu_s() -> float:
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
    return total


def epoch(loader: Any) -> tuple[float, float]:
    """Images per second, and CPU milliseconds an image, of one pass with warm workers."""
    if hasattr(loader, "prepare"):
        loader.prepare()
    spent: list[float] = []
    with cpu_time(spent):
        started, images = time.perf_counter(), 0
        for batch in loader:
            images += len(batch[1])
        took = time.perf_counter() - started
    return images / took, spent[0] / images * 1e3


def warm(loader: Any) -> Any:
    """Workers started, files and code in memory: a few batches of a pass that is given up."""
    for number, _ in enumerate(loader):
        if number == 3:
            break
    return loader


def best_torchvision(folder: Path, most_workers: int) -> tuple[int, int | None]:
    """Workers and prefetching with which torchvision is fastest here, each tried on one warm pass."""
    tried = {(w, p): 0.0 for w in range(most_workers + 1) for p in ((2, 4) if w else (None,))}
    for workers, prefetch in tried:
        tried[workers, prefetch] = epoch(warm(torchvision_loader(folder, workers, prefetch)))[0]
        print(
            f"torchvision, {workers} workers, prefetch {prefetch}: {tried[workers, prefetch]:.0f} images/s", flush=True
        )
    return max(tried, key=lambda key: tried[key])


def compare(folder: Path, place: Path, rounds: int, cpus: int) -> dict[str, Any]:
    """Every loader on one folder; `place` takes what peers convert it to."""
    workers, prefetch = best_torchvision(folder, cpus + 1)
    reference = f"torchvision, {workers} workers"
    loaders = {
        reference: ("normalized floats", lambda: torchvision_loader(folder, workers, prefetch)),
        f"torchvision, uint8, {workers} workers": (
            "uint8",
            lambda: torchvision_loader(folder, workers, prefetch, floats=False),
        ),
        f"ours, {cpus} workers": ("uint8", lambda: our_loader(folder, cpus, 1)),
        f"ours, {cpus + 1} workers": ("uint8", lambda: our_loader(folder, cpus + 1, 1)),
        f"ours, 1 worker with {cpus} threads": ("uint8", lambda: our_loader(folder, 1, cpus)),
        f"ours, no worker, {cpus} threads": ("uint8", lambda: our_loader(folder, 0, cpus)),
        f"ours, floats, {cpus} workers": ("normalized floats", lambda: our_loader(folder, cpus, 1, floats=True)),
    }
    peers = {f"{one.peer.name}, {one.ready.setting}": one for one in image_peers.served(folder / "train", place, epoch)}
    facts = {name: {"gives": gives, "convert_s": 0.0} for name, (gives, _) in loaders.items()}
    facts |= {name: {"gives": one.peer.gives, "convert_s": one.ready.convert_s} for name, one in peers.items()}
    warmed = {name: warm(make()) for name, (_, make) in loaders.items()}
    variants: dict[str, Callable[[], Any]] = {
        name: (lambda loader=loader: epoch(loader)) for name, loader in warmed.items()
    }
    runs = harness.interleaved(variants | {name: one.measure for name, one in peers.items()}, rounds)
    for one in peers.values():
        one.close()
    return {
        name: {
            "of_torchvision": statistics.median(a[0] / b[0] for a, b in zip(found, runs[reference], strict=True)),
            "images_per_s": statistics.median(one[0] for one in found),
            "cpu_ms_per_image": statistics.median(one[1] for one in found),
            **facts[name],
        }
        for name, found in runs.items()
        if None not in found  # said when it broke
    }


def run_once(data: Any, loader: Any, epochs: int) -> dict[str, Any]:
    """Wall time of the epochs after the first, and the monitor's ledger of the whole run."""
    import lightning as L
    from lightning.pytorch.accelerators import CPUAccelerator
    from lightning.pytorch.strategies import SingleDeviceStrategy

    from lightning_fastdata import DataWaitMonitor

    class Emulated(SingleDeviceStrategy):
        """Batches go to a device that takes tensors and does nothing with them."""

        def batch_to_device(self, batch: Any, device: Any = None, dataloader_idx: int = 0) -> Any:
            return super().batch_to_device(batch, torch.device("meta"), dataloader_idx)

    class Waiting(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.ends: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> None:
            time.sleep(STEP_S)

        def on_train_epoch_end(self) -> None:
            self.ends.append(time.perf_counter())

        def configure_optimizers(self) -> None:
            return None

    model, monitor = Waiting(), DataWaitMonitor(summary=False, prog_bar=False)
    trainer = L.Trainer(
        strategy=Emulated(torch.device("cpu"), accelerator=CPUAccelerator()),
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[monitor],
    )
    trainer.fit(model, **({"datamodule": data} if data is not None else {"train_dataloaders": loader}))
    summary = monitor.summary()
    times = [after - before for before, after in zip(model.ends, model.ends[1:], strict=False)]
    return {"epoch_s": statistics.median(times), "ledger": dict(summary.ledger), "total_s": summary.total_s}


def compare_runs(folder: Path, rounds: int, cpus: int) -> dict[str, Any]:
    """An end-to-end run: plain Lightning with its best workers, ours with its defaults."""
    torch.set_num_threads(1)  # an accelerator computes; the CPU is there to load
    workers, prefetch = best_torchvision(folder, cpus + 1)
    plain = f"Lightning, {workers} workers"
    variants: dict[str, Callable[[], Any]] = {
        plain: lambda: run_once(None, torchvision_loader(folder, workers, prefetch), 3),
        "ours, defaults": lambda: run_once(ImageFolderDataModule(folder, SIZE, batch_size=BATCH), None, 3),
    }
    runs = harness.interleaved(variants, rounds)
    ratios = [a["epoch_s"] / b["epoch_s"] for a, b in zip(runs[plain], runs["ours, defaults"], strict=True)]
    return {
        "speedup": statistics.median(ratios),
        **{
            name: {
                "epoch_s": statistics.median(one["epoch_s"] for one in found),
                "ledger": found[-1]["ledger"],
                "total_s": found[-1]["total_s"],
            }
            for name, found in runs.items()
        },
    }


def accuracy(source: Path) -> dict[str, Any]:
    """Mean absolute difference to torchvision's pixels in gray levels, for ways to choose the shrinking."""
    import numpy as np
    from PIL import Image

    from lightning_fastdata.datamodules.images import decoder
    from lightning_fastdata.datamodules.images.crops import RandomCrop, SampleRng
    from lightning_fastdata.loaders.splitmix import mix

    data = [path.read_bytes() for path in sorted(source.rglob("*.jpg"))][::4]
    results: dict[str, Any] = {}
    chosen = decoder.GAP
    for size in (224, 96, 64):
        for gap in (1, 2, 3, 1000):
            decoder.GAP = gap
            decoder = decoder.CropDecoder(RandomCrop(size))
            out = torch.empty(1, size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
            differences, shrunk, took = [], 0, 0.0
            for number, one in enumerate(data):
                seed = mix(number)
                started = time.process_time()
                image = decoder.load(one, seed)
                decoder.write(image, out)
                took += time.process_time() - started
                full = v2.functional.to_image(Image.open(io.BytesIO(one)).convert("RGB"))
                box = decoder.crop.draw(*full.shape[1:], SampleRng(seed))
                expected = v2.functional.resized_crop(full, *box, [size, size], antialias=True)
                expected = expected.flip(2) if image.flips else expected
                differences.append((expected.int() - out[0].int()).abs().float().mean().item())
                shrunk += image.factor > 1
            results[f"size {size}, gap {gap}"] = {
                "mean_grey_levels": float(np.mean(differences)),
                "most_grey_levels": max(differences),
                "share_shrunk": shrunk / len(data),
                "cpu_ms_per_image": took / len(data) * 1e3,
            }
    decoder.GAP = chosen
    return results


def print_loaders(figures: dict[str, Any], title: str) -> None:
    headings = ["loader", "of torchvision", "images/s", "CPU ms an image", "gives", "s to convert"]
    rows = []
    for way, f in sorted(figures.items(), key=lambda one: -one[1]["of_torchvision"]):
        row = [way, f"{f['of_torchvision']:.2f}", f"{f['images_per_s']:,.0f}", f"{f['cpu_ms_per_image']:.2f}"]
        rows.append([*row, f["gives"], f"{f['convert_s']:.1f}" if f["convert_s"] else ""])
    harness.print_table(title, headings, rows)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="train/<class>/*.jpg")
    parser.add_argument(
        "--copies", type=int, default=5, help="how often the folder has every photograph; 1: the photographs (count)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", action="store_true", help="the run under Lightning alone")
    parser.add_argument("--accuracy", action="store_true", help="the difference to torchvision's pixels alone")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    cpus = len(os.sched_getaffinity(0))
    results: dict[str, Any] = {"batch_size": BATCH, "image_size": SIZE}
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.accuracy:
            results["accuracy"] = accuracy(arguments.photos)
            rows = [[name, *(f"{value:.3f}" for value in one.values())] for name, one in results["accuracy"].items()]
            harness.print_table("Shrinking while decoding", ["way", "mean", "most", "shrunk", "CPU ms"], rows)
        else:
            folder = arguments.photos
            if arguments.copies > 1:
                folder = write_folder(arguments.photos, Path(temporary) / "copies", arguments.copies)
            results["copies"] = arguments.copies
            if arguments.run:
                results["run"] = compare_runs(folder, arguments.rounds, cpus)
                print(results["run"])
            else:
                results["loaders"] = compare(folder, Path(temporary) / "converted", arguments.rounds, cpus)
                print_loaders(results["loaders"], f"{arguments.copies} times the photographs")
    harness.write_json(arguments.json, results)


if __name__ == "__main__":
    main()
