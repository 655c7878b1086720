"""Steps of all ranks on their way to rank 0, through the process group's key-value store: no rank waits for another.

A collective would be the wrong way: a rank that stops early or raises would leave the others waiting. Here every rank
leaves its messages under keys of its own and goes on; rank 0 takes those that are in the store. To ask for a key that
is missing would wait for it, so ``check`` comes before every ``get``, and a key is deleted only by its reader.

What the ranks must agree on is the run they are in, since one process may run several fits, and a fit may have failed
on one rank alone. So rank 0 draws a new name for each run and leaves it in the store before the first step, where the
others find it. Messages go under eight keys a rank, in turn: the store stays small, whatever becomes of rank 0. (A
``FileStore`` is a file that only grows, by 16 bytes a step here; Lightning uses none.)

Where rank 0 is gone, and a ``TCPStore`` with it, torch prints a page of C++ frames for each call that fails. The first
message after that is not noticed yet. So a rank that stops sends its last steps and its goodbye as one message.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby
from math import nan
from typing import Any

from lightning_fastdata.callbacks.guard import guarded
from lightning_fastdata.results.rank_merge import Message, RankMerge, RankSteps, pack, unpack
from lightning_fastdata.results.records import StepRecord, elapsed_s
from lightning_fastdata.results.stats import RankTimes

__all__ = ["RankExchange"]

_KEYS_A_RANK = 8
_MOST_WAIT_S = 2.0
_PAUSE_S = 0.02
_CLOSED = b"closed"


class RankExchange:
    """One rank's part in comparing all of them, for one run.

    Make it before the first collective, in a callback's ``setup``: the barrier after it makes sure that the name of
    this run is in the store when the first of the others asks for it. No method raises, and none waits, except
    ``finish`` on rank 0 for a bounded time. A fault of the store ends the comparison and is named in ``note``.

    Args:
        rank: This process's global rank (index).
        world_size: Ranks of the run (count).
        host: Name of this machine.
        store: The store of the default process group; None where there is none.
        key: Beginning of all keys; the same on every rank, another one for each monitor of a Trainer.
        clock: Monotonic clock (s).
        sleep: Pauses for so many seconds.
    """

    def __init__(
        self,
        *,
        rank: int,
        world_size: int,
        host: str,
        store: Any,
        key: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.note: str | None = None
        """What a reader of the figures must know; None where all is well."""
        self.published = 0
        """Steps that ``publish_new`` has taken down (count)."""
        self._rank, self._host, self._key = rank, host, key
        self._store: Any = store if world_size > 1 else None
        self._clock, self._sleep = clock, sleep
        self._merge = RankMerge(world_size) if rank == 0 else None
        self._run: bytes | None = None
        # Messages that this rank has sent; on rank 0, messages taken from each rank that has not said goodbye.
        self._sent = 0
        self._unsent: deque[RankSteps] = deque(maxlen=_KEYS_A_RANK)
        self._taken = dict.fromkeys(range(1, world_size), 0) if rank == 0 else {}
        if world_size > 1 and store is None:
            self.note = "The ranks were not compared, because there is no torch.distributed process group."
        if rank == 0:
            self._open_run()

    @guarded
    def _open_run(self) -> None:
        """Leave a new run's name in the store."""
        if self._store is not None:
            run = uuid.uuid4().hex.encode()
            self._store.set(self._run_key, run)
            self._run = run

    def publish_new(self, records: Sequence[StepRecord], steps: int) -> None:
        """Take down the steps that were not published before, by epoch.

        Args:
            records: The latest steps, oldest first.
            steps: Steps of the run so far (count), the last of which ``records`` are.
        """
        new, self.published = steps - self.published, steps
        for epoch, group in groupby(tuple(records)[-new:] if new else (), key=lambda record: record.epoch):
            self.publish(epoch, [_steady(record) for record in group])

    @guarded
    def publish(self, epoch: int, steps: Sequence[tuple[int, float, float]]) -> None:
        """Take down steps that were not published before; the last 10,000 of them.

        They leave this process with the next ``collect`` or ``finish``. Call it at the end of an epoch, and once more
        when the run stops in the middle of one. In longer epochs it may be called in between, by each rank when it
        likes: then the whole epoch is compared.

        Args:
            epoch: Epoch they belong to, from 0 (count).
            steps: (step index, wait in s, wall time in s), in step order.
        """
        if self._store is None or not len(steps):
            return
        part = RankSteps.of(self._rank, self._host, epoch, steps)
        if self._merge is not None:
            self._merge.add(part)
        else:
            self._unsent.append(part)

    @guarded
    def collect(self) -> None:
        """On rank 0, take what has arrived; on others, send what was published.

        Call it once when training starts, and after ``publish``, but not between the last ``publish`` and ``finish``.
        It takes rank 0 some 0.1 ms for each rank and 0.3 ms more for each full message.
        """
        if self._store is None:
            return
        if self._merge is None:
            self._send()
        elif self._run is not None:
            for rank in tuple(self._taken):
                self._take_from(rank)

    @guarded
    def finish(self, *, at_most_s: float = _MOST_WAIT_S) -> None:
        """Nothing more will be published here: say goodbye, or on rank 0 wait for those who have not; then let go.

        Args:
            at_most_s: How long rank 0 waits (s). After an exception the others may be stuck in a collective until this
                process is gone, so that less is better then.
        """
        if self._store is None:
            return
        if self._merge is None:
            self._send(goodbye=True)
        else:
            self._await_others(self._clock() + at_most_s)
            self._merge.close()
            if self._store is not None:
                self._store.set(self._run_key, _CLOSED)
            if self.note is None and self._merge.times() is None:
                self.note = "The ranks were not compared, because nothing arrived from the others in time."
        self._store = None

    @guarded
    def times(self) -> RankTimes | None:
        """What is known of all ranks so far; None on other ranks than 0, and where nothing of the others arrived."""
        return None if self._merge is None else self._merge.times()

    # The store.

    @property
    def _run_key(self) -> str:
        return f"{self._key}/run"

    def _message_key(self, rank: int, number: int) -> str:
        assert self._run is not None
        return f"{self._key}/{self._run.decode()}/{rank}/{number % _KEYS_A_RANK}"

    def _send(self, *, goodbye: bool = False) -> None:
        """Leave messages for rank 0, once it is known where."""
        if self._run is None:
            if not self._store.check([self._run_key]):
                return
            run = self._store.get(self._run_key)  # rank 0 overwrites this key and never deletes it
            if run == _CLOSED:
                return
            self._run = run
        unsent = list(self._unsent)
        self._unsent.clear()
        if goodbye and not unsent:
            unsent = [RankSteps.of(self._rank, self._host, 0, ())]
        for left, steps in zip(reversed(range(len(unsent))), unsent, strict=True):
            message = Message(self._sent, goodbye and not left, steps)
            self._store.set(self._message_key(self._rank, self._sent), pack(message))
            self._sent += 1

    def _take_from(self, rank: int) -> None:
        """Take all messages of ``rank`` that have arrived."""
        assert self._merge is not None
        for _ in range(_KEYS_A_RANK):
            key = self._message_key(rank, self._taken[rank])
            if not self._store.check([key]):
                return
            message = unpack(self._store.get(key), rank=rank)
            self._store.delete_key(key)
            if message is None:
                self.note = f"A message of rank {rank} could not be read: its steps count as missing."
                self._taken[rank] += 1
                continue
            if message.number < self._taken[rank]:  # left over from a round that was not looked at
                return
            # Of a rank far ahead this is a later message than the expected one, under the same key.
            self._taken[rank] = message.number + 1
            self._merge.add(message.steps)
            if message.last:
                del self._taken[rank]
                return

    def _await_others(self, end: float) -> None:
        """Take what comes until all have said goodbye, or it is ``end`` on the clock."""
        self.collect()
        while self._taken and self._store is not None and self._clock() < end:
            self._sleep(_PAUSE_S)
            self.collect()

    def _give_up(self, error: Exception) -> None:
        """End the comparison, not the training."""
        self._store = None
        reason = (str(error).splitlines() or [""])[0][:200]
        self.note = f"The ranks were not compared to the end, because of {type(error).__name__}: {reason}"


def _steady(record: StepRecord) -> tuple[int, float, float]:
    """A step for the comparison of ranks: its index, its wait and its wall time (s), without filling an empty pipeline.

    A wait that was not measured is nan, which drops the step.
    """
    wait_s = nan if record.wait_s is None else record.wait_s - record.refill_s
    return record.step, wait_s, elapsed_s(record) - record.refill_s
