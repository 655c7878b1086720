"""The command line: ``lightning-fastdata COMMAND``, the same as ``python -m lightning_fastdata COMMAND``.

A command is one function that takes its parsed arguments and returns the exit code, and one entry in ``_parser``.
Everything that takes time to import is imported inside the command that needs it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import NoReturn

from lightning_fastdata import __version__
from lightning_fastdata.errors import FastDataError

__all__ = ["main"]

_WIDTH_OF_FILES = 240
"""Columns where the output is not a terminal: long sources stay on one line for grep."""


class _HelpfulParser(argparse.ArgumentParser):
    """Shows the whole help before what was wrong: the reader looked for a command or an option."""

    def error(self, message: str) -> NoReturn:
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; None: those of this process.

    Returns:
        The exit code: 0, or 2 when something was wrong with the arguments or the environment.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return 0
    try:
        code: int = arguments.run(arguments)
    except FastDataError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _HelpfulParser(prog="lightning-fastdata", description="Data loading for PyTorch Lightning.")
    parser.add_argument("--version", action="version", version=f"lightning_fastdata {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="what this machine gives to a loader, and what to change")
    doctor.add_argument("--json", action="store_true", help="print everything that was found as JSON, nothing else")
    doctor.set_defaults(run=_doctor)
    return parser


def _doctor(arguments: argparse.Namespace) -> int:
    """Print what the hardware probe finds."""
    from lightning_fastdata.hardware import probe

    hardware = probe()
    if arguments.json:
        sys.stdout.write(json.dumps(hardware.to_dict(), indent=2) + "\n")
        return 0
    from rich.console import Console

    from lightning_fastdata.report.doctor import doctor_view

    width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
    Console(width=width, highlight=False).print(doctor_view(hardware))
    return 0
