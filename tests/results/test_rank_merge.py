"""What the ranks say together, and what of another process's bytes is believed."""

import itertools
import json

import msgspec
import numpy as np
import pytest

from lightning_fastdata.results.rank_merge import MOST_STEPS, Message, RankMerge, RankSteps, excess, pack, unpack
from lightning_fastdata.results.stats import RankTimes


def steps_of(rank, waits, step_s=0.058, *, epoch=0, first=0):
    times = step_s if isinstance(step_s, list) else [step_s] * len(waits)
    rows = [(first + n, wait, took) for n, (wait, took) in enumerate(zip(waits, times, strict=True))]
    return RankSteps.of(rank, f"node{rank}", epoch, rows)


def kept_steps(merge):
    return sum(len(one.steps) for block in merge._blocks.values() for one in block.values())


def merged(*parts, world_size=2):
    merge = RankMerge(world_size)
    for part in parts:
        merge.add(part)
    return merge.times()


@pytest.mark.parametrize("slow", [0, 1])
def test_the_known_example_whoever_is_slow(slow):
    """Rank 0 alone says 8 %, the mean 39 %, the truth is 70 %; with the roles swapped as well."""
    times = merged(steps_of(slow, [0.0406] * 50), steps_of(1 - slow, [0.0045] * 50))
    assert times.wait_share == pytest.approx(0.7, abs=0.001)
    assert (times.slowest_rank, times.slowest_host, times.slowest_share) == (slow, f"node{slow}", 1.0)
    assert times.lost_s == pytest.approx(50 * 0.0361, rel=1e-4)
    assert times.imbalance == pytest.approx(0.0406 / 0.02255, rel=1e-4)
    assert times.wait_s_max_mean == pytest.approx(0.0406, rel=1e-4)
    assert times.wait_s_max_p95 == pytest.approx(0.0406, rel=0.01)
    assert (times.ranks, times.world_size, times.steps, times.missing) == (2, 2, 50, ())
    shares = {rank: (host, share) for rank, host, share in times.rank_wait_share}
    assert shares[slow] == (f"node{slow}", pytest.approx(0.7, abs=0.001))
    assert shares[1 - slow] == (f"node{1 - slow}", pytest.approx(0.0776, abs=0.001))
    assert msgspec.convert(json.loads(json.dumps(times.__dict__)), RankTimes) == times


def test_a_slowness_that_moves_from_rank_to_rank_is_seen():
    """The largest of the means is 22 ms a step, the mean of the largest 40 ms: only this is the truth."""
    fast, slow = 0.004, 0.040
    times = merged(steps_of(0, [slow, fast] * 30, 0.05), steps_of(1, [fast, slow] * 30, 0.05))
    assert times.wait_share == pytest.approx(0.8, abs=0.001)
    assert [share for _, _, share in times.rank_wait_share] == pytest.approx([0.44, 0.44], abs=0.001)
    assert (times.slowest_rank, times.slowest_share) == (0, 0.5)
    assert times.lost_s == pytest.approx(60 * 0.036, rel=1e-4)


def test_the_percentile_is_of_the_largest_waits():
    """Of 51 to 100 ms, each twice."""
    waits = [n / 1000 for n in range(1, 101)]
    times = merged(steps_of(0, waits, 1.0), steps_of(1, waits[::-1], 1.0))
    assert times.wait_s_max_p95 == pytest.approx(0.098, rel=0.01)


def test_step_time_is_the_largest_and_the_share_ends_at_one():
    for wait_s, share in ((0.02, 0.1), (0.5, 1.0)):
        times = merged(steps_of(0, [wait_s], 0.1), steps_of(1, [0.01], 0.2))
        assert times.wait_share == pytest.approx(share, rel=1e-4)
    nothing = merged(steps_of(0, [0.0], 0.0), steps_of(1, [0.0], 0.0))
    assert (nothing.wait_share, nothing.imbalance, nothing.slowest_rank, nothing.slowest_host) == (0.0, None, None, "")


@pytest.mark.parametrize(
    ("waits", "step_s", "slowest"),
    [
        ((0.0100, 0.0109), 0.0110, None),  # below 1 ms
        ((0.0100, 0.0111), 0.0112, 1),
        ((0.0100, 0.0149), 0.1000, None),  # below 5 % of the step
        ((0.0100, 0.0151), 0.1000, 1),
    ],
)
def test_small_differences_make_no_straggler(waits, step_s, slowest):
    times = merged(*(steps_of(rank, [wait] * 9, step_s) for rank, wait in enumerate(waits)))
    assert times.slowest_rank == slowest
    assert times.slowest_share == (0.0 if slowest is None else 1.0)


def test_what_the_others_lose_is_measured_against_the_others():
    """With two ranks the difference; with more the median of all but the slowest, so one more slow rank is no slump."""
    waits = np.array([[0.040], [0.004], [0.006], [0.005], [0.039]])
    lost_s = [float(excess(waits[:ranks])[0]) for ranks in (2, 3, 4, 5)]
    assert lost_s == pytest.approx([0.036, 0.035, 0.035, 0.0345])


def test_the_straggler_is_who_most_often_stalled_the_others():
    """One step that took very long does not make it the usual one."""
    waits = ([0.01, 0.01, 0.01, 0.9, 0.01], [0.03, 0.03, 0.01, 0.01, 0.01], [0.01, 0.01, 0.03, 0.01, 0.01])
    times = merged(*(steps_of(rank, waits[rank]) for rank in range(3)), world_size=3)
    assert (times.slowest_rank, times.slowest_share) == (1, 0.4)


def test_only_steps_that_all_have_are_compared():
    """Trap 40; matched by step, not by place."""
    longer = steps_of(0, [0.1, 0.2, 0.3, 0.4, 0.5], 1.0, first=10)
    shorter = steps_of(1, [0.03, 0.05], 1.0, first=12)
    times = merged(longer, shorter)
    assert times.steps == 2
    assert times.wait_s_max_mean == pytest.approx(0.35)
    assert merged(longer, steps_of(1, [0.1], first=99)) is None
    assert merged(longer, steps_of(1, [0.1] * 5, first=10, epoch=1)) is None
    assert merged(longer) is None
    assert merged() is None


def test_a_rank_that_is_missing_is_named():
    first = [steps_of(rank, [0.01 * (rank + 1)] * 4) for rank in range(4)]
    second = [steps_of(rank, [0.01 * (rank + 1)] * 4, epoch=1, first=4) for rank in (0, 2)]
    times = merged(*first, *second, world_size=5)
    assert (times.ranks, times.world_size, times.missing) == (4, 5, (1, 3, 4))
    assert times.steps == 8
    assert times.wait_s_max_mean == pytest.approx((0.04 + 0.03) / 2, rel=1e-4)


def test_parts_of_an_epoch_add_up_and_none_counts_twice():
    """A step that arrives twice counts as it arrived last."""
    whole = steps_of(0, [0.01, 0.02, 0.03, 0.04], 0.1)
    parts = [steps_of(1, [0.05, 0.06], 0.1), steps_of(1, [0.07, 0.08], 0.1, first=2)]
    expected = merged(whole, steps_of(1, [0.05, 0.06, 0.07, 0.08], 0.1))
    assert merged(whole, *parts) == merged(whole, *reversed(parts)) == merged(whole, *parts, parts[0]) == expected
    assert expected.steps == 4
    other = steps_of(1, [0.5, 0.6, 0.07], [0.7, 0.8, 0.1])
    assert merged(whole, other, *parts) == expected


def test_sums_go_over_all_epochs():
    """Those that were dropped long ago as well."""
    each = [(epoch, rank) for epoch in range(11) for rank in range(2)]
    times = merged(*(steps_of(rank, [(rank + 1) * 0.011 * epoch], 1.15, epoch=epoch) for epoch, rank in each))
    assert [share for _, _, share in times.rank_wait_share] == pytest.approx([0.055 / 1.15, 0.11 / 1.15], rel=1e-4)
    assert (times.steps, times.slowest_share) == (11, 5 / 11)  # from epoch 6 on by more than 5 % of the step
    assert times.wait_share == pytest.approx(0.11 / 1.15, rel=1e-4)
    assert times.lost_s == pytest.approx(0.605, rel=1e-4)
    assert times.imbalance == pytest.approx(4 / 3, rel=1e-4)


def test_asking_in_the_middle_changes_nothing():
    merge = RankMerge(2)
    for epoch in range(9):
        for rank in range(2):
            merge.add(steps_of(rank, [0.01 + 0.001 * epoch * rank] * 5, epoch=epoch, first=5 * epoch))
            assert merge.times() == merge.times()
    before = merge.times()
    merge.close()
    assert kept_steps(merge) == 0
    assert merge.times() == before
    assert before.steps == 45


def test_a_late_rank_is_waited_for_and_memory_stays_bounded():
    """A rank may be two epochs behind; one that never comes does not make the others' vectors pile up."""
    merge = RankMerge(3)
    kept = 0
    for epoch in range(1000):
        merge.add(steps_of(0, [0.01] * 10, epoch=epoch, first=10 * epoch))
        if epoch >= 2:
            merge.add(steps_of(1, [0.02] * 10, epoch=epoch - 2, first=10 * (epoch - 2)))
        kept = max(kept, kept_steps(merge))
    assert merge.times().steps == 998 * 10
    assert kept <= 4 * 2 * 10
    assert merge.times().missing == (1, 2)


def test_an_epoch_of_any_length_is_compared_block_by_block():
    merge, kept = RankMerge(2), []
    for first, rank in itertools.product(range(0, 100_000, 2500), range(2)):
        merge.add(steps_of(rank, [0.01 * (rank + 1)] * 2500, 0.04, first=first))
        kept.append(kept_steps(merge))
    assert merge.times().steps == 100_000
    assert merge.times().wait_share == pytest.approx(0.5, rel=1e-4)
    assert max(kept) <= 4 * 2 * MOST_STEPS + 2 * 2500


def test_one_epoch_is_cut_to_its_last_steps_and_to_good_times():
    steps = RankSteps.of(0, "a", 0, [(n, 0.1, 0.2) for n in range(MOST_STEPS + 7)])
    assert (len(steps.steps), steps.steps[0]) == (MOST_STEPS, 7)
    odd = [(0, 0.1, 0.2), (1, float("nan"), 0.2), (2, 0.1, float("inf")), (3, -0.1, 0.2), (4, 0.3, 0.4)]
    kept = RankSteps.of(0, "a", 0, odd)
    assert kept.steps.tolist() == [0, 4]
    assert kept.wait_s.tolist() == pytest.approx([0.1, 0.3])
    assert kept.step_s.tolist() == pytest.approx([0.2, 0.4])


# Bytes.


def message(*, number=3, last=False, rank=1, waits=(0.1, 0.2, 0.3)):
    return Message(number, last, steps_of(rank, list(waits), 0.5, epoch=7, first=40))


@pytest.mark.parametrize(("last", "waits"), [(True, ()), (False, (0.1, 0.2, 0.3)), (False, [0.1] * 1000)])
def test_a_message_comes_back(last, waits):
    """It is small: 16 bytes a step and a header."""
    sent = message(last=last, waits=waits)
    assert len(pack(sent)) < 16 * len(waits) + 200
    back = unpack(pack(sent), rank=1)
    assert (back.number, back.last) == (3, last)
    assert (back.steps.rank, back.steps.host, back.steps.epoch) == (1, "node1", 7)
    for name in ("steps", "wait_s", "step_s"):
        assert getattr(back.steps, name).tolist() == getattr(sent.steps, name).tolist()


def test_any_host_name_passes():
    for host in ("", "knoten-ü", "\U0001f600" * 300, "a" * 999):
        data = pack(Message(0, False, RankSteps.of(1, host, 0, [(0, 0.1, 0.2)])))
        assert unpack(data, rank=1).steps.host == host[:255]


def forged(**changes):
    """A message that is right but for ``changes``: another value, or ... for none."""
    wire = {**msgspec.msgpack.decode(pack(message())), **changes}
    return msgspec.msgpack.encode({key: value for key, value in wire.items() if value is not ...})


def column(values, kind="<f4"):
    return np.array(values, kind).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        *(None, "text", 5, b"", b"\x00" * 64, b"x" * 1000, b"\x90"),
        pack(message())[:-1],
        pack(message()) + b"\x00",
        *(forged(rank=value) for value in (0, 2, "1", 1.0, None, ...)),
        *(forged(epoch=value) for value in (-1, "7", 7.5, True, None, 2**63, ...)),
        *(forged(number=value) for value in (-1, None, 2.0, False, ...)),
        *(forged(host=value) for value in (5, None, "a" * 256, ["a"], ...)),
        *(forged(last=value) for value in (0, "false", None, ...)),
        *(forged(wait_s=value) for value in (column([0.1] * 2), column([0.1] * 4), b"\x00" * 11, "text", None, ...)),
        forged(wait_s=column([0.1, float("nan"), 0.3])),
        forged(wait_s=column([0.1, -0.2, 0.3])),
        forged(step_s=column([0.5, float("inf"), 0.5])),
        forged(step_s=column([0.5, 0.5, -0.5])),
        pack(Message(0, False, RankSteps(1, "a", 0, np.arange(10_001), np.zeros(10_001), np.zeros(10_001)))),
        *(forged(steps=column(value, "<i8")) for value in ([41, 40, 42], [40, 40, 42], [-1, 40, 42])),
    ],
)
def test_anything_odd_is_no_message(data):
    assert unpack(forged(), rank=1) is not None
    assert unpack(data, rank=1) is None


def test_no_cut_and_no_flipped_byte_raises():
    data = pack(message())
    for index in range(len(data)):
        assert unpack(data[:index], rank=1) is None
        unpack(data[:index] + bytes([data[index] ^ 0xFF]) + data[index + 1 :], rank=1)
