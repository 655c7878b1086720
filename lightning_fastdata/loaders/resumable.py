"""A loader whose batches only the seed decides, and which continues in mid-epoch where it stopped."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any

from torch.utils.data import DataLoader

from lightning_fastdata.compat import lightning_loops, lightning_resume
from lightning_fastdata.compat.rank_zero import log_rank_zero, warn_rank_zero
from lightning_fastdata.compat.torch_internals import stop_workers
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware, probe
from lightning_fastdata.loaders.batch_requests import (
    Batches,
    EpochPass,
    InlineBatches,
    RequestSampler,
    ServedBatch,
    requests_of,
)
from lightning_fastdata.loaders.dataset_traits import DatasetTraits, length_of, traits_of
from lightning_fastdata.loaders.determinism import Determinism, no_trainer, progress_of
from lightning_fastdata.loaders.drawn_order import SamplerDraws
from lightning_fastdata.loaders.planned import PlannedDataLoader, forwarded_arguments, identity_collate
from lightning_fastdata.loaders.progress import LoaderProgress, without_state
from lightning_fastdata.loaders.rng import save_generators
from lightning_fastdata.loaders.samplers import EpochSampler, RankSampler, has_fixed_order
from lightning_fastdata.loaders.seeded_dataset import BatchRequest, RaisedInWorker, ServedDataset, WorkerOutput
from lightning_fastdata.loaders.state.worker_lifetime import WorkerLifetime
from lightning_fastdata.loaders.worker_crash import WorkerDiedError, diagnose_crash
from lightning_fastdata.planning.options import LoaderPlan
from lightning_fastdata.planning.plan import Planning

__all__ = ["ResumableDataLoader"]


class ResumableDataLoader(PlannedDataLoader):
    """A torch DataLoader for map-style data that gives the same batches whatever the workers, ranks and restarts.

    To its user, and to Lightning, it is a DataLoader with the arguments it was made with: ``dataset`` and ``sampler``
    are the user's own, and Lightning may build it again with another sampler. Its batches come from an inner
    DataLoader with the same options, which requests whole batches of a ``SeededDataset`` together with the epoch they
    belong to, so that persistent workers seed each sample rightly.

    The inner loader is made, and its workers start, when the first batch is fetched, not at ``iter()``: Lightning
    calls that before it knows, after a restart, in which epoch it is.

    Args:
        *args: Arguments of torch's DataLoader.
        determinism: What decides the batches.
        planning: What its workers were planned from; None without a plan.
        traits: The traits of the dataset, where they are known.
        **kwargs: Arguments of torch's DataLoader.
    """

    def __init__(
        self,
        *args: Any,
        determinism: Determinism | None = None,
        planning: Planning | None = None,
        traits: DatasetTraits | None = None,
        **kwargs: Any,
    ) -> None:
        self.planning = planning
        self.changes = 0
        """How often its workers were changed (count)."""
        super().__init__(*args, **kwargs)
        self.determinism: Determinism = determinism or Determinism()
        self.traits = traits or traits_of(self.dataset)
        self._inner: DataLoader[Any] | None = None
        self._seed_of_workers = 0
        self._requests = RequestSampler()
        self._pass: EpochPass | None = None
        self._reader: Callable[[], Batches | None] = no_trainer
        self._draws = SamplerDraws()
        self._saved: dict[str, Any] = {}
        self._lifetime = WorkerLifetime.of(self)
        self._hardware_at_start: Hardware | None = None
        """The machine when workers were first started."""

    @property
    def last_served(self) -> ServedBatch | None:
        """The batch served last, its indices as a list; made when it is wanted, for they may be packed until then."""
        served = None if self._pass is None else self._pass.last_served
        if served is None or isinstance(served.indices, list):
            return served
        return served._replace(indices=served.indices.tolist())

    def __getstate__(self) -> dict[str, Any]:
        """For another process, as with ``ddp_spawn``: without the workers and the Trainer of this one."""
        determinism = replace(self.determinism, trainer=no_trainer)
        ours = {"determinism": determinism, "_inner": None, "_reader": no_trainer, "_requests": RequestSampler()}
        return {**super().__getstate__(), **ours, "_lifetime": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lifetime = WorkerLifetime.of(self)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return Batches(self)

    def start_pass(self, reader: Batches) -> tuple[EpochPass, Iterator[WorkerOutput]]:
        """Begin a pass for a reader, when its first batch is wanted: what the pass is, and its batches."""
        started = perf_counter()
        epoch_pass = self._next_pass(reader)
        requests, other = self._requests_of(epoch_pass), self._reader()
        separate = epoch_pass.outside_trainer or (other is not None and other is not reader and not other.finished)
        if separate and not self._loads_inline():
            # Persistent workers can serve one pass at a time, and the other one is in the middle of its own.
            return epoch_pass, iter(self._make_inner(requests, persistent=False))
        if not epoch_pass.outside_trainer:
            self._reader = weakref.ref(reader)
        return epoch_pass, self._start(epoch_pass, requests, started)

    def _start(self, epoch_pass: EpochPass, requests: Iterator[BatchRequest], started: float) -> Iterator[WorkerOutput]:
        """The batches of a pass, from its workers or from this process."""
        if self._loads_inline():
            inner: Iterator[WorkerOutput] = InlineBatches(self._seeded_dataset().__getitems__, requests)
        else:
            self._requests.next_pass = requests
            inner = self._workers_of_pass()
            lightning_loops.keep_iterator(self, inner)
        if not epoch_pass.outside_trainer:
            epoch_pass.startup = started, perf_counter()
        return inner

    def _workers_of_pass(self) -> Iterator[WorkerOutput]:
        """A pass of the inner loader, with the workers of the last one where they hold what the dataset is now."""
        kept = lightning_loops.kept_iterator(self)
        lifetime, planning = self._lifetime, self.planning
        lost = self.num_workers and (lifetime.follows or lifetime.out_of_reach(self.multiprocessing_context))
        if planning is not None and lost:  # workers cannot get what the dataset has become
            stop_workers(kept)
            kept = self.multiprocessing_context = None
            self.num_workers, self.prefetch_factor = 0, None
            vars(self)["persistent_workers"] = False
            self.pin_memory = self.pin_memory and planning.options.pin_memory != "auto"
        if self._inner is not None and self.persistent_workers and kept is not None:
            if not self._lifetime.has_changed() and self._seed_of_workers == self.determinism.source:
                return iter(self._inner)
            stop_workers(kept)
        lightning_loops.forget_iterator(self)
        keep = self.num_workers > 0 and self._lifetime.may_keep(self.persistent_workers)
        began = perf_counter()
        self._inner = self._make_inner(self._requests, persistent=keep)
        inner = iter(self._inner)
        worth = self.num_workers == 0 or self._lifetime.is_worth(perf_counter() - began)
        if keep and not worth and self.planning is not None:  # kept for every later plan
            self.planning = self.planning.without_persistence(self._lifetime.cost)
        vars(self)["persistent_workers"] = keep and worth
        if not self.persistent_workers:
            lightning_loops.forget_iterator(self._inner)  # so that its workers end with the pass
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
            FastDataError: A pass is under way that other workers could not continue; see ``changes_within_pass``.
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
        self.multiprocessing_context = None  # torch takes no start method without workers
        self.num_workers, self.prefetch_factor = plan.num_workers, plan.prefetch_factor
        self.pin_memory = plan.pin_memory
        if plan.num_workers:
            self.multiprocessing_context = plan.multiprocessing_context
        # torch locks this name for a loader that is made; here it says how the inner loader is made.
        vars(self)["persistent_workers"] = plan.persistent_workers
        lightning_loops.forget_iterator(self)
        self._inner, self.changes = None, self.changes + 1

    @property
    def changes_within_pass(self) -> bool:
        """Whether other workers could continue in the middle of a pass with the same batches."""
        return bool(self.in_order) and has_fixed_order(self.sampler, self.batch_sampler)

    def continue_after_change(self, reader: Batches, epoch_pass: EpochPass) -> Iterator[WorkerOutput]:
        """Continue a reader's pass after the workers were changed: the batches from here on."""
        if epoch_pass.outside_trainer or self._reader() is not reader:
            return reader.inner or iter(())  # it has workers of its own
        started = perf_counter()
        stop_workers(reader.inner)
        epoch_pass.first = epoch_pass.served
        epoch_pass.pending.clear()
        return self._start(epoch_pass, self._requests_of(epoch_pass), started)

    def _loads_inline(self) -> bool:
        """Whether this process makes whole batches, for which torch's iterator would be no use."""
        batched = self.batch_sampler is not None and self.traits.batched_fetch
        return batched and self.num_workers == 0 and not self.pin_memory

    def attach_trainer(self, trainer: Any) -> None:
        """Know the Trainer that uses this loader, to ask it for the epoch; it is not kept alive."""
        attached = self.determinism.attached_to(trainer)
        if attached.trainer() is not self.determinism.trainer():
            self._pass = None  # it has trained on nothing of this loader yet
        if attached is self.determinism:  # lent: the other Trainer's teardown must not find the workers of this one
            lightning_loops.forget_iterator(self)
        self.determinism = attached
        if attached.split == "train":
            lightning_resume.take_over(trainer)
        if isinstance(self.sampler, RankSampler):
            self.sampler.rank, self.sampler.dealt = attached.rank, True
            self.sampler.repeats &= not getattr(trainer, "predicting", False)  # a step less harms no prediction

    def state_dict(self) -> dict[str, Any]:
        """Where the model is in this loader's data, for a checkpoint.

        Batches count that the model was trained on, not those prefetched.

        Returns:
            The fields of ``LoaderProgress``, the states of this process's random generators, and how many batches a
            sampler of yours gives.
        """
        trainer = self.determinism.trainer()
        lightning_resume.load_waiting_states(trainer, self)
        if self._saved:  # resumed, and nothing fetched since
            return dict(self._saved)
        if trainer is not None and not lightning_loops.counts_fetches(trainer):
            warn_rank_zero(
                "This Lightning does not show what it has fetched and trained on: a checkpoint in mid-epoch may count "
                "a batch too many, which a resumed run would leave out."
            )
        self.determinism.seed.settle(trainer, self, reads=False)
        last = self._pass or EpochPass(self._epoch())
        if trainer is None and last.finished:  # the next pass is of another epoch
            last = EpochPass(self._epoch())
        ahead = lightning_loops.batches_ahead(trainer, last.fetch, finished=last.finished, step=last.step)
        fields = progress_of(self, last, max(0, last.served - ahead)).to_dict()
        with self.determinism.seed.taken(trainer):
            generators = save_generators(self.determinism.rank, self._device())
        return {**fields, "generators": generators, "sampler_batches": self._draws.epoch_batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint with the next pass, if that is of the epoch it was written in.

        Args:
            state_dict: What ``state_dict`` returned, here or on another rank.

        Raises:
            FastDataError: It was written by something else, in the middle of an epoch, or damaged.
        """
        if "generators" not in state_dict and lightning_resume.between_epochs(self.determinism.trainer()):
            return  # another package's; nothing of its epoch is left
        progress = LoaderProgress.from_dict(state_dict)
        self.determinism.seed.continue_with(progress.seed, self.determinism.trainer())
        self._saved = dict(state_dict)
        self.determinism.seed.passes, batches = progress.epoch, state_dict.get("sampler_batches")
        self._draws.epoch_batches = batches if isinstance(batches, int) else None
        if self._own_sampler is not None:
            self._own_sampler.continue_from(progress.epoch)
        # Once more at the first batch, the last moment before the model draws; but where loaders are remade for each
        # epoch, a checkpoint of an epoch's last step never sees a batch from this loader.
        self.determinism.restore_generators(self._saved, progress, self._device())

    def _next_pass(self, reader: Batches) -> EpochPass:
        """Find out, at the last moment, what a pass is: its epoch, its cycle and the batch it begins with."""
        trainer, own = self.determinism.trainer(), self._own_sampler
        if isinstance(own, RankSampler) and not own.dealt and self.determinism.seed.passes == 0:
            log_rank_zero(own.undealt_in_words(self.dataset))
        if own is not None:
            own.length = length_of(self.dataset) or own.length  # a dataset may grow between epochs
        outside = lightning_loops.reads_outside_trainer(trainer, self, reader)
        if not outside:
            lightning_resume.load_waiting_states(trainer, self)
        self.determinism.begin_pass(self, reader)
        if outside:
            return EpochPass(self._epoch(), outside_trainer=True)
        resumption = lightning_resume.mend_progress(trainer, self, resumed=bool(self._saved))
        if resumption is not None and own is not None:
            own.set_epoch(resumption.epoch)
        epoch_pass, before = EpochPass(self._epoch()), self._pass
        if self._saved:
            self._continue_saved(epoch_pass, resumption)
        elif before is not None and self._restarted_within_epoch(before, epoch_pass):
            epoch_pass.cycle = before.cycle + before.finished
        elif resumption is not None and resumption.counted and resumption.batches:
            epoch_pass.continue_at(*resumption.place_in(length_of(self)))
            warn_rank_zero(without_state(epoch_pass.epoch, resumption.batches))
        self.determinism.seed.passes += 1
        self._pass = epoch_pass
        return epoch_pass

    def _continue_saved(self, epoch_pass: EpochPass, resumption: lightning_resume.Resumption | None) -> None:
        """Begin where a checkpoint's state says."""
        # Under rules 1 a loader had the name that a DataModule gave it, and no other.
        progress = LoaderProgress.from_dict(self._saved, self.determinism.seed.name)
        trainer = self.determinism.trainer()
        if trainer is None and progress.epoch > epoch_pass.epoch:  # Fabric counts from 0 again
            epoch_pass.epoch = progress.epoch
            if self._own_sampler is not None:
                self._own_sampler.epoch = progress.epoch
        done = resumption.batches if resumption is not None and resumption.counted else None
        here, length = progress_of(self, epoch_pass, 0), length_of(self)
        cycle, batches = progress.place_in(here, length, done, in_trainer=trainer is not None)
        epoch_pass.continue_at(cycle, batches)
        lightning_resume.set_fetched(trainer, cycle * (length or 0) + batches)
        self.determinism.restore_generators(self._saved, progress, self._device())
        self._saved = {}

    def _restarted_within_epoch(self, before: EpochPass, epoch_pass: EpochPass) -> bool:
        """Whether a longer loader beside this one is still in the epoch in which this one began."""
        same = self.determinism.split == "train" and before.epoch == epoch_pass.epoch
        return same and lightning_loops.in_mid_epoch(self.determinism.trainer())

    @property
    def _own_sampler(self) -> EpochSampler | RankSampler | None:
        """The sampler if it is one of ours; None for the user's and Lightning's."""
        return self.sampler if isinstance(self.sampler, (EpochSampler, RankSampler)) else None

    def _epoch(self) -> int:
        """The epoch of a pass that begins now."""
        if self.determinism.split != "train":
            return 0 if self.determinism.split == "val" else self.determinism.seed.passes
        if self._own_sampler is not None:
            return self._own_sampler.epoch
        trainer = self.determinism.trainer()
        return self.determinism.seed.passes if trainer is None else int(trainer.current_epoch)

    def _requests_of(self, epoch_pass: EpochPass) -> Iterator[BatchRequest]:
        if self._own_sampler is not None:
            self._own_sampler.cycle = epoch_pass.cycle
            if self.determinism.split in ("test", "predict"):
                self._own_sampler.set_epoch(epoch_pass.epoch)
        packed = self.traits.batched_fetch
        return requests_of(epoch_pass, self.sampler, self.batch_sampler, self._draws, self._source(), packed=packed)

    def _source(self) -> int:
        """The seed that this rank draws from."""
        source, own = self.determinism.source, self.sampler
        return own.seed_of_rank(source) if isinstance(own, RankSampler) else source

    def _make_inner(self, requests: Iterable[BatchRequest], *, persistent: bool) -> DataLoader[Any]:
        if self.num_workers and self._hardware_at_start is None:  # once: reading it takes a tenth of starting a worker
            self._hardware_at_start = probe()
        self._seed_of_workers = self.determinism.source
        options, batched = forwarded_arguments(self), self.batch_sampler is not None
        options |= {"batch_sampler": requests} if batched else {"sampler": requests, "batch_size": None}
        options["persistent_workers"] = persistent and self.num_workers > 0
        options["generator"] = self.determinism.worker_seeds(self._epoch())
        if self.num_workers == 0:  # after a change there may be no more workers to wait for
            options.pop("timeout", None)
        return PlannedDataLoader(self._seeded_dataset(), collate_fn=identity_collate, **options)

    def _seeded_dataset(self) -> ServedDataset:
        source, batched = self._source(), self.batch_sampler is not None
        seed = source if self.determinism.seeds_samples else None
        return ServedDataset(self.dataset, self.collate_fn, seed, batched=batched, source=source, traits=self.traits)

    def diagnose_crash(self, error: BaseException) -> WorkerDiedError | None:
        """What the machine says about the end of a worker, from what torch raised; None for any other error."""
        options = f"num_workers={self.num_workers}, prefetch_factor={self.prefetch_factor}"
        return diagnose_crash(error, options, self._hardware_at_start, probe()) if self.num_workers else None

    def serve(self, epoch_pass: EpochPass, output: WorkerOutput) -> Any:
        """The batch of a worker's output, as the user's collate function made it; remembered as the one served last."""
        if type(output.batch) is RaisedInWorker:
            raise output.batch.noted()
        epoch_pass.served += 1
        indices = epoch_pass.pending.pop(output.number)
        if not epoch_pass.outside_trainer:
            trainer = self.determinism.trainer()
            epoch_pass.count_fetch(lightning_loops.fetches(trainer), lightning_loops.step_of_fetch(trainer))
            self._pass, own = epoch_pass, self.sampler
            if self.num_workers and self.determinism.split == "train" and epoch_pass.served == self._batches_of_pass():
                self._lifetime.end_pass()
            padded = own.padded if isinstance(own, RankSampler) and epoch_pass.served == length_of(self) else 0
            epoch_pass.remember(output, indices, padded)
        return output.batch

    def _batches_of_pass(self) -> float | None:
        """Batches that the Trainer takes of a pass (count); without one, those that there are."""
        trainer = self.determinism.trainer()
        return length_of(self) if trainer is None else getattr(trainer, "num_training_batches", None)

    def _device(self) -> Any:
        return getattr(getattr(self.determinism.trainer(), "strategy", None), "root_device", None)
