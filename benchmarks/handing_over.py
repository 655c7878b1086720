"""Claim: taking a batch over from a worker costs this process some 0.4 ms, and 0.25 ms for each tensor in it.

A worker has the batch ready; timed is the ``next()`` that takes it over, for batches of few and many tensors. The least
of the batches counts, and the median of the rounds. Beside it, datasets that hold their data in memory: a sample in the
rehearsal, the quickest and the mean one, against a sample of a loop in this process. The plan's rule for cheap data
(``planning/workers.py``) rests on both.
"""

import statistics
import time
from typing import Any

import harness
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_fastdata.loaders.dataset_traits import traits_of
from lightning_fastdata.loaders.state.worker_safety import rehearsed

TENSORS = (1, 2, 8, 32)
BATCHES = 40


class Ready(Dataset[Any]):
    """Batches of so many small tensors."""

    def __init__(self, tensors: int) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return [torch.zeros(256) for _ in range(self.tensors)]


class Images(Dataset[Any]):
    """Images of 3x32x32 bytes in an array, to floats."""

    def __init__(self) -> None:
        self.images = np.zeros((10_000, 3, 32, 32), np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return torch.from_numpy(self.images[index]).float() / 255, index


class Tokens(Images):
    """Sequences of 129 tokens out of one array."""

    def __getitem__(self, index: int) -> Any:
        flat = self.images.reshape(-1)
        return torch.from_numpy(flat[128 * index : 128 * index + 129].astype(np.int64))


def taken_over_ms(tensors: int) -> float:
    """Least time of a ``next()`` whose batch is ready (ms): anything may hold up a process."""
    batches = iter(DataLoader(Ready(tensors), batch_size=None, num_workers=1, prefetch_factor=4))
    next(batches)
    times = []
    for _ in range(BATCHES - 1):
        time.sleep(0.005 + 0.001 * tensors)
        began = time.perf_counter()
        next(batches)
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def sample_us(kind: type[Images]) -> dict[str, float]:
    """A sample in the rehearsal and here (us)."""
    dataset = kind()
    found = rehearsed(dataset, {"batch_size": 32}, traits_of(dataset), "fork")
    assert found is not None
    assert found.quickest_s is not None
    assert found.sample_wall_s is not None
    began = time.perf_counter()
    order = np.random.default_rng(0).permutation(len(dataset))[:3200].reshape(-1, 32).tolist()
    for batch in order:
        default_collate([dataset[index] for index in batch])
    here = (time.perf_counter() - began) / 3200
    return {"quickest": 1e6 * found.quickest_s, "mean": 1e6 * found.sample_wall_s, "here": 1e6 * here}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    variants: dict[str, Any] = {f"{n} tensors": lambda n=n: taken_over_ms(n) for n in TENSORS}
    variants |= {kind.__name__: lambda kind=kind: sample_us(kind) for kind in (Images, Tokens)}
    runs = harness.interleaved(variants, arguments.rounds)
    handed = {name: statistics.median(runs[name]) for name in runs if name.endswith("tensors")}
    samples = {
        kind: {key: statistics.median(run[key] for run in runs[kind]) for key in runs[kind][0]}
        for kind in ("Images", "Tokens")
    }
    rows = [[name, f"{ms:.2f}"] for name, ms in handed.items()]
    harness.print_table("Taking over a batch that is ready", ["batch", "ms"], rows)
    rows = [[kind, *(f"{one[key]:.1f}" for key in ("quickest", "mean", "here"))] for kind, one in samples.items()]
    headings = ["data in memory", "quickest, rehearsal", "mean, rehearsal", "here, with collate"]
    harness.print_table("A sample (us)", headings, rows)
    harness.write_json(arguments.json, {"taken_over_ms": handed, "sample_us": samples})


if __name__ == "__main__":
    main()
