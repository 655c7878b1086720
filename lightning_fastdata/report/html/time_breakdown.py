"""Where the time went, as a bar and a table, and what a change of epochs costs."""

import math

from lightning_fastdata.report.figures import share_of
from lightning_fastdata.report.html.tags import Html, facts, figure, join, section, table, tag
from lightning_fastdata.report.ledger import HEADING
from lightning_fastdata.report.units import NOT_MEASURED, count, percent, seconds
from lightning_fastdata.results.stats import ACCOUNTS, Boundary
from lightning_fastdata.results.summary import RunSummary

__all__ = ["ledger_section_html"]

_LABELLED = 0.06
_NAMED = 0.18


def ledger_section_html(summary: RunSummary) -> Html:
    """The section; one line where there is no ledger."""
    if not summary.ledger or summary.total_s is None or not math.isfinite(summary.total_s):
        return section("ledger", HEADING, tag("p", f"Where the time went: {NOT_MEASURED}.", class_="none"))
    total_s = figure("ledger-total_s", summary.total_s, seconds(summary.total_s))
    aside = join("Every second from the callback’s setup to its teardown is in exactly one account: ", total_s, ".")
    return section("ledger", HEADING, _bar(summary), _table(summary), _boundary(summary.boundary), aside=aside)


def _accounts(summary: RunSummary) -> list[tuple[str, str]]:
    """Accounts in order with their names; a newer version may have more."""
    others = {name: name.removesuffix("_s").replace("_", " ").capitalize() for name in summary.ledger}
    return [(name, called) for name, called in {**ACCOUNTS, **others, **ACCOUNTS}.items() if name in summary.ledger]


def _bar(summary: RunSummary) -> Html:
    segments, words = [], []
    for name, called in _accounts(summary):
        value_s = summary.ledger[name]
        share = share_of(value_s, summary.total_s)
        if name in summary.not_measured or share is None or share <= 0:
            continue
        words.append(f"{called} {percent(share)}")
        inner = []
        if share >= _LABELLED:
            named = tag("span", called, class_="name") if share >= _NAMED else None
            inner = [named, tag("span", f"{share * 100:.0f} %", class_="share")]
        title = f"{called}: {seconds(value_s)}, {percent(share)}"
        style = f"flex-grow:{share:.6f}"
        segments.append(tag("div", *inner, class_=f"segment {_color(name)}", style=style, title=title))
    return tag("div", *segments, class_="ledger-bar", role="img", aria_label=f"{HEADING}: {'; '.join(words)}")


def _color(name: str) -> str:
    return f"account-{name.removesuffix('_s')}" if name in ACCOUNTS else "account-unattributed"


def _table(summary: RunSummary) -> Html:
    rows = []
    for name, called in _accounts(summary):
        value_s = summary.ledger[name]
        swatch = join(tag("span", class_=f"key {_color(name)}"), called)
        if name in summary.not_measured:
            unknown = tag("span", NOT_MEASURED, class_="quiet")
            rows.append((swatch, figure(f"ledger-{name}", None, unknown), ""))
            continue
        share = share_of(value_s, summary.total_s)
        rows.append((swatch, figure(f"ledger-{name}", value_s, seconds(value_s)), percent(share)))
    return table(("Account", "Time", "Share"), rows, caption="The accounts of the ledger")


def _boundary(boundary: Boundary | None) -> Html:
    heading = tag("h3", "Change of epochs")
    if boundary is None:
        return join(heading, tag("p", f"What it costs: {NOT_MEASURED}.", class_="none"))
    if not boundary.boundaries:
        return join(heading, tag("p", "There was none: the run had one epoch.", class_="none"))
    shown: list[tuple[object, object]] = [
        ("Each change", _each(boundary)),
        ("Making or resetting the iterators, in all", seconds(boundary.iterator_s)),
        ("First batches from the workers, in all", seconds(boundary.refill_s)),
    ]
    if boundary.restart_s:
        shown.append(("Shorter loaders begun anew", seconds(boundary.restart_s)))
    if boundary.shutdown_s:
        shown.append(("Shutdown after the last epoch", seconds(boundary.shutdown_s)))
    return join(heading, facts(shown), _saving(boundary))


def _each(boundary: Boundary) -> Html:
    price = figure("boundary-per_epoch_s", boundary.per_epoch_s, seconds(boundary.per_epoch_s))
    changes = f"{count(boundary.boundaries)} change{'' if boundary.boundaries == 1 else 's'}"
    return join(price, tag("span", f" per epoch, {changes}", class_="quiet"))


def _saving(boundary: Boundary) -> Html | None:
    saving_s = boundary.saving_s_per_epoch
    if saving_s is None:
        return tag("p", "The workers are kept from epoch to epoch.") if boundary.persistent_workers else None
    least = "" if boundary.saving_is_exact else "at least "
    saved = join(least, figure("boundary-saving_s_per_epoch", saving_s, seconds(saving_s)))
    return tag("p", tag("code", "persistent_workers=True"), " would save ", saved, " at each change, as measured.")
