"""Random numbers of a sample that only (seed, epoch, index) decides, in whichever process loads it."""

import pickle
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from time import perf_counter
from typing import Any, NamedTuple, cast

import numpy as np
from torch.utils.data import Dataset, default_collate, get_worker_info

from lightning_fastdata.loaders.batch_fetch import as_array, batch_fetcher
from lightning_fastdata.loaders.dataset_traits import DatasetTraits, traits_of
from lightning_fastdata.loaders.order import BATCH, Indices, sample_seed, sample_seeds, stream
from lightning_fastdata.loaders.planned import identity_collate
from lightning_fastdata.loaders.sample_keys import sample_number
from lightning_fastdata.loaders.splitmix import WORD, Words, mix
from lightning_fastdata.loaders.state.handles import CarriesFiles
from lightning_fastdata.loaders.state.held_generators import HeldGenerators
from lightning_fastdata.loaders.state.lasting_changes import adds_up
from lightning_fastdata.loaders.state.snapshot import Snapshot, take_snapshot
from lightning_fastdata.loaders.transformed_dataset import TransformedDataset

__all__ = ["BatchRequest", "LoadTimes", "RaisedInWorker", "SeededDataset", "ServedDataset", "WorkerOutput"]


class BatchRequest(NamedTuple):
    """One batch that a loader requests from its dataset."""

    epoch: int
    """Epoch whose random numbers apply."""
    cycle: int
    """How often the loader has restarted within the epoch (count)."""
    number: int
    """Which batch of the epoch, from 0."""
    indices: "list[Any] | Indices"
    """Samples of the batch, as the sampler yielded them; int64, packed, where the dataset takes them so."""
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
    """Samples of the request (count); without batching 1."""
    slowest: int
    """The slowest sample's position in the batch, from 0; -1 where the dataset loads whole batches."""
    slowest_s: float
    """Time in which it was loaded (s); 0 where the dataset loads whole batches."""
    worker: int
    """Worker that loaded the batch (index); -1 = the training process."""


class WorkerOutput(NamedTuple):
    """A batch on its way from the worker, with the number of its request."""

    number: int
    """Which batch of the epoch, from 0."""
    batch: Any
    """What the user's collate function made."""
    times: LoadTimes
    """How it was loaded. Numbers and a named tuple, which pinning copies unchanged."""

    def __reduce__(self) -> Any:
        # Two named tuples, one within the other, would take twice as long to pickle and unpickle, with every batch.
        return _rebuild_output, (self.number, self.batch, *self.times)


def _rebuild_output(number: int, batch: Any, *times: Any) -> WorkerOutput:
    return WorkerOutput(number, batch, LoadTimes(*times))


class RaisedInWorker(NamedTuple):
    """In place of a batch: what loading it raised."""

    error: bytes
    """The exception, pickled so that it comes out of its own type; see ``of``."""
    text: str
    """The worker's traceback."""

    @classmethod
    def of(cls, error: Exception) -> "RaisedInWorker":
        """What a worker sends of an exception.

        An ``__init__`` that takes other arguments than it hands on could not be called again: the copy is then made
        without it, from the exception's ``args`` and those attributes that can be sent. One that cannot be sent at
        all, since its class stands within a function for instance, comes as a RuntimeError: torch's queue would hang.
        """
        text = traceback.format_exc()
        parts = type(error), error.args, {name: value for name, value in vars(error).items() if _can_be_sent(value)}
        instead = RuntimeError(f"{type(error).__name__}: {error}"[:1000]), None, None
        for sent in ((error, None, None), parts, instead):
            with suppress(Exception):  # its __reduce__, __init__ and __eq__ are the user's
                pickled = pickle.dumps(sent)
                copy = _error_of(pickled)
                if sent is instead or (type(copy) is type(error) and repr(copy) == repr(error)):
                    return cls(pickled, text)
        return cls(pickle.dumps((RuntimeError(type(error).__name__), None, None)), text)

    def noted(self) -> Exception:
        """The exception with the worker's traceback as a note."""
        error = _error_of(self.error)
        error.add_note(f"In a worker process:\n{self.text}")
        return error


def _can_be_sent(value: Any) -> bool:
    with suppress(Exception):
        pickle.loads(pickle.dumps(value))
        return True
    return False


def _error_of(pickled: bytes) -> Exception:
    error, arguments, attributes = pickle.loads(pickled)
    if not isinstance(error, type):
        return cast("Exception", error)
    made = error.__new__(error, *arguments)
    made.args = arguments
    vars(made).update(attributes)
    return cast("Exception", made)


class SeededDataset(CarriesFiles, Dataset[Any]):
    """A dataset for the workers of a loader: each request is a whole batch, each sample has its own random numbers.

    Before every ``__getitem__`` of the user's dataset, the global generators of Python, NumPy and torch are seeded
    from (seed, epoch, index), so that any existing transform gives the same result in any process; and so are the
    generators that the dataset, its transforms and the collate function hold. The collate function is called here too,
    seeded from the batch's first sample. In the training process the generators are put back afterwards: they belong
    to the model.

    A dataset of whole batches that says ``accepts_seeds = True`` gets the samples' seeds themselves, as
    ``__getitems__(indices, seeds)``, uint64, shape (batch,); so do transforms of whole batches. The generators are left
    alone where the dataset also says ``uses_global_rng = False`` and the collate function is none of the user's.

    Attributes that are not its own are read from, and written to, the user's dataset: a ``worker_init_fn`` finds it
    as ``get_worker_info().dataset``.

    Args:
        dataset: The user's map-style dataset.
        collate_fn: Makes a batch of samples; without batching it gets the one sample.
        seed: The run's seed, or None to leave all generators alone.
        batched: False for ``batch_size=None``, where a request has one index, which may be anything.
        source: The run's seed for transforms of whole batches, which leave the generators alone.
        traits: The traits of the dataset, where they are known.
    """

    _fastdata_returns_errors = False

    def __init__(
        self,
        dataset: Any,
        collate_fn: Callable[[Any], Any],
        seed: int | None,
        *,
        batched: bool,
        source: int = 0,
        traits: DatasetTraits | None = None,
    ) -> None:
        traits = traits or traits_of(dataset)
        fetcher = batch_fetcher(dataset, traits) if batched else None
        accepts_seeds = fetcher is not None and fetcher.accepts_seeds
        if accepts_seeds and not traits.uses_global_rng and collate_fn in (identity_collate, default_collate):
            seed = None  # no code is left that could draw from the generators
        transform = None
        if isinstance(dataset, TransformedDataset):
            dataset, transform = dataset.dataset, dataset.transformed
        vars(self).update(
            _fastdata_dataset=dataset,
            _fastdata_collate_fn=collate_fn,
            _fastdata_seed=seed,
            _fastdata_batched=batched,
            _fastdata_getitems=batched and traits.has_getitems,
            _fastdata_fetcher=fetcher,
            _fastdata_transform=transform,
            _fastdata_held=HeldGenerators({"dataset": dataset, "collate_fn": collate_fn, "transform": transform}),
            _fastdata_source=source if accepts_seeds or transform is not None else None,
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_fastdata_", "__")):  # while unpickling there is no dataset yet
            raise AttributeError(name)
        return getattr(self._fastdata_dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._fastdata_dataset, name, value)

    def __len__(self) -> int:
        return len(self._fastdata_dataset)

    def __getitem__(self, request: Any) -> Any:
        """Load the batch of a request; torch calls this without batching."""
        began = perf_counter()
        if not isinstance(request, BatchRequest):  # a worker_init_fn that tries a sample
            return self._fastdata_dataset[request]
        info = get_worker_info()
        if self._fastdata_seed is not None:
            self._fastdata_held.follow(request.epoch, request.cycle, request.number)
        if info is None:
            with self._fastdata_held.kept() if self._fastdata_seed is not None else nullcontext():
                return _output_of(self, request, began, -1)
        try:
            return _output_of(self, request, began, info.id)
        except Exception as error:
            if not self._fastdata_returns_errors:
                raise
            # torch makes a new exception of the type and one text, which many types do not take.
            times = LoadTimes(began, perf_counter(), len(request.indices), -1, 0.0, info.id)
            return WorkerOutput(request.number, RaisedInWorker.of(error), times)

    __getitems__ = __getitem__
    """torch calls this one with batching, once per batch."""


class ServedDataset(SeededDataset):
    """In the workers of a loader, which raises again what they send back as ``RaisedInWorker``."""

    _fastdata_returns_errors = True


def _output_of(wrapper: SeededDataset, request: BatchRequest, began: float, worker: int) -> WorkerOutput:
    """Load and collate a batch; no method, or the wrapper would hide a name of the dataset's."""
    held, again, before = wrapper._fastdata_held, None, None
    if held.looks_again and wrapper._fastdata_seed is not None:  # the dataset may do with its indices what it likes
        again = request._replace(indices=request.indices.copy())
        before = _picture(held.parts) if worker < 0 else None  # "auto" has workers where loading changes nothing
    batch, slowest, slowest_s = _batch_of(wrapper, request)
    if again is not None and held.has_more() and not (before is not None and adds_up(before, _picture(held.parts))):
        batch, slowest, slowest_s = _batch_of(wrapper, again)
    # The clock is read after all that the batch took.
    times = LoadTimes(began, perf_counter(), len(request.indices), slowest, slowest_s, worker)
    return WorkerOutput(request.number, batch, times)


def _picture(parts: Mapping[str, Any]) -> Snapshot:
    """What the dataset holds, arrays unread; none of the user's code runs."""
    try:
        return take_snapshot(parts, generators=False, last_draws=False, arrays=False)
    except Exception:  # a proxy, a container that another thread changes
        return Snapshot({}, None)


def _batch_of(wrapper: SeededDataset, request: BatchRequest) -> tuple[Any, int, float]:
    """Load, collate and transform; what is returned is what ``_load`` returns, with the batch for the samples."""
    seed, source = wrapper._fastdata_seed, wrapper._fastdata_source
    start = None if seed is None else stream(seed, request.epoch, request.cycle)
    seeds = None if source is None else _seeds_of(request, stream(source, request.epoch, request.cycle))
    samples, slowest, slowest_s = _load(wrapper, request, start, seeds)
    if start is not None:
        wrapper._fastdata_held.seed(mix(_seed_of(request, 0, start) + BATCH))
    batch = wrapper._fastdata_collate_fn(samples)
    if wrapper._fastdata_transform is not None:
        batch = wrapper._fastdata_transform(batch, seeds)
    return batch, slowest, slowest_s


def _load(
    wrapper: SeededDataset, request: BatchRequest, start: int | None, seeds: Words | None
) -> tuple[Any, int, float]:
    """Load the samples of a batch.

    Args:
        wrapper: Has the user's dataset.
        request: The batch.
        start: Start of the epoch's seeds; None leaves the generators alone.
        seeds: Seeds of the samples, for a dataset that takes them.

    Returns:
        The samples, the position of the slowest (-1 = unknown), and its time (s).
    """
    dataset, fetcher, indices = wrapper._fastdata_dataset, wrapper._fastdata_fetcher, request.indices
    if fetcher is None and wrapper._fastdata_batched and not wrapper._fastdata_getitems:
        return _load_one_by_one(dataset, request, start, wrapper._fastdata_held.seed)
    before = perf_counter()
    if start is not None:
        wrapper._fastdata_held.seed(_seed_of(request, 0, start))
    if fetcher is not None:
        return fetcher.batch(indices, seeds), -1, 0.0
    if wrapper._fastdata_getitems:
        return dataset.__getitems__(indices), -1, 0.0
    return dataset[indices[0]], 0, perf_counter() - before


def _load_one_by_one(
    dataset: Any, request: BatchRequest, start: int | None, seed: Callable[[int], object]
) -> tuple[list[Any], int, float]:
    samples, slowest, slowest_s, before = [], -1, -1.0, perf_counter()
    for position, index in enumerate(request.indices):
        if start is not None:
            seed(_seed_of(request, position, start))
        samples.append(dataset[index])
        # One reading per sample: it ends this one and begins the next. Seeding is inside, some microseconds.
        now = perf_counter()
        if now - before > slowest_s:
            slowest, slowest_s = position, now - before
        before = now
    return samples, slowest, max(slowest_s, 0.0)


def _seed_of(request: BatchRequest, position: int, start: int) -> int:
    """The seed of one sample of a batch."""
    occurrence = request.occurrences[position] if request.occurrences else 0
    return sample_seed(start, sample_number(request.indices[position]), occurrence)


def _seeds_of(request: BatchRequest, start: int) -> Words:
    """The seeds of all samples of a batch."""
    numbers = as_array(request.indices)
    if numbers is None:
        numbers = np.array([sample_number(key) & WORD for key in request.indices], dtype=np.uint64).view(np.int64)
    occurrences = None if request.occurrences is None else np.array(request.occurrences, dtype=np.int64)
    return sample_seeds(start, numbers, occurrences)
