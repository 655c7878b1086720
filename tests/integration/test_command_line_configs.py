"""LightningCLI, Hydra and Lightning's tuners on our DataModules and callbacks: every argument, from every side."""

import inspect
import re
import time

import lightning.pytorch.cli
import numpy as np
import pytest
import pytorch_lightning.cli
import torch
import yaml
from datamodule_cases import Numbers, Recorder, quiet_trainer
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch.callbacks import BatchSizeFinder
from lightning.pytorch.tuner import Tuner
from omegaconf import OmegaConf
from only_pytorch_lightning import Recorder as PytorchRecorder
from only_pytorch_lightning import folder_of_images

import lightning_fastdata
import lightning_fastdata.pytorch_lightning
from lightning_fastdata import DataAudit, DataWaitMonitor, FastDataModule, ImageFolderDataModule, TensorDataModule
from lightning_fastdata.datamodules.dataset_collections import to_builtin
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.run_file import read_run

pytestmark = pytest.mark.filterwarnings(
    "ignore:Total length of `list`",
    "ignore:You defined a `validation_step`",
    "ignore:This DataLoader will create",
    "ignore:No seed found",
    "ignore:Starting from v1.9.0, `tensorboardX`",
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",  # Lightning's own way of calling it
)

REQUIRED = {
    "FastDataModule": [],
    "TensorDataModule": [],
    "TokenDataModule": ["--data.train=train.bin"],
    "ImageFolderDataModule": ["--data.root=photos"],
    "TorchvisionDataModule": ["--data.name=MNIST", "--data.root=data"],
}
DATA_MODULES = pytest.mark.parametrize("name", REQUIRED)
PACKAGES = {
    "lightning": (lightning_fastdata, lightning.pytorch.cli.LightningCLI, Recorder),
    "pytorch_lightning": (lightning_fastdata.pytorch_lightning, pytorch_lightning.cli.LightningCLI, PytorchRecorder),
}


class Counting(FastDataModule):
    """A user's own.

    Args:
        count: Samples (count).
        **kwargs: Arguments of ``FastDataModule``.
    """

    def __init__(self, count: int = 12, **kwargs) -> None:
        super().__init__(**kwargs)
        self.count = count

    def setup(self, stage: str) -> None:
        self.train_dataset = Numbers(self.count)


class Tunable(Recorder):
    """Has a learning rate, and a loss that falls along a valley."""

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        self.lr = lr

    def training_step(self, batch, batch_idx):
        self.note("train", batch)
        return (self.weight - 1.0) ** 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@pytest.fixture
def cli(monkeypatch, tmp_path):
    """``cli(data, *arguments)``: a program with these on its command line, in a folder of its own; it runs nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # which LightningCLI sets
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "1000")

    def run(data, *arguments, package="lightning", run=False, **kwargs):
        _, command_line, model = PACKAGES[package]
        monkeypatch.setattr("sys.argv", ["main.py", *arguments])
        return command_line(kwargs.pop("model", model), data, run=run, seed_everything_default=False, **kwargs)

    return run


def arguments_of(cls):
    """Every argument of a class and of what it hands its ``**kwargs`` on to, with its default."""
    found = {}
    for base in cls.__mro__:
        if "__init__" in vars(base) and "DataModuleMixin" in base.__name__:
            parameters = inspect.signature(base.__init__).parameters.values()
            found = {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD} | found
    return {name: default for name, default in found.items() if name != "self"}


def documented(cls):
    """The first words that the docstrings give each argument."""
    found = {}
    for base in cls.__mro__:
        if "DataModuleMixin" in base.__name__:
            lines = re.findall(r"^ {4,8}(\w+): (.+)$", base.__doc__ or "", re.MULTILINE)
            found = dict(lines) | found
    return found


def printed(capsys, run, *arguments, **kwargs):
    """What a program prints instead of running."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(*arguments, **kwargs)
    assert ended.value.code == 0
    told = capsys.readouterr()
    assert told.err == ""
    return told.out


# LightningCLI: what it knows of our classes


@pytest.mark.parametrize("package", PACKAGES)
@DATA_MODULES
def test_every_argument_is_in_the_help(cli, capsys, package, name):
    """With its line of the docstring, its default, and nothing about arguments that could not be understood."""
    cls = getattr(PACKAGES[package][0], name)
    text = printed(capsys, cli, cls, "--help", package=package)
    lines = documented(cls)
    assert len(arguments_of(cls)) >= 19
    for argument, default in arguments_of(cls).items():
        entry = re.search(rf"--data\.{argument} \S+(?:, --data\.{argument}\+ \S+)?\s\s+(\S[^\n]*type: [^\n]*\))", text)
        assert entry, argument
        assert lines[argument].split("``")[0][:40] in entry[1], argument
        shown = "required" if default is inspect.Parameter.empty else "null" if default is None else str(default)
        assert shown in entry[1], argument


@DATA_MODULES
def test_defaults_are_those_of_the_class(cli, name):
    """The command line without a word is the class without a word."""
    cls = getattr(lightning_fastdata, name)
    given = dict(option.removeprefix("--data.").split("=") for option in REQUIRED[name])
    config = cli(cls, *REQUIRED[name]).config.data
    expected = {argument: given.get(argument, default) for argument, default in arguments_of(cls).items()}
    assert vars(config) == expected


@pytest.mark.parametrize(
    ("option", "written", "value"),
    [
        ("num_workers", "4", 4),
        ("num_workers", "auto", "auto"),
        ("pin_memory", "true", True),
        ("pin_memory", "auto", "auto"),
        ("persistent_workers", "false", False),
        ("prefetch_factor", "8", 8),
        ("prefetch_factor", "null", None),
        ("batch_size", "64", 64),
        ("eval_batch_size", "128", 128),
        ("drop_last", "true", True),
        ("shuffle", "false", False),
        ("val_split", "0.25", 0.25),
        ("val_split", "500", 500),
        ("test_split", "1", 1),
        ("seed", "7", 7),
        ("split_seed", "1", 1),
        ("deterministic", "false", False),
        ("collate_fn", "torch.utils.data.default_collate", torch.utils.data.default_collate),
        ("dataloader_kwargs", "{timeout: 60}", {"timeout": 60}),
        ("dataloader_kwargs.timeout", "60", {"timeout": 60}),
        ("dataloader_kwargs", "{train: {timeout: 60}}", {"train": {"timeout": 60}}),
    ],
)
def test_arguments_arrive_as_they_were_meant(cli, option, written, value):
    """From the command line, and from a file; a number of samples stays a whole number."""
    module = cli(FastDataModule, f"--data.{option}", written).datamodule
    name = option.split(".")[0]
    assert (getattr(module, name), type(getattr(module, name))) == (value, type(value))
    with open("config.yaml", "w") as file:
        yaml.safe_dump({"data": {name: written if callable(value) else value}}, file)
    assert getattr(cli(FastDataModule, "--config", "config.yaml").datamodule, name) == value


def test_a_held_out_number_of_samples_for_torchvision(cli):
    """Its ``val_split`` may be None as well."""
    data = [*REQUIRED["TorchvisionDataModule"], "--data.val_split"]
    found = [cli(lightning_fastdata.TorchvisionDataModule, *data, text).datamodule.val_split for text in ("5", "0.5")]
    assert found == [5, 0.5]
    assert type(found[0]) is int


def test_a_wrong_value_is_refused_with_what_is_allowed(cli, capsys):
    """By the command line where the type says it, else by us."""
    with pytest.raises(SystemExit):
        cli(FastDataModule, "--data.num_workers", "many")
    told = capsys.readouterr().err
    assert "int" in told
    assert "'auto'" in told
    with pytest.raises(FastDataError, match="batch_size=0"):
        cli(FastDataModule, "--data.batch_size", "0")


def test_a_path_is_no_dataset(cli):
    """A string has a length and elements, and would otherwise be trained on letter by letter."""
    module = cli(FastDataModule, "--data.train_dataset", "some/folder").datamodule
    with pytest.raises(FastDataError, match="train_dataset='some/folder'") as caught:
        module.train_dataloader()
    assert "class_path" in caught.value.fix


def test_datasets_and_transforms_from_a_file(cli):
    """By ``class_path``: one, a list, a dict; samplers within ``dataloader_kwargs`` as well."""
    fake = {"class_path": "torchvision.datasets.FakeData", "init_args": {"size": 10}}
    sampler = {"class_path": "torch.utils.data.RandomSampler", "init_args": {"data_source": [1, 2, 3]}}
    data = {
        "train_dataset": [fake, fake],
        "val_dataset": {"a": fake},
        "test_dataset": fake,
        "dataloader_kwargs": {"train": {"sampler": sampler}},
        "num_workers": 0,
    }
    with open("config.yaml", "w") as file:
        yaml.safe_dump({"data": data}, file)
    module = cli(FastDataModule, "--config", "config.yaml").datamodule
    assert [len(loader.dataset) for loader in module.train_dataloader()] == [10, 10]
    assert {key: len(loader.dataset) for key, loader in module.val_dataloader().items()} == {"a": 10}
    assert len(module.test_dataset) == 10
    assert isinstance(module.dataloader_kwargs["train"]["sampler"], torch.utils.data.RandomSampler)
    resize = '{"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": 32}}'
    images = cli(ImageFolderDataModule, "--data.root", "photos", "--data.eval_transform", resize).datamodule
    assert type(images.eval_transform).__name__ == "Resize"


@pytest.mark.parametrize("package", PACKAGES)
@DATA_MODULES
def test_a_printed_configuration_is_clean_and_feeds_back_in_unchanged(cli, capsys, package, name):
    """No objects, no internal names; read again it prints the same."""
    cls = getattr(PACKAGES[package][0], name)
    arguments = [*REQUIRED[name], "--data.num_workers=auto", "--data.dataloader_kwargs={timeout: 60}"]
    first = printed(capsys, cli, cls, *arguments, "--print_config", package=package)
    read = yaml.safe_load(first)["data"]
    assert set(read) == set(arguments_of(cls))
    assert (read["num_workers"], read["dataloader_kwargs"]) == ("auto", {"timeout": 60})
    assert "Mixin" not in first
    assert "object at" not in first
    with open("again.yaml", "w") as file:
        file.write(first)
    assert printed(capsys, cli, cls, "--config", "again.yaml", "--print_config", package=package) == first


@pytest.mark.parametrize("package", PACKAGES)
def test_the_class_may_be_chosen_on_the_command_line(cli, capsys, package):
    """By its public path, which is also the one that is printed; another package's class is refused."""
    home = PACKAGES[package][0].__name__
    chosen = [f"--data={home}.ImageFolderDataModule", "--data.root=photos", "--data.num_workers=4"]
    text = printed(capsys, cli, None, *chosen, "--print_config", package=package)
    assert yaml.safe_load(text)["data"]["class_path"] == f"{home}.ImageFolderDataModule"
    module = cli(None, *chosen, package=package).datamodule
    assert type(module) is PACKAGES[package][0].ImageFolderDataModule
    assert (module.root, module.num_workers) == ("photos", 4)
    (other,) = set(PACKAGES) - {package}
    with pytest.raises(SystemExit):
        cli(None, f"--data={PACKAGES[other][0].__name__}.FastDataModule", package=package)


def test_a_class_of_the_users_has_our_arguments_and_his(cli, capsys):
    """Through its ``**kwargs``, documented in either place."""
    text = printed(capsys, cli, Counting, "--help")
    assert re.search(r"--data.count COUNT +Samples \(count\)\. \(type: int, default: 12\)", text)
    assert "Worker processes per loader" in text
    module = cli(Counting, "--data.count=5", "--data.num_workers=0").datamodule
    assert (module.count, module.num_workers) == (5, 0)


def test_values_that_refer_to_each_other(cli):
    """Jsonargparse's other parser, which knows ``${...}``."""
    with open("config.yaml", "w") as file:
        file.write("data:\n  batch_size: 8\n  eval_batch_size: ${data.batch_size}\n")
    module = cli(FastDataModule, "--config", "config.yaml", parser_kwargs={"parser_mode": "omegaconf"}).datamodule
    assert (module.batch_size, module.eval_batch_size) == (8, 8)


# LightningCLI: callbacks and whole runs

QUIET = [
    *("--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"),
    *("--trainer.enable_model_summary=false", "--trainer.max_epochs=1", "--trainer.enable_checkpointing=false"),
]


@pytest.mark.parametrize("package", PACKAGES)
def test_callbacks_by_their_path(cli, package):
    """With arguments of their own, several of them, for either package."""
    pack = PACKAGES[package][0]
    home = pack.__name__
    found = cli(
        pack.FastDataModule,
        f"--trainer.callbacks+={home}.DataWaitMonitor",
        "--trainer.callbacks.save_to=run.jsonl",
        "--trainer.callbacks.warn_above=null",
        f"--trainer.callbacks+={home}.DataAudit",
        "--trainer.callbacks.path=audit.jsonl",
        f"--trainer.callbacks+={home}.LoaderTuner",
        "--trainer.callbacks.allow_foreign=true",
        package=package,
    ).trainer.callbacks
    monitor = next(callback for callback in found if type(callback) is pack.DataWaitMonitor)
    audit = next(callback for callback in found if type(callback) is pack.DataAudit)
    assert (monitor._save_to, monitor._warn_above, audit._path) == ("run.jsonl", None, "audit.jsonl")
    assert next(callback for callback in found if type(callback) is pack.LoaderTuner)._allow_foreign is True


@pytest.mark.parametrize("package", PACKAGES)
def test_callbacks_explain_themselves(cli, capsys, package):
    """The help of a callback has its arguments and their lines."""
    pack = PACKAGES[package][0]
    for name, words in (("DataWaitMonitor", "File for the steps of each fit"), ("DataAudit", "File for the lines")):
        asked = f"--trainer.callbacks.help={pack.__name__}.{name}"
        text = printed(capsys, cli, pack.FastDataModule, asked, package=package)
        assert words in text
        for argument in list(inspect.signature(getattr(pack, name)).parameters):
            assert f"--trainer.callbacks.{argument}" in text


class OneNumber(Recorder):
    """Takes batches of images and labels."""

    def training_step(self, batch, batch_idx):
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        pass


def test_the_saved_configuration_of_a_run_runs_again(cli, tmp_path):
    """LightningCLI writes it into the run's folder; a checkpoint of the run rebuilds the module."""
    folder_of_images(tmp_path / "photos")
    command = ["fit", *QUIET, f"--trainer.default_root_dir={tmp_path}", "--data.root=photos", "--data.image_size=16"]
    cli(ImageFolderDataModule, *command, "--data.num_workers=0", model=OneNumber, run=True)
    command, options = ["fit", "--config", str(tmp_path / "config.yaml")], {"save_config_kwargs": {"overwrite": True}}
    done = cli(ImageFolderDataModule, *command, model=OneNumber, run=True, **options)
    done.trainer.save_checkpoint("run.ckpt")
    for module in (done.datamodule, ImageFolderDataModule.load_from_checkpoint("run.ckpt", weights_only=True)):
        assert (module.root, module.image_size, module.num_workers) == ("photos", 16, 0)


# Hydra

PUT_TOGETHER = """
data:
  _target_: lightning_fastdata.ImageFolderDataModule
  root: photos
  image_size: 16
  batch_size: 4
  num_workers: auto
  val_split: 0.25
  dataloader_kwargs:
    train: {timeout: 0}
callbacks:
  - _target_: lightning_fastdata.DataWaitMonitor
    save_to: run.jsonl
    summary: false
"""


@pytest.fixture
def configured(tmp_path):
    """``configured(*overrides)``: the configuration above, changed on the command line."""
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "config.yaml").write_text(PUT_TOGETHER)

    def read(*overrides):
        with initialize_config_dir(str(folder), version_base="1.3"):
            return compose("config", overrides=list(overrides))

    return read


def test_hydra_makes_a_module_from_a_file(configured):
    """Plain values as they are written, "auto" among them, and what the command line changes."""
    module = instantiate(configured().data)
    assert type(module) is ImageFolderDataModule
    assert (module.num_workers, module.val_split, module.dataloader_kwargs) == ("auto", 0.25, {"train": {"timeout": 0}})
    changed = configured(
        "data.num_workers=4", "data.val_split=3", "+data.pin_memory=false", "data.dataloader_kwargs=null"
    )
    module = instantiate(changed.data)
    assert (module.num_workers, module.val_split, module.pin_memory) == (4, 3, False)
    assert module.dataloader_kwargs is None


@pytest.mark.parametrize("convert", ["none", "partial", "object", "all"])
def test_hydras_containers_become_plain(convert):
    """Whatever ``_convert_`` says: a list of datasets is a list of loaders, and arguments are a plain dict."""
    fake = {"_target_": "torchvision.datasets.FakeData", "size": 6}
    module = instantiate(
        OmegaConf.create(
            {
                "_target_": "lightning_fastdata.FastDataModule",
                "_convert_": convert,
                "train_dataset": [fake, fake],
                "val_dataset": {"a": fake},
                "num_workers": 0,
                "batch_size": 4,
                "dataloader_kwargs": {"train": {"timeout": 0}, "val": {"batch_size": "${batch_size}"}},
            }
        )
    )
    assert [len(loader.dataset) for loader in module.train_dataloader()] == [6, 6]
    assert list(module.val_dataloader()) == ["a"]
    assert (type(module.train_dataset), type(module.val_dataset)) == (list, dict)
    assert module.dataloader_kwargs == {"train": {"timeout": 0}, "val": {"batch_size": 4}}
    assert {type(part) for part in (module.dataloader_kwargs, *module.dataloader_kwargs.values())} == {dict}


def test_arrays_and_dataset_arguments_from_hydra(tmp_path):
    """The other places where a container may come in."""
    for name in ("X", "y"):
        np.save(tmp_path / f"{name}.npy", np.arange(8.0))
    files = [{"_target_": "numpy.load", "file": str(tmp_path / f"{name}.npy")} for name in ("X", "y")]
    tensors = instantiate(OmegaConf.create({"_target_": "lightning_fastdata.TensorDataModule", "train": files}))
    assert [part.tolist() for part in next(iter(tensors.train_dataloader()))]
    assert isinstance(tensors, TensorDataModule)
    letters = {"_target_": "lightning_fastdata.TorchvisionDataModule", "name": "EMNIST", "root": str(tmp_path)}
    module = instantiate(OmegaConf.create({**letters, "dataset_kwargs": {"split": "balanced"}}))
    assert type(module.dataset_kwargs) is dict
    assert module.hparams.dataset_kwargs == {"split": "balanced"}


def test_a_part_of_a_configuration_put_in_by_hand():
    """Where the DataModule is written out, and only some values come from Hydra; also in ``setup``."""
    config = OmegaConf.create({"loader": {"timeout": 0}, "wrong": {"timeout": "soon"}})
    module = FastDataModule(Numbers(8), num_workers=0, dataloader_kwargs={"train": config.loader})
    assert type(module.dataloader_kwargs["train"]) is dict
    with pytest.raises(FastDataError, match="timeout='soon'"):
        FastDataModule(Numbers(8), dataloader_kwargs=config.wrong)

    class InSetup(FastDataModule):
        def setup(self, stage):
            self.train_dataset = instantiate([{"_target_": "torchvision.datasets.FakeData", "size": 6}])

    module = InSetup(num_workers=0)
    module.setup("fit")
    assert [len(loader.dataset) for loader in module.train_dataloader()] == [6]
    made = FastDataModule.from_datasets(instantiate([{"_target_": "torchvision.datasets.FakeData", "size": 6}]))
    assert type(made.train_dataset) is list


def test_what_is_no_configuration_is_left_alone(monkeypatch):
    """The very same object, with OmegaConf loaded or not."""
    datasets = {"a": Numbers(3), "b": [Numbers(4)]}
    assert to_builtin(datasets) is datasets
    config = OmegaConf.create({"a": 1})
    monkeypatch.delitem(__import__("sys").modules, "omegaconf")
    assert to_builtin(config) is config


def test_a_missing_value_is_said():
    """``???`` marks what must be given."""
    with pytest.raises(Exception, match="Missing mandatory value"):
        FastDataModule(Numbers(3), dataloader_kwargs=OmegaConf.create({"timeout": "???"}))


# Lightning's tuners, with the monitor and the audit watching


class SizeFinder(BatchSizeFinder):
    """Notes what the search itself trained on, and takes it from the model's notes."""

    def on_fit_start(self, trainer, pl_module):
        super().on_fit_start(trainer, pl_module)
        self.sizes = sorted({len(batch) for batches in pl_module.seen["train"].values() for batch in batches})
        pl_module.seen.clear()


@pytest.mark.slow
@pytest.mark.parametrize("monitor_first", [True, False])
@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_batch_size_finder(tmp_path, mode, monitor_first):
    """The size it ends with is trained with, and planned for; summary, run file and audit hold none of the trials."""
    monitor = DataWaitMonitor(summary=False, warn_above=None, save_to=tmp_path / "run.jsonl")
    finder = SizeFinder(mode=mode, steps_per_trial=2, init_val=2, max_trials=3, margin=0.0)
    callbacks = [monitor, DataAudit(tmp_path / "audit.jsonl"), finder][:: 1 if monitor_first else -1]
    data = FastDataModule(Numbers(64), Numbers(16), batch_size=2, num_workers=0)
    model = Tunable()
    quiet_trainer(callbacks=callbacks, max_epochs=2, default_root_dir=tmp_path).fit(model, datamodule=data)
    assert finder.sizes == [2, 4, 8]
    assert data.batch_size == finder.optimal_batch_size == 8
    assert [len(batch) for batch in model.seen["train"][0]] == [8] * 8
    assert sorted(model.samples()[0]) == list(range(64))
    summary = monitor.summary()
    assert (summary.steps, summary.samples, summary.epochs) == (16, 128, 2)
    assert [(stage.stage, stage.runs, stage.batches) for stage in summary.stages] == [("val", 2, 4)]
    assert [record.step for record in monitor.records()] == list(range(16))
    assert read_run(tmp_path / "run.jsonl").summary.steps == 16
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 2
    assert {"train", "val"} == set(summary.plans) == set(data.plans)


@pytest.mark.slow
def test_batch_size_finder_does_not_stumble_over_a_size_that_does_not_fit(tmp_path):
    """What it does on running out of memory: half the size, new loaders."""

    class Small(Tunable):
        def training_step(self, batch, batch_idx):
            if len(batch) > 8:
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(batch, batch_idx)

    monitor = DataWaitMonitor(summary=False, warn_above=None)
    finder = SizeFinder(mode="power", steps_per_trial=2, init_val=2, max_trials=6)
    data = FastDataModule(Numbers(64), batch_size=2, num_workers=1)
    quiet_trainer(callbacks=[monitor, finder], max_epochs=1, default_root_dir=tmp_path).fit(Small(), datamodule=data)
    assert data.batch_size == 8
    assert monitor.summary().steps == 8


@pytest.mark.timed
@pytest.mark.slow
@pytest.mark.parametrize("monitor_first", [True, False])
def test_batch_size_finder_in_an_evaluation(monitor_first):
    """Its trials are no part of the evaluation's figures, and of its time."""

    class Slow(Numbers):
        def __getitem__(self, index):
            time.sleep(0.002)
            return super().__getitem__(index)

    class Finder(BatchSizeFinder):
        def on_validation_start(self, trainer, pl_module):
            begin = time.perf_counter()
            super().on_validation_start(trainer, pl_module)
            self.took_s = time.perf_counter() - begin

    monitor, finder = DataWaitMonitor(summary=False), Finder(max_trials=3, init_val=2, steps_per_trial=2)
    data = FastDataModule(Slow(40), Slow(40), batch_size=2, num_workers=0)
    trainer = quiet_trainer(callbacks=[monitor, finder] if monitor_first else [finder, monitor])
    begin = time.perf_counter()
    trainer.validate(Recorder(), datamodule=data, verbose=False)
    all_s = time.perf_counter() - begin
    (stage,) = monitor.summary().stages
    assert (stage.runs, stage.batches) == (1, 5)
    assert stage.wait_s >= 40 * 0.002
    assert stage.elapsed_s <= all_s - finder.took_s
    assert stage.wait_share > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
def test_the_tuner_scales_the_batches_of_every_stage(tmp_path, method):
    """The monitor, which is taken away for the trials, has nothing to say of them."""
    monitor = DataWaitMonitor(summary=False, warn_above=None)
    rows = torch.arange(64.0)
    data = TensorDataModule(train=rows, val=rows, test=rows, predict=rows, batch_size=2)
    trainer = quiet_trainer(callbacks=[monitor], max_epochs=1, default_root_dir=tmp_path)
    size = Tuner(trainer).scale_batch_size(
        Tunable(), datamodule=data, method=method, max_trials=3, steps_per_trial=2, init_val=2
    )
    assert data.batch_size == size == 8
    summary = monitor.summary()
    assert (summary.steps, summary.stages) == (0, ())
