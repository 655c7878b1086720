"""The run file is written: JSON lines, one a step, readable while the run goes on and after it was killed.

``run_file.read_run`` reads it back.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.records import SCHEMA, Span, StepRecord
from lightning_fastdata.results.summary import RunSummary

__all__ = ["RunFileWriter"]

# What a reader fills in by itself is left out: most runs never measure some of it, and every step has a line.
_NOTHING = object()
_DEFAULTS = tuple(StepRecord._field_defaults.get(name, _NOTHING) for name in StepRecord._fields)
# json.dumps with an argument makes an encoder at every call.
_encode = json.JSONEncoder(default=str).encode
# A tenth of a microsecond: below what the clock resolves in a Trainer, and a third of the digits.
_DIGITS = 7


class RunFileWriter:
    """Writes a header line, a line a step, a line a span, the account so far now and then, and a summary line.

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

    def write_steps(self, records: Iterable[StepRecord]) -> None:
        """Write steps, so that they are on disk."""
        if self._file is None:
            return
        for record in records:
            line: dict[str, Any] = {"kind": "step"}
            for name, default, value in zip(record._fields, _DEFAULTS, record, strict=True):
                if value is not default and value != default:
                    line[name] = _short(value)
            self._write(line)
        self._file.flush()

    def write_span(self, span: Span) -> None:
        """Write a stretch of the time line, so that it is on disk; its own kind stands under "span"."""
        if self._file is None:
            return
        values = {name: _short(value) for name, value in asdict(span).items()}
        self._write({"kind": "span", "span": values.pop("kind"), **values})
        self._file.flush()

    def write_so_far(self, total_s: float, ledger: Mapping[str, float]) -> None:
        """Write the account of a run that goes on, so that a run that is killed has one.

        Args:
            total_s: Wall time since the callback's ``setup`` (s).
            ledger: Accounts of ``findings.ACCOUNTS`` (s).
        """
        if self._file is None:
            return
        accounts = {name: _short(value) for name, value in ledger.items()}
        self._write({"kind": "so far", "total_s": _short(total_s), "ledger": accounts})
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
        self._file.write(_encode(line) + "\n")


def _short(value: Any) -> Any:
    return round(value, _DIGITS) if type(value) is float else value
