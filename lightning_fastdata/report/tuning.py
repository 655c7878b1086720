"""A tuning in words and as a table."""

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lightning_fastdata.report.terminal import Printable, clean
from lightning_fastdata.report.units import NOT_MEASURED, count, milliseconds, number, percent, rate, seconds, size
from lightning_fastdata.results.tuning import Trial, TuneResult

__all__ = ["arguments_line", "trial_line", "tuning_view"]


def tuning_view(result: TuneResult) -> RenderableType:
    """What was measured, tried and decided.

    Args:
        result: What ``tune_loader`` or ``LoaderTuner`` returned.

    Returns:
        Something to hand to ``rich.console.Console.print``; the decision comes last, where a terminal stops.
    """
    parts: list[RenderableType] = []
    if result.dataset:
        batches = "" if result.batch_size is None else f", batches of {count(result.batch_size)}"
        parts.append(Text(f"Workers for {clean(result.dataset)}{batches}", style="bold"))
    if result.probe is not None:
        parts.append(_probe_rows(result))
    if result.trials:
        parts.append(_trial_rows(result))
    parts.extend(Text(f"Note: {clean(note)}") for note in result.notes)
    if result.interrupted:
        parts.append(Text("Interrupted: only what was measured until then.", style="yellow"))
    reason = clean(result.reason)
    parts.append(Text(f"{reason[:1].upper()}{reason[1:]}."))
    if result.throughput_limit:
        parts.append(Text(f"More workers do not help: {clean(result.throughput_limit)}.", style="yellow"))
    if result.num_workers is not None:
        parts.append(Text(f"Take: {arguments_line(result)}", style="bold"))
    return Printable(*parts)


def arguments_line(result: TuneResult) -> str:
    """The decided arguments, to paste into ``DataLoader(...)`` or a DataModule.

    Args:
        result: A tuning.
    """
    return ", ".join(f"{name}={value!r}" for name, value in result.arguments().items())


def trial_line(trial: Trial) -> str:
    """One trial in a line, for a log.

    Args:
        trial: What was tried.
    """
    if trial.step_s is None:
        return f"{trial.name}: {clean(trial.verdict) or NOT_MEASURED}"
    return f"{trial.name}: {milliseconds(trial.step_s)} a step, {percent(trial.wait_share)} of it data wait"


def _probe_rows(result: TuneResult) -> Table:
    probe = result.probe
    assert probe is not None
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    disk = "" if not probe.disk_bytes else f", {size(probe.disk_bytes)} of it from a disk"
    for name, text in (
        ("Batch in one worker", f"{milliseconds(probe.batch_s)}, {milliseconds(probe.batch_cpu_s)} of CPU"),
        ("  varies by", percent(probe.batch_s_cv)),
        ("  its size", f"{size(probe.batch_bytes)}{disk}"),
        ("  worker-to-main transfer", milliseconds(probe.worker_transfer_s)),
        ("Worker startup", f"{seconds(probe.start_s)}, memory of its own {size(probe.worker_bytes)}"),
        ("Step without data wait", milliseconds(result.consumer.step_s if result.consumer else None)),
        ("Usable cores", NOT_MEASURED if result.cpus is None else number(result.cpus)),
    ):
        table.add_row(Text(name), Text(text))
    return table


def _trial_rows(result: TuneResult) -> Table:
    table = Table(box=box.SIMPLE_HEAVY, pad_edge=False)
    table.add_column("Tried")
    for heading in ("steps/s", "a step", "predicted", "data wait", "startup"):
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
