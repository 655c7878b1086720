"""The ledger on the real Trainer: it closes in every shape of loop, and what is slow lands where it belongs."""

import copy
import pickle
import tempfile
import time

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from monitor_cases import EvalNet, Net, Sleeper, SlowCallback, quiet_monitor, quiet_trainer, three_tries
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_fastdata.hardware.detect import probe
from lightning_fastdata.loaders.build import LoaderRequest, build_loader
from lightning_fastdata.planning.options import LoaderOptions
from lightning_fastdata.planning.plan import Workload, make_plan
from lightning_fastdata.results.stats import ACCOUNTS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")]


class Samples(Dataset):
    def __init__(self, length=24, sleep_s=0.002):
        self.length, self.sleep_s = length, sleep_s

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        time.sleep(self.sleep_s)
        return torch.ones(2)


class Stream(IterableDataset):
    def __iter__(self):
        for _ in range(12):
            time.sleep(0.004)
            yield torch.ones(2)


class Both(EvalNet):
    def training_step(self, batch, batch_idx):
        return sum(self.loss(part) for part in batch.values() if part is not None)


class Fetching(Net):
    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return self.loss(batch)


def closes(summary):
    """The parts sum to the total within 1 %, and hardly anything is left over."""
    assert list(summary.ledger) == list(ACCOUNTS)
    assert sum(summary.ledger.values()) == pytest.approx(summary.total_s, rel=0.01)
    assert all(part >= -1e-6 for part in summary.ledger.values())
    assert summary.ledger["unattributed_s"] < 0.05 * summary.total_s
    return summary.ledger


def both(mode):
    return CombinedLoader({"a": DataLoader(Samples(8), batch_size=2), "b": DataLoader(Samples(3))}, mode)


SHAPES = {
    "sized": lambda: (Net(0.002), DataLoader(Samples()), {}),
    "workers": lambda: (Net(0.002), DataLoader(Samples(), num_workers=2), {}),
    "persistent": lambda: (Net(0.002), DataLoader(Samples(), num_workers=2, persistent_workers=True), {}),
    "unsized": lambda: (Net(0.002), DataLoader(Stream()), {}),
    "unsized workers": lambda: (Net(0.002), DataLoader(Stream(), num_workers=1), {}),
    "accumulation": lambda: (Net(0.002), DataLoader(Samples()), {"accumulate_grad_batches": 4}),
    "validation in mid-epoch": lambda: (EvalNet(0.002), DataLoader(Samples()), {"val_check_interval": 5}),
    "max_size_cycle": lambda: (Both(), both("max_size_cycle"), {}),
    "min_size": lambda: (Both(), both("min_size"), {}),
    "max_size": lambda: (Both(), both("max_size"), {}),
    "dataloader_iter": lambda: (Fetching(0.002), DataLoader(Samples()), {}),
    "limited": lambda: (Net(0.002), DataLoader(Samples()), {"limit_train_batches": 5}),
    "reloaded": lambda: (Net(0.002), DataLoader(Samples()), {"reload_dataloaders_every_n_epochs": 1}),
    "foreign": lambda: (Net(0.002), Sleeper(12), {}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_it_closes_in_every_shape_of_loop(shape):
    module, loader, arguments = SHAPES[shape]()
    monitor = quiet_monitor()
    evaluations = [DataLoader(Samples(3))] if isinstance(module, EvalNet) else []
    quiet_trainer(monitor, max_epochs=2, **arguments).fit(module, loader, *evaluations)
    ledger = closes(monitor.summary())
    assert ledger["compute_s"] > 0
    assert ledger["wait_s"] > 0


@pytest.mark.parametrize("how", ["early stopping", "exception", "interrupt", "returns -1"])
def test_it_closes_however_a_run_ends(how):
    monitor = quiet_monitor()

    class Ends(Net):
        def training_step(self, batch, batch_idx):
            if batch_idx == 5 and how in ("exception", "interrupt"):
                raise ValueError("stop") if how == "exception" else KeyboardInterrupt
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

        def on_train_batch_start(self, batch, batch_idx):
            return -1 if how == "returns -1" and batch_idx == 5 else None

    callbacks = [monitor]
    if how == "early stopping":
        callbacks.append(EarlyStopping("loss", patience=1, min_delta=1e9))
    trainer = quiet_trainer(*callbacks, max_epochs=3)
    ends = {"exception": ValueError, "interrupt": BaseException}.get(how)
    if ends is None:
        trainer.fit(Ends(), DataLoader(Samples()))
    else:
        with pytest.raises(ends):
            trainer.fit(Ends(), DataLoader(Samples()))
    closes(monitor.summary())


@three_tries
def test_what_is_slow_lands_in_its_account(tmp_path):
    """Traps 1 to 4 and 29, in seconds."""

    class SlowStart(Callback):
        def setup(self, trainer, pl_module, stage):
            time.sleep(0.1)

    class SlowSave(Net):
        def on_save_checkpoint(self, checkpoint):
            time.sleep(0.05)

    class SlowLogger(CSVLogger):
        calls = 0

        def log_metrics(self, *args, **kwargs):
            self.calls += 1
            time.sleep(0.01)

    class Slow(SlowSave, EvalNet):
        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            time.sleep(0.003)
            return batch

        def on_after_batch_transfer(self, batch, dataloader_idx):
            time.sleep(0.002)
            return batch

        def training_step(self, batch, batch_idx):
            self.log("loss", loss := super().training_step(batch, batch_idx))
            return loss

    monitor, loader = quiet_monitor(), Sleeper(10, 0.006)
    trainer = quiet_trainer(
        monitor,
        SlowStart(),
        SlowCallback(0.002),
        ModelCheckpoint(tempfile.mkdtemp(dir=tmp_path), every_n_train_steps=5, save_top_k=-1),
        enable_checkpointing=True,
        logger=SlowLogger(tempfile.mkdtemp(dir=tmp_path)),
        log_every_n_steps=5,
        max_epochs=2,
        limit_val_batches=1.0,
    )
    trainer.fit(Slow(0.01), loader, DataLoader(Samples(5, 0.01)))
    ledger = closes(monitor.summary())
    assert ledger["startup_s"] == pytest.approx(0.1, abs=0.04)
    assert ledger["wait_s"] == pytest.approx(sum(loader.truth), rel=0.02, abs=20 * 2e-4)
    assert ledger["transfer_s"] == pytest.approx(20 * 0.003, rel=0.2)
    assert 20 * 0.01 <= ledger["compute_s"] < 20 * 0.01 + 0.12  # and the real work of a small layer
    # a step has two sleeping hooks and one after the transfer; the monitor's own reports go to the logger too
    known_s = 20 * (0.004 + 0.002) + trainer.logger.calls * 0.01
    assert trainer.logger.calls >= 4
    assert known_s <= ledger["callbacks_s"] < 1.25 * known_s + 0.02
    assert ledger["checkpoint_s"] == pytest.approx(4 * 0.05, rel=0.25)
    assert ledger["validation_s"] == pytest.approx(2 * 5 * (0.01 + 0.01 + 0.005), rel=0.25)
    assert ledger["loop_s"] < 0.1


class SlowToBegin(Sleeper):
    def __iter__(self):
        time.sleep(0.05)
        return super().__iter__()

    def __len__(self):
        return self.batches


@three_tries
def test_a_loader_that_is_slow_to_begin_costs_the_boundary(tmp_path):
    """Trap 9: iter() is outside the fetch."""
    monitor = quiet_monitor()
    loader = SlowToBegin(6, 0.004, sized=False)
    quiet_trainer(monitor, max_epochs=4).fit(Net(), loader)
    summary = monitor.summary()
    ledger = closes(summary)
    assert ledger["boundary_s"] == pytest.approx(3 * 0.05, abs=0.03)
    assert summary.boundary.boundaries == 3
    assert summary.boundary.per_epoch_s == pytest.approx(0.05, abs=0.01)
    assert ledger["startup_s"] > 0.05
    assert ledger["wait_s"] == pytest.approx(sum(loader.truth), rel=0.02, abs=24 * 2e-4)


@pytest.mark.parametrize("reload", [0, 1])
@three_tries
def test_both_iterators_of_a_reloaded_loader_are_boundary(reload):
    """Trap 10: the loop asks for an iterator twice, and once more when it tries the new loader.

    That one has no label before it, so the length of a gap of the loop's own is not told apart.
    """
    monitor, loader = quiet_monitor(), SlowToBegin(4, 0.002, sized=False)
    quiet_trainer(monitor, max_epochs=3, reload_dataloaders_every_n_epochs=reload).fit(Net(), loader)
    known_s = 2 * (3 * 0.05 - 0.02) if reload else 2 * 0.05
    assert closes(monitor.summary())["boundary_s"] == pytest.approx(known_s, abs=0.03)
    assert monitor.summary().boundary.boundaries == 2


@pytest.mark.parametrize("persistent", [False, True])
@three_tries
def test_the_saving_of_persistent_workers_is_measured_for_any_torch_loader(persistent):
    monitor = quiet_monitor()
    loader = DataLoader(Samples(), num_workers=2, persistent_workers=persistent)
    quiet_trainer(monitor, max_epochs=3).fit(Net(0.003), loader)
    summary = monitor.summary()
    boundary = summary.boundary
    assert boundary.persistent_workers is persistent
    assert boundary.boundaries == 2
    assert boundary.refill_s > 0
    if persistent:
        assert boundary.saving_s_per_epoch is None
    else:
        assert not boundary.saving_is_exact
        assert 0.01 < boundary.saving_s_per_epoch < boundary.per_epoch_s
    closes(summary)


@three_tries
def test_our_loaders_say_how_long_their_workers_took_to_start():
    monitor, options = quiet_monitor(), LoaderOptions(num_workers=2, persistent_workers=False)
    plan = make_plan(options, probe(), Workload())
    loader = build_loader(LoaderRequest(Samples(), arguments={"shuffle": False}, seed=1), plan)
    quiet_trainer(monitor, max_epochs=3).fit(Net(0.003), loader)
    boundary = monitor.summary().boundary
    assert boundary.saving_is_exact
    assert 0.01 < boundary.saving_s_per_epoch <= boundary.per_epoch_s
    loading = monitor.summary().loading
    assert (loading.batches, loading.samples) == (72, 72)
    assert loading.batch_s_mean == pytest.approx(0.002, rel=0.5)


def test_a_fit_after_a_fit_and_an_evaluation_after_it_are_no_part_of_it():
    """Trap 47."""
    monitor = quiet_monitor()
    trainer = quiet_trainer(monitor)
    module = EvalNet()
    trainer.fit(module, DataLoader(Samples(40, 0.005)), DataLoader(Samples(1)))
    first = monitor.summary()
    trainer.validate(module, DataLoader(Samples(10, 0.005)), verbose=False)
    assert monitor.summary().ledger == first.ledger
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, DataLoader(Samples(4, 0.002)), DataLoader(Samples(1)))
    second = monitor.summary()
    assert second.total_s < 0.5 * first.total_s
    closes(second)


def test_an_evaluation_alone_has_no_ledger():
    monitor = quiet_monitor()
    quiet_trainer(monitor).validate(EvalNet(), DataLoader(Samples(3)), verbose=False)
    assert (monitor.summary().ledger, monitor.summary().total_s) == ({}, None)


def test_everything_is_put_back(tmp_path):
    """Trap 25, for loggers too."""
    logger = CSVLogger(tmp_path)
    monitor = quiet_monitor()

    class Breaks(Net):
        def training_step(self, batch, batch_idx):
            raise ValueError("broken")

    trainer = quiet_trainer(monitor, logger=logger, log_every_n_steps=1)
    before = set(vars(logger)), set(vars(trainer.strategy)), set(vars(trainer.profiler))
    with pytest.raises(ValueError, match="broken"):
        trainer.fit(Breaks(), DataLoader(Samples(3)))
    after = set(vars(logger)), set(vars(trainer.strategy)), set(vars(trainer.profiler))
    assert "log_metrics" not in after[0]
    assert not {"barrier", "broadcast"} & (after[1] - before[1])
    assert not {"start", "stop"} & after[2]


@pytest.mark.parametrize("place", ["before", "after", "module"])
@three_tries
def test_the_end_of_a_validation_is_validation_wherever_the_callback_stands(place):
    """Trap 4: the hooks of others run after ours."""

    class Sleepy(Callback):
        def on_validation_end(self, trainer, pl_module):
            time.sleep(0.1)

    class Module(EvalNet):
        def on_validation_end(self):
            time.sleep(0.1 if place == "module" else 0.0)

    monitor = quiet_monitor()
    order = {"before": [Sleepy(), monitor], "after": [monitor, Sleepy()], "module": [monitor]}[place]
    quiet_trainer(*order, max_epochs=2).fit(Module(), DataLoader(Samples(8)), DataLoader(Samples(2)))
    ledger = closes(monitor.summary())
    assert ledger["validation_s"] == pytest.approx(0.2 + 4 * 0.004, abs=0.05)
    assert monitor.summary().validation_wait_s == pytest.approx(4 * 0.002, abs=0.02)


def test_spans_carry_their_epoch():
    monitor = quiet_monitor()
    loader = DataLoader(Samples(8, 0.001), num_workers=1)
    quiet_trainer(monitor, max_epochs=3).fit(EvalNet(), loader, DataLoader(Samples(2)))
    spans = [(span.kind, span.epoch) for span in monitor.summary().spans]
    assert [epoch for kind, epoch in spans if kind == "validation"] == [0, 1, 2]
    assert [epoch for kind, epoch in spans if kind == "boundary"] == [1, 2]


def test_what_is_sent_to_spawned_workers_knows_nothing_of_the_measurement(tmp_path):
    logger = CSVLogger(tmp_path)
    monitor, copies = quiet_monitor(), []

    class Copies(Callback):
        def on_train_batch_start(self, trainer, *args):
            copies.append((pickle.loads(pickle.dumps(trainer.logger)), copy.deepcopy(trainer.logger)))

    quiet_trainer(monitor, Copies(), logger=logger, log_every_n_steps=1).fit(Net(), DataLoader(Samples(2)))
    assert len(copies) == 2
    for copied in [one for pair in copies for one in pair]:
        assert copied.log_metrics.__self__ is copied
        assert type(copied).log_metrics is CSVLogger.log_metrics
