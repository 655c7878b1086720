"""A fault of this package in a callback ends what the callback does, never the training."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["GivesUp", "guarded"]


class GivesUp(Protocol):
    """A callback, or a part of one, that knows what to do after a fault of its own."""

    def _give_up(self, error: Exception) -> None:
        """Do no more from here on, and let the user know once."""


P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=GivesUp)


def guarded(hook: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R | None]:
    """Hand what a method raises to ``_give_up`` of its object, and let the training go on.

    What is no ``Exception``, such as ``KeyboardInterrupt``, passes.

    Args:
        hook: A hook, or another method.

    Returns:
        The method; after a fault it gives None.
    """

    @functools.wraps(hook)
    def run_hook(owner: C, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return hook(owner, *args, **kwargs)
        except Exception as error:
            owner._give_up(error)
            return None

    return run_hook
