"""The arithmetic: what a setting gives, the fewest workers that do, and what to say where none are enough."""

import pytest

from lightning_fastdata.callbacks.tuner.throughput_model import (
    MOST_WORKERS,
    Limits,
    Setting,
    choose,
    expected_step_s,
    stall_share,
    throughput_limit,
)
from lightning_fastdata.hardware.detect import Hardware, Limit
from lightning_fastdata.planning.preflight import Pool, resource_caps
from lightning_fastdata.results.tuning import Consumer, Probe


def probe(batch_s=0.08, cpu=1.0, cv=0.05, worker_transfer_s=0.0005, batch_bytes=1_000_000, **more):
    figures = {"batches": 8, "batch_tensors": 2, "worker_bytes": 100_000_000, "start_s": 0.1}
    return Probe(
        batch_s=batch_s,
        batch_cpu_s=batch_s * cpu,
        batch_s_cv=cv,
        worker_transfer_s=worker_transfer_s,
        batch_bytes=batch_bytes,
        **{**figures, **more},
    )


@pytest.mark.parametrize(
    ("load", "shares"),
    [
        (0.5, (0.167, 0.071, 0.016, 0.001, 0.000)),
        (0.8, (0.356, 0.210, 0.097, 0.031, 0.005)),
        (0.9, (0.426, 0.269, 0.144, 0.063, 0.020)),
        (1.0, (0.500, 0.333, 0.200, 0.111, 0.059)),
        (1.2, (0.655, 0.475, 0.334, 0.248, 0.209)),
    ],
)
def test_the_stall_is_that_of_the_published_queue(load, shares):
    """Five rows of p(empty) x load for 1, 2, 4, 8 and 16 places, worked out apart from the code."""
    assert [round(stall_share(load, places), 3) for places in (1, 2, 4, 8, 16)] == list(shares)


@pytest.mark.parametrize("load", [0.0, 1e-12, 0.01, 0.999999999, 1.0, 1.000000001, 50.0, 1e6])
@pytest.mark.parametrize("places", [1, 4, 256, 10_000])
def test_the_stall_is_a_number_for_any_load(load, places):
    """Neither overflow nor division by zero; from nothing to what the rate alone costs, and never less than that."""
    assert max(0.0, load - 1) - 1e-6 <= stall_share(load, places) <= load


@pytest.mark.parametrize(
    ("consumer", "cpus", "setting", "expected_s"),
    [
        (Consumer(0.02), 8, Setting(0, None), 0.1),  # 20 ms and 80 ms follow each other
        (Consumer(0.01), 16, Setting(2, 2), 0.04),
        (Consumer(0.01), 16, Setting(4, 2), 0.02),
        (Consumer(0.01), 2, Setting(8, 2), 0.04),  # 80 ms of CPU on two cores, however many workers
        (Consumer(0.02, cpu_s=0.04), 2, Setting(8, 2), 0.06),  # a training that computes on the CPU needs its share
    ],
)
def test_a_step_of_a_loader_that_takes_80_ms_of_cpu(consumer, cpus, setting, expected_s):
    """By the rates of the training, the workers and the cores; waiting for a disk takes no core."""
    assert expected_step_s(probe(), consumer, Limits(cpus), setting) == pytest.approx(expected_s, rel=0.02)
    assert expected_step_s(probe(cpu=0.05), Consumer(0.01), Limits(2), Setting(8, 2)) < 0.012


def test_uneven_loading_needs_a_deeper_queue():
    """At 80 % load regular batches are nearly always there, bursts are not; depth helps these."""

    def stalled(cv, depth):
        return expected_step_s(probe(0.032, cv=cv), Consumer(0.02, 0.0), Limits(8), Setting(2, depth)) / 0.0205 - 1

    assert stalled(0.05, 2) < 0.04 < stalled(2.0, 2)
    assert stalled(2.0, 8) < stalled(2.0, 2) / 2


@pytest.mark.parametrize(
    ("found", "step_s", "cpus", "workers"),
    [
        (probe(0.08), 0.02, 16, range(5, 7)),  # 4 keep up exactly, which leaves no room for any variation
        (probe(0.08), 0.1, 16, range(1, 2)),
        (probe(0.08), 0.02, 2, range(2, 3)),  # the cores end it
        (probe(0.8, cpu=0.02), 0.02, 2, range(32, 33)),  # a disk: as many as are allowed
        (probe(0.0001), 0.05, 16, range(1)),  # nothing to gain
        (probe(0.0004, worker_transfer_s=0.0006), 0.002, 16, range(1)),  # handing over would cost more than loading
        (probe(0.0), 0.02, 16, range(1)),
        (probe(0.08), 0.0, 4, range(4, 5)),  # as fast as it goes where the demand is unknown
    ],
)
def test_the_fewest_workers_that_do(found, step_s, cpus, workers):
    """As many as are needed, no more than help, none where that is as fast."""
    assert choose(found, Consumer(step_s), Limits(cpus)).num_workers in workers


def test_half_a_core_gets_no_worker_for_a_decoder_and_one_for_a_disk():
    """A quota of 0.5 CPU: decoding and training share it anyway; waiting for a disk takes none of it."""
    assert choose(probe(0.02), Consumer(0.02, 0.02), Limits(0.5)).num_workers == 0
    assert choose(probe(0.02, cpu=0.02), Consumer(0.02, 0.002), Limits(0.5)).num_workers >= 1


def machine(**figures):
    return Hardware(cpu_limits=(Limit("mask", 16.0, "affinity"),), **figures)


def test_shared_memory_bounds_the_depth_and_then_the_workers():
    """64 MiB, half of it ours, in batches of 5 MiB: six under way."""
    fits = resource_caps(machine(shm_free_bytes=64 * 2**20), Pool(1, 1, batch_bytes=5 * 2**20, tensors_per_batch=1))
    limits = Limits(16, fits)
    assert limits.prefetch_factors(1) == (2, 3, 4, 6)
    assert limits.prefetch_factors(4) == (1,)
    assert limits.most_workers == 6
    trial = choose(probe(0.2, cv=2.0, batch_bytes=5 * 2**20), Consumer(0.02), limits)
    assert trial.num_workers * trial.prefetch_factor <= 6
    assert (Limits(16, batches=3).most_workers, Limits(16, batches=3).why) == (3, "an epoch has 3 batches")


def test_a_limit_names_what_the_cores_give_what_is_needed_and_what_would_help():
    """50 ms of CPU a batch on 7.5 cores give 150 batches/s; 1000 are needed: 50 cores."""
    text = throughput_limit(probe(0.05, worker_transfer_s=0.0), Consumer(0.001), Limits(7.5))
    assert text is not None
    assert text.startswith("7.5 cores can give at most 150 batches/s, the training would take 1000 batches/s")
    assert "cheaper decoding, a cache, or 50 cores" in text


def test_a_limit_of_a_disk_does_not_ask_for_cores():
    """Waiting for a disk: more cores would not help."""
    text = throughput_limit(probe(8.0, cpu=0.001), Consumer(0.02), Limits(2))
    assert text is not None
    assert text.startswith(f"{MOST_WORKERS} workers (never more than {MOST_WORKERS}) can give at most 4 batches/s")
    assert "cores" not in text


@pytest.mark.parametrize("consumer", [Consumer(0.1), Consumer(0.0)])
def test_no_limit_where_workers_are_enough_or_the_need_is_unknown(consumer):
    """Nothing is said that was not measured."""
    assert throughput_limit(probe(0.08), consumer, Limits(8)) is None
