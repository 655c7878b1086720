"""The callback: writes a line per epoch of which samples each global batch held."""

import contextlib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_fastdata.callbacks.audit.digest import read_vector
from lightning_fastdata.callbacks.audit.session import NOTHING, AuditSession
from lightning_fastdata.callbacks.guard import CallbackBase, guarded, state_without
from lightning_fastdata.errors import FastDataError, check_bool, warn
from lightning_fastdata.loaders.splitmix import Words
from lightning_fastdata.results.audit_file import append_epoch, check_writable, start_file

__all__ = ["DataAuditMixin"]


class DataAuditMixin(CallbackBase):
    """Writes a short digest per epoch of which samples each global batch held, so that two runs can be compared.

    ``lightning-fastdata audit A.jsonl B.jsonl`` says in a line whether two runs saw the same samples in the same
    order, and if not, from which batches on they differ. The digest of a global batch does not depend on the number of
    ranks that hold it, on workers, or on the order of samples within it; samples that repeat, so that ranks get equally
    many, are left out. Ranks exchange 2 kB at the end of each epoch, and nothing in between.

    Which samples a batch held is known for the loaders that this package makes of map-style data (``FastDataModule``,
    ``auto_dataloader``). For others it is "not measured"; ``content=True`` works for any loader.

    Args:
        path: File for the lines, one an epoch. A fit from the start overwrites it, one that resumes from a checkpoint
            appends; reading it takes the newest line of each epoch.
        content: Whether the bytes of each batch are hashed too, as the training step gets them, augmentations
            included. A batch on a device is copied to the CPU for it, and that waits for the device at every step.

    A single process that is resumed in mid-epoch writes the same lines as an uninterrupted one: the sums are in the
    checkpoint. Lightning saves those of rank 0 only, so on several ranks the line of that epoch begins at the batch
    of the resume (``first_batch``).

    Raises:
        FastDataError: A wrong argument; or, when a fit begins, a file that cannot be written.

    Example::

        Trainer(callbacks=[DataAudit("audit.jsonl")]).fit(model, datamodule)
    """

    def __init__(self, path: str | os.PathLike[str] = "audit.jsonl", *, content: bool = False) -> None:
        super().__init__()
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise FastDataError(f"path={path!r}.", expected="the path of a file.", fix="change path, or leave it out.")
        self._path = os.fspath(path)
        self._content: bool = check_bool("content", content)
        self._session: AuditSession | None = None
        self._ended = False
        self._warnings: set[str] = set()

    # A fit begins.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check first that the file can be written; evaluation is not audited."""
        if stage != "fit":
            return
        problem: FastDataError | None = None
        if trainer.is_global_zero:
            try:
                check_writable(Path(self._path))
            except FastDataError as error:
                problem = error
        if trainer.world_size > 1:
            # All ranks stop together: one alone would leave the others waiting for it.
            problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise problem
        self._session = AuditSession(path=Path(self._path), content=self._content, world_size=trainer.world_size)
        self._ended, self._warnings = False, set()

    @guarded
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the file, or continue it where the fit continues."""
        session = self._session
        if session is None:
            return
        if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
            self._ended = True
            self._warn_once(
                trainer, "training_step takes dataloader_iter, so nothing is audited: it fetches its own batches"
            )
        if trainer.is_global_zero:
            start_file(session.path, keep=trainer.global_step > 0 or trainer.current_epoch > 0)

    # Training.

    @guarded
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the batch."""
        session = self._session
        if session is None or self._ended:
            return
        left_over = session.begin_batch(trainer.current_epoch, batch_idx)
        if left_over is not None:  # of a checkpoint, which is taken over by a single process only
            append_epoch(session.path, read_vector(left_over.vector(), session.world_size, left_over))
        session.note(trainer, batch, batch_idx)
        for what, reason in session.reasons.items():
            advice = "" if self._content or what == "content" else " DataAudit(content=True) works for any loader."
            self._warn_once(trainer, f"the {what} of batches are not measured: {reason}.{advice}")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the ranks' sums and write the line."""
        if self._session is not None:
            # Also after a fault: the other ranks would wait for this one.
            vector = self._sums_of_epoch(self._session)
            self._write_epoch(trainer, self._session, NOTHING.vector() if vector is None else vector)

    @guarded
    def _sums_of_epoch(self, session: AuditSession) -> Words | None:
        return None if self._ended else session.end_epoch()

    @guarded
    def _write_epoch(self, trainer: Any, session: AuditSession, vector: Words) -> None:
        if session.world_size > 1:
            vector = _add_ranks(trainer, vector)
        sums = session.sums
        if self._ended or sums is None or sums.epoch != trainer.current_epoch:
            return
        if trainer.is_global_zero:
            append_epoch(session.path, read_vector(vector, session.world_size, sums))
        session.written = True

    def _warn_once(self, trainer: Any, text: str) -> None:
        if text not in self._warnings and trainer.is_global_zero:
            warn(f"DataAudit: {text}", stacklevel=4)
        self._warnings.add(text)

    def _give_up(self, error: Exception) -> None:
        """A fault of the audit ends the audit, not the training."""
        if not self._ended:
            self._ended = True
            warn(
                f"DataAudit stopped: {type(error).__name__}: {error}. The training continues; epochs from here on have"
                " no line.",
                stacklevel=2,
            )

    # Checkpoints and process borders.

    @property
    def state_key(self) -> str:
        """One key for audits of the order and one for those of the content; the file may be another one."""
        return f"{type(self).__qualname__}{'[content]' if self._content else ''}"

    def state_dict(self) -> dict[str, Any]:
        """The sums of the running epoch, so that a run resumed in mid-epoch has a line of the whole epoch."""
        return {} if self._session is None or self._ended else self._session.state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the sums; what another version wrote and this one cannot read is ignored."""
        with contextlib.suppress(AttributeError, KeyError, TypeError):
            if self._session is not None:
                self._session.load(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return state_without(self, "_session")


def _add_ranks(trainer: Any, vector: Words) -> Words:
    # As int64, which the collectives of all backends know; the sum wraps, and that is the sum modulo 2**64.
    tensor = torch.from_numpy(vector.view(np.int64)).to(trainer.strategy.root_device)
    added = trainer.strategy.reduce(tensor, reduce_op="sum")
    words: Words = added.cpu().numpy().view(np.uint64)
    return words
