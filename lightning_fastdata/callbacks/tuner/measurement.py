"""Measuring a loader outside of training: what one worker needs, and what a setting gives to a consumer."""

import contextlib
import math
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from lightning_fastdata.callbacks.tuner.trial_loader import FreshIndices, Source, asks_for, trial_loader
from lightning_fastdata.compat.torch_internals import stop_workers
from lightning_fastdata.hardware.cgroups import locate
from lightning_fastdata.hardware.pressure import Pressure, kept_waiting_s, read_pressure
from lightning_fastdata.hardware.sysfiles import SystemFiles, parse_int
from lightning_fastdata.loaders.seeded_dataset import SeededDataset, WorkerOutput
from lightning_fastdata.results.tuning import Probe, Trial

__all__ = ["UnmeasuredError", "contention", "look", "probe_worker", "run_inline", "run_trial", "sizes_of"]

PROBE_BATCHES = 8
"""Batches that a probe takes at most, after the first one (count)."""
FEWEST_PROBE_BATCHES = 2
"""Fewer than these say nothing of how batches vary (count)."""
MEASURED_SHARE = 1 / 3
"""Share of a probe's time that is left for measuring, however long the worker took to start."""
SPAWN_S = 20.0
"""Time that a worker has to start where it is not forked (s); importing torch takes seconds."""
HANDOFFS = 3
"""Batches whose handing over is timed (count); the least counts, since anything may hold up a process."""
BUSY_SHARE = 0.15
"""Share of a probe's time without a CPU above which the machine is too busy to measure."""
STEPS = 8
"""Steps that a trial measures at least, if its time allows (count)."""
TRIAL_S = 0.5
"""Time that a trial measures at least (s)."""


class UnmeasuredError(Exception):
    """A measurement gave nothing; says why, as the end of a sentence."""


class _Readings(NamedTuple):
    """A worker's own counters."""

    cpu_s: float
    kept_waiting_s: float | None
    disk_bytes: int | None

    @classmethod
    def now(cls, files: SystemFiles) -> "_Readings":
        return cls(time.process_time(), kept_waiting_s(files), _disk_bytes(files))


class _Measured(NamedTuple):
    """A batch, with what loading it took in the worker."""

    delivered: WorkerOutput
    cpu_s: float
    kept_waiting_s: float | None
    disk_bytes: int | None
    worker_bytes: int | None


class _ProbeView(SeededDataset):
    """The samples as a worker sees them, which looks at its own counters around each batch."""

    def __getitem__(self, ask: Any) -> Any:
        files = SystemFiles()
        before = _Readings.now(files)
        delivered = super().__getitem__(ask)
        after = _Readings.now(files)
        return _Measured(
            delivered,
            after.cpu_s - before.cpu_s,
            _difference(before.kept_waiting_s, after.kept_waiting_s),
            _difference(before.disk_bytes, after.disk_bytes),
            _private_bytes(),
        )

    __getitems__ = __getitem__


def _difference(before: Any, after: Any) -> Any:
    return None if before is None or after is None else after - before


def _disk_bytes(files: SystemFiles) -> int | None:
    """What this process has had read from a disk (bytes)."""
    for line in (files.read("/proc/self/io") or "").splitlines():
        if line.startswith("read_bytes:"):
            return parse_int(line.partition(":")[2])
    return None


def _private_bytes() -> int | None:
    """Memory of this process that it shares with no other (bytes); after a fork that grows with time."""
    import psutil

    try:
        return int(psutil.Process().memory_full_info().uss)
    except (psutil.Error, AttributeError):
        return None


def probe_worker(source: Source, fresh: FreshIndices, budget_s: float = 3.0) -> Probe:
    """Have one worker load some batches, and nothing beside it.

    The first batch is left out: imports, open files, compilers. Samples are drawn at random and none twice. The
    training process reads no sample itself: it might open a file that workers, once forked, would share.

    Args:
        source: What to load.
        fresh: Which samples.
        budget_s: Time it may take (s).

    Returns:
        The figures.

    Raises:
        UnmeasuredError: The dataset raised, the worker died, or it did not get far enough in the time.
    """
    asked = time.perf_counter()
    ends = asked + budget_s
    loader = trial_loader(source, fresh, 1, 2, view=_ProbeView, timeout_s=budget_s + _start_allowance_s(source))
    with _closing(loader, "one worker") as batches:
        first = next(batches)
        start_s, sizes = time.perf_counter() - asked, sizes_of(first.delivered.batch)
        if 2 * _load_s(first) > budget_s:
            raise UnmeasuredError(f"the first batch took one worker {_load_s(first):.2g} s, of {budget_s:.3g} s in all")
        # A worker that was slow to start, on a machine where everything is, may still be measured.
        ends = max(ends, time.perf_counter() + budget_s * MEASURED_SHARE)
        measured: list[_Measured] = []
        handoffs: list[float] = []
        while len(measured) < PROBE_BATCHES and time.perf_counter() < ends:
            one = next(batches)
            handoffs.append(time.perf_counter() - one.delivered.times.ready_s)
            measured.append(one._replace(delivered=one.delivered._replace(batch=None)))  # large ones add up
        nearby_s = statistics.mean(_load_s(one) for one in measured) if measured else budget_s
        while nearby_s * 2.5 * (len(handoffs) - len(measured) + 1) < ends - time.perf_counter():
            time.sleep(2.5 * nearby_s)  # both batches that are prepared ahead are there by then
            before = time.perf_counter()
            next(batches)
            handoffs.append(time.perf_counter() - before)
            if len(handoffs) >= len(measured) + HANDOFFS:
                break
    if len(measured) < FEWEST_PROBE_BATCHES:
        took = f"the first batch took {_load_s(first):.2g} s, from its start {start_s:.2g} s"
        raise UnmeasuredError(f"one worker had loaded {1 + len(measured)} batches after {budget_s:.3g} s ({took})")
    return _probe_of(measured, sizes, start_s, min(handoffs))


def _start_allowance_s(source: Source) -> float:
    """Time beyond any budget that a worker has to start: under spawn and forkserver it imports torch first (s)."""
    method = _method(source.multiprocessing_context) or multiprocessing.get_start_method()
    return 0.0 if method == "fork" else SPAWN_S


def _load_s(measured: _Measured) -> float:
    times = measured.delivered.times
    return times.ready_s - times.began_s


def _probe_of(measured: list[_Measured], sizes: tuple[int, int], start_s: float, worker_transfer_s: float) -> Probe:
    loads = [_load_s(one) for one in measured]
    mean = statistics.mean(loads)
    batch_bytes, tensors = sizes
    waited = [one.kept_waiting_s for one in measured if one.kept_waiting_s is not None]
    disk = [one.disk_bytes for one in measured if one.disk_bytes is not None]
    return Probe(
        batches=len(loads),
        batch_s=mean,
        batch_cpu_s=min(statistics.mean(one.cpu_s for one in measured), mean * (os.cpu_count() or 1)),
        batch_s_cv=statistics.stdev(loads) / mean if mean > 0 else 0.0,
        worker_transfer_s=worker_transfer_s,
        batch_bytes=batch_bytes,
        batch_tensors=tensors,
        worker_bytes=max((one.worker_bytes for one in measured if one.worker_bytes is not None), default=None),
        start_s=start_s,
        disk_bytes=round(statistics.mean(disk)) if disk else None,
        kept_waiting_share=sum(waited) / sum(loads) if waited and sum(loads) > 0 else None,
    )


@contextlib.contextmanager
def _closing(loader: Any, who: str) -> Iterator[Iterator[Any]]:
    """The batches of a loader whose workers are ended afterwards; what goes wrong is ``UnmeasuredError``."""
    batches, went_well = None, False
    try:
        batches = iter(loader)
        yield batches
        went_well = True
    except UnmeasuredError:
        raise
    except StopIteration as error:
        raise UnmeasuredError("the dataset came to an end") from error
    except Exception as error:  # the dataset's own, those of a dead worker, those of starting one
        raise UnmeasuredError(_in_words(error, who)) from error
    finally:
        if batches is not None:
            stop_workers(batches, at_once=not went_well)  # a worker that hangs would be waited for


def _in_words(error: Exception, who: str) -> str:
    text = str(error).strip()
    if "timed out" in text:
        return f"{who} gave no batch in time ({text})"
    if "exited unexpectedly" in text or "killed by signal" in text:
        return f"the worker process died ({text.splitlines()[0]})"
    # torch hands a worker's exception on with its traceback; its last line is the exception itself.
    last = text.splitlines()[-1] if text else ""
    return f"loading raised {type(error).__name__}: {last}".removesuffix(": ")


def sizes_of(batch: Any) -> tuple[int, int]:
    """How large a batch is.

    Args:
        batch: Tensors and arrays in any nesting of mappings, sequences and objects with attributes.

    Returns:
        Bytes, and tensors (count). What is neither tensor nor array counts nothing.
    """
    if isinstance(batch, torch.Tensor):
        return batch.element_size() * batch.numel(), 1
    if isinstance(batch, np.ndarray):
        return batch.nbytes, 0
    if isinstance(batch, (bytes, bytearray)):
        return len(batch), 0
    if isinstance(batch, Mapping):
        parts: Any = batch.values()
    elif isinstance(batch, (list, tuple)):
        parts = batch
    else:
        parts = [value for value in getattr(batch, "__dict__", {}).values() if isinstance(value, torch.Tensor)]
    sizes = [sizes_of(part) for part in parts]
    return sum(size for size, _ in sizes), sum(count for _, count in sizes)


def look() -> tuple[float, Pressure]:
    """The clock and the machine's counters, for ``contention``."""
    files = SystemFiles()
    return time.perf_counter(), read_pressure(files, locate(files))


def contention(probe: Probe, before: tuple[float, Pressure], after: tuple[float, Pressure]) -> str | None:
    """Whether the machine was too busy for a probe to say anything.

    One worker and an idle training process need no more than the CPUs that there are. Where the worker was kept
    waiting all the same, somebody else had them, or a quota was used up; then its times, and any trial's, are those of
    a busy machine.

    Args:
        probe: What was measured.
        before: What ``look`` gave before it.
        after: What it gave after it.

    Returns:
        Why it was too busy, in words with the figure; None where it was not, or where nothing tells.
    """
    took = after[0] - before[0]
    throttled = _difference(before[1].throttled_s, after[1].throttled_s)
    if throttled is not None and took > 0 and throttled / took > BUSY_SHARE:
        return f"a CPU quota stopped this process for {throttled / took:.0%} of the probe"
    waited = probe.kept_waiting_share
    if waited is not None:
        return f"the worker got no CPU for {waited:.0%} of its time" if waited > BUSY_SHARE else None
    stalled = _difference(before[1].stalled_s, after[1].stalled_s)
    if stalled is not None and took > 0 and stalled / took > 2 * BUSY_SHARE:
        return f"tasks of this machine waited for a CPU in {stalled / took:.0%} of the probe's time"
    return None


def run_trial(
    source: Source,
    fresh: FreshIndices,
    num_workers: int,
    prefetch_factor: int,
    *,
    step_s: float,
    budget_s: float,
    start_s: float = 0.0,
) -> Trial:
    """Load with a setting for a consumer that waits ``step_s`` after each batch, as one that trains on a GPU does.

    Args:
        source: What to load.
        fresh: Which samples.
        num_workers: Worker processes, at least 1 (count).
        prefetch_factor: Batches per worker prepared ahead (count).
        step_s: How long the consumer is at a batch (s).
        budget_s: Time it may take from the first batch on (s).
        start_s: What starting one worker took (s); all together have several times as long, beyond the budget.

    Returns:
        The trial; with ``verdict`` and without a time where it came to nothing.
    """
    trial = Trial(num_workers, prefetch_factor, step_s=None, predicted_step_s=None)
    asked, allowed_s = time.perf_counter(), budget_s + _start_allowance_s(source) + 3 * start_s
    try:
        loader = trial_loader(source, fresh, num_workers, prefetch_factor, timeout_s=allowed_s)
        with _closing(loader, f"{num_workers} workers") as batches:
            next(batches)
            started_s = time.perf_counter() - asked
            ends = time.perf_counter() + budget_s
            # All workers have begun at once: their first batches come together, and say nothing of the pace.
            _consume(batches, step_s, steps=num_workers, until=ends)
            fewest = max(STEPS, num_workers)
            steps, waits = _consume(batches, step_s, steps=fewest, at_least_s=TRIAL_S, until=ends)
    except UnmeasuredError as error:
        return replace(trial, verdict=str(error))
    if len(steps) < min(STEPS, num_workers):
        return replace(trial, verdict=f"too slow to be measured in {budget_s:.2g} s")
    return _timed(trial, steps, waits, started_s)


def run_inline(source: Source, fresh: FreshIndices, *, step_s: float, budget_s: float) -> Trial:
    """The same without workers, in a child process that stands for the training process.

    In the training process itself the dataset might open files, which workers would share once they are forked.

    Args:
        source: What to load.
        fresh: Which samples.
        step_s: How long the consumer is at a batch (s).
        budget_s: Time it may take (s).

    Returns:
        The trial; with ``verdict`` and without a time where it came to nothing.
    """
    trial = Trial(0, None, step_s=None, predicted_step_s=None)
    context: Any = multiprocessing.get_context(_method(source.multiprocessing_context))
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_inline_child, args=(there, source, fresh, step_s, budget_s), daemon=True)
    try:
        child.start()
        there.close()
        # Its start may take seconds: under spawn it imports torch.
        answer = here.recv() if here.poll(budget_s + SPAWN_S) else "the child process gave no answer in time"
    except EOFError:
        answer = "the child process died"
    except Exception as error:  # what cannot be pickled for it
        answer = _in_words(error, "0 workers")
    finally:
        if child.pid is not None:
            child.kill()
            child.join()
        here.close()
    if isinstance(answer, str):
        return replace(trial, verdict=answer)
    steps, waits, taken = answer
    fresh.take(taken)  # the child's are gone too
    return _timed(trial, steps, waits, None)


def _method(context: Any) -> str | None:
    return context if context is None or isinstance(context, str) else context.get_start_method()


def _inline_child(pipe: Any, source: Source, fresh: FreshIndices, step_s: float, budget_s: float) -> None:
    """Run in the child: a forked process must not use the thread pool that its parent had."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this process
    torch.set_num_threads(1)
    view = SeededDataset(
        source.dataset, source.collate_fn, source.seed, batched=source.batched, source=source.seed or 0
    )
    batches = (view[ask] for ask in asks_for(source, fresh))
    ends = time.perf_counter() + budget_s
    try:
        _consume(batches, step_s, steps=1, until=ends)
        steps, waits = _consume(batches, step_s, steps=STEPS, at_least_s=TRIAL_S, until=ends)
        pipe.send((steps, waits, (len(steps) + 1) * source.batch_size))
    except Exception as error:
        pipe.send(_in_words(error, "0 workers"))


def _consume(
    batches: Iterator[Any], step_s: float, *, steps: int, until: float, at_least_s: float = 0.0
) -> tuple[list[float], list[float]]:
    """Take batches and wait after each: times of whole steps and of the waits in them (s).

    Until there were ``steps`` and ``at_least_s`` has passed; or ``until``, if there was one step.
    """
    took: list[float] = []
    waits: list[float] = []
    start = began = time.perf_counter()
    # As in a training loop the batch is there until the next one is. Were it let go before, its memory would go back to
    # the system, and large batches would spend most of their time on getting it again.
    for _ in batches if steps else ():
        waits.append(time.perf_counter() - start)
        if step_s > 0:
            time.sleep(step_s)
        took.append(time.perf_counter() - start)
        start = time.perf_counter()
        if start >= until or (len(took) >= steps and start - began >= at_least_s):
            break
    return took, waits


def _timed(trial: Trial, steps: list[float], waits: list[float], started_s: float | None) -> Trial:
    error = statistics.stdev(steps) / math.sqrt(len(steps)) if len(steps) > 1 else None
    return replace(
        trial,
        step_s=statistics.mean(steps),
        wait_s=statistics.mean(waits),
        steps=len(steps),
        step_s_error=error,
        started_s=started_s,
    )
