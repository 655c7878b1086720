"""Whether the workers of one pass may serve the next one: only while their copy of the dataset is still the same."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from lightning_fastdata.compat.rank_zero import log_rank_zero
from lightning_fastdata.errors import warn
from lightning_fastdata.loaders.state.snapshot import Snapshot, changed_between, held_by_name, take_snapshot
from lightning_fastdata.planning.start_method import default_start_method

__all__ = ["WorkerLifetime", "part_that_hides"]

WORTH_SHARE = 1 / 3
"""Share of a start of workers that looking for changes may take: it is done before each pass, and saves one start."""
LOOKS = 2
"""Looks at the dataset in a pass (count): when it begins, and when it ends."""


@dataclass
class WorkerLifetime:
    """What the workers of a loader hold, beside what the dataset is now."""

    parts: Mapping[str, Any]
    """What workers got: the dataset, the collate function."""
    automatic: bool
    """Whether "auto" decided that they live on; a user's ``persistent_workers=True`` stays."""
    log: Callable[[str], None]
    """Gets one line where something changed, or cannot be seen."""
    took_workers: bool = False
    """Whether "auto" took the workers; a number of the user's stays."""
    clock: Callable[[], float] = perf_counter
    """Gives the time (s)."""
    follows: bool = False
    """Whether the dataset was seen to change in the middle of a pass, which workers that "auto" took cannot follow."""
    by_name: Mapping[str, Any] | None = None
    """What workers import again, as it was when they were planned; None where they inherit it, or the user set them."""
    generators: bool = True
    """Whether states of random generators count; not where each sample is seeded anyway."""
    _held: Snapshot | None = None
    _look_s: float = 0.0
    _is_cheap: bool = True
    _logged: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, loader: Any) -> "WorkerLifetime":
        """For a loader of this package."""
        options = None if loader.planning is None else loader.planning.options
        automatic, took_workers = (
            options is not None and value == "auto"
            for value in (options and options.persistent_workers, options and options.num_workers)
        )
        parts = {"dataset": loader.dataset, "collate_fn": loader.collate_fn}
        lifetime = cls(parts, automatic, log_rank_zero, took_workers, generators=not loader.determinism.seeds_samples)
        if took_workers:  # a tuner may start some later
            lifetime.by_name = lifetime._by_name(loader.multiprocessing_context)
        return lifetime

    def out_of_reach(self, context: Any) -> bool:
        """Whether what workers import again has been changed by this program: they could not get it; one line names it.

        Args:
            context: How they are started: of ``multiprocessing``, or None.
        """
        if not self.by_name:
            return False
        now = self._by_name(context) or {}
        path = next((path for path, value in self.by_name.items() if now.get(path, value) != value), None)
        if path is not None:
            self._log_once(
                f"{path} has changed, which workers import again: samples are loaded without them from now on"
            )
        return path is not None

    def _by_name(self, context: Any) -> dict[str, Any] | None:
        method = default_start_method() if context is None else context.get_start_method()
        with suppress(Exception):  # as in _look
            return None if method == "fork" else held_by_name(self.parts)
        return None

    def may_keep(self, wanted: bool = True) -> bool:
        """Whether workers that are about to start may serve further passes; remembers what they get.

        Args:
            wanted: Whether they are to.
        """
        self._held = None
        if not wanted and not (self.took_workers and self._is_cheap):
            return False
        began = self.clock()
        self._held = self._look()
        self._look_s = self.clock() - began
        if wanted and self._held.unseen is not None and self.automatic:
            self._log_once(f"workers start again for each pass: {self._held.unseen} may change unseen")
            return False
        return wanted

    def is_worth(self, start_s: float) -> bool:
        """Whether looking for changes is cheap beside the start of workers that it saves; False stays.

        Args:
            start_s: Time that starting the workers took (s).
        """
        self._is_cheap = self._is_cheap and LOOKS * self._look_s <= WORTH_SHARE * start_s
        return not self.automatic or self._is_cheap

    @property
    def cost(self) -> str:
        """Why looking is not worth it, a sentence fragment."""
        return (
            f"looking whether the dataset has changed takes {1000 * self._look_s:.0f} ms, too long beside their start"
        )

    def has_changed(self) -> bool:
        """Whether the workers hold something else than the dataset is now; one line names it."""
        changed = self._changed()
        if changed and self.automatic:
            self._log_once(f"{changed[0]} has changed since the workers started: new ones are started")
        elif changed:
            self._warn_once(
                f"{changed[0]} has changed, but your persistent_workers=True keeps workers with the old one."
            )
        return bool(changed) and self.automatic

    def end_pass(self) -> None:
        """Look once more when the last batch of a pass is there: what changed meanwhile, its workers did not have."""
        if not self._is_cheap or not (changed := self._changed()):
            return
        stays = "num_workers=0 gives every sample what it is at that moment"
        if self.took_workers:
            self.follows = True
            stays = f"from the next pass on there are none; {stays}"
        self._warn_once(f"{changed[0]} has changed in the middle of an epoch, which its workers did not see: {stays}.")

    def _changed(self) -> tuple[str, ...]:
        return () if self._held is None else changed_between(self._held, self._look())

    def _warn_once(self, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            warn(text, stacklevel=2)

    def _look(self) -> Snapshot:
        return _look_at(self.parts, generators=self.generators)

    def _log_once(self, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            self.log(text)


def part_that_hides(parts: Mapping[str, Any], *, generators: bool = True) -> str | None:
    """The first attribute whose changes could not be seen, by name; None where all is seen. Reads no array.

    Args:
        parts: What workers would get, by name.
        generators: Whether states of random generators count.
    """
    return _look_at(parts, generators=generators, arrays=False).unseen


def _look_at(parts: Mapping[str, Any], **options: bool) -> Snapshot:
    try:
        return take_snapshot(parts, **options)
    except Exception as error:  # a proxy, a container that another thread changes
        return Snapshot({}, f"the dataset ({type(error).__name__}: {error})")
