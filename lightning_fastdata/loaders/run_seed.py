"""The seed of a run: given by the user, set by ``seed_everything``, or one number drawn from a random generator.

It is known when the first pass of a run begins, not when a loader is made, so that ``torch.manual_seed`` and a second
fit act as they do with torch's own loaders. The loaders of a run share its numbers in a ``RunSeed``.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data.distributed import DistributedSampler

from lightning_fastdata.compat import lightning_loops
from lightning_fastdata.compat.lightning_loops import Reading
from lightning_fastdata.compat.rank_zero import log_rank_zero
from lightning_fastdata.compat.torch_internals import process_store
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.order import derive_seed
from lightning_fastdata.loaders.rng import PackedGenerator, generators_kept, pack_generator, unpack_generator

__all__ = ["LoaderSeed", "RunSeed", "seed_of_lightning"]

STORE_KEY = "lightning_fastdata/seed"
_fitted: set[int] = set()
"""Seeds of ``seed_everything`` under which this process has trained; they decide about a line in the log alone."""


def seed_of_lightning() -> int | None:
    """The seed of ``seed_everything`` (``PL_GLOBAL_SEED``); None where it was not called."""
    value = os.environ.get("PL_GLOBAL_SEED", "")
    return int(value) if value.isdecimal() else None


def _draw(generator: torch.Generator | None) -> int:
    """One number as torch's DataLoader draws the seed of its workers; None = torch's default generator."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def _next_number(generator: torch.Generator | None) -> int:
    """The number that ``_draw`` would give, read from a copy."""
    copy = torch.Generator()
    copy.set_state((generator or torch.default_generator).get_state())
    return _draw(copy)


def _of_first_rank(number: int, trainer: Any = None) -> int:
    """Rank 0's number instead of each rank's own; all ranks must call this equally often."""
    store = process_store()
    if store is None:
        return number if trainer is None else int(trainer.strategy.broadcast(number))
    rank = torch.distributed.get_rank()
    key = f"{STORE_KEY}/{store.add(f'{STORE_KEY}/calls/{rank}', 1)}"  # the store counts, so no process has to
    if rank == 0:
        store.set(key, str(number))
        return number
    try:
        return int(store.get(key))
    except RuntimeError as error:
        raise FastDataError(
            f"rank {rank} has waited {store.timeout} for rank 0, whose seed decides the order of all ranks.",
            expected="every rank to begin the same passes over its loaders.",
            fix="look at what keeps rank 0, or pass seed=42, which no rank has to wait for.",
        ) from error


@dataclass
class _Number:
    """A number that a run draws once."""

    generator: torch.Generator | None
    """Where it comes from; None = torch's default generator."""
    number: int
    """The number."""
    taken: bool = False
    """Whether the generator has moved on by it, or need not."""
    shared: bool = False
    """Whether all ranks have it."""
    global_seed: bool = False
    """Whether it is that of ``seed_everything``."""


@dataclass
class RunSeed:
    """What the loaders of one call of ``fit``, ``validate``, ``test`` or ``predict`` share."""

    calls: int = 0
    """Calls of the same kind that this Trainer has had before (count)."""
    read: bool = False
    """Whether the Trainer has begun to read a loader."""
    noted: bool = False
    """Whether the line about equal seeds was written."""
    thread: int = field(default_factory=threading.get_ident)
    """The Trainer's; a prefetcher's begins its pass while other ranks may be anywhere, so it waits for none."""
    _numbers: list[_Number] = field(default_factory=list)
    _passes: dict[tuple[Any, ...], list["LoaderSeed"]] = field(default_factory=dict)

    def __reduce__(self) -> Any:  # with the Trainer to another process, where a run of its own begins
        return RunSeed, ()

    @classmethod
    def of(cls, trainer: Any) -> "RunSeed | None":
        """That of the run which a Trainer is in; None without one."""
        run: RunSeed | None = lightning_loops.shared_in_run(
            trainer, lambda before: cls() if before is None else cls(calls=before.calls + 1)
        )
        return run

    def number(self, generator: torch.Generator | None, trainer: Any, reading: Reading) -> int:
        """The number that stays the same for the whole run.

        Args:
            generator: The user's; None = the seed of ``seed_everything``, else torch's default generator.
            trainer: The Trainer whose run this is.
            reading: Who begins a pass. The generator moves on when the Trainer first reads for what the run is for; all
                ranks agree when the Trainer reads at all.
        """
        drawn = next((drawn for drawn in self._numbers if drawn.generator is generator), None)
        several = trainer.world_size > 1
        if drawn is None:
            drawn = self._first(generator, trainer)
            if not several or trainer.global_rank == 0 or reading.by_trainer or drawn.shared:
                self._numbers.append(drawn)
        if several and reading.by_trainer and not drawn.shared and threading.get_ident() == self.thread:
            drawn.number, drawn.shared = _of_first_rank(drawn.number, trainer), True
        if reading.counts and not drawn.taken:
            drawn.taken = True
            if not drawn.global_seed:
                _draw(generator)
            elif trainer.state.fn == "fit":
                _note_again(drawn.number)
        return drawn.number

    def continue_with(self, generator: torch.Generator | None, number: int) -> None:
        """Have the number of a checkpoint, and draw nothing."""
        for drawn in self._numbers:
            if drawn.generator is generator:
                if drawn.number == number:  # a checkpoint of this run, as the learning-rate finder restores it
                    drawn.taken |= generator is None  # which holds that one past the number
                    return
                self._numbers.remove(drawn)
                break
        self._numbers.append(_Number(generator, number, taken=True, shared=True))

    @property
    def untaken(self) -> bool:
        """Whether torch's default generator has yet to move on by its number."""
        return any(drawn.generator is None and not (drawn.taken or drawn.global_seed) for drawn in self._numbers)

    def turn_of(self, seed: "LoaderSeed", key: tuple[Any, ...], *, counts: bool) -> int:
        """How many loaders alike have begun a pass before one that the Trainer does not know (count)."""
        seeds = self._passes.setdefault(key, [])
        if seed in seeds:
            return seeds.index(seed)
        if counts:
            seeds.append(seed)
        return len(seeds) - 1 if counts else len(seeds)

    def _first(self, generator: torch.Generator | None, trainer: Any) -> _Number:
        saved = lightning_loops.waiting_states(trainer)
        if saved and isinstance(saved[0].get("seed"), int):
            return _Number(generator, saved[0]["seed"], taken=True, shared=True)
        number = seed_of_lightning()
        if generator is None and number is not None:
            return _Number(None, number, shared=True, global_seed=True)
        return _Number(generator, _next_number(generator))


def _note_again(seed: int) -> None:
    """One line in the log where a fit repeats the order of another."""
    if seed in _fitted:
        log_rank_zero(
            f"seed_everything({seed}): the training data come in the same order as in the fit before; give seed= to "
            "make them differ."
        )
    _fitted.add(seed)


class LoaderSeed:
    """What one loader draws from; ``int()`` of it is the seed of its order and its samples.

    Args:
        given: The user's ``seed=``, >= 0; None = that of the run.
        name: The loader's name among others of a run, which then draw differently; None = a training loader alone.
        generator: The user's; one number is drawn from it. None = torch's default generator.
    """

    def __init__(
        self, given: int | None = None, *, name: str | None = None, generator: torch.Generator | None = None
    ) -> None:
        self.given, self.name, self.generator = given, name, generator
        self.number = given
        """The seed of the run; None where that is not known yet."""
        self.passes = 0
        """Passes that have begun (count), also those of a loader that Lightning has built again."""
        self.key = name
        """The name in force: among several without one, their place."""
        self._saved: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For another process: with a generator that can be sent."""
        return {**vars(self), "generator": None if self.generator is None else pack_generator(self.generator)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if isinstance(self.generator, PackedGenerator):
            self.generator = unpack_generator(self.generator)

    def __int__(self) -> int:
        number = self.number
        if number is None:  # a sampler is read before its loader
            known = seed_of_lightning() if self.generator is None else None
            number = _next_number(self.generator) if known is None else known
        return derive_seed(number, self.key)

    def continue_with(self, number: int, trainer: Any) -> None:
        """Have the seed of a checkpoint, unless one was given; in a run also for loaders made later."""
        if self.given is None:
            self.number, run = number, RunSeed.of(trainer)
            if run is None:
                self._saved = number
            else:
                run.continue_with(self.generator, number)

    @contextlib.contextmanager
    def taken(self, trainer: Any) -> Iterator[None]:
        """The default generator as a resumed run needs it: past the number, also before the first batch."""
        run = RunSeed.of(trainer)
        if run is None or not run.untaken:
            yield
            return
        with generators_kept():
            _draw(None)
            yield

    def settle(self, trainer: Any, loader: Any, reader: Any = None, *, reads: bool = True) -> int:
        """Find the seed out, when a pass begins.

        Args:
            trainer: The Trainer, or None.
            loader: The loader that has this seed.
            reader: The iterator that begins the pass; None where there is none yet.
            reads: False where no pass begins, but the seed is wanted.

        Returns:
            Runs of the same kind that the Trainer has had before (count).
        """
        run = RunSeed.of(trainer)
        if run is None:
            if self.number is None:
                self.number = _number_alone(self.generator, loader)
            return 0
        reading = lightning_loops.reading_of(trainer, loader, reader) if reads else Reading()
        if self.given is None:
            if self._saved is not None:
                run.continue_with(self.generator, self._saved)
                self._saved = None
            self.number = run.number(self.generator, trainer, reading)
        run.read |= reading.by_trainer
        if reads:
            self.key = self._key_among(run, trainer, reading)
        return run.calls

    def _key_among(self, run: RunSeed, trainer: Any, reading: Reading) -> str | None:
        """The name by which this loader draws other numbers than those beside it."""
        beside = [getattr(getattr(loader, "determinism", None), "seed", None) for loader in reading.beside]
        alike = [other for other in beside if isinstance(other, LoaderSeed) and self._is_alike(other)]
        if self.given is not None:
            if len(alike) > 1 and not run.noted:
                run.noted = True
                log_rank_zero(
                    f"{len(alike)} loaders that are read together were given seed={self.given}: those of equal length "
                    "come in the same order, with the same random numbers. Leave seed= out to make them differ."
                )
            return self.name
        label = self.name or "train"
        if self in beside:
            return self.name if len(alike) == 1 else f"{label}/{beside.index(self)}"
        key = (label, reading.by_trainer, trainer.current_epoch)
        turn = run.turn_of(self, key, counts=not reading.in_finder)
        if not reading.by_trainer:
            return f"{label}, read in a hook/{turn}"
        turn += len(alike)
        return f"{label}, wrapped/{turn}" if turn else self.name

    def _is_alike(self, other: "LoaderSeed") -> bool:
        return (other.given, other.name) == (self.given, self.name)


def _number_alone(generator: torch.Generator | None, loader: Any) -> int:
    """The number of a loader that no Trainer reads."""
    number = seed_of_lightning()
    if generator is None and number is not None:
        return number
    number, sampler = _draw(generator), getattr(loader, "sampler", None)
    if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:  # as Lightning Fabric's
        return _of_first_rank(number)
    return number
