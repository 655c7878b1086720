"""Measuring a loader outside of training: what one worker needs, and what a setting gives to a consumer."""

import contextlib
import math
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from lightning_fastdata.callbacks.tuner.eligibility import SPAWN_S
from lightning_fastdata.callbacks.tuner.throughput_model import Setting
from lightning_fastdata.callbacks.tuner.trial_loader import FreshIndices, Source, requests_for, trial_loader
from lightning_fastdata.compat.torch_internals import stop_workers
from lightning_fastdata.hardware.pressure import PressureReading, ProcessUsage, contention, private_bytes
from lightning_fastdata.loaders.footprint import sizes_of
from lightning_fastdata.loaders.seeded_dataset import SeededDataset, WorkerOutput
from lightning_fastdata.loaders.state.handles import OwnDescriptors
from lightning_fastdata.results.tuning import Probe, Trial

__all__ = ["UnmeasuredError", "probe_undisturbed", "probe_worker", "run_inline", "run_trial"]

PROBE_BATCHES = 8
"""Batches that a probe takes at most, after the first one (count)."""
FEWEST_PROBE_BATCHES = 2
"""Fewer than these say nothing of how batches vary (count)."""
MEASURED_SHARE = 1 / 3
"""Share of a probe's time that is left for measuring, however long the worker took to start."""
TRANSFERS = 3
"""Batches whose transfer is timed (count); the least counts, since anything may hold up a process."""
STEPS = 8
"""Steps that a trial measures at least, if its time allows (count)."""
TRIAL_S = 0.5
"""Time that a trial measures at least (s)."""


class UnmeasuredError(Exception):
    """A measurement gave nothing; says why, as the end of a sentence."""


class _Measured(NamedTuple):
    """A batch, with what loading it took in the worker."""

    output: WorkerOutput
    usage: ProcessUsage
    worker_bytes: int | None


class _ProbeView(SeededDataset):
    """The samples in a worker, which reads its own counters around each batch."""

    def __getitem__(self, request: Any) -> Any:
        before = ProcessUsage.now()
        output = super().__getitem__(request)
        return _Measured(output, ProcessUsage.now().since(before), private_bytes())

    __getitems__ = __getitem__


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
    loader = trial_loader(
        source, fresh, Setting(1, 2), view=_ProbeView, timeout_s=budget_s + _start_allowance_s(source)
    )
    with _closing(loader, "one worker") as batches:
        first = next(batches)
        start_s, sizes = time.perf_counter() - asked, sizes_of(first.output.batch)
        if 2 * _load_s(first) > budget_s:
            raise UnmeasuredError(f"the first batch took one worker {_load_s(first):.2g} s, of {budget_s:.3g} s in all")
        # A worker that was slow to start, on a machine where everything is, may still be measured.
        ends = max(ends, time.perf_counter() + budget_s * MEASURED_SHARE)
        measured: list[_Measured] = []
        transfers: list[float] = []
        while len(measured) < PROBE_BATCHES and time.perf_counter() < ends:
            one = next(batches)
            transfers.append(time.perf_counter() - one.output.times.ready_s)
            measured.append(one._replace(output=one.output._replace(batch=None)))  # large ones add up
        nearby_s = statistics.mean(_load_s(one) for one in measured) if measured else budget_s
        while nearby_s * 2.5 * (len(transfers) - len(measured) + 1) < ends - time.perf_counter():
            time.sleep(2.5 * nearby_s)  # both batches that are prepared ahead are there by then
            before = time.perf_counter()
            next(batches)
            transfers.append(time.perf_counter() - before)
            if len(transfers) >= len(measured) + TRANSFERS:
                break
    if len(measured) < FEWEST_PROBE_BATCHES:
        took = f"the first batch took {_load_s(first):.2g} s, from its start {start_s:.2g} s"
        raise UnmeasuredError(f"one worker had loaded {1 + len(measured)} batches after {budget_s:.3g} s ({took})")
    return _probe_of(measured, sizes, start_s, min(transfers))


def probe_undisturbed(source: Source, fresh: FreshIndices, budget_s: float) -> tuple[Probe, str | None]:
    """``probe_worker``, and whether the machine was too busy for it to say anything.

    Args:
        source: What to load.
        fresh: Which samples.
        budget_s: Time it may take (s).

    Returns:
        The figures, and why they are those of a busy machine; None where they are not.

    Raises:
        UnmeasuredError: As ``probe_worker``.
    """
    before = PressureReading.now()
    probe = probe_worker(source, fresh, budget_s)
    return probe, contention(probe.kept_waiting_share, before, PressureReading.now())


def _start_allowance_s(source: Source) -> float:
    """Time beyond any budget that a worker has to start: under spawn and forkserver it imports torch first (s)."""
    method = _method(source.loader.multiprocessing_context) or multiprocessing.get_start_method()
    return 0.0 if method == "fork" else SPAWN_S


def _load_s(measured: _Measured) -> float:
    times = measured.output.times
    return times.ready_s - times.began_s


def _probe_of(measured: list[_Measured], sizes: tuple[int, int], start_s: float, worker_transfer_s: float) -> Probe:
    loads = [_load_s(one) for one in measured]
    mean = statistics.mean(loads)
    batch_bytes, tensors = sizes
    usages = [one.usage for one in measured]
    waited = [usage.kept_waiting_s for usage in usages if usage.kept_waiting_s is not None]
    disk = [usage.disk_bytes for usage in usages if usage.disk_bytes is not None]
    return Probe(
        batches=len(loads),
        batch_s=mean,
        batch_cpu_s=min(statistics.mean(usage.cpu_s for usage in usages), mean * (os.cpu_count() or 1)),
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


def run_trial(
    source: Source,
    fresh: FreshIndices,
    setting: Setting,
    *,
    step_s: float,
    budget_s: float,
    start_s: float = 0.0,
) -> Trial:
    """Load with a setting for a consumer that waits ``step_s`` after each batch, as one that trains on a GPU does.

    Args:
        source: What to load.
        fresh: Which samples.
        setting: The workers, at least one, and their depth.
        step_s: How long the consumer is at a batch (s).
        budget_s: Time it may take from the first batch on (s).
        start_s: What starting one worker took (s); all together have several times as long, beyond the budget.

    Returns:
        The trial; with ``verdict`` and without a time where it came to nothing.
    """
    trial, num_workers = Trial(*setting, step_s=None, predicted_step_s=None), setting.num_workers
    asked, allowed_s = time.perf_counter(), budget_s + _start_allowance_s(source) + 3 * start_s
    try:
        loader = trial_loader(source, fresh, setting, timeout_s=allowed_s)
        with _closing(loader, f"{num_workers} workers") as batches:
            next(batches)
            started_s = time.perf_counter() - asked
            ends = time.perf_counter() + budget_s
            # All workers began at once: their first batches come together, and say nothing of the rate.
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
    context: Any = multiprocessing.get_context(_method(source.loader.multiprocessing_context))
    here, there = context.Pipe(duplex=False)
    samples = source.samples()
    files = OwnDescriptors.of(samples, context.get_start_method())
    child = context.Process(
        target=_inline_child, args=(there, samples, files, source.batch_size, fresh, step_s, budget_s), daemon=True
    )
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


def _inline_child(
    pipe: Any,
    samples: SeededDataset,
    files: OwnDescriptors | None,
    batch_size: int,
    fresh: FreshIndices,
    step_s: float,
    budget_s: float,
) -> None:
    """Run in the child: a forked process must not use the thread pool that its parent had."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    torch.set_num_threads(1)
    if files is not None:
        files(0)
    batches = (samples[request] for request in requests_for(batch_size, fresh))
    ends = time.perf_counter() + budget_s
    try:
        _consume(batches, step_s, steps=1, until=ends)
        steps, waits = _consume(batches, step_s, steps=STEPS, at_least_s=TRIAL_S, until=ends)
        pipe.send((steps, waits, (len(steps) + 1) * batch_size))
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
