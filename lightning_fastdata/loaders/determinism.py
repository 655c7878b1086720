"""What decides the batches of a loader, beside its dataset and its sampler."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.dataset_traits import length_of
from lightning_fastdata.loaders.order import RANK, loader_seed, stream
from lightning_fastdata.loaders.progress import FROM_AN_EPOCHS_END, RULES, LoaderProgress
from lightning_fastdata.loaders.rng import load_generators, seed_generators
from lightning_fastdata.loaders.run_seed import LoaderSeed, RunSeed
from lightning_fastdata.loaders.samplers import EpochSampler, RankSampler, order_kind
from lightning_fastdata.loaders.splitmix import mix
from lightning_fastdata.planning.options import Split

__all__ = ["Determinism", "no_trainer", "progress_of"]


def no_trainer() -> None:
    """The Trainer of a loader that has none."""


@dataclass(frozen=True)
class Determinism:
    """The seed of a loader, how it varies by epoch and rank, and the Trainer that knows the epoch."""

    seed: LoaderSeed = field(default_factory=LoaderSeed)
    """The seed, which may not be known before the first pass."""
    split: Split = "train"
    """What the loader is for. Epochs of training differ, and so do passes of testing and prediction; each pass of
    validation has the random numbers of epoch 0."""
    seeds_samples: bool = True
    """Whether every sample gets its own random numbers; False leaves the generators alone."""
    ranks: int = 1
    """Ranks that share a global batch (count)."""
    rank: int = 0
    """Global rank of this process."""
    trainer: Callable[[], Any] = field(default=no_trainer, compare=False)
    """Returns the Trainer, or None without one; a loader does not keep its Trainer alive."""

    @property
    def source(self) -> int:
        """The seed this loader draws from."""
        return int(self.seed)

    def worker_seeds(self, epoch: int) -> torch.Generator:
        """What torch draws the seeds of its workers from in one pass.

        A generator of its own: torch's default one would be moved on by so many numbers as there are passes and starts
        of workers, and dropout and initialization with it.

        Args:
            epoch: Epoch of the run, from 0.
        """
        word = loader_seed(self.source, epoch, self.rank) + self.seed.passes
        return torch.Generator().manual_seed(mix(word) >> 1)

    def begin_pass(self, loader: Any, reader: Any) -> None:
        """Find the seed out, and how many passes a test or a prediction has had."""
        calls = self.seed.settle(self.trainer(), loader, reader)
        if self.split in ("test", "predict"):
            self.seed.passes = max(self.seed.passes, calls)

    def attached_to(self, trainer: Any) -> "Determinism":
        """The same with a Trainer; one that is in the middle of a run keeps the loader it lends to another.

        Args:
            trainer: The Trainer that is about to read the loader.
        """
        RunSeed.of(trainer)  # a new run begins where no loop of the Trainer has an iterator yet
        current = self.trainer()
        state = getattr(current, "state", None)
        if current is not None and current is not trainer and getattr(state, "status", None) == "running":
            return self
        # A loader that was made before the ranks were started has the rank of the process that starts them.
        return replace(self, trainer=weakref.ref(trainer), rank=getattr(trainer, "global_rank", self.rank))

    def restore_generators(
        self, saved: Mapping[str, Any], progress: LoaderProgress, device: torch.device | None
    ) -> None:
        """Continue with the training process's random numbers that followed when a checkpoint was written.

        Args:
            saved: The loader's state in the checkpoint. Its ``generators`` are those of rank 0, for Lightning saves no
                other; without them nothing is restored.
            progress: Where the checkpoint was written.
            device: The model's device.

        Raises:
            FastDataError: They were damaged.
        """
        generators = saved.get("generators")
        if generators is None:
            return
        try:
            if generators["rank"] == self.rank:
                load_generators(generators, device)
                return
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise FastDataError(
                f"the checkpoint's states of random generators cannot be read ({type(error).__name__}: {error}).",
                expected="what this package wrote.",
                fix=f"the checkpoint was damaged or edited: {FROM_AN_EPOCHS_END}.",
            ) from error
        # Another rank draws neither the numbers of rank 0 nor those of the run's start.
        start = stream(self.source, progress.epoch, progress.batches_consumed)
        seed_generators(mix(mix(start + RANK) + self.rank))


def progress_of(loader: Any, epoch_pass: Any, batches: int) -> LoaderProgress:
    """Where a loader is.

    Args:
        loader: A ``ResumableDataLoader``.
        epoch_pass: The ``EpochPass`` that it is in.
        batches: Batches of it that the model was trained on (count).
    """
    determinism, length = loader.determinism, length_of(loader.dataset) or 0
    batch = (loader.batch_size or 0) * determinism.ranks
    own = isinstance(loader.sampler, (EpochSampler, RankSampler))
    return LoaderProgress(
        seed=determinism.seed.number or 0,
        epoch=epoch_pass.epoch,
        cycle=epoch_pass.cycle,
        batches_consumed=batches,
        samples_consumed=min(batches * batch, length) if own else batches * batch,
        global_batch_size=batch,
        dataset_length=length,
        order=order_kind(loader.sampler, loader.batch_sampler),
        rules=RULES,
        name=determinism.seed.key,
    )
