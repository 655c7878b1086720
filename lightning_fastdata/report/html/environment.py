"""The machine, the loaders' plans with their reasons, versions and notes: what a reader needs to judge the figures.

All of it comes from a file that another version may have written, so nothing is taken for granted but that it is there.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning_fastdata.planning.options import NEED_WORKERS
from lightning_fastdata.report.html.tags import Html, facts, join, section, table, tag
from lightning_fastdata.report.units import NOT_MEASURED, count, seconds
from lightning_fastdata.results.summary import RunSummary

__all__ = ["machine_section", "notes_section", "plans_section"]

_GIB = 1 << 30


def machine_section(summary: RunSummary) -> Html:
    """What the hardware probe found."""
    hardware = summary.hardware
    shown = list(_hardware(hardware))
    if not shown:
        return section("machine", "Machine", tag("p", f"The hardware: {NOT_MEASURED}.", class_="none"))
    notes = [str(note) for note in _list(hardware.get("notes"))]
    listed = tag("ul", *(tag("li", note) for note in notes), class_="notes") if notes else None
    return section("machine", "Machine", facts(shown), listed)


def _hardware(hardware: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    usable, per_rank = _number(hardware.get("usable_cpus")), _number(hardware.get("cpus_per_rank"))
    if usable is not None:
        limit = hardware.get("rank_binding_limit")
        source = limit.get("source") if isinstance(limit, Mapping) else None
        yield "Usable CPUs", _short(usable) + (f" ({source})" if source else "")
    if per_rank is not None and per_rank != usable:
        yield "CPUs for each rank", _short(per_rank)
    cores = _number(hardware.get("physical_cores"))
    if cores is not None:
        yield "Physical cores", count(cores)
    yield from _memory(hardware, "Memory", "ram_bytes", "ram_available_bytes", "available")
    if _number(hardware.get("ram_limit_bytes")) is not None:
        yield (
            "Memory limit",
            f"{_gib(hardware['ram_limit_bytes'])} ({hardware.get('ram_limit_source') or 'source unknown'})",
        )
    yield from _memory(hardware, "/dev/shm", "shm_total_bytes", "shm_free_bytes", "free")
    files = _number(hardware.get("open_file_limit"))
    if files is not None:
        yield "Open files, at most", count(files)
    if isinstance(hardware.get("accelerators"), (list, tuple)):
        found = Counter(
            f"{one.get('name', 'unknown')} ({one.get('kind', 'unknown')})"
            for one in _list(hardware["accelerators"])
            if isinstance(one, Mapping)
        )
        named = [f"{number} × {name}" if number > 1 else name for name, number in found.items()]
        yield "Accelerators", ", ".join(named) or "none found"


def _memory(hardware: Mapping[str, Any], called: str, whole: str, free: str, word: str) -> Iterator[tuple[str, str]]:
    total, left = _number(hardware.get(whole)), _number(hardware.get(free))
    if total is not None:
        yield called, _gib(total) + (f", {_gib(left)} {word}" if left is not None else "")


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _gib(value: float) -> str:
    size = value / _GIB
    return f"{size:,.{0 if size >= 10 else 1 if size >= 1 else 2}f} GiB"


def plans_section(summary: RunSummary) -> Html:
    """The options of each split's loader with the reason for each value."""
    plans = [(split, plan) for split, plan in summary.plans.items() if isinstance(plan, Mapping) and plan]
    if not plans:
        workers = "" if summary.num_workers is None else f" The training loader had num_workers={summary.num_workers}."
        text = f"The DataModule keeps no plan of its loaders.{workers}"
        return section("plan", "Loader options", tag("p", text, class_="none"))
    parts = []
    for split, plan in plans:
        rows = list(_options(plan))
        caption = f"Options of the {split} loader"
        parts += [tag("h3", split), table(("Option", "Value", "Why"), rows, caption=caption, words=3)]
    return section("plan", "Loader options", *parts)


def _options(plan: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    workers = plan.get("num_workers")
    without_workers = isinstance(workers, Mapping) and workers.get("value") == 0
    for name, entry in plan.items():
        if not isinstance(entry, Mapping):
            yield tag("code", name), tag("code", entry), ""
            continue
        by_user = entry.get("source") == "user"
        if without_workers and name in NEED_WORKERS and not by_user:
            continue
        why = join(entry.get("reason", ""), tag("strong", " [you]") if by_user else None)
        yield tag("code", name), tag("code", entry.get("value")), why


def notes_section(summary: RunSummary) -> Html:
    """What a reader has to know, and what ran where."""
    notes = tag("ul", *(tag("li", note) for note in summary.notes), class_="notes") if summary.notes else None
    shown: list[tuple[object, object]] = [("Host", summary.host or "unknown"), ("Start", summary.date or "unknown")]
    shown += [(name, version) for name, version in summary.versions.items()]
    shown.append(("Timed at", "the loader’s next()" if summary.timing_source == "fetch" else summary.timing_source))
    if summary.tail_wait_s:
        shown.append(("Waiting in fetches no step used", seconds(summary.tail_wait_s)))
    if summary.resumed_from is not None:
        shown.append(("Steps before the checkpoint", count(summary.resumed_from.get("steps"))))
    return section("notes", "Notes and versions", notes, facts(shown))
