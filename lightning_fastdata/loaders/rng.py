"""The global random generators of Python, NumPy and torch: seeded for a while, saved, and put back."""

import contextlib
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = [
    "PackedGenerator",
    "generators_kept",
    "isolated_draws",
    "load_generators",
    "pack_generator",
    "random_state",
    "save_generators",
    "seed_generators",
    "seeded_generators",
    "set_random_state",
    "unpack_generator",
]


class PackedGenerator(NamedTuple):
    """A ``torch.Generator`` on its way to another process.

    torch sends the state of a generator through shared memory, which is gone before the process that is started by
    ``spawn`` looks for it.
    """

    device: str
    """Where it draws."""
    state: bytes
    """Its state."""


def pack_generator(generator: torch.Generator) -> PackedGenerator:
    """A generator in a form that any process can be sent."""
    return PackedGenerator(str(generator.device), generator.get_state().numpy().tobytes())


def unpack_generator(packed: PackedGenerator) -> torch.Generator:
    """A generator that draws what the one that was packed would draw next."""
    state = torch.frombuffer(bytearray(packed.state), dtype=torch.uint8)
    return torch.Generator(packed.device).set_state(state)


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


def random_state() -> dict[str, Any]:
    """The state of the three global generators."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.default_generator.get_state(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the three global generators into a state that ``random_state`` returned."""
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
        saved: What it returned.
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


def isolated_draws(source: Iterable[Any], word: int) -> Iterator[Any]:
    """Draw from an iterable that may use the global generators, which have states of their own in the meantime.

    Args:
        source: A sampler without a length, which may never end: it can only be drawn step by step.
        word: 64 bits that the generators are seeded from at its beginning.

    Yields:
        What the source yields.
    """
    with seeded_generators(word):
        iterator = iter(source)
        inside = random_state()
    while True:
        with generators_kept():
            set_random_state(inside)
            try:
                item = next(iterator)
            except StopIteration:
                return
            inside = random_state()
        yield item


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Put the three global generators back afterwards."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


@contextlib.contextmanager
def seeded_generators(word: int) -> Iterator[None]:
    """Seed the three global generators for a while, and put them back.

    Args:
        word: 64 bits.
    """
    with generators_kept():
        seed_generators(word)
        yield
