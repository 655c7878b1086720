"""Made-up runs for the page and the figure: what a reader meets, and what breaks a drawing. No tests here."""

import dataclasses
import json

import numpy as np

from lightning_fastdata.hardware.detect import probe
from lightning_fastdata.planning.plan import LoaderOptions, Workload, make_plan
from lightning_fastdata.results.diagnosis import diagnosed
from lightning_fastdata.results.records import Span, StageWait, StepRecord
from lightning_fastdata.results.stats import ACCOUNTS, Boundary, DeviceTimes, Loading, RankTimes, SlowSample, WaitKinds
from lightning_fastdata.results.summary import Totals, summarize

VERSIONS = {"lightning_fastdata": "0.2.0", "lightning": "2.6.6", "torch": "2.9.1", "python": "3.11.2"}
STARTUP_S = 3.1


def steps_of(waits_s, *, per_epoch, compute_s=0.05, refill_s=0.4, validation_s=0.0, kinds=(0.9, 0.0, 0.1), queue=None):
    """Records whose times add up, with the spans between them."""
    records, spans, now = [], [], STARTUP_S
    for step, wait_s in enumerate(map(float, waits_s)):
        epoch, first = step // per_epoch, step % per_epoch == 0
        if first and step:
            if validation_s:
                spans.append(Span("validation", now, now + validation_s, epoch - 1))
                spans.append(Span("checkpoint", now + validation_s, now + validation_s + 0.1, epoch - 1))
                now += validation_s + 0.1
            spans.append(Span("boundary", now, now + refill_s, epoch))
        stalled_s, main_process_s, worker_transfer_s = (wait_s * share for share in kinds)
        if first:
            wait_s, stalled_s = wait_s + refill_s, stalled_s + refill_s
        now += wait_s + compute_s + 0.003
        records.append(
            StepRecord(
                *(epoch, step, 32, wait_s, None, compute_s, 0.003, first, 1, 1, 0),
                end_s=now,
                main_process_s=main_process_s,
                stalled_s=stalled_s,
                worker_transfer_s=worker_transfer_s,
                refill_s=refill_s if first else 0.0,
                queue_ready=None if queue is None else int(queue[step]),
                load_s=0.19,
            )
        )
    return records, tuple(spans)


def run_of(records, spans, *, workers, hardware_root="/", **more):
    """A summary with everything that follows from the records."""
    refill_s = sum(record.refill_s for record in records)
    wait_s = sum(record.wait_s for record in records) - refill_s
    known = {
        "startup_s": STARTUP_S + (records[0].refill_s if records else 0.0),
        "boundary_s": refill_s - records[0].refill_s,
        "wait_s": wait_s,
        "compute_s": sum(record.compute_s for record in records),
        "validation_s": sum(span.end_s - span.start_s for span in spans if span.kind == "validation"),
        "checkpoint_s": sum(span.end_s - span.start_s for span in spans if span.kind == "checkpoint"),
        "callbacks_s": 0.001 * len(records),
        "loop_s": 0.002 * len(records),
        "unattributed_s": 0.021,
    }
    ledger = {name: known.get(name, 0.0) for name in ACCOUNTS}
    summary = dataclasses.replace(
        summarize(records, num_workers=workers),
        **{
            "total_s": sum(ledger.values()),
            "ledger": ledger,
            "not_measured": ("transfer_s", "sync_s"),
            "spans": spans,
            "host": "node-17",
            "date": "2026-03-02T14:05:11+00:00",
            "versions": VERSIONS,
            "hardware": json.loads(json.dumps(probe(hardware_root, {}).to_dict())),
            **more,
        },
    )
    return diagnosed(summary, records), records


def plans(workers):
    hardware = probe("/", {})
    made = make_plan(LoaderOptions(num_workers=workers), hardware, Workload(split="train", batch_size=32))
    none = make_plan(LoaderOptions(num_workers=0), hardware, Workload(split="val", batch_size=32))
    return {"train": json.loads(json.dumps(made.to_dict())), "val": json.loads(json.dumps(none.to_dict()))}


def kinds_of(records, **more):
    given = {
        "fetches": len(records),
        "main_process_s": sum(record.main_process_s for record in records),
        "stalled_s": sum(record.stalled_s - record.refill_s for record in records),
        "worker_transfer_s": sum(record.worker_transfer_s for record in records),
        "unknown_s": 0.0,
        "exact": True,
        "stalled_fetches": sum(record.stalled_s > 0.001 for record in records),
        "head_of_line_fetches": 3,
        "head_of_line_s": 0.21,
        "queue_ready_mean": 0.4,
        "queue_ready_min": 0,
        "queue_capacity": 8,
        "queue_full_share": 0.01,
    }
    return WaitKinds(**{**given, **more})


def loading_of(records, path="photographs/train/{}.jpg"):
    slowest = tuple(
        SlowSample(
            str(index), 0.9 - 0.08 * place, place % 3, place % 4, path.format(f"n0{index}") if place != 2 else None
        )
        for place, index in enumerate((48211, 1007, 3, 77120, 90211, 5, 15531, 62, 1200, 33))
    )
    load_s = sum(record.load_s for record in records)
    mean_s = load_s / len(records)
    return Loading(len(records), 32 * len(records), load_s, mean_s, 1.42, mean_s / 32, slowest=slowest)


def input_bound():
    """Four workers that cannot keep up, three epochs, each with a validation."""
    draw = np.random.default_rng(1)
    waits_s = draw.gamma(2.0, 0.013, 360)
    waits_s[200:215] *= 4
    queue = draw.choice([0, 0, 0, 1, 1, 2], 360)
    records, spans = steps_of(waits_s, per_epoch=120, validation_s=2.4, refill_s=0.72, queue=queue)
    return run_of(
        records,
        spans,
        workers=4,
        waits=kinds_of(records),
        boundary=Boundary(2, 0.91, 0.38, 1.44, 0.12, 0.0, False, 0.55, True),
        loading=loading_of(records),
        stages=(
            StageWait(
                "val",
                2,
                40,
                1.1,
                0.31,
                4.8,
                (StageWait("val/0", 2, 24, 0.2, 0.1, 2.0), StageWait("val/1", 2, 16, 0.9, 0.31, 2.8)),
            ),
        ),
        plans=plans(4),
        notes=("The last batch of an epoch is smaller.",),
    )


def healthy():
    """A queue that is always full: the waits are hand-over only."""
    draw = np.random.default_rng(2)
    records, spans = steps_of(
        draw.lognormal(-8.6, 0.35, 500),
        per_epoch=250,
        kinds=(0.02, 0.0, 0.98),
        refill_s=0.3,
        queue=draw.choice([7, 8, 8], 500),
    )
    waits = kinds_of(
        records,
        stalled_fetches=0,
        head_of_line_fetches=0,
        head_of_line_s=0.0,
        queue_ready_mean=7.7,
        queue_full_share=0.99,
    )
    boundary = Boundary(1, 0.04, 0.01, 0.03, 0.1, 0.0, True)
    device = DeviceTimes(500, 0.02, 0.08, 1.9, 0.0001)
    return run_of(
        records,
        spans,
        workers=4,
        waits=waits,
        boundary=boundary,
        device=device,
        loading=loading_of(records),
        plans=plans(4),
    )


def two_ranks():
    """Rank 1 holds rank 0 up; it was interrupted."""
    draw = np.random.default_rng(3)
    records, spans = steps_of(draw.gamma(1.0, 0.002, 240), per_epoch=240, queue=draw.choice([3, 4, 5], 240))
    shares = ((0, "node-17", 0.031), (1, "node-18", 0.284))
    ranks = RankTimes(2, 2, 240, 0.291, 0.0201, 0.055, 1.9, 1, "node-18", 0.93, 4.31, shares)
    return run_of(records, spans, workers=4, waits=kinds_of(records), ranks=ranks, world_size=2, status="interrupted")


def inline():
    """No workers: the training process loads by itself."""
    records, spans = steps_of(
        np.random.default_rng(4).gamma(8.0, 0.004, 90),
        per_epoch=45,
        kinds=(0.0, 1.0, 0.0),
        refill_s=0.0,
        validation_s=1.0,
    )
    queue = {"queue_ready_mean": None, "queue_ready_min": None, "queue_capacity": None, "queue_full_share": None}
    waits = kinds_of(records, stalled_fetches=0, head_of_line_fetches=0, head_of_line_s=0.0, **queue)
    return run_of(records, spans, workers=0, waits=waits, plans=plans(0))


def long_run():
    """20,000 steps in 20 epochs; the last 10,000 were kept."""
    draw = np.random.default_rng(5)
    waits_s = draw.lognormal(-6.0, 1.2, 20_000)
    queue = np.clip(6 + 2 * np.sin(np.arange(20_000) / 900) + draw.normal(0, 1, 20_000), 0, 8)
    records, spans = steps_of(waits_s, per_epoch=1000, validation_s=20.0, refill_s=1.1, queue=queue)
    summary, _ = run_of(
        records,
        spans,
        workers=4,
        waits=kinds_of(records, queue_ready_mean=5.9, queue_full_share=0.4),
        loading=loading_of(records),
    )
    return summary, records[10_000:]


def many_ranks():
    """More ranks than have a place."""
    summary, records = two_ranks()
    shares = tuple((rank, f"node-{rank // 8}", 0.01 + 0.2 * (rank == 77) + rank / 5000) for rank in range(128))
    ranks = dataclasses.replace(
        summary.ranks,
        ranks=126,
        world_size=128,
        slowest_rank=77,
        slowest_host="node-9",
        rank_wait_share=shares,
        missing=(3, 4),
    )
    return dataclasses.replace(summary, ranks=ranks, world_size=128), records


def without_new_fields():
    """A file of the first version: records without times on the line, no ledger."""
    records = [StepRecord(s // 10, s, 8, 0.02 + s / 1000, 0.001, 0.01, 0.001, s % 10 == 0, 1, 1, 0) for s in range(30)]
    return summarize(records, num_workers=2), records


def one_step():
    records, spans = steps_of([0.01], per_epoch=1)
    return run_of(records, spans, workers=2)


def no_waits():
    records, spans = steps_of([0.0] * 40, per_epoch=20, refill_s=0.0)
    return run_of(records, spans, workers=2, waits=kinds_of(records))


def no_records():
    return summarize([]), []


def waits_not_measured():
    records = [StepRecord(0, s, None, None, None, None, 0.02, s == 0, 1, 1, 0, end_s=1 + s * 0.02) for s in range(30)]
    return summarize(records), records


def not_numbers():
    """What a damaged file may hold."""
    nan, inf = float("nan"), float("inf")
    records = [
        StepRecord(0, s, 8, nan if s % 2 else 0.01, nan, inf, nan, s == 0, 1, 1, 0, end_s=nan) for s in range(30)
    ]
    summary = dataclasses.replace(
        summarize([]),
        steps=30,
        train_s=nan,
        wait_s=nan,
        wait_share=nan,
        samples_per_s=inf,
        total_s=nan,
        ledger={"wait_s": nan, "compute_s": inf},
        wait_s_median=nan,
        wait_s_max=inf,
        hardware={"ram_bytes": nan, "usable_cpus": "four", "accelerators": None, "rank_binding_limit": 3, "notes": 5},
        plans={"train": 3, "val": {"num_workers": 4}, "test": {"num_workers": {}}},
    )
    return summary, records


def evaluation_only():
    stages = (StageWait("test", 1, 30, 3.0, 0.4, 9.0), StageWait("predict", 1, 3, None, None, 4.0))
    return summarize([], stages=stages), []


def of_many_steps_at_once():
    """Sums of more steps than were kept, without one of them."""
    return summarize([], totals=Totals(steps=90_000, epochs=9, wait_s=9e3, other_s=9e4)), []


RUNS = {
    make.__name__: make
    for make in (
        *(input_bound, healthy, two_ranks, inline, long_run, many_ranks, without_new_fields, one_step, no_waits),
        *(no_records, waits_not_measured, not_numbers, evaluation_only, of_many_steps_at_once),
    )
}
