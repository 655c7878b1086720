"""One pass over a loader: where it is, and what it asks the dataset for."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_fastdata.loaders.sample_keys import sample_number
from lightning_fastdata.loaders.seeded_dataset import BatchRequest, LoadTimes

__all__ = [
    "EpochPass",
    "InlineBatches",
    "LoadedBatch",
    "RequestSampler",
    "ServedBatch",
    "request_for",
    "requests_in_order",
]

Indices = npt.NDArray[np.int64]


class ServedBatch(NamedTuple):
    """Which samples a batch held."""

    epoch: int
    """Epoch of the batch."""
    cycle: int
    """How often the loader had come round within the epoch."""
    number: int
    """Which batch of the epoch, from 0."""
    indices: "list[Any] | Indices"
    """Samples of this rank's batch, by index; in a loader's ``last_given`` always a list."""
    padded: int = 0
    """Samples at its end that are repeats, there to make the steps of all ranks equal (count)."""


class LoadedBatch(NamedTuple):
    """How a batch that was handed out had been loaded."""

    epoch: int
    """Epoch of the batch."""
    number: int
    """Which batch of the epoch, from 0."""
    times: LoadTimes
    """What the process that loaded it has measured."""
    worker: int | None
    """Worker that loaded it (index); None = the training process."""
    slowest_index: Any
    """The slowest sample's index, as the sampler gave it; None where the dataset loads whole batches."""
    pass_began: tuple[float, float] | None
    """Start and end of beginning the pass, in which workers are started or reset, where this batch was the first one
    (s, on ``time.perf_counter()``); None for all others."""


@dataclass
class EpochPass:
    """One pass over a loader."""

    epoch: int
    """Epoch that is read."""
    cycle: int
    """How often the loader has come round within the epoch."""
    first: int
    """Batch it began with; not 0 after a resume."""
    given: int
    """Batches of the epoch handed out so far, those before ``first`` included (count)."""
    finished: bool = False
    """Whether the last batch has been handed out."""
    fetch: int | None = None
    """Fetch of Lightning's in which the last batch was handed out, from 0."""
    outside_trainer: bool = False
    """Read by somebody beside the Trainer that trains with the loader; it must leave no trace."""
    asked: dict[int, "list[Any] | Indices"] = field(default_factory=dict)
    """Samples of the batches that are under way, by batch number; packed for a dataset that loads whole batches."""
    began: tuple[float, float] | None = None
    """Start and end of beginning it, until its first batch is handed out (s, on ``time.perf_counter()``)."""
    fetched: LoadedBatch | None = None
    """How the batch handed out last had been loaded; None for a pass that is read by hand."""


class RequestSampler:
    """What the inner loader draws instead of indices; each pass puts its own iterator here."""

    def __init__(self) -> None:
        self.next_pass: Iterator[BatchRequest] = iter(())

    def __iter__(self) -> Iterator[BatchRequest]:
        return self.next_pass


def request_for(
    epoch_pass: EpochPass, order: Iterator[Any], drawn: "Counter[int] | None", *, batched: bool
) -> Iterator[BatchRequest]:
    """What a pass asks its dataset for.

    No method: the loader holds this iterator, and were it to hold the loader, a pass that is left in the middle would
    be freed by the garbage collector only. That takes torch's queues apart before it shuts the workers down, and then
    waits 5 s for each of them.

    Args:
        epoch_pass: The pass; gets the samples that are under way.
        order: Batches of the epoch as lists of indices; without batching, indices.
        drawn: Counts how often each sample was drawn; None where none is drawn twice.
        batched: Whether ``order`` gives batches.

    Yields:
        The batches that the pass has not given yet.
    """
    for number, chosen in enumerate(order):
        indices = list(chosen) if batched else [chosen]
        occurrences = None if drawn is None else _count(drawn, indices)
        if number >= epoch_pass.first:
            epoch_pass.asked[number] = indices
            yield BatchRequest(epoch_pass.epoch, epoch_pass.cycle, number, indices, occurrences)


def requests_in_order(
    epoch_pass: EpochPass, order: Indices, batch_size: int, *, drop_last: bool, packed: bool
) -> Iterator[BatchRequest]:
    """The same for a known order, which is cut into batches here; those before the pass's first cost nothing.

    Args:
        epoch_pass: The pass; gets the samples that are under way.
        order: Samples of the epoch, int64.
        batch_size: Samples per batch (count).
        drop_last: Whether an incomplete last batch is left out.
        packed: Whether the dataset takes an array of indices; else it gets a list of Python's integers.

    Yields:
        The batches that the pass has not given yet.
    """
    batches = len(order) // batch_size if drop_last else -(-len(order) // batch_size)
    for number in range(epoch_pass.first, batches):
        chosen = order[number * batch_size : (number + 1) * batch_size]
        indices = chosen if packed else chosen.tolist()
        epoch_pass.asked[number] = indices
        # The dataset may do with its array what it likes.
        yield BatchRequest(epoch_pass.epoch, epoch_pass.cycle, number, chosen.copy() if packed else indices, None)


class InlineBatches(map):  # type: ignore[type-arg]  # it takes none when it runs
    """Batches that are loaded here and now, when they are asked for.

    It takes the place of torch's iterator without workers, whose bookkeeping costs a quarter of the time in which 512
    small images are gathered.
    """


def _count(drawn: "Counter[int]", indices: list[Any]) -> list[int] | None:
    """How often each sample was drawn before; the counter goes on counting."""
    occurrences = []
    for number in map(sample_number, indices):
        occurrences.append(drawn[number])
        drawn[number] += 1
    return occurrences if any(occurrences) else None
