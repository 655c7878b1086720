"""The public classes on the ``lightning`` package: the logic is that of the mixins."""

from lightning.pytorch import Callback, LightningDataModule

from lightning_fastdata.callbacks.audit.callback import DataAuditMixin
from lightning_fastdata.callbacks.monitor.callback import DataWaitMonitorMixin
from lightning_fastdata.callbacks.tuner.callback import LoaderTunerMixin
from lightning_fastdata.datamodules.arrays import TensorDataModuleMixin
from lightning_fastdata.datamodules.base import FastDataModuleMixin
from lightning_fastdata.datamodules.tokens import TokenDataModuleMixin

__all__ = ["DataAudit", "DataWaitMonitor", "FastDataModule", "LoaderTuner", "TensorDataModule", "TokenDataModule"]


class FastDataModule(FastDataModuleMixin, LightningDataModule):
    __doc__ = FastDataModuleMixin.__doc__
    # What Lightning's constructor sets, for a subclass that does not call super().__init__().
    locals().update(vars(LightningDataModule()))


class TensorDataModule(TensorDataModuleMixin, FastDataModule):
    __doc__ = TensorDataModuleMixin.__doc__


class TokenDataModule(TokenDataModuleMixin, FastDataModule):
    __doc__ = TokenDataModuleMixin.__doc__


class DataWaitMonitor(DataWaitMonitorMixin, Callback):
    __doc__ = DataWaitMonitorMixin.__doc__


class DataAudit(DataAuditMixin, Callback):
    __doc__ = DataAuditMixin.__doc__


class LoaderTuner(LoaderTunerMixin, Callback):
    __doc__ = LoaderTunerMixin.__doc__

    monitor_class = DataWaitMonitor
