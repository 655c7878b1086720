"""The same names on ``pytorch_lightning``: the other base, no second copy, and clear words where it is missing."""

import ast
import gc
import importlib
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from pytorch_lightning.trainer.connectors import data_connector
from torch.utils.data import DataLoader, TensorDataset

import lightning_fastdata as on_lightning
import lightning_fastdata.pytorch_lightning as on_pytorch_lightning
from lightning_fastdata.loaders.planned import PlannedDataLoader

CLASSES = sorted(on_pytorch_lightning._HOME_OF)
CALLBACKS = ("DataAudit", "DataWaitMonitor", "LoaderTuner")
PACKAGES = pytest.mark.parametrize("package", [on_lightning, on_pytorch_lightning], ids=["lightning", "pytorch"])
HIDDEN = """
import importlib.machinery as machinery

find = machinery.PathFinder.find_spec
machinery.PathFinder.find_spec = lambda name, *rest: None if name == "pytorch_lightning" else find(name, *rest)
"""
"""The package is not there: what looks for modules on the path does not see it."""


def fresh(code, *arguments):
    """Run a program in an interpreter of its own; gives what it printed."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def made(package, tmp_path):
    """An object of each class."""
    rows = torch.arange(12.0)
    return {
        "FastDataModule": package.FastDataModule(TensorDataset(rows), batch_size=4),
        "TensorDataModule": package.TensorDataModule(train=rows, batch_size=4),
        "TokenDataModule": package.TokenDataModule("train.bin", batch_size=4),
        "ImageFolderDataModule": package.ImageFolderDataModule(tmp_path, batch_size=4),
        "TorchvisionDataModule": package.TorchvisionDataModule("MNIST", tmp_path, batch_size=4),
        "DataWaitMonitor": package.DataWaitMonitor(save_to=tmp_path / "run.jsonl"),
        "DataAudit": package.DataAudit(tmp_path / "audit.jsonl"),
        "LoaderTuner": package.LoaderTuner(),
    }


# The names


def test_it_offers_the_same_names():
    """What does not derive from Lightning's classes is the very same object."""
    offered = {name for name in dir(on_pytorch_lightning) if not name.startswith("__")}
    assert offered == set(on_pytorch_lightning.__all__) == set(on_lightning.__all__)
    for name in set(on_lightning.__all__) - set(CLASSES):
        assert getattr(on_pytorch_lightning, name) is getattr(on_lightning, name)
    with pytest.raises(AttributeError, match="no attribute 'FastDataModul'"):
        _ = on_pytorch_lightning.FastDataModul


def test_every_class_of_lightning_has_its_counterpart():
    """A class that is added for the one package is added for the other."""
    ours = {name for name, home in on_lightning._HOME_OF.items() if home.startswith("lightning.")}
    assert ours == set(CLASSES)


def test_type_checkers_see_the_same_names():
    """The block for type checkers and the table of lazily loaded names agree."""
    tree = ast.parse(Path(on_pytorch_lightning.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    home = "lightning_fastdata.pytorch_lightning"
    expected = {name: f"{home}.{module}" for name, module in on_pytorch_lightning._HOME_OF.items()}
    assert {name: module for name, module in seen.items() if module.startswith(home)} == expected


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_the_shared_logic_on_the_other_base(name):
    """It derives from that package alone; neither class defines anything itself, but which monitor goes with it."""
    one, other = getattr(on_lightning, name), getattr(on_pytorch_lightning, name)
    kind = "Callback" if name in CALLBACKS else "LightningDataModule"
    assert issubclass(one, getattr(lightning.pytorch, kind))
    assert issubclass(other, getattr(pytorch_lightning, kind))
    assert not any(cls.__module__.split(".")[0] == "lightning" for cls in other.__mro__)
    assert not any(cls.__module__.split(".")[0] == "pytorch_lightning" for cls in one.__mro__)
    shared = [cls for cls in one.__mro__ if cls.__module__.startswith("lightning_fastdata.") and cls in other.__mro__]
    assert shared[0].__name__ == f"{name}Mixin"
    assert one.__doc__ == other.__doc__ == shared[0].__doc__
    for cls in (one, other):
        assert {name for name, value in vars(cls).items() if callable(value)} <= {"monitor_class"}


@PACKAGES
@pytest.mark.parametrize("name", CLASSES)
def test_classes_and_objects_cross_a_process_border_by_name(package, name, tmp_path):
    """What ``ddp_spawn`` and a tuner do."""
    cls, value = getattr(package, name), made(package, tmp_path)[name]
    assert pickle.loads(pickle.dumps(cls)) is cls
    assert type(pickle.loads(pickle.dumps(value))) is cls
    assert getattr(importlib.import_module(cls.__module__), cls.__qualname__) is cls


# What Lightning's base classes bring along


@PACKAGES
def test_printing_and_from_datasets(package):
    """Neither starts planning; the class is the package's own."""
    rows = TensorDataset(torch.arange(12.0))
    data = package.FastDataModule.from_datasets(rows, rows, batch_size=4, num_workers=0)
    assert type(data) is package.FastDataModule
    assert (
        str(data)
        == repr(data)
        == (
            "FastDataModule(batch_size=4, num_workers=0, prefetch_factor='auto', pin_memory='auto',"
            " persistent_workers='auto')"
        )
    )
    assert data.plans == {}
    assert [len(data.train_dataloader()), len(data.val_dataloader())] == [3, 3]


@PACKAGES
def test_hyperparameters_are_kept_as_they_were_given(package, tmp_path):
    """By the classes that keep them, and in a subclass that asks for it; never a dataset."""

    class Mine(package.FastDataModule):
        def __init__(self, count=3, **kwargs):
            super().__init__(**kwargs)
            self.save_hyperparameters(logger=False)

    assert dict(Mine(5, batch_size=4, num_workers="auto").hparams) == {
        "count": 5,
        "batch_size": 4,
        "num_workers": "auto",
    }
    images = package.ImageFolderDataModule(tmp_path, image_size=32)
    assert (images.hparams.root, images.hparams.image_size, images.hparams.num_workers) == (str(tmp_path), 32, "auto")
    assert not dict(package.FastDataModule(TensorDataset(torch.arange(3.0))).hparams)


@pytest.mark.filterwarnings("default:.*does not have many workers")
def test_a_planned_loader_gets_no_hint_from_the_other_package_either(no_planned_loaders, monkeypatch):
    """A plain loader beside it still does; the function comes back with the last planned loader."""

    class FakeTrainer:
        num_devices = 1
        reload_dataloaders_every_n_epochs = 0

    def check(loader):
        data_connector._worker_check(FakeTrainer(), loader, "train_dataloader")

    monkeypatch.setattr(data_connector, "suggested_max_num_workers", lambda num_devices: 7)
    original = data_connector._worker_check
    planned = PlannedDataLoader(range(4))
    assert data_connector._worker_check is not original
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(planned)
    with pytest.warns(UserWarning, match="does not have many workers"):
        check(DataLoader(range(4)))
    del planned
    gc.collect()
    assert data_connector._worker_check is original


# Importing


def test_importing_it_loads_nothing_heavy():
    """Names load on first use here too."""
    heavy = ("torch", "lightning", "pytorch_lightning", "torchvision", "numpy")
    code = f"import sys, lightning_fastdata.pytorch_lightning; print([n for n in {heavy!r} if n in sys.modules])"
    assert fresh(code) == "[]\n"


def test_without_the_package_the_error_is_clear():
    """It names what is missing and both ways out; ``try: ... except ImportError`` works; the rest of the pack does."""
    code = f"""{HIDDEN}
try:
    from lightning_fastdata.pytorch_lightning import FastDataModule
except ImportError as error:
    print(type(error).__mro__[1].__name__)
    print(error)
import lightning_fastdata
print(lightning_fastdata.make_plan.__name__)
"""
    assert fresh(code).splitlines() == [
        "FastDataError",
        "lightning_fastdata.pytorch_lightning needs the package pytorch_lightning, which is not installed.",
        "  Expected: pytorch_lightning, for a Trainer of that package.",
        "  Fix: pip install pytorch-lightning; with the package lightning, import from lightning_fastdata instead.",
        "make_plan",
    ]


@pytest.mark.slow
def test_users_of_lightning_never_import_the_other_package():
    """With every class loaded and a loader made."""
    code = """
import sys, torch, lightning_fastdata
for name in lightning_fastdata.__all__:
    getattr(lightning_fastdata, name)
lightning_fastdata.TensorDataModule(train=torch.arange(9.0), batch_size=4).train_dataloader()
print([name for name in sys.modules if name.split(".")[0] in ("pytorch_lightning", "lightning_fabric")])
"""
    assert fresh(code) == "[]\n"
