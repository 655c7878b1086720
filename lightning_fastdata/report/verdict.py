"""A verdict as text: the sentence in its color, and what to try first."""

from rich.text import Text

from lightning_fastdata.report.terminal import clean
from lightning_fastdata.results.verdict import Verdict

__all__ = ["verdict_lines", "verdict_text"]

_STYLES = {"fine": "green", "moderate": "yellow", "input-bound": "red"}


def verdict_text(verdict: Verdict) -> Text:
    """The sentence."""
    return Text(clean(verdict.text), style=_STYLES.get(verdict.level, ""))


def verdict_lines(verdict: Verdict) -> list[Text]:
    """The sentence, and below it the one change to try first, where there is one."""
    lines = [verdict_text(verdict)]
    if verdict.try_first:
        lines.append(Text.assemble(("Try first: ", "bold"), clean(verdict.try_first)))
    return lines
