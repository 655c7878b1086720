"""What the system says of a file that cannot be used, as an error with a way out."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_fastdata.errors import FastDataError

__all__ = ["IN_WRITABLE_FOLDER", "explained"]

IN_WRITABLE_FOLDER = "a file path in a folder that can be written"


@contextmanager
def explained(what: str, *, expected: str = "", fix: str) -> Iterator[None]:
    """Within it, an ``OSError`` becomes a ``FastDataError``.

    Args:
        what: What cannot be done; the system's reason follows in brackets.
        expected: What would have been right.
        fix: What to do now.

    Raises:
        FastDataError: An ``OSError`` was raised within.
    """
    try:
        yield
    except OSError as error:
        raise FastDataError(f"{what} ({error.strerror or error}).", expected=expected, fix=fix) from error
