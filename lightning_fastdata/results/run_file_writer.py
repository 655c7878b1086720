"""The run file is written: JSON lines, one a step, readable while the run goes on and after it was killed.

``run_file.read_run`` reads it back.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from lightning_fastdata.results.files import IN_WRITABLE_FOLDER, explained
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
        path: The file; folders above it are made, an existing file is replaced.
        header: Facts about the run for the first line.

    Raises:
        FastDataError: The file cannot be written; raised before any training.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        what = f"DataWaitMonitor(save_to={str(path)!r}): cannot write there"
        fix = "Choose another path, or leave save_to out."
        with explained(what, expected=IN_WRITABLE_FOLDER, fix=fix):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO | None = path.open("w", encoding="utf-8")
            self._write({"kind": "header", "schema": SCHEMA, **header})

    def write_steps(self, records: Iterable[StepRecord]) -> None:
        """Write steps, so that they are on disk."""
        self._write(*map(_step, records))

    def write_span(self, span: Span) -> None:
        """Write a stretch of the time line, so that it is on disk; its own kind stands under "span"."""
        self._write({"kind": "span", "span": span.kind, **_rounded({**vars(span), "kind": "span"})})

    def write_so_far(self, total_s: float, ledger: Mapping[str, float]) -> None:
        """Write the account of a run that goes on, so that a run that is killed has one.

        Args:
            total_s: Wall time since the callback's ``setup`` (s).
            ledger: Accounts of ``stats.ACCOUNTS`` (s).
        """
        self._write({"kind": "so far", "total_s": round(total_s, _DIGITS), "ledger": _rounded(ledger)})

    def close(self, summary: RunSummary | None) -> None:
        """Write the summary and close the file; a second call does nothing."""
        if summary is not None:
            self._write({"kind": "summary", **summary.to_dict()})
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def abandon(self) -> None:
        """Close the file without a summary, also where it can no longer be written to."""
        with contextlib.suppress(OSError):
            self.close(None)

    def _write(self, *lines: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.writelines(_encode(line) + "\n" for line in lines)
            self._file.flush()


def _step(record: StepRecord) -> dict[str, Any]:
    fields = zip(StepRecord._fields, _DEFAULTS, record, strict=True)
    measured = {name: value for name, default, value in fields if value is not default and value != default}
    return {"kind": "step", **_rounded(measured)}


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, _DIGITS) if type(value) is float else value for name, value in values.items()}
