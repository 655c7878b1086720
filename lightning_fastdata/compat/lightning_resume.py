"""The private names of Lightning behind checkpoints of a fit and its resumption, each guarded.

As in ``lightning_loops``, a name that is gone means that nothing is done.
"""

from functools import partial
from typing import Any, NamedTuple

from lightning_fastdata.compat.lightning_loops import STATES_APART, batches_of

__all__ = [
    "Resumption",
    "between_epochs",
    "load_waiting_states",
    "mend_progress",
    "set_fetched",
    "take_over",
]


class Resumption(NamedTuple):
    """Where a resumed Trainer goes on."""

    epoch: int
    """Its epoch, from 0."""
    batches: int
    """Batches of it that Lightning counts as done (count)."""
    counted: bool
    """Whether they are batches; where ``training_step`` takes ``dataloader_iter``, they are steps."""
    length: int
    """Batches of the epoch (count)."""
    cycles: bool
    """Whether a loader that has fewer starts again within it."""

    def place_in(self, length: int | None) -> tuple[int, int]:
        """The cycle and the batch at which a loader goes on that has no state.

        Args:
            length: Batches of the loader (count); None where that is not known.
        """
        if length and self.cycles and length < self.length:
            return divmod(self.batches, length)
        return 0, self.batches if length is None else min(self.batches, length)


def take_over(trainer: Any) -> None:
    """Look after the checkpoints of a Trainer that trains with a loader of this package.

    They keep the states of loaders where a Trainer without this package leaves them aside. Lightning's own place is
    refused by a Trainer whose loaders have no state (``0 stateful loaders, but found 1 states``), also at the end of an
    epoch, so that no run could leave this package. States of a checkpoint that is being resumed are put into
    Lightning's place, from which it hands them out; and an epoch that was stopped in its middle is opened again.

    Args:
        trainer: The Trainer; the ``state_dict`` and ``load_state_dict`` of its fit loop are replaced for good.
    """
    fit_loop: Any = getattr(trainer, "fit_loop", None)
    if not hasattr(getattr(fit_loop, "epoch_progress", None), "current") or not hasattr(fit_loop, "load_state_dict"):
        return
    if "state_dict" not in vars(fit_loop):
        fit_loop.state_dict = partial(_state_with_ours_apart, fit_loop)
        fit_loop.load_state_dict = partial(_load_and_take_up, fit_loop)
    _take_up(fit_loop)


def _state_with_ours_apart(
    fit_loop: Any, destination: dict[str, Any] | None = None, prefix: str = ""
) -> dict[str, Any]:
    state: dict[str, Any] = type(fit_loop).state_dict(fit_loop, destination, prefix)
    own, counts = state.get(f"{prefix}state_dict"), state.get(f"{prefix}epoch_progress")
    states = own.get("combined_loader") if isinstance(own, dict) else None
    if own and states and counts and all("generators" in one for one in states):
        del own["combined_loader"]
        counts["current"][STATES_APART] = states
    return state


def _load_and_take_up(fit_loop: Any, *args: Any, **kwargs: Any) -> None:
    """For a loader that was made before the checkpoint was read, as ``estimated_stepping_batches`` has it made."""
    type(fit_loop).load_state_dict(fit_loop, *args, **kwargs)
    _take_up(fit_loop)


def _take_up(fit_loop: Any) -> None:
    """Put right what has been read from a checkpoint: where the states are, and whether its epoch is over."""
    states = vars(fit_loop.epoch_progress.current).pop(STATES_APART, None)
    if not getattr(fit_loop, "is_resuming", False):
        return
    if states:
        fit_loop._combined_loader_states_to_load = states
    if _stopped_within_epoch(fit_loop):
        for counted in (fit_loop.epoch_progress.current, fit_loop.epoch_progress.total):
            counted.processed = counted.completed = counted.processed - 1
        fit_loop.restarting = True


def load_waiting_states(trainer: Any, loader: Any) -> None:
    """Have Lightning hand out the loader states of a checkpoint that it left aside.

    It hands them out when it asks for the training loader. It does not where that happened before the checkpoint was
    read, because ``configure_optimizers`` asked for ``estimated_stepping_batches`` (Lightning#20550); nor where the
    checkpoint is of the end of an epoch, although random generators continue from there.

    Args:
        trainer: The Trainer, or None.
        loader: Only a loader that the Trainer trains with is served.
    """
    fit_loop: Any = getattr(trainer, "fit_loop", None)
    combined = getattr(fit_loop, "_combined_loader", None)
    load = getattr(combined, "_load_state_dicts", None)
    loaders = getattr(combined, "flattened", ())
    if not callable(load) or all(other is not loader for other in loaders):
        return
    waiting = getattr(fit_loop, "_combined_loader_states_to_load", None)
    if not waiting:
        return
    stateful = [other for other in loaders if hasattr(other, "load_state_dict")]
    ours = len(waiting) == len(stateful) and all("generators" in state for state in waiting)
    if ours or getattr(fit_loop, "restarting", True):  # in mid-epoch, states that do not belong here must be an error
        fit_loop._combined_loader_states_to_load = []
        load(waiting)


def between_epochs(trainer: Any) -> bool:
    """Whether a resumed Trainer has nothing left of the epoch in which its checkpoint was written.

    Args:
        trainer: The Trainer, or None.
    """
    fit_loop = getattr(trainer, "fit_loop", None)
    batches = batches_of(fit_loop)
    if batches is None or not getattr(fit_loop, "is_resuming", False):
        return False
    counted = batches.current
    return bool(counted.ready == 0 or (batches.is_last_batch and counted.processed == counted.ready))


def _stopped_within_epoch(fit_loop: Any) -> bool:
    """Whether Lightning counts an epoch as done that was stopped before its last batch.

    ``max_steps``, ``max_time`` and ``trainer.should_stop`` end a fit so. A checkpoint written after that begins with
    the next epoch, with any loader. An epoch that a limit or a hook's -1 ends is done: its last batch is marked.
    """
    epochs, batches = fit_loop.epoch_progress.current, batches_of(fit_loop)
    if batches is None or batches.is_last_batch or batches.current.completed == 0:
        return False
    return bool(epochs.ready == epochs.started == epochs.processed > 0)


def set_fetched(trainer: Any, batches: int) -> None:
    """Tell a resumed Trainer how many batches were fetched, where it has counted steps that may take several.

    Args:
        trainer: The Trainer.
        batches: Batches of the epoch before the one that is fetched now (count). For 0 the steps begin again as well:
            Lightning does not see that such an epoch had ended, as it compares its steps with the loader's batches.
    """
    fit_loop: Any = getattr(trainer, "fit_loop", None)
    fetcher: Any = getattr(fit_loop, "_data_fetcher", None)
    counted = batches_of(fit_loop)
    if not hasattr(fetcher, "iterator_wrapper") or counted is None:
        return
    fetcher.fetched = batches
    if batches == 0:
        counted.current.reset()
        counted.current.ready = counted.current.started = 1


def mend_progress(trainer: Any, loader: Any, *, resumed: bool) -> Resumption | None:
    """Put right what a resumed Trainer believes of where it is, when it asks its loader for a first batch.

    Three counts stay wrong for the rest of a resumed run, and a checkpoint written with them cannot be resumed exactly:

    - Resumed from an epoch's last step, the next epoch is not counted as begun. In the middle of it the run then looks
      as if at the end of an epoch: the loader's state is left aside and the epoch trained again from its first batch.
    - Resumed after a step that failed, that step stays counted as begun. The next checkpoint is then taken for one that
      was written before the batch was done, and one batch too many is asked for.
    - Resumed with ``max_steps`` from a checkpoint of an epoch's end, that epoch is counted twice.

    And ``GradientAccumulationScheduler`` acts when an epoch starts, which is left out where it is gone on with.

    Args:
        trainer: The Trainer, or None; only one that resumed a fit and has fetched nothing since is touched.
        loader: Only a loader that the Trainer trains with is served, and only when it is asked for a batch: one
            without a length is read ahead before the epoch begins.
        resumed: Whether the loader itself has a state from a checkpoint that it has not used yet.

    Returns:
        Where it goes on; None where nothing was done.
    """
    fit_loop: Any = getattr(trainer, "fit_loop", None)
    if fit_loop is None or not trainer.training or not (resumed or getattr(fit_loop, "is_resuming", False)):
        return None
    combined, fetcher = getattr(fit_loop, "_combined_loader", None), getattr(fit_loop, "_data_fetcher", None)
    epochs, batches = getattr(fit_loop, "epoch_progress", None), batches_of(fit_loop)
    if epochs is None or batches is None or all(other is not loader for other in getattr(combined, "flattened", ())):
        return None
    for callback in trainer.callbacks:
        if hasattr(callback, "get_accumulate_grad_batches"):
            trainer.accumulate_grad_batches = callback.get_accumulate_grad_batches(trainer.current_epoch)
    if fetcher is None or getattr(fetcher, "length", None) is None:
        return None
    twice = max(0, epochs.current.processed - epochs.current.completed)
    for counted in (epochs.current, epochs.total):
        counted.processed -= twice
        counted.ready = counted.started = counted.processed + 1
    if batches.current.ready == batches.current.completed:  # not with dataloader_iter, which fetches within a step
        batches.total.ready = batches.total.started = batches.total.processed = batches.total.completed
    return Resumption(
        epoch=int(epochs.current.processed),
        batches=int(fetcher.fetched),
        counted=not hasattr(fetcher, "iterator_wrapper"),
        length=int(fetcher.length),
        cycles=getattr(combined, "_mode", "") == "max_size_cycle",
    )
