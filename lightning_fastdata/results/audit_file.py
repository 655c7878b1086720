"""The audit file: JSON lines, one an epoch, readable while the run goes on and after it was killed."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.files import IN_WRITABLE_FOLDER, explained
from lightning_fastdata.results.json_fields import parse

__all__ = ["SCHEMA", "EpochDigest", "append_epoch", "check_writable", "read_audit", "start_file"]

SCHEMA = 1
"""Version of the lines; a higher one is refused on reading."""
EXPECTED = "a file written by DataAudit(path=...)"

Count = Annotated[int, msgspec.Meta(ge=0)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
Mark = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}\Z")]


@dataclass(frozen=True)
class EpochDigest:
    """A line of the file: which samples the global batches of an epoch held, by digest."""

    epoch: Count
    """Epoch number, from 0."""
    first_batch: Count
    """The batch the digests begin with; not 0 where a run on several ranks was resumed in mid-epoch."""
    batches: Count
    """Global batches in the digests (count)."""
    samples: Count | None
    """Samples in them over all ranks, without repeats (count); None: not measured."""
    digest: Digest | None
    """Which samples, 16 hexadecimal digits; None: not measured."""
    content: Digest | None
    """Which bytes, 16 hexadecimal digits; None: not measured."""
    stride: Annotated[int, msgspec.Meta(ge=1)]
    """Batches between two marks (count), a power of two."""
    marks: tuple[Mark, ...]
    """Low 32 bits of ``digest`` as it was at each multiple of ``stride`` after ``first_batch``, 8 digits each."""
    content_marks: tuple[Mark, ...]
    """The same for ``content``."""
    rules: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Number of the rules that decided the batches (``loaders.progress.RULES``); 1 in files that say none."""

    @property
    def next_batch(self) -> int:
        """The batch after the last."""
        return self.first_batch + self.batches


def check_writable(path: Path) -> None:
    """Make the folders above a file and see whether it can be written to; what is in it stays.

    Args:
        path: The file.

    Raises:
        FastDataError: It cannot be written.
    """
    what = f"DataAudit(path={str(path)!r}): cannot write there"
    with explained(what, expected=IN_WRITABLE_FOLDER, fix="Choose another path."):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()


def start_file(path: Path, *, keep: bool) -> None:
    """Empty the file, or make it ready for the lines of a run that goes on.

    Args:
        path: The file, which exists.
        keep: Whether its lines stay. A last line without its end, as a killed run leaves it, goes: the next line
            would be glued to it.
    """
    if not keep:
        path.write_bytes(b"")
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def append_epoch(path: Path, epoch: EpochDigest) -> None:
    """Write the line of an epoch, so that it is on disk.

    Args:
        path: The file; it is closed between lines.
        epoch: What is known of the epoch.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": "epoch", "schema": SCHEMA, **asdict(epoch)}) + "\n")


def read_audit(path: str | os.PathLike[str]) -> list[EpochDigest]:
    """Read an audit file.

    A run that was resumed has gone back: a line replaces all earlier ones of its epoch and of later epochs.

    Args:
        path: What was given to ``DataAudit(path=...)``.

    Returns:
        The epochs in their order, at least one.

    Raises:
        FastDataError: The file is not there, empty, cut off, of a newer version, or no audit file; names the line.
    """
    path = Path(path)
    with explained(f"Audit file {str(path)!r} cannot be read", expected=EXPECTED, fix="Check the path."):
        text = path.read_text(encoding="utf-8", errors="replace")
    epochs: dict[int, EpochDigest] = {}
    for line in _parse(path, text):
        epochs = {number: known for number, known in epochs.items() if number < line.epoch}
        epochs[line.epoch] = line
    if not epochs:
        raise FastDataError(
            f"Audit file {str(path)!r} holds no epoch.",
            expected=EXPECTED + "; it gets a line at the end of each epoch",
            fix="Check the path, or let the run finish an epoch.",
        )
    return list(epochs.values())


def _parse(path: Path, text: str) -> Iterator[EpochDigest]:
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            raise FastDataError(
                f"Audit file {str(path)!r}, line {number} is cut off: {line[:40]!r}.",
                expected="whole lines; a run that is killed while it writes leaves half a one",
                fix="Resume the run, which mends its file, or remove that line.",
            )
        yield _epoch(path, number, line)


def _epoch(path: Path, number: int, line: str) -> EpochDigest:
    try:
        values: Any = parse(line.encode())
    except ValueError as error:
        raise _bad_line(path, number, f"no JSON ({error})") from error
    if not isinstance(values, dict) or values.get("kind") != "epoch" or type(values.get("schema")) is not int:
        raise _bad_line(path, number, "no line of an audit")
    if values["schema"] > SCHEMA:
        raise FastDataError(
            f"Audit file {str(path)!r}, line {number}: schema {values['schema']}.",
            expected=f"a schema up to {SCHEMA}",
            fix="Update lightning_fastdata: a newer version wrote this file.",
        )
    try:
        epoch = msgspec.convert(values, EpochDigest)
    except msgspec.ValidationError as error:
        raise _bad_line(path, number, f"epoch is incomplete ({error})") from error
    positions = epoch.next_batch // epoch.stride - epoch.first_batch // epoch.stride
    for digest, marks in ((epoch.digest, epoch.marks), (epoch.content, epoch.content_marks)):
        if len(marks) != (0 if digest is None else positions):
            raise _bad_line(path, number, f"epoch is incomplete ({len(marks)} marks instead of {positions})")
    return epoch


def _bad_line(path: Path, number: int, what: str) -> FastDataError:
    return FastDataError(
        f"Audit file {str(path)!r}, line {number}: {what}.",
        expected=EXPECTED,
        fix="Check the path; a file of another tool or an edited one cannot be read.",
    )
