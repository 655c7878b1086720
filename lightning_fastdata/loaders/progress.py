"""Where a model is in its data, as a checkpoint keeps it: a few integers, the same on every rank."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lightning_fastdata.errors import FastDataError

__all__ = ["FROM_AN_EPOCHS_END", "RULES", "LoaderProgress", "without_state"]

RULES = 2
"""Number of the rules by which seed, epoch and index decide a batch; docs/sameness.md says what each has changed."""
ORDERS = ("shuffled", "in order", "own sampler")
FROM_AN_EPOCHS_END = "resume from a checkpoint of the end of an epoch, or load the weights alone"


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
    rules: int = 1
    """Number of the rules it was written under; 1 where it says none."""
    name: str | None = None
    """The loader's name among several, which draw apart; None = the only one."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], name: str | None = None) -> "LoaderProgress":
        """Read what ``to_dict`` returned; other entries are ignored.

        Args:
            saved: What a checkpoint holds.
            name: The loader's name under rules 1, which did not write it down.

        Raises:
            FastDataError: A field is missing, so it was not written by this package.
        """
        names = [field.name for field in fields(cls)]
        saved = {"rules": 1, "name": name, **saved}
        missing = [name for name in names if name not in saved]
        if missing:
            raise FastDataError(
                f"the checkpoint's state of the training loader has no {', '.join(missing)}.",
                expected="a state that this package wrote.",
                fix="resume with the loader that the checkpoint was written with, or from the end of an epoch.",
            )
        progress = cls(**{name: saved[name] for name in names})
        progress._check_values()
        return progress

    def _check_values(self) -> None:
        """Refuse what no run can have written: it would lose samples and end as if all was well."""
        values = asdict(self)
        texts = {"order": self.order in ORDERS, "name": self.name is None or isinstance(self.name, str)}
        wrong = [name for name, value in values.items() if not texts.get(name, type(value) is int and value >= 0)]
        if not wrong:
            drawn = self.batches_consumed * self.global_batch_size
            counted = (drawn, min(drawn, self.dataset_length))
            wrong = [] if self.samples_consumed in counted else ["batches_consumed", "samples_consumed"]
        if wrong:
            raise FastDataError(
                "the checkpoint's state of the training loader has "
                f"{', '.join(f'{name}={values[name]!r}' for name in wrong)}.",
                expected="whole numbers >= 0 that fit each other: batches times the global batch size are the samples, "
                "up to the dataset's length.",
                fix=f"the checkpoint was damaged or edited: {FROM_AN_EPOCHS_END}.",
            )

    def place_in(
        self, here: "LoaderProgress", batches: int | None, done: int | None, *, in_trainer: bool
    ) -> tuple[int, int]:
        """Where a pass continues that begins now.

        Args:
            here: The loader at the beginning of that pass.
            batches: Batches of an epoch now (count); None where that is not known.
            done: Batches of the epoch that the Trainer counts as done (count); None where it does not say.
            in_trainer: Whether a Trainer decides which epoch it is.

        Returns:
            The cycle, and the batch to begin with: (0, 0) where the pass is of another epoch, and this one is over.

        Raises:
            FastDataError: The rest of the epoch would not be the rest.
        """
        if self.epoch != here.epoch and not done and (in_trainer or self._is_over(here, batches)):
            return 0, 0
        self.check_continues(here, batches, done)
        ended = self.batches_consumed > 0 and self._is_over(here, batches, done)
        if done is not None or not ended:
            self._check_place(here.epoch, batches, done)
        return self.cycle, max(self.batches_consumed, batches or 0) if ended else self.batches_consumed

    def _check_place(self, epoch: int, batches: int | None, done: int | None) -> None:
        at = self.cycle * (batches or 0) + self.batches_consumed
        used_up = self.cycle == 0 and self.batches_consumed == batches  # beside a longer loader
        fits = at == done or (used_up and at < done) if done is not None else self.cycle == 0
        # A sampler of the user's may have begun where the last run stopped, and have fewer left.
        within = batches is None or self.order == "own sampler" or self.batches_consumed <= batches
        if self.epoch == epoch and fits and within:
            return
        place = f"epoch {epoch}" if done is None else f"batch {done} of epoch {epoch}"
        raise FastDataError(
            f"the checkpoint's state of the training loader is of batch {self.batches_consumed} of epoch {self.epoch}, "
            f"cycle {self.cycle}, and the run goes on at {place}{'' if batches is None else f' of {batches} batches'}.",
            expected="the same place, or samples of this epoch would be lost and others repeated.",
            fix=f"the checkpoint was damaged or edited: {FROM_AN_EPOCHS_END}.",
        )

    def _is_over(self, here: "LoaderProgress", batches: int | None, done: int | None = None) -> bool:
        """Whether nothing of its epoch is left, or nothing of it was begun."""
        left = done is not None and batches is not None and done < batches  # whatever its own numbers say
        return self.batches_consumed == 0 or (not left and self._is_at_end(here, batches))

    def check_continues(self, here: "LoaderProgress", batches: int | None, done: int | None = None) -> None:
        """Refuse to continue in mid-epoch where the rest of the epoch would not be the rest.

        Args:
            here: What the loader is now.
            batches: Batches of an epoch now (count); None where that is not known.
            done: Batches of the epoch that the Trainer counts as done (count); None where it does not say.

        Raises:
            FastDataError: Seed, dataset length, global batch size or order differ from the checkpoint's.
        """
        if self._is_over(here, batches, done):
            return
        if self.rules > here.rules:
            raise FastDataError(
                f"the checkpoint was written in the middle of epoch {self.epoch} under rules {self.rules}, and this "
                f"version knows rules {here.rules}.",
                expected="the same, or samples of this epoch could be lost and others repeated.",
                fix=f"update lightning_fastdata, {FROM_AN_EPOCHS_END}.",
            )

        def under(progress: LoaderProgress) -> str:
            return "" if self.rules == here.rules else f" (rules {progress.rules})"

        same_name = "give the datasets the same names"
        if self.rules == 1 and self.name is None:  # with a seed given to each they draw alike, as they did
            same_name = f"pass seed={self.seed} to each auto_dataloader"
        for name, what, fix in (
            ("seed", "the seed", f"pass seed={self.seed}"),
            ("dataset_length", "the number of samples in the training data", "use the data it was written with"),
            ("order", "the order of the training data", "pass the same shuffle and sampler"),
            ("name", "the loader's name among several", same_name),
            (
                "global_batch_size",
                "the global batch size (batch_size times ranks)",
                f"choose batch_size so that batch_size times ranks is {self.global_batch_size}",
            ),
        ):
            saved, now = getattr(self, name), getattr(here, name)
            if saved != now:
                raise FastDataError(
                    f"{what} was {saved!r}{under(self)} when the checkpoint was written in the middle of epoch "
                    f"{self.epoch}, and is {now!r}{under(here)}.",
                    expected="the same, or samples of this epoch would be lost and others repeated.",
                    fix=f"{fix}, {FROM_AN_EPOCHS_END}.",
                )

    def _is_at_end(self, here: "LoaderProgress", batches: int | None) -> bool:
        """Whether nothing of the epoch was left; by its own numbers, for another batch size makes other batches."""
        if self.order != "own sampler" and self.samples_consumed >= self.dataset_length:
            return True
        sizes = (self.global_batch_size, self.dataset_length) == (here.global_batch_size, here.dataset_length)
        return sizes and self.batches_consumed == batches


def without_state(epoch: int, batches: int) -> str:
    """What to say of a checkpoint that a run without this package's loaders wrote in the middle of an epoch.

    Args:
        epoch: The epoch, from 0.
        batches: Batches of it that the Trainer counts as done (count).
    """
    return (
        f"The checkpoint was written after {batches} batches of epoch {epoch} by loaders that are not resumable: it "
        f"holds no state of this package's loader. It goes on with batch {batches}: exact where the run before had the "
        "same order, as without shuffling; else samples of this epoch come twice, and others not at all. From a "
        "checkpoint of the end of an epoch nothing is lost."
    )
