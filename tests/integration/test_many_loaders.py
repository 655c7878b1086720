"""Several loaders in a run: every mode of a CombinedLoader, evaluation on its own, figures for each loader."""

import warnings

import pytest
from datamodule_cases import Numbers, Recorder, cut, numbers_in
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from monitor_cases import EvalNet, Net, Sleeper, near, quiet_monitor, quiet_trainer, three_tries
from rich.console import Console
from torch.utils.data import DataLoader

from lightning_fastdata import FastDataModule, auto_dataloader
from lightning_fastdata.cli import main
from lightning_fastdata.loaders.order import derive_seed, epoch_order
from lightning_fastdata.report.text import summary_table
from lightning_fastdata.results.run_file import read_run

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*`dataloader_iter`"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),  # a split without data
]


@pytest.fixture(autouse=True)
def seed_of_the_orders(monkeypatch):
    """As after seed_everything(42): the orders that these tests expect."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "42")


WORKERS = [0, pytest.param(2, marks=pytest.mark.slow)]


class Seen(Recorder):
    """Writes down each batch as it is, with the index of its loader outside training."""

    def note(self, stage, batch, *dataloader_idx):
        self.seen.setdefault(stage, {}).setdefault(self.current_epoch, []).append(
            (*dataloader_idx, numbers_in(batch)) if dataloader_idx else numbers_in(batch)
        )

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        if not self.trainer.sanity_checking:
            self.note("val", batch, dataloader_idx)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.note("test", batch, dataloader_idx)

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        self.note("predict", batch, dataloader_idx)
        return batch


class Combining(FastDataModule):
    """The loaders of each split in a CombinedLoader."""

    train_mode = eval_mode = "max_size_cycle"

    def train_dataloader(self):
        return CombinedLoader(super().train_dataloader(), self.train_mode)

    def val_dataloader(self):
        return CombinedLoader(super().val_dataloader(), self.eval_mode)

    def test_dataloader(self):
        return CombinedLoader(super().test_dataloader(), self.eval_mode)


# Every mode, with loaders of ours in it


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(("mode", "steps"), [("min_size", 3), ("max_size", 5), ("max_size_cycle", 5)])
def test_each_mode_of_training_gives_the_right_samples(mode, steps, workers):
    """Ten and five samples in batches of two; the shorter loader ends the epoch, gives None, or comes round again."""
    data = Combining({"a": Numbers(10), "b": Numbers(5, start=100)}, batch_size=2, num_workers=workers)
    data.train_mode = mode
    model, monitor = Seen(), quiet_monitor()
    trainer = quiet_trainer(monitor, max_epochs=2, limit_val_batches=0)
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == 2 * steps
    for epoch in range(2):
        a = cut(epoch_order(derive_seed(42, "train/a"), epoch, 10), 2)
        b, again = (
            cut((100 + index for index in epoch_order(derive_seed(42, "train/b"), epoch, 5, cycle=cycle)), 2)
            for cycle in (0, 1)
        )
        rest = {"min_size": [], "max_size": [None, None], "max_size_cycle": again[:2]}[mode]
        given = model.seen["train"][epoch]
        assert [batch["a"] for batch in given] == a[:steps]
        assert [batch["b"] for batch in given] == [*b, *rest]
    summary = monitor.summary()
    assert (summary.steps, summary.samples is not None) == (2 * steps, True)
    assert [record.fetches for record in monitor.records()] == [1] * 2 * steps
    assert summary.wait_s == pytest.approx(sum(record.wait_s for record in monitor.records()))


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize(
    ("mode", "given"),
    [
        ("sequential", [(0, [0, 1]), (0, [2, 3]), (0, [4, 5]), (1, [50, 51]), (1, [52])]),
        ("min_size", [(0, {"x": [0, 1], "y": [50, 51]}), (0, {"x": [2, 3], "y": [52]})]),
        (
            "max_size",
            [(0, {"x": [0, 1], "y": [50, 51]}), (0, {"x": [2, 3], "y": [52]}), (0, {"x": [4, 5], "y": None})],
        ),
        (
            "max_size_cycle",
            [(0, {"x": [0, 1], "y": [50, 51]}), (0, {"x": [2, 3], "y": [52]}), (0, {"x": [4, 5], "y": [50, 51]})],
        ),
    ],
)
def test_each_mode_of_evaluation_gives_the_right_samples(mode, given, stage):
    """In the dataset's order; the monitor has one line for each loader only where they follow each other."""
    parts = {"x": Numbers(6), "y": Numbers(3, start=50)}
    data = Combining([Numbers(4)], parts, parts, batch_size=2, num_workers=0)
    data.eval_mode = mode
    model, monitor = Seen(), quiet_monitor()
    trainer = quiet_trainer(monitor)
    getattr(trainer, stage)(model, datamodule=data, **({} if stage == "fit" else {"verbose": False}))
    name = "test" if stage == "test" else "val"
    assert list(model.seen[name].values()) == [given]
    (line,) = monitor.summary().stages
    assert (line.stage, line.runs, line.batches) == (name, 1, len(given))
    assert [(loader.stage, loader.batches) for loader in line.loaders] == (
        [(f"{name}/0", 3), (f"{name}/1", 2)] if mode == "sequential" else []
    )


@pytest.mark.parametrize("workers", WORKERS)
def test_datasets_may_be_nested_as_lightning_takes_loaders(workers):
    """A dict with a list in it: each batch has that structure, each loader its plan."""
    data = FastDataModule(
        {"a": Numbers(8), "b": [Numbers(4, start=100), Numbers(4, start=200)]}, batch_size=4, num_workers=workers
    )
    model, monitor = Seen(), quiet_monitor()
    quiet_trainer(monitor, limit_val_batches=0).fit(model, datamodule=data)
    first, second = model.seen["train"][0]
    assert sorted(first["a"] + second["a"]) == list(range(8))
    assert [sorted(part) for part in first["b"]] == [list(range(100, 104)), list(range(200, 204))]
    assert [sorted(part) for part in second["b"]] == [list(range(100, 104)), list(range(200, 204))]
    assert set(data.plans) == {"train/a", "train/b/0", "train/b/1"}
    assert monitor.summary().num_workers == workers
    assert set(monitor.summary().plans) == set(data.plans)


# Evaluation on its own


@pytest.mark.parametrize("after_fit", [False, True])
@pytest.mark.parametrize("workers", WORKERS)
def test_evaluation_alone_and_after_a_fit(workers, after_fit):
    """validate, test and predict see every sample of their own split once, in order, within their limits."""
    data = FastDataModule(
        Numbers(8),
        [Numbers(6), Numbers(3, start=50)],
        Numbers(5),
        [Numbers(5), Numbers(4, start=70)],
        batch_size=4,
        num_workers=workers,
    )
    model = Seen()
    trainer = quiet_trainer(limit_test_batches=1)
    if after_fit:
        trainer.fit(model, datamodule=data)
        model.seen.clear()
    trainer.validate(model, datamodule=data, verbose=False)
    trainer.test(model, datamodule=data, verbose=False)
    predictions = trainer.predict(model, datamodule=data)
    assert {stage: list(epochs.values()) for stage, epochs in model.seen.items()} == {
        "val": [[(0, [0, 1, 2, 3]), (0, [4, 5]), (1, [50, 51, 52])]],
        "test": [[(0, [0, 1, 2, 3])]],
        "predict": [[(0, [0, 1, 2, 3]), (0, [4]), (1, [70, 71, 72, 73])]],
    }
    assert [[numbers_in(batch) for batch in loader] for loader in predictions] == [
        [[0, 1, 2, 3], [4]],
        [[70, 71, 72, 73]],
    ]


class Writer(BasePredictionWriter):
    """Keeps what it is asked to write."""

    def __init__(self, write_interval):
        super().__init__(write_interval)
        self.batches, self.epoch = [], None

    def write_on_batch_end(self, trainer, module, prediction, batch_indices, batch, batch_idx, dataloader_idx):
        self.batches.append((dataloader_idx, batch_indices, numbers_in(prediction)))

    def write_on_epoch_end(self, trainer, module, predictions, batch_indices):
        self.epoch = [[numbers_in(batch) for batch in loader] for loader in predictions], batch_indices


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("interval", ["batch", "epoch", "batch_and_epoch"])
def test_predictions_come_with_the_indices_of_their_samples(interval, limit, workers):
    """The loader is built again by Lightning to track them; workers that are ahead do not shift them."""
    writer = Writer(interval)
    data = FastDataModule(
        predict_dataset=[Numbers(10), Numbers(5, start=100)], batch_size=4, num_workers=workers, shuffle=True
    )
    trainer = quiet_trainer(writer, limit_predict_batches=limit)
    given = trainer.predict(Seen(), datamodule=data, return_predictions=interval == "batch")
    indices = [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]][:limit], [[0, 1, 2, 3], [4]][:limit]]
    numbers = [indices[0], [[100 + index for index in batch] for batch in indices[1]]]
    assert (given is None) == (interval != "batch")
    if "batch" in interval.split("_"):
        assert writer.batches == [
            (loader, batch, said)
            for loader in (0, 1)
            for batch, said in zip(indices[loader], numbers[loader], strict=True)
        ]
    if "epoch" in interval:
        assert writer.epoch == (numbers, indices)


def test_a_second_prediction_starts_from_the_first_sample():
    """Indices of the run before are not carried over."""
    data = FastDataModule(predict_dataset=[Numbers(6), Numbers(2)], batch_size=4, num_workers=0)
    writer = Writer("epoch")
    trainer = quiet_trainer(writer)
    for _ in range(2):
        writer.epoch = None
        trainer.predict(Seen(), datamodule=data)
        assert writer.epoch == ([[[0, 1, 2, 3], [4, 5]], [[0, 1]]],) * 2


# The monitor: each loader on its own


class ManyNet(EvalNet):
    """Evaluates batches of several loaders; ``work_s`` seconds each."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return self.loss(batch)

    test_step = predict_step = validation_step


def fast_and_slow(**kwargs):
    return [Sleeper(4, 0.002, **kwargs), Sleeper(3, 0.01, **kwargs)]


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "read ahead"])
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@three_tries
def test_each_loader_has_its_own_figures(stage, sized):
    """Also where Lightning reads one batch ahead, and so fetches another loader's batch before this one's step."""
    monitor, loaders = quiet_monitor(), fast_and_slow(sized=sized)
    getattr(quiet_trainer(monitor), stage)(
        ManyNet(0.004), loaders, **({} if stage == "predict" else {"verbose": False})
    )
    (line,) = monitor.summary().stages
    assert line.batches == 7
    assert near(line.wait_s, sum(sum(loader.truth) for loader in loaders), 7)
    for number, (part, loader) in enumerate(zip(line.loaders, loaders, strict=True)):
        assert part.stage == f"{line.stage}/{number}"
        assert (part.runs, part.batches) == (1, loader.batches)
        assert near(part.wait_s, sum(loader.truth), loader.batches)
        assert near(part.wait_s_max, max(loader.truth), 1)
        assert near(part.elapsed_s - part.wait_s, 0.004 * loader.batches, 2 * loader.batches)
    assert sum(part.wait_s for part in line.loaders) <= line.wait_s
    assert sum(part.elapsed_s for part in line.loaders) <= line.elapsed_s


@three_tries
def test_figures_of_each_loader_over_the_validations_of_a_fit():
    """Summed over the runs, without the sanity check; training, which reads all its loaders at once, has one figure."""
    train = {"a": Sleeper(4, 0.002), "b": Sleeper(4, 0.002)}
    val = fast_and_slow()

    class Both(ManyNet):
        def training_step(self, batch, batch_idx):
            return self.loss(batch["a"]) + self.loss(batch["b"])

    monitor = quiet_monitor()
    quiet_trainer(monitor, max_epochs=2, num_sanity_val_steps=1).fit(Both(), train, val)
    summary = monitor.summary()
    assert near(summary.wait_s, sum(train["a"].truth + train["b"].truth), 8)
    (line,) = summary.stages
    for part, loader in zip(line.loaders, val, strict=True):
        assert (part.runs, part.batches) == (2, 2 * loader.batches)
        assert near(part.wait_s, sum(loader.truth[1:]), part.batches)


def test_limits_count_for_each_loader():
    """limit_val_batches cuts each of them."""
    monitor = quiet_monitor()
    quiet_trainer(monitor, limit_val_batches=2).validate(ManyNet(), fast_and_slow(), verbose=False)
    assert [part.batches for part in monitor.summary().stages[0].loaders] == [2, 2]


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
@three_tries
def test_one_fetch_for_several_loaders_is_one_figure(mode):
    """Nobody can say of which of them it was."""

    class Both(EvalNet):
        def loss(self, batch):
            return sum(super(Both, self).loss(part) for part in batch if part is not None)

    monitor, loaders = quiet_monitor(), fast_and_slow()
    quiet_trainer(monitor).validate(Both(), CombinedLoader(loaders, mode), verbose=False)
    (line,) = monitor.summary().stages
    assert (line.batches, line.loaders) == (3 if mode == "min_size" else 4, ())
    assert near(line.wait_s, sum(sum(loader.truth) for loader in loaders), line.batches)


def test_a_list_with_one_loader_is_that_loader():
    """One line, as without the list."""
    monitor = quiet_monitor()
    quiet_trainer(monitor).validate(EvalNet(), [Sleeper(2, 0.001)], verbose=False)
    assert monitor.summary().stages[0].loaders == ()


@three_tries
def test_a_step_that_fetches_for_itself_is_not_told_apart():
    """With dataloader_iter a step may fetch as many batches as it likes; the sum is right."""

    class Fetching(ManyNet):
        def validation_step(self, dataloader_iter):
            for _ in range(2):
                batch, _, _ = next(dataloader_iter)
                self.loss(batch)

    monitor, loaders = quiet_monitor(), [Sleeper(4, 0.002), Sleeper(2, 0.01)]
    quiet_trainer(monitor).validate(Fetching(), loaders, verbose=False)
    (line,) = monitor.summary().stages
    assert line.loaders == ()
    assert near(line.wait_s, sum(sum(loader.truth) for loader in loaders), 6)


def test_with_a_fetch_unheard_nothing_is_told_apart(monkeypatch):
    """Without the private name that the first fetch is heard by, waits would slip to the batch before."""
    from lightning_fastdata.compat import lightning_monitoring

    monkeypatch.setattr(lightning_monitoring, "_SELECT", "_gone")
    monitor = quiet_monitor()
    quiet_trainer(monitor).validate(ManyNet(), fast_and_slow(sized=False), verbose=False)
    (line,) = monitor.summary().stages
    assert (line.batches, line.loaders) == (7, ())


def test_an_evaluation_that_breaks_leaves_the_figures_until_then():
    """The fetch whose batch came to nothing is in the total alone."""

    class Breaks(ManyNet):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            if dataloader_idx == 1:
                raise RuntimeError("in the second loader")
            return self.loss(batch)

    monitor = quiet_monitor()
    with pytest.raises(RuntimeError, match="second loader"):
        quiet_trainer(monitor).validate(Breaks(), fast_and_slow(), verbose=False)
    (line,) = monitor.summary().stages
    (first,) = line.loaders
    assert (line.batches, first.stage, first.batches) == (4, "val/0", 4)
    assert line.wait_s - first.wait_s >= 0.01


def test_the_figures_of_each_loader_reach_table_file_and_report(tmp_path, capsys):
    """What the run knew is what ``lightning-fastdata report`` prints."""
    path = tmp_path / "run.jsonl"
    monitor = quiet_monitor(save_to=path)
    quiet_trainer(monitor).fit(ManyNet(), Sleeper(2, 0.001), fast_and_slow())
    summary = monitor.summary()
    read = read_run(path).summary
    assert read.stages == summary.stages
    assert len(read.stages[0].loaders) == 2
    console = Console(width=100)
    with console.capture() as captured:
        console.print(summary_table(summary))
    capsys.readouterr()
    assert main.main(["report", str(path)]) == 0
    for printed in (captured.get(), capsys.readouterr().out):
        rows = [line.split() for line in printed.splitlines() if line.startswith("   loader ")]
        assert [row[:4] for row in rows] == [["loader", "0", "1", "4"], ["loader", "1", "1", "3"]]


# auto_dataloader, several in a hook


class Halves(Net):
    """Hooks that give several loaders of ``auto_dataloader``."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(numbers_in(batch))
        return self.layer.weight.sum() * 0

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass

    def auto(self, split, *lengths):
        return [
            auto_dataloader(Numbers(length), trainer=self.trainer, split=split, loaders=len(lengths), batch_size=2)
            for length in lengths
        ]

    def train_dataloader(self):
        return dict(zip("ab", self.auto("train", 40, 80), strict=True))

    def val_dataloader(self):
        return self.auto("val", 40, 40)


@pytest.mark.slow
def test_loaders_of_one_hook_share_the_cores(monkeypatch):
    """Two for training and two for validation: no more processes than one of each would start."""
    from lightning_fastdata.hardware.detect import Hardware, Limit
    from lightning_fastdata.loaders import factory

    eight = Hardware(cpu_limits=(Limit("quota of 8 CPUs", 8.0, "quota"),))
    monkeypatch.setattr(factory, "probe", lambda *, local_world_size=None: eight)
    model, trainer = Halves(), quiet_trainer()
    trainer.fit(model)
    workers = {name: loader.num_workers for name, loader in trainer.train_dataloader.items()}
    validating = [loader.num_workers for loader in trainer.val_dataloaders]
    assert workers == {"a": 3, "b": 3}
    assert validating == [1, 1]
    assert not any(loader.persistent_workers for loader in trainer.val_dataloaders)  # they follow each other
    assert len(model.seen) == 40


def test_foreign_and_own_loaders_side_by_side():
    """A plain torch loader and one of ours in one CombinedLoader."""

    class Mixed(FastDataModule):
        def train_dataloader(self):
            return {"ours": super().train_dataloader(), "torch": DataLoader(Numbers(4, start=50), batch_size=2)}

    model = Seen()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer(limit_val_batches=0).fit(model, datamodule=Mixed(Numbers(8), batch_size=4, num_workers=0))
    assert [batch["torch"] for batch in model.seen["train"][0]] == [[50, 51], [52, 53]]
    assert sorted(number for batch in model.seen["train"][0] for number in batch["ours"]) == list(range(8))


def test_datasets_of_equal_length_are_paired_anew_in_every_epoch():
    """Read together, they draw orders of their own: sample i of the one does not always meet sample i of the other."""
    data = FastDataModule({"a": Numbers(10), "b": Numbers(10)}, batch_size=2, num_workers=0)
    model = Seen()
    quiet_trainer(max_epochs=2).fit(model, datamodule=data)
    pairs = [
        {pair for batch in epoch for pair in zip(batch["a"], batch["b"], strict=True)}
        for epoch in model.seen["train"].values()
    ]
    assert all(len(epoch) == 10 for epoch in pairs)
    assert len(pairs[0] & pairs[1]) < 5
    assert len({a for a, b in pairs[0] if a == b}) < 5
