"""Where an option's value comes from: DataModules as people wrote them for plain Lightning, on another base class."""

import copy
import dataclasses
import pickle
from functools import cached_property

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from torch.utils.data import DataLoader, Dataset

from lightning_fastdata import FastDataModule, ImageFolderDataModule, TensorDataModule, TokenDataModule
from lightning_fastdata.datamodules.option_lookup import UNREAD, option, peek
from lightning_fastdata.errors import FastDataError

pytestmark = pytest.mark.filterwarnings(
    "ignore:Total length of `list`", "ignore:You defined a `validation_step`", "ignore:This DataLoader will create"
)


class Numbers(Dataset):
    def __init__(self, length=12):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index


class Sets(FastDataModule):
    """Makes its data, and loads them in this process."""

    num_workers = 0

    def setup(self, stage=None):
        self.train_dataset, self.val_dataset = Numbers(), Numbers(6)


def sizes(module, split="train"):
    module.setup("fit")
    return [len(batch) for batch in getattr(module, f"{split}_dataloader")()]


# Where a batch size may be written


class Saved(Sets):
    def __init__(self, batch_size=5):
        super().__init__()
        self.save_hyperparameters()


class Before(Sets):
    def __init__(self):
        self.batch_size = 5
        super().__init__()


class OfTheClass(Sets):
    batch_size = 5


class Property(Sets):
    @property
    def batch_size(self):
        return self.size  # which nothing has before setup

    def setup(self, stage):
        super().setup(stage)
        self.size = 5


class WithoutInit(Sets):
    def __init__(self, batch_size=5):
        self.batch_size = batch_size


class InSetup(Sets):
    def __init__(self):
        super().__init__(batch_size=3)

    def setup(self, stage):
        super().setup(stage)
        self.batch_size = 5


@dataclasses.dataclass
class Fields(Sets):
    batch_size: int = 5
    folder: str = "data"


@dataclasses.dataclass
class FieldsAndInit(Sets):
    folder: str
    batch_size: int = 5

    def __init__(self, folder="data"):
        self.folder = folder
        super().__init__()


@dataclasses.dataclass(slots=True)
class Slots(FastDataModule):
    batch_size: int = 5
    num_workers: int = 0

    def __post_init__(self):
        FastDataModule.__init__(self)

    setup = Sets.setup


class Behind:
    """A base behind ours."""

    batch_size = 5


class OfALaterBase(Sets, Behind):
    pass


SHAPES = [Saved, Before, OfTheClass, Property, WithoutInit, InSetup, Fields, FieldsAndInit, Slots, OfALaterBase]


@pytest.mark.parametrize("kind", SHAPES)
def test_a_batch_size_is_taken_wherever_it_is_written(kind):
    """And read as an attribute it is the same; an assignment after that wins, as Lightning's tuner makes it."""
    module = kind()
    assert sizes(module) == [5, 5, 2]
    assert module.batch_size == option(module, "batch_size") == 5
    if kind is not Property:
        module.batch_size = 12
        assert [len(batch) for batch in module.train_dataloader()] == [12]


@pytest.mark.parametrize("kind", SHAPES)
def test_all_shapes_are_copied_and_pickled(kind):
    """Private state is made at its first use, and nothing of it belongs to one instance."""
    module = kind()
    module.setup("fit")
    module.train_dataloader()
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert sizes(twin) == [5, 5, 2]
        assert twin.plans.keys() == {"train"}
        assert twin.plans is not module.plans


def test_an_argument_goes_before_the_class_and_hparams():
    """What LightningCLI passes back where nothing was said is no argument."""

    class Mine(OfTheClass):
        shuffle, drop_last, seed, num_workers = False, True, 7, 0

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.save_hyperparameters()

    neutral = {"batch_size": None, "num_workers": "auto", "shuffle": None, "seed": None, "drop_last": None}
    module = Mine(**neutral)
    assert (module.batch_size, module.num_workers, module.shuffle, module.seed) == (5, 0, False, 7)
    assert sizes(module) == [5, 5]
    assert next(iter(module.train_dataloader())).tolist() == [0, 1, 2, 3, 4]
    assert sizes(Mine(batch_size=6, drop_last=False)) == [6, 6]


def test_two_values_that_differ_are_one_error():
    """Both by the user, and neither later than the other; the same value twice is none."""

    class Twice(Sets):
        def __init__(self, first, second):
            self.batch_size = first
            super().__init__(batch_size=second)

    with pytest.raises(FastDataError, match=r"batch_size=4 was passed .* but self\.batch_size was 5 before"):
        Twice(5, 4)
    assert sizes(Twice(4, 4)) == [4, 4, 4]

    class Fixed(Sets):
        batch_size = property(lambda self: 5)

    module = Fixed(batch_size=4)
    module.setup("fit")
    with pytest.raises(FastDataError, match=r"batch_size=4 was passed .* but its property batch_size gives 5"):
        module.train_dataloader()
    assert sizes(Fixed(batch_size=5)) == [5, 5, 2]


def test_no_property_runs_before_its_loader_is_made():
    """Neither in the constructor, nor when it is printed, nor for the loader of another split."""
    ran = []

    class Lazy(FastDataModule):
        num_workers = 0

        @cached_property
        def val_dataset(self):
            ran.append("val")
            return Numbers(6)

        @property
        def train_dataset(self):
            ran.append("train")
            return Numbers()

    module = Lazy(batch_size=6)
    assert "batch_size=6" in repr(module)
    assert peek(module, "val_dataset") is UNREAD
    assert ran == []
    assert [len(batch) for batch in module.train_dataloader()] == [6, 6]
    assert ran == ["train"]
    assert [len(batch) for batch in module.val_dataloader()] == [6]
    module.val_dataloader()
    assert ran == ["train", "val"]


def test_names_in_hparams_that_mean_something_else():
    """A name of data is what the user makes a dataset of; a test set that is cut in setup is not cut off as well."""

    class Mine(Sets):
        def __init__(self, val_dataset="wiki", val_split="validation", test_split=0.5, shuffle=False):
            super().__init__()
            self.save_hyperparameters()

        def setup(self, stage):
            self.train_dataset = Numbers()

    module = Mine()
    assert sizes(module) == [12]
    assert module.val_dataloader() == []
    assert next(iter(module.train_dataloader())).tolist() == list(range(12))


# Functions


class Doubles(Sets):
    batch_size = 12

    def collate_fn(self, samples):
        return 2 * torch.tensor(samples)


def doubled(samples):
    return 2 * torch.tensor(samples)


class DoublesStatic(Sets):
    batch_size, collate_fn = 12, staticmethod(doubled)


class DoublesFunction(Sets):
    batch_size, collate_fn = 12, doubled


@pytest.mark.parametrize("kind", [Doubles, DoublesStatic, DoublesFunction])
def test_a_collate_function_of_the_class(kind):
    """A method, or a function put there; for every split, and a function of a split goes before it."""
    module = kind(dataloader_kwargs={"val": {"collate_fn": len}})
    module.setup("fit")
    (batch,) = module.train_dataloader()
    assert sorted(batch.tolist()) == list(range(0, 24, 2))
    assert list(module.val_dataloader()) == [6]


def test_a_function_of_another_signature_is_an_error_that_says_so():
    """A method that gives the function, and one that gives a dataset: both lack ``@property``."""

    class Gives(Sets):
        def collate_fn(self):
            return doubled

    with pytest.raises(FastDataError, match=r"Gives\.collate_fn\(\)") as caught:
        sizes(Gives())
    assert "@property" in caught.value.fix

    class Method(FastDataModule):
        def val_dataset(self):
            return Numbers()

    with pytest.raises(FastDataError, match="val_dataset is a function or a method") as caught:
        Method().val_dataloader()
    assert "@property" in caught.value.fix


class Helpers(Sets):
    """Its helpers and results have names of ours."""

    batch_size = 12

    def seed(self):
        return 3

    def make_dataloader(self, dataset, shuffle):
        return "of the user's"

    def setup(self, stage):
        super().setup(stage)
        self.plans, self.datasets = "plans.json", {"train": 1}
        self._loaders = self._logged = self._collection = self.seed()


def test_helpers_and_results_of_the_users_keep_their_names():
    """They are neither called nor read, and keep working."""
    module = Helpers()
    assert sizes(module) == [12]
    assert (module.plans, module.datasets, module.seed()) == ("plans.json", {"train": 1}, 3)
    assert module.make_dataloader(Numbers(), False) == "of the user's"
    assert module.val_dataloader().num_workers == 0


# Other bases


class Library(LightningDataModule):
    """A library's DataModule."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder


class CalledByHand(Sets, Library):
    def __init__(self):
        Library.__init__(self, "data")
        Sets.__init__(self, batch_size=5)


class HandedOn(Sets, Library):
    def __init__(self):
        super().__init__(batch_size=5, folder="data")


@pytest.mark.parametrize("kind", [CalledByHand, HandedOn])
def test_a_second_base_with_a_required_argument(kind):
    """Its constructor is called by hand, or gets its argument through ours."""
    module = kind()
    assert module.folder == "data"
    assert sizes(module) == [5, 5, 2]
    with pytest.raises(TypeError, match="unknown argument batch_sise"):
        Sets.__init__(module, batch_sise=5)


# The ready DataModules


def seven(batch, random):
    return torch.full_like(batch, 7)


class Method(TensorDataModule):
    def train_transform(self, batch, random):
        return seven(batch, random)


class Attribute(TensorDataModule):
    train_transform = (seven,)


class After(TensorDataModule):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.train_transform = seven


class Arrays(TensorDataModule):
    """Reads its arrays in setup, and does not call that of the base."""

    def setup(self, stage):
        self.train = torch.full((8,), 7)


@pytest.mark.parametrize("kind", [Method, Attribute, After, Arrays])
def test_transforms_and_arrays_of_a_subclass(kind):
    """As a method, as a class attribute, set after the constructor or in setup."""
    module = kind(train=None if kind is Arrays else torch.ones(8), batch_size=4)
    module.setup("fit")
    assert [batch.tolist() for batch in module.train_dataloader()] == 2 * [[7] * 4]
    assert module.train_dataset is module.train_dataset


def test_arrays_beside_a_dataset_are_refused():
    """One of them would be left out."""
    with pytest.raises(FastDataError, match=r"train=\.\.\. together with train_dataset"):
        TensorDataModule(torch.ones(8), train_dataset=Numbers())


def test_options_of_the_ready_datamodules_in_a_class(tmp_path):
    """Class attributes and properties are theirs as well; a checkpoint keeps what is known of them."""

    class Images(ImageFolderDataModule):
        image_size, on_error, batch_size = 64, "skip", 5
        num_workers = property(lambda self: self.not_known_yet)

        def train_transform(self, image):
            return image

    images = Images(tmp_path)
    assert (images.image_size, images.on_error, images.batch_size, images.cache_format) == (64, "skip", 5, "original")
    kept = {name: images.hparams[name] for name in ("image_size", "batch_size", "num_workers", "shuffle")}
    assert kept == {"image_size": 64, "batch_size": 5, "num_workers": None, "shuffle": True}
    assert option(images, "train_transform")(3) == 3

    class Tokens(TokenDataModule):
        block_length, dtype = 8, "uint32"

    torch.arange(33, dtype=torch.int32).numpy().tofile(tmp_path / "ids.bin")
    tokens = Tokens(tmp_path / "ids.bin", batch_size=4, num_workers=0, shuffle=False)
    tokens.setup("fit")
    assert next(iter(tokens.train_dataloader()))["input_ids"].tolist()[1] == list(range(8, 16))


# In a run


class Copies(Callback):
    """Copies and pickles the DataModule, and copies the Trainer, in mid-epoch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 1:
            data = trainer.datamodule
            self.twins = copy.deepcopy(data), pickle.loads(pickle.dumps(data)), copy.deepcopy(trainer).datamodule
            assert data.trainer is trainer


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_datamodule_can_be_copied_in_mid_run(num_workers):
    """With plain loaders it can; the copy leaves the run behind, and makes the same batches."""
    from datamodule_cases import Numbers, Recorder, quiet_trainer

    data = FastDataModule(
        Numbers(12), Numbers(4), batch_size=4, num_workers=num_workers, persistent_workers=num_workers > 0, seed=1
    )
    copies, model = Copies(), Recorder()
    quiet_trainer(max_epochs=2, callbacks=[copies]).fit(model, datamodule=data)
    assert len(model.samples()) == 2
    for twin in copies.twins:
        assert twin.trainer is None
        assert [int(n) for batch in twin.train_dataloader() for n in batch] == model.samples()[0]


@pytest.mark.slow
@pytest.mark.parametrize("field", ["num_workers", "prefetch_factor"])
def test_torch_is_handed_auto(field):
    """By a loader of the user's own, with attributes that were never set: one sentence says what to do."""
    from datamodule_cases import Numbers, Recorder, quiet_trainer

    class Own(FastDataModule):
        def train_dataloader(self):
            return DataLoader(Numbers(), **{"num_workers": 1, field: getattr(self, field)})

    with pytest.raises(TypeError) as caught:
        quiet_trainer(max_epochs=1).fit(Recorder(), datamodule=Own())
    (note,) = caught.value.__notes__
    assert note.startswith(f'{field}="auto" is decided when Own makes its own loaders: write auto_dataloader(')


@pytest.mark.slow
def test_without_a_constructor_call_a_run_with_a_logger_works(tmp_path):
    """Plain Lightning's Trainer asks for what its constructor sets; the batch-size finder finds the attribute."""
    from datamodule_cases import Numbers, Recorder, quiet_trainer
    from lightning.pytorch.callbacks import BatchSizeFinder
    from lightning.pytorch.loggers import CSVLogger

    class Mine(FastDataModule):
        num_workers = 0

        def __init__(self, batch_size=2):
            self.save_hyperparameters({"batch_size": batch_size})

        def setup(self, stage):
            self.train_dataset = Numbers(32)

    data, model = Mine(), Recorder()
    finder = BatchSizeFinder(mode="power", steps_per_trial=1, init_val=2, max_trials=2)
    kept = {"logger": CSVLogger(tmp_path), "default_root_dir": tmp_path, "log_every_n_steps": 1}
    trainer = quiet_trainer(max_epochs=1, callbacks=[finder], **kept)
    trainer.fit(model, datamodule=data)
    assert data.batch_size == data.hparams.batch_size == finder.optimal_batch_size == 4
    assert [len(batch) for batch in model.seen["train"][0]][-8:] == [4] * 8
