"""``lightning-fastdata tune``: the same names on the command line as with LightningCLI."""

import importlib.util
import inspect
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_fastdata.callbacks.tuner.search import tune_loader
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.trainer_context import iter_loaders
from lightning_fastdata.report.tuning import trial_line, tuning_view
from lightning_fastdata.results.tune_file import write_tuning
from lightning_fastdata.results.tuning import Trial, TuneResult

__all__ = ["run", "train_loader"]

_DESCRIPTION = (
    "Finds num_workers and prefetch_factor for a DataModule's training data by trying. The DataModule is named, and"
    " gets its arguments, as with LightningCLI. Ctrl-C keeps what is known so far."
)


def run(argv: Sequence[str], console: Console) -> int:
    """Run the command.

    Args:
        argv: The arguments after ``tune``.
        console: Where the table goes.

    Returns:
        The exit code: 0; 1 where nothing could be measured.

    Raises:
        FastDataError: jsonargparse is missing, a DataModule that cannot be made or has no such loader, a file that
            cannot be written.
    """
    parser = _parser()
    arguments = parser.parse_args(list(argv))
    if arguments.save_to is not None:
        _check_path(arguments.save_to)  # before ten seconds are spent
    # The older name goes with jsonargparse 5; before 4.49 there is no other.
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    values = instantiate(arguments)
    loader = train_loader(values.data)
    quiet = bool(values.json)
    result = _tuned(loader, values, Console(stderr=True, quiet=quiet or not sys.stderr.isatty()))
    if quiet:
        sys.stdout.write(json.dumps(result.to_dict(), indent=2) + "\n")
    else:
        console.print(tuning_view(result))
        flags = _flags(result, type(values.data))
        if flags:
            console.print(f"On a command line: {flags}", soft_wrap=True)
    if values.save_to is not None:
        write_tuning(values.save_to, result)
        (sys.stderr if quiet else sys.stdout).write(f"Written: {values.save_to}\n")
    return 0 if result.num_workers is not None else 1


def _check_path(path: str) -> None:
    folder = Path(path).absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise FastDataError(
            f"--save-to {path!r}: the folder {str(folder)!r} is not there or cannot be written.",
            expected="a file path in a folder that can be written.",
            fix="choose another path.",
        )


def _flags(result: TuneResult, kind: type) -> str:
    """What was found as options of the DataModule, as far as it takes them."""
    parameters = inspect.signature(kind).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    taken = {name: value for name, value in result.arguments().items() if takes_any or name in parameters}
    return " ".join(f"--data.{name} {str(value).lower()}" for name, value in taken.items())


def _parser() -> Any:
    if importlib.util.find_spec("jsonargparse") is None:
        raise FastDataError(
            "lightning-fastdata tune needs jsonargparse, which is not installed.",
            expected="jsonargparse, which makes a DataModule from the command line.",
            fix='pip install "jsonargparse[signatures]"',
        )
    from jsonargparse import ArgumentParser

    here = os.getcwd()
    if here not in sys.path:  # a script of the user's would have its own folder there
        sys.path.insert(0, here)
    parser = ArgumentParser(prog="lightning-fastdata tune", description=_DESCRIPTION)
    parser.add_argument("--config", action="config", help="a YAML file with the arguments")
    parser.add_argument(
        "--step-ms",
        type=float,
        default=None,
        help="how long training takes for a batch without waiting, as DataWaitMonitor reports it (ms); left out: the"
        " fewest workers that load as fast as any",
    )
    parser.add_argument("--budget-s", type=float, default=10.0, help="time that it may take (s)")
    parser.add_argument("--save-to", type=str, default=None, help="a file for `lightning-fastdata report`")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON, nothing else")
    parser.add_subclass_arguments(_bases(), "data", required=True, help="the DataModule: my_module.MyDataModule")
    return parser


def _bases() -> tuple[type, ...]:
    """LightningDataModule of each Lightning package that is there; our own classes are then known by their names."""
    from lightning.pytorch import LightningDataModule

    import lightning_fastdata.lightning.vision  # noqa: F401

    bases: tuple[type, ...] = (LightningDataModule,)
    if importlib.util.find_spec("pytorch_lightning") is not None:
        import pytorch_lightning

        bases += (pytorch_lightning.LightningDataModule,)
    return bases


def train_loader(datamodule: Any) -> Any:
    """A DataModule's training loader, made as in a notebook, without a Trainer.

    Args:
        datamodule: The DataModule.

    Raises:
        FastDataError: It gives none without a Trainer, or several.
    """
    name = type(datamodule).__name__
    try:
        datamodule.prepare_data()
        datamodule.setup("fit")
        loader = datamodule.train_dataloader()
    except FastDataError:
        raise
    except Exception as error:
        raise FastDataError(
            f"{name} gave no training loader: {type(error).__name__}: {error}.",
            expected="a DataModule whose prepare_data(), setup('fit') and train_dataloader() work without a Trainer.",
            fix="look at what it asks self.trainer for; LoaderTuner tunes it within a run instead.",
        ) from error
    loaders = list(iter_loaders(loader))
    if len(loaders) != 1:
        raise FastDataError(
            f"{name} has {len(loaders)} training loaders.",
            expected="one: several share the workers.",
            fix="tune the datasets one by one with tune_loader().",
        )
    return loaders[0]


def _tuned(loader: Any, values: Any, console: Console) -> TuneResult:
    """Tune, with a bar that shows the trials as they come."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("one worker alone", total=values.budget_s)
        began = time.perf_counter()

        def show(trial: Trial) -> None:
            progress.update(task, completed=time.perf_counter() - began, description=trial_line(trial))

        step_s = None if values.step_ms is None else values.step_ms / 1000
        return tune_loader(loader, step_s=step_s, budget_s=values.budget_s, on_trial=show)
