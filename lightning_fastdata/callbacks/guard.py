"""A fault in a callback of this package ends what the callback does, never the training."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["GivesUp", "guarded"]


class GivesUp(Protocol):
    """A callback that knows what to do after a fault of its own."""

    def _give_up(self, error: Exception) -> None:
        """Stop what the callback does, and warn of it once; called again, do nothing."""


P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=GivesUp)


def guarded(hook: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R | None]:
    """Hand what a method raises to the callback's own ``_give_up``, and let the training go on.

    Exceptions that are no ``Exception``, such as ``KeyboardInterrupt``, pass.

    Args:
        hook: A hook, or another method of the callback.

    Returns:
        The method; after a fault it gives None.
    """

    @functools.wraps(hook)
    def run_hook(callback: C, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return hook(callback, *args, **kwargs)
        except Exception as error:
            callback._give_up(error)
            return None

    return run_hook
