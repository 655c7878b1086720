"""The private names of Lightning behind the monitor and the tuner, each guarded."""

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

__all__ = [
    "extend_logged",
    "logger_step",
    "publish_metrics",
    "sigterm_broadcast",
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


def _call_all(functions: Iterable[Callable[[], None]]) -> None:
    for function in functions:
        function()


def _unwatch(entry: tuple["weakref.ref[Any]", FetcherHooks]) -> None:
    with _lock:
        if entry in _watchers:
            _watchers.remove(entry)
        if _watchers:
            return
        for module, (original, wrapper) in _originals.items():
            # A wrapper that was put around ours later stays; without watchers ours only hands the call on.
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


def extend_logged(
    trainer: Any, more: Callable[[], dict[str, float]], refused: Callable[[Exception], None]
) -> Callable[[], None]:
    """Put further values into the rows that Lightning logs.

    Args:
        trainer: The Trainer.
        more: Gives the values for the row that is about to be logged; it may be empty.
        refused: Called with what a logger raised for a row that had some; the row is logged again without them.

    Returns:
        A function that undoes it. Where this Lightning logs elsewhere, nothing was done, and no row takes them along.
    """
    connector: Any = getattr(trainer, "_logger_connector", None)
    original = getattr(connector, "log_metrics", None)
    if not callable(original):
        return lambda: None

    def log_metrics(metrics: Any, *args: Any, **kwargs: Any) -> Any:
        values = more() if metrics else {}
        if not values:
            return original(metrics, *args, **kwargs)
        try:
            return original({**values, **metrics}, *args, **kwargs)
        except Exception as error:
            refused(error)
            return original(metrics, *args, **kwargs)

    connector.log_metrics = log_metrics
    return lambda: vars(connector).pop("log_metrics", None)


def publish_metrics(trainer: Any, metrics: Mapping[str, Any], progress_bar: Mapping[str, Any]) -> None:
    """Put values where ``trainer.callback_metrics`` and the progress bar read them.

    The public properties would do, but reading one computes every metric that is due, which at the end of an epoch
    may call a collective. The dicts behind them are written directly, so nothing is computed and no rank waits.
    """
    connector = getattr(trainer, "_logger_connector", None)
    for values, private, public in (
        (metrics, "_callback_metrics", "callback_metrics"),
        (progress_bar, "_progress_bar_metrics", "progress_bar_metrics"),
    ):
        if values:
            store = getattr(connector, private, None)
            (store if isinstance(store, dict) else getattr(trainer, public)).update(values)


def sigterm_broadcast(trainer: Any) -> tuple[Any, str] | None:
    """Where ranks exchange, before each batch, whether one was asked to stop: object and name of its method.

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
