"""Two audits side by side: the same, and if not, from where on not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.audit_file import EpochDigest

__all__ = ["Comparison", "Difference", "compare"]

LOW = 2**32 - 1
"""Marks are the low 32 bits of sums."""


@dataclass(frozen=True)
class Difference:
    """Where two runs start to differ."""

    epoch: int
    """The first epoch that differs, from 0."""
    aspects: tuple[str, ...]
    """What differs: "order", "content"."""
    first: int
    """The first global batch of the stretch in which the difference lies, from 0."""
    last: int
    """The last of it."""
    batches: tuple[int, int] | None = None
    """Global batches of the epoch in either run, where that alone differs (counts); up to ``first`` they agree."""


@dataclass(frozen=True)
class Comparison:
    """What two audits say together."""

    aspects: tuple[str, ...]
    """What was compared in all of the epochs: "order", "content"."""
    epochs: int
    """Epochs compared (count)."""
    batches: int
    """Global batches compared (count)."""
    samples: int | None
    """Samples in them (count); None: not known."""
    difference: Difference | None
    """Where they start to differ; None where they do not."""
    more: tuple[int, int]
    """Epochs that only the first, only the second has (counts)."""
    from_batch: tuple[tuple[int, int], ...]
    """(epoch, batch) for epochs compared only from a batch on: a line begins there, after a resume."""
    rules: tuple[int, int] | None = None
    """Numbers of the rules that decided the batches of either run, where they are not the same."""

    @property
    def same(self) -> bool:
        """Whether all of both runs was compared, and is the same."""
        return self.difference is None and not any(self.more) and not self.from_batch


def compare(a: Sequence[EpochDigest], b: Sequence[EpochDigest]) -> Comparison:
    """Compare two runs epoch by epoch.

    Args:
        a: Epochs of one run, as ``read_audit`` gives them.
        b: Epochs of the other.

    Returns:
        What is the same, and where the first difference lies.

    Raises:
        FastDataError: No epoch is in both, or an epoch has nothing that was measured in both.
    """
    left, right = ({epoch.epoch: epoch for epoch in run} for run in (a, b))
    common = sorted(left.keys() & right.keys())
    if not common:
        raise FastDataError(
            f"The two audits have no epoch in common: {_numbers(left)}, and {_numbers(right)}.",
            expected="two runs of the same epochs",
            fix="Check the paths.",
        )
    pairs = [(left[number], right[number]) for number in common]
    aspects = [_aspects(one, other) for one, other in pairs]
    differences = (_difference(*pair, names) for pair, names in zip(pairs, aspects, strict=True))
    difference = next((one for one in differences if one is not None), None)
    counts = [one.samples for one, _ in pairs]
    return Comparison(
        aspects=tuple(name for name in ("order", "content") if all(name in names for names in aspects)),
        epochs=len(common),
        batches=sum(min(one.batches, other.batches) for one, other in pairs),
        samples=None if None in counts else sum(count for count in counts if count is not None),
        difference=difference,
        more=(len(left) - len(common), len(right) - len(common)),
        from_batch=tuple(
            (one.epoch, _shared_positions(one, other)[0])
            for one, other in pairs
            if one.first_batch != other.first_batch
        ),
        rules=next(((one.rules, other.rules) for one, other in pairs if one.rules != other.rules), None),
    )


def _numbers(epochs: Mapping[int, EpochDigest]) -> str:
    return f"epochs {min(epochs)} to {max(epochs)}"


def _aspects(one: EpochDigest, other: EpochDigest) -> tuple[str, ...]:
    pairs = {"order": (one.digest, other.digest), "content": (one.content, other.content)}
    names = tuple(name for name, pair in pairs.items() if None not in pair)
    apart = one.first_batch != other.first_batch and len(_shared_positions(one, other)) < 2
    if not names or apart:
        why = "nothing was measured in both runs" if not names else "its lines share no batches"
        raise FastDataError(
            f"Epoch {one.epoch} cannot be compared: {why}.",
            expected="the same batches, with the order or the content measured, in both audits",
            fix="Use the loaders of FastDataModule or auto_dataloader, or DataAudit(content=True), in both runs.",
        )
    return names


def _difference(one: EpochDigest, other: EpochDigest, names: Sequence[str]) -> Difference | None:
    """The first difference within an epoch."""
    positions = _shared_positions(one, other)
    spans = {name: span for name in names if (span := _span(_sums(one, name), _sums(other, name), positions))}
    if spans:
        first = min(spans.values())
        return Difference(one.epoch, tuple(spans), first[0], first[1] - 1)
    if one.next_batch != other.next_batch:
        return Difference(one.epoch, tuple(names), positions[-1], positions[-1], (one.next_batch, other.next_batch))
    whole = one.first_batch == other.first_batch
    apart = [name for name in names if _digest(one, name) != _digest(other, name)]
    if whole and apart:  # the marks' 32 bits agree by chance, the whole 64 do not
        return Difference(one.epoch, tuple(apart), one.first_batch, one.next_batch - 1)
    return None


def _span(one: Mapping[int, int], other: Mapping[int, int], positions: Sequence[int]) -> tuple[int, int] | None:
    # Sums that begin at different batches differ by a constant; what is between two marks does not.
    for start, stop in pairwise(positions):
        if (one[stop] - one[start]) & LOW != (other[stop] - other[start]) & LOW:
            return start, stop
    return None


def _shared_positions(one: EpochDigest, other: EpochDigest) -> list[int]:
    return sorted(_positions(one) & _positions(other))


def _positions(epoch: EpochDigest) -> set[int]:
    first, end = epoch.first_batch, epoch.next_batch
    marks = range((first // epoch.stride + 1) * epoch.stride, end + 1, epoch.stride)
    return {first, end, *marks}


def _sums(epoch: EpochDigest, name: str) -> dict[int, int]:
    """The low 32 bits of the sum up to each position."""
    marks = epoch.marks if name == "order" else epoch.content_marks
    first = epoch.first_batch // epoch.stride + 1
    sums = {number * epoch.stride: int(mark, 16) for number, mark in enumerate(marks, first)}
    return {epoch.first_batch: 0, **sums, epoch.next_batch: int(_digest(epoch, name), 16) & LOW}


def _digest(epoch: EpochDigest, name: str) -> str:
    digest = epoch.digest if name == "order" else epoch.content
    return digest or ""
