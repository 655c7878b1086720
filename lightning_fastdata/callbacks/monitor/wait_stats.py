"""Sums over fetches: what kind of waiting it was, and what loading took where it was done. Constant memory."""

from collections.abc import Callable
from typing import Any

from lightning_fastdata.callbacks.monitor.fetch_probe import FetchInfo, Load
from lightning_fastdata.results.quantiles import Quantiles
from lightning_fastdata.results.stats import DeviceTimes, Loading, SlowSample, WaitKinds

__all__ = ["DeviceStats", "LoadStats", "WaitStats"]

# Below this a fetch is no wait that anybody would notice; handing a tensor over alone takes as long.
_BLOCKED_S = 1e-3
_FULL = 0.75
_SLOWEST = 10


class WaitStats:
    """Adds up the steady fetches of one run, by kind."""

    def __init__(self) -> None:
        self.fetches = 0
        self._kinds = [0.0, 0.0, 0.0]
        self._known = 0
        self._unknown_s = 0.0
        self._exact = True
        self._blocked = self._held_up = 0
        self._held_up_s = 0.0
        self._seen = self._ready = self._full = 0
        self._least: int | None = None
        self._capacity: int | None = None

    def add(self, took: float, facts: FetchInfo | None) -> None:
        """One fetch.

        Args:
            took: Time in ``next`` (s).
            facts: What is known of it, or None.
        """
        self.fetches += 1
        if facts is None or facts.stalled_s is None:
            self._unknown_s += took
        else:
            self._known += 1
            self._exact &= facts.exact
            for place, part in enumerate((facts.main_process_s, facts.stalled_s, facts.worker_transfer_s)):
                self._kinds[place] += part or 0.0
            if facts.stalled_s > _BLOCKED_S:
                self._blocked += 1
                if facts.head_of_line:
                    self._held_up += 1
                    self._held_up_s += facts.stalled_s
        if facts is not None and facts.ready is not None:
            self._seen += 1
            self._ready += facts.ready
            self._least = facts.ready if self._least is None else min(self._least, facts.ready)
            if facts.capacity:
                self._capacity = max(self._capacity or 0, facts.capacity)
                self._full += facts.ready >= _FULL * facts.capacity

    def kinds(self) -> WaitKinds | None:
        """The sums; None before the first fetch."""
        if not self.fetches:
            return None
        inline, blocked, handoff = self._kinds if self._known else (None, None, None)
        return WaitKinds(
            fetches=self.fetches,
            main_process_s=inline,
            stalled_s=blocked,
            worker_transfer_s=handoff,
            unknown_s=self._unknown_s,
            exact=self._exact and self._known > 0,
            stalled_fetches=self._blocked,
            head_of_line_fetches=self._held_up,
            head_of_line_s=self._held_up_s,
            queue_ready_mean=self._ready / self._seen if self._seen else None,
            queue_ready_min=self._least,
            queue_capacity=self._capacity,
            queue_full_share=self._full / self._seen if self._seen and self._capacity else None,
        )


class LoadStats:
    """Adds up what the loading processes have measured, and keeps the slowest samples."""

    def __init__(self) -> None:
        self._batches = self._samples = 0
        self._load_s = self._batch_s_max = 0.0
        self._slowest: dict[str, Load] = {}
        self._enough_s = -1.0  # what a sample has to take to be among them

    def add(self, load: Load) -> None:
        """One batch."""
        self._batches += 1
        self._samples += load.samples
        self._load_s += load.load_s
        self._batch_s_max = max(self._batch_s_max, load.load_s)
        if load.slowest_index is None:
            return
        known = self._slowest
        if load.slowest_s <= self._enough_s:
            return
        key = str(load.slowest_index)  # an index may be anything
        if key in known or len(known) < _SLOWEST:
            slowest = known.get(key)
            if slowest is None or load.slowest_s > slowest.slowest_s:
                known[key] = load
        else:
            del known[min(known, key=lambda one: known[one].slowest_s)]
            known[key] = load
        if len(known) == _SLOWEST:
            self._enough_s = min(one.slowest_s for one in known.values())

    def loading(self, path_of: Callable[[Any], str | None], num_workers: int | None = None) -> Loading | None:
        """The sums; None where no batch said anything.

        Args:
            path_of: Gives the file of a sample by its index, where there is one.
            num_workers: Worker processes of all loaders (count), where known.
        """
        if not self._batches:
            return None
        ordered = sorted(self._slowest.values(), key=lambda load: load.slowest_s, reverse=True)
        slowest = tuple(
            SlowSample(str(load.slowest_index), load.slowest_s, load.epoch, load.worker, path_of(load.slowest_index))
            for load in ordered
        )
        return Loading(
            batches=self._batches,
            samples=self._samples,
            load_s=self._load_s,
            batch_s_mean=self._load_s / self._batches,
            batch_s_max=self._batch_s_max,
            sample_s_mean=self._load_s / max(1, self._samples),
            slowest=slowest,
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
