"""Which samples the Trainer's loaders served for a batch, by duck typing on ``last_served``."""

from typing import Any, NamedTuple

from lightning_fastdata.callbacks.audit.digest import NotMeasured, sum_of_samples
from lightning_fastdata.loaders.trainer_context import iter_loaders

__all__ = ["Counts", "ServedSamples"]


class Counts(NamedTuple):
    """Samples of one loader in a batch."""

    samples: int = 0
    """Without repeats (count)."""
    repeats: int = 0
    """At the batch's end, so that ranks get equally many (count)."""


class ServedSamples:
    """The loaders of one epoch.

    Args:
        loaders: ``trainer.train_dataloader``: one loader or any collection of loaders.
    """

    def __init__(self, loaders: Any) -> None:
        self.loaders = list(iter_loaders(loaders))
        self._before: list[Any] = [None] * len(self.loaders)

    def of_batch(self, batch: int) -> tuple[list[Counts], int]:
        """The samples that this rank's batch holds, repeats left out: another number of ranks makes others.

        Args:
            batch: The Trainer's number of the batch within the epoch, from 0.

        Returns:
            The counts by loader, and the sum of the samples' hashes in [0, 2**64).

        Raises:
            NotMeasured: A loader does not say, or has served another batch than the Trainer's.
        """
        counts, total = [Counts()] * len(self.loaders), 0
        for number, loader in enumerate(self.loaders):
            served = getattr(loader, "last_served", None)
            if served is None:
                raise NotMeasured(_why_silent(loader))
            position = (served.epoch, served.cycle, served.number)
            if position == self._before[number]:
                continue  # it has ended, and the others continue without it
            self._before[number] = position
            _check_position(loader, served, batch)
            indices = served.indices[: len(served.indices) - served.padded]
            counts[number] = Counts(len(indices), served.padded)
            total += sum_of_samples((served.epoch, number, served.cycle, batch), indices)
        return counts, total % 2**64


def _why_silent(loader: Any) -> str:
    name = type(loader).__name__
    if hasattr(loader, "last_served"):
        return f"{name} has served no batch yet"
    return f"{name} does not say which samples its batches hold; loaders of FastDataModule and auto_dataloader do"


def _check_position(loader: Any, served: Any, batch: int) -> None:
    # A shorter loader counts from 0 each time it restarts.
    position = served.number + (served.cycle * len(loader) if served.cycle else 0)
    if position == batch + 1:
        raise NotMeasured("Lightning reads one batch ahead, as it does where a loader has no length")
    if position != batch:
        raise NotMeasured(f"{type(loader).__name__} is at its batch {position} and the Trainer at batch {batch}")
