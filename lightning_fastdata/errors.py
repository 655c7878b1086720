"""The one error type of the package."""

__all__ = ["FastDataError"]


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
