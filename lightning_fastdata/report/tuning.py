"""A tuning in words and as a table."""

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lightning_fastdata.report.terminal import Printable, clean
from lightning_fastdata.report.units import count, milliseconds, percent, rate, seconds
from lightning_fastdata.results.tuning import Trial, TuneResult

__all__ = ["arguments_line", "trial_line", "tuning_view"]


def tuning_view(result: TuneResult) -> RenderableType:
    """What was measured, tried and decided.

    Args:
        result: What ``tune_loader`` or ``LoaderTuner`` found.

    Returns:
        Something to hand to ``rich.console.Console.print``; the decision comes last, where a terminal stops.
    """
    parts: list[RenderableType] = []
    if result.dataset:
        size = "" if result.batch_size is None else f", batches of {count(result.batch_size)}"
        parts.append(Text(f"Workers for {clean(result.dataset)}{size}", style="bold"))
    if result.probe is not None:
        parts.append(_probe_rows(result))
    if result.trials:
        parts.append(_trial_rows(result))
    parts.extend(Text(f"Note: {clean(note)}") for note in result.notes)
    if result.interrupted:
        parts.append(Text("Interrupted: what was known by then.", style="yellow"))
    parts.append(Text(f"{_sentence(clean(result.reason))}."))
    if result.throughput_limit:
        parts.append(Text(f"More workers will not do: {clean(result.throughput_limit)}.", style="yellow"))
    if result.num_workers is not None:
        parts.append(Text(f"Take: {arguments_line(result)}", style="bold"))
    return Printable(*parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def arguments_line(result: TuneResult) -> str:
    """The decided arguments, to paste into ``DataLoader(...)`` or a DataModule.

    Args:
        result: What was found.
    """
    return ", ".join(f"{name}={value!r}" for name, value in result.arguments().items())


def trial_line(trial: Trial) -> str:
    """One trial in a line, for a log.

    Args:
        trial: What was tried.
    """
    if trial.step_s is None:
        return f"{trial.name}: {clean(trial.verdict) or 'not measured'}"
    return f"{trial.name}: {milliseconds(trial.step_s)} a step, {percent(trial.wait_share)} of it waiting"


def _probe_rows(result: TuneResult) -> Table:
    found = result.probe
    assert found is not None
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    step = "not known" if result.consumer is None else milliseconds(result.consumer.step_s)
    disk = "" if not found.disk_bytes else f", {_size(found.disk_bytes)} of it from a disk"
    memory = "not measured" if found.worker_bytes is None else _size(found.worker_bytes)
    for name, text in (
        ("One worker, a batch", f"{milliseconds(found.batch_s)}, {milliseconds(found.batch_cpu_s)} of CPU"),
        ("  varies by", percent(found.batch_s_cv)),
        ("  its size", f"{_size(found.batch_bytes)}{disk}"),
        ("  handing it over", milliseconds(found.worker_transfer_s)),
        ("A worker's start", f"{seconds(found.start_s)}, memory of its own {memory}"),
        ("A step without waiting", step),
        ("Usable cores", "not known" if result.cpus is None else f"{result.cpus:.3g}"),
    ):
        table.add_row(Text(name), Text(text))
    return table


def _size(size_bytes: int) -> str:
    if size_bytes >= 2**20:
        return f"{size_bytes / 2**20:,.1f} MiB"
    return f"{size_bytes / 2**10:,.1f} KiB"


def _trial_rows(result: TuneResult) -> Table:
    table = Table(box=box.SIMPLE_HEAVY, pad_edge=False)
    table.add_column("Tried")
    for heading in ("steps/s", "a step", "predicted", "waiting", "start"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for trial in result.trials:
        table.add_row(
            Text(trial.name),
            rate(1 / trial.step_s) if trial.step_s else "",
            milliseconds(trial.step_s),
            milliseconds(trial.predicted_step_s) if trial.predicted_step_s is not None else "-",
            percent(trial.wait_share),
            seconds(trial.started_s) if trial.started_s is not None else "-",
            Text(clean(trial.verdict)),
            style="bold" if trial.verdict == "taken" else None,
        )
    return table
