"""From JSON to records: each field is held against its declared type, and a figure that is none was not measured."""

import json
import math
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

import msgspec

__all__ = ["convert_fields", "parse", "with_new_names"]


def parse(raw: bytes) -> Any:
    """JSON as plain values; NaN, the infinities and numbers that overflow become None.

    Args:
        raw: UTF-8.

    Raises:
        ValueError: It is no JSON, or too deeply nested.
    """
    try:
        return _DECODER.decode(raw.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("too deeply nested") from error


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _whole(text: str) -> int | None:
    return int(text) if len(text) < _DIGITS_OF_FLOAT else None


# An integer of more digits overflows as soon as something calculates with it as a float.
_DIGITS_OF_FLOAT = sys.float_info.max_10_exp
_DECODER = json.JSONDecoder(parse_float=_finite, parse_int=_whole, parse_constant=lambda name: None)


def convert_fields(cls: type, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Each field of a dataclass alone, so that one bad value costs one field.

    Args:
        cls: The dataclass.
        values: Plain values by field; what is no field is ignored.

    Returns:
        The fields that have a value of the declared type, and the names of those that have another one.
    """
    converted: dict[str, Any] = {}
    misfits = []
    for name, kind in _kinds_of(cls).items():
        if name in values:
            try:
                converted[name] = msgspec.convert(values[name], kind)
            except msgspec.ValidationError:
                misfits.append(name)
    return converted, misfits


_kinds_of = cache(get_type_hints)


def with_new_names(values: Any, names: Mapping[str, str]) -> Any:
    """What a version with an older schema wrote, with the names of today.

    Args:
        values: A line of a file, or a part of one.
        names: New names by old ones, of keys at any depth and of causes.
    """
    if not isinstance(values, dict):
        return values
    read = {names.get(key, key): with_new_names(value, names) for key, value in values.items()}
    if isinstance(read.get("cause"), str):
        read["cause"] = names.get(read["cause"], read["cause"])
    return read
