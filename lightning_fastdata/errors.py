"""The one error type of the package, the checks of arguments that raise it, and warnings, which never do."""

import logging
import math
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any

__all__ = ["FastDataError", "check_bool", "check_choice", "check_int", "check_share", "warn"]


class FastDataError(Exception):
    """Something that cannot work, said before it costs an hour.

    Args:
        what: What is wrong, with the offending value.
        expected: What would have been right.
        fix: What to do now.

    The message has three lines, so that the last thing in a terminal is the thing to do.
    """

    def __init__(self, what: str, *, expected: str = "", fix: str = "") -> None:
        self.what, self.expected, self.fix = what, expected, fix
        lines = [what]
        if expected:
            lines.append(f"  Expected: {expected}")
        if fix:
            lines.append(f"  Fix: {fix}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # An exception crosses process borders by pickle; keyword-only arguments need help.
        return _rebuild, (self.what, self.expected, self.fix)


def _rebuild(what: str, expected: str, fix: str) -> FastDataError:
    return FastDataError(what, expected=expected, fix=fix)


def warn(text: str, *, stacklevel: int = 2) -> None:
    """Warn; where warnings are errors, log: a warning of ours must not end a run.

    Args:
        text: The message.
        stacklevel: As for ``warnings.warn``: 2 = the caller of the calling function.
    """
    try:
        warnings.warn(text, stacklevel=stacklevel + 1)
    except UserWarning:
        logging.getLogger(__name__).warning(text)


def check_int(
    name: str,
    value: Any,
    minimum: int,
    maximum: int | None = None,
    *,
    allow: tuple[str | None, ...] = (),
    fix: str = "",
) -> Any:
    """Refuse an argument that is no whole number within its bounds.

    Args:
        name: The argument's name, as the user wrote it.
        value: What the user passed; NumPy's whole numbers count, True and False do not.
        minimum: The least value.
        maximum: The largest value; None = no bound.
        allow: Other values that pass, such as ``("auto", None)``.
        fix: What to do instead; "" = ``pass name="auto"`` where that passes, else to change the argument.

    Returns:
        The value as Python's int, or the one of ``allow``.

    Raises:
        FastDataError: Names the argument, its value, what was expected and what to do.
    """
    if _is_allowed(value, allow):
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if number >= minimum and (maximum is None or number <= maximum):
            return number
    bounds = f">= {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    raise _bad_argument(name, value, f"a whole number {bounds}", allow, fix)


def check_bool(name: str, value: Any, *, allow: tuple[str | None, ...] = (), fix: str = "") -> Any:
    """Refuse an argument that is neither True nor False; the arguments and the error are those of ``check_int``."""
    if not isinstance(value, bool) and not _is_allowed(value, allow):
        raise _bad_argument(name, value, "True, False" if allow else "True or False", allow, fix)
    return value


def check_share(name: str, value: Any, *, allow: tuple[str | None, ...] = (), fix: str = "") -> Any:
    """Refuse an argument that is no share from 0 to 1; the arguments and the error are those of ``check_int``."""
    if _is_allowed(value, allow):
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and 0 <= value <= 1):
        raise _bad_argument(name, value, "a share from 0 to 1 (0.2 is 20 %)", allow, fix)
    return value


def check_choice(name: str, value: Any, choices: Sequence[str | None], *, fix: str = "") -> None:
    """Refuse an argument that is none of some words, or None; the error is that of ``check_int``."""
    if not _is_allowed(value, choices):
        raise _bad_argument(name, value, f'"{choices[0]}"', choices[1:], fix)


def _is_allowed(value: Any, allow: Sequence[str | None]) -> bool:
    return (value is None or isinstance(value, str)) and value in allow


def _bad_argument(name: str, value: Any, expected: str, allow: Sequence[str | None], fix: str) -> FastDataError:
    others = ["None" if one is None else f'"{one}"' for one in allow]
    if others:
        expected = f"{', '.join([expected, *others[:-1]])} or {others[-1]}"
    if not fix:
        fix = f'pass {name}="auto".' if "auto" in allow else f"change {name}, or leave it out."
    return FastDataError(f"{name}={value!r}.", expected=f"{expected}.", fix=fix)
