"""Random generators that a dataset, its transforms and its collate function hold: found, and seeded for each sample."""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch

from lightning_fastdata.loaders.rng import generators_kept, seed_generators
from lightning_fastdata.loaders.splitmix import mix
from lightning_fastdata.loaders.state.attributes import FEW_ITEMS, MAPPINGS, MOST_OBJECTS, SEQUENCES, AttributeWalk
from lightning_fastdata.loaders.state.snapshot import GENERATORS

__all__ = ["FoundGenerators", "HeldGenerator", "HeldGenerators", "find_generators"]

LATER_OBJECTS = 2_000
"""Objects that are looked at once more after the first batch (count): what a sample makes lies near the surface."""
NAMED = 3
"""Generators that a line names (count)."""
INCREMENT = 0x5851F42D4C957F2D14057B7EF767814F
"""The increment of PCG64's own authors; any odd one would do."""


class HeldGenerator(NamedTuple):
    """One generator, and how its numbers are decided."""

    path: str
    """How to get there: ``dataset.transform.random_generator``."""
    source: Any
    """The generator, of NumPy's the bit generator within it."""
    word: int
    """64 bits of the path, which keep its numbers apart from those of the others."""
    seed: Callable[[int], object]
    """Seeds it from 64 bits."""
    save: Callable[[], Callable[[], object]]
    """Remembers its state; what is returned puts it back."""


@dataclass(frozen=True)
class FoundGenerators:
    """What one walk found."""

    derived: tuple[HeldGenerator, ...] = ()
    """Those whose numbers seed, epoch and sample decide."""
    left_alone: tuple[str, ...] = ()
    """Those that go on by themselves: ``dataset.rng (SystemRandom)``."""
    not_searched: tuple[str, ...] = ()
    """What was not looked through whole, and may hold more."""

    def lines(self) -> tuple[str, ...]:
        """What a person should know, a line each; none where nothing was found."""
        texts = {
            "seed, epoch and sample decide the numbers, a seed of its own has no effect (deterministic=False gives "
            "it one)": [one.path for one in self.derived],
            "random numbers that no seed here decides": self.left_alone,
            "not searched whole for random generators": self.not_searched,
        }
        return tuple(f"{_listed(paths)}: {text}" for text, paths in texts.items() if paths)


class HeldGenerators:
    """The generators that some parts hold, in the process that loads: looked for once in each pass.

    Args:
        parts: Where they are looked for, by name: the dataset, the collate function.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = parts
        self.derived: tuple[HeldGenerator, ...] = ()
        """Those of this pass."""
        self.seed: Callable[[int], object] = seed_generators
        """Seeds the global generators and these, from 64 bits."""
        self._seeds: tuple[tuple[int, Callable[[int], object]], ...] = ()
        self._last: tuple[int, int, int] | None = None
        self.looks_again = False
        """Whether to ask ``has_more`` after the batch that is about to be loaded."""

    def __reduce__(self) -> Any:
        return type(self), (self.parts,)  # each process finds its own

    def follow(self, epoch: int, cycle: int, number: int) -> None:
        """Look for generators where a pass begins.

        Args:
            epoch: Epoch of the batch that is about to be loaded.
            cycle: How often the loader has restarted within the epoch (count).
            number: Which batch of the epoch it is, from 0.
        """
        last, self._last = self._last, (epoch, cycle, number)
        if last is None or last[:2] != (epoch, cycle) or number <= last[2]:
            self._use(find_generators(self.parts).derived)
            self.looks_again = last is None

    def has_more(self) -> bool:
        """Whether loading the first batch has made a generator, which could not be seeded before: load it again."""
        self.looks_again = False
        known = {id(one.source) for one in self.derived}
        made = [one for one in find_generators(self.parts, most=LATER_OBJECTS).derived if id(one.source) not in known]
        self._use(tuple({one.path: one for one in (*self.derived, *made)}.values()))
        return bool(made)

    def kept(self) -> contextlib.AbstractContextManager[None]:
        """Put these generators, and the global ones, back afterwards."""
        return self._all_kept() if self.derived else generators_kept()

    @contextlib.contextmanager
    def _all_kept(self) -> Iterator[None]:
        put_back = [one.save() for one in self.derived]
        with generators_kept():
            try:
                yield
            finally:
                for back in put_back:
                    back()

    def _use(self, derived: tuple[HeldGenerator, ...]) -> None:
        self.derived, self._seeds = derived, tuple((one.word, one.seed) for one in derived)
        self.seed = self._seed_all if derived else seed_generators

    def _seed_all(self, word: int) -> None:
        seed_generators(word)
        for own, seed in self._seeds:
            seed(mix(word + own))


def find_generators(parts: Mapping[str, Any], *, most: int = MOST_OBJECTS) -> FoundGenerators:
    """Find the random generators that some parts hold. None of the user's code runs.

    Args:
        parts: What is looked at, by name: ``{"dataset": dataset}``.
        most: Objects that are looked at (count).

    Returns:
        Each generator once, by the first path to it; without the global ones of Python, NumPy and torch.
    """
    walk = AttributeWalk({name: part for name, part in parts.items() if part is not None}, most=most)
    derived: dict[str, HeldGenerator] = {}
    left_alone, not_searched, unordered, long = list[str](), list[str](), list[str](), list[str]()
    seen = {id(one) for one in _global_generators()}
    path = ""
    try:
        for path, value in walk:
            if issubclass(type(value), (set, frozenset)):
                unordered.append(path)
            elif _is_long(value):
                long.append(path)
            for at, generator in _generators_at(path, value):
                source = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
                if id(source) in seen:
                    continue
                seen.add(id(source))
                not_searched += [one for one in long if at.startswith(f"{one}[") and one not in not_searched]
                ways = None if any(at.startswith(f"{one}[") for one in unordered) else _ways(source)
                if ways is None:
                    left_alone.append(f"{at} ({type(generator).__name__})")
                    continue
                while at in derived:  # the defaults of a function share a path
                    at += "'"
                derived[at] = HeldGenerator(at, source, _word_of(at), *ways)
    except Exception:  # a proxy, a container that another thread changes
        not_searched.append(path)
    stopped_at = () if walk.stopped_at is None else (walk.stopped_at,)
    return FoundGenerators(tuple(derived.values()), tuple(left_alone), (*not_searched, *stopped_at))


def _global_generators() -> tuple[Any, ...]:
    methods: tuple[Any, ...] = (random.random, np.random.random)
    numpy_random: Any = np.random  # its stubs lack the name
    return *(one.__self__ for one in methods), numpy_random.get_bit_generator(), torch.default_generator


def _generators_at(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A generator itself; of a class its attributes, those of libraries too, which the walk does not follow."""
    if issubclass(type(value), GENERATORS):  # isinstance would ask a proxy for its class
        yield path, value
    elif issubclass(type(value), type):
        for base in value.__mro__:
            yield from (
                (f"{path}.{name}", one) for name, one in vars(base).items() if issubclass(type(one), GENERATORS)
            )


def _is_long(value: Any) -> bool:
    """Whether it is a container that the walk looks through in part."""
    kind: Any = next((kind for kind in (*SEQUENCES, *MAPPINGS) if issubclass(type(value), kind)), None)
    return kind is not None and kind.__len__(value) > FEW_ITEMS


def _word_of(path: str) -> int:
    return int.from_bytes(blake2b(path.encode(), digest_size=8).digest(), "little")


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more


def _ways(source: Any) -> tuple[Callable[[int], object], Callable[[], Callable[[], object]]] | None:
    """How a generator is seeded from 64 bits, and saved; None for one with ways of its own.

    A Mersenne Twister of NumPy's or torch's takes 32 bits of them, as the global ones do: more would cost 8 us.
    """
    if isinstance(source, random.Random):
        if not _is_usual(source, random.Random, "seed", "random", "getrandbits", "getstate", "setstate"):
            return None
        return source.seed, lambda: partial(source.setstate, source.getstate())
    if isinstance(source, torch.Generator):
        if source.device.type != "cpu" or not _is_usual(source, torch.Generator, "manual_seed", "get_state"):
            return None
        return source.manual_seed, lambda: partial(source.set_state, source.get_state())
    if isinstance(source, np.random.RandomState):
        usual = _is_usual(source, np.random.RandomState, "seed", "get_state", "set_state")
        if not usual or _state_of(source)["bit_generator"] != "MT19937":
            return None
        return lambda word: source.seed(word >> 32), lambda: partial(source.set_state, _state_of(source))
    if type(source) is np.random.MT19937:
        around = np.random.RandomState(source)
        return lambda word: around.seed(word >> 32), lambda: partial(setattr, source, "state", _state_of(around))
    return _ways_of_words(source)


def _is_usual(source: Any, base: type, *names: str) -> bool:
    return all(getattr(type(source), name) is getattr(base, name) for name in names)


def _state_of(source: np.random.RandomState) -> dict[str, Any]:
    """Its state. NumPy sets the 624 words one by one: from a list in 2 us, from an array in 35."""
    state: Any = source.get_state(legacy=False)
    if "key" in state["state"]:
        state["state"]["key"] = state["state"]["key"].tolist()
    return dict(state)


def _ways_of_words(bits: Any) -> tuple[Callable[[int], object], Callable[[], Callable[[], object]]] | None:
    """For bit generators whose state is a few words."""
    state_of = STATES.get(type(bits))
    if state_of is None:
        return None
    fresh = type(bits)(0).state

    def seed(word: int) -> None:
        fresh["state"] = state_of(word)
        bits.state = fresh

    return seed, lambda: partial(setattr, bits, "state", bits.state)


def _pcg_state(word: int) -> dict[str, Any]:
    return {"state": word << 64 | mix(word), "inc": INCREMENT}


def _philox_state(word: int) -> dict[str, Any]:
    return {"counter": (0, 0, 0, 0), "key": (word, mix(word))}


def _sfc_state(word: int) -> dict[str, Any]:
    second = mix(word)
    return {"state": np.array((word, second, mix(second), 1), dtype=np.uint64)}


STATES: Mapping[type, Callable[[int], dict[str, Any]]] = {
    np.random.PCG64: _pcg_state,
    np.random.PCG64DXSM: _pcg_state,
    np.random.Philox: _philox_state,
    np.random.SFC64: _sfc_state,
}
"""The inner state for 64 bits, by the exact type."""
