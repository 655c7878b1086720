"""Run `make demo` in a terminal of its own and keep what it showed as a picture: docs/images/demo.svg.

python docs/record_terminal.py              # waits until nothing else uses the machine, for an hour at most
python docs/record_terminal.py --cast FILE  # draw again what an earlier run printed

The figures are those of a real run, so it is thrown away when other programs used more than 5 % of the CPUs meanwhile.
Linux only.
"""

import argparse
import fcntl
import io
import os
import pty
import re
import resource
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "demo.svg"
SHOWN = "make demo"
COMMAND = ("make", "--old-file=.venv/.installed", "demo")  # the same, but never installs anything
COLUMNS = 104
OTHERS_AT_MOST = 0.05
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cast", type=Path, help="what an earlier run printed, with its control characters")
    parser.add_argument("--keep", type=Path, help="where to keep what this run printed")
    parser.add_argument("--out", type=Path, default=PICTURE)
    args = parser.parse_args()
    printed = args.cast.read_bytes().decode() if args.cast else run_undisturbed()
    if args.keep:
        args.keep.write_bytes(printed.encode())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(picture(printed), encoding="utf-8")
    print(f"{args.out}: {args.out.stat().st_size / 1024:.0f} KiB")


def run_undisturbed(patience_s: float = 3600) -> str:
    """What the command printed in a run during which nothing else used the machine."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if others_share(lambda: time.sleep(8)) > OTHERS_AT_MOST:
            continue
        printed: list[str] = []
        share = others_share(lambda: printed.append(run(COMMAND)))  # noqa: B023 (called at once)
        print(f"other programs used {share:.1%} of the CPUs during this run", file=sys.stderr)
        if share <= OTHERS_AT_MOST:
            return printed[0]
    sys.exit("The machine was never idle for long enough.")


def others_share(work) -> float:
    """Part of all CPUs' time that went neither into idling nor into `work` and its processes (0..1)."""
    total, idle, own = (after - before for before, after in zip(*measured(work), strict=True))
    return max(0.0, (total - idle - own) / total)


def measured(work) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    before = cpu_times()
    work()
    return before, cpu_times()


def cpu_times() -> tuple[float, float, float]:
    """CPU time of the machine, idle time of it, and of this process with its children (s)."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    hertz = os.sysconf("SC_CLK_TCK")
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return sum(ticks) / hertz, (ticks[3] + ticks[4]) / hertz, own


def run(command: tuple[str, ...]) -> str:
    """What a command writes into a terminal, with its control characters."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 200, COLUMNS, 0, 0))
    # COLUMNS would win over the terminal's size
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    parts = []
    while part := read(ours):
        parts.append(part)
    if process.wait() != 0:
        sys.exit(f"{' '.join(command)} failed:\n{b''.join(parts).decode()}")
    return b"".join(parts).decode()


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # how Linux says that the other end is closed
        return b""


def last_screen(printed: str) -> str:
    """The lines as they stand at the end: progress bars rewrite theirs with "return", "line up" and "erase line"."""
    rows, row, rewrite = [""], 0, False
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", printed):
        control = re.fullmatch(r"\x1b\[([0-9;?]*)([A-Za-z])", part)
        if part == "\r":
            rewrite = True
        elif part == "\n":
            row, rewrite = row + 1, False
            if row == len(rows):
                rows.append("")
        elif control and control[2] == "A":
            row = max(0, row - int(control[1] or 1))
        elif control and control[2] == "K":
            rows[row] = ""
        elif control is None or control[2] == "m":
            rows[row] = part if rewrite else rows[row] + part
            rewrite = False
    return "\n".join(rows).rstrip()


def picture(printed: str) -> str:
    """The text as an SVG with a dark window of its own, readable on light and on dark pages; no fonts are fetched."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "bold green"), (SHOWN, "bold")))
    for line in last_screen(printed).lstrip("\n").splitlines():
        console.print(Text.from_ansi(line.rstrip()), soft_wrap=False, highlight=False)
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = form.replace("font-family: Fira Code, monospace;", f"font-family: {FONTS};")
    svg = console.export_svg(title=SHOWN, code_format=form, unique_id="demo")
    return re.sub(r"[ \t]+$", "", re.sub(r"\n\s*\n+", "\n", svg), flags=re.MULTILINE)


if __name__ == "__main__":
    main()
