"""Ways of measuring a data wait wrongly, tried on the real Trainer. docs/traps.md says which test is for which trap."""

import json
import os
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ThroughputMonitor
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from monitor_cases import Net, Samples, Sleeper, near, quiet_monitor, quiet_trainer, three_tries
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from lightning_fastdata.callbacks.monitor import instrumentation
from lightning_fastdata.callbacks.monitor.fetch_probe import FetchProbe
from lightning_fastdata.hardware.detect import probe
from lightning_fastdata.loaders.build import LoaderRequest, build_loader
from lightning_fastdata.planning.options import LoaderOptions
from lightning_fastdata.planning.plan import Workload, make_plan

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Consider setting `persistent_workers")]


class First(Net):
    """Takes what a TensorDataset gives."""

    def training_step(self, batch, batch_idx):
        return self.loss(batch[0])


class Opening(DataLoader):
    """Writes down how long ``iter`` takes; hands out torch's own iterator."""

    took: list[float] = []  # noqa: RUF012

    def __iter__(self):
        start = time.perf_counter()
        iterator = super().__iter__()
        self.took.append(time.perf_counter() - start)
        return iterator


@pytest.fixture
def fetched(monkeypatch):
    """How long each ``next`` of torch's iterators with workers took, one layer below Lightning."""
    took, original = [], _MultiProcessingDataLoaderIter.__next__

    def timed(self):
        start = time.perf_counter()
        batch = original(self)
        took.append(time.perf_counter() - start)
        return batch

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "__next__", timed)
    return took


@pytest.fixture
def let_go(monkeypatch, fetched):
    """How long torch's iterators took to end their workers: (fetches by then, s)."""
    took, original = [], _MultiProcessingDataLoaderIter._shutdown_workers

    def timed(self):
        start = time.perf_counter()
        original(self)
        took.append((len(fetched), time.perf_counter() - start))

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_shutdown_workers", timed)
    return took


@pytest.mark.parametrize(("start_method", "persistent"), [("fork", False), ("fork", True), ("spawn", False)], ids=str)
@three_tries
def test_starting_workers_is_in_the_boundary_whatever_starts_them(fetched, let_go, start_method, persistent):
    """Traps 9 and 48: as many fetches, another boundary; and none of it in the wait."""
    for noted in (Opening.took, fetched, let_go):
        noted.clear()
    monitor, batches = quiet_monitor(), 8
    options = {"num_workers": 1, "multiprocessing_context": start_method, "persistent_workers": persistent}
    loader = Opening(TensorDataset(torch.ones(batches, 2)), **options)
    quiet_trainer(monitor, max_epochs=2).fit(First(0.01), loader)
    summary = monitor.summary()
    boundary, ledger = summary.boundary, summary.ledger
    assert sum(record.fetches for record in monitor.records()) == len(fetched) == 2 * batches
    ended_s = sum(took for fetches, took in let_go if fetches == batches)  # of the first epoch's workers
    assert boundary.iterator_s == pytest.approx(Opening.took[1] + ended_s, rel=0.02, abs=0.01)
    assert boundary.refill_s == pytest.approx(fetched[batches], rel=0.02, abs=0.003)
    assert ledger["boundary_s"] >= Opening.took[1] + ended_s + fetched[batches]
    assert ledger["startup_s"] >= Opening.took[0] + fetched[0]
    steady = sum(fetched) - fetched[0] - fetched[batches]
    assert ledger["wait_s"] == pytest.approx(steady, rel=0.02, abs=2e-4 * 2 * batches)
    if start_method == "spawn":
        assert boundary.per_epoch_s > 0.5


@three_tries
def test_a_shorter_loader_that_begins_anew_is_no_steady_wait(fetched):
    """Trap 11: of 12 and 4 batches, at steps 4 and 8."""
    fetched.clear()

    class Both(Net):
        def training_step(self, batch, batch_idx):
            return self.loss(batch["a"]) + self.loss(batch["b"])

    monitor = quiet_monitor()
    loaders = {"a": DataLoader(Samples(12, 0.005), num_workers=1), "b": DataLoader(Samples(4, 0.005), num_workers=1)}
    quiet_trainer(monitor).fit(Both(0.02), CombinedLoader(loaders, "max_size_cycle"))
    summary, waits = monitor.summary(), [record.wait_s for record in monitor.records()]
    assert summary.boundary.restart_s == pytest.approx(waits[4] + waits[8])
    assert summary.boundary.restart_s > 2 * 0.005
    assert summary.ledger["boundary_s"] >= summary.boundary.restart_s
    assert summary.ledger["wait_s"] == pytest.approx(sum(waits) - waits[0] - waits[4] - waits[8])
    assert summary.waits.fetches == 9


@three_tries
def test_loading_in_the_training_process_is_work():
    """Trap 20: and more prefetching is no advice."""
    monitor = quiet_monitor()
    quiet_trainer(monitor).fit(Net(), DataLoader(Samples(24, 0.005)))
    summary = monitor.summary()
    assert summary.waits.main_process_s == pytest.approx(summary.wait_s)
    assert (summary.waits.stalled_s, summary.waits.worker_transfer_s, summary.waits.unknown_s) == (0.0, 0.0, 0.0)
    assert (summary.waits.queue_ready_mean, summary.verdict.cause) == (None, "main-process loading")
    assert "num_workers" in summary.verdict.try_first
    assert "prefetch" not in summary.verdict.try_first


class SlowToUnpickle:
    def __setstate__(self, state):
        time.sleep(0.02)

    def __getstate__(self):
        return {"x": 1}


@three_tries
def test_a_batch_that_was_there_but_is_slow_to_unpickle_was_handed_over():
    """Trap 21: 20 ms each, while the worker is far ahead."""

    class Plain(Net):
        def training_step(self, batch, batch_idx):
            return self.loss(torch.ones(4, 2))

    monitor, batches = quiet_monitor(), 10
    loader = DataLoader(range(batches), num_workers=1, collate_fn=lambda samples: SlowToUnpickle())
    quiet_trainer(monitor).fit(Plain(0.03), loader)
    waits = monitor.summary().waits
    assert waits.worker_transfer_s >= 0.02 * (waits.fetches - 1)
    assert waits.stalled_s <= 0.021


def test_the_loader_stays_the_users_own():
    """Traps 17 and 22: nothing is wrapped, so its workers are up before the first fetch and seeded by Lightning."""
    seen = {}

    class Looking(Callback):
        def on_train_start(self, trainer, pl_module):
            loader = trainer.train_dataloader
            iterator = trainer.fit_loop._combined_loader._iterator.iterators[0]
            seen.update(loader=loader, own=set(vars(loader)), iterator=type(iterator), seeding=loader.worker_init_fn)
            seen["alive"] = [worker.is_alive() for worker in iterator._workers]

    seed_everything(1, workers=True, verbose=False)
    loader = DataLoader(Samples(4), num_workers=2)
    before = set(vars(loader))
    try:
        quiet_trainer(quiet_monitor(), Looking()).fit(Net(), loader)
    finally:
        os.environ.pop("PL_SEED_WORKERS", None)
        os.environ.pop("PL_GLOBAL_SEED", None)
    assert seen["loader"] is loader
    # Lightning keeps a record of how a loader was made, for all loaders once a hook has raised in this process.
    assert {name for name in seen["own"] - before if not name.startswith("__pl_")} <= {"_DataLoader__initialized"}
    assert seen["iterator"] is _MultiProcessingDataLoaderIter
    assert seen["alive"] == [True, True]
    assert seen["seeding"] is not None


def planned(dataset, workers):
    plan = make_plan(LoaderOptions(num_workers=workers, persistent_workers=False), probe(), Workload())
    return build_loader(LoaderRequest(dataset, seed=1), plan)


@three_tries
@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_a_loader_that_lightning_builds_again_still_tells():
    """Trap 23: ``overfit_batches`` gives the loader another sampler, and with it another object."""
    monitor, loader, seen = quiet_monitor(), planned(Samples(12, 0.005), 1), []

    class Looking(Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append(trainer.train_dataloader)

    quiet_trainer(monitor, Looking(), overfit_batches=6, max_epochs=2).fit(Net(0.002), loader)
    summary = monitor.summary()
    assert seen[0] is not loader
    assert type(seen[0]) is type(loader)
    assert (summary.loading.batches, summary.waits.exact) == (12, True)
    assert summary.loading.batch_s_mean == pytest.approx(0.005, rel=0.5)
    assert summary.boundary.saving_is_exact


def test_without_a_gpu_its_figures_are_not_measured():
    """Trap 43: None in code, null in the file, and never 0."""
    monitor = quiet_monitor()
    quiet_trainer(monitor).fit(Net(), Sleeper(3))
    summary, records = monitor.summary(), monitor.records()
    assert summary.device is None
    assert json.loads(json.dumps(summary.to_dict()))["device"] is None
    assert {(record.device_idle_s, record.copy_s) for record in records} == {(None, None)}
    assert all(record.transfer_s is None for record in records)
    assert "transfer_s" in summary.not_measured


class FakeTimer:
    """A device that says it starved half of a second in each step."""

    failed = None

    def before_fetch(self): ...

    def after_fetch(self): ...

    def after_transfer(self): ...

    def end_step(self): ...

    def resolved(self):
        return iter(())

    def close(self):
        return iter(())


@pytest.mark.filterwarnings("ignore")
def test_a_callback_that_synchronises_every_batch_is_named(monkeypatch):
    """Trap 16: starvation is measured in another program than the one without it."""
    monkeypatch.setattr(instrumentation, "device_timer", lambda device: FakeTimer())
    monitor = quiet_monitor()
    throughput = ThroughputMonitor(batch_size_fn=lambda batch: 4, window_size=2)
    quiet_trainer(monitor, throughput).fit(Net(), Sleeper(3))
    assert any("ThroughputMonitor" in note for note in monitor.summary().notes)


# Names of torch's and Lightning's that are gone.


def hide(monkeypatch, name):
    """As if torch's iterator no longer had an attribute, for us alone."""

    def hidden(self, wanted):
        if wanted == name and sys._getframe(1).f_globals["__name__"] == "lightning_fastdata.compat.torch_internals":
            raise AttributeError(wanted)
        return object.__getattribute__(self, wanted)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "__getattribute__", hidden, raising=False)


def train_with_warnings(monitor, loader, epochs=2):
    with pytest.warns(UserWarning, match="not measured") as caught:
        quiet_trainer(monitor, max_epochs=epochs).fit(Net(0.002), loader)
    ours = [str(entry.message) for entry in caught if "DataWaitMonitor" in str(entry.message)]
    assert len(ours) == 1
    return monitor.summary()


@pytest.mark.parametrize("name", ["_data_queue", "_task_info", "_tasks_outstanding"])
@three_tries
def test_a_queue_that_torch_keeps_elsewhere_is_not_measured(fetched, name):
    """The kind of waiting and the queue are not known then; the waiting itself is."""
    fetched.clear()
    with pytest.MonkeyPatch.context() as monkeypatch:
        hide(monkeypatch, name)
        summary = train_with_warnings(quiet_monitor(log_every_n_steps=4), DataLoader(Samples(12, 0.005), num_workers=1))
    waits = summary.waits
    assert (waits.main_process_s, waits.stalled_s, waits.worker_transfer_s, waits.queue_ready_mean) == (None,) * 4
    assert (waits.head_of_line_fetches, waits.exact) == (0, False)
    assert waits.unknown_s == pytest.approx(summary.ledger["wait_s"])
    assert near(summary.wait_s, sum(fetched), 24)
    assert summary.boundary.refill_s > 0
    assert len([note for note in summary.notes if "not measured" in note]) == 1


@pytest.fixture
def iterators_elsewhere(monkeypatch):
    """As if Lightning kept the iterators of the training loaders under another name than ``_combined_loader``."""
    elsewhere = SimpleNamespace(fit_loop=SimpleNamespace())
    monkeypatch.setattr(instrumentation, "FetchProbe", lambda trainer: FetchProbe(elsewhere))


@three_tries
def test_iterators_that_lightning_keeps_elsewhere_leave_the_wait(fetched, iterators_elsewhere):
    fetched.clear()
    summary = train_with_warnings(quiet_monitor(log_every_n_steps=4), DataLoader(Samples(12, 0.005), num_workers=1))
    assert (summary.waits.stalled_s, summary.waits.queue_ready_mean) == (None, None)
    assert near(summary.wait_s, sum(fetched), 24)
    assert sum(summary.ledger.values()) == pytest.approx(summary.total_s)
    assert summary.boundary is None or summary.boundary.refill_s is None
