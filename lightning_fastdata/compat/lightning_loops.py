"""The private names of Lightning behind loaders and loops, each guarded.

Where a name is gone, the function says so by its return value, and the caller says what it cannot do. Nothing outside
this folder touches a name of Lightning's or torch's that starts with an underscore.
"""

import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

__all__ = [
    "Reading",
    "batches_ahead",
    "counts_fetches",
    "deals_samples",
    "fetches",
    "forget_iterator",
    "in_mid_epoch",
    "keep_iterator",
    "kept_iterator",
    "load_waiting_states",
    "mend_progress",
    "own_attributes",
    "reading_of",
    "reads_outside_trainer",
    "shared_in_run",
    "skip_worker_hint",
    "waiting_states",
]

# Lightning's static hint ("does not have many workers") comes from a function of this name in either package.
_CHECK = "_worker_check"
_CONNECTORS = (
    "lightning.pytorch.trainer.connectors.data_connector",
    "pytorch_lightning.trainer.connectors.data_connector",
)
# Re-entrant: a loader may be collected, and so forgotten, while another is being registered on the same thread.
_checks_lock = threading.RLock()
_planned: dict[int, "weakref.finalize[Any, Any]"] = {}
_checks: dict[ModuleType, tuple[Callable[..., Any], Callable[..., Any]]] = {}


def skip_worker_hint(loader: Any) -> bool:
    """Keep Lightning's static worker hint away from one loader for as long as that lives; others still get theirs.

    This is also where a loader gets its Trainer, whoever made it: Lightning checks each loader that it will use.

    Args:
        loader: A loader whose workers were planned. Its ``attach_trainer``, if any, gets the Trainer.

    Returns:
        False where Lightning has no such check: then there is no hint, or it cannot be kept away.
    """
    modules = [sys.modules[name] for name in _CONNECTORS if name in sys.modules]
    modules = [module for module in modules if callable(getattr(module, _CHECK, None))]
    if not modules:
        return False
    with _checks_lock:
        key = id(loader)
        _planned[key] = weakref.finalize(loader, _forget_loader, key)
        _planned[key].atexit = False
        for module in modules:
            if module not in _checks:
                original = getattr(module, _CHECK)
                _checks[module] = (original, _checking_others(original))
                setattr(module, _CHECK, _checks[module][1])
    return True


def _checking_others(original: Callable[..., Any]) -> Callable[..., Any]:
    def worker_check(*args: Any, **kwargs: Any) -> Any:
        planned = [value for value in (*args, *kwargs.values()) if id(value) in _planned]
        if not planned:
            return original(*args, **kwargs)
        for loader in planned:
            if hasattr(loader, "attach_trainer") and kwargs.get("trainer") is not None:
                loader.attach_trainer(kwargs["trainer"])
        return None

    return worker_check


def _forget_loader(key: int) -> None:
    with _checks_lock:
        _planned.pop(key, None)
        if _planned:
            return
        for module, (original, wrapper) in _checks.items():
            if getattr(module, _CHECK, None) is wrapper:
                setattr(module, _CHECK, original)
        _checks.clear()


def deals_samples(trainer: Any) -> bool:
    """Whether the Trainer gives each rank its share of the samples (``use_distributed_sampler``, True by default).

    Where Lightning no longer keeps the answer there, its default is assumed.
    """
    return bool(getattr(getattr(trainer, "_accelerator_connector", None), "use_distributed_sampler", True))


def keep_iterator(loader: Any, iterator: Any) -> None:
    """Put the iterator with persistent workers where torch keeps it, and Lightning looks to shut workers down.

    Args:
        loader: The loader that Lightning knows.
        iterator: The iterator of the loader within.
    """
    if loader.persistent_workers:
        loader._iterator = iterator


def forget_iterator(loader: Any) -> None:
    """Have torch make a new iterator, and so new workers, for the next pass over a loader with persistent workers.

    Args:
        loader: The loader; the workers it had are not ended here.
    """
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator = None


def own_attributes(loader: Any) -> dict[str, Any]:
    """A loader's attributes without Lightning's record of how it was made, which may hold what does not pickle.

    Lightning keeps that record for every loader that is made in a hook, and for all later ones once a hook has raised.

    Args:
        loader: The loader.
    """
    return {name: value for name, value in vars(loader).items() if not name.startswith("__pl_")}


def kept_iterator(loader: Any) -> Any:
    """The iterator put there by ``keep_iterator``; None once Lightning has shut its workers down."""
    return getattr(loader, "_iterator", None)


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
    waiting = getattr(fit_loop, "_combined_loader_states_to_load", None)
    loaders = getattr(combined, "flattened", ())
    if not waiting or not callable(load) or all(other is not loader for other in loaders):
        return
    stateful = [other for other in loaders if hasattr(other, "load_state_dict")]
    ours = len(waiting) == len(stateful) and all("generators" in state for state in waiting)
    if ours or getattr(fit_loop, "restarting", True):  # in mid-epoch, states that do not belong here must be an error
        fit_loop._combined_loader_states_to_load = []
        load(waiting)


def batches_ahead(trainer: Any, last_fetch: int | None, *, finished: bool) -> int:
    """Batches of a loader that were fetched and on which the model has not been trained (count).

    One while a step runs or has failed; one more where Lightning reads ahead, or where the loader beside it failed, so
    that a fetch was not completed.

    Args:
        trainer: The Trainer, or None.
        last_fetch: What ``fetches`` was when the loader handed out its last batch; None = it has
            handed out none, or there are no counts.
        finished: Whether the loader has no more batches, which may be so long before the epoch's end.
    """
    counted = _batch_progress(trainer)
    if counted is None or last_fetch is None:
        return 0
    trained = int(counted.processed)
    if finished:
        return int(last_fetch >= trained)
    fetched = fetches(trainer)
    if fetched is None:  # the fit has been torn down, perhaps by an exception in the middle of a step
        return max(0, last_fetch + 1 - trained)
    return max(0, fetched - trained) + (last_fetch == fetched)


def fetches(trainer: Any) -> int | None:
    """Fetches of this epoch that were completed, from all training loaders together (count).

    Args:
        trainer: The Trainer, or None.

    Returns:
        None without a Trainer, and where Lightning keeps no such count.
    """
    return getattr(getattr(getattr(trainer, "fit_loop", None), "_data_fetcher", None), "fetched", None)


def counts_fetches(trainer: Any) -> bool:
    """Whether the Trainer still has the counts from which ``batches_ahead`` is found."""
    fit_loop = getattr(trainer, "fit_loop", None)
    return hasattr(fit_loop, "_data_fetcher") and _batch_progress(trainer) is not None


def in_mid_epoch(trainer: Any) -> bool:
    """Whether the Trainer has begun to train an epoch, so that a loader that starts again comes round within it.

    Args:
        trainer: The Trainer, or None.
    """
    counted = _batch_progress(trainer)
    return counted is not None and bool(getattr(trainer, "training", False)) and counted.ready > 0


def reads_outside_trainer(trainer: Any, loader: Any, reader: Any) -> bool:
    """Whether a loader that the Trainer trains with is read outside it, by a callback for instance.

    Args:
        trainer: The Trainer, or None.
        loader: The loader.
        reader: The iterator that was made of it.

    Returns:
        False for the Trainer's own reading, for loaders it does not train with, and where that is not known.
    """
    combined = getattr(getattr(trainer, "fit_loop", None), "_combined_loader", None)
    if combined is None or not hasattr(combined, "_iterator"):
        return False
    if all(other is not loader for other in getattr(combined, "flattened", ())):
        return False
    own = getattr(combined._iterator, "iterators", ())
    return all(iterator is not reader for iterator in own)


class Reading(NamedTuple):
    """Who begins a pass over a loader, and with which others it is read."""

    by_trainer: bool = False
    """Whether a loop of the Trainer reads it, as it does on every rank; False for a callback or a hook."""
    counts: bool = False
    """Whether the loop does what the run is for: it is neither a sanity check, nor the validation within a fit, nor a
    trial of one of Lightning's finders."""
    in_finder: bool = False
    """Whether one of Lightning's finders tries a learning rate or a batch size."""
    beside: Sequence[Any] = ()
    """The loaders that the loop has, this one among them unless it is wrapped."""


_SHARED = "_fastdata_run"
_FINDERS = ("_lr_find", "_scale_batch_size")


def shared_in_run(trainer: Any, make: Callable[[Any], Any]) -> Any:
    """What the loaders of one call of ``fit``, ``validate``, ``test`` or ``predict`` share; the loop keeps it.

    A call is a new one where no loop has an iterator, although the Trainer has read with what is kept: iterators end
    with their call.

    Args:
        trainer: The Trainer, or None.
        make: Gets what the call before has shared, or None, and returns what this one does: with an attribute ``read``.

    Returns:
        None unless the Trainer is in such a call.
    """
    loops = _loops_of_call(trainer)
    if not loops or any(not hasattr(loop, "_data_fetcher") for loop in loops):
        return None
    shared = vars(loops[0]).get(_SHARED)
    if shared is None or (shared.read and all(loop._data_fetcher is None for loop in loops)):
        shared = vars(loops[0])[_SHARED] = make(shared)
    return shared


def reading_of(trainer: Any, loader: Any, reader: Any) -> Reading:
    """Who begins a pass over a loader.

    Args:
        trainer: A Trainer that is in a call of ``fit``, ``validate``, ``test`` or ``predict``.
        loader: The loader.
        reader: The iterator that was made of it; None where there is none yet.
    """
    by_trainer, beside = not _in_hook(trainer), ()
    for loop in _loops_of_call(trainer):
        combined: Any = getattr(loop, "_combined_loader", None)
        loaders = getattr(combined, "flattened", ())
        if any(other is loader for other in loaders):
            beside = loaders
            if reader is not None and hasattr(combined, "_iterator"):
                by_trainer = any(reader is own for own in getattr(combined._iterator, "iterators", ()))
        elif loop is getattr(trainer, "_active_loop", None):
            beside = beside or loaders
    fitting, in_finder = trainer.state.fn == "fit", _in_finder()
    return Reading(by_trainer, by_trainer and not in_finder and (trainer.training or not fitting), in_finder, beside)


def _loops_of_call(trainer: Any) -> tuple[Any, ...]:
    """The loops that read loaders in the call that a Trainer is in, the outermost first; none where it is in none."""
    state: Any = getattr(trainer, "state", None)
    fit_loop: Any = getattr(trainer, "fit_loop", None)
    if getattr(state, "status", None) != "running" or fit_loop is None:
        return ()
    if state.fn == "fit":
        return fit_loop, getattr(getattr(fit_loop, "epoch_loop", None), "val_loop", None)
    return tuple(getattr(trainer, f"{name}_loop") for name in ("validate", "test", "predict") if state.fn == name)


def _in_hook(trainer: Any) -> bool:
    """Whether a hook is running, other than a step of the model."""
    name = getattr(getattr(trainer, "lightning_module", None), "_current_fx_name", None)
    return name is not None and not name.endswith("_step")


def _in_finder() -> bool:
    """Whether one of Lightning's finders is running the loop: the Trainer itself does not know."""
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in _FINDERS and ".tuner." in frame.f_globals.get("__name__", ""):
            return True
        frame = frame.f_back
    return False


def waiting_states(trainer: Any) -> list[Any]:
    """The loader states of a checkpoint that Lightning has not handed out yet.

    Args:
        trainer: The Trainer, or None.
    """
    states = getattr(getattr(trainer, "fit_loop", None), "_combined_loader_states_to_load", None)
    return list(states) if states else []


def _batch_progress(trainer: Any) -> Any:
    """Lightning's counts of this epoch's batches, or None."""
    return getattr(_batches_of(getattr(trainer, "fit_loop", None)), "current", None)


def _batches_of(fit_loop: Any) -> Any:
    return getattr(getattr(fit_loop, "epoch_loop", None), "batch_progress", None)


def mend_progress(trainer: Any, loader: Any, *, resumed: bool) -> int | None:
    """Put right what a resumed Trainer believes of where it is, when it asks its loader for a first batch.

    Three counts stay wrong for the rest of a resumed run, and a checkpoint written with them cannot be resumed exactly:

    - Resumed from an epoch's last step, the next epoch is not counted as begun. In the middle of it the run then looks
      as if at the end of an epoch: the loader's state is left aside and the epoch trained again from its first batch.
    - Resumed after a step that failed, that step stays counted as begun. The next checkpoint is then taken for one that
      was written before the batch was done, and one batch too many is asked for.
    - Resumed with ``max_steps`` from a checkpoint of an epoch's end, that epoch is counted twice.

    Args:
        trainer: The Trainer, or None; only one that resumed a fit and has fetched nothing since is touched.
        loader: Only a loader that the Trainer trains with is served, and only when it is asked for a batch: one
            without a length is read ahead before the epoch begins.
        resumed: Whether the loader itself has a state from a checkpoint that it has not used yet.

    Returns:
        The epoch that is trained now, from 0; None where nothing was done.
    """
    fit_loop: Any = getattr(trainer, "fit_loop", None)
    if fit_loop is None or not trainer.training or not (resumed or getattr(fit_loop, "is_resuming", False)):
        return None
    combined = getattr(fit_loop, "_combined_loader", None)
    sized = getattr(getattr(fit_loop, "_data_fetcher", None), "length", None) is not None
    epochs, batches = getattr(fit_loop, "epoch_progress", None), _batches_of(fit_loop)
    if not sized or epochs is None or batches is None:
        return None
    if all(other is not loader for other in getattr(combined, "flattened", ())):
        return None
    twice = max(0, epochs.current.processed - epochs.current.completed)
    for counted in (epochs.current, epochs.total):
        counted.processed -= twice
        counted.ready = counted.started = counted.processed + 1
    if batches.current.ready == batches.current.completed:  # not with dataloader_iter, which fetches within a step
        batches.total.ready = batches.total.started = batches.total.processed = batches.total.completed
    return int(epochs.current.processed)
