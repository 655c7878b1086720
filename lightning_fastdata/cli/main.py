"""The command line: ``lightning-fastdata COMMAND``, the same as ``python -m lightning_fastdata COMMAND``.

A command is one function that takes its parsed arguments and returns the exit code, and one entry in ``_parser``.
Everything that takes time to import is imported inside the command that needs it.
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lightning_fastdata import __version__
from lightning_fastdata.cli.cache import add_cache
from lightning_fastdata.errors import FastDataError

if TYPE_CHECKING:
    from rich.console import Console

    from lightning_fastdata.results.run_file import RunFile
    from lightning_fastdata.results.summary import RunSummary

__all__ = ["main"]

_WIDTH_OF_FILES = 240
"""Columns where the output is not a terminal: long sources stay on one line for grep."""


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
    given = sys.argv[1:] if argv is None else list(argv)
    parser = _parser()
    # What follows "tune" are arguments of the user's DataModule too, which jsonargparse knows.
    arguments = parser.parse_args(given[:1] if given[:1] == ["tune"] else given)
    if arguments.run is None:
        parser.print_help()
        return 0
    try:
        code: int = _tune(given[1:]) if given[:1] == ["tune"] else arguments.run(arguments)
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

    _add_report(commands)

    tune = commands.add_parser("tune", help="find the workers for a DataModule by trying (tune --help)")
    tune.set_defaults(run=_tune)

    compare = commands.add_parser("compare", help="two runs side by side, from the files that save_to wrote")
    compare.add_argument("run_file", metavar="A", help="the file of the run before")
    compare.add_argument("other_file", metavar="B", help="the file of the run after; differences are B less A")
    compare.add_argument("--json", action="store_true", help="print both summaries and their difference as JSON only")
    compare.set_defaults(run=_compare)

    audit = commands.add_parser("audit", help="whether two runs saw the same samples, from the files of DataAudit")
    audit.add_argument("audit_file", help="a file that DataAudit wrote; alone, its epochs are printed")
    audit.add_argument("other_file", nargs="?", help="another one; exit code 0 where both are the same, else 1")
    audit.set_defaults(run=_audit)

    add_cache(commands, _console)
    return parser


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="what a run waited for data, from the file that save_to wrote",
        epilog="Exit codes: 0; 1 with --fail-above where the run waited more than that; 2 where the file is no run"
        " file, an argument is wrong, or --fail-above was given and the share was not measured.",
    )
    report.add_argument("run_file", help="the file given to DataWaitMonitor(save_to=...)")
    report.add_argument("--json", action="store_true", help="print the run's summary as JSON, nothing else")
    report.add_argument("--html", metavar="OUT", type=Path, help="write the report as one HTML page to this file, too")
    report.add_argument(
        "--fail-above",
        metavar="SHARE",
        type=_share,
        help="for scripts: exit code 1 where more than this share of the training time was spent waiting for data"
        " (0.10 = 10 %%); with several ranks that of the slowest, where it was measured",
    )
    report.set_defaults(run=_report)


def _share(text: str) -> float:
    """A share of 0..1, as a person types it."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if 0 <= share <= 1:
        return share
    hint = "a share between 0 and 1, such as 0.10 for 10 %"
    if 1 < share <= 100:
        hint = f"a share between 0 and 1; for {share:g} % write {share / 100:g}"
    raise argparse.ArgumentTypeError(f"{text!r} is not {hint}")


def _doctor(arguments: argparse.Namespace) -> int:
    """Print what the hardware probe finds."""
    from lightning_fastdata.hardware.detect import probe

    hardware = probe()
    if arguments.json:
        sys.stdout.write(json.dumps(hardware.to_dict(), indent=2) + "\n")
        return 0
    from lightning_fastdata.report.doctor import doctor_view

    _console().print(doctor_view(hardware))
    return 0


def _tune(argv: Sequence[str]) -> int:
    """Find the workers for a DataModule."""
    from lightning_fastdata.cli.tune import run

    return run(argv, _console())


def _report_tuning(arguments: argparse.Namespace) -> int:
    """Print what a saved tuning found."""
    from lightning_fastdata.report.tuning import tuning_view
    from lightning_fastdata.results.tuning import read_tuning

    for name in ("html", "fail_above"):
        if getattr(arguments, name) is not None:
            raise FastDataError(
                f"--{name.replace('_', '-')} with {arguments.run_file!r}, which is the file of a tuning.",
                expected="the file of a run: a tuning has no training steps.",
                fix="leave it out, or give a file of DataWaitMonitor(save_to=...).",
            )
    result = read_tuning(arguments.run_file)
    if arguments.json:
        _print_json(result.to_dict(), ())
    else:
        _console().print(tuning_view(result))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    """Print the summary of a saved run, finished or not."""
    from lightning_fastdata.results.tuning import is_tuning

    if is_tuning(arguments.run_file):
        return _report_tuning(arguments)
    from lightning_fastdata.results.run_file import read_run

    run = read_run(arguments.run_file)
    summary = run.best_summary()
    if arguments.json:
        _print_json(summary.to_dict(), run.problems)
    else:
        from lightning_fastdata.report.text import summary_table

        _console().print(summary_table(summary, problems=run.problems))
    if arguments.html is not None:
        _write_html(arguments, run, summary)
        # With --json nothing but JSON goes where a program reads.
        (sys.stderr if arguments.json else sys.stdout).write(f"Written: {arguments.html}\n")
    return 0 if arguments.fail_above is None else _gate(summary, arguments.fail_above)


def _write_html(arguments: argparse.Namespace, run: "RunFile", summary: "RunSummary") -> None:
    """Write the page; the run's own file is not overwritten."""
    from lightning_fastdata.report.html.page import html_page

    out: Path = arguments.html
    source = Path(arguments.run_file)
    if out.exists() and out.samefile(source):
        raise FastDataError(
            f"--html {str(out)!r} is the run file itself.",
            expected="another file, which is written anew",
            fix=f"Give --html {source.with_suffix('.html')}",
        )
    if not out.parent.exists():
        raise FastDataError(
            f"--html {str(out)!r}: there is no folder {str(out.parent)!r}.",
            expected="a file path in a folder that is there",
            fix=f"Make the folder ({_make_folder(out.parent)}), or choose another path.",
        )
    page = html_page(summary, run.records, title=source.name, problems=run.problems)
    try:
        # The name of a sample's file may hold what is no character.
        out.write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise FastDataError(
            f"--html {str(out)!r}: cannot write there ({error.strerror or error}).",
            expected="a file path in a folder that can be written",
            fix="Choose another path.",
        ) from error


def _make_folder(folder: Path) -> str:
    return f"mkdir -p {shlex.quote(str(folder))}"


def _gate(summary: "RunSummary", limit: float) -> int:
    """The exit code of ``--fail-above``; a share that was not measured does not pass."""
    shares = [(summary.wait_share, "")]
    if summary.ranks is not None:
        shares = [
            (summary.wait_share, f" on rank {summary.rank}"),
            (summary.ranks.wait_share, " with all ranks, who wait for the slowest"),
        ]
    known = [(share, where) for share, where in shares if share is not None and math.isfinite(share)]
    if not known:
        sys.stderr.write("--fail-above: the share of time waiting was not measured, so the run does not pass.\n")
        return 2
    share, where = max(known, key=lambda entry: entry[0])
    if share <= limit:
        return 0
    # As many digits as it takes for the two to differ.
    digits = next((n for n in range(1, 12) if f"{share * 100:.{n}f}" != f"{limit * 100:.{n}f}"), 12)
    sys.stderr.write(
        f"--fail-above: {share * 100:.{digits}f} % of the training time was spent waiting for data{where}, above the"
        f" limit of {limit * 100:.{digits}f} %.\n"
    )
    return 1


def _compare(arguments: argparse.Namespace) -> int:
    """Print two saved runs side by side."""
    from lightning_fastdata.report.compare import differences, side_by_side
    from lightning_fastdata.results.run_file import read_run

    names = (arguments.run_file, arguments.other_file)
    runs = [read_run(name) for name in names]
    a, b = (run.best_summary() for run in runs)
    problems = [f"{name}: {problem}" for name, run in zip(names, runs, strict=True) for problem in run.problems]
    if arguments.json:
        _print_json({"a": a.to_dict(), "b": b.to_dict(), "difference": differences(a, b)}, problems)
    else:
        _console().print(side_by_side(a, b, _told_apart(*names), problems=problems))
    return 0


def _told_apart(a: str, b: str) -> tuple[str, str]:
    """Two paths without the folders that both are in: two columns have to stand side by side."""
    left, right = Path(a).parts, Path(b).parts
    shared = 0
    while shared < min(len(left), len(right)) - 1 and left[shared] == right[shared]:
        shared += 1
    return str(Path(*left[shared:])), str(Path(*right[shared:]))


def _print_json(values: dict[str, Any], problems: Sequence[str]) -> None:
    """JSON to stdout, what could not be read of the file to stderr."""
    sys.stdout.write(json.dumps(_finite(values), indent=2) + "\n")
    for problem in problems:
        sys.stderr.write(f"Problem: {problem}\n")


def _finite(value: Any) -> Any:
    """NaN and the infinities are no JSON; they are null here."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _audit(arguments: argparse.Namespace) -> int:
    """Print the epochs of an audit, or in one line whether two are the same."""
    from lightning_fastdata.report.audit import audit_table, comparison_line
    from lightning_fastdata.results.audit_compare import compare
    from lightning_fastdata.results.audit_file import read_audit

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
