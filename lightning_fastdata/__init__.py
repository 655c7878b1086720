"""Feeding PyTorch Lightning: loaders that configure themselves, and the data wait of every training step.

Names load on first use (PEP 562), so ``import lightning_fastdata`` costs neither torch nor lightning.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lightning_fastdata.callbacks.tuner.search import tune_loader as tune_loader
    from lightning_fastdata.errors import FastDataError as FastDataError
    from lightning_fastdata.hardware import Hardware as Hardware
    from lightning_fastdata.hardware import probe as probe
    from lightning_fastdata.lightning.core import DataAudit as DataAudit
    from lightning_fastdata.lightning.core import DataWaitMonitor as DataWaitMonitor
    from lightning_fastdata.lightning.core import FastDataModule as FastDataModule
    from lightning_fastdata.lightning.core import LoaderTuner as LoaderTuner
    from lightning_fastdata.lightning.core import TensorDataModule as TensorDataModule
    from lightning_fastdata.lightning.core import TokenDataModule as TokenDataModule
    from lightning_fastdata.lightning.vision import ImageFolderDataModule as ImageFolderDataModule
    from lightning_fastdata.lightning.vision import TorchvisionDataModule as TorchvisionDataModule
    from lightning_fastdata.loaders.factory import auto_dataloader as auto_dataloader
    from lightning_fastdata.loaders.sharding import shard as shard
    from lightning_fastdata.planning.plan import LoaderOptions as LoaderOptions
    from lightning_fastdata.planning.plan import LoaderPlan as LoaderPlan
    from lightning_fastdata.planning.plan import Reason as Reason
    from lightning_fastdata.planning.plan import Rehearsed as Rehearsed
    from lightning_fastdata.planning.plan import Workload as Workload
    from lightning_fastdata.planning.plan import make_plan as make_plan
    from lightning_fastdata.results.records import StepRecord as StepRecord
    from lightning_fastdata.results.summary import RunSummary as RunSummary
    from lightning_fastdata.results.tuning import TuneResult as TuneResult

_HOME_OF = {
    "DataAudit": "lightning.core",
    "DataWaitMonitor": "lightning.core",
    "FastDataError": "errors",
    "FastDataModule": "lightning.core",
    "Hardware": "hardware",
    "ImageFolderDataModule": "lightning.vision",
    "LoaderOptions": "planning.plan",
    "LoaderPlan": "planning.plan",
    "LoaderTuner": "lightning.core",
    "Reason": "planning.plan",
    "Rehearsed": "planning.plan",
    "RunSummary": "results.summary",
    "StepRecord": "results.records",
    "TensorDataModule": "lightning.core",
    "TokenDataModule": "lightning.core",
    "TorchvisionDataModule": "lightning.vision",
    "TuneResult": "results.tuning",
    "Workload": "planning.plan",
    "auto_dataloader": "loaders.factory",
    "make_plan": "planning.plan",
    "probe": "hardware",
    "shard": "loaders.sharding",
    "tune_loader": "callbacks.tuner.search",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
