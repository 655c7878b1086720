"""One pass over a loader: its position, and the batches that it requests from the dataset."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch.utils.data import BatchSampler

from lightning_fastdata.compat import lightning_loops
from lightning_fastdata.loaders.drawn_order import SamplerDraws
from lightning_fastdata.loaders.order import ORDER, Indices, stream
from lightning_fastdata.loaders.sample_keys import sample_number
from lightning_fastdata.loaders.samplers import may_repeat, packed_order
from lightning_fastdata.loaders.seeded_dataset import BatchRequest, LoadTimes, WorkerOutput
from lightning_fastdata.loaders.splitmix import mix

__all__ = ["Batches", "EpochPass", "InlineBatches", "LoadedBatch", "RequestSampler", "ServedBatch", "requests_of"]


class ServedBatch(NamedTuple):
    """Which samples a batch held."""

    epoch: int
    """Epoch of the batch."""
    cycle: int
    """How often the loader had restarted within the epoch (count)."""
    number: int
    """Which batch of the epoch, from 0."""
    indices: "list[Any] | Indices"
    """Samples of this rank's batch, by index; in a loader's ``last_served`` always a list."""
    padded: int = 0
    """Samples at its end that are repeats, so that all ranks make equally many steps (count)."""


class LoadedBatch(NamedTuple):
    """How a batch that was served had been loaded."""

    epoch: int
    """Epoch of the batch."""
    number: int
    """Which batch of the epoch, from 0."""
    times: LoadTimes
    """What the process that loaded it has measured."""
    worker: int | None
    """Worker that loaded it (index); None = the training process."""
    slowest_index: Any
    """The slowest sample's index, as the sampler yielded it; None where the dataset loads whole batches."""
    pass_began: tuple[float, float] | None
    """Start and end of beginning the pass, in which workers are started or reset, where this batch was the first one
    (s, on ``time.perf_counter()``); None for all others."""


@dataclass
class EpochPass:
    """One pass over a loader."""

    epoch: int
    """Epoch that is read."""
    cycle: int = 0
    """How often the loader has restarted within the epoch (count)."""
    first: int = 0
    """Batch it began with; not 0 after a resume."""
    served: int = 0
    """Batches of the epoch served so far, those before ``first`` included (count)."""
    finished: bool = False
    """Whether the last batch has been served."""
    fetch: int | None = None
    """Fetch of Lightning's in which the last batch was served, from 0."""
    step: tuple[int, int] | None = None
    """The step that took the last batch, and how many it has taken, where Lightning lets steps take any number."""
    outside_trainer: bool = False
    """Read beside the Trainer that trains with the loader; it must leave no trace."""
    pending: dict[int, "list[Any] | Indices"] = field(default_factory=dict)
    """Samples of the batches that are under way, by batch number; packed for a dataset that loads whole batches."""
    startup: tuple[float, float] | None = None
    """Start and end of beginning it, until its first batch is served (s, on ``time.perf_counter()``)."""
    last_served: ServedBatch | None = None
    """The batch served last; None for a pass outside the Trainer."""
    last_loaded: LoadedBatch | None = None
    """How it had been loaded."""

    def continue_at(self, cycle: int, batches: int) -> None:
        """Begin where an interrupted run was.

        Args:
            cycle: How often the loader has restarted within the epoch (count).
            batches: Batches served before (count).
        """
        self.cycle = cycle
        self.first = self.served = batches

    def count_fetch(self, fetch: int | None, step: int | None) -> None:
        """Record in which fetch of Lightning's, and for which step, the last batch was served; None = not known."""
        self.fetch = fetch
        if step is not None:
            same = self.step is not None and self.step[0] == step
            self.step = step, 1 + (self.step[1] if same and self.step is not None else 0)

    def remember(self, output: WorkerOutput, indices: "list[Any] | Indices", padded: int) -> None:
        """Record a batch as the one served last.

        Args:
            output: The batch.
            indices: Its samples.
            padded: How many of them are repeats at its end (count).
        """
        number, times = output.number, output.times
        worker = None if times.worker < 0 else times.worker
        slowest_index = None if times.slowest < 0 else indices[times.slowest]
        self.last_served = ServedBatch(self.epoch, self.cycle, number, indices, padded)
        self.last_loaded = LoadedBatch(self.epoch, number, times, worker, slowest_index, self.startup)
        self.startup = None


class Batches(Iterator[Any]):
    """One pass over a loader; its epoch is found, and its workers start, when the first batch is wanted.

    Args:
        loader: The ``ResumableDataLoader`` that it reads, which makes and serves the batches.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._changes = 0
        self._pass = EpochPass(0)
        self._finish: Callable[[Any], Any] | None = None
        self.inner: Iterator[WorkerOutput] | None = None
        """The iterator of torch, which has the workers and their queue; None before the first batch was wanted."""

    @property
    def finished(self) -> bool:
        """Whether the last batch has been served."""
        return self._pass.finished

    @property
    def fetched(self) -> LoadedBatch | None:
        """How the batch served last had been loaded."""
        return self._pass.last_loaded

    def __reduce__(self) -> Any:
        """A copy of the Trainer has None instead: Lightning, too, leaves out the iterators of torch."""
        return type(None), ()

    def __next__(self) -> Any:
        if self.inner is None:
            self._changes = self._loader.changes
            self._pass, self.inner = self._loader.start_pass(self)
            finish = getattr(self._loader.dataset, "finish_unhooked", None)
            if finish is not None and not lightning_loops.transfers(self._loader.determinism.trainer(), self):
                self._finish = finish
        elif self._changes != self._loader.changes:
            self._changes = self._loader.changes
            self.inner = self._loader.continue_after_change(self, self._pass)
        try:
            # No name holds a batch: while the model works on it, the loader must not keep it alive.
            if self._finish is not None:
                return self._finish(self._loader.serve(self._pass, next(self.inner)))
            return self._loader.serve(self._pass, next(self.inner))
        except StopIteration:
            self._pass.finished = True
            raise
        except (RuntimeError, OSError) as error:
            died = self._loader.diagnose_crash(error)
            if died is None:
                raise
            raise died from error

    def __len__(self) -> int:
        return len(self._loader)


class RequestSampler:
    """What the inner loader draws instead of indices; each pass puts its own iterator here."""

    def __init__(self) -> None:
        self.next_pass: Iterator[BatchRequest] = iter(())

    def __iter__(self) -> Iterator[BatchRequest]:
        return self.next_pass


class InlineBatches(map):  # type: ignore[type-arg]  # it takes none when it runs
    """Batches that the training process loads when they are wanted.

    It replaces torch's iterator without workers, whose bookkeeping costs a quarter of the time in which 512 small
    images are gathered.
    """


def requests_of(
    epoch_pass: EpochPass, sampler: Any, batch_sampler: Any, draws: SamplerDraws, source: int, *, packed: bool
) -> Iterator[BatchRequest]:
    """The batches that a pass requests from its dataset.

    No function here knows the loader: the loader holds this iterator, and were it to hold the loader, a pass that is
    left in the middle would be freed by the garbage collector only. That takes torch's queues apart before it shuts
    the workers down, and then waits 5 s for each of them.

    Args:
        epoch_pass: The pass; gets the samples that are under way.
        sampler: The loader's sampler.
        batch_sampler: The loader's batch sampler; None = without batching.
        draws: How a sampler that is not ours is drawn.
        source: The seed of the loader, which decides the order of a sampler that draws from the global generators.
        packed: Whether the dataset takes an array of indices; else it gets a list of Python's integers.

    Returns:
        The batches that the pass has not served yet.
    """
    if type(batch_sampler) is BatchSampler:
        known = packed_order(batch_sampler.sampler)
        if known is not None:
            size, drop_last = batch_sampler.batch_size, batch_sampler.drop_last
            return _packed_requests(epoch_pass, known, size, drop_last=drop_last, packed=packed)
    drawn = Counter[int]() if may_repeat(sampler, batch_sampler) else None
    word = mix(stream(source, epoch_pass.epoch, epoch_pass.cycle) + ORDER)
    order = draws.batches(sampler, batch_sampler, word, epoch_pass.first)
    return _drawn_requests(epoch_pass, order, drawn, batched=batch_sampler is not None)


def _drawn_requests(
    epoch_pass: EpochPass, order: Iterator[tuple[int, Any]], drawn: "Counter[int] | None", *, batched: bool
) -> Iterator[BatchRequest]:
    """Requests in an order that has to be drawn; ``drawn`` counts how often each sample came, None = once."""
    for number, chosen in order:
        indices = list(chosen) if batched else [chosen]
        occurrences = None if drawn is None else _count(drawn, indices)
        if number >= epoch_pass.first:
            epoch_pass.pending[number] = indices
            yield BatchRequest(epoch_pass.epoch, epoch_pass.cycle, number, indices, occurrences)


def _packed_requests(
    epoch_pass: EpochPass, order: Indices, batch_size: int, *, drop_last: bool, packed: bool
) -> Iterator[BatchRequest]:
    """Requests in a known order, which is cut into batches here; those before the pass's first cost nothing."""
    batches = len(order) // batch_size if drop_last else -(-len(order) // batch_size)
    for number in range(epoch_pass.first, batches):
        chosen = order[number * batch_size : (number + 1) * batch_size]
        indices = chosen if packed else chosen.tolist()
        epoch_pass.pending[number] = indices
        # The dataset may do with its array what it likes.
        yield BatchRequest(epoch_pass.epoch, epoch_pass.cycle, number, chosen.copy() if packed else indices, None)


def _count(drawn: "Counter[int]", indices: list[Any]) -> list[int] | None:
    """How often each sample was drawn before; the counter goes on counting."""
    occurrences = []
    for number in map(sample_number, indices):
        occurrences.append(drawn[number])
        drawn[number] += 1
    return occurrences if any(occurrences) else None
