"""Claim: batches that only the seed decides cost at most 12 us of CPU per sample.

A dataset whose samples cost nothing, read in this process by torch's DataLoader, by ours with ``deterministic=False``
and by ours as it comes; and by ours as in a worker, which need not put the training process's generators back. Each
is timed with small and with large batches, taking turns, in CPU time of the process: two figures that tell what a
sample costs and what a batch costs. Medians over the rounds. Then what a generator adds that the dataset holds, of each
kind: at most 5 us per sample in a worker, and 50 us per batch in the training process. Also the order of 50,000
samples, drawn by NumPy's frozen ``RandomState``, by its ``Generator``, and by Python's ``random.shuffle``.
"""

import random
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from unittest import mock

import harness
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_fastdata import auto_dataloader
from lightning_fastdata.loaders.order import epoch_order

SMALL, LARGE = 8, 128
SAMPLES = 12_800


class Nothing(Dataset[int]):
    """Samples that cost nothing, of a dataset that may hold a generator."""

    def __init__(self, rng: object = None) -> None:
        self.rng = rng

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> int:
        return index


def first_of(samples: list[int]) -> int:
    """A collate function that costs nothing."""
    return samples[0]


def plain(batch_size: int) -> DataLoader[int]:
    return DataLoader(Nothing(), batch_size=batch_size, shuffle=True, collate_fn=first_of)


def ours(batch_size: int, *, deterministic: bool = True, rng: object = None) -> DataLoader[int]:
    given = {"split": "train", "num_workers": 0, "collate_fn": first_of}
    return auto_dataloader(Nothing(rng), batch_size=batch_size, deterministic=deterministic, **given)


def cpu_s(loader: DataLoader[int]) -> float:
    """CPU time of one pass (s)."""
    started = time.process_time()
    for _ in loader:
        pass
    return time.process_time() - started


def costs(make: Callable[[int], DataLoader[int]]) -> dict[str, float]:
    """Microseconds of one sample and of one batch, from a pass with small and one with large batches.

    Each pass costs samples * a + batches * b; two numbers of batches give a and b.
    """
    small_s, large_s = cpu_s(make(SMALL)), cpu_s(make(LARGE))
    small_batches, large_batches = SAMPLES // SMALL, SAMPLES // LARGE
    batch_s = (small_s - large_s) / (small_batches - large_batches)
    return {"sample_us": (large_s - large_batches * batch_s) / SAMPLES * 1e6, "batch_us": batch_s * 1e6}


def as_in_a_worker(batch_size: int, rng: object = None) -> DataLoader[int]:
    """Ours, where the loading code believes to run in a worker."""
    loader = ours(batch_size, rng=rng)
    inner = loader.__iter__

    class Pretending:
        def __iter__(self):  # type: ignore[no-untyped-def]
            with mock.patch(
                "lightning_fastdata.loaders.seeded_dataset.get_worker_info", return_value=SimpleNamespace(id=0)
            ):
                yield from inner()

    return Pretending()  # type: ignore[return-value]


KINDS: dict[str, object] = {
    "random.Random": random.Random(0),
    "torch.Generator": torch.Generator(),
    "numpy RandomState": np.random.RandomState(0),
    **{
        f"numpy Generator, {kind.__name__}": np.random.Generator(kind(0))
        for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64, np.random.MT19937)
    },
}


def held_costs(rounds: int) -> dict[str, dict[str, float]]:
    """What one generator of each kind adds: per sample in a worker, and per batch in the training process (us)."""
    variants: dict[str, Callable[[], dict[str, float]]] = {}
    for name, rng in {"none": None, **KINDS}.items():
        variants[f"{name}, worker"] = lambda rng=rng: costs(lambda size: as_in_a_worker(size, rng))  # type: ignore[misc]
        variants[f"{name}, here"] = lambda rng=rng: costs(lambda size: ours(size, rng=rng))  # type: ignore[misc]
    runs = harness.interleaved(variants, rounds)

    def added(name: str, where: str, figure: str) -> float:
        pairs = zip(runs[f"{name}, {where}"], runs[f"none, {where}"], strict=True)
        return statistics.median(one[figure] - other[figure] for one, other in pairs)

    return {
        name: {"sample_us": added(name, "worker", "sample_us"), "batch_us": added(name, "here", "batch_us")}
        for name in KINDS
    }


def order_s(draw: Callable[[], object]) -> float:
    """CPU time of drawing one order (s)."""
    started = time.process_time()
    draw()
    return time.process_time() - started


def orders(rounds: int, length: int = 50_000) -> dict[str, float]:
    """Milliseconds of CPU time per order, medians (ms)."""
    ways = {
        "ours (RandomState)": lambda: epoch_order(1, 1, length),
        "NumPy's Generator": lambda: np.random.default_rng(1).permutation(length),
        "random.shuffle": lambda: random.Random(1).shuffle(list(range(length))),
    }
    runs = harness.interleaved({name: lambda way=way: order_s(way) for name, way in ways.items()}, rounds)
    return {name: statistics.median(times) * 1e3 for name, times in runs.items()}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    makers = {
        "torch's DataLoader": plain,
        "ours, deterministic=False": lambda size: ours(size, deterministic=False),
        "ours, in the training process": ours,
        "ours, in a worker": as_in_a_worker,
    }
    variants = {name: lambda make=make: costs(make) for name, make in makers.items()}
    results = harness.interleaved(variants, arguments.rounds)
    base = results["torch's DataLoader"]
    medians, rows = {}, []
    for name, runs in results.items():
        figures = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for key in ("sample_us", "batch_us"):
            differences = [run[key] - other[key] for run, other in zip(runs, base, strict=True)]
            figures[f"added_{key}"] = statistics.median(differences)
        medians[name] = figures
        rows.append([name, *(f"{figures[key]:+.1f}" for key in figures)])
    headings = ["loader", "us per sample", "us per batch", "added per sample", "added per batch"]
    harness.print_table("CPU time of loading, samples that cost nothing", headings, rows)
    held = held_costs(arguments.rounds)
    harness.print_table(
        "What a generator adds that the dataset holds",
        ["kind", "us per sample, worker", "us per batch, training process"],
        [[name, f"{cost['sample_us']:.1f}", f"{cost['batch_us']:.1f}"] for name, cost in held.items()],
    )
    orders_ms = orders(arguments.rounds)
    harness.print_table(
        "CPU time of an order of 50,000", ["way", "ms"], [[name, f"{ms:.2f}"] for name, ms in orders_ms.items()]
    )
    harness.write_json(arguments.json, {"medians": medians, "held": held, "orders_ms": orders_ms, "runs": results})


if __name__ == "__main__":
    main()
