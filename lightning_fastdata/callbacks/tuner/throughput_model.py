"""How fast a run would be with so many workers: arithmetic on what was measured, nothing else.

Per rank and batch. The training takes ``step_s`` without any waiting and ``cpu_s`` of CPU; one worker takes
``batch_s``, of which ``batch_cpu_s`` is CPU; there are ``cpus`` CPUs. Then no number of workers is faster than

- the training itself: ``step_s``, and taking over a batch that is ready (``worker_transfer_s``);
- the workers: ``batch_s / num_workers``;
- the CPUs: ``(cpu_s + batch_cpu_s) / cpus``.

These are the laws of operational analysis (utilization and bottleneck), as in Plumber (MLSys'22). What waiting is left
where the rates would do, because loading times vary, comes from the queue of tf.data's autotuning
(``tensorflow/core/framework/model.cc``): one server, exponential times, ``n`` places.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from lightning_fastdata.planning.preflight import ResourceCaps
from lightning_fastdata.results.tuning import Consumer, Probe, Trial

__all__ = ["MOST_WORKERS", "Limits", "Setting", "choose", "expected_step_s", "stall_share", "throughput_limit"]

MOST_WORKERS = 32
"""Workers that are taken at most, also with a measurement: starting them and their memory cost more from there."""
TOLERATED_SHARE = 0.02
"""Waiting that is not worth a worker, as a share of a step; also what two predictions must differ by."""
PREFETCH_FACTORS = (2, 3, 4, 6, 8)
"""What is tried, torch's default first: deeper only helps against uneven loading times, and costs memory."""
HEADROOM = 1.1
"""Workers are chosen as if loading took so much longer (ratio): beside others they load a little slower than alone, and
workers that only just keep up never catch up after a slow batch."""
LIMIT_MARGIN = 1.05
"""A step must be that much longer than the training alone needs before a limit is reported (ratio)."""


class Setting(NamedTuple):
    """Workers and the depth of their queue."""

    num_workers: int
    """Worker processes (count)."""
    prefetch_factor: int | None
    """Batches per worker prepared ahead (count); None without workers."""

    def __str__(self) -> str:
        return Trial(*self, step_s=None, predicted_step_s=None).name


@dataclass(frozen=True)
class Limits:
    """What bounds workers and batches under way, beside their usefulness."""

    cpus: float
    """CPUs that this rank may use (count, fractions allowed)."""
    resource_caps: ResourceCaps = field(default_factory=lambda: ResourceCaps(()))
    """What shared memory, memory and open files allow."""
    batches: int | None = None
    """Batches of an epoch, which more workers could not share out (count); None where only the run will tell."""

    @property
    def most_workers(self) -> int:
        """Worker processes that may be started (count)."""
        return min(most for most, _ in self._bounds())

    @property
    def why(self) -> str:
        """What bounds them, in words."""
        return min(self._bounds(), key=lambda bound: bound[0])[1]

    def _bounds(self) -> list[tuple[int, str]]:
        fits = self.resource_caps.workers(1)
        bounds = [(MOST_WORKERS, f"never more than {MOST_WORKERS}"), (fits.most, fits.reason)]
        return bounds if self.batches is None else [*bounds, (self.batches, f"an epoch has {self.batches} batches")]

    def prefetch_factors(self, num_workers: int) -> tuple[int, ...]:
        """Depths worth a thought that fit beside so many workers; at least one.

        Args:
            num_workers: Worker processes, at least 1 (count).
        """
        fits = max(1, self.resource_caps.prefetch(num_workers).most)
        return tuple(depth for depth in PREFETCH_FACTORS if depth <= fits) or (fits,)

    def setting(self, num_workers: int) -> Setting:
        """The least depth for a number of workers, as far as they may be started.

        Args:
            num_workers: Worker processes (count).
        """
        workers = min(num_workers, self.most_workers)
        return Setting(workers, self.prefetch_factors(workers)[0] if workers else None)

    def allow(self, setting: Setting) -> bool:
        """Whether a setting is within the bounds."""
        workers, depth = setting
        return workers <= self.most_workers and (not workers or (depth or 0) <= max(self.prefetch_factors(workers)))


def stall_share(load: float, places: float) -> float:
    """Waiting for the next batch, as a share of the time that the training takes for one.

    The wait model of tf.data for one stage: M/M/1/K seen from the consumer. Towards ``load - 1`` for loads above 1,
    where no queue helps.

    Args:
        load: Time between two batches of the loader over that between two steps (ratio).
        places: Batches that are prepared ahead (count).
    """
    if load <= 0:
        return 0.0
    if abs(load - 1) < 1e-9:
        return load / (places + 1)
    if load < 1:  # the same formula with powers that cannot overflow
        return float(load ** (places + 1) * (1 - load) / (1 - load ** (places + 1)))
    inverse = 1 / load
    return float(load * (1 - inverse) / (1 - inverse ** (places + 1)))


def expected_step_s(
    probe: Probe,
    consumer: Consumer,
    limits: Limits,
    setting: Setting,
    *,
    slowdown: float = 1.0,
) -> float:
    """Mean time of a step with a setting, waiting included (s).

    Args:
        probe: What one worker needs.
        consumer: What the training takes.
        limits: What the machine allows.
        setting: Workers and depth; without workers the training process loads and trains in turn.
        slowdown: How much slower workers load when several do at once (ratio, >= 1), as measured.
    """
    cpu_bound = (consumer.cpu_s + probe.batch_cpu_s) / limits.cpus
    if not setting.num_workers:
        return max(consumer.step_s + probe.batch_s, cpu_bound)
    between = max(probe.batch_s * slowdown / setting.num_workers, cpu_bound)
    alone = consumer.step_s + probe.worker_transfer_s
    if alone <= 0:
        return between
    # Allen and Cunneen: regular times queue less than exponential ones, so the same places go further.
    places = setting.num_workers * (setting.prefetch_factor or 2) * 2 / (1 + probe.batch_s_cv**2)
    return alone * (1 + stall_share(between / alone, places))


def choose(probe: Probe, consumer: Consumer, limits: Limits, *, slowdown: float = 1.0) -> Setting:
    """The fewest workers that are as fast as any, and the least depth at which they are.

    Args:
        probe: What one worker needs.
        consumer: What the training takes.
        limits: What the machine allows.
        slowdown: How much slower workers load when several do at once (ratio).
    """
    careful, most = slowdown * HEADROOM, min(limits.most_workers, _busy_workers(probe, consumer, limits))
    expected = [_with_depth(probe, consumer, limits, workers, careful) for workers in range(most + 1)]
    best_s = min(step_s for _, step_s in expected)
    return next(setting for setting, step_s in expected if step_s <= best_s * (1 + TOLERATED_SHARE))


def _busy_workers(probe: Probe, consumer: Consumer, limits: Limits) -> int:
    """As many workers as the CPUs can keep at work; more of them would only take turns."""
    by_cpus = (consumer.cpu_s + probe.batch_cpu_s) / limits.cpus
    return MOST_WORKERS if by_cpus <= 0 else max(1, math.ceil(probe.batch_s / by_cpus - 1e-6))


def _with_depth(
    probe: Probe, consumer: Consumer, limits: Limits, workers: int, slowdown: float
) -> tuple[Setting, float]:
    """The least depth whose step is nearly as short as that of any depth that fits."""
    depths = limits.prefetch_factors(workers) if workers else (None,)
    settings = [Setting(workers, depth) for depth in depths]
    steps = [(one, expected_step_s(probe, consumer, limits, one, slowdown=slowdown)) for one in settings]
    best_s = min(step_s for _, step_s in steps)
    return next(entry for entry in steps if entry[1] <= best_s * (1 + TOLERATED_SHARE / 2))


def throughput_limit(probe: Probe, consumer: Consumer, limits: Limits) -> str | None:
    """Why no number of workers can keep up with a training.

    Args:
        probe: What one worker needs.
        consumer: What the training takes.
        limits: What the machine allows.

    Returns:
        What the CPUs, or the workers that fit, give at most, what is needed, and what would help; None where there are
        workers enough, or where it is not known what is needed.
    """
    alone_s = consumer.step_s + probe.worker_transfer_s
    if consumer.step_s <= 0:
        return None
    cpu_s = consumer.cpu_s + probe.batch_cpu_s
    by_cpus, by_workers = cpu_s / limits.cpus, probe.batch_s / max(1, limits.most_workers)
    if max(by_cpus, by_workers) <= alone_s * LIMIT_MARGIN:
        return None
    needed = f"the training would take {_rate(1 / alone_s)}"
    if by_cpus >= by_workers:
        cores = math.ceil(cpu_s / alone_s)
        usable = "core" if limits.cpus == 1 else "cores"
        return (
            f"{limits.cpus:.3g} {usable} can give at most {_rate(1 / by_cpus)}, {needed}: cheaper decoding, a cache, or"
            f" {cores} cores"
        )
    return (
        f"{limits.most_workers} workers ({limits.why}) can give at most {_rate(1 / by_workers)}, {needed}: a faster"
        " disk or network, a cache, or threads that read ahead within the dataset"
    )


def _rate(per_s: float) -> str:
    return f"{per_s:.3g} batches/s" if per_s < 100 else f"{per_s:.0f} batches/s"
