"""What commands print: text to a terminal or a file, and JSON that any parser reads."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["make_console", "print_json"]

FILE_WIDTH = 240
"""Columns where the output is not a terminal: long sources stay on one line for grep."""


def make_console() -> "Console":
    """A console on stdout; in a file, lines are neither cut nor folded at 80 columns."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)


def print_json(values: dict[str, Any], problems: Sequence[str] = ()) -> None:
    """Print JSON to stdout, and what could not be read of a file to stderr.

    Args:
        values: What to print; NaN and the infinities, which JSON lacks, become null.
        problems: A line for each.
    """
    finite = json.loads(json.dumps(values), parse_constant=lambda _: None)
    sys.stdout.write(json.dumps(finite, indent=2) + "\n")
    for problem in problems:
        sys.stderr.write(f"Problem: {problem}\n")
