"""The store of the default process group: found where there is one, and None in every other case."""

import sys

import pytest
import torch.distributed
from torch.distributed import HashStore

from lightning_fastdata.compat import torch_internals

DISTRIBUTED = "torch.distributed.distributed_c10d"


@pytest.fixture
def group():
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_the_store_is_the_groups(group):
    store = torch_internals.process_store()
    store.set("a key", b"\x00\xff")
    assert torch_internals.process_store().get("a key") == b"\x00\xff"
    assert not store.check(["another key"])


def test_it_ends_with_the_group(group):
    assert torch_internals.process_store() is not None
    torch.distributed.destroy_process_group()
    assert torch_internals.process_store() is None
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)


def test_a_torch_that_keeps_it_elsewhere_has_none(group, monkeypatch):
    monkeypatch.delattr(sys.modules[DISTRIBUTED], "_get_default_store")
    assert torch_internals.process_store() is None


def test_a_torch_without_distributed_has_none(group, monkeypatch):
    monkeypatch.delitem(sys.modules, DISTRIBUTED)
    assert torch_internals.process_store() is None
