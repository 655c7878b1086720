"""Lists of a million paths and labels that all workers share: two arrays instead of a million objects.

A Python list of paths costs some 150 bytes each, and every worker that looks at an entry writes to its reference
count, so that forked workers soon have copies of their own. Here the text lies in one tensor: forked workers share it,
and torch puts it into shared memory when it is sent to a spawned one.
"""

import copy
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["PackedLabels", "PackedPaths", "PathsBuilder"]

T = TypeVar("T", str, int)
P = TypeVar("P", bound="Packed[Any]")


class Packed(Sequence[T], Generic[T]):
    """A read-only sequence over tensors, of which it may be a choice.

    Besides numbers and slices it takes arrays of indices, and it equals any sequence with the same entries.

    """

    _chosen: torch.Tensor | None = None
    """Which entries, int64; None = all."""

    def _all(self) -> int:
        """Entries that there are to choose from (count)."""
        raise NotImplementedError

    def _entry(self, position: int) -> T:
        raise NotImplementedError

    def _tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(value for value in vars(self).values() if isinstance(value, torch.Tensor))

    def __len__(self) -> int:
        return self._all() if self._chosen is None else len(self._chosen)

    def position(self, number: int) -> int:
        """Position of an entry among all that there are to choose from.

        Args:
            number: Its position in this sequence, from its end if it is negative.

        Raises:
            IndexError: There is no such entry.
        """
        length = len(self)
        if not -length <= number < length:
            raise IndexError(f"entry {number} of {length}")
        number %= length
        return number if self._chosen is None else int(self._chosen[number])

    def take(self: P, numbers: Any) -> P:
        """Some entries, as a sequence over the same tensors.

        Args:
            numbers: Their positions, whole numbers.
        """
        positions = torch.as_tensor(np.asarray(numbers, dtype=np.int64))
        made = copy.copy(self)
        made._chosen = positions if self._chosen is None else self._chosen[positions]
        return made

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> "Packed[T]": ...
    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return self.take(np.arange(len(self))[number])
        try:
            return self._entry(self.position(operator.index(number)))
        except TypeError:  # an array or a list, of numbers or of truth values
            return self.take(np.arange(len(self))[np.asarray(number)])

    def __iter__(self) -> Iterator[T]:
        return (self._entry(self.position(number)) for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        if len(self) != len(other):
            return False
        return self._is_like(other) or all(map(operator.eq, self, other))

    def _is_like(self, other: object) -> bool:
        """Whether the tensors are equal: so are a million entries, then, in some milliseconds."""
        if type(other) is not type(self) or vars(self).get("root") != vars(other).get("root"):
            return False
        ours, theirs = self._tensors(), other._tensors()
        return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(repr(self[number]) for number in range(min(3, len(self))))
        return f"{type(self).__name__}([{shown}{', ...' if len(self) > 3 else ''}], {len(self)} entries)"


class PackedLabels(Packed[int]):
    """Class numbers, four bytes each.

    Args:
        numbers: int32, shape (entries,).
    """

    def __init__(self, numbers: torch.Tensor) -> None:
        self._numbers = numbers

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        numbers = self.tensor().numpy()
        return numbers if dtype is None else numbers.astype(dtype)

    def tensor(self) -> torch.Tensor:
        """All of them, int64, shape (entries,)."""
        return (self._numbers if self._chosen is None else self._numbers[self._chosen]).long()

    def _all(self) -> int:
        return len(self._numbers)

    def _entry(self, position: int) -> int:
        return int(self._numbers[position])


class PackedPaths(Packed[str]):
    """Paths below one folder: their bytes one after the other.

    Args:
        root: The folder.
        text: Paths relative to it as the file system has them, uint8, shape (bytes,).
        ends: Where each ends, int64, shape (entries,).
    """

    def __init__(self, root: str, text: torch.Tensor, ends: torch.Tensor) -> None:
        self.root = root
        self._text = text
        self._ends = ends

    def _all(self) -> int:
        return len(self._ends)

    def _entry(self, position: int) -> str:
        # No NumPy view is kept: sharing a tensor with a spawned worker moves it, and would leave such a view behind.
        ends = self._ends.numpy()
        start = ends[position - 1] if position else 0
        return os.path.join(self.root, os.fsdecode(self._text.numpy()[start : ends[position]].tobytes()))


class PathsBuilder:
    """Packs paths as they are found, so that they never stand in memory as a million strings.

    Args:
        root: The folder that all of them lie in.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._text = bytearray()
        self._lengths: list[npt.NDArray[np.int64]] = []

    def extend(self, paths: Iterable[str]) -> int:
        """Add paths.

        Args:
            paths: Relative to the root.

        Returns:
            How many (count).
        """
        lengths: list[int] = []
        for path in paths:
            encoded = os.fsencode(path)
            self._text += encoded
            lengths.append(len(encoded))
        self._lengths.append(np.array(lengths, np.int64))
        return len(lengths)

    def finish(self) -> PackedPaths:
        """The paths, in the order in which they were added."""
        lengths = np.concatenate(self._lengths) if self._lengths else np.empty(0, np.int64)
        # The tensor takes the bytes over as they are: a copy would double the memory for a moment.
        text = torch.frombuffer(self._text, dtype=torch.uint8) if self._text else torch.empty(0, dtype=torch.uint8)
        return PackedPaths(self.root, text, torch.from_numpy(np.cumsum(lengths)))
