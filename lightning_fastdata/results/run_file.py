"""The run file, read back: JSON lines, whatever is left of them. ``run_file_writer.py`` writes it.

Lenient: what can be read is read, and ``RunFile.problems`` says what is missing. Only a file that is no run file at all
is an error.
"""

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, get_args, get_type_hints

import msgspec

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.files import explained
from lightning_fastdata.results.json_fields import convert_fields, parse, with_new_names
from lightning_fastdata.results.records import NAMES_OF_SCHEMA_1, SCHEMA, Span, StepRecord
from lightning_fastdata.results.stats import WaitKinds
from lightning_fastdata.results.summary import RunSummary, summarize

__all__ = ["Account", "RunFile", "path_of_rank", "read_run"]

_EXPECTED = "a file written by DataWaitMonitor(save_to=...)"
# The header is a few hundred bytes; a file without line ends must not be read whole to find that out.
_LONGEST_HEADER = 1 << 24
_MOST_SPANS = 1000
_STALLED_S = 0.001
_NOISE_S = 1e-6
_NAMED_LINES = 3
_SHOWN = 40
_OF_HEADER = ("rank", "world_size", "host", "date", "plans", "versions", "hardware", "num_workers")
_NEEDED_OF_STEP = tuple(name for name in StepRecord._fields if name not in StepRecord._field_defaults)
_NULLABLE_OF_STEP = {name for name, kind in get_type_hints(StepRecord).items() if type(None) in get_args(kind)}
_NEEDED_OF_SUMMARY = tuple(
    entry.name for entry in fields(RunSummary) if entry.default is MISSING and entry.default_factory is MISSING
)


class Account(TypedDict):
    """Where the time of a run that was going on went."""

    total_s: float
    """Wall time since the callback's ``setup`` (s)."""
    ledger: Mapping[str, float]
    """Accounts of ``stats.ACCOUNTS`` (s)."""


def path_of_rank(path: str | os.PathLike[str], rank: int) -> Path:
    """The file of one rank: ``run.jsonl`` for rank 0, ``run.rank1.jsonl`` for rank 1."""
    path = Path(path)
    return path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


@dataclass(frozen=True)
class RunFile:
    """What one rank of a run has written, as far as it can be read."""

    header: Mapping[str, Any]
    """The first line: host, date, versions, rank and whatever else the writer knew."""
    records: tuple[StepRecord, ...]
    """The steps, in the order of the file."""
    summary: RunSummary | None
    """The summary that the run wrote at its end; None where it did not get that far, or it cannot be read."""
    spans: tuple[Span, ...]
    """Validations, checkpoints and epoch boundaries, in the order of the file."""
    so_far: Account | None
    """The last account of a run that was going on."""
    problems: tuple[str, ...]
    """What is missing or could not be read, in sentences with line numbers; empty for a whole file."""

    def best_summary(self) -> RunSummary:
        """The run's own summary, or else one made from the steps and the last account, marked as interrupted."""
        if self.summary is not None:
            return self.summary
        known, _ = convert_fields(RunSummary, {name: self.header[name] for name in _OF_HEADER if name in self.header})
        ledger = self.so_far["ledger"] if self.so_far else {}
        return replace(
            summarize(self.records, num_workers=known.get("num_workers")),
            **known,
            status="interrupted",
            total_s=self.so_far["total_s"] if self.so_far else None,
            ledger=ledger,
            not_measured=_not_measured(self.records, ledger),
            spans=self.spans[-_MOST_SPANS:],
            waits=_waits_of(self.records),
        )


def _waits_of(records: tuple[StepRecord, ...]) -> WaitKinds | None:
    """The kinds of waiting as far as the steps have them, which is never exact."""
    names = ("main_process_s", "stalled_s", "worker_transfer_s")
    if all(getattr(one, name) is None for one in records for name in names):
        return None
    sums = [sum((getattr(one, name) or 0.0) * _steady(one) for one in records) for name in names]
    steady = [one for one in records if not one.refill_s]
    ready = [one.queue_ready for one in steady if one.queue_ready is not None]
    unknown_s = sum((one.wait_s or 0.0) - one.refill_s for one in records) - sum(sums)
    return WaitKinds(
        fetches=sum(one.fetches for one in records) - (len(records) - len(steady)),
        main_process_s=sums[0],
        stalled_s=sums[1],
        worker_transfer_s=sums[2],
        unknown_s=unknown_s if unknown_s > _NOISE_S else 0.0,
        exact=False,
        stalled_fetches=sum((one.stalled_s or 0.0) > _STALLED_S for one in steady),
        head_of_line_fetches=0,
        head_of_line_s=0.0,
        queue_ready_mean=sum(ready) / len(ready) if ready else None,
        queue_ready_min=min(ready, default=None),
        queue_capacity=None,
        queue_full_share=None,
    )


def _steady(record: StepRecord) -> float:
    """The share of a step's wait that is not for the first batch of an epoch (0..1)."""
    return max(0.0, 1 - record.refill_s / record.wait_s) if record.wait_s else 1.0


def _not_measured(records: tuple[StepRecord, ...], ledger: Mapping[str, float]) -> tuple[str, ...]:
    """Accounts that no step has a time for."""
    names = ("wait_s", "transfer_s", "compute_s")
    unseen = [name for name in names if all(getattr(record, name) is None for record in records)]
    return tuple(name for name in unseen if records and ledger.get(name) == 0)


def read_run(path: str | os.PathLike[str]) -> RunFile:
    """Read a run file back, also one of a run that crashed, was killed, or is going on.

    Args:
        path: What was given to ``save_to``.

    Returns:
        All that can be read; ``problems`` says what cannot.

    Raises:
        FastDataError: The file is not there, or is no run file.
    """
    path = Path(path)
    fix = "Give the file, not the folder it is in." if os.path.isdir(path) else "Check the path."
    with explained(f"Run file {str(path)!r} cannot be read", expected=_EXPECTED, fix=fix), path.open("rb") as file:
        header = _header(path, file.readline(_LONGEST_HEADER))
        reading = _Reading(header)
        reading.read(file)
    return reading.result()


def _header(path: Path, raw: bytes) -> dict[str, Any]:
    """The first line, which makes a file a run file."""
    values = _parse(raw.removeprefix(b"\xef\xbb\xbf"))
    kind = values.get("kind") if values is not None else None
    if kind == "header":
        assert values is not None
        return values
    if kind == "epoch":
        raise FastDataError(
            f"{str(path)!r} is a file of DataAudit, no run file.",
            expected=_EXPECTED,
            fix=f"Print it with: lightning-fastdata audit {path}",
        )
    raise FastDataError(
        f"This is no file of DataWaitMonitor: {str(path)!r} {_content(raw, values)}.",
        expected=f"{_EXPECTED}, whose first line is its header",
        fix="Check the path." if raw else "Check the path; a run that was killed at once leaves an empty file.",
    )


def _content(raw: bytes, values: Mapping[str, Any] | None) -> str:
    """What a file without a header is, from its first line."""
    if not raw:
        return "is empty"
    try:
        text = raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return "is a binary file"
    if values is not None and isinstance(values.get("kind"), str):
        return f"begins with a line of the kind {_beginning(values['kind'])}, not with a header"
    if values is not None or text[:1] in ("{", "["):
        return f"holds other JSON, or a part of it, which begins with {_beginning(text)}"
    return f"begins with {_beginning(text)}"


def _beginning(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")


def _parse(raw: bytes) -> dict[str, Any] | None:
    """A line as an object; None where it is none."""
    try:
        values = parse(raw)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


@dataclass
class _Reading:
    """A file that is being read."""

    header: dict[str, Any]
    records: list[StepRecord] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    summary: RunSummary | None = None
    so_far: Account | None = None
    faults: dict[str, list[int]] = field(default_factory=dict)
    """What is wrong, to how often and the first lines where: ``[count, line, line, line]``."""
    sentences: list[str] = field(default_factory=list)
    schema: Any = SCHEMA
    lost_steps: int = 0

    def read(self, lines: BinaryIO) -> None:
        """Read every line after the first."""
        self.note_schema(self.header.get("schema"))
        old = self.header.get("schema") == 1
        for number, raw in enumerate(lines, 2):
            line = _parse(raw)
            if line is None:
                self.cannot_read(number, raw)
                continue
            if old:
                line = with_new_names(line, NAMES_OF_SCHEMA_1)
            kind = line.get("kind")
            if kind == "step":
                self.read_step(number, line)
            elif kind == "span":
                self.read_span(number, line)
            elif kind == "so far":
                self.read_so_far(number, line)
            elif kind == "summary":
                self.read_summary(number, line)
            elif kind == "header":
                self.sentences.append(f"Another run begins in line {number}: left out from there on.")
                return

    def fault(self, number: int, what: str) -> None:
        """Remember a line; of many their number and the first few."""
        entry = self.faults.setdefault(what, [0])
        entry[0] += 1
        if len(entry) <= _NAMED_LINES:
            entry.append(number)

    def cannot_read(self, number: int, raw: bytes) -> None:
        """A line that is no JSON object."""
        if not raw.strip():
            return
        if raw.endswith(b"\n"):
            self.lost_steps += 1  # perhaps; then the counts need not agree
            self.fault(number, "cannot be read, left out")
        else:
            self.fault(number, "is cut off, as a run that is killed while it writes leaves it; left out")

    def note_schema(self, schema: Any) -> None:
        """A file of a newer version is read as far as its fields are known."""
        if type(schema) is not int:
            self.sentences.append(f"The header names no schema; the file is read as one of schema {SCHEMA}.")
        else:
            self.schema = max(self.schema, schema)

    def read_step(self, number: int, line: dict[str, Any]) -> None:
        """One step; a time that is missing was not measured, without anything else it is no step."""
        try:
            self.records.append(StepRecord.from_dict(line))
            return
        except ValueError:  # msgspec's errors are such
            values, misfits = convert_fields(StepRecord, line)
        if misfits:
            self.fault(number, f"step with an unreadable {', '.join(misfits)}, which was left out")
        missing = [name for name in _NEEDED_OF_STEP if name not in values]
        lost = [name for name in missing if name not in _NULLABLE_OF_STEP]
        if lost:
            self.lost_steps += 1
            self.fault(number, f"step without {', '.join(lost)}, left out")
            return
        if missing:
            self.fault(number, f"step without {', '.join(missing)}, read as not measured")
            values.update(dict.fromkeys(missing))
        self.records.append(StepRecord(**values))

    def read_span(self, number: int, line: dict[str, Any]) -> None:
        """One stretch of the time line; the word "kind" is taken by the line, so the file has it as "span"."""
        try:
            self.spans.append(msgspec.convert({**line, "kind": line.get("span")}, Span))
        except msgspec.ValidationError:
            self.fault(number, "time span that cannot be read, left out")

    def read_so_far(self, number: int, line: dict[str, Any]) -> None:
        """The account of a run that goes on; the last one counts."""
        try:
            self.so_far = msgspec.convert(line, Account)
        except msgspec.ValidationError:
            self.fault(number, "account that cannot be read, left out")

    def read_summary(self, number: int, line: dict[str, Any]) -> None:
        """The end of a whole file; fields that cannot be read are left out, one by one."""
        if type(line.get("schema")) is int:
            self.schema = max(self.schema, line["schema"])
        values, misfits = convert_fields(RunSummary, {**line, "schema": SCHEMA})
        if any(name not in values for name in _NEEDED_OF_SUMMARY):
            missing = ", ".join([f"no {name}" for name in _NEEDED_OF_SUMMARY if name not in line] or misfits)
            self.summary = None
            self.sentences.append(f"The summary in line {number} cannot be read ({missing}).")
            return
        self.summary = RunSummary(**values)
        if misfits:
            lacks = ", ".join(misfits)
            self.sentences.append(f"The summary in line {number} lacks what cannot be read: {lacks}.")

    def result(self) -> RunFile:
        """What was read, and its problems in sentences."""
        problems = []
        if self.schema > SCHEMA:
            problems.append(
                f"The file was written by a newer version (schema {self.schema}, this one knows {SCHEMA}): figures it"
                " does not know are left out."
            )
        problems += [_sentence(what, *entry) for what, entry in self.faults.items()]
        problems += self.sentences
        steps = len(self.records)
        if self.summary is None:
            problems.append(_without_summary(steps, self.so_far))
        elif self.summary.steps != steps and not self.lost_steps:
            problems.append(f"The summary counts {_steps(self.summary.steps)}, the file holds {steps:,}.")
        return RunFile(
            header={name: value for name, value in self.header.items() if name != "kind"},
            records=tuple(self.records),
            summary=self.summary,
            spans=tuple(self.spans),
            so_far=self.so_far,
            problems=tuple(problems),
        )


def _sentence(what: str, number: int, *lines: int) -> str:
    """``Line 7: ...`` or ``12 lines (7, 9, 13, ...): ...``."""
    if number == 1:
        return f"Line {lines[0]}: {what}."
    more = ", ..." if number > len(lines) else ""
    return f"{number:,} lines ({', '.join(map(str, lines))}{more}): {what}."


def _without_summary(steps: int, so_far: Account | None) -> str:
    made = f"the figures are made from the {_steps(steps)} in the file" if steps else "there is no step in the file"
    account = "" if so_far is None else f", the ledger is that after {so_far['total_s']:,.2f} s"
    return f"No summary: the run was killed, or is still going on; {made}{account}."


def _steps(number: int) -> str:
    return f"{number:,} step{'' if number == 1 else 's'}"
