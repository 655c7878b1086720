"""The public classes that need torchvision, on the ``lightning`` package."""

from lightning_fastdata.datamodules.images.datamodule import ImageFolderDataModuleMixin
from lightning_fastdata.datamodules.torchvision.datamodule import TorchvisionDataModuleMixin
from lightning_fastdata.lightning.core import FastDataModule

__all__ = ["ImageFolderDataModule", "TorchvisionDataModule"]


class ImageFolderDataModule(ImageFolderDataModuleMixin, FastDataModule):
    __doc__ = ImageFolderDataModuleMixin.__doc__


class TorchvisionDataModule(TorchvisionDataModuleMixin, FastDataModule):
    __doc__ = TorchvisionDataModuleMixin.__doc__
