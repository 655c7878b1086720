"""What the benchmarks share: where they ran, fair order, photographs, a table, a file."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
SHARED_PHOTOS = ROOT.parent / "shared" / "photos"


def machine_facts() -> dict[str, Any]:
    """Where and when, with versions: a figure without them is a rumor."""
    import lightning
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
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
    for column, heading in enumerate(headings):
        table.add_column(heading, justify="left" if column == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
    facts = machine_facts()
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)


def parser(doc: str | None, *, photos: bool = False) -> argparse.ArgumentParser:
    """A parser that already knows ``--json``, and ``--photos`` if the benchmark needs photographs."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="OUT", help="write figures and machine there")
    if photos:
        made.add_argument("--photos", type=Path, metavar="FOLDER", help="train/<class>/*.jpg, instead of the default")
    return made


def photos_folder(folder: Path | None, default: Path | None = SHARED_PHOTOS) -> Path:
    """``folder``, else ``default`` where it exists, else the photographs of the demo, which scikit-image ships."""
    if folder is not None:
        return folder
    if default is not None and default.is_dir():
        return default
    sys.path.insert(0, str(ROOT / "examples"))
    from photographs import default_cache, write_photographs

    return write_photographs(default_cache())


def write_json(path: Path | None, results: Mapping[str, Any]) -> None:
    """Figures and machine in one file, if a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine_facts(), **results}, indent=2) + "\n")
