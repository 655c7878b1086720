"""From timed intervals to step records: pure arithmetic, no Trainer, no torch.

Whatever was timed since the last step ended belongs to the step that ends next. That one rule covers gradient
accumulation, loaders that are read ahead, ``next`` inside the training step, and batches that were skipped.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import add

from lightning_fastdata.callbacks.monitor.eval_stages import Stage
from lightning_fastdata.callbacks.monitor.fetch_probe import FetchInfo, WaitSplit
from lightning_fastdata.callbacks.monitor.ledger import Ledger
from lightning_fastdata.callbacks.monitor.wait_stats import DeviceStats, LoadStats, WaitStats, Window, load_s_of
from lightning_fastdata.results.quantiles import Quantiles
from lightning_fastdata.results.records import RECENT_STEPS, StageWait, StepRecord
from lightning_fastdata.results.summary import Totals

__all__ = ["FIRST_WAITS", "StepMeter"]

FIRST_WAITS = 100


@dataclass(slots=True)
class _Pending:
    """What was timed since the last step ended."""

    wait: float = 0.0
    refill: float = 0.0
    split: WaitSplit | None = None
    split_is_known: bool = True
    ready: int | None = None
    load: float | None = None
    transfer: float | None = None
    compute: float | None = None
    batches: int = 0
    samples: int | None = 0

    def add_fetch(self, took: float, info: FetchInfo) -> None:
        """One more fetch, and what is known of it."""
        self.wait += took
        if info.split is None:
            self.split_is_known = False
        elif self.split is None:
            self.split = info.split
        else:
            self.split = WaitSplit(*map(add, self.split, info.split))
        if info.ready is not None:
            self.ready = info.ready if self.ready is None else min(self.ready, info.ready)
        for batch in info.loaded:
            self.load = (self.load or 0.0) + load_s_of(batch)

    def rest_of(self, elapsed: float) -> float:
        """What of the elapsed time is in none of the others (s)."""
        return max(0.0, elapsed - self.wait - (self.transfer or 0.0) - (self.compute or 0.0))


class StepMeter:
    """Adds up intervals and turns them into one record a step, and into the ledger.

    Args:
        clock: The monotonic clock in seconds that all times come from.
        rank: Rank that goes into the records.
    """

    def __init__(self, clock: Callable[[], float], *, rank: int = 0) -> None:
        self._clock = clock
        self._rank = rank
        self.ledger = Ledger(clock())
        self.waits, self.loads, self.device = WaitStats(), LoadStats(), DeviceStats()
        self.records: deque[StepRecord] = deque(maxlen=RECENT_STEPS)
        """The latest steps, oldest first; sums go on beyond them."""
        self.fetches = 0
        self.steps = 0
        self._new_records: deque[StepRecord] = deque(maxlen=RECENT_STEPS)
        self._epochs = 0
        self._samples: int | None = 0
        self._wait_s = self._other_s = self._tail_wait_s = self._wait_s_max = 0.0
        self._quantiles = Quantiles()
        self._transfer_s: float | None = None
        self._compute_s: float | None = None
        self.first_waits: list[tuple[int, float]] = []
        """(epoch, wait of its first step): the first epoch and the latest ones."""
        self._stages: dict[str, Stage] = {}
        # Where the step that is running began, and since when the time is not training's.
        self._edge: float | None = None
        self._away_since: float | None = None
        self._away_s = 0.0
        self._training = False
        self._first_in_epoch = True
        self._fetches_before = 0
        self._window = Window()
        # What was timed since the last step ended.
        self._fetched_since: float | None = None
        self._fetched = self._augment = 0.0
        self.batch_was_computed = False
        self._pending = _Pending()
        self.idle_beyond_wait_s = 0.0
        """The most by which a device's idle time was longer than the wait it lay in (s)."""

    # Intervals: start and end on the meter's clock.

    def train_fetch(self, start: float, end: float, info: FetchInfo) -> None:
        """One ``next`` of the training loader, and what is known of it."""
        if self._away_since is not None:
            self.come_back(start)
        if self._edge is None:
            self._edge = start
        self._training = True
        took = end - start
        self._fetched += took
        if self._fetched_since is None:
            self._fetched_since = start
        if info.exhausted:  # no batch, so no wait for one
            self.ledger.found_the_end(start, end)
            return
        self.fetches += 1
        for batch in info.loaded:
            self.loads.add(batch)
        self._pending.add_fetch(took, info)
        if self.ledger.fetch(start, end, info):
            self._pending.refill += took
        else:
            self.waits.add(took, info)

    def transfer(self, start: float, end: float) -> None:
        """One batch moved to the device, with ``on_after_batch_transfer`` inside it."""
        if self._training:
            took = end - start - self._augment
            pending = self._pending
            pending.transfer = took if pending.transfer is None else pending.transfer + took
            self.ledger.add("transfer", start, end)
        self._augment = 0.0

    def after_transfer(self, start: float, end: float) -> None:
        """``on_after_batch_transfer``: runs inside the transfer, and is none."""
        self._augment += end - start
        if self._training:
            self.ledger.add("callback", start, end)

    def compute(self, start: float, end: float) -> None:
        """Training step, backward and optimizer of one batch; fetches inside it (``dataloader_iter``) do not count."""
        if not self._training:
            return
        took = end - start
        if self._fetched_since is not None and self._fetched_since >= start:
            took -= self._fetched
        self._fetched_since, self._fetched = None, 0.0
        self.batch_was_computed = True
        pending = self._pending
        pending.compute = took if pending.compute is None else pending.compute + took
        self.ledger.add("compute", start, end)

    # What the hooks know.

    def start_training(self, now: float) -> None:
        """Training begins now at the latest; it began with the first fetch, if one was timed."""
        if self._edge is None:
            self._edge = now

    def start_epoch(self, epoch: int = 0) -> None:
        """The next step is the first of an epoch."""
        self._first_in_epoch = True
        self.ledger.epoch = epoch

    def add_batch(self, samples: int | None) -> None:
        """One micro-batch of the step that is running was trained on."""
        self.batch_was_computed = False
        pending = self._pending
        pending.batches += 1
        if samples is None or pending.samples is None:
            pending.samples = None
        else:
            pending.samples += samples

    def close_step(self, step: int, now: float) -> None:
        """The optimizer step ended: make its record and start the next one."""
        elapsed = self._take_elapsed(now)
        self.ledger.end_step(now)
        pending, seen = self._pending, self.fetches > 0
        other = pending.rest_of(elapsed)
        record = self._record(pending, step, other, now)
        self.records.append(record)
        self._new_records.append(record)
        self.steps += 1
        if self._samples is not None:
            self._samples = None if pending.samples is None else self._samples + pending.samples
        if seen:
            self._quantiles.add(pending.wait)
        if self._first_in_epoch:
            self._epochs += 1
            if seen:
                if len(self.first_waits) == FIRST_WAITS:
                    del self.first_waits[1]
                self.first_waits.append((self.ledger.epoch, pending.wait))
        self._first_in_epoch = False
        window = self._window
        window.steps += 1
        window.wait_s += pending.wait
        if pending.wait > window.wait_s_max:
            window.wait_s_max = pending.wait
        window.train_s += elapsed
        if pending.wait > self._wait_s_max:
            self._wait_s_max = pending.wait
        self._add_up(other)

    def _record(self, pending: _Pending, step: int, other: float, now: float) -> StepRecord:
        main_process_s, stalled_s, worker_transfer_s = (pending.split_is_known and pending.split) or (None, None, None)
        # By position, in the order of the fields: names would cost a microsecond more.
        return StepRecord(
            self.ledger.epoch,
            step,
            pending.samples,
            pending.wait if self.fetches else None,
            pending.transfer,
            pending.compute,
            other,
            self._first_in_epoch,
            pending.batches,
            self.fetches - self._fetches_before,
            self._rank,
            now - self.ledger.accounts.began,
            main_process_s,
            stalled_s,
            worker_transfer_s,
            pending.refill,
            pending.ready,
            pending.load,
        )

    def end_tail(self, now: float) -> None:
        """Training pauses or ends here: what no step has used goes into the totals, not into a step."""
        pending = self._pending
        if self._edge is None or not (pending.wait or pending.transfer or pending.compute):
            return
        elapsed = self._take_elapsed(now)
        self._tail_wait_s += pending.wait
        self._add_up(pending.rest_of(elapsed))

    def _take_elapsed(self, now: float) -> float:
        """Training time since the last step ended; the next one begins now."""
        if self._away_since is not None:
            self.come_back(now)
        elapsed = 0.0 if self._edge is None else now - self._edge - self._away_s
        self._edge, self._away_s = now, 0.0
        return elapsed

    def _add_up(self, other: float) -> None:
        """Move what is pending into the sums."""
        pending = self._pending
        self._wait_s += pending.wait
        if pending.transfer is not None:
            self._transfer_s = (self._transfer_s or 0.0) + pending.transfer
        if pending.compute is not None:
            self._compute_s = (self._compute_s or 0.0) + pending.compute
        self._other_s += other
        self._fetches_before = self.fetches
        self._pending = _Pending()

    def set_device(self, step: int, idle_s: float | None, copy_s: float | None) -> None:
        """What the device measured of a step, which is known some steps later.

        Args:
            step: Which of the closed steps, from 0.
            idle_s: How long it had nothing to do during the step's fetches (s); None = not measured.
            copy_s: The copies' own time (s); None = not measured.
        """
        behind = self.steps - step
        if not 0 < behind <= len(self.records):
            return
        record = self.records[-behind]
        wait = record.wait_s or 0.0
        if idle_s is not None:
            self.idle_beyond_wait_s = max(self.idle_beyond_wait_s, idle_s - wait)
            idle_s = min(max(0.0, idle_s), wait)  # up to the resolution of events
            if not record.refill_s:  # filling an empty pipeline is start-up or boundary
                self.device.add(wait, idle_s, copy_s)
        self.records[-behind] = record = record._replace(device_idle_s=idle_s, copy_s=copy_s)
        if behind <= len(self._new_records):
            self._new_records[-behind] = record

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
        if stage == "val":
            self.ledger.open_validation(now)
        self._stages.setdefault(stage, Stage()).open(now)

    def open_loaders(self, stage: str, now: float) -> None:
        """The loaders of an evaluation run are about to be read, from their beginning."""
        self.start_stage(stage, now)
        self._stages[stage].reopen(now)

    def stage_fetch(self, stage: str, start: float, end: float) -> None:
        """One ``next`` of an evaluation loader."""
        self.start_stage(stage, start)
        self._stages[stage].add_fetch(end - start)
        if stage == "val":
            self.ledger.wait_in_validation(end - start)

    def add_stage_batch(self, stage: str, loader: str | None = None) -> None:
        """One batch was evaluated; ``loader`` says of which of several loaders, where that is known."""
        if stage in self._stages:
            self._stages[stage].add_batch(loader, self._clock())

    def end_stage(self, stage: str, now: float) -> StageWait | None:
        """The evaluation run is over; gives that run alone, or None where none was on."""
        entry = self._stages.get(stage)
        run = None if entry is None else entry.close(now)
        if stage == "val":
            self.ledger.close_validation(now)
        self.come_back(now)
        return None if run is None else run.record(stage, 1)

    def end_stages(self, now: float) -> None:
        """End whatever evaluation is still on: something was raised in it."""
        for stage in self._stages:
            self.end_stage(stage, now)

    # What came out.

    def take_window(self) -> Window:
        """The steps since the last call."""
        window, self._window = self._window, Window()
        return window

    def take_records(self, *, hold: int = 0) -> list[StepRecord]:
        """The steps since the last call, to be written down.

        Args:
            hold: The latest steps to leave for the next call, because the device has not measured them yet (count).
        """
        records = []
        while len(self._new_records) > hold:
            records.append(self._new_records.popleft())
        return records

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
            wait_quantiles={q: self._quantiles.quantile(q) for q in (0.5, 0.95, 0.99)} if seen and self.steps else {},
        )

    def stages(self) -> list[StageWait]:
        """The evaluation stages that ran, each over all its runs; one that ended before it read anything did not."""
        now = self._clock()
        return [
            entry.so_far(now).record(stage, entry.runs, entry.loaders(stage))
            for stage, entry in self._stages.items()
            if entry.opened_at is not None or entry.ended.fetches or entry.ended.batches
        ]
