"""From timed intervals to step records: pure arithmetic, no Trainer, no torch.

Whatever was timed since the last step ended belongs to the step that ends next. That one rule covers gradient
accumulation, loaders that are read ahead, ``next`` inside the training step, and batches that were skipped.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from lightning_fastdata.monitor.stages import Stage
from lightning_fastdata.records import RECENT_STEPS, StageWait, StepRecord
from lightning_fastdata.summary import Totals

__all__ = ["FIRST_WAITS", "StepMeter", "Window"]

FIRST_WAITS = 100

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
        self._stages: dict[str, Stage] = {}
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
        self._stages.setdefault(stage, Stage()).open(now)

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
