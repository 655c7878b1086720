"""``lightning-fastdata report`` and ``compare``: saved runs and tunings, read again without training."""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_fastdata.cli.output import make_console, print_json
from lightning_fastdata.errors import FastDataError

if TYPE_CHECKING:
    from lightning_fastdata.results.run_file import RunFile
    from lightning_fastdata.results.summary import RunSummary

__all__ = ["add_compare", "add_report"]


def add_report(commands: Any) -> None:
    """Add ``report`` to the parser.

    Args:
        commands: What ``add_subparsers`` gave.
    """
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


def add_compare(commands: Any) -> None:
    """Add ``compare`` to the parser.

    Args:
        commands: What ``add_subparsers`` gave.
    """
    compare = commands.add_parser("compare", help="two runs side by side, from the files that save_to wrote")
    compare.add_argument("run_file", metavar="A", help="the file of the run before")
    compare.add_argument("other_file", metavar="B", help="the file of the run after; differences are B less A")
    compare.add_argument("--json", action="store_true", help="print both summaries and their difference as JSON only")
    compare.set_defaults(run=_compare)


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
        print_json(result.to_dict())
    else:
        make_console().print(tuning_view(result))
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
        print_json(summary.to_dict(), run.problems)
    else:
        from lightning_fastdata.report.text import summary_table

        make_console().print(summary_table(summary, problems=run.problems))
    if arguments.html is not None:
        _write_html(arguments, run, summary)
        # With --json nothing but JSON goes where a program reads.
        (sys.stderr if arguments.json else sys.stdout).write(f"Written: {arguments.html}\n")
    return 0 if arguments.fail_above is None else _gate(summary, arguments.fail_above)


def _write_html(arguments: argparse.Namespace, run: "RunFile", summary: "RunSummary") -> None:
    """Write the page; the run's own file is not overwritten."""
    from lightning_fastdata.report.html.page import html_page
    from lightning_fastdata.results.files import IN_WRITABLE_FOLDER, explained

    out: Path = arguments.html
    source = Path(arguments.run_file)
    if out.exists() and out.samefile(source):
        raise FastDataError(
            f"--html {str(out)!r} is the run file itself.",
            expected="another file, which is overwritten",
            fix=f"Give --html {source.with_suffix('.html')}",
        )
    page = html_page(summary, run.records, title=source.name, problems=run.problems)
    what, fix = f"--html {str(out)!r}: cannot write there", "Make its folder, or choose another path."
    with explained(what, expected=IN_WRITABLE_FOLDER, fix=fix):
        # The file name of a sample may hold bytes that are no text.
        out.write_text(page, encoding="utf-8", errors="backslashreplace")


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
        print_json({"a": a.to_dict(), "b": b.to_dict(), "difference": differences(a, b)}, problems)
    else:
        make_console().print(side_by_side(a, b, _column_titles(*names), problems=problems))
    return 0


def _column_titles(a: str, b: str) -> tuple[str, str]:
    """Two paths without the folders that both are in: two columns have to stand side by side."""
    left, right = Path(a).parts, Path(b).parts
    shared = 0
    while shared < min(len(left), len(right)) - 1 and left[shared] == right[shared]:
        shared += 1
    return str(Path(*left[shared:])), str(Path(*right[shared:]))
