"""Random numbers of a sample that only (seed, epoch, index) decides, in whichever process loads it."""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, default_collate, get_worker_info

from lightning_fastdata.loaders.batch_fetch import (
    BatchFetcher,
    Indices,
    TransformedDataset,
    accepts_seeds,
    as_array,
    batch_fetcher,
    only_chooses,
)
from lightning_fastdata.loaders.order import BATCH, WORD, Words, mix, sample_seed, sample_seeds, stream
from lightning_fastdata.loaders.planned import identity_collate
from lightning_fastdata.loaders.sample_keys import sample_number

__all__ = [
    "BatchRequest",
    "LoadTimes",
    "SeededDataset",
    "WorkerOutput",
    "drawn_apart",
    "has_getitems",
    "load_generators",
    "random_state",
    "save_generators",
    "seed_generators",
    "seeded_generators",
    "set_random_state",
    "uses_global_rng",
]


class BatchRequest(NamedTuple):
    """What a loader asks its dataset for: one batch."""

    epoch: int
    """Epoch whose random numbers apply."""
    cycle: int
    """How often the loader has come round within the epoch."""
    number: int
    """Which batch of the epoch, from 0."""
    indices: "list[Any] | Indices"
    """Samples of the batch, as the sampler gave them; int64, packed, where the dataset takes them so."""
    occurrences: list[int] | None
    """For each sample how often the epoch has drawn it before (count); None = not once."""


class LoadTimes(NamedTuple):
    """When, where and how long a batch was loaded, as the process that loaded it has measured.

    The times are on ``time.perf_counter()``. Python makes that clock of one that runs for the whole machine since it
    was started (CLOCK_MONOTONIC on Linux, mach_absolute_time on macOS, QueryPerformanceCounter on Windows), so a
    worker's reading can be compared with the training process's; ``process_time`` or a clock of Python's own start
    could not.
    """

    began_s: float
    """When the batch was begun (s)."""
    ready_s: float
    """When it was ready, collated, before it was put into the queue (s)."""
    samples: int
    """Samples that were asked for (count); without batching 1."""
    slowest: int
    """The slowest sample's place in the batch, from 0; -1 where the dataset loads whole batches."""
    slowest_s: float
    """Time in which it was loaded (s); 0 where the dataset loads whole batches."""
    worker: int
    """Worker that loaded the batch (index); -1 = the training process."""


class WorkerOutput(NamedTuple):
    """A batch on its way from the worker, with the number by which it was asked for."""

    number: int
    """Which batch of the epoch, from 0."""
    batch: Any
    """What the user's collate function made."""
    times: LoadTimes
    """How it was loaded. Numbers and a named tuple, which pinning copies as they are."""

    def __reduce__(self) -> Any:
        # Two named tuples, one within the other, would take twice as long to pickle and unpickle, with every batch.
        return _delivered, (self.number, self.batch, *self.times)


def _delivered(number: int, batch: Any, *times: Any) -> WorkerOutput:
    return WorkerOutput(number, batch, LoadTimes(*times))


class SeededDataset(Dataset[Any]):
    """A dataset as the workers see it: asked for whole batches, each sample with its own random numbers.

    Before every ``__getitem__`` of the user's dataset, the global generators of Python, NumPy and torch are seeded
    from (seed, epoch, index), so that any existing transform gives the same result in any process. The collate
    function is called here too, seeded from the batch's first sample. In the training process the generators are put
    back afterwards: they belong to the model.

    A dataset of whole batches that says ``accepts_seeds = True`` gets the samples' seeds themselves, as
    ``__getitems__(indices, seeds)``, uint64, shape (batch,); so do transforms of whole batches. The generators are left
    alone where the dataset also says ``uses_global_rng = False`` and the collate function is none of the user's.

    Attributes that are not its own are read from, and written to, the user's dataset: a ``worker_init_fn`` finds it
    as ``get_worker_info().dataset``.

    Args:
        dataset: The user's map-style dataset.
        collate_fn: Makes a batch of samples; without batching it gets the one sample.
        seed: The run's seed, or None to leave all generators alone.
        batched: False for ``batch_size=None``, where an ask has one index, which may be anything.
        source: The run's seed for transforms of whole batches, which leave the generators alone.
    """

    def __init__(
        self, dataset: Any, collate_fn: Callable[[Any], Any], seed: int | None, *, batched: bool, source: int = 0
    ) -> None:
        whole = batch_fetcher(dataset) if batched else None
        if whole is not None and whole.accepts_seeds and not uses_global_rng(dataset):
            seed = (
                seed if collate_fn not in (identity_collate, default_collate) else None
            )  # nobody draws from the generators
        transform = dataset.transformed if isinstance(dataset, TransformedDataset) else None
        if transform is not None:
            dataset = dataset.dataset
        vars(self).update(
            _fastdata_dataset=dataset,
            _fastdata_collate_fn=collate_fn,
            _fastdata_seed=seed,
            _fastdata_batched=batched,
            _fastdata_whole=whole,
            _fastdata_transform=transform,
            _fastdata_source=source,
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_fastdata_", "__")):  # while unpickling there is no dataset yet
            raise AttributeError(name)
        return getattr(self._fastdata_dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._fastdata_dataset, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __len__(self) -> int:
        return len(self._fastdata_dataset)

    def __getitem__(self, ask: Any) -> Any:
        """Load the batch that was asked for; torch calls this without batching."""
        began = perf_counter()
        if not isinstance(ask, BatchRequest):  # a worker_init_fn that tries a sample
            return self._fastdata_dataset[ask]
        info, seed = get_worker_info(), self._fastdata_seed
        state = random_state() if info is None and seed is not None else None
        try:
            start = None if seed is None else stream(seed, ask.epoch, ask.cycle)
            transform, whole = self._fastdata_transform, self._fastdata_whole
            seeds = None
            if transform is not None or (whole is not None and whole.accepts_seeds):
                seeds = _seeds_of(ask, stream(self._fastdata_source, ask.epoch, ask.cycle))
            samples, slowest, slowest_s = _load(
                whole or self._fastdata_dataset, ask, start, batched=self._fastdata_batched, seeds=seeds
            )
            if start is not None:
                seed_generators(mix(_seed_of(ask, 0, start) + BATCH))
            batch = self._fastdata_collate_fn(samples)
            if transform is not None:
                batch = transform(batch, seeds)
            worker = -1 if info is None else info.id
            # The clock is read after all that the batch took.
            times = LoadTimes(began, perf_counter(), len(ask.indices), slowest, slowest_s, worker)
            return WorkerOutput(ask.number, batch, times)
        finally:
            if state is not None:
                set_random_state(state)

    __getitems__ = __getitem__
    """torch calls this one with batching, once per batch."""


def _load(
    dataset: Any, ask: BatchRequest, start: int | None, *, batched: bool, seeds: Words | None = None
) -> tuple[Any, int, float]:
    """Load the samples of a batch; no method, or the view would hide a name of the dataset's.

    Args:
        dataset: The user's, or a ``BatchFetcher``.
        ask: What is asked of it.
        start: Start of the epoch's seeds; None leaves the generators alone.
        batched: Whether the ask has a batch of indices.
        seeds: Seeds of the samples, for a ``BatchFetcher`` that takes them.

    Returns:
        The samples, the place of the slowest (-1 = unknown), and its time (s).
    """
    if type(dataset) is BatchFetcher:
        if start is not None:
            seed_generators(_seed_of(ask, 0, start))
        return dataset.batch(ask.indices, seeds), -1, 0.0
    indices, before = ask.indices, perf_counter()
    whole = batched and has_getitems(dataset)
    if whole or not batched:
        if start is not None:
            seed_generators(_seed_of(ask, 0, start))
        if whole:
            return dataset.__getitems__(indices), -1, 0.0
        return dataset[indices[0]], 0, perf_counter() - before
    samples, slowest, slowest_s = [], -1, -1.0
    for place, index in enumerate(indices):
        if start is not None:
            seed_generators(_seed_of(ask, place, start))
        samples.append(dataset[index])
        # One reading per sample: it ends this one and begins the next. Seeding is inside, some microseconds.
        now = perf_counter()
        if now - before > slowest_s:
            slowest, slowest_s = place, now - before
        before = now
    return samples, slowest, max(slowest_s, 0.0)


def _seed_of(ask: BatchRequest, place: int, start: int) -> int:
    """The seed of one sample of a batch."""
    return sample_seed(start, sample_number(ask.indices[place]), ask.occurrences[place] if ask.occurrences else 0)


def _seeds_of(ask: BatchRequest, start: int) -> Words:
    """The seeds of all samples of a batch."""
    numbers = as_array(ask.indices)
    if numbers is None:
        numbers = np.array([sample_number(key) & WORD for key in ask.indices], dtype=np.uint64).view(np.int64)
    return sample_seeds(start, numbers, None if ask.occurrences is None else np.array(ask.occurrences, dtype=np.int64))


def has_getitems(dataset: Any) -> bool:
    """Whether a dataset has a ``__getitems__`` of its own, which torch calls once per batch.

    Args:
        dataset: Any dataset. A ``Subset`` only hands the call on, so what it is a part of counts.
    """
    if isinstance(dataset, Subset):
        if type(dataset).__getitem__ is not Subset.__getitem__:
            return False  # the user's own way to a sample; torch advises to write __getitems__ as a loop over it
        if type(dataset).__getitems__ is Subset.__getitems__:
            return has_getitems(dataset.dataset)
    return callable(getattr(dataset, "__getitems__", None))


def uses_global_rng(dataset: Any) -> bool:
    """Whether loading a sample may use random numbers.

    Args:
        dataset: Any dataset. torch's own views are looked through.

    Returns:
        False for torch's TensorDataset and for classes that say ``uses_global_rng = False`` themselves (a
        subclass has to say so again: it may transform). So may a ``Subset`` with a ``__getitem__`` of its own.
    """
    if isinstance(dataset, TransformedDataset):
        return dataset.draws_from_generators or uses_global_rng(dataset.dataset)
    if isinstance(dataset, Subset) and only_chooses(type(dataset)):
        return uses_global_rng(dataset.dataset)
    if type(dataset) is ConcatDataset:
        # It asks its parts for one sample at a time, without a seed.
        return any(uses_global_rng(part) or accepts_seeds(part) for part in dataset.datasets)
    return not (type(dataset) is TensorDataset or vars(type(dataset)).get("uses_global_rng") is False)


def seed_generators(word: int) -> None:
    """Seed the global generators of Python, NumPy and torch (CPU).

    NumPy and torch both run a Mersenne Twister that takes 32 bits; they get different halves, or their numbers would
    be the same ones.

    Args:
        word: 64 bits.
    """
    random.seed(word)
    np.random.seed(word >> 32)
    torch.default_generator.manual_seed(word & 0xFFFFFFFF)


RandomState = dict[str, Any]


def random_state() -> RandomState:
    """The state of the three global generators."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.default_generator.get_state(),
    }


def set_random_state(state: RandomState) -> None:
    """Put the three global generators into a state that ``random_state`` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.default_generator.set_state(state["torch"])


def save_generators(rank: int, device: torch.device | None = None) -> dict[str, Any]:
    """The training process's generators in a form that a checkpoint may hold: integers and tensors.

    Args:
        rank: Global rank whose generators they are.
        device: The model's device; a CUDA device's own generator is saved too (awaits a GPU).
    """
    state = random_state()
    version, words, gauss = state["python"]
    kind, key, position, has_gauss, cached_gaussian = state["numpy"]
    saved: dict[str, Any] = {
        "rank": rank,
        "python": [version, torch.tensor(words), gauss],
        "numpy": [kind, torch.from_numpy(key.astype(np.int64)), position, has_gauss, cached_gaussian],
        "torch": state["torch"],
    }
    if device is not None and device.type == "cuda":
        saved["cuda"] = torch.cuda.get_rng_state(device)
    return saved


def load_generators(saved: Mapping[str, Any], device: torch.device | None = None) -> None:
    """Continue with the random numbers that followed when ``save_generators`` was called.

    Args:
        saved: What it gave.
        device: The model's device.
    """
    version, words, gauss = saved["python"]
    kind, key, position, has_gauss, cached_gaussian = saved["numpy"]
    set_random_state(
        {
            "python": (version, tuple(words.tolist()), gauss),
            "numpy": (kind, key.numpy().astype(np.uint32), position, has_gauss, cached_gaussian),
            "torch": saved["torch"].cpu(),
        }
    )
    if "cuda" in saved and device is not None and device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda"].cpu(), device)


def drawn_apart(source: Iterable[Any], word: int) -> Iterator[Any]:
    """Draw from an iterable that may use the global generators, which have states of their own meanwhile.

    Args:
        source: A sampler without a length, which may never end: it can only be drawn as it is asked.
        word: 64 bits that the generators are seeded from at its beginning.

    Yields:
        What the source gives.
    """
    with seeded_generators(word):
        iterator = iter(source)
        inside = random_state()
    while True:
        outside = random_state()
        set_random_state(inside)
        try:
            item = next(iterator)
            inside = random_state()
        except StopIteration:
            return
        finally:
            set_random_state(outside)
        yield item


@contextlib.contextmanager
def seeded_generators(word: int) -> Iterator[None]:
    """Seed the three global generators for a while, and put them back.

    Args:
        word: 64 bits.
    """
    state = random_state()
    try:
        seed_generators(word)
        yield
    finally:
        set_random_state(state)
