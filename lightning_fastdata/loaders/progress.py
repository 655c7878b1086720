"""Where a model is in its data, as a checkpoint keeps it: a few integers, the same on every rank."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lightning_fastdata.errors import FastDataError

__all__ = ["LoaderProgress"]


@dataclass(frozen=True)
class LoaderProgress:
    """What one loader has served the model, and what decides the rest of the epoch.

    The order is rebuilt from these numbers, not stored. They do not depend on the rank, so it is right that Lightning
    saves rank 0 only, nor on workers and prefetching.
    """

    seed: int
    """The run's seed."""
    epoch: int
    """Epoch the model is in, from 0."""
    cycle: int
    """How often a shorter loader has restarted within the epoch (count)."""
    batches_consumed: int
    """Global batches of this epoch and cycle that the model was trained on (count)."""
    samples_consumed: int
    """Samples in them over all ranks (count)."""
    global_batch_size: int
    """Samples per batch over all ranks (count); 0 = batches of a sampler of the user's."""
    dataset_length: int
    """Samples in the dataset (count)."""
    order: str
    """What orders: "shuffled", "in order", or "own sampler"."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "LoaderProgress":
        """Read what ``to_dict`` returned; other entries are ignored.

        Raises:
            FastDataError: A field is missing, so it was not written by this package.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in saved]
        if missing:
            raise FastDataError(
                f"the checkpoint's state of the training loader has no {', '.join(missing)}.",
                expected="a state that this package wrote.",
                fix="resume with the loader that the checkpoint was written with, or from the end of an epoch.",
            )
        return cls(**{name: saved[name] for name in names})

    def check_continues(self, here: "LoaderProgress", batches: int | None) -> None:
        """Refuse to continue in mid-epoch where the rest of the epoch would not be the rest.

        Args:
            here: What the loader is now.
            batches: Batches of an epoch now (count); None where that is not known.

        Raises:
            FastDataError: Seed, dataset length, global batch size or order differ from the checkpoint's.
        """
        if self.batches_consumed == 0 or self._is_at_end(here, batches):
            return
        for name, what, fix in (
            ("seed", "the seed", f"pass seed={self.seed}"),
            ("dataset_length", "the number of samples in the training data", "use the data it was written with"),
            ("order", "the order of the training data", "pass the same shuffle and sampler"),
            (
                "global_batch_size",
                "the global batch size (batch_size times ranks)",
                f"choose batch_size so that batch_size times ranks is {self.global_batch_size}",
            ),
        ):
            saved, now = getattr(self, name), getattr(here, name)
            if saved != now:
                raise FastDataError(
                    f"{what} was {saved!r} when the checkpoint was written in the middle of epoch {self.epoch}, "
                    f"and is {now!r}.",
                    expected="the same, or samples of this epoch would be lost and others repeated.",
                    fix=f"{fix}, resume from a checkpoint of the end of an epoch, or load the weights alone.",
                )

    def _is_at_end(self, here: "LoaderProgress", batches: int | None) -> bool:
        """Whether nothing of the epoch was left; by its own numbers, for another batch size makes other batches."""
        if self.order != "own sampler" and self.samples_consumed >= self.dataset_length:
            return True
        sizes = (self.global_batch_size, self.dataset_length) == (here.global_batch_size, here.dataset_length)
        return sizes and self.batches_consumed == batches
