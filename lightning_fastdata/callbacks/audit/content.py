"""Which bytes a batch held: one word a sample, whatever the structure of the batch.

A batch is first brought into a normal form of dicts, lists, blocks of bytes and text. What runs along the batch
dimension is then hashed sample by sample, all fields of a sample together, so that a swapped label shows; the rest is
hashed as a whole.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from lightning_fastdata.callbacks.audit.digest import NotMeasured
from lightning_fastdata.loaders.splitmix import Words

__all__ = ["content_words"]


@dataclass(frozen=True)
class Block:
    """An array as plain bytes."""

    dtype: str
    """Name of the dtype, the same for NumPy and torch."""
    shape: tuple[int, ...]
    """Shape of the array."""
    data: npt.NDArray[np.uint8]
    """Its bytes in C order, uint8, shape (bytes,)."""

    def __getitem__(self, number: int) -> "Block":
        """One entry along the first dimension."""
        width = self.data.size // self.shape[0]
        return Block(self.dtype, self.shape[1:], self.data[number * width : (number + 1) * width])


Node: TypeAlias = "dict[str, Any] | list[Any] | Block | str"
"""The normal form; dicts and lists hold nodes, text is the ``repr`` of anything else."""


def block_of(leaf: Any) -> Block | None:
    """The bytes of a tensor, an array or a NumPy scalar; None for anything else.

    Args:
        leaf: Part of a batch. A tensor on a device is copied to the CPU, which waits for the device. Arrays of objects
            or of text are none: their bytes are addresses, or padded to the longest of the batch.

    Raises:
        NotMeasured: A sparse, nested or quantized tensor, whose bytes stand elsewhere.
    """
    if isinstance(leaf, torch.Tensor):
        if leaf.layout != torch.strided or leaf.is_nested or leaf.is_quantized:
            kind = f"{leaf.layout}, {leaf.dtype}"
            raise NotMeasured(f"a batch holds a tensor that is sparse, nested or quantized ({kind})")
        # Subclasses, as torchvision's, may answer the calls below with more of themselves.
        plain = leaf.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg().cpu().contiguous()
        data = plain.reshape(-1).view(torch.uint8).numpy()
        return Block(str(plain.dtype).removeprefix("torch."), tuple(plain.shape), data)
    if not isinstance(leaf, (np.ndarray, np.generic)) or leaf.dtype.hasobject or leaf.dtype.kind in "SUT":
        return None
    array = np.asarray(leaf)
    return Block(str(array.dtype), array.shape, np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def content_words(batch: Any, samples: int = 0, repeats: int = 0) -> tuple[Words, int | None]:
    """Hash the bytes of a batch.

    Args:
        batch: What the training step gets: arrays in any structure of mappings, lists, tuples and dataclasses.
        samples: Samples in it (count), where that is known; 0, or a number that nothing in it has, takes the first
            dimension of the first array.
        repeats: Samples after those, which are left out (count).

    Returns:
        One word for each sample, and one more for what belongs to no single sample, uint64, shape (words,); and the
        samples (count), None where that is not known.

    Raises:
        NotMeasured: Part of the batch has no content that a second run could give again.
    """
    tree = _normal(batch)
    size: int | None = samples + repeats
    if not size or not _has_length(tree, size):  # unreadable samples may have been left out
        size, repeats = _first_dimension(tree), 0
    leaves = list(_leaves(tree, "", size))
    rows = [(path, leaf) for path, leaf, by_sample in leaves if by_sample]
    kept = None if size is None else size - repeats
    words = [_word([(path, leaf[number]) for path, leaf in rows]) for number in range(kept or 0) if rows]
    if whole := [(path, leaf) for path, leaf, by_sample in leaves if not by_sample]:
        words.append(_word(whole))
    return np.array(words, dtype=np.uint64), kept


def _normal(node: Any) -> Node:
    block = block_of(node)
    if block is not None:
        return block
    if isinstance(node, Mapping):
        # Sorted: two runs may have filled the dict in another order.
        return {repr(key): _normal(node[key]) for key in sorted(node, key=repr)}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return _normal(dict(zip(node._fields, node, strict=True)))
    if isinstance(node, (list, tuple)):
        return [_normal(value) for value in node]
    if isinstance(node, (set, frozenset)):
        return sorted(repr(value) for value in node)
    if isinstance(node, np.ndarray):
        return _normal(node.tolist())
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return _normal({field.name: getattr(node, field.name) for field in dataclasses.fields(node)})
    plain_repr: Any = object.__repr__  # shows nothing but an address
    if type(node).__repr__ is plain_repr and hasattr(node, "__dict__"):
        return _normal(vars(node))
    return _text(node)


def _text(node: Any) -> str:
    text = repr(node)
    if " at 0x" in text:
        raise NotMeasured(f"a batch holds a {type(node).__name__}, which shows an address instead of its content")
    return text


def _parts(node: Node) -> list[Any]:
    """The nodes within a dict or a list."""
    return list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []


def _first_dimension(node: Node) -> int | None:
    """Samples in a batch whose loader does not say: the length of the first array, or of the first list of texts."""
    if isinstance(node, Block):
        return node.shape[0] if node.shape else None
    first = next((size for part in _parts(node) if (size := _first_dimension(part)) is not None), None)
    if first is None and isinstance(node, list) and node and all(isinstance(part, str) for part in node):
        return len(node)
    return first


def _has_length(node: Node, samples: int) -> bool:
    if isinstance(node, Block):
        return node.shape[:1] == (samples,)
    return (isinstance(node, list) and len(node) == samples) or any(_has_length(part, samples) for part in _parts(node))


def _leaves(node: Node, path: str, samples: int | None) -> Iterator[tuple[str, Any, bool]]:
    """Path, part, and whether the part has an entry for each sample."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}/{key}", samples)
    elif isinstance(node, list) and not _is_by_sample(node, samples):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{path}/{number}", samples)
    else:
        by_sample = isinstance(node, list) or (isinstance(node, Block) and node.shape[:1] == (samples,))
        yield path, node, by_sample


def _is_by_sample(parts: list[Any], samples: int | None) -> bool:
    """Whether a list has an entry for each sample; in doubt it holds fields, as a collated [inputs, labels] does."""
    if len(parts) != samples:
        return False
    if any(isinstance(part, list) and len(part) == samples for part in parts):
        return False
    blocks = [block for part in parts for block in _blocks(part)]
    return not blocks or any(block.shape[:1] != (samples,) for block in blocks)


def _blocks(node: Node) -> Iterator[Block]:
    if isinstance(node, Block):
        yield node
    for part in _parts(node):
        yield from _blocks(part)


def _word(parts: list[tuple[str, Node]]) -> int:
    digest = blake2b(digest_size=8)
    for path, node in parts:
        digest.update(f"{len(path)}:{path}".encode())
        _feed(digest.update, node)
    return int.from_bytes(digest.digest(), "little")


def _feed(update: Callable[[Any], None], node: Node) -> None:
    """Hand a node to a hash, with lengths and kinds before the content, so that no two nodes look alike."""
    if isinstance(node, Block):
        update(f"block {node.dtype} {node.shape}:".encode())
        update(np.ascontiguousarray(node.data))
    elif isinstance(node, str):
        text = node.encode(errors="surrogatepass")
        update(f"text {len(text)}:".encode())
        update(text)
    elif isinstance(node, dict):
        update(f"dict {len(node)}:".encode())
        for key, value in node.items():
            _feed(update, key)
            _feed(update, value)
    else:
        update(f"list {len(node)}:".encode())
        for value in node:
            _feed(update, value)
