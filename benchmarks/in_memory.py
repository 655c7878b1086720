"""Claim: TensorDataModule gives batches of images in memory at 0.9 or more of the speed of a bare index_select loop.

50,000 images of 3x32x32 bytes with a label each, as CIFAR has them, shuffled, read in the training process with torch's
own number of threads. The bare loop draws one permutation an epoch and calls index_select twice a batch. Against it, in
turn, in wall time: ours; torch's DataLoader over a TensorDataset; torch's with a BatchSampler as sampler and
``batch_size=None``, so that a list of indices reaches the dataset. Then with a crop out of a border, a flip and a
normalization, each sample with random numbers of its own: ours, a batch at a time, and torchvision's, sample by sample.
A measurement is an epoch; of torchvision's transforms, a tenth of one. Ratios are medians of the rounds' ratios.
"""

import itertools
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import harness
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset
from torchvision.transforms import v2

from lightning_fastdata import TensorDataModule
from lightning_fastdata.datamodules.transforms import RandomCrop, RandomHorizontalFlip, ToFloat
from lightning_fastdata.loaders.order import epoch_order

SAMPLES = 50_000
BATCH_SIZES = (512, 64, 2048)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BARE, OURS, TORCH = "bare index_select loop", "ours", "DataLoader(TensorDataset)"
LISTS = "DataLoader, sampler=BatchSampler"
OURS_AUGMENTED, TORCH_AUGMENTED = "ours, with transforms", "DataLoader, torchvision's transforms"


class Images(Dataset[Any]):
    """Images with their labels, by a number or by a list of them."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Any = None) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        image = self.images[index]
        return image if self.transform is None else self.transform(image), self.labels[index]


def bare(images: torch.Tensor, labels: torch.Tensor, batch_size: int) -> Iterator[Any]:
    """The least that shuffled batches cost."""
    order = torch.from_numpy(epoch_order(42, 0, SAMPLES))
    for start in range(0, SAMPLES, batch_size):
        chosen = order[start : start + batch_size]
        yield images.index_select(0, chosen), labels.index_select(0, chosen)


def variants(images: torch.Tensor, labels: torch.Tensor, batch_size: int) -> dict[str, Callable[[], Iterator[Any]]]:
    """What begins a pass of each variant."""
    per_sample = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    transforms = [RandomCrop(32, padding=4), RandomHorizontalFlip(), ToFloat(MEAN, STD)]
    plain = TensorDataModule((images, labels), batch_size=batch_size).train_dataloader()
    augmented = TensorDataModule((images, labels), batch_size=batch_size, train_transform=transforms).train_dataloader()
    data, sampled = Images(images, labels), Images(images, labels, per_sample)
    lists = BatchSampler(RandomSampler(data), batch_size, drop_last=False)
    loaders = {
        OURS: plain,
        TORCH: DataLoader(TensorDataset(images, labels), batch_size, shuffle=True),
        LISTS: DataLoader(data, sampler=lists, batch_size=None),
        OURS_AUGMENTED: augmented,
        TORCH_AUGMENTED: DataLoader(sampled, batch_size, shuffle=True),
    }
    passes: dict[str, Callable[[], Iterator[Any]]] = {BARE: lambda: bare(images, labels, batch_size)}
    return passes | {name: loader.__iter__ for name, loader in loaders.items()}


def samples_per_s(begin: Callable[[], Iterator[Any]], batches: int | None) -> float:
    """Speed over so many batches of a pass; None = all."""
    samples, started = 0, time.perf_counter()
    for _, labels in itertools.islice(begin(), batches):
        samples += len(labels)
    return samples / (time.perf_counter() - started)


def measure(images: torch.Tensor, labels: torch.Tensor, batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """For each variant the medians: speed against the bare loop, against torch's DataLoader, and per second."""
    some = {TORCH_AUGMENTED: max(1, SAMPLES // batch_size // 10)}
    begins = variants(images, labels, batch_size)
    runs = harness.interleaved(
        {name: lambda name=name: samples_per_s(begins[name], some.get(name)) for name in begins}, rounds
    )

    def against(name: str, other: str) -> float:
        return statistics.median(one / base for one, base in zip(runs[name], runs[other], strict=True))

    return {
        name: {
            "of_the_bare_loop": against(name, BARE),
            "of_dataloader": against(name, TORCH_AUGMENTED if name in (OURS_AUGMENTED, TORCH_AUGMENTED) else TORCH),
            "samples_per_s": statistics.median(speeds),
            "batch_us": batch_size / statistics.median(speeds) * 1e6,
        }
        for name, speeds in runs.items()
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # plans are logged once a loader
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (SAMPLES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (SAMPLES,), generator=generator)
    results = {}
    for batch_size in BATCH_SIZES:
        figures = measure(images, labels, batch_size, arguments.rounds)
        results[str(batch_size)] = figures
        rows = [
            [
                name,
                f"{one['of_the_bare_loop']:.3f}",
                f"{one['of_dataloader']:.1f}x",
                f"{one['samples_per_s'] / 1e6:.3f}",
                f"{one['batch_us']:,.0f}",
            ]
            for name, one in figures.items()
        ]
        headings = ["way", "of the bare loop", "DataLoader's speed", "million samples/s", "us a batch"]
        harness.print_table(f"Shuffled batches of {batch_size} images of 3x32x32 bytes", headings, rows)
    harness.write_json(arguments.json, {"threads": torch.get_num_threads(), "batch_sizes": results})


if __name__ == "__main__":
    main()
