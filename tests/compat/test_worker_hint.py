"""Lightning's worker hint: kept away from planned loaders, and from nothing else, for as long as they live."""

import gc
import warnings

import pytest
from lightning.pytorch.trainer.connectors import data_connector
from torch.utils.data import DataLoader

from lightning_fastdata.compat import lightning_loops
from lightning_fastdata.compat.lightning_loops import skip_worker_hint
from lightning_fastdata.loaders.build import PlannedDataLoader

pytestmark = pytest.mark.filterwarnings("default:.*does not have many workers")


class FakeTrainer:
    num_devices = 1
    reload_dataloaders_every_n_epochs = 0


def check(loader):
    return data_connector._worker_check(FakeTrainer(), loader, "train_dataloader")


@pytest.fixture(autouse=True)
def many_cpus(no_planned_loaders, monkeypatch):
    """Lightning gives its hint only where it sees more than two CPUs."""
    monkeypatch.setattr(data_connector, "suggested_max_num_workers", lambda num_devices: 7)
    original = data_connector._worker_check
    yield original
    gc.collect()
    assert data_connector._worker_check is original


def test_a_foreign_loader_beside_it_still_gets_its_hint():
    """Exactly the planned loaders are silenced."""
    planned = PlannedDataLoader(range(4))
    with pytest.warns(UserWarning, match="does not have many workers"):
        check(DataLoader(range(4)))
    del planned


def test_lightnings_function_comes_back_with_the_last_loader(many_cpus):
    """Nothing stays patched when no planned loader is alive."""
    first, second = PlannedDataLoader(range(4)), PlannedDataLoader(range(4))
    assert data_connector._worker_check is not many_cpus
    del first
    gc.collect()
    assert data_connector._worker_check is not many_cpus, "one is still alive"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(second)
    del second
    gc.collect()
    assert data_connector._worker_check is many_cpus


def test_a_new_loader_at_the_address_of_an_old_one_is_foreign():
    """What is remembered of a dead loader must not silence another one."""
    for _ in range(50):
        PlannedDataLoader(range(4))
        with pytest.warns(UserWarning, match="does not have many workers"):
            check(DataLoader(range(4)))


def test_someone_elses_patch_is_left_alone(many_cpus):
    """A function put over ours later is not thrown away when our last loader dies."""
    loader = PlannedDataLoader(range(4))
    ours = data_connector._worker_check

    def theirs(*args):
        return ours(*args)

    data_connector._worker_check = theirs
    try:
        del loader
        gc.collect()
        assert data_connector._worker_check is theirs
        with pytest.warns(UserWarning, match="does not have many workers"):
            check(DataLoader(range(4)))
    finally:
        data_connector._worker_check = many_cpus


def test_lightning_without_such_a_check_is_no_error(monkeypatch):
    """A release that drops the private name: said by the return value, never an exception."""
    loader = DataLoader(range(4))
    with monkeypatch.context() as patch:
        patch.setattr(
            lightning_loops, "_CONNECTORS", (data_connector.__name__,)
        )  # the other package may be loaded as well
        patch.delattr(data_connector, "_worker_check")
        assert skip_worker_hint(loader) is False
    assert skip_worker_hint(loader) is True
    del loader
    monkeypatch.setattr(lightning_loops, "_CONNECTORS", ("lightning_is_not_loaded",))  # a program that uses torch alone
    assert skip_worker_hint(DataLoader(range(4))) is False
