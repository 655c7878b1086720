"""Blocks of token files as datasets: one by one, or a whole batch in one copy of memory."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lightning_fastdata.datamodules.token_files import Array, MappedBlocks, TokenFile, bad_id

__all__ = ["BlockDataset", "TokenDataset"]

Batch = dict[str, torch.Tensor]


class BlockDataset(Dataset[Batch]):
    """Blocks of token files, fetched one by one.

    Block k of a file holds its tokens ``k * block_length`` to ``(k + 1) * block_length``, the last one included: it is
    the last target, and the first input of the next block. No block reaches into another file.

    It pickles as paths: every process maps the files itself, when it first needs them.

    Args:
        token_files: The files, each with at least one block.
        block_length: Tokens per sample (count).
        vocab_size: Ids of every batch are checked to be smaller; None checks nothing.
        end_of_document: Id that ends a document; with it, samples have ``position_ids`` and ``document_ids``.
    """

    uses_global_rng = False

    def __init__(
        self,
        token_files: Sequence[TokenFile],
        block_length: int,
        *,
        vocab_size: int | None = None,
        end_of_document: int | None = None,
    ) -> None:
        self.token_files = tuple(token_files)
        self.block_length = block_length
        self.vocab_size = vocab_size
        self.end_of_document = end_of_document
        counts = [file.blocks(block_length) for file in self.token_files]
        self._first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        """Number of the first block of each file, then that of all blocks, int64, shape (files + 1,)."""
        self._mapped: dict[int, MappedBlocks] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_mapped": {}}

    @property
    def sample_bytes(self) -> int:
        """Size of one sample (bytes)."""
        return (2 if self.end_of_document is None else 4) * 8 * self.block_length

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Batch:
        number = range(len(self))[operator.index(index)]
        return {name: rows[0] for name, rows in self._batch([number]).items()}

    def _batch(self, indices: Sequence[int] | Array) -> Batch:
        """The samples of a batch: "input_ids" and "targets", int64, contiguous, shape (batch, block_length)."""
        numbers = np.asarray(indices, dtype=np.int64)
        tokens = self._tokens(numbers)
        if self.vocab_size is not None and int(tokens.max()) >= self.vocab_size:
            self._refuse(numbers, tokens)
        # Two copies, not two views of one array of int64: a view with gaps cannot be flattened by view(-1).
        batch = {"input_ids": tokens[:, :-1].astype(np.int64), "targets": tokens[:, 1:].astype(np.int64)}
        if self.end_of_document is not None:
            batch |= documents(tokens[:, :-1] == self.end_of_document)
        return {name: torch.from_numpy(rows) for name, rows in batch.items()}

    def _tokens(self, numbers: Array) -> Array:
        """Tokens of blocks as stored, shape (batch, block_length + 1)."""
        if len(self.token_files) == 1:
            return self._blocks_of(0).take(numbers)
        owners = np.searchsorted(self._first, numbers, side="right") - 1
        dtype = np.result_type(*{file.dtype for file in self.token_files})
        tokens = np.empty((len(numbers), self.block_length + 1), dtype)
        for owner in np.unique(owners).tolist():
            rows = np.flatnonzero(owners == owner)
            tokens[rows] = self._blocks_of(owner).take(numbers[rows] - self._first[owner])
        return tokens

    def _blocks_of(self, owner: int) -> MappedBlocks:
        mapped = self._mapped.get(owner)
        if mapped is None:
            mapped = self._mapped[owner] = MappedBlocks(self.token_files[owner], self.block_length)
        return mapped

    def _refuse(self, numbers: Array, tokens: Array) -> None:
        assert self.vocab_size is not None
        row, column = np.argwhere(tokens >= self.vocab_size)[0].tolist()
        owner = int(np.searchsorted(self._first, numbers[row], side="right")) - 1
        position = (int(numbers[row]) - int(self._first[owner])) * self.block_length + column
        raise bad_id(self.token_files[owner], position, int(tokens[row, column]), self.vocab_size)


class TokenDataset(BlockDataset):
    """Blocks of token files, fetched a whole batch at a time; takes what ``BlockDataset`` takes."""

    batched_fetch = True
    uses_global_rng = False

    def __getitems__(self, indices: Sequence[int] | Array) -> Batch:
        return self._batch(indices)


def documents(ends: Array) -> dict[str, Array]:
    """Which document of its block a token belongs to, and its place in it.

    Args:
        ends: Whether a token is the last of its document, bool, shape (batch, block_length).

    Returns:
        "document_ids", counted from 0 in each block, and "position_ids", which begin with 0 at each document and at
        each block; both int64, of the same shape.
    """
    starts = np.ones_like(ends)  # the first token of a block begins a document, for the model
    starts[:, 1:] = ends[:, :-1]
    # Few tokens begin a document, so runs are written, not tokens counted: a tenth of the time of cumsum.
    begins = np.flatnonzero(starts)
    lengths = np.diff(begins, append=starts.size)
    rows, positions = np.divmod(begins, ends.shape[1])
    ids = np.arange(len(begins)) - np.flatnonzero(positions == 0)[rows]
    position_ids = np.arange(starts.size) - np.repeat(begins, lengths)
    columns = {"position_ids": position_ids, "document_ids": np.repeat(ids, lengths)}
    return {name: numbers.reshape(ends.shape) for name, numbers in columns.items()}
