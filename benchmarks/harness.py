"""What the benchmarks share: where they ran, fair order, a table, a file."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def machine_facts() -> dict[str, Any]:
    """Where and when, with versions: a figure without them is a rumour."""
    import lightning
    import torch

    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "usable_cpus": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def rotated(names: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """The names in each round, starting one further each time, so that no variant always runs first."""
    for shift in range(rounds):
        start = shift % len(names)
        yield [*names[start:], *names[:start]]


def interleaved(variants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """One measurement of each variant a round, in rotated order."""
    results: dict[str, list[Any]] = {name: [] for name in variants}
    for order in rotated(list(variants), rounds):
        for name in order:
            results[name].append(variants[name]())
    return results


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The figures, then the machine."""
    table = Table(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
    facts = machine_facts()
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that already knows ``--json``."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="OUT", help="write figures and machine there")
    return made


def write_json(path: Path | None, results: Mapping[str, Any]) -> None:
    """Figures and machine in one file, if a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine_facts(), **results}, indent=2) + "\n")
