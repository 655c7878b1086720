"""The figures of a summary in the order in which they are shown.

Data only: names, values and how a value is written. ``text.py`` and ``compare.py`` make tables of them, the page lists.
"""

from collections.abc import Callable
from dataclasses import dataclass

from lightning_fastdata.report.units import is_known, percent, seconds

__all__ = ["CAUSES", "Figure", "Section", "share_of"]

CAUSES = {
    "stalled": "Stalled on workers",
    "main_process": "Loaded in the main process",
    "worker_transfer": "Worker-to-main transfer",
    "unknown": "Cause not measured",
}
"""Parts of a data wait, from the bottom of a column to its top."""


@dataclass(frozen=True)
class Figure:
    """One figure with its name."""

    name: str
    """What a reader calls it; unique in its section."""
    value: float | None = None
    """The figure, in the unit that ``show`` takes; None = not measured, or there is only a text."""
    show: Callable[[float | None], str] = seconds
    """How the figure is written."""
    text: str | None = None
    """What is written instead of the figure, where there is more to say than a number."""
    beside: str = ""
    """A few words after the figure, in a column of their own."""
    share: float | None = None
    """The figure as a share of its whole (0..1), written after it."""
    may_fold: bool = False
    """Whether the line may go where it reads 0.00 s, or has only a text."""
    id: str = ""
    """Its element on the page; "" = the page does not list it."""
    in_text: bool = True
    """Whether the text report shows it."""
    in_comparisons: bool = True
    """Whether the comparison of two runs shows it."""

    @property
    def shown(self) -> str:
        """The figure as a reader sees it."""
        return self.show(self.value) if self.text is None else self.text

    @property
    def shown_beside(self) -> str:
        """What stands after the figure: its share, or the words."""
        return self.beside if self.share is None else percent(self.share)

    @property
    def is_nothing(self) -> bool:
        """Whether it may go, because it says nothing."""
        return self.may_fold and self.shown in (self.show(0.0), self.text)

    @property
    def on_page(self) -> bool:
        """Whether the page lists it: not where it reads 0.00 s and nothing stands beside it."""
        return bool(self.id and (self.beside or not self.is_nothing))


@dataclass(frozen=True)
class Section:
    """Figures that belong together."""

    heading: str
    """What they are about; "" for the first ones."""
    figures: tuple[Figure, ...]
    """From top to bottom; without any nothing is shown."""


def share_of(amount: float | None, total: float | None) -> float | None:
    """``amount / total``; None where either is not known or the total is 0."""
    if amount is None or total is None or total <= 0 or not is_known(amount / total):
        return None
    return amount / total
