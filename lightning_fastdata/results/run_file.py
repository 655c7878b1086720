"""The run file, read back: JSON lines, whatever is left of them. A pure reader; the writer is ``monitor/sinks.py``.

Lenient: what can be read is read, and ``RunFile.problems`` says what was missing. Only what is no run file at all is
an error.
"""

import json
import math
import os
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Union, get_args, get_origin, get_type_hints

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.json_fields import with_new_names
from lightning_fastdata.results.records import NAMES_OF_SCHEMA_1, SCHEMA, Span, StepRecord
from lightning_fastdata.results.stats import WaitKinds
from lightning_fastdata.results.summary import RunSummary, summarize

__all__ = ["RunFile", "path_of_rank", "read_run"]

_EXPECTED = "a file written by DataWaitMonitor(save_to=...)"
# The header is a few hundred bytes; a file without line ends must not be read whole to find that out.
_LONGEST_HEADER = 1 << 24
_MOST_SPANS = 1000
_BLOCKED_S = 0.001
_NAMED_LINES = 3
_SHOWN = 40
_KNOWN_STARTS = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PK\x03\x04": "a ZIP archive, such as a checkpoint or a NumPy file",
    b"\x1f\x8b": "a gzip archive",
    b"%PDF": "a PDF document",
    b"<!DOCTYPE": "an HTML page",
}


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
    so_far: Mapping[str, Any] | None
    """The last account of a run that was going on: ``total_s`` (s) and ``ledger`` (accounts in s)."""
    problems: tuple[str, ...]
    """What is missing or could not be read, in sentences with line numbers; empty for a whole file."""

    def best_summary(self) -> RunSummary:
        """The run's own summary, or else one made from the steps and the last account, marked as interrupted."""
        if self.summary is not None:
            return self.summary
        header = self.header
        so_far = self.so_far or {}
        made = summarize(self.records, num_workers=_plain(header, "num_workers", int, None))
        return replace(
            made,
            status="interrupted",
            rank=_plain(header, "rank", int, 0),
            world_size=_plain(header, "world_size", int, 1),
            host=_plain(header, "host", str, ""),
            date=_plain(header, "date", str, ""),
            plans=_plain(header, "plans", dict, {}),
            versions=_plain(header, "versions", dict, {}),
            hardware=_plain(header, "hardware", dict, {}),
            total_s=so_far.get("total_s"),
            ledger=so_far.get("ledger", {}),
            not_measured=_not_measured(self.records, so_far.get("ledger", {})),
            spans=self.spans[-_MOST_SPANS:],
            waits=_waits_of(self.records),
        )


def _waits_of(records: tuple[StepRecord, ...]) -> WaitKinds | None:
    """The kinds of waiting as far as the steps tell; whether the workers stamped their batches, they do not."""
    names = ("main_process_s", "stalled_s", "worker_transfer_s")
    if all(getattr(one, name) is None for one in records for name in names):
        return None
    sums = [sum((getattr(one, name) or 0.0) * _steady(one) for one in records) for name in names]
    steady = [one for one in records if not one.refill_s]
    ready = [one.queue_ready for one in steady if one.queue_ready is not None]
    wait_s = sum((one.wait_s or 0.0) - one.refill_s for one in records)
    return WaitKinds(
        fetches=sum(one.fetches for one in records) - (len(records) - len(steady)),
        main_process_s=sums[0],
        stalled_s=sums[1],
        worker_transfer_s=sums[2],
        unknown_s=_not_noise(wait_s - sum(sums)),
        exact=False,
        stalled_fetches=sum((one.stalled_s or 0.0) > _BLOCKED_S for one in steady),
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


def _not_noise(value_s: float) -> float:
    return value_s if value_s > 1e-6 else 0.0


def _not_measured(records: tuple[StepRecord, ...], ledger: Mapping[str, float]) -> tuple[str, ...]:
    """Accounts that no step has a time for; the summary would have said so."""
    names = ("wait_s", "transfer_s", "compute_s")
    unseen = [name for name in names if all(getattr(record, name) is None for record in records)]
    return tuple(name for name in unseen if records and ledger.get(name) == 0)


def _plain(header: Mapping[str, Any], name: str, kind: type, otherwise: Any) -> Any:
    value = header.get(name)
    return value if type(value) is kind else otherwise


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
    try:
        with path.open("rb") as file:
            header = _header(path, file.readline(_LONGEST_HEADER))
            reading = _Reading(header)
            reading.read(file)
    except OSError as error:
        raise FastDataError(
            f"Run file {str(path)!r} cannot be read ({error.strerror or error}).",
            expected=_EXPECTED,
            fix="Check the path." if not path.is_dir() else "Give the file, not the folder it is in.",
        ) from error
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
        f"This is no file of DataWaitMonitor: {str(path)!r} {_found(raw, values)}.",
        expected=f"{_EXPECTED}, whose first line is its header",
        fix="Check the path." if raw else "Check the path; a run that was killed at once leaves an empty file.",
    )


def _found(raw: bytes, values: Mapping[str, Any] | None) -> str:
    """What a file is that has no header, from its first line."""
    if not raw:
        return "is empty"
    for start, what in _KNOWN_STARTS.items():
        if raw.startswith(start):
            return f"is {what}"
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


# NaN and the infinities are no JSON; where a file has them all the same they were not measured.
_DECODER = json.JSONDecoder(parse_constant=lambda name: None)


def _parse(raw: bytes) -> dict[str, Any] | None:
    """A line as an object; None where it is none."""
    try:
        values = _DECODER.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


@dataclass
class _Reading:
    """A file that is being read."""

    header: dict[str, Any]
    records: list[StepRecord] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    summary: RunSummary | None = None
    so_far: dict[str, Any] | None = None
    faults: dict[str, list[int]] = field(default_factory=dict)
    """What is wrong, to how often and the first lines where: ``[count, line, line, line]``."""
    sentences: list[str] = field(default_factory=list)
    schema: Any = SCHEMA
    lost_steps: int = 0

    def read(self, lines: BinaryIO) -> None:
        """Every line after the first; what a line is follows from its ``kind``."""
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
        """Remember a line; of a million of them only how many, and the first few."""
        entry = self.faults.setdefault(what, [0])
        entry[0] += 1
        if len(entry) <= _NAMED_LINES:
            entry.append(number)

    def cannot_read(self, number: int, raw: bytes) -> None:
        """A line that is no JSON object."""
        if not raw.strip():
            return
        if raw.endswith(b"\n"):
            self.lost_steps += 1  # perhaps: then the counts need not agree
            self.fault(number, "cannot be read, left out")
        else:
            self.fault(number, "is cut off, as a run that is killed while it writes leaves it; left out")

    def note_schema(self, schema: Any) -> None:
        """A file of a newer version is read as far as it is known."""
        if type(schema) is not int:
            self.sentences.append(f"The header names no schema; the file is read as one of schema {SCHEMA}.")
        else:
            self.schema = max(self.schema, schema)

    def read_step(self, number: int, line: dict[str, Any]) -> None:
        """One step; times that are missing were not measured, without anything else it is no step."""
        values = {name: value for name, value in line.items() if type(value) in _STEP_KINDS.get(name, ())}
        if len(values) < len(line) - 1:
            wrong = [name for name in line if name in _STEP_KINDS and name not in values]
            if wrong:
                self.fault(number, f"step with an unreadable {', '.join(wrong)}, which was left out")
        missing = _NEEDED.difference(values)
        if missing:
            lost = sorted(missing - _NULLABLE)
            if lost:
                self.lost_steps += 1
                self.fault(number, f"step without {', '.join(lost)}, left out")
                return
            self.fault(number, f"step without {', '.join(sorted(missing))}, read as not measured")
            values.update(dict.fromkeys(missing))
        self.records.append(StepRecord(**values))

    def read_span(self, number: int, line: dict[str, Any]) -> None:
        """One stretch of the time line; the word "kind" is taken by the line, so the file has it as "span"."""
        values = {entry.name: line[entry.name] for entry in fields(Span) if entry.name in line}
        values["kind"] = line.get("span")
        try:
            span = Span(**values)
        except TypeError:
            self.fault(number, "time span that is incomplete, left out")
            return
        if _misfits(span):
            self.fault(number, "time span that cannot be read, left out")
        else:
            self.spans.append(span)

    def read_so_far(self, number: int, line: dict[str, Any]) -> None:
        """The account of a run that goes on; the last one counts."""
        total_s, ledger = line.get("total_s"), line.get("ledger")
        if _fits(total_s, float) and _fits(ledger, Mapping[str, float]):
            self.so_far = {"total_s": total_s, "ledger": ledger}
        else:
            self.fault(number, "account that cannot be read, left out")

    def read_summary(self, number: int, line: dict[str, Any]) -> None:
        """The end of a whole file; parts that cannot be read are left out, one by one."""
        self.summary, left_out = _summary_of(line)
        if type(line.get("schema")) is int:
            self.schema = max(self.schema, line["schema"])
        if self.summary is None:
            self.sentences.append(f"The summary in line {number} cannot be read ({', '.join(left_out)}).")
        elif left_out:
            self.sentences.append(f"The summary in line {number} lacks what cannot be read: {', '.join(left_out)}.")

    def result(self) -> RunFile:
        """What was read, with all that is to be said of it."""
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
            problems.append(
                f"The summary counts {_steps(self.summary.steps)}; {steps:,} of them {_stand(steps)} in the file."
            )
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


def _without_summary(steps: int, so_far: Mapping[str, Any] | None) -> str:
    made = f"the figures are made from the {_steps(steps)} in the file" if steps else "there is no step in the file"
    account = "" if so_far is None else f", the ledger is that after {so_far['total_s']:,.2f} s"
    return f"No summary: the run was killed, or is still going on; {made}{account}."


def _stand(number: int) -> str:
    return "stands" if number == 1 else "stand"


def _steps(number: int) -> str:
    return f"{number:,} step{'' if number == 1 else 's'}"


def _summary_of(line: Mapping[str, Any]) -> tuple[RunSummary | None, list[str]]:
    """A summary, and what had to be left out of it; None, and why, where too much is missing."""
    values = {**line, "schema": SCHEMA}
    values.pop("kind", None)
    optional = [entry.name for entry in fields(RunSummary) if _has_default(entry) and entry.name in values]
    whole = _try_summary(values)
    if whole is not None and not _misfits(whole):
        return whole, []
    kept = {name: value for name, value in values.items() if name not in optional}
    base = _try_summary(kept)
    if base is None or _misfits(base):
        missing = [f"no {entry.name}" for entry in fields(RunSummary) if entry.name not in values]
        missing = [name for name in missing if not _has_default(_SUMMARY_FIELDS[name.removeprefix("no ")])]
        return None, missing or (_misfits(base) if base is not None else ["a part of it has another form"])
    left_out = []
    for name in optional:
        tried = _try_summary({**kept, name: values[name]})
        if tried is None or _misfits(tried):
            left_out.append(name)
        else:
            kept[name] = values[name]
    return _try_summary(kept), left_out


def _try_summary(values: Mapping[str, Any]) -> RunSummary | None:
    try:
        return RunSummary.from_dict(values)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _has_default(entry: Any) -> bool:
    return entry.default is not MISSING or entry.default_factory is not MISSING


_SUMMARY_FIELDS = {entry.name: entry for entry in fields(RunSummary)}


# A file may have been edited, or written by a version that means something else by a name: before figures are
# calculated with and printed, they are held against the types that their fields declare.


def _misfits(record: Any) -> list[str]:
    """The names of the fields of a dataclass whose values are of another type than declared."""
    hints = get_type_hints(type(record))
    return [entry.name for entry in fields(record) if not _fits(getattr(record, entry.name), hints[entry.name])]


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        wanted = [inner[0]] * len(value) if inner[-1] is ... else list(inner)
        return len(value) == len(wanted) and all(map(_fits, value, wanted))
    if origin is not None:  # a mapping: the only other kind of field
        return isinstance(value, Mapping) and all(
            _fits(key, inner[0]) and _fits(entry, inner[1]) for key, entry in value.items()
        )
    if hint is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    return type(value) is hint and not (is_dataclass(value) and _misfits(value))


def _kinds(hint: Any) -> frozenset[type]:
    """The types that JSON gives for a field of a step."""
    kinds = frozenset(get_args(hint) or (hint,))
    return kinds | {int} if float in kinds else kinds


_STEP_KINDS = {name: _kinds(hint) for name, hint in get_type_hints(StepRecord).items()}
_NEEDED = frozenset(StepRecord._fields).difference(StepRecord._field_defaults)
_NULLABLE = frozenset(name for name in _NEEDED if type(None) in _STEP_KINDS[name])
