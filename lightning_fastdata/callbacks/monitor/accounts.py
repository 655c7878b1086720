"""The ledger's arithmetic: intervals that lie within each other, and the gaps between them, as accounts that close.

Pure: times come in, sums go out. Every moment from the beginning to now is in exactly one account, so the accounts sum
to the total whatever was timed.
"""

from collections.abc import Mapping

from lightning_fastdata.results.stats import ACCOUNTS

__all__ = ["Accounts"]

_ACCOUNT_OF = {
    "wait": "wait_s",
    "boundary": "boundary_s",
    "transfer": "transfer_s",
    "compute": "compute_s",
    "validation": "validation_s",
    "checkpoint": "checkpoint_s",
    "callback": "callbacks_s",
    "sync": "sync_s",
}
# Where a moment belongs that lies in no interval, by the phase of the run.
_GAP_OF = {
    "startup": "startup_s",
    "boundary": "boundary_s",
    "loop": "loop_s",
    "shutdown": "boundary_s",
    "after": "unattributed_s",
}
# Between two labels Lightning does some ten to some thousand microseconds of work. What is longer is work that has no
# label: metrics that are computed at an epoch's end, for instance.
_LONGEST_LOOP_GAP_S = 0.02
# A callback's hook within a validation or a checkpoint is part of that; within a training step it is the callback's.
_ABSORBS = {"validation": ("callback",), "checkpoint": ("callback",), "callback": ("callback",)}


class Accounts:
    """Adds up where the time goes.

    Intervals are given in the order in which they end, so those within another one come before it; what they took is
    not counted again for the outer one. The time between intervals goes to the phase that is on: "startup", "boundary",
    "loop", "shutdown" (of the loaders, after the last epoch) or "after". In the loop, what one gap has beyond 20 ms is
    unattributed.

    Args:
        began: When the account begins (s, on the clock of all other times).
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.phase = "startup"
        self.shutdown_s = 0.0
        """Gaps of the phase "shutdown" (s); part of the account of boundaries."""
        self._sums = dict.fromkeys(ACCOUNTS, 0.0)
        self._edge = began
        self._ended: float | None = None
        # (start, time taken, kind, own time) of the intervals since the edge that lie in no other one so far
        self._within: list[tuple[float, float, str, float]] = []
        self._within_s = 0.0  # what they took together

    def add(self, kind: str, start: float, end: float) -> None:
        """One interval that has ended.

        Args:
            kind: "wait", "boundary", "transfer", "compute", "validation", "checkpoint", "callback" or "sync".
            start: Its beginning (s).
            end: Its end (s).
        """
        if self.phase == "startup" or self._ended is not None:
            return
        if start < self._edge:  # what lies before is in an account already
            start = self._edge
        took = own = end - start if end > start else 0.0
        within, absorbed = self._within, _ABSORBS.get(kind, ())
        while within and within[-1][0] >= start:
            _, inner_took, inner_kind, inner_own = within.pop()
            own -= inner_took
            self._within_s -= inner_took
            if inner_kind in absorbed:
                self._sums[_ACCOUNT_OF[inner_kind]] -= inner_own
                own += inner_own
        self._sums[_ACCOUNT_OF[kind]] += own
        within.append((start, took, kind, own))
        self._within_s += took

    def enter(self, phase: str, now: float, *, began_before: bool = False) -> None:
        """From now on, time in no interval belongs to another phase; while the same one is on nothing changes.

        Args:
            phase: "boundary", "loop", "shutdown" or "after".
            now: When (s).
            began_before: What the gap right before has beyond the loop's own belongs to the new phase already.
        """
        if phase == self.phase or self._ended is not None:
            return
        early = 0.0
        if began_before and self.phase == "loop":
            start, took, _, _ = self._within[-1] if self._within else (self._edge, 0.0, "", 0.0)
            early = max(0.0, now - start - took - _LONGEST_LOOP_GAP_S)
        self.settle(now)
        self._sums["unattributed_s"] -= early
        self._sums[_GAP_OF[phase]] += early
        self.phase = phase

    def settle(self, now: float) -> None:
        """Account for everything until now; no interval that counts may be open.

        Args:
            now: When (s).
        """
        if self._ended is None and now > self._edge:
            gap, unknown = self._gaps(now)
            self._sums[_GAP_OF[self.phase]] += gap
            self._sums["unattributed_s"] += unknown
            self.shutdown_s += gap if self.phase == "shutdown" else 0.0
            self._edge = now
            self._within.clear()
            self._within_s = 0.0

    def close(self, now: float) -> None:
        """The total ends here; what comes later is not counted."""
        self.settle(now)
        if self._ended is None:
            self._ended = now

    def _gaps(self, now: float) -> tuple[float, float]:
        """Time in no interval since the edge (s): what belongs to the phase, and what is unknown."""
        gap = now - self._edge - self._within_s
        if self.phase != "loop" or gap <= _LONGEST_LOOP_GAP_S:
            return gap, 0.0
        unknown, edge = 0.0, self._edge
        for start, took, _, _ in self._within:
            unknown += max(0.0, start - edge - _LONGEST_LOOP_GAP_S)
            edge = start + took
        unknown += max(0.0, now - edge - _LONGEST_LOOP_GAP_S)
        return gap - unknown, unknown

    @property
    def closed(self) -> bool:
        """Whether the total has ended."""
        return self._ended is not None

    def booked_s(self, account: str) -> float:
        """What an account holds by the last settlement (s)."""
        return self._sums[account]

    def total_s(self, now: float) -> float:
        """From the beginning to now, or to the end (s)."""
        return (now if self._ended is None else self._ended) - self.began

    def sums(self, now: float) -> Mapping[str, float]:
        """The accounts until now; they sum to ``total_s``."""
        sums = dict(self._sums)
        if self._ended is None and now > self._edge:
            gap, unknown = self._gaps(now)
            sums[_GAP_OF[self.phase]] += gap
            sums["unattributed_s"] += unknown
        return sums
