"""What worker processes will take of shared memory, memory and open files, against what is free: before they start.

Two kinds of figures are kept apart. What is *expected* rests on assumptions where nothing was declared or measured,
and is what "auto" keeps within. What is taken *at least* rests on measured or declared figures alone, and only that
is held against values of the user's own: nothing is refused that could have run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_fastdata.hardware.detect import Hardware
from lightning_fastdata.planning.options import MOST, Pool

__all__ = ["Cap", "Demand", "Pool", "Resource", "ResourceCaps", "amount", "preflight", "resource_caps"]

Resource = Literal["shm", "ram", "files"]

USED_SHARE = 0.5
"""Share of free memory, shared memory and file descriptors that "auto" may take; the rest is for other processes."""
ASSUMED_SAMPLE_BYTES = 3 * 224 * 224 * 4
"""Stand-in for an unknown sample size: one 224 x 224 RGB image as float32."""
ASSUMED_BATCH_SIZE = 32
"""Samples of a batch whose size a batch sampler decides (count)."""
ASSUMED_WORKER_BYTES = 512 * 2**20
"""Allowance for the private memory of one worker until it is measured."""
ASSUMED_TENSORS = 4
"""Tensors of a batch until they are counted; each holds a file open on its way from a worker (count)."""
FILES_PER_WORKER = 8
"""Pipes and sockets of one worker in the training process (count); 4 to 6 measured with torch 2.15, rounded up."""
SURE_FILES_PER_WORKER = 4
"""The least of them (count, measured with 6 workers under fork, forkserver and spawn)."""

SHM_FIX = "enlarge it with docker run --shm-size=8g (Kubernetes: an emptyDir of medium: Memory)"
RAM_FIX = "more memory (docker run --memory, resources.limits.memory, the job's --mem)"
FILES_FIX = "raise ulimit -n"
FIXES: dict[Resource, str] = {"shm": SHM_FIX, "ram": RAM_FIX, "files": FILES_FIX}
"""The flag to change."""
FAILURE_MODES: dict[Resource, str] = {"shm": "a bus error", "ram": "a killed worker", "files": "'too many open files'"}
"""How a run ends that takes more."""


LABELS: dict[Resource, str] = {"shm": "/dev/shm", "ram": "memory", "files": "open files"}


@dataclass(frozen=True)
class Demand:
    """What workers take of one resource of the machine."""

    name: Resource
    """Which one: /dev/shm, memory, or open files."""
    needed: int
    """What is expected to be taken at most, by all ranks and pools that share it (bytes; for files a count)."""
    free: int
    """What can still be taken (the same unit)."""
    expected: str
    """How ``needed`` comes about, and what in it is assumed."""
    least: int
    """What is taken at least once the queues are full, from measured or declared figures alone (the same unit)."""
    allowed: int
    """What ``least`` must not exceed: what is free, swap included; for several ranks, of whom some may have begun to
    take their share, all there is."""
    sure: str
    """How ``least`` comes about."""

    @property
    def fatal(self) -> bool:
        """Whether it is sure that this cannot run."""
        return self.least > self.allowed

    @property
    def verdict(self) -> Literal["fits", "near", "too much"]:
        """Near: above half of what is free. Too much: above all of it, by what is expected."""
        if self.fatal or self.needed > self.free:
            return "too much"
        return "near" if self.needed > USED_SHARE * self.free else "fits"

    @property
    def line(self) -> str:
        """All of it in one line for people."""
        share = f"{self.needed / self.free:.0%}" if self.needed < 100 * self.free else "far more than all"
        fix = FIXES[self.name]
        verdict = {"fits": "", "near": f"; {fix}", "too much": f", too much: {fix}"}[self.verdict]
        return (
            f"{LABELS[self.name]}: {amount(self.name, self.needed)} expected ({self.expected}), "
            f"{share} of the {amount(self.name, self.free)} free{verdict}"
        )


@dataclass(frozen=True)
class Cap:
    """The most of something, and what limits it."""

    most: int
    """Workers or batches ahead (count), 0..4096; 4096 = nothing known limits it."""
    name: Resource | None
    """What limits it; None = nothing known."""
    reason: str
    """The sentence for people, with the figure and the flag to change; "" when nothing limits it."""


@dataclass(frozen=True)
class _Room:
    """What one resource has for a pool, which takes ``workers x (per_worker + prefetch x per_batch)`` of it."""

    name: Resource
    room: float
    per_worker: float
    per_batch: float
    free: int
    about_batch: str

    def reason(self, prefetch: int) -> str:
        free = amount(self.name, self.free)
        if self.name == "shm":
            return f"{free} free in /dev/shm, {self.about_batch}: {SHM_FIX}"
        each = amount(self.name, self.per_worker + prefetch * self.per_batch)
        if self.name == "ram":
            return f"{free} of memory available, about {each} per worker: {RAM_FIX}"
        return f"{free} more open files allowed, up to {each} per worker: {FILES_FIX}"


@dataclass(frozen=True)
class ResourceCaps:
    """How many workers and batches ahead fit into the share of the machine that "auto" may take."""

    rooms: tuple[_Room, ...]
    """One for each resource."""

    def workers(self, prefetch: int) -> Cap:
        """The most workers.

        Args:
            prefetch: Batches each prepares ahead (count), >= 1.

        Returns:
            The most workers (count), 0 when not even one fits.
        """
        fits = [(room.room // max(1e-9, room.per_worker + prefetch * room.per_batch), room) for room in self.rooms]
        return _tightest(fits, prefetch)

    def prefetch(self, workers: int) -> Cap:
        """The deepest prefetch.

        Args:
            workers: Worker processes (count), >= 1.

        Returns:
            The most batches each may prepare ahead (count), 0 when that many workers do not fit with even one.
        """
        fits = [((room.room / workers - room.per_worker) // max(1e-9, room.per_batch), room) for room in self.rooms]
        return _tightest(fits, 1)


def resource_caps(
    hardware: Hardware, sizes: Pool, other_pool: Pool | None = None, *, shared_by: int = 1
) -> ResourceCaps:
    """What the machine allows one loader: half of what is free, for all ranks of the node together.

    Args:
        hardware: What this process may use.
        sizes: What a worker and a batch take; its own numbers of workers and batches do not matter.
        other_pool: Workers of another split that live at the same time and come first; None = there are none.
        shared_by: Loaders that share what is then left equally (count).

    Returns:
        The most workers for a given prefetch and the most prefetch for given workers, each with its sentence.
    """
    rooms = []
    for name, free in _free(hardware).items():
        ranks = 1 if name == "files" else hardware.local_world_size
        taken = _expected(name, other_pool) if other_pool else 0
        room = max(0.0, (USED_SHARE * free / ranks - taken) / shared_by)
        rooms.append(_Room(name, room, *_unit(name, sizes), free=free, about_batch=_about_batch(sizes)))
    return ResourceCaps(tuple(rooms))


def preflight(
    hardware: Hardware, pool: Pool, other_pool: Pool | None = None, *, filled_together: bool = False
) -> tuple[Demand, ...]:
    """Predict what one pool of workers takes, or two that live at the same time.

    Args:
        hardware: What this process may use, read before the workers of either were started.
        pool: Workers of the loader in question.
        other_pool: Workers of another split that live at the same time; None = there are none.
        filled_together: Whether both are sure to be full of batches at the same time, as when a run validates in the
            middle of an epoch; otherwise only the first counts as sure.

    Returns:
        One for each of /dev/shm, memory and open files; left out where it is not known what is free.
    """
    pools = [pool] if other_pool is None else [pool, other_pool]
    sure = pools if filled_together else pools[:1]
    return tuple(_demand(name, free, pools, sure, hardware) for name, free in _free(hardware).items())


# ---------------------------------------------------------------------------------------------------------- arithmetic


def _free(hardware: Hardware) -> dict[Resource, int]:
    """What can still be taken of each resource, by name; those that are not known are left out."""
    files = None
    if hardware.open_file_limit is not None:
        files = max(0, hardware.open_file_limit - (hardware.open_files or 0))
    free: dict[Resource, int | None] = {
        "shm": hardware.shm_free_bytes,
        "ram": hardware.ram_available_bytes,
        "files": files,
    }
    return {name: amount for name, amount in free.items() if amount is not None}


def _demand(name: Resource, free: int, pools: Sequence[Pool], sure: Sequence[Pool], hardware: Hardware) -> Demand:
    ranks = 1 if name == "files" else hardware.local_world_size  # the limit on open files is each process's own
    least = sum(_at_least(name, pool) for pool in sure)
    swap = (hardware.swap_free_bytes or 0) if name == "ram" else 0
    bounds, size = [(least, free + swap, 1)], _size_of(name, hardware)
    if ranks > 1 and size is not None:
        bounds.append((ranks * least, size + swap, ranks))
    least, allowed, sure_ranks = max(bounds, key=lambda bound: bound[0] - bound[1])
    return Demand(
        name=name,
        needed=ranks * sum(_expected(name, pool) for pool in pools),
        free=free,
        expected=_of_ranks(ranks, (_expected_words(name, pool) for pool in pools if pool.num_workers)),
        least=least,
        allowed=allowed,
        sure=_of_ranks(sure_ranks, (_sure_words(name, pool) for pool in sure if pool.num_workers)),
    )


def _size_of(name: Resource, hardware: Hardware) -> int | None:
    """The size of what the ranks of a node share."""
    if name == "shm":
        return hardware.shm_total_bytes
    return hardware.ram_limit_bytes if hardware.ram_limit_bytes is not None else hardware.ram_bytes


def _batch_bytes(pool: Pool) -> int:
    if pool.batch_bytes is not None:
        return pool.batch_bytes
    return ASSUMED_SAMPLE_BYTES * (pool.batch_size or ASSUMED_BATCH_SIZE)


def _unit(name: Resource, pool: Pool) -> tuple[float, float]:
    """What is expected of one worker without batches, and of one batch under way.

    Finished batches lie in /dev/shm, whose pages are memory too (charged to the cgroup of who wrote them). With pinning
    each may lie in page-locked memory as well. Without torch's file_system strategy each tensor holds a file open
    in the training process, from its arrival until it is let go.
    """
    if name == "shm":
        return 0.0, float(_batch_bytes(pool))
    if name == "ram":
        worker = ASSUMED_WORKER_BYTES if pool.worker_bytes is None else pool.worker_bytes
        return float(worker), float(_batch_bytes(pool) * (2 if pool.pin_memory else 1))
    return float(FILES_PER_WORKER), float(ASSUMED_TENSORS if pool.tensors_per_batch is None else pool.tensors_per_batch)


def _expected(name: Resource, pool: Pool) -> int:
    per_worker, per_batch = _unit(name, pool)
    return round(pool.num_workers * per_worker + pool.in_flight * per_batch)


def _at_least(name: Resource, pool: Pool) -> int:
    """What is sure to be taken once the queue is full: from figures that were measured or declared, and no more."""
    batches = pool.in_flight * (pool.batch_bytes or 0)
    if name == "shm":
        return batches
    if name == "ram":
        return pool.num_workers * (pool.worker_bytes or 0) + batches
    # Tensors hold a file open when they arrive, not in the queue: only those of one batch are sure to do so at once.
    return pool.num_workers * SURE_FILES_PER_WORKER + (pool.tensors_per_batch or 0 if pool.in_flight else 0)


def _tightest(fits: list[tuple[float, _Room]], prefetch: int) -> Cap:
    most, room = min(fits, key=lambda pair: pair[0], default=(MOST, None))
    if room is None or most >= MOST:
        return Cap(MOST, None, "")
    return Cap(max(0, int(most)), room.name, room.reason(prefetch))


# --------------------------------------------------------------------------------------------------------------- words


def _about_batch(pool: Pool) -> str:
    size = amount("shm", _batch_bytes(pool))
    if pool.batch_bytes is None:
        return f"a batch is assumed to be {size} (its size is not known)"
    return f"a batch is {size}{' by a few samples that were tried' if 'batch_bytes' in pool.measured else ''}"


def _of_ranks(ranks: int, terms: Iterable[str]) -> str:
    text = " + ".join(terms) or "no workers"
    return f"{ranks} ranks x ({text})" if ranks > 1 else text


def _expected_words(name: Resource, pool: Pool) -> str:
    per_worker, per_batch = _unit(name, pool)
    of = f"{_batches(pool)} x {_said(name, per_batch, pool, 'tensors_per_batch' if name == 'files' else 'batch_bytes')}"
    if name == "shm":
        return of
    each = _said(name, per_worker, pool, "worker_bytes") if name == "ram" else amount(name, per_worker)
    return f"{_workers(pool)} x {each} + {of}"


def _sure_words(name: Resource, pool: Pool) -> str:
    batches = f"{_batches(pool)} x {amount('shm', pool.batch_bytes or 0)}"
    if name == "shm":
        return batches
    if name == "ram":
        return f"{_workers(pool)} x {amount('ram', pool.worker_bytes or 0)} + {batches}"
    return f"{_workers(pool)} x {SURE_FILES_PER_WORKER} + {pool.tensors_per_batch or 0} tensors"


def _workers(pool: Pool) -> str:
    return f"{pool.num_workers} worker{'s' * (pool.num_workers != 1)}"


def _batches(pool: Pool) -> str:
    return f"{pool.in_flight} batch{'es' * (pool.in_flight != 1)} under way"


def _said(name: Resource, number: float, pool: Pool, field: str) -> str:
    """A size, and where it comes from if it was not declared."""
    origin = " assumed" if getattr(pool, field) is None else " measured" if field in pool.measured else ""
    return f"{amount(name, number)}{origin}"


def amount(name: Resource, number: float) -> str:
    """A number of bytes, or of files, for people."""
    if name == "files":
        return f"{number:.0f}"
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.3g} MiB"
