"""A loader whose batches only the seed decides, and which continues in mid-epoch where it stopped."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from time import perf_counter
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, SubsetRandomSampler

from lightning_fastdata.compat import lightning_loops
from lightning_fastdata.compat.torch_internals import stop_workers
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware, probe
from lightning_fastdata.loaders.batch_fetch import fetches_batches
from lightning_fastdata.loaders.batch_requests import (
    EpochPass,
    InlineBatches,
    LoadedBatch,
    RequestSampler,
    ServedBatch,
    request_for,
    requests_in_order,
)
from lightning_fastdata.loaders.order import ORDER, RANK, derive_seed, mix, stream
from lightning_fastdata.loaders.planned import PlannedDataLoader, identity_collate
from lightning_fastdata.loaders.progress import LoaderProgress
from lightning_fastdata.loaders.samplers import EpochSampler, RankSampler, has_fixed_order, length_of, packed_order
from lightning_fastdata.loaders.seeded_dataset import (
    BatchRequest,
    SeededDataset,
    WorkerOutput,
    drawn_apart,
    load_generators,
    save_generators,
    seed_generators,
    seeded_generators,
)
from lightning_fastdata.loaders.worker_crash import WorkerDiedError, explained
from lightning_fastdata.planning.options import LoaderPlan
from lightning_fastdata.planning.plan import Planning

__all__ = ["Batches", "Determinism", "ResumableDataLoader", "no_trainer"]

FORWARDED_ARGS = (
    *("num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "generator"),
    *("prefetch_factor", "persistent_workers", "pin_memory_device", "in_order"),
)
"""Arguments of torch's DataLoader that the inner loader shares with the outer one."""


def no_trainer() -> None:
    """The Trainer of a loader that has none."""


@dataclass(frozen=True)
class Determinism:
    """What decides the batches of a loader, beside its dataset and its sampler."""

    seed: int
    """The run's seed, >= 0."""
    part: str | None = None
    """The loader's name where several are read together; None = alone."""
    seeds_samples: bool = True
    """Whether every sample gets its own random numbers; False leaves the generators alone."""
    counts_epochs: bool = True
    """Whether epochs differ, as in training; False serves every pass with the random numbers of epoch 0."""
    ranks: int = 1
    """Ranks that share a global batch (count)."""
    rank: int = 0
    """Global rank of this process."""
    trainer: Callable[[], Any] = field(default=no_trainer, compare=False)
    """Gives the Trainer, or None where it is not known or gone; a loader does not keep its Trainer alive."""

    @property
    def source(self) -> int:
        """The seed this loader draws from."""
        return derive_seed(self.seed, self.part)


@dataclass
class Last:
    """What a loader handed out last; apart from it, for torch's DataLoader looks at each attribute that is set."""

    given: ServedBatch | None = None
    """Which samples."""
    fetched: LoadedBatch | None = None
    """How they had been loaded."""


class Batches(Iterator[Any]):
    """One pass over a loader; what it is, and the workers, wait for the first batch.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: "ResumableDataLoader") -> None:
        self._loader = loader
        self._changes = 0
        self._pass = EpochPass(0, 0, 0, 0)
        self._inner: Iterator[WorkerOutput] | None = None

    @property
    def finished(self) -> bool:
        """Whether the last batch has been handed out."""
        return self._pass.finished

    @property
    def inner(self) -> Iterator[WorkerOutput] | None:
        """The iterator of torch's, which has the workers and their queue; None before the first batch was wanted."""
        return self._inner

    @property
    def fetched(self) -> LoadedBatch | None:
        """How the batch handed out last had been loaded."""
        return self._pass.fetched

    def __next__(self) -> Any:
        if self._inner is None:
            self._changes = self._loader.changes
            self._pass, self._inner = self._loader.start_pass(self)
        elif self._changes != self._loader.changes:
            self._changes = self._loader.changes
            self._inner = self._loader.continue_after_change(self, self._pass)
        try:
            # No name holds a batch: while the model works on it, the loader must not keep it alive.
            return self._loader.hand_over(self._pass, next(self._inner))
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


class ResumableDataLoader(PlannedDataLoader):
    """A torch DataLoader for map-style data that gives the same batches whatever the workers, ranks and restarts.

    To its user, and to Lightning, it is a DataLoader with the arguments it was made with: ``dataset`` and ``sampler``
    are the user's own, and Lightning may build it again with another sampler. Its batches come from an inner
    DataLoader with the same options, which asks a view of the dataset (``seeded.SeededDataset``) for whole batches
    together with the epoch they belong to, so that persistent workers seed each sample rightly.

    The inner loader is made, and its workers start, when the first batch is fetched, not at ``iter()``: Lightning
    calls that before it knows, after a restart, in which epoch it is.

    ``state_dict`` and ``load_state_dict`` follow the interface that Lightning saves with its loop: a mid-epoch
    checkpoint holds a few integers, the same on every rank.

    Args:
        *args: Arguments of torch's DataLoader.
        sameness: What decides the batches.
        planning: What its workers were planned from; None where nobody planned them.
        **kwargs: Arguments of torch's DataLoader.
    """

    def __init__(
        self, *args: Any, sameness: Determinism | None = None, planning: Planning | None = None, **kwargs: Any
    ) -> None:
        self.sameness = sameness or Determinism(seed=42)
        self.planning = planning
        self.changes = 0
        """How often its workers were changed (count)."""
        super().__init__(*args, **kwargs)
        self._last = Last()
        self._inner: DataLoader[Any] | None = None
        self._asks = RequestSampler()
        self._pass: EpochPass | None = None
        self._reader: Callable[[], Batches | None] = no_trainer
        self._passes = 0
        self._saved: dict[str, Any] = {}
        self._before: Hardware | None = None
        """The machine when the workers were started."""

    @property
    def last_given(self) -> ServedBatch | None:
        """The batch handed out last; made when it is asked for, for the indices may still be packed."""
        given = self._last.given
        if given is None or isinstance(given.indices, list):
            return given
        return given._replace(indices=given.indices.tolist())

    @property
    def last_fetch(self) -> LoadedBatch | None:
        """How it had been loaded."""
        return self._last.fetched

    def __getstate__(self) -> dict[str, Any]:
        """For another process, as with ``ddp_spawn``: without the workers and the Trainer of this one."""
        sameness = replace(self.sameness, trainer=no_trainer)
        ours = {"sameness": sameness, "_inner": None, "_reader": no_trainer, "_asks": RequestSampler()}
        return {**lightning_loops.own_attributes(self), **ours, "_iterator": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        lightning_loops.skip_worker_hint(self)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return Batches(self)

    def start_pass(self, reader: Batches) -> tuple[EpochPass, Iterator[WorkerOutput]]:
        """Begin a pass, at the moment when its first batch is wanted.

        Args:
            reader: Who reads it.

        Returns:
            What the pass is, and the batches of the inner loader.
        """
        started = perf_counter()
        epoch_pass = self._find_place(reader)
        asks, other = self._asks_of(epoch_pass), self._reader()
        derive_seed = epoch_pass.outside_trainer or (other is not None and other is not reader and not other.finished)
        if derive_seed and not self._loads_inline():
            # Persistent workers can serve one pass at a time, and the other one is in the middle of its own.
            return epoch_pass, iter(self._make_inner(asks, persistent=False))
        if not epoch_pass.outside_trainer:
            self._reader = weakref.ref(reader)
        return epoch_pass, self._start(epoch_pass, asks, started)

    def _start(self, epoch_pass: EpochPass, asks: Iterator[BatchRequest], started: float) -> Iterator[WorkerOutput]:
        """The batches of a pass, from its workers or from this process."""
        if self._loads_inline():
            if self.generator is not None:  # torch draws a seed with every pass, and a sampler may draw from the same
                torch.empty((), dtype=torch.int64).random_(generator=self.generator)
            inner: Iterator[WorkerOutput] = InlineBatches(self._view().__getitems__, asks)
        else:
            self._asks.next_pass = asks
            kept = lightning_loops.kept_iterator(self)
            if self._inner is None or not self.persistent_workers or kept is None:
                self._inner = self._make_inner(self._asks, persistent=self.persistent_workers)
            inner = iter(self._inner)
            lightning_loops.keep_iterator(self, inner)
        if not epoch_pass.outside_trainer:
            epoch_pass.began = started, perf_counter()
        return inner

    def change(self, plan: LoaderPlan, *, between_epochs: bool = False) -> None:
        """Use other workers from the next batch on. The batches stay the same, and so does their order.

        In the middle of a pass the batches that the old workers have prepared are dropped and loaded again, so that
        costs up to ``num_workers * prefetch_factor`` batches of their time.

        Args:
            plan: The workers and what belongs to them.
            between_epochs: Whether the Trainer is through with a pass. It does not ask for the end of a loader whose
                length it knows, nor beyond ``limit_train_batches``, so the loader cannot know that itself.

        Raises:
            FastDataError: A pass is under way that cannot be gone on with by other workers; see
                ``changes_within_pass``.
        """
        reader = self._reader()
        over = reader is None or reader.finished or between_epochs
        if not over and not self.changes_within_pass:
            raise FastDataError(
                "The workers of this loader cannot be changed in the middle of an epoch.",
                expected="batches in an order that the seed decides.",
                fix="change them between two epochs.",
            )
        if over:
            stop_workers(lightning_loops.kept_iterator(self))
            if reader is not None:
                stop_workers(reader.inner)
                self._reader = no_trainer
        if plan.num_workers == 0:
            self.multiprocessing_context = None
        self.num_workers, self.prefetch_factor, self.pin_memory = (
            plan.num_workers,
            plan.prefetch_factor,
            plan.pin_memory,
        )
        if plan.num_workers:
            self.multiprocessing_context = plan.multiprocessing_context
        # torch locks this name for a loader that is made; what was made with it is the inner loader, which goes.
        vars(self)["persistent_workers"] = plan.persistent_workers
        lightning_loops.forget_iterator(self)
        self._inner = None
        self.changes += 1

    @property
    def changes_within_pass(self) -> bool:
        """Whether other workers could go on in the middle of a pass with the same batches."""
        return bool(getattr(self, "in_order", True)) and self._has_fixed_order()

    def continue_after_change(self, reader: Batches, epoch_pass: EpochPass) -> Iterator[WorkerOutput]:
        """Go on with a pass after its loader's workers were changed.

        Args:
            reader: Who reads it.
            epoch_pass: The pass.

        Returns:
            The batches from here on.
        """
        if epoch_pass.outside_trainer or self._reader() is not reader:
            return reader.inner or iter(())  # it has workers of its own
        started = perf_counter()
        stop_workers(reader.inner)
        epoch_pass.first = epoch_pass.given
        epoch_pass.asked.clear()
        return self._start(epoch_pass, self._asks_of(epoch_pass), started)

    def _loads_inline(self) -> bool:
        """Whether batches are loaded without torch's iterator: whole ones, by this process, for which it has no use."""
        whole = self.batch_sampler is not None and fetches_batches(self.dataset)
        return whole and self.num_workers == 0 and not self.pin_memory

    def attach_trainer(self, trainer: Any) -> None:
        """Know the Trainer that uses this loader; it is asked where training is.

        Args:
            trainer: It is not kept alive.
        """
        self.sameness = replace(self.sameness, trainer=weakref.ref(trainer))

    def state_dict(self) -> dict[str, Any]:
        """Where the model is in this loader's data, for a checkpoint.

        Batches count that the model was trained on, not those prefetched.

        Returns:
            The fields of ``LoaderProgress``, and the states of this process's random generators.
        """
        trainer = self.sameness.trainer()
        lightning_loops.load_waiting_states(trainer, self)
        if self._saved:  # resumed, and nothing fetched since
            return dict(self._saved)
        if trainer is not None and not lightning_loops.counts_fetches(trainer):
            rank_zero_warn(
                "This Lightning does not show what it has fetched and trained on: a checkpoint in mid-epoch may count "
                "a batch too many, which a resumed run would leave out."
            )
        epoch_pass = self._pass or EpochPass(self._epoch(), 0, 0, 0)
        progress = self._progress(
            epoch_pass,
            max(
                0,
                epoch_pass.given
                - lightning_loops.batches_ahead(trainer, epoch_pass.fetch, finished=epoch_pass.finished),
            ),
        )
        return {**progress.to_dict(), "generators": save_generators(self.sameness.rank, self._device())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint with the next pass, if that is of the epoch it was written in.

        Args:
            state_dict: What ``state_dict`` gave, here or on another rank.

        Raises:
            FastDataError: It was written by something else.
        """
        progress = LoaderProgress.from_dict(state_dict)
        self._saved = dict(state_dict)
        self._passes = progress.epoch
        if self._own_sampler is not None:
            self._own_sampler.continue_from(progress.epoch)
        # Once more at the first batch, the last moment before the model draws; but with loaders made anew for each
        # epoch, a checkpoint of an epoch's last step never sees a batch from this loader.
        self._load_generators(progress)

    def _find_place(self, reader: Batches) -> EpochPass:
        """Find out, at the last moment, what a pass is."""
        trainer, own = self.sameness.trainer(), self._own_sampler
        if own is not None:
            own.length = length_of(self.dataset) or own.length  # a dataset may grow between epochs
        if lightning_loops.reads_outside_trainer(trainer, self, reader):
            return EpochPass(self._epoch(), 0, 0, 0, outside_trainer=True)
        lightning_loops.load_waiting_states(trainer, self)
        epoch = lightning_loops.mend_progress(trainer, self, resumed=bool(self._saved))
        if epoch is not None and own is not None:
            own.set_epoch(epoch)
        epoch_pass, before = EpochPass(self._epoch(), 0, 0, 0), self._pass
        if self._saved:
            self._continue(epoch_pass)
            self._saved = {}
        elif before is not None and self._restarted_within_epoch(before, epoch_pass):
            epoch_pass.cycle = before.cycle + before.finished
        self._passes += 1
        self._pass = epoch_pass
        return epoch_pass

    def _restarted_within_epoch(self, before: EpochPass, epoch_pass: EpochPass) -> bool:
        """Whether a longer loader beside this one is still in the epoch in which this one began."""
        same = self.sameness.counts_epochs and before.epoch == epoch_pass.epoch
        return same and lightning_loops.in_mid_epoch(self.sameness.trainer())

    def _continue(self, epoch_pass: EpochPass) -> None:
        """Take up what a checkpoint saved."""
        progress = LoaderProgress.from_dict(self._saved)
        if progress.epoch == epoch_pass.epoch:
            progress.check_continues(self._progress(epoch_pass, 0), length_of(self))
            epoch_pass.cycle = progress.cycle
            epoch_pass.first = epoch_pass.given = progress.batches_consumed
        self._load_generators(progress)

    def _load_generators(self, progress: LoaderProgress) -> None:
        """Go on with the random numbers that followed when the checkpoint was written."""
        generators = self._saved.get("generators")
        if generators is None:
            return
        if generators["rank"] == self.sameness.rank:
            load_generators(generators, self._device())
        else:  # Lightning saves rank 0 only; the others must neither draw its numbers nor those of the run's start
            start = stream(self.sameness.source, progress.epoch, progress.batches_consumed)
            seed_generators(mix(mix(start + RANK) + self.sameness.rank))

    @property
    def _own_sampler(self) -> EpochSampler | RankSampler | None:
        """The sampler if it is one of ours; None for the user's and Lightning's."""
        return self.sampler if isinstance(self.sampler, (EpochSampler, RankSampler)) else None

    def _epoch(self) -> int:
        """The epoch of a pass that begins now."""
        if not self.sameness.counts_epochs:
            return 0
        if self._own_sampler is not None:
            return self._own_sampler.epoch
        trainer = self.sameness.trainer()
        return self._passes if trainer is None else int(trainer.current_epoch)

    def _asks_of(self, epoch_pass: EpochPass) -> Iterator[BatchRequest]:
        """What a pass asks its dataset for."""
        if self._own_sampler is not None:
            self._own_sampler.cycle = epoch_pass.cycle
        batches = self.batch_sampler
        if type(batches) is BatchSampler:
            order = packed_order(batches.sampler)
            if order is not None:
                packed = fetches_batches(self.dataset)
                return requests_in_order(
                    epoch_pass, order, batches.batch_size, drop_last=batches.drop_last, packed=packed
                )
        drawn = Counter[int]() if self._may_repeat() else None
        return request_for(epoch_pass, self._order(epoch_pass), drawn, batched=batches is not None)

    def _order(self, epoch_pass: EpochPass) -> Iterator[Any]:
        source: Any = self.sampler if self.batch_sampler is None else self.batch_sampler
        if self._has_fixed_order():
            return iter(source)
        word = mix(stream(self.sameness.source, epoch_pass.epoch, epoch_pass.cycle) + ORDER)
        length = length_of(source)
        if length is None:
            return drawn_apart(source, word)
        # A sampler of the user's may draw from the global generators: give it the same numbers in every run. They
        # are put back at once, so its whole order has to be drawn now; as long as it says it is, for it may go on.
        with seeded_generators(word):
            return iter(list(islice(source, length)))

    def _may_repeat(self) -> bool:
        """Whether an epoch may draw a sample again, as far as is known."""
        sampler = self.sampler if self.batch_sampler is None else getattr(self.batch_sampler, "sampler", None)
        once = type(sampler) is SubsetRandomSampler or (type(sampler) is RandomSampler and not sampler.replacement)
        return not (self._has_fixed_order() or (once and type(self.batch_sampler) in (BatchSampler, type(None))))

    def _has_fixed_order(self) -> bool:
        if self.batch_sampler is None:
            return has_fixed_order(self.sampler)
        return type(self.batch_sampler) is BatchSampler and has_fixed_order(self.batch_sampler.sampler)

    def _make_inner(self, asks: Iterable[BatchRequest], *, persistent: bool) -> DataLoader[Any]:
        self._before = probe() if self.num_workers else None
        options = {name: getattr(self, name) for name in FORWARDED_ARGS if getattr(self, name, None) not in (None, "")}
        batched = self.batch_sampler is not None
        options |= {"batch_sampler": asks} if batched else {"sampler": asks, "batch_size": None}
        options["persistent_workers"] = persistent and self.num_workers > 0
        if self.num_workers == 0:  # after a change there may be no more workers to wait for
            options.pop("timeout", None)
        return PlannedDataLoader(self._view(), collate_fn=identity_collate, **options)

    def _view(self) -> SeededDataset:
        seed = self.sameness.source if self.sameness.seeds_samples else None
        batched = self.batch_sampler is not None
        return SeededDataset(self.dataset, self.collate_fn, seed, batched=batched, source=self.sameness.source)

    def diagnose_crash(self, error: BaseException) -> WorkerDiedError | None:
        """What the machine says about the end of a worker; None for any other error.

        Args:
            error: What torch raised.
        """
        options = f"num_workers={self.num_workers}, prefetch_factor={self.prefetch_factor}"
        return explained(error, options, self._before, probe()) if self.num_workers else None

    def hand_over(self, epoch_pass: EpochPass, delivered: WorkerOutput) -> Any:
        """Give a batch to whoever reads the loader, and remember it.

        Args:
            epoch_pass: The pass it belongs to.
            delivered: The batch, with its number.

        Returns:
            The batch as the user's collate function made it.
        """
        epoch_pass.given += 1
        if epoch_pass.outside_trainer:
            del epoch_pass.asked[delivered.number]
            return delivered.batch
        epoch_pass.fetch = lightning_loops.fetches(self.sameness.trainer())
        indices = epoch_pass.asked.pop(delivered.number)
        if self._pass is not epoch_pass:
            self._pass = epoch_pass
        padded = (
            self.sampler.padded if isinstance(self.sampler, RankSampler) and epoch_pass.given == length_of(self) else 0
        )
        self._last.given = ServedBatch(epoch_pass.epoch, epoch_pass.cycle, delivered.number, indices, padded)
        times, began = delivered.times, epoch_pass.began
        worker = None if times.worker < 0 else times.worker
        slowest_index = None if times.slowest < 0 else indices[times.slowest]
        epoch_pass.fetched = self._last.fetched = LoadedBatch(
            epoch_pass.epoch, delivered.number, times, worker, slowest_index, began
        )
        epoch_pass.began = None
        return delivered.batch

    def _progress(self, epoch_pass: EpochPass, batches: int) -> LoaderProgress:
        own = self._own_sampler
        batch = (self.batch_size or 0) * self.sameness.ranks
        length = length_of(self.dataset) or 0
        in_order = isinstance(self.sampler, SequentialSampler) or (isinstance(own, RankSampler) and not own.shuffle)
        return LoaderProgress(
            seed=self.sameness.seed,
            epoch=epoch_pass.epoch,
            cycle=epoch_pass.cycle,
            batches_consumed=batches,
            samples_consumed=min(batches * batch, length) if own is not None else batches * batch,
            global_batch_size=batch,
            dataset_length=length,
            order="own sampler" if not self._has_fixed_order() else "in order" if in_order else "shuffled",
        )

    def _device(self) -> Any:
        return getattr(getattr(self.sameness.trainer(), "strategy", None), "root_device", None)
