"""The table at the end of a run, below whatever the Trainer still draws."""

from typing import Any

from rich.console import Console

from lightning_fastdata.report.text import stages_table, summary_table
from lightning_fastdata.results.summary import RunSummary

__all__ = ["end_progress_bar", "print_summary"]


def print_summary(summary: RunSummary, stage: str | None) -> None:
    """Print what was measured, if anything was.

    Args:
        summary: The run so far.
        stage: The evaluation that has ended ("val", "test", "predict"); None for a fit.
    """
    if stage is None:
        if summary.steps:
            Console().print(summary_table(summary))
        return
    stages = [entry for entry in summary.stages if entry.stage == stage]
    if stages:
        Console().print(stages_table(stages))


def end_progress_bar(trainer: Any, pl_module: Any, stage: str) -> None:
    """End the rich bar: it redraws itself below whatever is printed until its own teardown, which comes after ours.

    Args:
        trainer: The Trainer.
        pl_module: The module.
        stage: Lightning's name of what has ended.
    """
    bar = trainer.progress_bar_callback
    if any(cls.__name__ == "RichProgressBar" for cls in type(bar).__mro__):
        bar.teardown(trainer, pl_module, stage)
