"""The private names of Lightning that this package leans on, each guarded; those of torch are in ``internals_torch``.

Where a name is gone, the function says so by its return value, and the caller says aloud what it cannot do.
Nothing outside these two files touches a name of theirs that starts with an underscore.
"""

import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

__all__ = [
    "batches_ahead",
    "counts_fetches",
    "deals_samples",
    "fetches",
    "forget_iterator",
    "in_mid_epoch",
    "keep_iterator",
    "kept_iterator",
    "load_waiting_states",
    "logger_step",
    "mend_progress",
    "own_attributes",
    "publish_metrics",
    "reads_by_hand",
    "sigterm_broadcast",
    "skip_worker_hint",
    "training_iterators",
    "watch_fetchers",
]

# Lightning makes one data fetcher for each epoch of a reloaded train loader and for each evaluation run, through
# a function that every loop module imports by this name.
_SELECT = "_select_data_fetcher"
_LOOPS = ("fit_loop", "validate_loop", "test_loop", "predict_loop")

FetcherHooks = Callable[[str], tuple[Callable[[], None], Callable[[], None]]]

_lock = threading.Lock()
_watchers: list[tuple["weakref.ref[Any]", FetcherHooks]] = []
_originals: dict[ModuleType, tuple[Callable[..., Any], Callable[..., Any]]] = {}


def watch_fetchers(trainer: Any, hooks: FetcherHooks) -> Callable[[], None] | None:
    """Time the fetches that Lightning makes before it attaches its own profiler labels.

    A loader without a length is read one batch ahead as soon as its iterator is made, and Lightning labels only what
    comes after. Each fetcher starts with two empty hooks around its ``next``; those are set here, and Lightning
    replaces them by its labeled ones a few lines later. So nothing is counted twice.

    Args:
        trainer: Only fetchers of this trainer are touched.
        hooks: Called with the running stage ("train", "validate", "sanity_check", "test", "predict") of each new
            fetcher; gives what is to be called right before and right after each ``next``.

    Returns:
        A function that undoes it (calling it twice does no harm), or None where Lightning has no such place any more.
    """
    modules = _loop_modules(trainer)
    if not modules:
        return None
    entry = (weakref.ref(trainer), hooks)
    with _lock:
        _watchers.append(entry)
        for module in modules:
            if module not in _originals:
                original = getattr(module, _SELECT)
                wrapper = _announcing(original)
                setattr(module, _SELECT, wrapper)
                _originals[module] = (original, wrapper)
    return lambda: _unwatch(entry)


def _loop_modules(trainer: Any) -> list[ModuleType]:
    """The loop modules of this trainer's own package (there are two Lightning packages), if all have the name."""
    try:
        modules = {sys.modules[type(getattr(trainer, loop)).__module__] for loop in _LOOPS}
    except (AttributeError, KeyError):
        return []
    return list(modules) if all(callable(getattr(module, _SELECT, None)) for module in modules) else []


def _announcing(original: Callable[..., Any]) -> Callable[..., Any]:
    def select_data_fetcher(trainer: Any, stage: Any, *args: Any, **kwargs: Any) -> Any:
        fetcher = original(trainer, stage, *args, **kwargs)
        pairs = [hooks(str(getattr(stage, "value", stage))) for owner, hooks in tuple(_watchers) if owner() is trainer]
        if pairs and hasattr(fetcher, "_start_profiler") and hasattr(fetcher, "_stop_profiler"):
            fetcher._start_profiler = lambda: _call_all(start for start, _ in pairs)
            fetcher._stop_profiler = lambda: _call_all(stop for _, stop in pairs)
        return fetcher

    return select_data_fetcher


def _call_all(functions: Any) -> None:
    for function in functions:
        function()


def _unwatch(entry: tuple["weakref.ref[Any]", FetcherHooks]) -> None:
    with _lock:
        if entry in _watchers:
            _watchers.remove(entry)
        if _watchers:
            return
        for module, (original, wrapper) in _originals.items():
            # Someone who wrapped ours later keeps his wrapper; without watchers ours only hands the call on.
            if getattr(module, _SELECT, None) is wrapper:
                setattr(module, _SELECT, original)
        _originals.clear()


def logger_step(trainer: Any) -> int:
    """The step at which Lightning itself logs now, so that our curves share its axis (count).

    It counts batches that ended in an optimizer step, which differs from ``trainer.global_step`` with several
    optimizers and under manual optimization.
    """
    step = getattr(getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None), "_batches_that_stepped", None)
    return int(step) if step is not None else int(trainer.global_step)


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

    This is also where a loader meets its Trainer, whoever made it: Lightning checks each loader that it will use.

    Args:
        loader: A loader whose workers were planned. Its ``attach_trainer``, if any, gets the Trainer.

    Returns:
        False where Lightning has no such check (then there is no hint to keep away, or it cannot be told apart).
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


def publish_metrics(trainer: Any, metrics: Mapping[str, Any], progress_bar: Mapping[str, Any]) -> None:
    """Put values where ``trainer.callback_metrics`` and the progress bar read them.

    The public properties would do, but reading one computes every metric that is due, which at the end of an epoch
    may make ranks meet. The dicts behind them are written directly, so nothing is computed and nobody waits.
    """
    connector = getattr(trainer, "_logger_connector", None)
    for values, private, public in (
        (metrics, "_callback_metrics", "callback_metrics"),
        (progress_bar, "_progress_bar_metrics", "progress_bar_metrics"),
    ):
        if values:
            store = getattr(connector, private, None)
            (store if isinstance(store, dict) else getattr(trainer, public)).update(values)


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

    It hands them out when it asks for the training loader. Where that happened before the checkpoint was read, because
    ``estimated_stepping_batches`` was asked for in ``configure_optimizers``, nobody does (Lightning#20550); nor where
    the checkpoint is of the end of an epoch, although random generators go on from there.

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
            handed out none, or nobody counts.
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
        trainer: The Trainer, or None: then nobody counts, and so is the answer.
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


def reads_by_hand(trainer: Any, loader: Any, reader: Any) -> bool:
    """Whether somebody beside the Trainer reads a loader that the Trainer trains with, a callback for instance.

    Args:
        trainer: The Trainer, or None.
        loader: The loader.
        reader: The iterator that was made of it.

    Returns:
        False for the Trainer's own reading, for loaders it does not train with, and where it cannot be told.
    """
    combined = getattr(getattr(trainer, "fit_loop", None), "_combined_loader", None)
    if combined is None or not hasattr(combined, "_iterator"):
        return False
    if all(other is not loader for other in getattr(combined, "flattened", ())):
        return False
    own = getattr(combined._iterator, "iterators", ())
    return all(iterator is not reader for iterator in own)


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


def sigterm_broadcast(trainer: Any) -> tuple[Any, str] | None:
    """Where ranks tell each other, before each batch, whether one was asked to stop: object and name of its method.

    Returns:
        None where this Lightning does that elsewhere.
    """
    loop, name = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None), "_broadcast_sigterm_tensor"
    return (loop, name) if callable(getattr(loop, name, None)) else None


def training_iterators(trainer: Any) -> tuple[Any, ...] | None:
    """The iterators that the Trainer reads training batches from right now, one for each loader.

    Args:
        trainer: The Trainer.

    Returns:
        None where Lightning keeps them elsewhere; empty while there are none.
    """
    try:
        combined = trainer.fit_loop._combined_loader
        current = None if combined is None else combined._iterator
        return () if current is None else tuple(current.iterators)
    except (AttributeError, TypeError):
        return None
