"""The file of a tuning: one JSON object, with a mark by which ``report`` tells it from a run file."""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.json_fields import with_new_names
from lightning_fastdata.results.tuning import TuneResult

__all__ = ["SCHEMA", "is_tuning", "read_tuning", "write_tuning"]

SCHEMA = 2
"""Version of the layout; goes up when an older reader would misread something."""
_NAMES_OF_SCHEMA_1 = {"ceiling": "throughput_limit", "handoff_s": "worker_transfer_s"}
_KIND = "lightning_fastdata tuning"
_MOST_BYTES = 1 << 24


def write_tuning(path: str | os.PathLike[str], result: TuneResult) -> None:
    """Write what a tuner found.

    Args:
        path: The file; one that is there is replaced.
        result: What was found.

    Raises:
        FastDataError: The file cannot be written.
    """
    values = {"kind": _KIND, "schema": SCHEMA, **result.to_dict()}
    try:
        Path(path).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise FastDataError(
            f"{os.fspath(path)!r} cannot be written ({error.strerror or error}).",
            expected="a file path in a folder that is there and can be written.",
            fix="choose another path.",
        ) from error


def is_tuning(path: str | os.PathLike[str]) -> bool:
    """Whether a file says at its beginning that it is one of a tuning.

    Args:
        path: Any file, also one that is not there.
    """
    try:
        with open(path, "rb") as file:
            return _KIND.encode() in file.read(200)
    except OSError:
        return False


def read_tuning(path: str | os.PathLike[str]) -> TuneResult:
    """Read what ``write_tuning`` wrote.

    Args:
        path: The file.

    Returns:
        What was found.

    Raises:
        FastDataError: It cannot be read, is damaged, or was written by a newer version.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        values: Any = json.loads(text) if len(text) <= _MOST_BYTES else None
    except OSError as error:
        raise FastDataError(f"{name!r} cannot be read ({error.strerror or error}).", fix="look at the path.") from error
    except ValueError as error:
        raise FastDataError(
            f"{name!r} is damaged ({error}).", expected="a whole file of a tuning.", fix="tune again."
        ) from error
    if not isinstance(values, dict) or values.get("kind") != _KIND:
        raise FastDataError(f"{name!r} is no file of a tuning.", expected=f'"kind": "{_KIND}".')
    schema = values.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise FastDataError(
            f"{name!r} has schema {schema!r}.",
            expected=f"a schema up to {SCHEMA}.",
            fix="read it with the version of lightning_fastdata that wrote it, or a newer one.",
        )
    if schema < SCHEMA:
        values = with_new_names(values, _NAMES_OF_SCHEMA_1)
    try:
        result = TuneResult.from_dict(values)
        _check_types(result)
    except (TypeError, ValueError, AttributeError) as error:
        raise FastDataError(
            f"{name!r} is damaged ({error}).", expected="the fields that a tuning has.", fix="tune again."
        ) from error
    return result


def _check_types(result: TuneResult) -> None:
    """Numbers where numbers belong: a report must not fail on somebody's edit."""
    for record in (result, result.probe, result.consumer, *result.trials):
        for entry in fields(record) if record is not None else ():
            value, kind = getattr(record, entry.name), str(entry.type)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is None and "None" in kind:
                continue
            if kind.startswith(("<class 'int'>", "<class 'float'>", "int", "float")) and not number:
                raise TypeError(f"{entry.name} is {value!r}")
            if kind.startswith(("<class 'str'>", "str")) and not isinstance(value, str):
                raise TypeError(f"{entry.name} is {value!r}")
