"""Hooks: which labels have code behind them, and calls that are timed and put back."""

from types import SimpleNamespace

import pytest
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import LambdaCallback, LearningRateMonitor, ModelCheckpoint

from lightning_fastdata import DataWaitMonitor
from lightning_fastdata.callbacks.monitor.hook_timing import hook_labels, timed_calls


class Writes(Callback):
    state_key = "Writes"

    def on_train_batch_start(self, *args): ...

    def on_validation_start(self, *args): ...

    def setup(self, *args, **kwargs): ...


class Inherits(Writes):
    state_key = "Inherits"


def labels(*callbacks, module=None, data=None, monitor=None):
    trainer = SimpleNamespace(callbacks=list(callbacks), datamodule=data)
    return hook_labels(trainer, module or LightningModule(), monitor)


@pytest.mark.parametrize(
    ("callback", "hooks"),
    [
        (Callback(), []),
        (Writes(), ["on_train_batch_start"]),  # hooks of validation are part of it, those before training of start-up
        (Inherits(), ["on_train_batch_start"]),
        (LambdaCallback(on_train_batch_end=lambda *args: None), ["on_train_batch_end"]),  # on the instance
    ],
)
def test_hooks_that_a_callback_has_written_for_training_are_timed(callback, hooks):
    prefix = f"[Callback]{callback.state_key}."
    assert labels(callback) == {f"{prefix}{hook}": "callback" for hook in hooks}


def test_lightnings_own_callbacks_count_like_any_other():
    found = labels(ModelCheckpoint(), LearningRateMonitor())
    assert any("ModelCheckpoint" in label and label.endswith(".on_train_batch_end") for label in found)
    assert "[Callback]LearningRateMonitor.on_train_batch_start" in found


def test_the_monitors_own_hooks_are_left_out():
    monitor, other = DataWaitMonitor(), DataWaitMonitor(prog_bar=False)
    found = labels(monitor, other, monitor=monitor)
    assert found
    assert all(label.startswith(f"[Callback]{other.state_key}.") for label in found)


def test_the_module_and_the_data_module_are_asked_too():
    class Module(LightningModule):
        def on_train_batch_end(self, *args): ...

        def on_before_batch_transfer(self, batch, dataloader_idx): ...

        def validation_step(self, *args): ...

    class Data(LightningDataModule):
        def on_before_batch_transfer(self, batch, dataloader_idx): ...

    assert list(labels(module=Module(), data=Data())) == [
        "[LightningModule]Module.on_train_batch_end",
        "[LightningModule]Module.on_before_batch_transfer",
        "[LightningDataModule]Data.on_before_batch_transfer",
    ]


def test_lightnings_empty_hooks_are_no_code():
    """If Lightning moves its base classes, every hook looks written, and each step pays for labels with nothing."""
    assert labels(module=LightningModule(), data=LightningDataModule()) == {}


class Store:
    """Something of the user's with methods to be timed."""

    def __init__(self, clock):
        self.clock, self.calls = clock, []

    def save(self, value, *, twice=False):
        self.clock.forward(2.0)
        self.calls.append((value, twice))
        return value

    def fail(self):
        self.clock.forward(1.0)
        raise ValueError("mine")


@pytest.fixture
def store(fake_clock):
    return Store(fake_clock)


@pytest.fixture
def heard():
    return []


def listen(store, heard, *names):
    return timed_calls(store, names, lambda start, end: heard.append((start, end)), store.clock)


def test_a_call_is_timed_and_is_what_it_was(store, heard):
    put_back = listen(store, heard, "save", "missing")
    assert store.save(3, twice=True) == 3
    assert (heard, store.calls) == ([(100.0, 102.0)], [(3, True)])
    put_back()
    store.save(4)
    assert len(heard) == 1
    assert set(vars(store)) == {"clock", "calls"}


def test_a_call_that_raises_is_timed_and_raises(store, heard):
    listen(store, heard, "fail")
    with pytest.raises(ValueError, match="mine"):
        store.fail()
    assert heard == [(100.0, 101.0)]


def test_what_the_object_had_itself_comes_back(store, heard):
    mine = lambda value: value  # noqa: E731
    store.save = mine
    put_back = listen(store, heard, "save")
    assert store.save(5) == 5
    put_back()
    put_back()
    assert vars(store)["save"] is mine
    assert len(heard) == 1


def test_under_a_foreign_replacement_ours_only_hands_on(store, heard):
    put_back = listen(store, heard, "save")
    inner = store.save
    store.save = lambda value: inner(value)
    put_back()
    assert store.save(6) == 6
    assert (heard, store.calls) == ([], [(6, False)])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_that_time_a_call_both_get_it_and_go_in_any_order(store, heard, order):
    """Trap 47: a fit within a fit takes the later one away first; two monitors in one Trainer the earlier one."""
    other = []
    put_back = [listen(store, heard, "save"), listen(store, other, "save")]
    store.save(1)
    put_back[order[0]]()
    store.save(2)
    put_back[order[1]]()
    store.save(3)
    assert [len((heard, other)[place]) for place in order] == [1, 2]
    assert len(store.calls) == 3
    assert "save" not in vars(store)


def test_an_object_without_attributes_of_its_own_is_left_alone(heard, fake_clock):
    class Slots:
        __slots__ = ()

        def save(self):
            return 7

    slots = Slots()
    put_back = timed_calls(slots, ["save"], lambda start, end: heard.append(start), fake_clock)
    assert slots.save() == 7
    put_back()
    assert heard == []
