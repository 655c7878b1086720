"""The diagnosis: from figures to a cause, and the one change to try first."""

from dataclasses import replace

import pytest

from lightning_fastdata.results.diagnosis import diagnosed
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.stats import ACCOUNTS, Boundary, Loading, RankTimes, SlowSample, WaitKinds
from lightning_fastdata.results.summary import summarize

STEPS = 100


def kinds(inline=0.0, blocked=0.0, handoff=0.0, **figures):
    usual = {
        "fetches": STEPS,
        "unknown_s": 0.0,
        "exact": True,
        "stalled_fetches": STEPS // 2 if blocked else 0,
        "head_of_line_fetches": 0,
        "head_of_line_s": 0.0,
        "queue_ready_mean": 1.2,
        "queue_ready_min": 0,
        "queue_capacity": 8,
        "queue_full_share": 0.0,
    }
    return WaitKinds(main_process_s=inline, stalled_s=blocked, worker_transfer_s=handoff, **{**usual, **figures})


def run_of(
    wait_s, waits, *, workers=4, compute_s=8.0, load_s=None, cpus=16.0, accelerators=1, steps=STEPS, ledger=None, **more
):
    records = [StepRecord(0, n, 4, wait_s / steps, None, compute_s / steps, 0.0, n == 0, 1, 1, 0) for n in range(steps)]
    accounts = dict.fromkeys(ACCOUNTS, 0.0) | {"wait_s": wait_s, "compute_s": compute_s} | (ledger or {})
    loading = None
    if load_s is not None:
        slow = SlowSample("17", 0.3, 0, 2, "photos/17.jpg")
        mean = load_s / steps / 4
        loading = Loading(steps, steps * 4, load_s, load_s / steps, 0.3, mean, num_workers=workers, slowest=(slow,))
    summary = replace(
        summarize(records, num_workers=workers),
        ledger=accounts,
        total_s=sum(accounts.values()),
        waits=waits,
        loading=loading,
        hardware={"cpus_per_rank": cpus, "accelerators": ["a GPU"] * accelerators},
        **more,
    )
    return diagnosed(summary, records)


def test_workers_that_cannot_keep_up():
    verdict = run_of(4.0, kinds(blocked=4.0), load_s=8.0 * 5.5).verdict
    assert verdict.cause == "loader-bound"
    assert "5.5 workers, and there are 4" in verdict.text
    assert verdict.try_first == "num_workers=6 (now 4)."


@pytest.mark.parametrize("accelerators", [0, 1])
def test_more_workers_than_cores_to_spare_are_not_advised(accelerators):
    verdict = run_of(4.0, kinds(blocked=4.0), load_s=8.0 * 4.2, cpus=5.0, accelerators=accelerators).verdict
    assert verdict.cause == "loader-bound"
    assert verdict.try_first.startswith("Cheaper loading")
    assert "more than 4 workers on 5 usable cores" in verdict.try_first
    assert ("which computing shares" in verdict.try_first) == (not accelerators)


@pytest.mark.parametrize(("cpus", "advised"), [(16.0, "More workers (now 4)"), (5.0, "Cheaper loading")])
def test_a_queue_that_is_never_full_is_too_slow_for_a_foreign_loader_too(cpus, advised):
    verdict = run_of(4.0, kinds(blocked=4.0, queue_ready_mean=2.2), cpus=cpus).verdict
    assert verdict.cause == "loader-bound"
    assert "2.2 of 8 batches were ready" in verdict.text
    assert verdict.try_first.startswith(advised)


def test_several_loaders_count_all_their_workers():
    """Two loaders with one worker each, each busy for a little more than half of the time."""
    summary = run_of(2.0, kinds(blocked=2.0, queue_ready_mean=3.2, queue_capacity=4), workers=2, load_s=8.0 * 1.1)
    summary = replace(summary, num_workers=1)
    assert diagnosed(summary, []).verdict.cause == "bursty"


def test_enough_workers_on_average_make_it_bursty():
    verdict = run_of(2.0, kinds(blocked=2.0, queue_ready_mean=4.0), load_s=8.0 * 2.5).verdict
    assert verdict.cause == "bursty"
    assert "2.5 of 4 workers are enough" in verdict.text
    assert verdict.try_first.startswith("prefetch_factor=4 (now 2)")


def test_a_queue_that_is_often_full_makes_it_bursty_for_a_foreign_loader():
    verdict = run_of(2.0, kinds(blocked=2.0, queue_full_share=0.6, queue_ready_mean=5.0)).verdict
    assert verdict.cause == "bursty"
    assert "full at 60 %" in verdict.text


HELD_UP = {"stalled_fetches": 11, "head_of_line_fetches": 7, "head_of_line_s": 2.6, "queue_ready_mean": 6.2}


def test_one_slow_sample_holds_up_ready_batches():
    verdict = run_of(3.0, kinds(blocked=3.0, **HELD_UP), load_s=8.0).verdict
    assert verdict.cause == "head of line"
    assert "7 of 11 blocked fetches" in verdict.text
    assert "photos/17.jpg (300 ms; a sample takes 20.0 ms on average)" in verdict.try_first


def test_a_foreign_loader_has_no_name_for_it():
    verdict = run_of(3.0, kinds(blocked=3.0, **HELD_UP)).verdict
    assert verdict.cause == "head of line"
    assert verdict.try_first.startswith("in_order=False")


def test_ordinary_unevenness_is_no_slow_sample():
    """Two workers that are not in step: later batches are ready now and then, but no wait is long."""
    uneven = {**HELD_UP, "stalled_fetches": 60, "head_of_line_fetches": 50}
    assert run_of(3.0, kinds(blocked=3.0, **uneven), load_s=8.0 * 4).verdict.cause == "loader-bound"
    # nor is it one where no sample is much slower than the others
    assert run_of(3.0, kinds(blocked=3.0, **HELD_UP), load_s=8.0 * 4).verdict.cause == "loader-bound"


def inline(load_ms, **arguments):
    waits = kinds(inline=load_ms / 10, queue_ready_mean=None, queue_capacity=None, queue_full_share=None)
    return run_of(load_ms / 10, waits, workers=0, **arguments).verdict


def test_loading_in_the_training_process_wants_workers():
    """Trap 20. 240 ms a batch beside 80 ms of compute: three workers keep up."""
    verdict = inline(240.0)
    assert verdict.cause == "main-process loading"
    assert verdict.try_first == "num_workers=3, at most 4.00x the training speed."
    assert "prefetch" not in verdict.try_first


def test_without_an_accelerator_the_cores_are_shared():
    verdict = inline(40.0, cpus=2.0, accelerators=0)
    assert verdict.try_first.startswith("torch.set_num_threads(1) and num_workers=1")
    assert "at most 1.50x" in verdict.try_first
    assert inline(40.0, cpus=1.0, accelerators=0).try_first.startswith("Cheaper loading")


def test_data_in_memory_wants_no_workers():
    verdict = run_of(
        0.15, kinds(inline=0.15, queue_ready_mean=None, queue_capacity=None), workers=0, compute_s=0.4
    ).verdict
    assert verdict.cause == "main-process loading"
    assert verdict.try_first.startswith("Larger batches")


@pytest.mark.parametrize(("handoff", "accelerators", "advised"), [(4.0, 1, "pin_memory"), (4.0, 0, "torch threads")])
def test_ready_batches_that_are_slow_to_hand_over(handoff, accelerators, advised):
    """Trap 21."""
    verdict = run_of(handoff, kinds(handoff=handoff), accelerators=accelerators).verdict
    assert verdict.cause == "ipc-bound"
    assert "40.0 ms on average" in verdict.text
    assert advised in verdict.try_first


def test_the_fixed_cost_of_handing_over_is_not_cured_by_smaller_batches():
    verdict = run_of(0.1, kinds(handoff=0.1), compute_s=0.4).verdict
    assert verdict.try_first.startswith("Larger batches")


def changes(boundaries=9, iterator_s=2.0, refill_s=1.1, restart_s=0.0, **more):
    return Boundary(boundaries, None, iterator_s, refill_s, 0.0, restart_s=restart_s, **more)


def test_short_epochs_that_always_begin_anew_are_not_healthy():
    """Hardly any waiting in the steps, yet a quarter of the run: what a mean per step never shows."""
    saving = {"persistent_workers": False, "saving_s_per_epoch": 0.25}
    summary = run_of(0.1, kinds(blocked=0.1), boundary=changes(**saving), ledger={"boundary_s": 3.1})
    assert (summary.verdict.level, summary.verdict.cause) == ("input-bound", "boundary")
    assert "the 9 changes of epochs (3.10 s)" in summary.verdict.text
    assert summary.verdict.try_first == "persistent_workers=True would have saved at least 2.25 s."


def test_a_shorter_loader_that_begins_anew_is_told_apart():
    boundary = changes(iterator_s=0.1, refill_s=0.1, restart_s=3.0)
    verdict = run_of(0.1, kinds(blocked=0.1), boundary=boundary, ledger={"boundary_s": 3.2}).verdict
    assert "a shorter loader of several" in verdict.text


def test_waiting_in_validation_is_told_where_it_is_the_most():
    summary = run_of(0.5, kinds(blocked=0.5), ledger={"validation_s": 4.0}, validation_wait_s=3.0)
    assert summary.verdict.cause == "validation"
    assert "3.00 s in validation, 0.50 s in training steps" in summary.verdict.text


def test_the_slowest_rank_is_the_truth():
    """Trap 14: rank 0 alone says 4 %, all together 70 %."""
    ranks = RankTimes(2, 2, 100, 0.7, 0.06, 0.07, 1.9, 1, "node7", 1.0, 6.0)
    summary = run_of(0.35, kinds(blocked=0.35), ranks=ranks, world_size=2)
    assert (summary.verdict.level, summary.verdict.cause) == ("input-bound", "straggler")
    assert "70 % of the run" in summary.verdict.text
    assert "Rank 1 on node7 held the others up in 100 % of the steps" in summary.verdict.text
    assert summary.verdict.try_first.startswith("Look at rank 1 on node7")


def test_ranks_that_take_turns_have_no_slowest_one():
    ranks = RankTimes(4, 4, 100, 0.7, 0.06, 0.07, 1.9, 2, "node7", 0.3, 6.0)
    assert "take turns" in run_of(0.35, kinds(blocked=0.35), ranks=ranks).verdict.text


@pytest.mark.parametrize("load_s", [8.0 * 0.8, None])
def test_a_queue_that_is_always_full_has_workers_to_spare(load_s):
    verdict = run_of(0.01, kinds(blocked=0.0, queue_ready_mean=7.2, queue_full_share=0.98), load_s=load_s).verdict
    assert (verdict.level, verdict.cause) == ("fine", "over-provisioned")
    assert "num_workers=2 would do (now 4)" in verdict.try_first


def test_healthy_needs_no_advice():
    for waits in (kinds(queue_full_share=0.5), kinds(queue_full_share=1.0, queue_ready_mean=7.0)):
        verdict = run_of(0.01, waits, load_s=8.0 * 2.9).verdict
        assert (verdict.level, verdict.cause, verdict.try_first) == ("fine", "healthy", "")


def test_a_loader_that_tells_nothing_gets_no_cause():
    waits = replace(kinds(), main_process_s=None, stalled_s=None, worker_transfer_s=None, unknown_s=4.0)
    verdict = run_of(4.0, waits).verdict
    assert (verdict.level, verdict.cause) == ("input-bound", "")
    assert "not known" in verdict.text
    assert verdict.try_first.startswith("If it can have more workers")


def test_share_and_bound_are_on_one_base():
    """A run that is mostly validation gains little, and is not called input-bound for it."""
    summary = run_of(4.0, kinds(blocked=4.0), ledger={"validation_s": 88.0, "startup_s": 50.0})
    assert summary.verdict.level == "fine"
    summary = run_of(4.0, kinds(blocked=4.0), ledger={"validation_s": 28.0, "startup_s": 50.0})
    assert "10 % of the run after its start-up" in summary.verdict.text
    assert "(4.00 s of 40.00 s); an instant loader would make this run at most 1.11x faster" in summary.verdict.text


def test_a_diagnosis_of_a_diagnosis_is_the_same():
    once = run_of(4.0, kinds(blocked=4.0))
    assert diagnosed(once, []).verdict == once.verdict


def test_few_steps_ask_for_a_longer_run_and_very_few_for_nothing_else():
    verdict = run_of(4.0, kinds(blocked=4.0, fetches=9), steps=9).verdict
    assert "only 9 steps" in verdict.text
    assert verdict.try_first.endswith("First measure a longer run, though.")
    assert run_of(4.0, kinds(blocked=4.0, fetches=3), steps=3).verdict.try_first == ""


def test_without_a_ledger_the_verdict_is_that_of_the_bare_share():
    records = [StepRecord(0, n, 4, 0.02, None, 0.08, 0.0, n == 0, 1, 1, 0) for n in range(30)]
    summary = summarize(records)
    assert diagnosed(summary, records) == summary
