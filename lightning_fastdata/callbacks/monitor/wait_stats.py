"""Sums over steps and fetches: how long the waits were, of what kind, and how long loading took. Constant memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_fastdata.callbacks.monitor.fetch_probe import STALL_S, FetchInfo
from lightning_fastdata.loaders.batch_requests import LoadedBatch
from lightning_fastdata.results.quantiles import Quantiles
from lightning_fastdata.results.stats import DeviceTimes, Loading, SlowSample, WaitKinds

__all__ = ["DeviceStats", "LoadStats", "WaitStats", "Window", "load_s_of"]

_FULL = 0.75
_SLOWEST = 10


@dataclass(slots=True)
class Window:
    """The steps since the last report."""

    steps: int = 0
    """Steps (count)."""
    wait_s: float = 0.0
    """Sum of their waits (s)."""
    wait_s_max: float = 0.0
    """Largest of their waits (s)."""
    train_s: float = 0.0
    """Sum of their wall times (s)."""

    @property
    def wait_share(self) -> float:
        """Ratio of the sums, not a mean of ratios."""
        return min(1.0, self.wait_s / self.train_s) if self.train_s > 0 else 0.0


class WaitStats:
    """Adds up the steady fetches of one run, by cause."""

    def __init__(self) -> None:
        self.fetches = 0
        self._known = 0
        self._inline_s = self._blocked_s = self._handoff_s = self._unknown_s = 0.0
        self._exact = True
        self._stalls = self._head_of_line = 0
        self._head_of_line_s = 0.0
        self._seen = self._ready = self._full = 0
        self._least: int | None = None
        self._capacity: int | None = None

    def add(self, took: float, info: FetchInfo) -> None:
        """One fetch.

        Args:
            took: Time in ``next`` (s).
            info: What is known of it.
        """
        self.fetches += 1
        if info.split is None:
            self._unknown_s += took
        else:
            main_process_s, stalled_s, worker_transfer_s = info.split
            self._known += 1
            self._inline_s += main_process_s
            self._blocked_s += stalled_s
            self._handoff_s += worker_transfer_s
            self._exact &= info.exact
            if stalled_s > STALL_S:
                self._stalls += 1
                if info.head_of_line:
                    self._head_of_line += 1
                    self._head_of_line_s += stalled_s
        if info.ready is not None:
            self._seen += 1
            self._ready += info.ready
            self._least = info.ready if self._least is None else min(self._least, info.ready)
            if info.capacity:
                self._capacity = max(self._capacity or 0, info.capacity)
                self._full += info.ready >= _FULL * info.capacity

    def kinds(self) -> WaitKinds | None:
        """The sums; None before the first fetch."""
        if not self.fetches:
            return None
        known = self._known > 0
        return WaitKinds(
            fetches=self.fetches,
            main_process_s=self._inline_s if known else None,
            stalled_s=self._blocked_s if known else None,
            worker_transfer_s=self._handoff_s if known else None,
            unknown_s=self._unknown_s,
            exact=self._exact and known,
            stalled_fetches=self._stalls,
            head_of_line_fetches=self._head_of_line,
            head_of_line_s=self._head_of_line_s,
            queue_ready_mean=self._ready / self._seen if self._seen else None,
            queue_ready_min=self._least,
            queue_capacity=self._capacity,
            queue_full_share=self._full / self._seen if self._seen and self._capacity else None,
        )


def load_s_of(batch: LoadedBatch) -> float:
    """Time of loading and collating a batch, where that was done (s)."""
    return batch.times.ready_s - batch.times.began_s


class LoadStats:
    """Adds up what the loading processes have measured, and keeps the slowest samples."""

    def __init__(self) -> None:
        self._batches = self._samples = 0
        self._load_s = self._batch_s_max = 0.0
        self._slowest: dict[str, LoadedBatch] = {}
        self._enough_s = -1.0  # what a sample has to take to be among them

    def add(self, batch: LoadedBatch) -> None:
        """One batch."""
        times, load_s = batch.times, load_s_of(batch)
        self._batches += 1
        self._samples += times.samples
        self._load_s += load_s
        self._batch_s_max = max(self._batch_s_max, load_s)
        if batch.slowest_index is None or times.slowest_s <= self._enough_s:
            return
        slowest, key = self._slowest, str(batch.slowest_index)  # an index may be anything
        if key not in slowest or times.slowest_s > slowest[key].times.slowest_s:
            slowest[key] = batch
        if len(slowest) > _SLOWEST:
            del slowest[min(slowest, key=lambda one: slowest[one].times.slowest_s)]
        if len(slowest) == _SLOWEST:
            self._enough_s = min(one.times.slowest_s for one in slowest.values())

    def loading(self, path_of: Callable[[Any], str | None], num_workers: int | None = None) -> Loading | None:
        """The sums; None where no batch was stamped.

        Args:
            path_of: Gives the file of a sample by its index, where there is one.
            num_workers: Worker processes of all loaders (count), where known.
        """
        if not self._batches:
            return None
        slowest = sorted(self._slowest.values(), key=lambda batch: batch.times.slowest_s, reverse=True)
        return Loading(
            batches=self._batches,
            samples=self._samples,
            load_s=self._load_s,
            batch_s_mean=self._load_s / self._batches,
            batch_s_max=self._batch_s_max,
            sample_s_mean=self._load_s / max(1, self._samples),
            slowest=tuple(
                SlowSample(
                    str(one.slowest_index), one.times.slowest_s, one.epoch, one.worker, path_of(one.slowest_index)
                )
                for one in slowest
            ),
            num_workers=num_workers,
        )


class DeviceStats:
    """Adds up how the device saw the fetches."""

    def __init__(self) -> None:
        self._idle = Quantiles()
        self._idle_s = self._wait_s = 0.0
        self._copy_s: float | None = None

    def add(self, wait_s: float, idle_s: float, copy_s: float | None) -> None:
        """One step: the host's waiting, the device's, and the copies' own time (s)."""
        self._idle.add(idle_s)
        self._wait_s += wait_s
        self._idle_s += idle_s
        if copy_s is not None:
            self._copy_s = (self._copy_s or 0.0) + copy_s

    def times(self) -> DeviceTimes | None:
        """The sums; None where no step was measured."""
        if not self._idle.count:
            return None
        return DeviceTimes(
            steps=self._idle.count,
            idle_s=self._idle_s,
            hidden_s=max(0.0, self._wait_s - self._idle_s),
            copy_s=self._copy_s,
            idle_s_p95=self._idle.quantile(0.95),
        )
