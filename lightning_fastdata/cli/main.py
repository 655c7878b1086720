"""The command line: ``lightning-fastdata COMMAND``, the same as ``python -m lightning_fastdata COMMAND``.

A command is one function that takes its parsed arguments and returns the exit code, and one entry in ``_parser``.
Everything that takes time to import is imported inside the command that needs it.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from lightning_fastdata.cli.cache import add_cache
from lightning_fastdata.cli.output import make_console, print_json
from lightning_fastdata.cli.report import add_compare, add_report
from lightning_fastdata.errors import FastDataError

__all__ = ["main"]


class _HelpfulParser(argparse.ArgumentParser):
    """Shows the whole help before what was wrong, where the reader looked for a command or an option."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("argument --"):  # the option was found, its value is wrong
            self.exit(2, f"{self.prog}: {message}\n")
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; None: those of this process.

    Returns:
        The exit code: 0; 1 where two audits are not the same, or a run waited more than ``--fail-above`` allows; 2 when
        something was wrong with the arguments or the environment, or what ``--fail-above`` needs was not measured.
    """
    typed = sys.argv[1:] if argv is None else list(argv)
    parser = _parser()
    # What follows "tune" are arguments of the user's DataModule too, which jsonargparse knows.
    arguments = parser.parse_args(typed[:1] if typed[:1] == ["tune"] else typed)
    if arguments.version:
        from lightning_fastdata.compat.versions import own_version

        sys.stdout.write(f"lightning_fastdata {own_version()}\n")
        return 0
    if arguments.run is None:
        parser.print_help()
        return 0
    try:
        code: int = _tune(typed[1:]) if typed[:1] == ["tune"] else arguments.run(arguments)
    except FastDataError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _HelpfulParser(prog="lightning-fastdata", description="Data loading for PyTorch Lightning.")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="what this machine gives to a loader, and what to change")
    doctor.add_argument("--json", action="store_true", help="print everything that was found as JSON, nothing else")
    doctor.set_defaults(run=_doctor)

    add_report(commands)

    tune = commands.add_parser("tune", help="find the workers for a DataModule by trying (tune --help)")
    tune.set_defaults(run=_tune)

    add_compare(commands)

    audit = commands.add_parser("audit", help="whether two runs saw the same samples, from the files of DataAudit")
    audit.add_argument("audit_file", help="a file that DataAudit wrote; alone, its epochs are printed")
    audit.add_argument("other_file", nargs="?", help="another one; exit code 0 where both are the same, else 1")
    audit.set_defaults(run=_audit)

    add_cache(commands)
    return parser


def _doctor(arguments: argparse.Namespace) -> int:
    """Print what the hardware probe finds."""
    from lightning_fastdata.hardware.detect import probe

    hardware = probe()
    if arguments.json:
        print_json(hardware.to_dict())
    else:
        from lightning_fastdata.report.doctor import doctor_view

        make_console().print(doctor_view(hardware))
    return 0


def _tune(argv: Sequence[str]) -> int:
    """Find the workers for a DataModule."""
    from lightning_fastdata.cli.tune import run

    return run(argv, make_console())


def _audit(arguments: argparse.Namespace) -> int:
    """Print the epochs of an audit, or in one line whether two are the same."""
    from lightning_fastdata.report.audit import audit_table, comparison_line
    from lightning_fastdata.results.audit_compare import compare
    from lightning_fastdata.results.audit_file import read_audit

    names = (arguments.audit_file, arguments.other_file)
    epochs = read_audit(names[0])
    if names[1] is None:
        make_console().print(audit_table(epochs))
        return 0
    comparison = compare(epochs, read_audit(names[1]))
    sys.stdout.write(comparison_line(comparison, names) + "\n")
    return 0 if comparison.same else 1
