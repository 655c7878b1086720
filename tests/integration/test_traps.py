"""Ways of measuring a data wait wrongly, tried on the real Trainer. docs/traps.md says which test is for which trap."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, seed_everything
from lightning.pytorch.callbacks import BatchSizeFinder, ThroughputMonitor
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from monitor_cases import Net, Sleeper, near, quiet_monitor, quiet_trainer, three_tries
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import lightning_fastdata.callbacks.monitor.instrumentation as listening_module
from lightning_fastdata.callbacks.monitor.fetch_probe import FetchProbe
from lightning_fastdata.hardware.detect import probe
from lightning_fastdata.loaders.build import LoaderRequest, build_loader
from lightning_fastdata.planning.options import LoaderOptions
from lightning_fastdata.planning.plan import Workload, make_plan
from lightning_fastdata.results.run_file import read_run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Consider setting `persistent_workers")]


class Samples(Dataset):
    def __init__(self, length=12, sleep_s=0.005):
        self.length, self.sleep_s = length, sleep_s

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        time.sleep(self.sleep_s)
        return torch.ones(2)


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
    loaders = {"a": DataLoader(Samples(12), num_workers=1), "b": DataLoader(Samples(4), num_workers=1)}
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
    quiet_trainer(monitor).fit(Net(), DataLoader(Samples(24)))
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
    monitor, loader, seen = quiet_monitor(), planned(Samples(12), 1), []

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


@pytest.mark.filterwarnings("ignore")
@three_tries
def test_the_fits_of_a_batch_size_finder_are_not_ours():
    """Trap 30."""

    class Data(LightningDataModule):
        def __init__(self):
            super().__init__()
            self.batch_size, self.loaders = 2, []

        def train_dataloader(self):
            self.loaders.append(Sleeper(32 // self.batch_size, 0.005))
            return self.loaders[-1]

    monitor, data = quiet_monitor(), Data()
    quiet_trainer(monitor, BatchSizeFinder(max_trials=2, steps_per_trial=2)).fit(Net(), datamodule=data)
    summary, truth = monitor.summary(), data.loaders[-1].truth
    assert data.batch_size > 2
    assert len(data.loaders) > 1
    assert summary.steps == len(truth) == 32 // data.batch_size
    assert near(summary.wait_s, sum(truth), summary.steps)


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
    monkeypatch.setattr(listening_module, "device_timer", lambda device: FakeTimer())
    monitor = quiet_monitor()
    throughput = ThroughputMonitor(batch_size_fn=lambda batch: 4, window_size=2)
    quiet_trainer(monitor, throughput).fit(Net(), Sleeper(3))
    assert any("ThroughputMonitor" in note for note in monitor.summary().notes)


# Names of torch's and Lightning's that are gone.


def hide(monkeypatch, name):
    """As if torch's iterator no longer had an attribute, for us alone."""

    def hidden(self, wanted):
        if wanted == name and sys._getframe(1).f_globals["__name__"].startswith(
            "lightning_fastdata.compat.lightning_loops"
        ):
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
        summary = train_with_warnings(quiet_monitor(log_every_n_steps=4), DataLoader(Samples(12), num_workers=1))
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
    monkeypatch.setattr(listening_module, "FetchProbe", lambda trainer: FetchProbe(elsewhere))


@three_tries
def test_iterators_that_lightning_keeps_elsewhere_leave_the_wait(fetched, iterators_elsewhere):
    fetched.clear()
    summary = train_with_warnings(quiet_monitor(log_every_n_steps=4), DataLoader(Samples(12), num_workers=1))
    assert (summary.waits.stalled_s, summary.waits.queue_ready_mean) == (None, None)
    assert near(summary.wait_s, sum(fetched), 24)
    assert sum(summary.ledger.values()) == pytest.approx(summary.total_s)


def test_iterators_that_lightning_keeps_elsewhere_leave_no_boundary(iterators_elsewhere):
    summary = train_with_warnings(quiet_monitor(log_every_n_steps=4), DataLoader(Samples(12), num_workers=1))
    assert summary.boundary is None or summary.boundary.refill_s is None


# Two ranks.

SCRIPT = """
import sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from lightning.pytorch import Callback
from monitor_cases import Net, Sleeper, quiet_monitor, quiet_trainer


class Slow(Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_rank == 0:
            time.sleep(0.02)


class Data(Sleeper):
    def __init__(self, sleep_s):
        super().__init__(40, 0.0, sized=False)  # True would make another class of it
        self.both = sleep_s

    def __len__(self):
        return self.batches

    def __iter__(self):
        import torch.distributed
        self.sleep_s = self.both[torch.distributed.get_rank()]
        return super().__iter__()


class Breaks(Net):
    def training_step(self, batch, batch_idx):
        if batch_idx == 5 and self.global_rank == 1:
            raise ValueError("rank 1 stops")
        return super().training_step(batch, batch_idx)


def run(name, sleep_s, model, *callbacks, strategy="ddp_fork"):
    monitor = quiet_monitor(save_to=Path(sys.argv[1]) / f"{name}.jsonl")
    quiet_trainer(monitor, *callbacks, strategy=strategy, devices=2).fit(model, Data(sleep_s))


if __name__ == "__main__":
    if sys.argv[2] == "fine":
        run("slow", (0.004, 0.04), Net(0.01))
        run("sync", (0.004, 0.004), Net(0.01), Slow())
    else:
        run("breaks", (0.004, 0.004), Breaks(0.01), strategy=sys.argv[2])
"""


def two_ranks(folder, what):
    script = folder / "train.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder), what]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def summaries(folder, name):
    return [read_run(folder / file).summary for file in (f"{name}.jsonl", f"{name}.rank1.jsonl")]


def test_the_slow_rank_is_the_truth_and_the_meeting_is_no_wait(tmp_path):
    """Traps 14 and 15: 40 and 4 ms a batch; and rank 0 comes late to the meeting before each batch."""
    done = two_ranks(tmp_path, "fine")
    assert done.returncode == 0, done.stderr
    fast, slow = summaries(tmp_path, "slow")
    assert fast.wait_share < 0.2  # what a logger on rank 0 would say
    assert fast.ranks.wait_share == pytest.approx(0.7, abs=0.1)
    assert fast.ranks.wait_share == pytest.approx(slow.wait_share, abs=0.05)
    assert (fast.ranks.slowest_rank, fast.ranks.steps, fast.ranks.missing) == (1, 40, ())
    assert slow.ranks is None
    late, waiting = summaries(tmp_path, "sync")
    assert waiting.ledger["sync_s"] >= 0.5 * 40 * 0.02
    assert waiting.wait_s < 40 * 0.008
    assert late.ledger["sync_s"] < 0.5 * waiting.ledger["sync_s"]


def test_a_rank_that_stops_early_holds_nobody_up(tmp_path):
    """Trap 39: no collective of ours is waited for; both ranks leave what they have."""
    start = time.monotonic()
    done = two_ranks(tmp_path, "ddp")
    assert time.monotonic() - start < 100
    assert done.returncode != 0
    assert "rank 1 stops" in done.stderr
    broken = read_run(tmp_path / "breaks.rank1.jsonl").summary
    assert (broken.status, broken.steps) == ("interrupted", 5)


def test_a_rank_in_a_forked_process_leaves_what_it_has(tmp_path):
    """Trap 38: five steps were finished."""
    two_ranks(tmp_path, "ddp_fork")
    assert len(read_run(tmp_path / "breaks.rank1.jsonl").records) == 5
