"""Which of Lightning's hooks have somebody's code behind them, and what else of the user's runs between the labels."""

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["hook_labels", "timed_calls"]

# Hooks in training whose time is the callback's own. Those of validation are part of it, those before training of the
# start-up.
_HOOKS = (
    *("on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end", "on_train_epoch_end"),
    *("on_train_end", "on_fit_end", "teardown", "on_exception"),
    *("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)
_MODULE_HOOKS = (*_HOOKS[:-5], "on_before_zero_grad", "on_after_backward", "on_before_optimizer_step")


def hook_labels(trainer: Any, pl_module: Any, monitor: Any) -> dict[str, str]:
    """The profiler labels of hooks that a callback, the module or the DataModule has written itself.

    A label behind which nothing happens is not worth listening to: each costs some 5 us a step.

    Args:
        trainer: The Trainer, whose callbacks are complete.
        pl_module: The module.
        monitor: The callback that measures; its own hooks are left out.

    Returns:
        Label to kind, which is "callback" for all.
    """
    labels = [
        f"[Callback]{callback.state_key}.{hook}"
        for callback in trainer.callbacks
        if callback is not monitor
        for hook in _HOOKS
        if _is_written(callback, hook)
    ]
    for owner, kind in ((pl_module, "LightningModule"), (trainer.datamodule, "LightningDataModule")):
        hooks = (*_MODULE_HOOKS, "on_before_batch_transfer")
        labels += [f"[{kind}]{type(owner).__name__}.{hook}" for hook in hooks if _is_written(owner, hook)]
    return dict.fromkeys(labels, "callback")


def _is_written(owner: Any, hook: str) -> bool:
    """Whether a hook does something: Lightning's base classes have each of them, empty."""
    written = getattr(type(owner), hook, None)
    module = getattr(written, "__module__", "") or ""
    return written is not None and not module.endswith((".core.hooks", ".callbacks.callback", ".core.module"))


def timed_calls(
    owner: Any, names: Iterable[str], heard: Callable[[float, float], None], clock: Callable[[], float]
) -> Callable[[], None]:
    """Time calls of an object's methods, as long as they are not put back.

    Args:
        owner: The object; one that cannot have attributes of its own is left alone.
        names: Methods; those it does not have are passed over.
        heard: Called with the start and end of each call (s), also of one that raised.
        clock: A monotonic clock in seconds.

    Returns:
        A function that puts everything back.
    """
    try:
        own = vars(owner)
    except TypeError:
        return _nothing
    had = {name: own[name] for name in names if name in own}
    put: dict[str, Any] = {}
    for name in names:
        method = getattr(owner, name, None)
        if callable(method):
            put[name] = own[name] = _timed(method, lambda start, end: heard(start, end) if put else None, clock)

    def put_back() -> None:
        replacements = dict(put)
        put.clear()  # where somebody wrapped ours it stays, and only hands the call on from now on
        for name, replacement in replacements.items():
            if own.get(name) is replacement:
                del own[name]
                if name in had:
                    own[name] = had[name]

    return put_back


def _timed(method: Callable[..., Any], heard: Callable[[float, float], None], clock: Callable[[], float]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        start = clock()
        try:
            return method(*args, **kwargs)
        finally:
            heard(start, clock())

    return call


def _nothing() -> None:
    """Nothing was replaced."""
