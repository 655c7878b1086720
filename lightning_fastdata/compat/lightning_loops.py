"""The private names of Lightning behind loaders and loops, each guarded.

Where a name is gone, the function says so by its return value, and the caller says what it cannot do. Nothing outside
this folder touches a name of Lightning's or torch's that starts with an underscore.
"""

import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from types import FrameType, ModuleType
from typing import Any, NamedTuple

__all__ = [
    "STATES_APART",
    "Reading",
    "batch_counts",
    "batches_ahead",
    "batches_of",
    "checks_loaders",
    "counts_fetches",
    "deals_samples",
    "fetches",
    "forget_iterator",
    "hook_called_in",
    "in_mid_epoch",
    "is_lightning",
    "keep_iterator",
    "kept_iterator",
    "own_attributes",
    "reading_of",
    "reads_outside_trainer",
    "shared_in_run",
    "skip_worker_hint",
    "step_of_fetch",
    "transfers",
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
    modules = _checking_modules()
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


def checks_loaders() -> bool:
    """Whether Lightning checks each loader that it will use, so that the loader gets its Trainer."""
    return bool(_checking_modules())


def _checking_modules() -> list[ModuleType]:
    modules = [sys.modules[name] for name in _CONNECTORS if name in sys.modules]
    return [module for module in modules if callable(getattr(module, _CHECK, None))]


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


def is_lightning(frame: FrameType) -> bool:
    """Whether a frame of the call stack runs code of either Lightning package."""
    return str(frame.f_globals.get("__name__")).split(".")[0] in ("lightning", "pytorch_lightning")


def hook_called_in(frame: FrameType) -> str:
    """The hook that Lightning calls in a frame of its own, whatever the function behind it is called; "" = unknown."""
    return str(frame.f_locals.get("hook_name", ""))


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


def step_of_fetch(trainer: Any) -> int | None:
    """Which step of the epoch takes the batch that is fetched now, where a step may take several or none.

    Args:
        trainer: The Trainer, or None.

    Returns:
        None where each step takes one: unless ``training_step`` has an argument ``dataloader_iter``.
    """
    fetcher = getattr(getattr(trainer, "fit_loop", None), "_data_fetcher", None)
    counted = batch_counts(trainer) if hasattr(fetcher, "iterator_wrapper") else None
    return None if counted is None else int(counted.processed)


def batches_ahead(trainer: Any, last_fetch: int | None, *, finished: bool, step: tuple[int, int] | None = None) -> int:
    """Batches of a loader that were fetched and on which the model has not been trained (count).

    One while a step runs or has failed; one more where Lightning reads ahead, or where the loader beside it failed, so
    that a fetch was not completed.

    Args:
        trainer: The Trainer, or None.
        last_fetch: What ``fetches`` was when the loader handed out its last batch; None = it has
            handed out none, or there are no counts.
        finished: Whether the loader has no more batches, which may be so long before the epoch's end.
        step: The step that took the last batch, and how many it has taken, where steps may take several.
    """
    counted = batch_counts(trainer)
    if counted is None or last_fetch is None:
        return 0
    trained = int(counted.processed)
    if step is not None:
        return step[1] if step[0] == trained else 0
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
    return hasattr(fit_loop, "_data_fetcher") and batch_counts(trainer) is not None


def in_mid_epoch(trainer: Any) -> bool:
    """Whether the Trainer has begun to train an epoch, so that a loader that starts again comes round within it.

    Args:
        trainer: The Trainer, or None.
    """
    counted = batch_counts(trainer)
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
STATES_APART = "fastdata_loaders"
"""Where a checkpoint keeps the states of this package's loaders: among the counts of epochs. Lightning restores any
name there, and reads none that it does not know."""
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
    fit_loop = getattr(trainer, "fit_loop", None)
    states = getattr(fit_loop, "_combined_loader_states_to_load", None)
    if not states:  # those of this package lie apart until the training loader is made; see lightning_resume
        counts = getattr(getattr(fit_loop, "epoch_progress", None), "current", None)
        states = getattr(counts, STATES_APART, None)
    return list(states) if states else []


def transfers(trainer: Any, reader: Any) -> bool:
    """Whether the batches of a pass go through the Trainer's transfer hooks (``on_after_batch_transfer``).

    Args:
        trainer: The Trainer, or None.
        reader: The iterator of the pass.

    Returns:
        False where another one reads, where a step takes ``dataloader_iter``, and where that is not known.
    """
    fit_loop = getattr(trainer, "fit_loop", None)
    val_loop = getattr(getattr(fit_loop, "epoch_loop", None), "val_loop", None)
    others = [getattr(trainer, f"{name}_loop", None) for name in ("validate", "test", "predict")]
    for loop in (fit_loop, val_loop, *others):
        iterator = getattr(getattr(loop, "_combined_loader", None), "_iterator", None)
        if any(own is reader for own in getattr(iterator, "iterators", ())):
            return not hasattr(getattr(loop, "_data_fetcher", None), "iterator_wrapper")
    return False


def batch_counts(trainer: Any) -> Any:
    """Lightning's counts of this epoch's batches, or None."""
    return getattr(batches_of(getattr(trainer, "fit_loop", None)), "current", None)


def batches_of(fit_loop: Any) -> Any:
    """Lightning's counts of batches, those of the epoch and those in all, or None."""
    return getattr(getattr(fit_loop, "epoch_loop", None), "batch_progress", None)
