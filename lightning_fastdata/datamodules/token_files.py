"""Files of token ids: finding and checking them, and mapping them into memory as blocks."""

import glob
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_fastdata.errors import FastDataError

__all__ = ["DTYPES", "MappedBlocks", "TokenFile", "bad_id", "check_ids", "find_token_files", "open_token_file"]

Array = npt.NDArray[Any]

DTYPES = {"uint8": "<u1", "uint16": "<u2", "uint32": "<u4"}
"""What a token may be stored as; little-endian, as on every machine that torch runs on."""
PRINTABLE = frozenset({*range(32, 127), *b"\t\n\r", *range(0x80, 0x100)})
"""Bytes of a text: ASCII, and those of UTF-8's further characters."""
OTHER_ENDINGS = (
    *(".txt", ".md", ".json", ".jsonl", ".csv", ".tsv", ".html", ".xml", ".yaml"),
    *(".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z", ".npz"),
    *(".pt", ".pth", ".pkl", ".parquet", ".arrow", ".h5", ".hdf5", ".safetensors"),
)
"""Endings of files that hold no ids, one after the other."""
MAGIC = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"(\xb5/\xfd": "zstd",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "a NumPy array: name it .npy",
}
"""First bytes of files that hold no ids, and what those files are."""
LOOKED_AT_BYTES = 8192
"""How much of a raw file is looked at for its type."""
LARGEST_VOCABULARY = 2**24
"""No vocabulary is larger: ids beyond it are two smaller ones, read as one."""
CHECKED_BYTES = 64 * 2**20
"""How much of a split ``check_ids`` reads: some milliseconds from the page cache, a second from a slow disk."""
LEAST_CHECKED_BYTES = 64 * 2**10
"""The same for one of many files."""


@dataclass(frozen=True)
class TokenFile:
    """A file of token ids that has been looked at."""

    path: str
    """Where it is, absolute: a worker may run in another folder."""
    dtype: str
    """NumPy type of a token, with byte order ("<u2")."""
    offset: int
    """Where the first token begins (bytes)."""
    tokens: int
    """Tokens in it (count)."""

    @property
    def end(self) -> int:
        """Where the last token ends (bytes)."""
        return self.offset + self.tokens * np.dtype(self.dtype).itemsize

    def blocks(self, block_length: int) -> int:
        """Blocks in it (count): each needs the token after its last one as well, which is what that predicts.

        Args:
            block_length: Tokens per block (count).
        """
        return max(0, self.tokens - 1) // block_length


def find_token_files(where: str, paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that a path, a pattern, or a list of both names.

    Args:
        where: Names the split in messages.
        paths: Paths; one with ``*``, ``?`` or ``[`` that is no file's name is a pattern.

    Returns:
        The files, those of a pattern sorted by name: the same order on every machine.

    Raises:
        FastDataError: Something that is no path, no path at all, or a pattern that fits no file.
    """
    patterns = [paths] if isinstance(paths, (str, Path)) else paths
    if (
        not isinstance(patterns, Sequence)
        or not patterns
        or not all(isinstance(pattern, (str, Path)) for pattern in patterns)
    ):
        raise FastDataError(
            f"{where}={paths!r}.",
            expected="the path of a token file, a pattern, or a list of them.",
            fix='write train="train.bin", train="shards/train_*.bin" or train=["a.bin", "b.bin"].',
        )
    files: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.exists() or not glob.has_magic(str(path)):
            files.append(path)
            continue
        fitting = sorted(name for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
        if not fitting:
            raise FastDataError(
                f"{where}: no file fits the pattern {str(path)!r}.",
                expected="at least one token file.",
                fix=f"check it; the nearest folder that exists is {_nearest(path)}.",
            )
        files += map(Path, fitting)
    return files


def open_token_file(where: str, path: Path, dtype: str, header_bytes: int, block_length: int) -> TokenFile:
    """Look at a file's size, and at its header if it has one; no token is read.

    Args:
        where: Names the split in messages.
        path: The file: raw tokens, or a one-dimensional array saved by ``np.save`` if it ends in ``.npy``.
        dtype: What raw tokens are stored as: a key of ``DTYPES``. A ``.npy`` file says that itself.
        header_bytes: What to leave out at the beginning of a raw file (bytes).
        block_length: Tokens per block (count).

    Returns:
        Where its tokens are.

    Raises:
        FastDataError: Missing, empty, cut off, too short for a block, or of another type.
    """
    if not path.is_file():
        kind = "it is a folder" if path.is_dir() else "there is no such file"
        near = f"; the nearest folder that exists is {_nearest(path)}" if not path.exists() else ""
        raise FastDataError(
            f"{where}={str(path)!r}: {kind}.",
            expected="a file of token ids.",
            fix=f"pass {str(path / '*.bin')!r} for the files in it." if path.is_dir() else f"check the path{near}.",
        )
    try:
        with path.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
    except OSError as error:
        raise FastDataError(
            f"{where}: {path} cannot be read: {error}", expected="a file this user may read.", fix="mend that."
        ) from error
    if size == 0:
        raise FastDataError(f"{where}: {path} is empty.", expected="token ids.", fix="write the file again.")
    if path.suffix == ".npy":
        file = _look_at_npy(where, path, size)
    else:
        file = _look_at_raw(where, path, size, dtype, header_bytes)
    if file.blocks(block_length) == 0:
        raise FastDataError(
            f"{where}: {path} has {file.tokens} tokens, block_length={block_length}.",
            expected=f"at least {block_length + 1}: the last token of a block has a target too.",
            fix="pass a smaller block_length, or leave the file out.",
        )
    return file


def _look_at_raw(where: str, path: Path, size: int, dtype: str, header_bytes: int) -> TokenFile:
    width = np.dtype(DTYPES[dtype]).itemsize
    tokens, rest = divmod(size - header_bytes, width)
    if tokens < 0 or rest:
        left_out = f" after {header_bytes} bytes of header" if header_bytes else ""
        raise FastDataError(
            f"{where}: {path} has {size} bytes, which is no whole number of {dtype} tokens{left_out}.",
            expected=f"a multiple of {width} bytes{left_out}.",
            fix="if it was cut off (a full disk, an interrupted copy), write it again; else pass its own dtype.",
        )
    with path.open("rb") as opened:
        first = opened.read(LOOKED_AT_BYTES + header_bytes)
    if (kind := _other_kind(path, first, first[header_bytes:], dtype)) is not None:
        raise FastDataError(
            f"{where}: {path} holds no {dtype} ids: {kind}.",
            expected=f"ids one after the other, {width} bytes each: ids.astype(np.{dtype}).tofile(path) writes them.",
            fix="tokenize a text first, and save its ids so (docs/tokens.md); or pass the dtype the file was saved in.",
        )
    return TokenFile(str(path.absolute()), DTYPES[dtype], header_bytes, tokens)


def _other_kind(path: Path, first: bytes, body: bytes, dtype: str) -> str | None:
    """What a file is that is taken for raw ids; None where nothing speaks against that."""
    if dtype == "uint8":  # a model of bytes takes those of any file
        return None
    if path.suffix.lower() in OTHER_ENDINGS:
        return f"it ends in {path.suffix}"
    if (
        magic := next((name for start, name in MAGIC.items() if body == first and first.startswith(start)), None)
    ) is not None:
        return f"it begins like {magic}"
    if len(body) >= 64 and all(byte in PRINTABLE for byte in body):
        return "it is text"
    ids = np.frombuffer(body[: len(body) // 8 * 8], DTYPES[dtype])
    if len(ids) >= 64:
        width = ids.dtype.itemsize
        for wider, step in (("int64", 8 // width), ("int32", 4 // width)):
            rest = any(ids[place::step].any() for place in range(1, step))
            if step > 1 and not rest and (ids[::step] > 0).mean() > 0.5:
                return f"its ids look like {wider}: {step - 1} of {step} numbers are 0"
        if dtype == "uint32" and (ids > LARGEST_VOCABULARY).mean() > 0.5:
            return f"most numbers are above {LARGEST_VOCABULARY:,}, as where uint16 ids are read in pairs"
    return None


def _look_at_npy(where: str, path: Path, size: int) -> TokenFile:
    try:
        with path.open("rb") as opened:
            version = np.lib.format.read_magic(opened)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(opened)
            offset = opened.tell()
    except (ValueError, EOFError, OSError) as error:
        raise FastDataError(
            f"{where}: {path} does not begin like a .npy file: {error}",
            expected="what np.save writes.",
            fix="save it again, or rename a file of raw tokens to .bin.",
        ) from error
    if dtype.str.replace("|", "<") not in DTYPES.values() or len(shape) != 1:
        raise FastDataError(
            f"{where}: {path} holds an array of dtype {dtype} and shape {shape}.",
            expected=f"one dimension, and {', '.join(DTYPES)} (little-endian).",
            fix='save it again: np.save(path, ids.astype("<u2")), "<u4" for more than 65,536 tokens.',
        )
    file = TokenFile(str(path.absolute()), dtype.str.replace("|", "<"), offset, shape[0])
    if size < file.end:
        raise FastDataError(
            f"{where}: {path} has {size} bytes, but its header says {shape[0]} tokens of {dtype}.",
            expected=f"{file.end} bytes.",
            fix="it was cut off (a full disk, an interrupted copy): write it again.",
        )
    return file


def _nearest(path: Path) -> Path:
    return next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))


class MappedBlocks:
    """The blocks of one file, mapped into memory.

    Pages come from the disk when they are first read, and are shared by all processes of the machine.

    Args:
        file: The file.
        block_length: Tokens per block (count). A block has one token more, the first of the next block.

    Raises:
        FastDataError: The file is gone, or shorter than it was.
    """

    def __init__(self, file: TokenFile, block_length: int) -> None:
        self.file = file
        try:
            with open(file.path, "rb") as opened:
                self._mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise FastDataError(
                f"{file.path} cannot be mapped into memory: {error}",
                expected="the file as it was in setup().",
                fix="put it back, and leave it alone while training runs. For too many open files, raise ulimit -n.",
            ) from error
        self._check_size()
        width = np.dtype(file.dtype).itemsize
        # A block as one opaque item of its bytes, each beginning block_length tokens after the one before: choosing
        # items is then one copy of memory a block, where rows of a matrix would be copied token by token.
        self._items = np.ndarray(
            (file.blocks(block_length),),
            dtype=f"V{(block_length + 1) * width}",
            buffer=self._mapping,
            offset=file.offset,
            strides=(block_length * width,),
        )
        self._shape = (-1, block_length + 1)

    def take(self, blocks: Array) -> Array:
        """Copy blocks out of the file.

        Args:
            blocks: Which ones, int64, shape (batch,).

        Returns:
            Tokens, of the file's type, shape (batch, block_length + 1).

        Raises:
            FastDataError: The file has become shorter.
        """
        self._check_size()
        tokens: Array = self._items[blocks].view(self.file.dtype)
        return tokens.reshape(self._shape)

    def _check_size(self) -> None:
        """Reading behind a file's end kills the process (SIGBUS) without a word; asking costs a microsecond."""
        size = self._mapping.size()
        if size < self.file.end:
            raise FastDataError(
                f"{self.file.path} has become shorter: {size} bytes, {self.file.end} when it was opened.",
                expected="a file that does not change while training runs.",
                fix="write a new version beside it and rename it, which leaves a running training alone.",
            )


def check_ids(where: str, files: Sequence[TokenFile], vocab_size: int) -> None:
    """Refuse ids beyond the vocabulary in the first ``CHECKED_BYTES`` of a split, dealt evenly to its files.

    Enough to find a wrong ``dtype`` or another tokenizer's file. The batches are checked one by one, in full.

    Args:
        where: Names the split in messages.
        files: The files.
        vocab_size: Ids must be smaller.

    Raises:
        FastDataError: An id that is not.
    """
    share = max(CHECKED_BYTES // len(files), LEAST_CHECKED_BYTES)
    for file in files:
        dtype = np.dtype(file.dtype)
        count = min(file.tokens, share // dtype.itemsize)
        ids = np.fromfile(file.path, dtype, count=count, offset=file.offset)
        if int(ids.max()) >= vocab_size:
            position = int((ids >= vocab_size).argmax())
            raise bad_id(file, position, int(ids[position]), vocab_size, where=f"{where}: ")


def bad_id(file: TokenFile, position: int, value: int, vocab_size: int, *, where: str = "") -> FastDataError:
    """The error for an id beyond the vocabulary.

    Args:
        file: Where it is.
        position: Which token of the file, from 0.
        value: The id.
        vocab_size: Ids must be smaller.
        where: Names the split, with what separates it from the rest.
    """
    return FastDataError(
        f"{where}{file.path} has token id {value} at position {position}, vocab_size={vocab_size}.",
        expected=f"ids from 0 to {vocab_size - 1}.",
        fix="use the tokenizer that wrote the file (and its vocab_size), the file's dtype, and its header_bytes.",
    )
