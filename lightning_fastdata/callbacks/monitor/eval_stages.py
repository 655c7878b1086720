"""Adds up the waiting of evaluation: each stage over its runs, and each of its loaders where that can be known."""

from collections import deque
from dataclasses import dataclass, replace

from lightning_fastdata.results.records import StageWait

__all__ = ["LoaderSums", "Stage", "Sums"]

# Evaluation batches that were fetched and not yet evaluated: one, or two where Lightning reads ahead. There are more
# only where the model fetches for itself, and then no batch is given to a loader.
_MOST_UNDER_WAY = 4


@dataclass
class Sums:
    """What is added up in evaluation."""

    batches: int = 0
    fetches: int = 0
    wait_s: float = 0.0
    wait_s_max: float = 0.0
    elapsed_s: float = 0.0

    def add(self, other: "Sums") -> None:
        """Add what another one has."""
        self.batches += other.batches
        self.fetches += other.fetches
        self.wait_s += other.wait_s
        self.wait_s_max = max(self.wait_s_max, other.wait_s_max)
        self.elapsed_s += other.elapsed_s

    def add_fetch(self, took: float) -> None:
        """One ``next``, and how long it took (s)."""
        self.add(Sums(fetches=1, wait_s=took, wait_s_max=took))

    def record(self, stage: str, runs: int, loaders: tuple[StageWait, ...] = ()) -> StageWait:
        """As a record that can be saved."""
        measured = self.fetches > 0
        return StageWait(
            stage=stage,
            runs=runs,
            batches=self.batches,
            wait_s=self.wait_s if measured else None,
            wait_s_max=self.wait_s_max if measured else None,
            elapsed_s=self.elapsed_s,
            loaders=loaders,
        )


@dataclass
class LoaderSums(Sums):
    """What is added up for one of several loaders."""

    runs: int = 0
    last_run: int = 0


class Stage:
    """One evaluation stage: the runs that ended, and the one that is on."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended = Sums()
        self.run = Sums()
        self.opened_at: float | None = None
        self._loaders: dict[str, LoaderSums] = {}
        self._under_way: deque[float] = deque(maxlen=_MOST_UNDER_WAY)
        self._edge = 0.0
        self._waited = 0.0

    def open(self, now: float) -> None:
        """A run begins, unless one is on."""
        if self.opened_at is None:
            self.opened_at = now
            self.runs += 1
            self.reopen(now)

    def reopen(self, now: float) -> None:
        """Another iterator is read: what was fetched and not evaluated will be no batch."""
        self._under_way.clear()
        self._edge, self._waited = now, 0.0
        if not self.run.batches:
            # The evaluation itself begins only here: what came between were a batch-size finder's trials, or training.
            self.opened_at = now - self.run.wait_s

    def add_fetch(self, took: float) -> None:
        """One ``next`` of the run that is on, and how long it took (s)."""
        self.run.add_fetch(took)
        self._under_way.append(took)
        self._waited += took

    def add_batch(self, loader: str | None, now: float) -> None:
        """Batches are evaluated in the order in which they were fetched, so the oldest fetch was this one's."""
        self.run.batches += 1
        if loader is None:
            self._under_way.clear()
            return
        sums = self._loaders.setdefault(loader, LoaderSums())
        if sums.last_run != self.runs:
            sums.runs, sums.last_run = sums.runs + 1, self.runs
        sums.batches += 1
        sums.elapsed_s += max(0.0, now - self._edge - self._waited)
        if self._under_way:
            took = self._under_way.popleft()
            sums.add_fetch(took)
            sums.elapsed_s += took
        self._edge, self._waited = now, 0.0

    def close(self, now: float) -> Sums | None:
        """The run is over; gives it alone, or None where none was on."""
        if self.opened_at is None:
            return None
        self.run.elapsed_s = now - self.opened_at
        self.opened_at = None
        run, self.run = self.run, Sums()
        self.ended.add(run)
        return run

    def loaders(self, stage: str) -> tuple[StageWait, ...]:
        """Each loader over all runs, in the order in which they were first read."""
        return tuple(sums.record(f"{stage}/{name}", sums.runs) for name, sums in self._loaders.items())

    def so_far(self, now: float) -> Sums:
        """All runs together, with the one that is on."""
        total = replace(self.ended)
        total.add(self.run)
        total.elapsed_s += 0.0 if self.opened_at is None else now - self.opened_at
        return total
