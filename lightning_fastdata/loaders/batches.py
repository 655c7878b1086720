"""One pass over a loader as its reader sees it: an iterator that finds its epoch when the first batch is wanted."""

from collections.abc import Callable, Iterator
from typing import Any

from lightning_fastdata.compat import lightning_loops
from lightning_fastdata.loaders.batch_requests import EpochPass, LoadedBatch
from lightning_fastdata.loaders.seeded_dataset import WorkerOutput

__all__ = ["Batches"]


class Batches(Iterator[Any]):
    """One pass over a loader; its epoch is found, and its workers start, when the first batch is wanted.

    Args:
        loader: The ``ResumableDataLoader`` that it reads, which makes and serves the batches.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._changes = 0
        self._pass = EpochPass(0)
        self._finish: Callable[[Any], Any] | None = None
        self.inner: Iterator[WorkerOutput] | None = None
        """The iterator of torch, which has the workers and their queue; None before the first batch was wanted."""

    @property
    def finished(self) -> bool:
        """Whether the last batch has been served."""
        return self._pass.finished

    @property
    def fetched(self) -> LoadedBatch | None:
        """How the batch served last had been loaded."""
        return self._pass.last_loaded

    def __next__(self) -> Any:
        if self.inner is None:
            self._changes = self._loader.changes
            self._pass, self.inner = self._loader.start_pass(self)
            finish = getattr(self._loader.dataset, "finish_unhooked", None)
            if finish is not None and not lightning_loops.transfers(self._loader.determinism.trainer(), self):
                self._finish = finish
        elif self._changes != self._loader.changes:
            self._changes = self._loader.changes
            self.inner = self._loader.continue_after_change(self, self._pass)
        try:
            # No name holds a batch: while the model works on it, the loader must not keep it alive.
            if self._finish is not None:
                return self._finish(self._loader.serve(self._pass, next(self.inner)))
            return self._loader.serve(self._pass, next(self.inner))
        except StopIteration:
            self._pass.finished = True
            raise
        except (RuntimeError, OSError) as error:
            died = self._loader.diagnose_crash(error)
            if died is None:
                raise
            raise died from error

    def __len__(self) -> int:
        return len(self._loader)
