"""The run file: JSON lines, one a step, readable while the run goes on and after it was killed."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO, TypeVar

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.monitor.meter import Row
from lightning_fastdata.records import SCHEMA, StepRecord
from lightning_fastdata.summary import RunSummary

__all__ = ["JsonLinesSink", "path_of_rank", "read_run"]

_T = TypeVar("_T")

_FIELDS = StepRecord.__slots__
# A tenth of a microsecond: below what the clock resolves in a Trainer, and a third of the digits.
_DIGITS = 7


def path_of_rank(path: str | os.PathLike[str], rank: int) -> Path:
    """The file of one rank: ``run.jsonl`` for rank 0, ``run.rank1.jsonl`` for rank 1."""
    path = Path(path)
    return path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


class JsonLinesSink:
    """Writes a header line, a line a step, and a summary line.

    Args:
        path: The file; folders above it are made, a file that is there is replaced.
        header: Facts about the run for the first line.

    Raises:
        FastDataError: The file cannot be written; said at once, before any training.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO | None = path.open("w", encoding="utf-8")
            self._write({"kind": "header", "schema": SCHEMA, **header})
            self._file.flush()
        except OSError as error:
            raise FastDataError(
                f"DataWaitMonitor(save_to={str(path)!r}): cannot write there ({error.strerror or error}).",
                expected="a file path in a folder that can be written",
                fix="Choose another path, or leave save_to out.",
            ) from error

    def write_steps(self, rows: Iterable[Row]) -> None:
        """Write steps, so that they are on disk."""
        if self._file is None:
            return
        for row in rows:
            values = (round(value, _DIGITS) if type(value) is float else value for value in row)
            self._write({"kind": "step", **dict(zip(_FIELDS, values, strict=False))})
        self._file.flush()

    def close(self, summary: RunSummary | None) -> None:
        """Write the summary and close the file; a second call does nothing."""
        if self._file is None:
            return
        if summary is not None:
            self._write({"kind": "summary", **summary.to_dict()})
        file, self._file = self._file, None
        file.close()

    def abandon(self) -> None:
        """Close the file as it is; it could not be written to."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(line, default=str) + "\n")


def read_run(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[StepRecord], RunSummary | None]:
    """Read a run file back.

    A last line that was cut off, as a killed run leaves it, is left out.

    Args:
        path: What was given to ``save_to``.

    Returns:
        The header; the steps; the summary, or None where the run did not get that far.

    Raises:
        FastDataError: The file is not there, or is no run file; names the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FastDataError(
            f"Run file {str(path)!r} cannot be read ({error.strerror or error}).",
            expected="a file written by DataWaitMonitor(save_to=...)",
            fix="Check the path.",
        ) from error
    lines = list(_parse(path, text))
    if not lines or lines[0].get("kind") != "header":
        raise _bad_line(path, 1, "no header")
    header = lines[0]
    if not isinstance(header.get("schema"), int) or header["schema"] > SCHEMA:
        raise _bad_line(path, 1, f"schema {header.get('schema')!r}, this version knows {SCHEMA}")
    return header, *_sort(path, lines)


def _sort(path: Path, lines: Iterable[Mapping[str, Any]]) -> tuple[list[StepRecord], RunSummary | None]:
    records: list[StepRecord] = []
    summary = None
    for number, line in enumerate(lines, 1):
        if line.get("kind") == "step":
            records.append(_read(path, number, line, StepRecord.from_dict))
        elif line.get("kind") == "summary":
            summary = _read(path, number, line, RunSummary.from_dict)
    return records, summary


def _read(path: Path, number: int, line: Mapping[str, Any], make: Callable[[Mapping[str, Any]], _T]) -> _T:
    try:
        return make(line)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _bad_line(path, number, f"{line.get('kind')} is incomplete ({error})") from error


def _parse(path: Path, text: str) -> Iterable[dict[str, Any]]:
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        cut_off = number == len(lines) and not line.endswith("\n")
        try:
            values = json.loads(line)
        except ValueError as error:
            if cut_off and number > 1:
                return
            raise _bad_line(path, number, f"no JSON ({error})") from error
        if not isinstance(values, dict):
            raise _bad_line(path, number, "no JSON object")
        yield values


def _bad_line(path: Path, number: int, what: str) -> FastDataError:
    return FastDataError(
        f"Run file {str(path)!r}, line {number}: {what}.",
        expected="a file written by DataWaitMonitor(save_to=...)",
        fix="Check the path; a file of another tool or an edited one cannot be read.",
    )
