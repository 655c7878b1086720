"""What is asked of a Trainer, by duck typing: either Lightning package's will do."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_fastdata.compat import lightning_loops
from lightning_fastdata.planning.options import Split

__all__ = ["TrainerContext", "iter_loaders", "requested_split", "trainer_context"]

HOOKS: dict[str, Split] = {f"{split}_dataloader": split for split in ("train", "val", "test", "predict")}
STAGES: dict[str, Split] = {"validate": "val", "sanity_check": "val", "test": "test", "predict": "predict"}
"""Lightning's stages that read the loaders of one split; while it trains it may ask for those of validation."""


@dataclass(frozen=True)
class TrainerContext:
    """What planning needs to know of a Trainer; the defaults stand for "no Trainer"."""

    device_type: str | None = None
    """Type of the device that computes ("cpu", "cuda", "mps", ...)."""
    local_world_size: int | None = None
    """Ranks on this node (count); None = ask the environment."""
    world_size: int = 1
    """Ranks of the run (count)."""
    rank: int = 0
    """Global rank."""
    share: tuple[int, int] | None = None
    """(rank, ranks) among which training samples are dealt; None = one process, or the user deals them."""
    epoch: int = 0
    """Current epoch; not 0 when a run was resumed."""
    reload_every_n_epochs: int = 0
    """reload_dataloaders_every_n_epochs."""
    fitting: bool = True
    """True within ``trainer.fit``, where loaders of training and validation live together."""
    validates: bool = True
    """False when the Trainer will not validate (limit_val_batches=0)."""
    validates_after: float | None = None
    """Share of an epoch after which it is first validated, 0 < share < 1; None = at its end, never, or not known."""
    max_epochs: int | None = None
    """Epochs the run will have at most; None or -1 = no bound."""


def trainer_context(trainer: Any) -> TrainerContext:
    """Read what planning needs off a Trainer of either Lightning package.

    Args:
        trainer: A Trainer, or None.
    """
    if trainer is None:
        return TrainerContext()
    device = getattr(getattr(trainer, "strategy", None), "root_device", None)
    fn = getattr(getattr(trainer, "state", None), "fn", None)
    return TrainerContext(
        device_type=getattr(device, "type", None),
        local_world_size=trainer.num_devices,
        world_size=trainer.world_size,
        rank=trainer.global_rank,
        share=_share(trainer),
        epoch=trainer.current_epoch,
        reload_every_n_epochs=trainer.reload_dataloaders_every_n_epochs,
        fitting=fn is None or fn == "fit",
        validates=_validates(trainer),
        validates_after=_validates_after(trainer),
        max_epochs=trainer.max_epochs,
    )


def requested_split(trainer: Any) -> Split | None:
    """The split that a loader is wanted for.

    Args:
        trainer: A Trainer, or None.

    Returns:
        What the Trainer asks for, else the name of the ``*_dataloader`` hook that calls, else what the Trainer is
        doing; None where none of these tells.
    """
    hook, frame = None, inspect.currentframe()
    while frame is not None and not lightning_loops.is_lightning(frame):
        hook, frame = HOOKS.get(frame.f_code.co_name, hook), frame.f_back
    asked = None if frame is None else HOOKS.get(lightning_loops.hook_called_in(frame))
    stage = getattr(getattr(trainer, "state", None), "stage", None)
    return asked or hook or STAGES.get(getattr(stage, "value", ""))


def _validates(trainer: Any) -> bool:
    """False where the Trainer will not validate: no batches, no validation_step, or no loaders."""
    if trainer.limit_val_batches == 0:
        return False
    started = getattr(trainer, "lightning_module", None) is not None  # before that the Trainer does not know
    return bool(trainer.enable_validation) if started else True


def _validates_after(trainer: Any) -> float | None:
    interval = getattr(trainer, "val_check_interval", None)  # a whole number counts batches, a text is a time
    return interval if isinstance(interval, float) and 0 < interval < 1 else None


def _share(trainer: Any) -> tuple[int, int] | None:
    dealt = getattr(trainer, "distributed_sampler_kwargs", None)  # None with a strategy that has no ranks
    if not dealt or dealt["num_replicas"] == 1 or not lightning_loops.deals_samples(trainer):
        return None
    return dealt["rank"], dealt["num_replicas"]


def iter_loaders(loaders: Any) -> Iterator[Any]:
    """The single loaders of a collection, in the order in which Lightning's ``CombinedLoader`` has them.

    Args:
        loaders: What a Trainer has as its loaders: one, a list, tuple or dict of them, nested or not, a
            ``CombinedLoader``, or None.
    """
    parts = loaders.values() if isinstance(loaders, Mapping) else getattr(loaders, "flattened", loaders)
    if isinstance(loaders, Mapping) or isinstance(parts, (list, tuple)):
        for part in parts:
            yield from iter_loaders(part)
    elif loaders is not None:
        yield loaders
