"""Whether the workers of one pass may serve the next one: only while their copy of the dataset is still the same."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from lightning_fastdata.compat.rank_zero import log_rank_zero
from lightning_fastdata.loaders.state.snapshot import Snapshot, changed_between, held_by_name, take_snapshot
from lightning_fastdata.planning.start_method import default_start_method

__all__ = ["WorkerLifetime"]

WORTH_SHARE = 1 / 3
"""Share of a start of workers that looking for changes may take: it is done before each pass, and saves one start."""


@dataclass
class WorkerLifetime:
    """What the workers of a loader hold, beside what the dataset is now."""

    parts: Mapping[str, Any]
    """What workers got: the dataset, the collate function."""
    automatic: bool
    """Whether "auto" decided that they live on; a user's ``persistent_workers=True`` stays."""
    log: Callable[[str], None]
    """Gets one line where something changed, or cannot be seen."""
    clock: Callable[[], float] = perf_counter
    """Gives the time (s)."""
    by_name: Mapping[str, Any] | None = None
    """What workers import again, as it was when they were planned; None where they inherit it, or the user set them."""
    _held: Snapshot | None = None
    _look_s: float = 0.0
    _logged: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, loader: Any) -> "WorkerLifetime":
        """For a loader of this package."""
        planning, parts = loader.planning, {"dataset": loader.dataset, "collate_fn": loader.collate_fn}
        automatic = planning is not None and planning.options.persistent_workers == "auto"
        lifetime = cls(parts, automatic, log_rank_zero)
        if planning is not None and planning.options.num_workers == "auto" and loader.num_workers:
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

    def may_keep(self) -> bool:
        """Whether workers that are about to start may serve further passes; remembers what they get."""
        began = self.clock()
        self._held = self._look()
        self._look_s = self.clock() - began
        if self._held.unseen is not None and self.automatic:
            self._log_once(f"workers start again for each pass: {self._held.unseen} may change unseen")
            return False
        return True

    def is_worth(self, start_s: float) -> bool:
        """Whether looking for changes is cheap beside the start of workers that it saves.

        Args:
            start_s: Time that starting the workers took (s).
        """
        return not self.automatic or self._look_s <= WORTH_SHARE * start_s

    def has_changed(self) -> bool:
        """Whether the workers hold something else than the dataset is now; one line names it."""
        if self._held is None:
            return False
        changed = changed_between(self._held, self._look())
        if changed and self.automatic:
            self._log_once(f"{changed[0]} has changed since the workers started: new ones are started")
        elif changed:
            self._warn_once(
                f"{changed[0]} has changed, but your persistent_workers=True keeps workers with the old one."
            )
        return bool(changed) and self.automatic

    def _warn_once(self, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            warnings.warn(text, stacklevel=2)

    def _look(self) -> Snapshot:
        try:
            return take_snapshot(self.parts)
        except Exception as error:  # a proxy, a container that another thread changes
            return Snapshot({}, f"the dataset ({type(error).__name__}: {error})")

    def _log_once(self, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            self.log(text)
