"""When an optimizer step has ended, seen from the end of a batch."""

from typing import Any

__all__ = ["OptimizerSteps"]

# Manual optimization with raw optimizers never moves trainer.global_step; after so many batches each counts as a step.
_PATIENCE = 64


class OptimizerSteps:
    """Groups micro-batches into optimizer steps.

    Args:
        automatic: Whether the module uses automatic optimization.
        first_step: ``trainer.global_step`` when training starts (count); above 0 after a resume.
    """

    def __init__(self, *, automatic: bool, first_step: int) -> None:
        self._automatic = automatic
        self._next = first_step
        self._global_step = first_step
        self._unmoved = 0
        self.every_batch_counts = False

    def ended(self, trainer: Any, batch_idx: int) -> int | None:
        """The index of the step that ended with this batch, or None where the group goes on.

        Args:
            trainer: The Trainer, in ``on_train_batch_end``.
            batch_idx: Index of the batch in its epoch.
        """
        if self._automatic:
            accumulate = trainer.accumulate_grad_batches
            if accumulate != 1 and (batch_idx + 1) % accumulate and not trainer.is_last_batch:
                return None
            step = self._next
            self._next = step + 1
            return step
        return self._ended_by_hand(trainer)

    def _ended_by_hand(self, trainer: Any) -> int | None:
        global_step = trainer.global_step
        if global_step != self._global_step:
            self._global_step, self._unmoved = global_step, 0
            self.every_batch_counts = False
        else:
            self._unmoved += 1
            self.every_batch_counts |= self._unmoved >= _PATIENCE
            if not (self.every_batch_counts or trainer.is_last_batch):
                return None
        self._next = max(self._next + 1, global_step)
        return self._next - 1
