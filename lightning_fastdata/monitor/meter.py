"""From timed intervals to step records: pure arithmetic, no Trainer, no torch.

Whatever was timed since the last step ended belongs to the step that ends next. That one rule covers gradient
accumulation, loaders that are read ahead, ``next`` inside the training step, and batches that were skipped.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from lightning_fastdata.records import RECENT_STEPS, StageWait, StepRecord, Totals

__all__ = ["FIRST_WAITS", "StepMeter", "Window"]

FIRST_WAITS = 100
# Evaluation batches that were fetched and not yet dealt with: one, or two where Lightning reads ahead. More there are
# only where the model fetches for itself, and those are not told apart.
_MOST_UNDER_WAY = 4

Row = tuple[int, int, "int | None", "float | None", "float | None", "float | None", float, bool, int, int, int]


class Window(NamedTuple):
    """The steps since the last time somebody asked."""

    steps: int
    """Steps (count)."""
    wait_s: float
    """Sum of their waits (s)."""
    wait_s_max: float
    """Largest of their waits (s)."""
    train_s: float
    """Sum of their wall times (s)."""

    @property
    def wait_share(self) -> float:
        """Ratio of the sums, not a mean of ratios."""
        return min(1.0, self.wait_s / self.train_s) if self.train_s > 0 else 0.0


@dataclass
class _Sums:
    """What is added up in evaluation."""

    batches: int = 0
    fetches: int = 0
    wait_s: float = 0.0
    wait_s_max: float = 0.0
    elapsed_s: float = 0.0

    def add(self, other: "_Sums") -> None:
        self.batches += other.batches
        self.fetches += other.fetches
        self.wait_s += other.wait_s
        self.wait_s_max = max(self.wait_s_max, other.wait_s_max)
        self.elapsed_s += other.elapsed_s

    def add_fetch(self, took: float) -> None:
        self.fetches += 1
        self.wait_s += took
        self.wait_s_max = max(self.wait_s_max, took)

    def record(self, stage: str, runs: int, loaders: tuple[StageWait, ...] = ()) -> StageWait:
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
class _LoaderSums(_Sums):
    """What is added up for one of several loaders."""

    runs: int = 0
    last_run: int = 0


class _Stage:
    """One evaluation stage: the runs that ended, and the one that is on."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended = _Sums()
        self.run = _Sums()
        self.opened_at: float | None = None
        self._loaders: dict[str, _LoaderSums] = {}
        self._under_way: deque[float] = deque(maxlen=_MOST_UNDER_WAY)
        self._edge = 0.0
        self._waited = 0.0

    def open(self, now: float) -> None:
        if self.opened_at is None:
            self.opened_at = now
            self.runs += 1
            self.read_anew(now)

    def read_anew(self, now: float) -> None:
        """Another iterator is read: what was fetched and not dealt with is nobody's batch."""
        self._under_way.clear()
        self._edge, self._waited = now, 0.0
        if not self.run.batches:
            # The evaluation itself begins only here: what came between was a batch-size finder's trials, or training.
            self.opened_at = now - self.run.wait_s

    def add_fetch(self, took: float) -> None:
        self.run.add_fetch(took)
        self._under_way.append(took)
        self._waited += took

    def add_batch(self, loader: str | None, now: float) -> None:
        """Batches are dealt with in the order in which they were fetched, so the oldest fetch was this one's."""
        self.run.batches += 1
        if loader is None:
            self._under_way.clear()
            return
        sums = self._loaders.setdefault(loader, _LoaderSums())
        if sums.last_run != self.runs:
            sums.runs, sums.last_run = sums.runs + 1, self.runs
        sums.batches += 1
        sums.elapsed_s += max(0.0, now - self._edge - self._waited)
        if self._under_way:
            took = self._under_way.popleft()
            sums.add_fetch(took)
            sums.elapsed_s += took
        self._edge, self._waited = now, 0.0

    def close(self, now: float) -> _Sums | None:
        if self.opened_at is None:
            return None
        self.run.elapsed_s = now - self.opened_at
        self.opened_at = None
        run, self.run = self.run, _Sums()
        self.ended.add(run)
        return run

    def loaders(self, stage: str) -> tuple[StageWait, ...]:
        """Each loader over all runs, in the order in which they were first read."""
        return tuple(sums.record(f"{stage}/{name}", sums.runs) for name, sums in self._loaders.items())

    def so_far(self, now: float) -> _Sums:
        total = _Sums()
        total.add(self.ended)
        total.add(self.run)
        total.elapsed_s += 0.0 if self.opened_at is None else now - self.opened_at
        return total


class StepMeter:
    """Adds up intervals and turns them into one row a step.

    Args:
        clock: The monotonic clock in seconds that all times come from.
        rank: Rank that goes into the records.
        keep: Records to keep (count); sums go on beyond it, so memory does not grow with the run.

    """

    def __init__(self, clock: Callable[[], float], *, rank: int = 0, keep: int = RECENT_STEPS) -> None:
        self._clock = clock
        self._rank = rank
        self.rows: deque[Row] = deque(maxlen=keep)
        self.fetches = 0
        self.steps = 0
        self._new_rows: deque[Row] = deque(maxlen=keep)
        self._epochs = 0
        self._samples: int | None = 0
        self._wait_s = self._other_s = self._tail_wait_s = self._wait_s_max = 0.0
        self._transfer_s: float | None = None
        self._compute_s: float | None = None
        self._first_wait: tuple[int, float] | None = None
        self._later_first_waits: deque[tuple[int, float]] = deque(maxlen=FIRST_WAITS - 1)
        self._stages: dict[str, _Stage] = {}
        # Where the step that is running began, and since when the time is not training's.
        self._edge: float | None = None
        self._away_since: float | None = None
        self._away_s = 0.0
        self._training = False
        self._first_in_epoch = True
        self._fetches_before = 0
        self._clear_window()
        # What was timed since the last step ended.
        self._fetched_since: float | None = None
        self._fetched = self._augment = 0.0
        self.batch_was_computed = False
        self._clear_pending()

    def _clear_pending(self) -> None:
        self._wait = 0.0
        self._transfer: float | None = None
        self._compute: float | None = None
        self._batches = 0
        self._step_samples: int | None = 0

    def _clear_window(self) -> None:
        self._window_steps = 0
        self._window_wait = self._window_max = self._window_train = 0.0

    # Intervals, as the seam reports them: start and end on the meter's clock.

    def train_fetch(self, start: float, end: float) -> None:
        """One ``next`` of the training loader."""
        if self._away_since is not None:
            self.come_back(start)
        if self._edge is None:
            self._edge = start
        self._training = True
        self.fetches += 1
        took = end - start
        self._wait += took
        self._fetched += took
        if self._fetched_since is None:
            self._fetched_since = start

    def transfer(self, start: float, end: float) -> None:
        """One batch moved to the device, with ``on_after_batch_transfer`` inside it."""
        if self._training:
            took = end - start - self._augment
            self._transfer = took if self._transfer is None else self._transfer + took
        self._augment = 0.0

    def after_transfer(self, start: float, end: float) -> None:
        """``on_after_batch_transfer``: runs inside the transfer, and is none."""
        self._augment += end - start

    def compute(self, start: float, end: float) -> None:
        """Training step, backward and optimizer of one batch; fetches inside it (``dataloader_iter``) do not count."""
        if not self._training:
            return
        took = end - start
        if self._fetched_since is not None and self._fetched_since >= start:
            took -= self._fetched
        self._fetched_since, self._fetched = None, 0.0
        self.batch_was_computed = True
        self._compute = took if self._compute is None else self._compute + took

    # What the hooks know.

    def start_training(self, now: float) -> None:
        """Training begins now, at the latest: it began with the first fetch, if one was seen."""
        if self._edge is None:
            self._edge = now

    def start_epoch(self) -> None:
        """The next step is the first of an epoch."""
        self._first_in_epoch = True

    def add_batch(self, samples: int | None) -> None:
        """One micro-batch of the step that is running was trained on."""
        self.batch_was_computed = False
        self._batches += 1
        if samples is None or self._step_samples is None:
            self._step_samples = None
        else:
            self._step_samples += samples

    def close_step(self, epoch: int, step: int, now: float) -> None:
        """The optimizer step ended: make its row and start the next one."""
        elapsed = self._take_elapsed(now)
        wait = self._wait if self.fetches else None
        other = max(0.0, elapsed - self._wait - (self._transfer or 0.0) - (self._compute or 0.0))
        fetches = self.fetches - self._fetches_before
        first = self._first_in_epoch
        times = (wait, self._transfer, self._compute, other)
        row = (epoch, step, self._step_samples, *times, first, self._batches, fetches, self._rank)
        self.rows.append(row)
        self._new_rows.append(row)
        self.steps += 1
        if self._samples is not None:
            self._samples = None if self._step_samples is None else self._samples + self._step_samples
        if first:
            self._add_first(epoch, wait)
        self._window_steps += 1
        self._window_wait += self._wait
        self._window_max = max(self._window_max, self._wait)
        self._window_train += elapsed
        self._wait_s_max = max(self._wait_s_max, self._wait)
        self._add_up(other)

    def end_tail(self, now: float) -> None:
        """Training pauses or ends here: what no step has used goes into the totals, not into a step."""
        if self._edge is None or not (self._wait or self._transfer or self._compute):
            return
        elapsed = self._take_elapsed(now)
        self._tail_wait_s += self._wait
        rest = max(0.0, elapsed - self._wait - (self._transfer or 0.0) - (self._compute or 0.0))
        self._add_up(rest)

    def _take_elapsed(self, now: float) -> float:
        """Training time since the last step ended; the next one begins now."""
        if self._away_since is not None:
            self.come_back(now)
        elapsed = 0.0 if self._edge is None else now - self._edge - self._away_s
        self._edge, self._away_s = now, 0.0
        return elapsed

    def _add_up(self, other: float) -> None:
        """Move what is pending into the sums."""
        self._wait_s += self._wait
        if self._transfer is not None:
            self._transfer_s = (self._transfer_s or 0.0) + self._transfer
        if self._compute is not None:
            self._compute_s = (self._compute_s or 0.0) + self._compute
        self._other_s += other
        self._fetches_before = self.fetches
        self._clear_pending()

    def _add_first(self, epoch: int, wait: float | None) -> None:
        self._first_in_epoch = False
        self._epochs += 1
        if wait is None:
            return
        if self._first_wait is None:
            self._first_wait = (epoch, wait)
        else:
            self._later_first_waits.append((epoch, wait))

    # Time that is not training's: validation, the sanity check, the inner fit of a tuner.

    def go_away(self, now: float) -> None:
        """From now on the time is not training's; the first call counts."""
        self._training = False
        if self._away_since is None:
            self._away_since = now

    def come_back(self, now: float) -> None:
        """The time is training's again."""
        if self._away_since is not None:
            if self._edge is not None:
                self._away_s += max(0.0, now - max(self._away_since, self._edge))
            self._away_since = None

    def forget_stage(self, stage: str) -> None:
        """An evaluation run of its own begins: leave the figures of earlier ones out."""
        self._stages.pop(stage, None)

    def start_stage(self, stage: str, now: float) -> None:
        """An evaluation run begins; a second call for the same run changes nothing."""
        self.go_away(now)
        self._stages.setdefault(stage, _Stage()).open(now)

    def open_loaders(self, stage: str, now: float) -> None:
        """The loaders of an evaluation run are about to be read, from their beginning."""
        self.start_stage(stage, now)
        self._stages[stage].read_anew(now)

    def stage_fetch(self, stage: str, start: float, end: float) -> None:
        """One ``next`` of an evaluation loader."""
        self.start_stage(stage, start)
        self._stages[stage].add_fetch(end - start)

    def add_stage_batch(self, stage: str, loader: str | None = None) -> None:
        """One batch was evaluated; ``loader`` says of which of several loaders, where that is known."""
        if stage in self._stages:
            self._stages[stage].add_batch(loader, self._clock())

    def end_stage(self, stage: str, now: float) -> StageWait | None:
        """The evaluation run is over; gives that run alone, or None where none was on."""
        entry = self._stages.get(stage)
        run = None if entry is None else entry.close(now)
        self.come_back(now)
        return None if run is None else run.record(stage, 1)

    def end_stages(self, now: float) -> None:
        """End whatever evaluation is still on: something was raised in it."""
        for stage in self._stages:
            self.end_stage(stage, now)

    # What came out.

    def take_window(self) -> Window:
        """The steps since the last call."""
        window = Window(self._window_steps, self._window_wait, self._window_max, self._window_train)
        self._clear_window()
        return window

    def take_rows(self) -> list[Row]:
        """The steps since the last call, to be written down."""
        rows = list(self._new_rows)
        self._new_rows.clear()
        return rows

    def records(self) -> Iterator[StepRecord]:
        """The kept steps, oldest first."""
        return (StepRecord(*row) for row in tuple(self.rows))

    def totals(self) -> Totals:
        """The sums over all steps, kept or not."""
        seen = self.fetches > 0
        return Totals(
            steps=self.steps,
            epochs=self._epochs,
            samples=self._samples if self.steps else None,
            wait_s=self._wait_s if seen else None,
            transfer_s=self._transfer_s,
            compute_s=self._compute_s,
            other_s=self._other_s,
            wait_s_max=self._wait_s_max if seen and self.steps else None,
            tail_wait_s=self._tail_wait_s,
        )

    def first_waits(self) -> list[tuple[int, float]]:
        """(epoch, wait of its first step): the first epoch and the latest ones."""
        return ([] if self._first_wait is None else [self._first_wait]) + list(self._later_first_waits)

    def stages(self) -> list[StageWait]:
        """The evaluation stages that ran, each over all its runs; one that ended before it read anything did not."""
        now = self._clock()
        return [
            entry.so_far(now).record(stage, entry.runs, entry.loaders(stage))
            for stage, entry in self._stages.items()
            if entry.opened_at is not None or entry.ended.fetches or entry.ended.batches
        ]
