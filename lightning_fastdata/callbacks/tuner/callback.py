"""The callback: the hooks of a Trainer, and the monitor that the tuner reads."""

from typing import Any

from lightning_fastdata.callbacks.guard import CallbackBase, guarded, state_without
from lightning_fastdata.callbacks.monitor.callback import DataWaitMonitorMixin, only_measuring
from lightning_fastdata.callbacks.tuner.session import TunerSession
from lightning_fastdata.errors import FastDataError, check_bool, warn
from lightning_fastdata.results.tuning import TuneResult

__all__ = ["LoaderTunerMixin"]


class LoaderTunerMixin(CallbackBase):
    """Finds the workers of the training loader while the run goes on, and keeps them only if steps got faster.

    Add it to any Trainer. Before the first step one worker loads some samples on its own (3 s at most); over the first
    steps the training itself is measured; from both follows how many workers are needed and what the machine can give.
    The change is made at the next safe point, verified over the steps after it, and undone where they are not faster.
    Each decision is logged in one line, with what was predicted and what was measured; ``result`` has them all.

    Loaders of this package are changed at once: their batches depend on the seed alone, and the next batch is the one
    that would have come anyway. What you set yourself (``num_workers=4``) stays; the tuner then only advises. Other
    loaders of torch change between epochs, and only with ``allow_foreign=True`` where other workers may draw other
    random numbers. Iterable datasets, several training loaders and loaders of other libraries are not changed.

    It reads a ``DataWaitMonitor``: the Trainer's own, or one that it adds for the time of the fit and that stays
    silent. On several ranks all decide the same, by one collective at each decision.

    Args:
        allow_foreign: Whether loaders of torch's own may get other workers although their samples may then draw other
            random numbers.

    Raises:
        FastDataError: ``allow_foreign`` is neither True nor False.

    Example::

        tuner = LoaderTuner()
        Trainer(callbacks=[tuner]).fit(model, datamodule)
        tuner.result.arguments()  # {"num_workers": 4, "prefetch_factor": 2, "persistent_workers": True}
    """

    monitor_class: type[DataWaitMonitorMixin]
    """The monitor of the Lightning package in use; set where the class is put on its base."""

    def __init__(self, allow_foreign: bool = False) -> None:
        super().__init__()
        self._allow_foreign: bool = check_bool("allow_foreign", allow_foreign)
        self._session: TunerSession | None = None
        self._added_monitor: DataWaitMonitorMixin | None = None
        self._failed = False

    @property
    def result(self) -> TuneResult:
        """What was measured and decided, in the middle of a run or after it.

        Raises:
            FastDataError: No fit has begun in this process.
        """
        result = None if self._session is None else self._session.result
        if result is None:
            raise FastDataError(
                "LoaderTuner has no result: no fit has begun in this process.",
                expected="a Trainer that was given this very object and has started.",
                fix="call trainer.fit(...) with Trainer(callbacks=[tuner]) first.",
            )
        return result

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find the Trainer's monitor, or add one for the time of the fit."""
        if stage != "fit":
            return
        monitor = next((one for one in trainer.callbacks if isinstance(one, DataWaitMonitorMixin)), None)
        self._added_monitor, self._failed = None, False
        if monitor is None:
            monitor = self._added_monitor = only_measuring(self.monitor_class)
            # Behind this one, so that Lightning, which goes through the list now, comes to it as well.
            trainer.callbacks.insert(trainer.callbacks.index(self) + 1, monitor)
        before = None if self._session is None else self._session.result
        self._session = TunerSession(monitor, allow_foreign=self._allow_foreign, result=before)

    @guarded
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Have a worker measured, before the first batch is asked for."""
        if self._session is not None:
            self._session.begin(trainer)

    @guarded
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Give new loaders of ours the setting that was decided, before they are read."""
        if self._session is not None:
            self._session.start_epoch(trainer)

    @guarded
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count; at the end of a window, decide."""
        if self._session is not None:
            self._session.end_batch(trainer)

    @guarded
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Validation is no part of a training step."""
        if self._session is not None and self._session.timer is not None:
            self._session.timer.pause()

    @guarded
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Validation has ended."""
        if self._session is not None and self._session.timer is not None:
            self._session.timer.resume()

    @guarded
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Make changes that wait for the end of an epoch."""
        if self._session is not None:
            self._session.end_epoch(trainer)

    @guarded
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Say what could not be finished."""
        if self._session is not None:
            self._session.end_training()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Remove the added monitor."""
        self._remove_monitor(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The same after an exception."""
        if self._session is not None:
            self._session.stop()
        self._remove_monitor(trainer)

    def _remove_monitor(self, trainer: Any) -> None:
        added, self._added_monitor = self._added_monitor, None
        if added is not None:  # in a new list: Lightning is going through the old one, and has yet to call the monitor
            trainer.callbacks = [one for one in trainer.callbacks if one is not added]

    def _give_up(self, error: Exception) -> None:
        """A fault of the tuner ends the tuning, not the training."""
        if self._session is not None:
            self._session.stop()
        if not self._failed:
            self._failed = True
            warn(
                f"LoaderTuner stopped: {type(error).__name__}: {error}. The training continues; please report this.",
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        return state_without(self, "_session", "_added_monitor")
