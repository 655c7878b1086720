"""A torch DataLoader that Lightning knows was configured on purpose."""

import sys
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from lightning_fastdata.compat import lightning_loops
from lightning_fastdata.compat.torch_internals import send_failures, show_dataset
from lightning_fastdata.loaders.determinism import Determinism
from lightning_fastdata.loaders.native_threads import chain_init_fns, limit_native_threads, native_pools
from lightning_fastdata.loaders.rng import PackedGenerator, pack_generator, unpack_generator
from lightning_fastdata.loaders.state.handles import OwnDescriptors
from lightning_fastdata.planning.start_method import default_start_method

__all__ = ["PlannedDataLoader", "forwarded_arguments", "identity_collate"]

FORWARDED_ARGS = (
    *("num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context"),
    *("prefetch_factor", "persistent_workers", "pin_memory_device", "in_order"),
)
"""Arguments of torch's DataLoader that an inner loader shares with the one it works for."""


class PlannedDataLoader(DataLoader[Any]):
    """A torch DataLoader whose workers were planned.

    It forwards every argument, so Lightning can build it again with another sampler.
    The one difference: Lightning's hint "does not have many workers", which knows nothing of cgroup limits, other
    ranks or data in memory, is suppressed for it. Other loaders keep theirs.

    Its workers have one native thread each (``native_threads``), and files of their own (``state.handles``). That is
    chained to ``worker_init_fn`` only while they are started: the attribute stays the user's, and Lightning's, which
    seeds workers where it is None. So does ``generator``, which torch would draw its workers' seeds from in every pass.

    Args:
        *args: Arguments of torch's DataLoader.
        determinism: What decides the seeds of the workers; None leaves them to ``generator``.
        **kwargs: Arguments of torch's DataLoader.
    """

    def __init__(self, *args: Any, determinism: Determinism | None = None, **kwargs: Any) -> None:
        self.determinism = determinism
        super().__init__(*args, **kwargs)
        lightning_loops.skip_worker_hint(self)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, as with ``ddp_spawn``: without the workers, and with a generator that can be sent."""
        state = {**lightning_loops.own_attributes(self), "_iterator": None}
        if self.generator is not None:
            state["generator"] = pack_generator(self.generator)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if isinstance(self.generator, PackedGenerator):
            vars(self)["generator"] = unpack_generator(self.generator)
        lightning_loops.skip_worker_hint(self)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        (own, generator), context = (self.worker_init_fn, self.generator), self.multiprocessing_context
        starts = self.num_workers > 0 and lightning_loops.kept_iterator(self) is None
        method = default_start_method() if context is None else context.get_start_method()
        files = OwnDescriptors.of(self.dataset, method) if starts else None
        self.worker_init_fn = chain_init_fns(limit_native_threads, files, show_dataset, send_failures, own)
        if starts:
            native_pools(len(sys.modules))  # a forked worker has what was found
        if self.determinism is not None:
            trainer, seed = self.determinism.trainer(), self.determinism.seed
            seed.settle(trainer, self)
            self.generator = self.determinism.worker_seeds(getattr(trainer, "current_epoch", 0))
            seed.passes += 1
        try:
            return super().__iter__()
        finally:
            self.worker_init_fn, self.generator = own, generator

    def attach_trainer(self, trainer: Any) -> None:
        """Know the Trainer that uses this loader, to ask it for the epoch; it is not kept alive."""
        if self.determinism is not None:
            self.determinism = self.determinism.attached_to(trainer)

    def check_worker_number_rationality(self) -> None:
        """No warning: torch counts the CPUs of the affinity mask only; an override or a repaired mask knows better."""


def identity_collate(batch: Any) -> Any:
    """The collate function for a dataset that returns finished batches."""
    return batch


def forwarded_arguments(loader: DataLoader[Any]) -> dict[str, Any]:
    """The arguments that an inner loader shares with the one it works for; what is empty is left out."""
    return {name: getattr(loader, name) for name in FORWARDED_ARGS if getattr(loader, name, None) not in (None, "")}
