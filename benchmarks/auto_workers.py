"""Claim: asking whether workers change anything costs less than starting them once.

For fork, forkserver and spawn: the start of one worker (to torch's first batch), the rehearsal of a dataset whose
samples cost nothing (goal: 150 ms with fork), and an epoch of 16 batches with two new workers, plain and ours in turn
(goal: 1.1 of plain). For datasets of several kinds, in CPU time: the walk over their attributes, and the comparison
that lets workers live on. Medians over the rounds.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

METHODS = ("fork", "forkserver", "spawn")
ROUNDS = {"fork": 21, "forkserver": 3, "spawn": 3}


class Listed(Dataset[torch.Tensor]):
    """A list of (path, label); samples cost nothing."""

    def __init__(self, length: int = 64, transform: Any = None) -> None:
        self.items = [(f"train/{number % 10}/{number}.jpg", number % 10) for number in range(length)]
        self.transform = transform

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index)])


class Array(Listed):
    def __init__(self) -> None:
        super().__init__(1)
        self.array = np.zeros((100, 1_000_000), np.uint8)


class Nested:
    """A composition of transforms that holds others."""

    def __init__(self, depth: int) -> None:
        self.p, self.size = 0.5, (224, 224)
        self.transforms = [Nested(depth - 1) for _ in range(4)] if depth else []


DATASETS: dict[str, Callable[[], Any]] = {
    "64 (path, label)": Listed,
    "100,000 (path, label)": lambda: Listed(100_000),
    "85 nested transforms": lambda: Listed(64, Nested(3)),
    "array of 100 MB": Array,
}


def first_batch_s(loader: Iterable[Any]) -> float:
    """From ``iter`` to the first batch (s)."""
    began = time.perf_counter()
    iterator = iter(loader)
    next(iterator)
    took = time.perf_counter() - began
    for _ in iterator:  # so that its workers end
        pass
    return took


def epoch_s(loader: Iterable[Any]) -> float:
    """One pass, workers started and ended (s)."""
    began = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - began


def rehearsal_s(method: str) -> float:
    """The rehearsal of a dataset that was not tried before (s)."""
    from lightning_fastdata.loaders.dataset_traits import traits_of
    from lightning_fastdata.loaders.state.worker_safety import rehearsed

    dataset = Listed()
    began = time.perf_counter()
    found = rehearsed(dataset, {"batch_size": 4}, traits_of(dataset), method)
    assert found is not None, "not tried"
    assert found.problem is None, found.problem
    return time.perf_counter() - began


def of_method(method: str) -> dict[str, list[float]]:
    """Times of one start method by what was timed (s)."""
    import harness

    from lightning_fastdata import auto_dataloader

    dataset, context = Listed(), {"multiprocessing_context": method}
    plain = DataLoader(dataset, batch_size=4, shuffle=True, num_workers=2, **context)
    ours = auto_dataloader(dataset, batch_size=4, shuffle=True, num_workers=2, persistent_workers=False, **context)
    variants = {
        "start": lambda: first_batch_s(DataLoader(dataset, batch_size=4, num_workers=1, **context)),
        "rehearsal": lambda: rehearsal_s(method),
        "plain": lambda: epoch_s(plain),
        "ours": lambda: epoch_s(ours),
    }
    for once in variants.values():
        once()
    return harness.interleaved(variants, ROUNDS[method])


def of_datasets(rounds: int) -> dict[str, dict[str, float]]:
    """CPU time of looking at a dataset, by its name (ms)."""
    from lightning_fastdata.loaders.state.hazards import survey
    from lightning_fastdata.loaders.state.snapshot import changed_between, take_snapshot

    def cpu_ms(work: Callable[[], object]) -> float:
        times = []
        for _ in range(rounds):
            began = time.process_time()
            work()
            times.append((time.process_time() - began) * 1e3)
        return statistics.median(times)

    figures = {}
    for name, make in DATASETS.items():
        parts = {"dataset": make()}
        held = take_snapshot(parts)
        assert held.unseen is None, held.unseen
        figures[name] = {
            "walk_ms": cpu_ms(lambda parts=parts: survey(parts)),
            "compare_ms": cpu_ms(lambda parts=parts, held=held: changed_between(held, take_snapshot(parts))),
        }
    return figures


def main() -> None:
    import harness

    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="of the walk and the comparison")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = {method: of_method(method) for method in METHODS}
    figures, rows = {}, []
    for method, times in runs.items():
        ratio = statistics.median(ours / plain for ours, plain in zip(times["ours"], times["plain"], strict=True))
        medians = {name: statistics.median(taken) * 1e3 for name, taken in times.items()}
        figures[method] = {**{f"{name}_ms": value for name, value in medians.items()}, "epoch_ratio": ratio}
        rows.append([method, *(f"{value:.0f}" for value in medians.values()), f"{ratio:.2f}"])
    headings = ["start method", "a worker's start", "rehearsal", "epoch, plain", "epoch, ours", "ours / plain"]
    harness.print_table("Workers (ms)", headings, rows)
    looked = of_datasets(arguments.rounds)
    cells = [[name, *(f"{value:.1f}" for value in figure.values())] for name, figure in looked.items()]
    harness.print_table("Looking at a dataset (CPU ms)", ["dataset", "walk", "comparison"], cells)
    harness.write_json(arguments.json, {"methods": figures, "datasets": looked, "runs": runs})


if __name__ == "__main__":
    main()
