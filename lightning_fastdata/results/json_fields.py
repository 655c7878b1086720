"""From JSON to records: names of older schemas, and values of other types than the fields declare."""

from collections.abc import Mapping
from typing import Any

__all__ = ["with_new_names"]


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
