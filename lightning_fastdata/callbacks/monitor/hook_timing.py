"""Which of Lightning's hooks have code behind them, and calls of the user's objects that have no label."""

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
_MODULE_HOOKS = (
    *(hook for hook in _HOOKS if hook != "on_exception"),
    *("on_before_batch_transfer", "lr_scheduler_step"),
)
# They run after the monitor's own hook for the end of a validation has closed it.
_AFTER_VALIDATION = "on_validation_end"


def hook_labels(trainer: Any, pl_module: Any, monitor: Any) -> dict[str, str]:
    """The profiler labels of hooks that a callback, the module or the DataModule has written itself.

    A label behind which nothing happens is left out: each costs some 5 us a step.

    Args:
        trainer: The Trainer, whose callbacks are complete.
        pl_module: The module.
        monitor: The callback that measures; its own hooks are left out.

    Returns:
        Label to kind: "callback", or "validation" for what ends one.
    """
    owners: list[tuple[str, Any, tuple[str, ...]]] = [
        (f"[Callback]{one.state_key}", one, _HOOKS) for one in trainer.callbacks if one is not monitor
    ]
    for owner, kind in ((pl_module, "LightningModule"), (trainer.datamodule, "LightningDataModule")):
        owners.append((f"[{kind}]{type(owner).__name__}", owner, _MODULE_HOOKS))
    labels: dict[str, str] = {}
    for name, owner, hooks in owners:
        labels |= {f"{name}.{hook}": "callback" for hook in hooks if _is_written(owner, hook)}
        if _is_written(owner, _AFTER_VALIDATION):
            labels[f"{name}.{_AFTER_VALIDATION}"] = "validation"
    return labels


def _is_written(owner: Any, hook: str) -> bool:
    """Whether a hook does something: Lightning's base classes have each of them, empty."""
    # A LambdaCallback has its hooks on the instance.
    written = getattr(owner, "__dict__", {}).get(hook) or getattr(type(owner), hook, None)
    module = getattr(written, "__module__", "") or ""
    return written is not None and not module.endswith((".core.hooks", ".callbacks.callback", ".core.module"))


class _Timed:
    """A method with a clock on both sides, in its place on the object."""

    def __init__(
        self, owner: Any, name: str, on_call: Callable[[float, float], None], clock: Callable[[], float]
    ) -> None:
        self.inner = getattr(owner, name)
        self.was_own = name in vars(owner)
        self._on_call: Callable[[float, float], None] | None = on_call
        self._clock = clock

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._on_call is None:
            return self.inner(*args, **kwargs)
        start = self._clock()
        try:
            return self.inner(*args, **kwargs)
        finally:
            if self._on_call is not None:
                self._on_call(start, self._clock())

    def __reduce__(self) -> tuple[Any, ...]:
        """What is pickled or copied with the object is the method as it was: clocks stay in this process."""
        return _as_it_was, (self.inner,)

    def leave(self, own: dict[str, Any], name: str) -> None:
        """Go away, from wherever others have put theirs on top in the meantime."""
        self._on_call = None  # where something foreign still calls us, it is handed on
        above, top = None, own.get(name)
        while isinstance(top, _Timed) and top is not self:
            above, top = top, top.inner
        if top is not self:
            return
        if above is not None:
            above.inner, above.was_own = self.inner, self.was_own
        elif self.was_own:
            own[name] = self.inner
        else:
            del own[name]


def _as_it_was(method: Any) -> Any:
    return method


def timed_calls(
    owner: Any, names: Iterable[str], on_call: Callable[[float, float], None], clock: Callable[[], float]
) -> Callable[[], None]:
    """Time calls of an object's methods, as long as they are not put back.

    Args:
        owner: The object; one that cannot have attributes of its own is left alone.
        names: Methods; those it does not have are passed over.
        on_call: Called with the start and end of each call (s), also of one that raised.
        clock: A monotonic clock in seconds.

    Returns:
        A function that puts everything back, in whatever order several are taken away.
    """
    try:
        own = vars(owner)
    except TypeError:
        return lambda: None
    put = {name: _Timed(owner, name, on_call, clock) for name in names if callable(getattr(owner, name, None))}
    own.update(put)

    def put_back() -> None:
        for name, timed in put.items():
            timed.leave(own, name)
        put.clear()

    return put_back
