"""The public classes for projects on ``pytorch_lightning`` instead of ``lightning``.

::

    from lightning_fastdata.pytorch_lightning import DataWaitMonitor, FastDataModule

A Trainer of the one package refuses a DataModule, and a callback on its own, of the other. What does not derive from
Lightning's classes (``auto_dataloader``, ``probe``, ...) is the same here and in ``lightning_fastdata``.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import lightning_fastdata
from lightning_fastdata.errors import FastDataError

if TYPE_CHECKING:
    from lightning_fastdata.loaders.factory import auto_dataloader as auto_dataloader
    from lightning_fastdata.pytorch_lightning.core import DataAudit as DataAudit
    from lightning_fastdata.pytorch_lightning.core import DataWaitMonitor as DataWaitMonitor
    from lightning_fastdata.pytorch_lightning.core import FastDataModule as FastDataModule
    from lightning_fastdata.pytorch_lightning.core import LoaderTuner as LoaderTuner
    from lightning_fastdata.pytorch_lightning.core import TensorDataModule as TensorDataModule
    from lightning_fastdata.pytorch_lightning.core import TokenDataModule as TokenDataModule
    from lightning_fastdata.pytorch_lightning.vision import ImageFolderDataModule as ImageFolderDataModule
    from lightning_fastdata.pytorch_lightning.vision import TorchvisionDataModule as TorchvisionDataModule

__all__ = list(lightning_fastdata.__all__)


class _NotInstalledError(FastDataError, ImportError):
    """Also an ImportError, for whoever asks by ``try: import``."""


if importlib.util.find_spec("pytorch_lightning") is None:
    raise _NotInstalledError(
        "lightning_fastdata.pytorch_lightning needs the package pytorch_lightning, which is not installed.",
        expected="pytorch_lightning, for a Trainer of that package.",
        fix="pip install pytorch-lightning; with the package lightning, import from lightning_fastdata instead.",
    )

_HOME_OF = {
    name: home.removeprefix("lightning.")
    for name, home in lightning_fastdata._HOME_OF.items()
    if home.startswith("lightning.")
}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    elif name in __all__:
        value = getattr(lightning_fastdata, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
