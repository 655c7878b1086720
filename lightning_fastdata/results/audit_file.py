"""The audit file: JSON lines, one an epoch, readable while the run goes on and after it was killed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.audit_lines import SCHEMA, EpochDigest

__all__ = ["append_epoch", "check_writable", "read_audit", "start_file"]

EXPECTED = "a file written by DataAudit(path=...)"


def check_writable(path: Path) -> None:
    """Make the folders above a file and see whether it can be written to; what is in it stays.

    Args:
        path: The file.

    Raises:
        FastDataError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise FastDataError(
            f"DataAudit(path={str(path)!r}): cannot write there ({error.strerror or error}).",
            expected="a file path in a folder that can be written",
            fix="Choose another path.",
        ) from error


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
        file.write(json.dumps(epoch.to_dict()) + "\n")


def read_audit(path: str | os.PathLike[str]) -> list[EpochDigest]:
    """Read an audit file.

    A run that was resumed has gone back: a line takes the place of all earlier ones of its epoch and of later epochs.

    Args:
        path: What was given to ``DataAudit(path=...)``.

    Returns:
        The epochs in their order, at least one.

    Raises:
        FastDataError: The file is not there, empty, cut off, of a newer version, or no audit file; names the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FastDataError(
            f"Audit file {str(path)!r} cannot be read ({error.strerror or error}).",
            expected=EXPECTED,
            fix="Check the path.",
        ) from error
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
        values: Any = json.loads(line)
    except ValueError as error:
        raise _bad_line(path, number, f"no JSON ({error})") from error
    if not isinstance(values, dict) or values.get("kind") != "epoch" or not isinstance(values.get("schema"), int):
        raise _bad_line(path, number, "no line of an audit")
    if values["schema"] > SCHEMA:
        raise FastDataError(
            f"Audit file {str(path)!r}, line {number}: schema {values['schema']}.",
            expected=f"a schema up to {SCHEMA}",
            fix="Update lightning_fastdata: a newer version wrote this file.",
        )
    try:
        return EpochDigest.from_dict(values)
    except (KeyError, TypeError, ValueError) as error:
        raise _bad_line(path, number, f"epoch is incomplete ({error})") from error


def _bad_line(path: Path, number: int, what: str) -> FastDataError:
    return FastDataError(
        f"Audit file {str(path)!r}, line {number}: {what}.",
        expected=EXPECTED,
        fix="Check the path; a file of another tool or an edited one cannot be read.",
    )
