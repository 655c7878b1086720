"""The diagnosis: from figures to a cause, and the one change to try first."""

import re
from dataclasses import replace

import pytest

from lightning_fastdata.results.diagnosis import diagnosed
from lightning_fastdata.results.records import StepRecord
from lightning_fastdata.results.stats import ACCOUNTS, Boundary, Loading, RankTimes, SlowSample, WaitKinds
from lightning_fastdata.results.summary import summarize

STEPS = 100
SLOW_SAMPLE = SlowSample("17", 0.3, 0, 2, "photos/17.jpg")
HEAD = {"stalled_fetches": 11, "head_of_line_fetches": 7, "head_of_line_s": 2.6, "queue_ready_mean": 6.2}
UNEVEN = {**HEAD, "stalled_fetches": 60, "head_of_line_fetches": 50}
SAVING = Boundary(9, None, 2.0, 1.1, 0.0, persistent_workers=False, saving_s_per_epoch=0.25)
RESTARTS = Boundary(9, None, 0.1, 0.1, 0.0, restart_s=3.0)
VALIDATION = {"ledger": {"validation_s": 4.0}, "validation_wait_s": 3.0}
RANKS = RankTimes(2, 2, 100, 0.7, 0.06, 0.07, 1.9, 1, "node7", 1.0, 6.0)
CPU_ONLY = {"cpus": 5, "accelerators": 0}
SLOW, MAIN = "loader-bound", "main-process loading"


def kinds(main_process_s=0.0, stalled_s=0.0, worker_transfer_s=0.0, **figures):
    usual = WaitKinds(100, 0.0, 0.0, 0.0, 0.0, True, 50 if stalled_s else 0, 0, 0.0, 1.2, 0, 8, 0.0)
    parts = {"main_process_s": main_process_s, "stalled_s": stalled_s, "worker_transfer_s": worker_transfer_s}
    return replace(usual, **parts, **figures)


def stalled(stalled_s, **figures):
    return stalled_s, kinds(stalled_s=stalled_s, **figures)


def main_process(main_process_s):
    without_queue = dict.fromkeys(("queue_ready_mean", "queue_ready_min", "queue_capacity", "queue_full_share"))
    return main_process_s, kinds(main_process_s, **without_queue)


def transfer(worker_transfer_s):
    return worker_transfer_s, kinds(worker_transfer_s=worker_transfer_s)


def run_of(
    wait_s, waits, *, workers=4, compute_s=8.0, load_s=None, cpus=16.0, accelerators=1, steps=STEPS, ledger=None, **more
):
    records = [StepRecord(0, n, 4, wait_s / steps, None, compute_s / steps, 0.0, n == 0, 1, 1, 0) for n in range(steps)]
    boundary_s = more["boundary"].iterator_s + more["boundary"].refill_s if "boundary" in more else 0.0
    accounts = dict.fromkeys(ACCOUNTS, 0.0) | {"wait_s": wait_s, "compute_s": compute_s, "boundary_s": boundary_s}
    accounts |= ledger or {}
    loading = None
    if load_s is not None:
        mean_s = load_s / steps
        loading = Loading(
            steps, steps * 4, load_s, mean_s, 0.3, mean_s / 4, num_workers=workers, slowest=(SLOW_SAMPLE,)
        )
    hardware = {"accelerators": ["a GPU"] * accelerators} | ({"cpus_per_rank": cpus} if cpus else {})
    figures = {"ledger": accounts, "total_s": sum(accounts.values()), "waits": waits, "loading": loading}
    summary = replace(summarize(records, num_workers=workers), **figures, hardware=hardware, **more)
    return diagnosed(summary, records)


@pytest.mark.parametrize(
    ("cause", "wait", "arguments", "words"),
    [
        (SLOW, stalled(4), {"load_s": 44}, r"5.5 workers, and there are 4.*Try: num_workers=6 \(now 4\)"),
        (SLOW, stalled(4), {"load_s": 34, **CPU_ONLY}, "4 workers on 5 usable cores, which computing shares help"),
        (SLOW, stalled(4), {"load_s": 34, "cpus": 5}, "Try: Cheaper loading.*4 workers on 5 usable cores help"),
        # A loader of another package, whose queue is never full.
        (SLOW, stalled(4, queue_ready_mean=2.2), {}, r"2.2 of 8 batches were ready.*Try: More workers \(now 4\)"),
        (SLOW, stalled(4), {"cpus": None}, "cannot keep up.*Try: More workers"),
        (SLOW, stalled(4), {"cpus": 5}, "cannot keep up.*Try: Cheaper loading"),
        ("bursty", stalled(4), {"load_s": 20}, r"2.5 of 4 workers are enough.*Try: prefetch_factor=4 \(now 2\)"),
        ("bursty", stalled(4, queue_full_share=0.6), {}, "full at 60 %.*Try: prefetch_factor=4"),
        ("bursty", stalled(4, queue_full_share=0.6, queue_capacity=None), {}, "1.2 batches .*Try: A higher pre"),
        ("head of line", stalled(3, **HEAD), {"load_s": 8}, r"7 of 11 stalled.*/17.jpg \(300 ms; a sample takes 20.0"),
        ("head of line", stalled(3, **HEAD), {}, "Try: in_order=False"),
        # Two workers that are not in step: later batches are ready now and then, but no wait is long.
        (SLOW, stalled(3, **UNEVEN), {"load_s": 32}, "4.0 workers"),
        # No sample is much slower than the others.
        (SLOW, stalled(3, **HEAD), {"load_s": 32}, "4.0 workers"),
        # Trap 20. 240 ms a batch beside 80 ms of compute: three workers keep up.
        (MAIN, main_process(24), {"workers": 0}, "240.0 ms .*Try: num_workers=3, at most 4.00x the training speed.$"),
        (MAIN, main_process(4), {"workers": 0, **CPU_ONLY}, r"torch.set_num_threads\(4\) and num_workers=1.*1.50x"),
        (MAIN, main_process(4), {"workers": 0, "cpus": 1}, "Try: Cheaper loading"),
        (MAIN, main_process(0.15), {"workers": 0, "compute_s": 0.4}, "Try: Larger batches"),
        # Trap 21.
        ("ipc-bound", transfer(4), {}, "40.0 ms on average.*pin_memory"),
        ("ipc-bound", transfer(4), CPU_ONLY, "40.0 ms on average.*torch threads"),
        ("ipc-bound", transfer(0.15), {"compute_s": 0.4}, "Try: Larger batches"),
        # Hardly any data wait in the steps, yet a quarter of the run.
        ("boundary", stalled(0.1), {"boundary": SAVING}, r"at 9 epoch boundaries \(3.10 s\).*saved at least 2.25 s"),
        ("boundary", stalled(0.1), {"boundary": replace(SAVING, saving_is_exact=True)}, "have saved 2.25 s"),
        ("boundary", stalled(0.1), {"boundary": replace(SAVING, saving_s_per_epoch=None)}, "Try: Longer epochs"),
        ("boundary", stalled(0.1), {"boundary": RESTARTS}, "the restart of a shorter loader"),
        ("validation", stalled(0.5), VALIDATION, "3.00 s in validation, 0.50 s in training steps.*validation loader"),
        # Trap 14: rank 0 alone says 4 %, all together 70 %.
        ("straggler", stalled(0.35), {"ranks": RANKS}, "70 % .*Rank 1 on node7 stalled .* 100 % .*Look at rank 1"),
        ("straggler", stalled(0.35), {"ranks": replace(RANKS, slowest_share=0.3)}, "take turns"),
        ("", (4, None), {}, "1.50x. Try: $"),
        ("", (4, replace(kinds(unknown_s=4), main_process_s=None)), {}, "not known.*Try: Give it more workers"),
    ],
)
def test_the_cause_and_the_first_change(cause, wait, arguments, words):
    verdict = run_of(*wait, **arguments).verdict
    assert (verdict.level, verdict.cause) == ("input-bound", cause)
    assert re.search(words, f"{verdict.text} Try: {verdict.try_first}")


def test_several_loaders_count_all_their_workers():
    """Two loaders with one worker each, each busy for a little more than half of the time."""
    summary = run_of(*stalled(2.0, queue_ready_mean=3.2, queue_capacity=4), workers=2, load_s=8.8)
    assert diagnosed(replace(summary, num_workers=1), []).verdict.cause == "bursty"


@pytest.mark.parametrize(
    ("figures", "load_s", "cause", "change"),
    [
        (
            {"queue_ready_mean": 7.2, "queue_full_share": 0.98},
            6.4,
            "over-provisioned",
            "num_workers=2 is enough (now 4)",
        ),
        ({"queue_ready_mean": 7.2, "queue_full_share": 0.98}, None, "over-provisioned", "num_workers=2 is enough"),
        ({"queue_ready_mean": 7.0, "queue_full_share": 1.0}, 23.2, "healthy", ""),
        ({"queue_full_share": 0.5}, 23.2, "healthy", ""),
        (None, None, "", ""),
    ],
)
def test_a_run_that_hardly_waits(figures, load_s, cause, change):
    """A queue that is always full has workers to spare; else there is nothing to advise."""
    verdict = run_of(0.01, None if figures is None else kinds(**figures), load_s=load_s).verdict
    assert (verdict.level, verdict.cause) == ("fine", cause)
    assert verdict.try_first.startswith(change)
    assert bool(verdict.try_first) == bool(change)


def test_share_and_bound_are_on_one_base():
    """A run that is mostly validation gains little, and is not called input-bound for it."""
    summary = run_of(*stalled(4.0), ledger={"validation_s": 88.0, "startup_s": 50.0})
    assert summary.verdict.level == "fine"
    summary = run_of(*stalled(4.0), ledger={"validation_s": 28.0, "startup_s": 50.0})
    assert "10 % of the run after its start-up" in summary.verdict.text
    assert "(4.00 s of 40.00 s). Max speedup at zero data wait: 1.11x." in summary.verdict.text


def test_a_diagnosis_of_a_diagnosis_is_the_same():
    once = run_of(*stalled(4.0))
    assert diagnosed(once, []).verdict == once.verdict


def test_few_steps_ask_for_a_longer_run_and_very_few_for_nothing_else():
    verdict = run_of(*stalled(4.0, fetches=9), steps=9).verdict
    assert "only 9 steps" in verdict.text
    assert verdict.try_first.endswith("First measure a longer run, though.")
    assert run_of(*stalled(4.0, fetches=3), steps=3).verdict.try_first == ""


def test_without_a_ledger_the_verdict_is_that_of_the_bare_share():
    records = [StepRecord(0, n, 4, 0.02, None, 0.08, 0.0, n == 0, 1, 1, 0) for n in range(30)]
    summary = summarize(records)
    assert diagnosed(summary, records) == summary
