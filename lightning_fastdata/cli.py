"""The command line: ``lightning-fastdata COMMAND``, the same as ``python -m lightning_fastdata COMMAND``.

A command is one function that takes its parsed arguments and returns the exit code, and one entry in ``_parser``.
Everything that takes time to import is imported inside the command that needs it.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from lightning_fastdata import __version__
from lightning_fastdata.errors import FastDataError

if TYPE_CHECKING:
    from rich.console import Console

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
        The exit code: 0; 1 where two audits are not the same; 2 when something was wrong with the arguments or the
        environment.
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

    report = commands.add_parser("report", help="what a run waited for data, from the file that save_to wrote")
    report.add_argument("run_file", help="the file given to DataWaitMonitor(save_to=...)")
    report.add_argument("--json", action="store_true", help="print the run's summary as JSON, nothing else")
    report.set_defaults(run=_report)

    audit = commands.add_parser("audit", help="whether two runs saw the same samples, from the files of DataAudit")
    audit.add_argument("audit_file", help="a file that DataAudit wrote; alone, its epochs are printed")
    audit.add_argument("other_file", nargs="?", help="another one; exit code 0 where both are the same, else 1")
    audit.set_defaults(run=_audit)
    return parser


def _doctor(arguments: argparse.Namespace) -> int:
    """Print what the hardware probe finds."""
    from lightning_fastdata.hardware import probe

    hardware = probe()
    if arguments.json:
        sys.stdout.write(json.dumps(hardware.to_dict(), indent=2) + "\n")
        return 0
    from lightning_fastdata.report.doctor import doctor_view

    _console().print(doctor_view(hardware))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    """Print the summary of a saved run, finished or not."""
    from lightning_fastdata.monitor.sinks import read_run
    from lightning_fastdata.report.text import summary_table
    from lightning_fastdata.summary import summarise

    _, records, summary = read_run(arguments.run_file)
    if summary is None:
        # Killed before it could write its last line: what the steps tell is still told.
        summary = dataclasses.replace(summarise(records), status="interrupted")
    if arguments.json:
        sys.stdout.write(json.dumps(summary.to_dict(), indent=2) + "\n")
    else:
        _console().print(summary_table(summary))
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    """Print the epochs of an audit, or in one line whether two are the same."""
    from lightning_fastdata.audit.compare import compare
    from lightning_fastdata.audit.file import read_audit
    from lightning_fastdata.report.audit import audit_table, comparison_line

    names = (arguments.audit_file, arguments.other_file)
    epochs = read_audit(names[0])
    if names[1] is None:
        _console().print(audit_table(epochs))
        return 0
    comparison = compare(epochs, read_audit(names[1]))
    sys.stdout.write(comparison_line(comparison, names) + "\n")
    return 0 if comparison.same else 1


def _console() -> "Console":
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES, highlight=False)
