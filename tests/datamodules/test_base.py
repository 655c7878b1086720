"""FastDataModule without a Trainer: arguments, splits, loaders, plans."""

import logging
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.datapipes.iter import IterableWrapper

from lightning_fastdata import FastDataModule
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware, Limit
from lightning_fastdata.loaders import factory, resumable
from lightning_fastdata.loaders.planned import PlannedDataLoader
from lightning_fastdata.loaders.resumable import ResumableDataLoader
from lightning_fastdata.loaders.samplers import EpochSampler

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # torch counts this machine's CPUs


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch):
    """These tests are about rules; they must not depend on the machine."""
    hardware = Hardware(cpu_limits=(Limit("quota of 8 CPUs", 8.0, "quota"),))
    monkeypatch.setattr(factory, "probe", lambda *, local_world_size=None: hardware)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


class Numbers(Dataset):
    classes = ("even", "odd")

    def __init__(self, length=20, start=0):
        self.length, self.start = length, start

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.start + index


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(6))


def inline(*datasets, **kwargs):
    return FastDataModule(*datasets, **{"num_workers": 0, "batch_size": 4, **kwargs})


def content(loader):
    return [value for batch in loader for value in batch.tolist()]


# Arguments


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"eval_batch_size": 0}, "eval_batch_size=0"),
        ({"shuffle": "no"}, "shuffle='no'"),
        ({"drop_last": "no"}, "drop_last='no'"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"persistent_workers": "yes"}, "persistent_workers='yes'"),
        ({"seed": -1}, "seed=-1"),
        ({"split_seed": "a"}, "split_seed='a'"),
        ({"val_split": -0.1}, "val_split=-0.1"),
        ({"dataloader_kwargs": {"train": {"timout": 1}}}, "'timout'"),
        ({"dataloader_kwargs": {"train": {"timeout": 1}, "pin_memory": True}}, "splits (train) next to"),
        ({"dataloader_kwargs": {"train": 5}}, "dataloader_kwargs={'train': 5}"),
        ({"dataloader_kwargs": [1]}, "dataloader_kwargs=[1]"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_meant_are_refused_when_the_module_is_made(kwargs, words):
    """With the value and the way out, before any data is read."""
    with pytest.raises(FastDataError) as caught:
        FastDataModule(**kwargs)
    assert words in caught.value.what
    assert caught.value.fix


def test_auto_stays_auto():
    """Attributes hold the options, also after loaders were made; only plans hold decisions, with their reasons."""
    module = FastDataModule(Numbers(1000), Numbers(1000))
    module.train_dataloader(), module.val_dataloader()
    names = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor")
    assert {getattr(module, name) for name in names} == {"auto"}
    assert module.plans["train"].num_workers == 6
    assert "quota of 8 CPUs" in module.plans["train"].reasons["num_workers"].text


# Loaders and splits


def test_the_loader_of_each_split():
    """Training is shuffled, the rest is not; evaluation has its own batch size; torch's class."""
    module = inline(Numbers(), Numbers(6), Numbers(4), Numbers(2), eval_batch_size=3)
    train = module.train_dataloader()
    assert isinstance(train, DataLoader)
    assert type(train) is ResumableDataLoader
    assert isinstance(train, PlannedDataLoader)
    assert content(train) != list(range(20))
    assert sorted(content(train)) == list(range(20))
    assert content(module.val_dataloader()) == list(range(6))
    assert [len(batch) for batch in module.val_dataloader()] == [3, 3]
    assert content(module.test_dataloader()) == list(range(4))
    assert content(module.predict_dataloader()) == [0, 1]


def test_a_subclass_sets_its_datasets_in_setup():
    """What every Lightning user writes is enough; a batch size that changes later (BatchSizeFinder) is followed."""

    class Mine(FastDataModule):
        def setup(self, stage):
            self.train_dataset = Numbers(8)

    module = Mine(num_workers=0, batch_size=4, shuffle=False)
    module.setup("fit")
    assert content(module.train_dataloader()) == list(range(8))
    module.batch_size = 8
    assert len(module.train_dataloader()) == 1


def test_drop_last_is_for_training():
    """Evaluation always sees every sample."""
    module = inline(Numbers(10), Numbers(10), drop_last=True)
    assert [len(list(loader)) for loader in (module.train_dataloader(), module.val_dataloader())] == [2, 3]


def test_a_missing_split_has_no_loader():
    """Nothing for Lightning to loop over; missing training data is an error that names the way out."""
    module = FastDataModule()
    assert module.val_dataloader() == module.test_dataloader() == module.predict_dataloader() == []
    with pytest.raises(FastDataError, match="no training data") as caught:
        module.train_dataloader()
    assert "setup()" in caught.value.fix


@pytest.mark.parametrize(
    "other",
    [
        {"val_dataset": TensorDataset(torch.ones(5))},
        {"val_dataset": [TensorDataset(torch.ones(5))]},
        {"val_dataset": Numbers(), "dataloader_kwargs": {"val": {"num_workers": 0}}},
        {},
    ],
    ids=["in memory", "a list in memory", "0 workers by the user", "none"],
)
def test_a_split_without_workers_takes_no_share(other, monkeypatch):
    """Validation that starts no worker leaves all of them to training."""
    hardware = Hardware(cpu_limits=(Limit("quota of 17 CPUs", 17.0, "quota"),))
    monkeypatch.setattr(factory, "probe", lambda *, local_world_size=None: hardware)
    assert FastDataModule(Numbers(5000), **other).train_dataloader().num_workers == 15
    assert FastDataModule(Numbers(5000), Numbers()).train_dataloader().num_workers == 12


def test_held_out_parts():
    """val_split and test_split cut the training data once and for all; the views answer for the whole."""
    module = inline(Numbers(), val_split=0.2, test_split=5, shuffle=False)
    parts = [content(loader()) for loader in (module.train_dataloader, module.val_dataloader, module.test_dataloader)]
    assert [len(part) for part in parts] == [11, 4, 5]
    assert sorted(value for part in parts for value in part) == list(range(20))
    assert module.val_dataloader().dataset.classes == ("even", "odd")
    again = inline(Numbers(), val_split=0.2, test_split=5, seed=77, batch_size=1)
    assert content(again.val_dataloader()) == parts[1]
    assert content(inline(Numbers(), val_split=0.2, test_split=5, split_seed=1).val_dataloader()) != parts[1]


def test_own_validation_data_go_before_a_share():
    """With a val_dataset set in setup() nothing is cut off the training data."""
    module = inline(Numbers(), val_split=0.5)
    module.val_dataset = Numbers(3, start=100)
    assert content(module.val_dataloader()) == [100, 101, 102]
    assert len(content(module.train_dataloader())) == 20


# Seeds


def order_of(module):
    return content(module.train_dataloader())


def test_seed_everything_is_followed(monkeypatch):
    """PL_GLOBAL_SEED, unless there is a seed of the module's own; also when it is set after the module was made."""
    module, own = inline(Numbers()), inline(Numbers(), seed=42)
    before = order_of(own)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert order_of(module) == order_of(inline(Numbers(), seed=5)) != before
    assert order_of(own) == before


# dataloader_kwargs


def test_loader_arguments_of_one_split_win():
    """Per split they reach that split only, and win over the flat arguments of the module."""
    module = FastDataModule(
        Numbers(), Numbers(), num_workers=0, dataloader_kwargs={"train": {"num_workers": 1, "batch_size": 6}}
    )
    assert module.train_dataloader().num_workers == 1
    assert module.train_dataloader().batch_size == 6
    assert module.val_dataloader().batch_size == 32
    assert module.val_dataloader().num_workers == 0
    assert module.plans["train"].reasons["num_workers"].source == "user"


def test_a_batch_sampler_of_ones_own_replaces_batching():
    """batch_size and drop_last of the module step aside."""
    batches = {"train": {"batch_sampler": [[3, 1], [2]]}}
    module = inline(Numbers(), batch_size=50, drop_last=True, dataloader_kwargs=batches)
    assert [batch.tolist() for batch in module.train_dataloader()] == [[3, 1], [2]]


def test_the_collate_function_reaches_every_loader():
    """Unless a split has its own."""
    module = inline(Numbers(4), Numbers(4), collate_fn=list, dataloader_kwargs={"val": {"collate_fn": sum}})
    assert sorted(next(iter(module.train_dataloader()))) == [0, 1, 2, 3]
    assert next(iter(module.val_dataloader())) == 6


# Plans


def logged_in(caplog):
    return [record.getMessage() for record in caplog.records if "Data loading for" in record.getMessage()]


def test_a_plan_is_logged_once(caplog, monkeypatch):
    """Loaders made again say nothing, even where a reason names the free memory, which differs at every look."""
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    module = FastDataModule(Numbers(1000), Numbers(1000))
    free = iter(range(1, 10))
    limits = (Limit("quota of 8 CPUs", 8.0, "quota"),)
    monkeypatch.setattr(
        factory, "probe", lambda **_: Hardware(cpu_limits=limits, ram_available_bytes=13 * 2**29 + next(free) * 2**27)
    )
    for _ in range(3):
        module.train_dataloader()
    assert len(logged_in(caplog)) == 1
    module.val_dataloader()
    module.num_workers = 1
    module.train_dataloader()
    assert [text.splitlines()[0] for text in logged_in(caplog)] == [
        "Data loading for train:",
        "Data loading for val:",
        "Data loading for train:",
    ]


def test_printing_makes_no_loader(caplog):
    """Lightning's own print asks for every loader; ours says the options."""
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    module = FastDataModule(Numbers(), batch_size=7)
    assert str(module) == repr(module)
    assert str(module).startswith("FastDataModule(batch_size=7, num_workers='auto'")
    assert module.plans == {}
    assert logged_in(caplog) == []


def test_one_place_to_override_every_loader():
    """make_dataloader sees each split, name and dataset."""
    seen = []

    class Mine(FastDataModule):
        def make_dataloader(self, split, dataset, *, name=None, loaders=1):
            seen.append((split, name, len(dataset), loaders))
            return super().make_dataloader(split, dataset, name=name, loaders=loaders)

    module = Mine(Numbers(), [Numbers(3), Numbers(2)], num_workers=0)
    module.train_dataloader(), module.val_dataloader()
    assert seen == [("train", None, 20, 1), ("val", "val/0", 3, 2), ("val", "val/1", 2, 2)]


@pytest.mark.parametrize("used", [False, True])
def test_it_pickles(used):
    """Before and after its loaders were made; nothing unpicklable is kept."""
    module = FastDataModule(Numbers(), val_split=0.5, seed=3)
    if used:
        module.train_dataloader(), module.val_dataloader()
    again = pickle.loads(pickle.dumps(module))
    again.num_workers = module.num_workers = 0
    assert order_of(again) == order_of(module)
    assert again.plans.keys() == module.plans.keys()


# from_datasets


def test_from_datasets_goes_through_the_plan():
    """Lightning's own would build its loaders past it."""
    module = FastDataModule.from_datasets(Numbers(1000), [Numbers(4), Numbers(5)], batch_size=8, seed=3)
    assert (module.num_workers, module.batch_size, module.seed) == ("auto", 8, 3)
    assert module.train_dataloader().num_workers == module.plans["train"].num_workers > 0
    assert isinstance(module.train_dataloader().sampler, EpochSampler)
    assert len(module.val_dataloader()) == 2
    assert module.test_dataloader() == []


@pytest.mark.filterwarnings("ignore:.*is an IterableDataset")
def test_shuffle_of_a_stream():
    """The default leaves it as it comes; ``shuffle=False`` ends the shuffling of a training datapipe."""

    def samples(split, **given):
        torch.manual_seed(0)
        pipe = IterableWrapper(range(20)).shuffle(buffer_size=8)
        module = FastDataModule(pipe, pipe, num_workers=0, batch_size=4, **given)
        return [int(sample) for batch in getattr(module, f"{split}_dataloader")() for sample in batch]

    in_order = list(range(20))
    assert samples("train") != in_order
    assert samples("train", shuffle=False) == in_order
    assert samples("val", shuffle=False) != in_order
    assert samples("val", dataloader_kwargs={"shuffle": False}) != in_order  # training alone
    assert samples("train", dataloader_kwargs={"shuffle": False}) == in_order


@pytest.mark.filterwarnings("ignore:.*is an IterableDataset")
def test_from_datasets_takes_an_iterable_of_datasets():
    """As Lightning's does; a stream stays one dataset."""
    module = FastDataModule.from_datasets(Stream(), (Numbers(n) for n in (2, 3)), num_workers=0)
    assert [len(loader.dataset) for loader in module.val_dataloader()] == [2, 3]
    assert len(module.val_dataloader()) == 2
    assert content(module.train_dataloader()) == list(range(6))


def test_from_datasets_of_a_subclass_with_arguments_of_its_own():
    """What __init__ does not take is set afterwards; what was not given stays as the class has it."""

    class Mine(FastDataModule):
        def __init__(self, root, batch_size=3):
            super().__init__(batch_size=batch_size)
            self.root = root

    module = Mine.from_datasets(Numbers(), batch_size=9, num_workers=2, root="here")
    assert (module.root, module.batch_size, module.num_workers) == ("here", 9, 2)
    module = Mine.from_datasets(Numbers(), root="here")
    assert (module.batch_size, module.num_workers) == (3, "auto")


# Data that cannot be


@pytest.mark.parametrize("split", ["train", "val", "test", "predict"])
def test_an_empty_dataset_is_refused(split):
    """Which class, which split, which dataset."""
    module = inline(**{f"{split}_dataset": Numbers(0)})
    with pytest.raises(FastDataError) as caught:
        getattr(module, f"{split}_dataloader")()
    assert caught.value.what == f"FastDataModule {split}: the dataset (Numbers) has 0 samples."


def test_a_batch_larger_than_the_data_with_drop_last_is_refused():
    """Nothing would be trained on; without drop_last there is one small batch."""
    with pytest.raises(FastDataError, match="batch_size=21 with drop_last=True, but only 20 samples"):
        inline(Numbers(), batch_size=21, drop_last=True).train_dataloader()
    assert len(inline(Numbers(), batch_size=20, drop_last=True).train_dataloader()) == 1
    assert len(inline(Numbers(), batch_size=21).train_dataloader()) == 1
    assert len(inline(Numbers(), Numbers(3), batch_size=20, drop_last=True).val_dataloader()) == 1


@pytest.mark.parametrize(
    "samples",
    [
        *([(torch.ones(2), 0), (torch.ones(2), 1)], [torch.ones(2)], [1.0, 2.0], ["a.jpg"], {"x": torch.ones(4)}),
        *([None], [{"x": [1, 2]}], {"a": Numbers(), "b": [Numbers(), 3]}, [], {}, [[1, 2], [3, 4]], [Numbers(), []]),
    ],
    ids=lambda samples: type(samples).__name__,
)
def test_a_list_of_samples_is_not_taken_for_a_list_of_datasets(samples):
    """It would become a loader per sample, in silence; an empty one a run without data."""
    with pytest.raises(FastDataError, match=r"train_dataset is (a collection that holds|an empty collection)"):
        inline(samples).train_dataloader()


def test_loaders_in_place_of_datasets_are_refused():
    """A common slip; torch would say that a DataLoader is not subscriptable."""
    with pytest.raises(FastDataError, match="DataLoader"):
        inline([DataLoader(Numbers())]).train_dataloader()
    with pytest.raises(FastDataError, match="DataLoader"):
        inline(DataLoader(Numbers())).train_dataloader()


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_share_beside_data_of_its_own_is_refused(split):
    """Two options that cannot both be met."""
    with pytest.raises(FastDataError, match=f"{split}_split=0.5 together with a {split}_dataset"):
        FastDataModule(Numbers(), **{f"{split}_dataset": Numbers(3), f"{split}_split": 0.5})


def test_a_share_without_training_data_is_refused():
    """A setup that makes training data only for fitting would otherwise test on nothing, in silence."""
    module = FastDataModule(test_split=0.2, num_workers=0)
    with pytest.raises(FastDataError, match=r"test_split=0.2, but train_dataset is None"):
        module.test_dataloader()


def test_flat_arguments_that_order_or_thin_data_are_for_training():
    """Others reach every loader. Evaluation sees every sample once, in order, whatever sampler training has."""
    sampler = WeightedRandomSampler(torch.ones(20), 40)
    module = inline(Numbers(), Numbers(5), batch_size=2, dataloader_kwargs={"sampler": sampler})
    assert len(content(module.train_dataloader())) == 40
    assert content(module.val_dataloader()) == list(range(5))
    flat = inline(Numbers(), Numbers(5), batch_size=2, dataloader_kwargs={"drop_last": True, "in_order": False})
    assert content(flat.val_dataloader()) == list(range(5))
    assert [loader.in_order for loader in (flat.train_dataloader(), flat.val_dataloader())] == [False, False]


def test_a_sampler_decides_how_many_samples_there_are():
    """It may draw more than the dataset holds, or fewer; both are counted right."""
    more = {"train": {"sampler": WeightedRandomSampler(torch.ones(20), 64)}}
    assert len(inline(Numbers(), batch_size=32, drop_last=True, dataloader_kwargs=more).train_dataloader()) == 2
    fewer = {"train": {"sampler": SubsetRandomSampler(range(8))}}
    with pytest.raises(FastDataError, match="only 8 samples"):
        inline(Numbers(), batch_size=16, drop_last=True, dataloader_kwargs=fewer).train_dataloader()


def test_collections_may_hold_collections():
    """The loaders have their structure, their names lead to each, and all of them share the workers."""
    module = FastDataModule({"a": Numbers(64), "b": [Numbers(64), Numbers(64)]}, (Numbers(4), Numbers(2)), batch_size=4)
    loaders = module.train_dataloader()
    assert [type(inner) for inner in (loaders, loaders["b"])] == [dict, list]
    assert list(module.plans) == ["train/a", "train/b/0", "train/b/1"]
    assert [plan.num_workers for plan in module.plans.values()] == [2, 2, 2]
    assert [len(loader.dataset) for loader in module.val_dataloader()] == [4, 2]
    assert list(module.plans)[3:] == ["val/0", "val/1"]


def test_whole_numbers_of_numpy_are_whole_numbers():
    """Sweeps hand them over."""
    assert len(FastDataModule(Numbers(), batch_size=np.int64(4), num_workers=np.int64(0)).train_dataloader()) == 5


# Pre-flight


class Sized(Numbers):
    sample_bytes = 2**20


class Halfway:
    """A Trainer that validates in the middle of an epoch."""

    def __init__(self, **changes):
        self.num_devices = self.world_size = 1
        self.global_rank = self.current_epoch = self.reload_dataloaders_every_n_epochs = 0
        self.max_epochs, self.limit_val_batches, self.val_check_interval = 3, 1.0, 0.5
        self.lightning_module = None
        vars(self).update(changes)


def shm_of(monkeypatch, mib):
    hardware = Hardware(cpu_limits=(Limit("quota of 8 CPUs", 8.0, "quota"),), shm_free_bytes=mib * 2**20)
    monkeypatch.setattr(factory, "probe", lambda *, local_world_size=None: hardware)


@pytest.mark.parametrize("first", ["train", "val"])
def test_both_pools_of_the_user_are_refused_when_the_first_is_made(first, monkeypatch):
    """3 workers with 2 batches of 4 MiB for each split: 24 MiB alone fit into 40, 48 together do not."""
    shm_of(monkeypatch, 40)
    module = FastDataModule(Sized(400), Sized(400), batch_size=4, num_workers=3, prefetch_factor=2)
    module.trainer = Halfway()
    with pytest.raises(FastDataError, match="48 MiB") as caught:
        getattr(module, f"{first}_dataloader")()
    assert f"beside {'validation' if first == 'train' else 'training'}'s 3" in caught.value.what
    module.trainer = Halfway(val_check_interval=1.0)
    assert module.train_dataloader().num_workers == 3, "at the end of an epoch the training queue is empty"
    module.trainer = Halfway(limit_val_batches=0)
    assert module.train_dataloader().num_workers == 3


def test_the_second_of_two_pools_is_held_against_what_is_left(monkeypatch):
    """What the first one took is missing from what is free; counted again it would be refused wrongly."""
    shm_of(monkeypatch, 100)
    module = FastDataModule(Sized(400), Sized(400), batch_size=4, num_workers=3, prefetch_factor=2)
    module.trainer = Halfway()
    module.val_dataloader()
    shm_of(monkeypatch, 40)
    assert module.train_dataloader().num_workers == 3
    shm_of(monkeypatch, 20)
    with pytest.raises(FastDataError, match="24 MiB"):
        module.train_dataloader()


def test_loaders_made_again_in_mid_run_are_not_refused(monkeypatch):
    """Their predecessors still hold what seems to be missing."""
    shm_of(monkeypatch, 20)
    module = FastDataModule(Sized(400), batch_size=4, num_workers=3, prefetch_factor=2)
    module.trainer = Halfway(reload_dataloaders_every_n_epochs=1, current_epoch=1)
    assert module.train_dataloader().num_workers == 3


def test_auto_keeps_off_the_users_other_pool(monkeypatch):
    """Half of 64 MiB, of which validation's 4 workers have 16 by the user's word: 4 batches of 4 MiB are left."""
    shm_of(monkeypatch, 64)
    module = FastDataModule(Sized(400), Sized(400), batch_size=4, dataloader_kwargs={"val": {"num_workers": 4}})
    plan = module.train_dataloader() and module.plans["train"]
    assert plan.num_workers * plan.prefetch_factor == 4
    assert "16 batches" not in "".join(plan.warnings)
    assert "4 batches under way x 4 MiB + 4 batches under way x 4 MiB" in plan.warnings[0]


def test_a_worker_lost_in_mid_step_is_explained(monkeypatch, caplog):
    """Torch raises from a signal, wherever the program is; the hook says what the counters say."""
    caplog.set_level(logging.INFO)
    module = FastDataModule(Sized(400), batch_size=4, num_workers=1)
    loader = module.train_dataloader()
    loader._hardware_at_start = Hardware(cpu_limits=(Limit("1", 1.0, "quota"),), oom_kills=0)
    after = Hardware(cpu_limits=(Limit("1", 1.0, "quota"),), oom_kills=1)
    monkeypatch.setattr(resumable, "probe", lambda: after)
    module.trainer = type("Training", (), {"train_dataloader": loader})()
    caplog.clear()
    module.on_exception(ValueError("of the model's"))
    FastDataModule().on_exception(ValueError("before there was a Trainer"))
    assert caplog.text == ""
    module.on_exception(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
    assert "the kernel has killed 1 process" in caplog.text
