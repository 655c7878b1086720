"""Token files for language models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_fastdata.datamodules.base import FastDataModuleMixin
from lightning_fastdata.datamodules.dataset_collections import to_builtin
from lightning_fastdata.datamodules.option_lookup import (
    Option,
    assign,
    keep_given,
    known_options,
    option,
    peek,
)
from lightning_fastdata.datamodules.options import PLAIN_OPTIONS, FastDataModuleOptions, Unpack
from lightning_fastdata.datamodules.split_loaders import has_collate_fn
from lightning_fastdata.datamodules.splits import STAGES
from lightning_fastdata.datamodules.token_dataset import BlockDataset, TokenDataset
from lightning_fastdata.datamodules.token_files import DTYPES, check_ids, find_token_files, open_token_file
from lightning_fastdata.errors import FastDataError, check_choice, check_int
from lightning_fastdata.loaders.factory import SPLITS

__all__ = ["TokenDataModuleMixin"]

Paths = Sequence[str | Path] | str | Path
HYPERPARAMETERS = (
    *("train", "val", "test", "block_length", "dtype", "vocab_size", "end_of_document", "header_bytes"),
    *PLAIN_OPTIONS,
)
"""Arguments with plain values: what a checkpoint keeps, as given ("auto" stays "auto")."""


class TokenDataModuleMixin(FastDataModuleMixin):
    """A DataModule for language models, on files of token ids as nanoGPT writes them: ids one after the other.

    ::

        TokenDataModule("train.bin", "val.bin", block_length=1024, vocab_size=50257, batch_size=12)

    A batch is a dict of int64 tensors of shape (batch, block_length): ``input_ids``, and ``targets``, which are the
    same tokens one further. Files are mapped into memory, never loaded whole; every block comes once an epoch.

    Args:
        train: Path of a token file, a pattern ("shards/train_*.bin"), or a list of them. Files are raw ids, or arrays
            saved by ``np.save`` if they end in ``.npy``.
        val: The same for validation; or use ``val_split``, which holds out blocks, not documents.
        test: The same for testing.
        block_length: Tokens per sample (count), as many as the model's context has; None = 1024.
        dtype: What raw files store an id as, little-endian: "uint16" (None), "uint32" or "uint8". A ``.npy`` file
            says it.
        vocab_size: Ids the model knows (count). A larger id is an error: in ``setup`` where it is in the first 64 MiB
            of a split, else in the batch it would have come in. None checks nothing.
        end_of_document: Id that ends every document. Batches then also have ``document_ids``, which number the
            documents of a block, and ``position_ids``, which start at 0 in each of them.
        header_bytes: What to leave out at the beginning of a raw file (bytes); None = 0.
        **kwargs: Arguments of ``FastDataModule``: ``batch_size``, ``num_workers``, ``val_split``, ``seed``, ... With a
            ``collate_fn`` samples are fetched one by one and handed to it as a list.

    Raises:
        FastDataError: A file that is missing, empty, cut off or too short, or an id beyond the vocabulary; in
            ``setup``, before the first batch.
    """

    train: Any = Option()
    val: Any = Option()
    test: Any = Option()
    block_length: Any = Option(1024)
    dtype: Any = Option("uint16")
    vocab_size: Any = Option()
    end_of_document: Any = Option()
    header_bytes: Any = Option(0)

    def __init__(
        self,
        train: Paths | None = None,
        val: Paths | None = None,
        test: Paths | None = None,
        *,
        block_length: int | None = None,
        dtype: Literal["uint16", "uint32", "uint8"] | None = None,
        vocab_size: int | None = None,
        end_of_document: int | None = None,
        header_bytes: int | None = None,
        **kwargs: Unpack[FastDataModuleOptions],
    ) -> None:
        given = {**locals(), "train": _as_text(train), "val": _as_text(val), "test": _as_text(test)}
        super().__init__(**kwargs)
        keep_given(self, given)
        # Named one by one: Lightning would otherwise collect a subclass's arguments as well, datasets and all.
        self.save_hyperparameters(self._checked(known_options(self, HYPERPARAMETERS)), logger=False)

    def setup(self, stage: str | None = None) -> None:
        """Look at the files that a stage reads; nothing is mapped yet.

        Args:
            stage: "fit", "validate", "test" or "predict"; None for all files.
        """
        read: tuple[str, ...] = STAGES.get(stage or "", ("train", "val", "test"))
        if option(self, "val_split") or option(self, "test_split"):
            read = ("train", *(name for name in read if name != "train"))  # held-out parts are cut from it
        for split in read:
            paths = option(self, split)
            if paths is not None:
                assign(self, f"{split}_dataset", self._dataset(split, paths))

    def _dataset(self, split: str, paths: Paths) -> BlockDataset:
        where = f"{type(self).__name__} {split}"
        dtype, header_bytes, block_length = (option(self, name) for name in ("dtype", "header_bytes", "block_length"))
        vocab_size, end_of_document = option(self, "vocab_size"), option(self, "end_of_document")
        files = [
            open_token_file(where, path, dtype, header_bytes, block_length) for path in find_token_files(where, paths)
        ]
        if vocab_size is not None:
            check_ids(where, files, vocab_size)
        make = BlockDataset if has_collate_fn(self, *SPLITS) else TokenDataset
        return make(files, block_length, vocab_size=vocab_size, end_of_document=end_of_document)

    def _checked(self, known: dict[str, Any]) -> dict[str, Any]:
        for name, least, allow in (
            ("block_length", 1, (None,)),
            ("vocab_size", 1, (None,)),
            ("end_of_document", 0, (None,)),
            ("header_bytes", 0, (None,)),
        ):
            known[name] = check_int(name, known[name], least, allow=allow)
        check_choice("dtype", known["dtype"], (*DTYPES, None), fix='pass dtype="uint16".')
        if known["vocab_size"] is not None and (known["end_of_document"] or 0) >= known["vocab_size"]:
            raise FastDataError(
                f"end_of_document={known['end_of_document']}, vocab_size={known['vocab_size']}.",
                expected=f"an id from 0 to {known['vocab_size'] - 1}.",
                fix="pass the id that the tokenizer ends documents with.",
            )
        dtype, vocab_size = known["dtype"], known["vocab_size"]
        most = 2 ** (8 * np.dtype(DTYPES[dtype or "uint32"]).itemsize)
        if vocab_size is not None and vocab_size > most:
            wider = "uint32" if vocab_size > 2**16 else "uint16"
            raise FastDataError(
                f"vocab_size={vocab_size} with dtype={dtype!r}, which holds ids up to {most - 1:,}.",
                expected="a dtype that holds every id; larger ids became smaller ones when such a file was written.",
                fix=f"save the ids as {wider} and pass dtype={wider!r}, or pass a vocab_size up to {most}.",
            )
        for split in ("train", "val", "test"):
            for other in (f"{split}_dataset", f"{split}_split"):
                value = None if other == "train_split" else peek(self, other)
                if known[split] is not None and value is not None and value != 0:
                    raise FastDataError(
                        f"{split}={known[split]!r} together with {other}.",
                        expected="one of the two.",
                        fix=f"leave out {other}, or {split}.",
                    )
        return known


def _as_text(paths: Any) -> Any:
    """Paths in plain types, which a checkpoint may hold."""
    paths = to_builtin(paths)
    if isinstance(paths, (list, tuple)):
        return [_as_text(path) for path in paths]
    return str(paths) if isinstance(paths, Path) else paths
