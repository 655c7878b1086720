"""The callback: writes a line per epoch of which samples each global batch held."""

import contextlib
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_fastdata.callbacks.audit.digest import EpochSums, Words, read_vector
from lightning_fastdata.callbacks.audit.session import NOTHING, AuditSession
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.audit_file import append_epoch, check_writable, start_file

if TYPE_CHECKING:
    from lightning.pytorch import Callback as Base
else:
    Base = object  # so that neither Lightning package is imported here

__all__ = ["DataAuditMixin"]


def _guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """Let a fault in a hook end the audit, not the training."""

    @functools.wraps(hook)
    def run_hook(self: "DataAuditMixin", *args: Any, **kwargs: Any) -> None:
        if self._run is None or self._ended:
            return
        try:
            hook(self, self._run, *args, **kwargs)
        except Exception as error:
            self._give_up(error)

    return run_hook


class DataAuditMixin(Base):
    """Writes a short digest per epoch of which samples each global batch held, so that two runs can be compared.

    ``lightning-fastdata audit A.jsonl B.jsonl`` says in a line whether two runs saw the same samples in the same
    order, and if not, from which batches on they part. The digest of a global batch does not depend on the number of
    ranks that hold it, on workers, or on the order of samples within it; samples that repeat, so that all ranks make
    equal steps, count as they come. Ranks exchange 2 kB at the end of each epoch, and nothing in between.

    Which samples a batch held is known for the loaders that this package makes of map-style data (``FastDataModule``,
    ``auto_dataloader``). For others it is "not measured"; ``content=True`` works for any loader.

    Args:
        path: File for the lines, one an epoch. A fit from the start begins it anew, one that goes on from a
            checkpoint keeps it; reading it takes the newest line of each epoch.
        content: Whether the bytes of each batch are hashed too, as the training step gets them, augmentations
            included. A batch on a device is copied to the CPU for it, and that waits for the device at every step.

    A single process that is resumed in mid-epoch writes the same lines as one that ran through: the sums are in the
    checkpoint. Lightning saves those of rank 0 only, so on several ranks the line of that epoch begins at the batch
    of the resume (``first_batch``).

    Raises:
        FastDataError: An argument that cannot be meant; or, when a fit begins, a file that cannot be written.

    Example::

        Trainer(callbacks=[DataAudit("audit.jsonl")]).fit(model, datamodule)
    """

    def __init__(self, path: str | os.PathLike[str] = "audit.jsonl", *, content: bool = False) -> None:
        super().__init__()
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise _bad_argument("path", path, "the path of a file")
        if not isinstance(content, bool):
            raise _bad_argument("content", content, "True or False")
        self._path = os.fspath(path)
        self._content = content
        self._run: AuditSession | None = None
        self._ended = False
        self._told: set[str] = set()

    # A fit begins.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See, before anything else happens, that the file can be written; evaluation is not audited."""
        if stage != "fit":
            return
        problem = None
        if trainer.is_global_zero:
            try:
                check_writable(Path(self._path))
            except FastDataError as error:
                problem = (error.what, error.expected, error.fix)
        if trainer.world_size > 1:
            # All ranks stop together: one alone would leave the others waiting for it.
            problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            what, expected, fix = problem
            raise FastDataError(what, expected=expected, fix=fix)
        self._run = AuditSession(path=Path(self._path), content=self._content, world_size=trainer.world_size)
        self._ended, self._told = False, set()

    @_guarded
    def on_train_start(self, run: AuditSession, trainer: Any, pl_module: Any) -> None:
        """Begin the file anew, or go on with it."""
        if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
            self._ended = True
            self._tell(
                trainer, "training_step takes dataloader_iter, so nothing is audited: it fetches its own batches"
            )
        if trainer.is_global_zero:
            start_file(run.path, keep=trainer.global_step > 0 or trainer.current_epoch > 0)

    # Training.

    @_guarded
    def on_train_batch_start(self, run: AuditSession, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the batch."""
        left_over = run.begin_batch(trainer.current_epoch, batch_idx)
        if left_over is not None:  # of a checkpoint, which is taken over by a single process only
            self._write(run, left_over, left_over.vector())
        run.note(trainer, batch, batch_idx)
        for what, reason in run.reasons.items():
            advice = "" if self._content or what == "content" else " DataAudit(content=True) works for any loader."
            self._tell(trainer, f"the {what} of batches are not measured: {reason}.{advice}")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the ranks' sums and write the line."""
        run = self._run
        if run is None:
            return
        vector = NOTHING.vector()
        try:
            if not self._ended:
                vector = run.end_epoch()
        except Exception as error:
            self._give_up(error)
        try:
            # Also after a fault: the other ranks would wait for this one.
            if run.world_size > 1:
                vector = _add_ranks(trainer, vector)
            sums = run.sums
            if self._ended or sums is None or sums.epoch != trainer.current_epoch:
                return
            if trainer.is_global_zero:
                self._write(run, sums, vector)
            run.written = True
        except Exception as error:
            self._give_up(error)

    def _write(self, run: AuditSession, sums: EpochSums, vector: Words) -> None:
        append_epoch(run.path, read_vector(vector, run.world_size, sums))

    def _tell(self, trainer: Any, text: str) -> None:
        if text not in self._told and trainer.is_global_zero:
            warnings.warn(f"DataAudit: {text}", stacklevel=4)
        self._told.add(text)

    def _give_up(self, error: Exception) -> None:
        """A fault of our own must not cost anybody a training."""
        if self._ended:
            return
        self._ended = True
        warnings.warn(
            f"DataAudit stopped: {type(error).__name__}: {error}. The training goes on; epochs from here on have no"
            " line.",
            stacklevel=2,
        )

    # Checkpoints and process borders.

    @property
    def state_key(self) -> str:
        """Tells an audit of the order from one of the content in a checkpoint; the file may be another one."""
        return f"{type(self).__qualname__}{'[content]' if self._content else ''}"

    def state_dict(self) -> dict[str, Any]:
        """The sums of the running epoch, so that a run that goes on from a checkpoint in mid-epoch tells all of it."""
        return {} if self._run is None or self._ended else self._run.state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the sums; what another version wrote and this one cannot read is left alone."""
        with contextlib.suppress(AttributeError, KeyError, TypeError):
            if self._run is not None:
                self._run.load(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        # Loaders and sums stay in their process; Lightning itself hangs log and log_dict onto callbacks.
        return {name: value for name, value in vars(self).items() if name not in ("log", "log_dict")} | {"_run": None}


def _add_ranks(trainer: Any, vector: Words) -> Words:
    # As int64, which the collectives of all backends know; the sum wraps, and that is the sum modulo 2**64.
    tensor = torch.from_numpy(vector.view(np.int64)).to(trainer.strategy.root_device)
    added = trainer.strategy.reduce(tensor, reduce_op="sum")
    words: Words = added.cpu().numpy().view(np.uint64)
    return words


def _bad_argument(name: str, value: Any, expected: str) -> FastDataError:
    return FastDataError(f"DataAudit({name}={value!r}).", expected=expected, fix=f"Change {name}, or leave it out.")
