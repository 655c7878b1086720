"""The diagnosis: from figures to a cause, and the one change to try first."""

from dataclasses import replace

import pytest

from lightning_fastdata.diagnosis import diagnosed
from lightning_fastdata.findings import ACCOUNTS, Boundary, Loading, SlowSample, WaitKinds
from lightning_fastdata.records import StepRecord
from lightning_fastdata.summary import summarise

STEPS = 100


def kinds(inline=0.0, blocked=0.0, handoff=0.0, **figures):
    usual = {
        "fetches": STEPS,
        "unknown_s": 0.0,
        "exact": True,
        "blocked_fetches": STEPS // 2 if blocked else 0,
        "head_of_line_fetches": 0,
        "head_of_line_s": 0.0,
        "queue_ready_mean": 1.2,
        "queue_ready_min": 0,
        "queue_capacity": 8,
        "queue_full_share": 0.0,
    }
    return WaitKinds(inline_s=inline, blocked_s=blocked, handoff_s=handoff, **{**usual, **figures})


def run_of(wait_s, waits, *, workers=4, compute_s=8.0, load_s=None, cpus=16.0, steps=STEPS, **more):
    records = [StepRecord(0, n, 4, wait_s / steps, None, compute_s / steps, 0.0, n == 0, 1, 1, 0) for n in range(steps)]
    ledger = dict.fromkeys(ACCOUNTS, 0.0) | {"wait_s": wait_s, "compute_s": compute_s}
    loading = None
    if load_s is not None:
        slow = (SlowSample("17", 0.3, 0, 2, "photos/17.jpg"),)
        loading = Loading(steps, steps * 4, load_s, load_s / steps, 0.3, load_s / steps / 4, slow)
    summary = replace(
        summarise(records, num_workers=workers),
        ledger=ledger,
        total_s=wait_s + compute_s,
        waits=waits,
        loading=loading,
        hardware={"cpus_per_rank": cpus},
        **more,
    )
    return diagnosed(summary, records)


def test_workers_that_cannot_keep_up():
    verdict = run_of(4.0, kinds(blocked=4.0), load_s=8.0 * 5.5).verdict
    assert verdict.cause == "too slow"
    assert "5.5 workers, and there are 4" in verdict.text
    assert verdict.try_first == "num_workers=6 (now 4)."


def test_more_workers_than_cores_are_not_advised():
    verdict = run_of(4.0, kinds(blocked=4.0), load_s=8.0 * 7, cpus=4.0).verdict
    assert verdict.cause == "too slow"
    assert verdict.try_first.startswith("Cheaper loading")
    assert "7 workers on 4 usable cores" in verdict.try_first


def test_a_queue_that_is_never_full_is_too_slow_for_a_foreign_loader_too():
    verdict = run_of(4.0, kinds(blocked=4.0, queue_ready_mean=2.2)).verdict
    assert verdict.cause == "too slow"
    assert "2.2 of 8 batches were ready" in verdict.text


def test_enough_workers_on_average_make_it_bursty():
    verdict = run_of(2.0, kinds(blocked=2.0, queue_ready_mean=4.0), load_s=8.0 * 2.5).verdict
    assert verdict.cause == "bursty"
    assert "2.5 of 4 workers are enough" in verdict.text
    assert verdict.try_first.startswith("prefetch_factor=4 (now 2)")


def test_a_queue_that_is_often_full_makes_it_bursty_for_a_foreign_loader():
    verdict = run_of(2.0, kinds(blocked=2.0, queue_full_share=0.6, queue_ready_mean=5.0)).verdict
    assert verdict.cause == "bursty"
    assert "full at 60 %" in verdict.text or "full at 60%" in verdict.text


def test_one_slow_sample_holds_up_ready_batches():
    waits = kinds(blocked=3.0, blocked_fetches=11, head_of_line_fetches=7, head_of_line_s=2.6, queue_ready_mean=6.2)
    verdict = run_of(3.0, waits, load_s=8.0).verdict
    assert verdict.cause == "head of line"
    assert "7 of 11 blocked fetches" in verdict.text
    assert "photos/17.jpg (300 ms)" in verdict.text
    assert "in_order=False" in verdict.try_first


def test_loading_in_the_training_process_is_work():
    """Trap 20."""
    verdict = run_of(4.0, kinds(inline=4.0, queue_ready_mean=None, queue_capacity=None), workers=0).verdict
    assert verdict.cause == "inline"
    assert "work rather than waiting" in verdict.text
    assert "prefetch" not in verdict.try_first


def test_ready_batches_that_are_slow_to_hand_over():
    """Trap 21."""
    verdict = run_of(4.0, kinds(handoff=4.0)).verdict
    assert verdict.cause == "handoff"
    assert "40.0 ms on average" in verdict.text


def test_short_epochs_that_always_begin_anew():
    boundary = Boundary(9, 0.4, 0.5, 3.1, 0.0, persistent_workers=False)
    verdict = run_of(4.0, kinds(blocked=0.5), boundary=boundary).verdict
    assert verdict.cause == "boundary"
    assert "persistent_workers=True" in verdict.try_first


@pytest.mark.parametrize("load_s", [8.0 * 0.8, None])
def test_a_queue_that_is_always_full_has_workers_to_spare(load_s):
    verdict = run_of(0.01, kinds(blocked=0.0, queue_ready_mean=7.2, queue_full_share=0.98), load_s=load_s).verdict
    assert (verdict.level, verdict.cause) == ("fine", "headroom")
    assert "num_workers=2 would do (now 4)" in verdict.try_first


def test_healthy_needs_no_advice():
    for waits in (kinds(queue_full_share=0.5), kinds(queue_full_share=1.0, queue_ready_mean=7.0)):
        verdict = run_of(0.01, waits, load_s=8.0 * 2.9).verdict
        assert (verdict.level, verdict.cause, verdict.try_first) == ("fine", "healthy", "")


def test_a_loader_that_tells_nothing_gets_no_cause():
    waits = replace(kinds(), inline_s=None, blocked_s=None, handoff_s=None, unknown_s=4.0)
    verdict = run_of(4.0, waits).verdict
    assert (verdict.level, verdict.cause, verdict.try_first) == ("input-bound", "", "")
    assert "not known" in verdict.text


def test_the_sentence_has_the_ledgers_bound():
    summary = run_of(4.0, kinds(blocked=4.0))
    assert f"at most {summary.ceiling.speedup:.2f}x faster" in summary.verdict.text


def test_few_steps_ask_for_a_longer_run_first():
    verdict = run_of(4.0, kinds(blocked=4.0, fetches=5), steps=5).verdict
    assert "only 5 steps" in verdict.text
    assert verdict.try_first.endswith("First measure a longer run, though.")
