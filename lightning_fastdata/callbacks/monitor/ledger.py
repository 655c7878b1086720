"""The ledger of a run: the accounts, the epoch boundaries, and what stands out on the time line. Pure."""

from collections import deque

from lightning_fastdata.callbacks.monitor.accounts import Accounts
from lightning_fastdata.callbacks.monitor.fetch_probe import FetchInfo
from lightning_fastdata.results.records import Span
from lightning_fastdata.results.stats import Boundary

__all__ = ["MOST_SPANS", "Ledger"]

MOST_SPANS = 1000
# Shorter ones are no mark on a time line.
_SHORTEST_SPAN_S = 1e-3


class Ledger:
    """Where every second of a run goes.

    Args:
        began: When the account begins (s, on the clock of all other times).
    """

    def __init__(self, began: float) -> None:
        self.accounts = Accounts(began)
        self.epoch = 0
        self.spans: deque[Span] = deque(maxlen=MOST_SPANS)
        self._new_spans: deque[Span] = deque(maxlen=MOST_SPANS)
        self._boundary_since = self._iterator_s = self._refill_s = self._restart_s = self._worker_start_s = 0.0
        self._worker_starts = self._boundaries = 0
        self._booked_s = 0.0
        self._stepped = self._ever_stepped = False
        self._end_s = 0.0  # found at the end of this epoch; the last one's is no epoch boundary
        self._validation_since: float | None = None
        self.validation_wait_s = 0.0
        """Waiting for data in the validations of the fit (s)."""

    def add(self, kind: str, start: float, end: float) -> None:
        """A transfer, a computation, a checkpoint, a callback's or logger's work, ranks that wait for each other.

        Args:
            kind: "transfer", "compute", "checkpoint", "callback" or "sync".
            start: Its beginning (s).
            end: Its end (s).
        """
        self.accounts.add(kind, start, end)
        if kind == "checkpoint":
            self._add_span(kind, start, end)

    def fetch(self, start: float, end: float, info: FetchInfo) -> bool:
        """One ``next`` that gave a batch.

        Returns:
            Whether it filled an empty pipeline of workers, which is start-up or boundary, rather than went on reading.
        """
        accounts = self.accounts
        from_workers = bool(info.from_workers)
        if accounts.phase == "loop":
            restarted = from_workers and info.restarted
            accounts.add("boundary" if restarted else "wait", start, end)
            self._restart_s += end - start if restarted else 0.0
            return restarted
        if accounts.phase == "boundary":
            accounts.settle(start)
            self._iterator_s += accounts.booked_s("boundary_s") - self._booked_s
            if from_workers:
                self._refill_s += end - start
            if info.worker_start_s is not None:
                self._worker_start_s += info.worker_start_s
                self._worker_starts += 1
            self._add_span("boundary", self._boundary_since, end if from_workers else start)
        accounts.enter("loop", end if from_workers else start)
        if not from_workers:
            accounts.add("wait", start, end)
        return from_workers

    def found_the_end(self, start: float, end: float) -> None:
        """One ``next`` that only found the loader at its end."""
        self.accounts.add("boundary", start, end)
        self._end_s += end - start

    def open_boundary(self, now: float, *, replaces_loader: bool = False) -> None:
        """The loaders are about to be read from their beginning; in the first epoch that is part of the start-up.

        Args:
            now: When (s).
            replaces_loader: Whether they were made just before, and an iterator of them tried, which has no label.
        """
        if self.accounts.phase != "loop" or not self._ever_stepped:
            return  # a loader without a length is read ahead in the start-up already
        self._booked_s = self.accounts.booked_s("boundary_s")
        self.accounts.enter("boundary", now, began_before=replaces_loader)
        self._boundary_since = now
        self._refill_s, self._end_s = self._refill_s + self._end_s, 0.0
        # With new loaders for each epoch, Lightning asks for an iterator twice.
        self._boundaries += self._stepped
        self._stepped = False

    def end_step(self, now: float) -> None:
        """An optimizer step has ended."""
        self.accounts.settle(now)
        self._stepped = self._ever_stepped = True

    def open_validation(self, now: float) -> None:
        """A validation begins, unless one is on."""
        if self._validation_since is None:
            self._validation_since = now

    def close_validation(self, now: float) -> None:
        """The validation that is on is over."""
        if self._validation_since is not None:
            self.accounts.add("validation", self._validation_since, now)
            self._add_span("validation", self._validation_since, now)
            self._validation_since = None

    def wait_in_validation(self, took: float) -> None:
        """One ``next`` of a validation loader, and how long it took (s)."""
        if self.accounts.phase != "startup" and not self.accounts.closed:
            self.validation_wait_s += took

    def _add_span(self, kind: str, start: float, end: float) -> None:
        if end - start < _SHORTEST_SPAN_S or self.accounts.phase == "startup" or self.accounts.closed:
            return
        began = self.accounts.began
        span = Span(kind, start - began, end - began, self.epoch)
        self.spans.append(span)
        self._new_spans.append(span)

    def take_spans(self) -> list[Span]:
        """The spans since the last call."""
        spans = list(self._new_spans)
        self._new_spans.clear()
        return spans

    def boundary(self, persistent: bool | None, epochs: int) -> Boundary | None:
        """What the epoch boundaries cost.

        Args:
            persistent: Whether the training loaders keep their workers; None where they have none, or do not show it.
            epochs: Epochs that were trained (count).

        Returns:
            The sums; None where a boundary was not seen although there was one.
        """
        number = self._boundaries
        if not number and epochs > 1:
            return None
        exact = self._worker_starts >= number
        started = self._worker_start_s if exact else 0.0
        restarts = persistent is False and number > 0
        return Boundary(
            boundaries=number,
            per_epoch_s=(self._iterator_s + self._refill_s) / number if number else None,
            iterator_s=self._iterator_s,
            refill_s=self._refill_s,
            shutdown_s=self.accounts.shutdown_s,
            restart_s=self._restart_s,
            persistent_workers=persistent,
            saving_s_per_epoch=(self._iterator_s + started) / number if restarts else None,
            saving_is_exact=restarts and exact,
        )
