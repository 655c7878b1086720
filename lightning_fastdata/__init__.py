"""Feeding PyTorch Lightning: loaders that configure themselves, and the data wait of every training step.

Names load on first use (PEP 562), so ``import lightning_fastdata`` costs neither torch nor lightning.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lightning_fastdata.errors import FastDataError as FastDataError
    from lightning_fastdata.hardware import Hardware as Hardware
    from lightning_fastdata.hardware import probe as probe

_HOME_OF = {
    "FastDataError": "errors",
    "Hardware": "hardware",
    "probe": "hardware",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
