"""Arrays on the device: whether they go there, with the reason. "meta" stands for a device; a real one awaits a GPU."""

import pickle
from types import SimpleNamespace

import pytest
import torch

from lightning_fastdata import TensorDataModule
from lightning_fastdata.datamodules import device_placement
from lightning_fastdata.datamodules.array_dataset import ArrayDataset
from lightning_fastdata.datamodules.device_placement import why_in_host_memory
from lightning_fastdata.errors import FastDataError

X, Y = torch.arange(40.0).reshape(10, 4), torch.arange(10)
META, CPU, CUDA = torch.device("meta"), torch.device("cpu"), torch.device("cuda:1")


class FakeTrainer:
    num_devices, world_size, global_rank, current_epoch, max_epochs = 1, 1, 0, 0, 1
    reload_dataloaders_every_n_epochs, limit_val_batches, enable_validation = 0, 1.0, True
    fit_loop = None


@pytest.fixture
def device(monkeypatch):
    """A module whose Trainer has a device with a given free memory (bytes), and how often it was asked."""
    asked = []

    def make(free=10_000, on=META, **kwargs):
        monkeypatch.setattr(device_placement, "free_device_bytes", lambda device: asked.append(device) or free)
        module = TensorDataModule((X, Y), batch_size=4, device_resident=True, **kwargs)
        module.trainer = FakeTrainer()
        module.trainer.strategy = SimpleNamespace(root_device=on)
        return module, asked

    return make


def test_batches_come_from_the_device(device):
    """Once moved, not again: by the next loader, nor for held-out rows of the same arrays."""
    module, asked = device(val_split=2)
    x, y = next(iter(module.train_dataloader()))
    assert (x.device, y.device, x.shape) == (META, META, (4, 4))
    copy = module.train_dataset.resident
    assert next(iter(module.val_dataloader()))[0].device == META
    module.train_dataloader()
    assert module.train_dataset.resident is copy
    assert asked == [META]
    assert module.placements == {"train": "on meta", "val": "on meta"}
    assert module.train_dataset.tensors[0].device == CPU


def test_memory_is_given_back_at_the_end(device):
    """In teardown; and a pickled DataModule, as for ddp_spawn, takes nothing along."""
    module, _ = device()
    module.train_dataloader()
    assert pickle.loads(pickle.dumps(module.train_dataset)).resident is None
    module.teardown("fit")
    assert module.train_dataset.resident is None


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"on": CPU}, "the Trainer runs on the CPU"),
        ({"free": 400}, "they take 2.4e-07 GB, more than 25% of the 4e-07 GB that are free on meta"),
        ({"free": None}, "how much memory of meta is free is not known"),
        ({"num_workers": 1}, "num_workers=1"),
        ({"val_split": 2, "dataloader_kwargs": {"val": {"num_workers": 1}}}, "num_workers=1"),
        ({"dataloader_kwargs": {"pin_memory": True}}, "pin_memory=True"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_arrays_stay_in_host_memory_for_a_reason(device, kwargs, words):
    """Said in ``placements``; batches are those of host memory."""
    module, _ = device(shuffle=False, **kwargs)
    loader = module.train_dataloader()
    assert module.placements["train"].startswith("in host memory: ")
    assert words in module.placements["train"]
    if "pin_memory" not in str(kwargs):
        x, y = next(iter(loader))
        assert torch.equal(x, X[y])


def test_memory_in_pieces(device, monkeypatch):
    """Free, but not in one piece: the run goes on from host memory."""
    module, _ = device(shuffle=False)

    def fail(self, device):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ArrayDataset, "move_to", fail)
    assert torch.equal(next(iter(module.train_dataloader()))[0], X[:4])
    assert "no piece" in module.placements["train"]


def test_it_is_said(device, caplog):
    """Once for each split and place."""
    module, _ = device(on=CPU)
    with caplog.at_level("INFO"):
        module.train_dataloader()
        module.train_dataloader()
    assert caplog.text.count("the arrays of train are in host memory: the Trainer runs on the CPU") == 1


def test_samples_one_by_one_are_left_where_they_are(device):
    module, asked = device(collate_fn=list)
    module.train_dataloader()
    assert module.placements["train"].startswith("where they are")
    assert asked == []


def test_the_rule():
    """A quarter of what is free; without a Trainer nothing is known."""
    options = {"num_workers": 0, "pin_memory": False}
    assert why_in_host_memory(CUDA, 25, 100, **options) is None
    assert "cuda:1" in why_in_host_memory(CUDA, 26, 100, **options)
    assert "without a Trainer" in why_in_host_memory(None, 1, None, **options)


def test_by_default_nothing_is_moved():
    module = TensorDataModule(X)
    module.train_dataloader()
    assert module.placements == {}
    with pytest.raises(FastDataError, match="device_resident='yes'"):
        TensorDataModule(X, device_resident="yes")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_real_device():
    """The same batches, from memory of the device."""
    arrays, chosen = ArrayDataset([X, Y]), [3, 1, 7]
    expected = arrays.__getitems__(chosen)
    where = device_placement.place_arrays(arrays, torch.device("cuda:0"), num_workers=0, pin_memory=False)
    found = arrays.__getitems__(chosen)
    assert where == "on cuda:0"
    assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True))
    assert found[0].is_cuda
