"""One audited fit: what is known between the hooks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning_fastdata.callbacks.audit.content import content_words
from lightning_fastdata.callbacks.audit.digest import BatchSums, EpochSums, NotMeasured, sum_of_words
from lightning_fastdata.callbacks.audit.served_samples import Counts, ServedSamples
from lightning_fastdata.loaders.splitmix import Words
from lightning_fastdata.results.audit_file import SCHEMA

__all__ = ["NOTHING", "AuditSession"]

NOTHING = EpochSums(epoch=0, samples=None, order=None, content=None)
"""What a rank adds that has measured nothing; its vector is all zeros."""


@dataclass
class AuditSession:
    """The sums of the running epoch, and what a checkpoint brought."""

    path: Path
    """The audit file."""
    content: bool
    """Whether bytes are hashed."""
    world_size: int
    """Ranks of the run (count)."""
    run_id: str = field(default_factory=lambda: uuid4().hex)
    """Distinguishes this run's own checkpoints from those of an earlier run."""
    sums: EpochSums | None = None
    """The running epoch; None before the first batch."""
    written: bool = True
    """Whether the line of ``sums`` is in the file."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why something is not measured, by what it is: "samples" or "content"."""
    served: ServedSamples | None = None
    """The loaders of the running epoch."""

    def begin_batch(self, epoch: int, batch: int) -> EpochSums | None:
        """Make ready for a batch: continue the sums, or begin new ones.

        Args:
            epoch: Epoch of the batch.
            batch: Its number within the epoch, from 0.

        Returns:
            The sums of the epoch before, if their line is still to be written: a checkpoint brought them that was
            saved after the last batch of an epoch and before its end.
        """
        before = self.sums
        if before is not None and before.epoch == epoch and (self.served is not None or before.continues_with(batch)):
            return None
        self.sums = EpochSums(epoch=epoch, first_batch=batch)
        left_over = None
        if before is not None and not self.written and (epoch, batch) == (before.epoch + 1, 0):
            before.settle()
            left_over = before
        self.written = False
        return left_over

    def note(self, trainer: Any, batch: Any, batch_idx: int) -> None:
        """Take in the batch that the training step is about to get.

        Args:
            trainer: The Trainer.
            batch: The batch, on its device.
            batch_idx: Its number within the epoch, from 0.
        """
        assert self.sums is not None
        if self.served is None:  # once an epoch: the Trainer may have other loaders now
            self.served = ServedSamples(trainer.train_dataloader)
        samples, order, content = None, None, None
        counts: list[Counts] = []
        try:
            if self.sums.order is not None:
                counts, order = self.served.of_batch(batch_idx)
                samples = sum(known.samples for known in counts)
        except NotMeasured as reason:
            self.reasons.setdefault("samples", str(reason))
        try:
            if self.content and self.sums.content is not None:
                rows, content = _content(batch, batch_idx, counts, len(self.served.loaders))
                samples = rows if samples is None else samples
        except NotMeasured as reason:
            self.reasons.setdefault("content", str(reason))
        self.sums.note(BatchSums(batch_idx, samples, order, content))
        self.written = False

    def end_epoch(self) -> Words:
        """Count the newest batch.

        Returns:
            What this rank adds to the digests of the epoch: ``EpochSums.vector``.
        """
        self.served = None
        if self.sums is None:
            return NOTHING.vector()
        self.sums.settle()
        return self.sums.vector()

    # Checkpoints.

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the sums of this rank."""
        return {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "world_size": self.world_size,
            "written": self.written,
            "sums": None if self.sums is None else self.sums.to_state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over the sums of a checkpoint where they cover all ranks: with one rank then and now.

        Raises:
            KeyError, TypeError: The state was written by something else.
        """
        if state["run_id"] == self.run_id:
            return  # a tuner restores its own run
        if state["schema"] == SCHEMA and state["world_size"] == self.world_size == 1 and state["sums"] is not None:
            self.sums, self.written = EpochSums.from_state(state["sums"]), bool(state["written"])


def _content(batch: Any, batch_idx: int, counts: list[Counts], loaders: int) -> tuple[int | None, int]:
    """Samples, as far as they can be counted, and the sum of the hashes of the bytes."""
    parts = _parts(batch) if loaders > 1 else [batch]
    counted: list[int | None] = []
    total = 0
    for number, part in enumerate(parts):
        known = counts[number] if len(parts) == len(counts) else Counts()
        words, count = content_words(part, *known)
        counted.append(count)
        total += sum_of_words((number, batch_idx), words)
    rows = [count for count in counted if count is not None]
    return (sum(rows) if rows else None), total % 2**64


def _parts(batch: Any) -> list[Any]:
    """The batches of several loaders."""
    if isinstance(batch, Mapping):
        return [batch[key] for key in batch]
    return list(batch) if isinstance(batch, (list, tuple)) else [batch]
