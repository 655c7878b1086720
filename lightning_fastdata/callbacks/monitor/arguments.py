"""What may be given to a DataWaitMonitor."""

import math
import os
from typing import Any

from lightning_fastdata.errors import FastDataError

__all__ = ["check_arguments"]


def check_arguments(log_every_n_steps: Any, warn_above: Any, max_warnings: Any, save_to: Any) -> None:
    """Refuse what cannot be meant.

    Raises:
        FastDataError: Names the argument, what was expected, and what to do.
    """
    whole = isinstance(log_every_n_steps, int) and not isinstance(log_every_n_steps, bool)
    if log_every_n_steps is not None and not (whole and log_every_n_steps >= 1):
        raise _bad_argument("log_every_n_steps", log_every_n_steps, "a whole number from 1, or None for the Trainer's")
    number = isinstance(warn_above, (int, float)) and not isinstance(warn_above, bool)
    if warn_above is not None and not (number and math.isfinite(warn_above) and 0 <= warn_above <= 1):
        raise _bad_argument("warn_above", warn_above, "a share between 0 and 1 (0.2 is 20 %), or None for no warnings")
    if not isinstance(max_warnings, int) or isinstance(max_warnings, bool) or max_warnings < 0:
        raise _bad_argument("max_warnings", max_warnings, "a whole number from 0")
    if save_to is not None and (not isinstance(save_to, (str, os.PathLike)) or not os.fspath(save_to)):
        raise _bad_argument("save_to", save_to, "the path of a file, or None for no file")


def _bad_argument(name: str, value: Any, expected: str) -> FastDataError:
    return FastDataError(
        f"DataWaitMonitor({name}={value!r}).", expected=expected, fix=f"Change {name}, or leave it out."
    )
