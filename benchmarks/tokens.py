"""Claim: a batch of blocks out of a token file comes at 0.8 or more of the speed of copying memory.

The memory copy is that of a finished batch: both int64 tensors, out of memory larger than the caches. Against it, in
turn, in one process and in CPU time: ours as the dataset makes a batch (every id checked), the same with boundaries of
documents (four tensors instead of two), and as its DataLoader gives it, without workers; a fancy index into
``np.memmap``; nanoGPT's ``get_batch``; and a Dataset that gives samples one by one, read by torch's DataLoader. All
others give two int64 tensors of shape (batch, block_length). The file is in the page cache. The ratio is the median of
the rounds' ratios.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_fastdata import TokenDataModule

SHAPES = ((512, 128), (256, 256), (64, 1024), (12, 1024), (16, 4096))
"""Blocks per batch and tokens per block; (12, 1024) is nanoGPT's own."""
VOCABULARY = 50257
END, DOCUMENT = VOCABULARY - 1, 700
"""Id that ends a document, and tokens a document has."""
COPY = "memory copy"


class OneByOne(Dataset[Any]):
    """What most people write."""

    def __init__(self, path: Path, block_length: int) -> None:
        self.data, self.block_length = np.memmap(path, dtype=np.uint16, mode="r"), block_length

    def __len__(self) -> int:
        return (len(self.data) - 1) // self.block_length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        start = index * self.block_length
        tokens = torch.from_numpy(self.data[start : start + self.block_length + 1].astype(np.int64))
        return tokens[:-1], tokens[1:]


def copies(batch_size: int, block_length: int) -> Iterator[Any]:
    """Finished batches, copied out of 256 MiB of them."""
    count = max(2, 2**28 // (16 * batch_size * block_length))
    finished = torch.from_numpy(np.ones((count, 2, batch_size, block_length), np.int64))
    while True:
        for inputs, targets in finished:
            yield inputs.clone(), targets.clone()


def get_batch(path: Path, batch_size: int, block_length: int) -> Iterator[Any]:
    """As in nanoGPT's train.py: any position in the file, a new map for each batch."""
    while True:
        data = np.memmap(path, dtype=np.uint16, mode="r")
        starts = torch.randint(len(data) - block_length, (batch_size,))
        yield (
            torch.stack([torch.from_numpy(data[i : i + block_length].astype(np.int64)) for i in starts]),
            torch.stack([torch.from_numpy(data[i + 1 : i + 1 + block_length].astype(np.int64)) for i in starts]),
        )


def asked(blocks: int, batch_size: int) -> Iterator[list[int]]:
    """Indices as a loader asks for them."""
    generator = np.random.default_rng(0)
    while True:
        order = generator.permutation(blocks)
        for start in range(0, blocks - batch_size, batch_size):
            yield order[start : start + batch_size].tolist()


def fancy(path: Path, batch_size: int, block_length: int) -> Iterator[Any]:
    """One index operation into a view of overlapping rows."""
    data = np.memmap(path, dtype=np.uint16, mode="r")
    rows = np.lib.stride_tricks.sliding_window_view(data, block_length + 1)[::block_length]
    for indices in asked(len(rows), batch_size):
        tokens = rows[indices]
        yield torch.from_numpy(tokens[:, :-1].astype(np.int64)), torch.from_numpy(tokens[:, 1:].astype(np.int64))


def batched(dataset: Any, batch_size: int) -> Iterator[Any]:
    """The dataset itself."""
    for indices in asked(len(dataset), batch_size):
        yield dataset.__getitems__(indices)


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def readers(path: Path, batch_size: int, block_length: int) -> dict[str, Iterator[Any]]:
    """Every variant as an endless iterator over batches."""
    options = {"block_length": block_length, "vocab_size": VOCABULARY, "batch_size": batch_size, "num_workers": 0}
    data = TokenDataModule(path, drop_last=True, **options)
    bounded = TokenDataModule(path, end_of_document=END, **options)
    data.setup("fit")
    bounded.setup("fit")
    one_by_one = DataLoader(OneByOne(path, block_length), batch_size, shuffle=True, drop_last=True)
    return {
        COPY: copies(batch_size, block_length),
        "ours, the dataset": batched(data.train_dataset, batch_size),
        "ours, with boundaries": batched(bounded.train_dataset, batch_size),
        "ours, its DataLoader": endless(data.train_dataloader()),
        "np.memmap, fancy index": fancy(path, batch_size, block_length),
        "nanoGPT's get_batch": get_batch(path, batch_size, block_length),
        "Dataset + DataLoader": endless(one_by_one),
    }


def batch_s(batches: Iterator[Any], count: int) -> float:
    """CPU time of a batch, all in this thread: other programs take turns on the machine (s)."""
    started = time.process_time()
    for _ in range(count):
        next(batches)
    return (time.process_time() - started) / count


def warm_up(batches: Iterator[Any], seconds: float = 0.5) -> None:
    """Draw the first order, and read most of the file: a page costs something when a map is first used for it."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        next(batches)


def measure(path: Path, shape: tuple[int, int], rounds: int, count: int) -> dict[str, dict[str, float]]:
    """For each variant the medians: speed against the memory copy, tokens per second, time of a batch."""
    variants: dict[str, Callable[[], float]] = {}
    for name, batches in readers(path, *shape).items():
        warm_up(batches)
        variants[name] = lambda batches=batches: batch_s(batches, count)
    runs = harness.interleaved(variants, rounds)
    return {
        name: {
            "of_a_memory_copy": statistics.median(copy / one for copy, one in zip(runs[COPY], times, strict=True)),
            "tokens_per_s": shape[0] * shape[1] / statistics.median(times),
            "batch_us": statistics.median(times) * 1e6,
        }
        for name, times in runs.items()
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, default=100, help="batches a measurement (count)")
    parser.add_argument("--mib", type=int, default=512, help="size of the token file (MiB)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.bin"
        ids = np.random.default_rng(0).integers(0, VOCABULARY, arguments.mib * 2**19, dtype=np.uint16)
        ids[::DOCUMENT] = END
        ids.tofile(path)
        os.sync()
        for shape in SHAPES:
            figures = measure(path, shape, arguments.rounds, arguments.batches)
            results["x".join(map(str, shape))] = figures
            rows = [
                [
                    name,
                    f"{one['of_a_memory_copy']:.2f}",
                    f"{one['tokens_per_s'] / 1e6:,.0f}",
                    f"{one['batch_us']:,.0f}",
                ]
                for name, one in figures.items()
            ]
            title = f"Batches of {shape[0]} blocks of {shape[1]} tokens, two int64 tensors"
            harness.print_table(title, ["way", "of a memory copy", "million tokens/s", "us a batch"], rows)
    harness.write_json(arguments.json, {"file_mib": arguments.mib, "shapes": results})


if __name__ == "__main__":
    main()
