"""The sums: what changes them, what does not, and that they are the same for ever."""

import numpy as np
import pytest
import torch

from lightning_fastdata.callbacks.audit.digest import (
    BatchSums,
    EpochSums,
    read_vector,
    sum_of_samples,
    sum_of_words,
)
from lightning_fastdata.loaders.splitmix import mix


def epoch_of(batches, *, epoch=0, first_batch=0, content=None):
    """The sums of an epoch of batches, each a list of indices; ``content`` gives the bytes' sum of each."""
    sums = EpochSums(epoch=epoch, first_batch=first_batch)
    for number, indices in enumerate(batches, first_batch):
        order = sum_of_samples((epoch, 0, 0, number), indices)
        sums.note(BatchSums(number, len(indices), order, None if content is None else content[number]))
    sums.settle()
    return sums


def line_of(*ranks):
    """The line of an epoch, from the sums of all ranks."""
    with np.errstate(over="ignore"):
        added = np.sum([sums.vector() for sums in ranks], axis=0, dtype=np.uint64)
    return read_vector(added, len(ranks), ranks[0])


def digest_of(batches, **kwargs):
    return line_of(epoch_of(batches, **kwargs)).digest


BATCHES = [[3, 1, 4, 15], [9, 2, 6, 5], [35, 8, 97, 93]]


def test_golden_values():
    """Files that were written years apart can be compared: these numbers never change."""
    assert mix(1234567) == 6457827717110365317  # SplitMix64's first number from that seed
    assert sum_of_samples((0, 0, 0, 0), [0]) == 8695987549771912286
    assert sum_of_samples((3, 5), [7]) == mix(mix(mix(3) + 5) + 7)
    assert sum_of_samples((2, 1, 0, 7), [5, -1, "a", (1, 2)]) == 10073368670189303318
    line = line_of(epoch_of(BATCHES, epoch=1))
    assert line.digest == "1a09ba79e323bdfa"
    assert line.marks == ("2eb7e50f", "acf0e020", "e323bdfa")
    assert (line.batches, line.samples, line.stride, line.content) == (3, 12, 1, None)


def test_the_order_within_a_batch_does_not_matter():
    assert digest_of([batch[::-1] for batch in BATCHES]) == digest_of(BATCHES)


def test_two_ranks_have_the_digest_of_one():
    """However the samples of each global batch are dealt out."""
    one = line_of(epoch_of(BATCHES, content=[7, 2**64 - 1, 2**63]))
    for share in (slice(0, 2), slice(0, 1), slice(1, 3)):
        rest = [[index for index in batch if index not in batch[share]] for batch in BATCHES]
        ranks = (
            epoch_of([batch[share] for batch in BATCHES], content=[5, 2**63, 1]),
            epoch_of(rest, content=[2, 2**63 - 1, 2**63 - 1]),
        )
        assert line_of(*ranks) == one


@pytest.mark.parametrize(
    "other",
    [
        [BATCHES[1], BATCHES[0], BATCHES[2]],
        [[3, 1, 4, 9], [15, 2, 6, 5], BATCHES[2]],
        [*BATCHES[:2], [35, 8, 97, 94]],
        [*BATCHES[:2], [35, 8, 97]],
        [*BATCHES[:2], [35, 8, 97, 93, 93]],
        [[*BATCHES[0], *BATCHES[1]], BATCHES[2]],
        [*BATCHES, []],
    ],
    ids=["batches swapped", "samples swapped", "one sample", "one less", "one twice", "merged", "empty batch"],
)
def test_what_changes_the_line(other):
    assert line_of(epoch_of(other)) != line_of(epoch_of(BATCHES))


def test_each_part_of_the_place_matters():
    """Epoch, loader, cycle and batch: the same samples elsewhere have another sum, and no two places are one."""
    places = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 1, 0, 0)]
    assert len({sum_of_samples(place, [1, 2, 3]) for place in places}) == len(places)


def test_the_same_numbers_in_other_types_are_the_same_samples():
    """Samplers yield Python's integers, NumPy's, 0-d tensors, or big ones."""
    plain = sum_of_samples((0,), [1, 2])
    for same in (np.array([1, 2]), [np.int32(1), 2], torch.tensor([1, 2]), [torch.tensor(1), 2], [1, 2 + 2**64]):
        assert sum_of_samples((0,), same) == plain
    assert sum_of_samples((0,), ["1", "2"]) != plain
    assert sum_of_samples((0,), []) == 0


def test_long_keys_that_differ_in_the_middle_are_different_samples():
    """Their ``repr`` would be the same: NumPy's and torch's leave the middle out."""
    key, other = np.zeros(5000), np.zeros(5000)
    other[2500] = 1.0
    for one, two in ((key, other), (torch.from_numpy(key), torch.from_numpy(other))):
        assert repr(one) == repr(two)
        assert sum_of_samples((0,), [one]) != sum_of_samples((0,), [two])


def test_sums_wrap():
    """2**64 and above come down again, without a warning of NumPy's."""
    words = np.arange(1000, dtype=np.uint64)
    assert sum_of_words((), words) == sum(mix(word) for word in range(1000)) % 2**64


@pytest.mark.parametrize("batches", [1, 100, 101, 128, 1000, 5000])
@pytest.mark.parametrize("first_batch", [0, 1, 37])
def test_marks_are_few_and_stand_at_multiples_of_the_stride(batches, first_batch):
    """At most 100, each the sum of all batches before it."""
    sums = EpochSums(epoch=0, first_batch=first_batch)
    for number in range(first_batch, first_batch + batches):
        sums.note(BatchSums(number, 1, number, 2 * number))
    sums.settle()
    line = line_of(sums)
    positions = range(sums.stride, first_batch + batches + 1, sums.stride)
    positions = [position for position in positions if position > first_batch]
    assert line.marks == tuple(f"{sum(range(first_batch, position)):08x}" for position in positions)
    assert line.content_marks == tuple(f"{2 * sum(range(first_batch, position)):08x}" for position in positions)
    assert min(batches, 50) - 1 <= len(line.marks) <= 100
    assert sums.stride & (sums.stride - 1) == 0
    assert len(sums.vector()) == 208


def test_what_is_not_measured_once_is_not_for_the_whole_epoch():
    sums = EpochSums(epoch=0)
    for number, order in enumerate([1, None, 3]):
        sums.note(BatchSums(number, 4, order, number))
    sums.settle()
    line = line_of(sums)
    assert (line.digest, line.marks) == (None, ())
    assert (line.content, len(line.content_marks), line.samples) == (f"{3:016x}", 3, 12)


def test_a_rank_that_measured_nothing_leaves_nothing_measured():
    """Part of a global batch is no global batch."""
    nothing = EpochSums(epoch=0, samples=None, order=None, content=None)
    assert not nothing.vector().any()
    line = line_of(epoch_of(BATCHES, content=[1, 2, 3]), nothing)
    assert (line.digest, line.content, line.samples, line.batches) == (None, None, None, 3)


def test_ranks_at_other_batches_are_not_added():
    assert line_of(epoch_of(BATCHES), epoch_of(BATCHES[:2])).digest is None


def test_the_newest_batch_can_come_again():
    """A checkpoint written in the midst of a batch sees it a second time, one written after it the next."""
    for again in (BATCHES[1:], BATCHES[2:]):
        sums = EpochSums(epoch=0)
        for number, batch in enumerate(BATCHES[:2]):
            sums.note(BatchSums(number, 4, sum_of_samples((0, 0, 0, number), batch), 0))
        sums = EpochSums.from_state(sums.to_state())
        first = 3 - len(again)
        assert [sums.continues_with(number) for number in range(4)] == [False, True, True, False]
        for number, batch in enumerate(again, first):
            sums.note(BatchSums(number, 4, sum_of_samples((0, 0, 0, number), batch), 0))
        sums.settle()
        assert line_of(sums).digest == digest_of(BATCHES)


def test_a_batch_left_out_is_empty():
    """Lightning calls no hook for a batch that is None."""
    sums = EpochSums(epoch=0)
    for number in (0, 2):
        sums.note(BatchSums(number, 4, sum_of_samples((0, 0, 0, number), BATCHES[number]), None))
    sums.settle()
    assert line_of(sums).digest == digest_of([BATCHES[0], [], BATCHES[2]])


def test_the_state_goes_through_a_checkpoint(tmp_path):
    """Numbers above 2**63, and nothing that torch would not load with weights_only."""
    sums = epoch_of(BATCHES * 50, content=[2**64 - 1] * 150)
    sums.note(BatchSums(150, 4, 2**64 - 1, 2**63))
    state = sums.to_state()
    torch.save(state, tmp_path / "state.ckpt")
    assert EpochSums.from_state(torch.load(tmp_path / "state.ckpt", weights_only=True)) == sums
    sums.note(BatchSums(151, 1, 1, None))
    assert EpochSums.from_state(state).pending.batch == 150  # a checkpoint in memory is a copy
