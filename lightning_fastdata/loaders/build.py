"""Request + plan -> torch DataLoader: the one module where a DataLoader is made."""

import difflib
import inspect
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, Sampler, default_collate

from lightning_fastdata.compat import lightning_loops
from lightning_fastdata.errors import FastDataError, check_int
from lightning_fastdata.loaders.dataset_traits import DatasetTraits, traits_of
from lightning_fastdata.loaders.determinism import Determinism, no_trainer
from lightning_fastdata.loaders.planned import PlannedDataLoader, identity_collate
from lightning_fastdata.loaders.resumable import ResumableDataLoader
from lightning_fastdata.loaders.run_seed import LoaderSeed, RunSeed
from lightning_fastdata.loaders.samplers import EpochSampler, RankSampler
from lightning_fastdata.loaders.trainer_context import TrainerContext
from lightning_fastdata.planning.options import FIELDS, LoaderOptions, LoaderPlan, Pool, Split
from lightning_fastdata.planning.plan import Planning

__all__ = ["LoaderRequest", "build_loader", "check_kwargs"]


@dataclass(frozen=True)
class LoaderRequest:
    """A loader that a DataModule or ``auto_dataloader`` wants: what it serves, how, and in which run."""

    dataset: Any
    """Any torch dataset, map-style or iterable."""
    split: Split = "train"
    """Which part of the data; training is shuffled unless ``arguments`` say otherwise."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of torch's DataLoader, where the loader options may be "auto"."""
    label: str = "the loader"
    """Names the loader in messages."""
    name: str | None = None
    """Its name among several loaders of the split, which then draw orders of their own; None = the only one."""
    seed: int | None = None
    """The user's, which decides the order and the random numbers of every sample, >= 0; None = that of the run."""
    deterministic: bool = True
    """Whether random generators are seeded for every sample; see ``SeededDataset``."""
    eval_repeats: bool = True
    """Whether validation and test repeat samples so that ranks get equally many."""
    trainer: Any = None
    """The Trainer, or None; the loader asks it for the epoch."""
    context: TrainerContext = field(default_factory=TrainerContext)
    """What is known of the Trainer."""
    loaders: int = 1
    """Loaders of this split (count)."""
    concurrent_pool: bool = False
    """Whether the workers of another split live at the same time."""
    other_pool: Pool | None = None
    """Those workers, where the user has set their number."""
    other_pool_started: bool = False
    """Whether they may have been started already."""

    @property
    def batch_size(self) -> int | None:
        """Samples per batch and rank (count), as Python's int; None without batching or where a sampler batches."""
        size = self.arguments.get("batch_size", 1)
        return None if size is None or self.arguments.get("batch_sampler") is not None else int(size)

    @property
    def drop_last(self) -> bool:
        """Whether an incomplete last batch is left out."""
        return bool(self.arguments.get("drop_last", False))

    @property
    def repeats(self) -> bool:
        """Whether the last global batch is filled up so that ranks get equally many samples."""
        return self.split == "train" or self.eval_repeats

    @property
    def share(self) -> tuple[int, int] | None:
        """(rank, ranks) of this rank's part of the data; None = all of it, or Lightning deals it out."""
        return None if self.split == "predict" else self.context.share  # there Lightning keeps track of the indices


def build_loader(
    request: LoaderRequest,
    plan: LoaderPlan,
    *,
    traits: DatasetTraits | None = None,
    planning: Planning | None = None,
) -> PlannedDataLoader:
    """Build the loader that a plan describes.

    Args:
        request: The loader that is wanted.
        plan: The decided options.
        traits: The traits of the dataset, where they are known.
        planning: What the plan was made from; None where no other plan will be made.

    Returns:
        The loader, a torch ``DataLoader``: one that resumes in mid-epoch, unless the dataset is iterable.
    """
    dataset, context, traits = request.dataset, request.context, traits or traits_of(request.dataset)
    decided = (*FIELDS, "batch_size", "drop_last", "shuffle")
    kwargs = plan.as_kwargs() | {name: value for name, value in request.arguments.items() if name not in decided}
    if plan.num_workers == 0:
        _leave_out_timeout(plan, kwargs)
    # A collate function of the user's may draw random numbers too, MixUp for instance.
    collates_own = kwargs.get("collate_fn") not in (None, identity_collate, default_collate)
    RunSeed.of(request.trainer)  # a loader that the user wraps is not shown to Lightning
    name = request.name or (None if request.split == "train" else request.split)
    determinism = Determinism(
        seed=LoaderSeed(request.seed, name=name, generator=kwargs.get("generator")),
        split=request.split,
        seeds_samples=request.deterministic and (traits.uses_global_rng or traits.accepts_seeds or collates_own),
        ranks=request.share[1] if request.share else 1,
        rank=context.rank,
        trainer=no_trainer if request.trainer is None else weakref.ref(request.trainer),
    )
    if kwargs.get("batch_sampler") is None:
        kwargs.update(batch_size=request.batch_size, drop_last=request.drop_last)
        if kwargs.get("sampler") is None and not traits.is_iterable:
            kwargs["sampler"] = _sampler(request, determinism.seed)
    if traits.is_iterable:
        if "shuffle" in request.arguments:  # torch refuses it, and hands it on to a datapipe
            kwargs["shuffle"] = request.arguments["shuffle"]
        return PlannedDataLoader(dataset, determinism=determinism, **kwargs)
    return ResumableDataLoader(dataset, determinism=determinism, planning=planning, traits=traits, **kwargs)


def _sampler(request: LoaderRequest, seed: LoaderSeed) -> Sampler[int] | None:
    length, epoch = _length(request.dataset), request.context.epoch
    shuffle = bool(request.arguments.get("shuffle", request.split == "train"))
    if request.share is None:
        return EpochSampler(length, seed, epoch) if shuffle else None
    rank, ranks = request.share
    deal = {"drop_last": request.drop_last, "repeats": request.repeats}
    sampler = RankSampler(
        length, seed, ranks, rank, batch_size=request.batch_size or 1, shuffle=shuffle, epoch=epoch, **deal
    )
    sampler.dealt = request.trainer is None or not lightning_loops.checks_loaders()  # else once the Trainer takes it
    return sampler


def _leave_out_timeout(plan: LoaderPlan, kwargs: dict[str, Any]) -> None:
    """A timeout without workers stops torch; the machine decides whether there are any under "auto"."""
    timeout = kwargs.pop("timeout", 0)
    if timeout and plan.reasons["num_workers"].source == "user":
        raise FastDataError(
            f"num_workers=0 together with timeout={timeout!r}.",
            expected="a timeout only with worker processes: it is how long to wait for one.",
            fix='pass num_workers="auto" (or at least 1), or leave timeout out.',
        )


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except TypeError as error:
        raise FastDataError(
            f"{type(dataset).__name__} has no length, so its samples cannot be numbered.",
            expected="a dataset with __len__, or a sampler of your own.",
            fix="add __len__, or make it an IterableDataset.",
        ) from error


def check_kwargs(kwargs: Mapping[str, Any], world_size: int = 1) -> LoaderOptions:
    """Refuse loader arguments that cannot work, or that Lightning would silently turn into something else.

    Args:
        kwargs: Arguments for ``torch.utils.data.DataLoader``.
        world_size: Ranks of the run (count).

    Returns:
        The loader options among them; those not named are "auto".

    Raises:
        FastDataError: An unknown name, the dataset, a value torch would refuse, two that exclude each other, or a
            plain BatchSampler under several ranks.
    """
    known = set(inspect.signature(DataLoader.__init__).parameters) - {"self", "dataset"}
    for name in kwargs:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            raise FastDataError(
                f"dataloader_kwargs has {name!r}.",
                expected=f"an argument of torch's DataLoader other than dataset: {', '.join(sorted(known))}.",
                fix=f"did you mean {' or '.join(near)}?" if near else "remove it.",
            )
    options = LoaderOptions(**{name: kwargs[name] for name in FIELDS if name in kwargs})
    _check_batching(kwargs)
    if world_size > 1 and type(kwargs.get("batch_sampler")) is BatchSampler:
        raise FastDataError(
            f"a plain torch BatchSampler on {world_size} ranks.",
            expected="a subclass of BatchSampler: Lightning rebuilds the plain class as batches of one sample.",
            fix="`class MyBatchSampler(BatchSampler): pass` is enough, or pass batch_size and sampler instead.",
        )
    return options


def _check_batching(kwargs: Mapping[str, Any]) -> None:
    check_int("batch_size", kwargs.get("batch_size", 1), 1, allow=(None,))
    timeout = kwargs.get("timeout", 0)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout < 0:
        raise FastDataError(f"timeout={timeout!r}.", expected="seconds, >= 0.", fix="pass timeout=60, or leave it out.")
    for name, excluded in (
        ("batch_sampler", ("batch_size", "shuffle", "sampler", "drop_last")),
        ("sampler", ("shuffle",)),
    ):
        for other in excluded if kwargs.get(name) is not None else ():
            if kwargs.get(other):
                raise FastDataError(
                    f"{name} together with {other}={kwargs[other]!r}.",
                    expected=f"one of the two: a {name} decides that itself.",
                    fix=f"leave out {other}.",
                )
