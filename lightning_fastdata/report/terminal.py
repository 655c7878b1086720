"""Text for a terminal, a file or a pipe: text from elsewhere (paths, hosts, notes) made printable, and a verdict."""

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from lightning_fastdata.results.verdict import Verdict

__all__ = ["Printable", "clean", "shortened", "verdict_text"]

_STYLES = {"fine": "green", "moderate": "yellow", "input-bound": "red"}


class Printable:
    """Renderables that also go into a pipe whose encoding lacks some of their characters, instead of failing there.

    Args:
        parts: What to print, one below the other.
    """

    def __init__(self, *parts: RenderableType) -> None:
        self.parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich asks for: the parts, with an escape where the encoding has no such character."""
        for segment in console.render(Group(*self.parts), options):
            yield Segment(_encodable(segment.text, options.encoding), segment.style, segment.control)


def _encodable(text: str, encoding: str) -> str:
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def clean(text: str) -> str:
    """The text on one line, control characters written out: a file's name may hold anything."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def shortened(text: str, most: int) -> str:
    """The end of a text that is too long, which of a path says the most.

    Args:
        text: Any text.
        most: Characters to keep at most (count), the dots included.
    """
    text = clean(text)
    return text if len(text) <= most else f"...{text[3 - most :]}"


def verdict_text(verdict: Verdict) -> Text:
    """The sentence of a verdict in its color."""
    return Text(clean(verdict.text), style=_STYLES.get(verdict.level, ""))
