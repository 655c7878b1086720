"""HTML that is put together from tags; whatever is not HTML already is escaped on its way into one.

A page is full of text that came from elsewhere (paths, hosts, notes). Escaping is therefore not asked of whoever writes
a section: only ``Html`` is taken as it is, and only this module makes it of plain text.
"""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_fastdata.report.terminal import clean

__all__ = ["Html", "facts", "figure", "join", "json_script", "legend", "section", "table", "tag", "verbatim"]

_VOID = ("link", "meta")
# Up to here a value stays on one line, also on a phone (characters).
_SHORT = 20


class Html(str):
    """Text that is HTML; a plain ``str`` is not."""

    __slots__ = ()


def verbatim(text: str) -> Html:
    """Text of our own (style, script) that stands in the page as it is."""
    return Html(text)


def _escaped(value: object) -> str:
    # ``clean`` writes out control characters and lone surrogates, which a file's name may have and UTF-8 has not.
    return value if isinstance(value, Html) else html.escape(clean(str(value)))


def join(*parts: object) -> Html:
    """The parts one after the other; None and "" are passed over."""
    return Html("".join(_escaped(part) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """One element.

    Args:
        name: The element's name.
        children: Text, which is escaped, or ``Html``; None is passed over.
        attributes: An underscore stands for a hyphen and at the end for nothing (``class_``, ``data_value``); None and
            False leave the attribute out, True gives it no value.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(key if value is True else f'{key}="{_escaped(value)}"')
    opening = f"<{' '.join(parts)}>"
    return Html(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")


def figure(name: str, value: float | None, text: object, /, **attributes: object) -> Html:
    """A key figure: what a reader sees, and the exact value for programs and tests.

    Args:
        name: Its id, after the field it comes from.
        value: The figure as it was measured; None or no number leaves ``data-value`` out.
        text: The figure as a reader sees it.
        attributes: Further attributes.
    """
    exact = None if value is None or not math.isfinite(value) else json.dumps(value)
    return tag(
        "span", text, id=name, class_="figure unknown" if exact is None else "figure", data_value=exact, **attributes
    )


def section(name: str, heading: str, *parts: object, aside: object = "") -> Html:
    """A part of the page with its heading.

    Args:
        name: Its id.
        heading: What it is about.
        parts: What stands in it.
        aside: A sentence below the heading that says how to read it.
    """
    lead = tag("p", aside, class_="lead") if aside else None
    title = tag("h2", heading, id=f"{name}-heading")
    return tag("section", title, lead, *parts, id=name, aria_labelledby=f"{name}-heading")


def table(headings: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str, words: int = 1) -> Html:
    """A table that scrolls within itself where the screen is narrower.

    Args:
        headings: The first row.
        rows: As many cells each; the first one is the row's heading.
        caption: What the table holds, for those who do not see the page.
        words: Columns from the left that hold words and not numbers (count).
    """
    kind = ["words" if place < words else "number" for place in range(len(headings))]
    head = join(*(tag("th", cell, scope="col", class_=of) for cell, of in zip(headings, kind, strict=True)))
    body = [tag("tr", tag("th", row[0], scope="row"), *_cells(row[1:], kind[1:])) for row in rows]
    caption_tag = tag("caption", caption, class_="unseen")
    inner = tag("table", caption_tag, tag("thead", tag("tr", head)), tag("tbody", *body))
    # A region that scrolls must be reachable by keyboard.
    return tag("div", inner, class_="scrolls", tabindex=0, role="region", aria_label=caption)


def _cells(cells: Sequence[object], kinds: Sequence[str]) -> list[Html]:
    return [tag("td", cell, class_=kind) for cell, kind in zip(cells, kinds, strict=True)]


def facts(pairs: Iterable[tuple[object, object]]) -> Html:
    """Names and values side by side."""

    def entry(name: object, value: object) -> Html:
        short = not isinstance(value, Html) and len(str(value)) <= _SHORT
        return tag("div", tag("dt", name), tag("dd", value, class_="short" if short else None))

    return tag("dl", *(entry(name, value) for name, value in pairs), class_="facts")


def legend(entries: Iterable[tuple[str, object]]) -> Html:
    """What the colors of a chart mean.

    Args:
        entries: The class of the mark, and the words.
    """
    marks = (tag("li", tag("span", class_=f"key {mark}"), words) for mark, words in entries)
    return tag("ul", *marks, class_="legend")


def json_script(name: str, values: Any) -> Html:
    """Data in the page, which no browser runs and nothing in it can end.

    Args:
        name: The element's id.
        values: Plain values; a number that is none becomes null.
    """
    text = json.dumps(_finite(values), allow_nan=False, separators=(",", ":"), default=str)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return tag("script", Html(text), type="application/json", id=name)


def _finite(values: Any) -> Any:
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {str(key): _finite(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    return values
