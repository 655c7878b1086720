"""Two runs side by side: the same, or where they start to differ."""

import dataclasses

import pytest

from lightning_fastdata.callbacks.audit.digest import BatchSums, EpochSums, mix, read_vector
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.audit_compare import Difference, compare


def epoch_line(epoch=0, batches=50, first=0, order=None, content=None, measured="order content"):
    """An epoch whose batches hold fixed sums, but for those in ``order`` and ``content`` (by batch number)."""
    sums = EpochSums(epoch=epoch, first_batch=first)
    for number in range(first, first + batches):
        values = [
            mix(1000 * epoch + number + changes.get(number, 0)) if name in measured else None
            for name, changes in (("order", order or {}), ("content", content or {}))
        ]
        sums.note(BatchSums(number, 8, *values))
    sums.settle()
    return read_vector(sums.vector(), 1, sums)


def run(epochs=2, **kwargs):
    return [epoch_line(epoch, **kwargs) for epoch in range(epochs)]


def test_the_same():
    comparison = compare(run(), run())
    assert comparison.same
    assert (comparison.epochs, comparison.batches, comparison.samples, comparison.aspects) == (
        2,
        100,
        800,
        ("order", "content"),
    )


def test_the_rules_of_both_runs():
    """Known where they are not the same."""
    assert compare(run(), run()).rules is None
    assert compare([dataclasses.replace(epoch, rules=1) for epoch in run()], run()).rules == (1, 2)


@pytest.mark.parametrize("batches", [50, 300])
@pytest.mark.parametrize("where", [0, 1, 37, 49])
def test_the_first_difference_is_located(batches, where):
    """To the batch in short epochs, to within a stride in long ones; later differences do not matter."""
    changed = [epoch_line(0, batches), epoch_line(1, batches, order={where: 1, batches - 1: 1})]
    comparison = compare([epoch_line(0, batches), epoch_line(1, batches)], changed)
    assert not comparison.same
    assert comparison.difference.epoch == 1
    assert comparison.difference.aspects == ("order",)
    assert comparison.difference.first <= where <= comparison.difference.last
    assert comparison.difference.last - comparison.difference.first + 1 == changed[1].stride


def test_both_aspects_are_named_with_the_earlier_batch():
    comparison = compare(run(), run(order={30: 1}, content={20: 1}))
    assert comparison.difference == Difference(0, ("order", "content"), 20, 20)
    assert compare(run(), run(content={20: 1})).difference == Difference(0, ("content",), 20, 20)


def test_a_difference_in_the_high_half_only():
    """Marks are 32 bits of 64; what they miss, the digest does not."""
    line = epoch_line()
    other = dataclasses.replace(line, digest="00000000" + line.digest[8:])
    assert compare([line], [other]).difference == Difference(0, ("order",), 0, 49)


def test_epochs_that_only_one_has():
    assert compare(run(2), run(5)).more == (0, 3)
    comparison = compare(run(3), run(2))
    assert (comparison.difference, comparison.same, comparison.more, comparison.epochs) == (None, False, (1, 0), 2)


@pytest.mark.parametrize(
    ("left", "right", "agree"), [(30, 50, 30), (50, 30, 30), (30, 150, 30), (31, 150, 30), (1, 150, 0)]
)
def test_epochs_of_different_length(left, right, agree):
    """Different already; it is said how far they agree."""
    comparison = compare([epoch_line(batches=left)], [epoch_line(batches=right)])
    assert comparison.difference == Difference(0, ("order", "content"), agree, agree, (left, right))
    comparison = compare([epoch_line(batches=50)], [epoch_line(batches=30, order={10: 1})])
    assert comparison.difference == Difference(0, ("order",), 10, 10)


@pytest.mark.parametrize(("batches", "first", "compared_from"), [(50, 20, 20), (150, 21, 22), (150, 120, 120)])
def test_a_line_that_begins_in_mid_epoch(batches, first, compared_from):
    """After a resume on several ranks: the rest is compared, and it is said that it is the rest only."""
    whole = [epoch_line(0, batches), epoch_line(1, batches)]
    resumed = [whole[0], epoch_line(1, batches - first, first)]
    for pair in ((whole, resumed), (resumed, whole)):
        comparison = compare(*pair)
        assert comparison.difference is None
        assert not comparison.same
        assert comparison.from_batch == ((1, compared_from),)
    changed = [whole[0], epoch_line(1, batches - first, first, order={batches - 2: 1})]
    comparison = compare(whole, changed).difference
    assert comparison.first <= batches - 2 <= comparison.last


def test_what_only_one_run_measured_is_not_compared():
    comparison = compare(run(), run(measured="order", content={3: 1}))
    assert (comparison.same, comparison.aspects) == (True, ("order",))
    assert compare([epoch_line(first=20)], [epoch_line(first=20)]).same


@pytest.mark.parametrize(
    ("left", "right", "words"),
    [
        (run(1), [epoch_line(3)], "no epoch in common"),
        (run(measured="order"), run(measured="content"), "Epoch 0 cannot be compared"),
        (run(1, measured=""), run(1, measured=""), "nothing was measured"),
        ([epoch_line(batches=5)], [epoch_line(first=5, batches=5)], "share no batches"),
    ],
)
def test_nothing_to_compare(left, right, words):
    with pytest.raises(FastDataError, match=words) as caught:
        compare(left, right)
    assert caught.value.expected
    assert caught.value.fix
