"""What the callbacks share: a base class, what of them is pickled, and a guard.

A fault of this package in a callback ends what the callback does, never the training.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from lightning.pytorch import Callback as CallbackBase
else:
    CallbackBase = object  # so that neither Lightning package is imported here

__all__ = ["CallbackBase", "GivesUp", "guarded", "state_without"]


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


def state_without(callback: object, *names: str) -> dict[str, Any]:
    """What of a callback is pickled.

    Args:
        callback: The callback. Lightning itself hangs ``log`` and ``log_dict`` onto it, which stay here.
        names: Attributes that stay in their process; in another one they are None.
    """
    kept = {name: value for name, value in vars(callback).items() if name not in ("log", "log_dict")}
    return kept | dict.fromkeys(names)
