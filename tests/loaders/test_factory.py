"""One planned loader for any dataset: what is read off a Trainer, and what comes out."""

import gc
import logging
import types
import weakref

import numpy as np
import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset
from torch.utils.data.datapipes.iter import IterableWrapper

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware, Limit
from lightning_fastdata.loaders import factory
from lightning_fastdata.loaders.build import LoaderRequest
from lightning_fastdata.loaders.dataset_traits import traits_of
from lightning_fastdata.loaders.factory import auto_dataloader, make_loader
from lightning_fastdata.loaders.samplers import EpochSampler
from lightning_fastdata.loaders.sharding import SetShard
from lightning_fastdata.loaders.state import hazards, worker_safety
from lightning_fastdata.loaders.trainer_context import TrainerContext, trainer_context
from lightning_fastdata.planning import workers

# torch counts the CPUs of this machine, not those the tests pretend
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

EIGHT = Hardware(cpu_limits=(Limit("quota of 8 CPUs", 8.0, "quota"),))


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch):
    """These tests are about rules; they must not depend on the machine."""
    monkeypatch.setattr(factory, "probe", lambda *, local_world_size=None: EIGHT)


class Squares(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return index


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(10))


class FakeTrainer:
    """What planning reads of a Trainer."""

    def __init__(self, **changes):
        self.strategy = types.SimpleNamespace(root_device=torch.device(changes.pop("device", "cpu")))
        self.state = types.SimpleNamespace(fn=changes.pop("fn", "fit"))
        self.num_devices, self.world_size, self.global_rank, self.current_epoch = 1, 1, 0, 0
        self.reload_dataloaders_every_n_epochs, self.limit_val_batches, self.max_epochs = 0, 1.0, 10
        self.__dict__.update(changes)


# What is read off a Trainer


def test_without_a_trainer_nothing_is_assumed():
    """No device, one rank, epoch 0."""
    assert trainer_context(None) == TrainerContext()
    assert trainer_context(FakeTrainer(fn=None)).fitting, "before it starts, training and validation may both come"


def test_what_is_known_of_a_trainer():
    """Each is read from the public attribute that holds it."""
    trainer = FakeTrainer(
        device="meta",
        fn="test",
        num_devices=4,
        world_size=8,
        global_rank=5,
        current_epoch=3,
        reload_dataloaders_every_n_epochs=2,
        limit_val_batches=0,
        max_epochs=7,
        distributed_sampler_kwargs={"num_replicas": 8, "rank": 5},
    )
    assert trainer_context(trainer) == TrainerContext(
        device_type="meta",
        local_world_size=4,
        world_size=8,
        rank=5,
        share=(5, 8),
        epoch=3,
        reload_every_n_epochs=2,
        fitting=False,
        validates=False,
        max_epochs=7,
    )


@pytest.mark.parametrize(
    ("dealt", "wanted", "share"),
    [
        ({"num_replicas": 2, "rank": 1}, True, (1, 2)),
        ({"num_replicas": 2, "rank": 1}, False, None),
        ({"num_replicas": 1, "rank": 0}, True, None),
        (None, True, None),
    ],
)
def test_who_deals_the_samples(dealt, wanted, share):
    """A rank takes its share where there are several and the user did not keep the dealing for a sampler."""
    connector = types.SimpleNamespace(use_distributed_sampler=wanted)
    trainer = FakeTrainer(distributed_sampler_kwargs=dealt, _accelerator_connector=connector)
    assert trainer_context(trainer).share == share


def test_a_real_trainer_has_what_is_read():
    """The names exist on the Trainer of the installed release."""
    from lightning.pytorch import Trainer

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=3)
    assert trainer_context(trainer) == TrainerContext(device_type="cpu", local_world_size=1, max_epochs=3)


# Plans


def planned(dataset=None, context=None, split="train", **arguments):
    """The plan of a loader, with torch's batch size unless one is passed."""
    plans = []
    dataset = Squares() if dataset is None else dataset
    make_loader(LoaderRequest(dataset, split, arguments, context=context or TrainerContext()), plans.append)
    return plans[0]


def test_the_number_of_batches_is_known_from_the_dataset():
    """100 samples in batches of 50 need no more than two workers; without a length nothing is assumed."""
    assert auto_dataloader(Squares(), batch_size=50).num_workers == planned(batch_size=50).num_workers == 2
    assert planned(batch_size=None).num_workers == 6
    with pytest.warns(UserWarning, match="IterableDataset"):
        assert planned(Stream()).num_workers == 0


def test_a_dataset_without_a_length_can_be_planned():
    """One may come with a sampler of the user's; it must not fail in the plan."""

    class Endless(Dataset):
        def __getitem__(self, index):
            return index

    assert planned(Endless(), sampler=[1, 2], batch_size=None).num_workers == 6


def test_a_sample_is_never_loaded_to_plan():
    """Reading one could open a file that a forked worker must not inherit."""

    class Untouchable(Squares):
        def __getitem__(self, index):
            raise AssertionError("read")

    planned(Untouchable())


def test_the_size_of_a_sample_is_taken_where_the_dataset_says_it(monkeypatch):
    """sample_bytes times the batch size against 64 MiB of shared memory."""
    dataset = Squares()
    dataset.sample_bytes = 2**20
    small = Hardware(cpu_limits=EIGHT.cpu_limits, shm_free_bytes=64 * 2**20)
    monkeypatch.setattr(factory, "probe", lambda *, local_world_size=None: small)
    plan = planned(dataset, batch_size=16)
    assert plan.num_workers * plan.prefetch_factor == 2
    assert "a batch is 16 MiB" in plan.reasons["num_workers"].text


@pytest.mark.parametrize(
    ("split", "context", "persistent"),
    [
        ("train", TrainerContext(max_epochs=10), True),
        ("train", TrainerContext(max_epochs=1), False),
        ("train", TrainerContext(max_epochs=-1), True),
        ("train", TrainerContext(reload_every_n_epochs=1), False),
        ("val", TrainerContext(max_epochs=1), True),
        ("val", TrainerContext(fitting=False, max_epochs=10), False),
        ("val", TrainerContext(fitting=False, reload_every_n_epochs=3), False),
        ("test", TrainerContext(fitting=False), False),
    ],
)
def test_workers_live_on_only_where_they_serve_again(split, context, persistent):
    """One epoch, or one pass of evaluation: no. Validation within a fit is read more than once, also in one epoch."""
    assert planned(context=context, split=split).persistent_workers is persistent


def test_pickling_is_tried_only_where_workers_are_spawned(monkeypatch):
    """A large dataset must not be pickled for a loader that forks, or has no workers."""
    tried = []
    monkeypatch.setattr(factory, "spawn_problem", lambda parts, reduce=None: tried.append(sorted(parts)))
    monkeypatch.setattr(factory, "default_start_method", lambda: "fork")
    planned()
    planned(num_workers=0)
    assert tried == []
    planned(multiprocessing_context="spawn", collate_fn=len)
    assert tried == [["collate_fn", "dataset"], ["worker_init_fn"]]


class Rows(Dataset):
    """Rows of an array."""

    def __init__(self):
        self.rows = np.zeros((100, 250), np.float32)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return torch.from_numpy(self.rows[index])


def test_the_figures_of_the_rehearsal_are_in_the_plan(monkeypatch):
    """The size of a batch of which nothing is declared, and what trying took."""
    small = Hardware(cpu_limits=EIGHT.cpu_limits, shm_free_bytes=64_000)
    monkeypatch.setattr(factory, "probe", lambda *, local_world_size=None: small)
    plan = planned(Rows(), batch_size=8)
    assert (plan.rehearsed.samples, plan.rehearsed.batch_bytes, plan.rehearsed.batch_tensors) == (8, 8000, 1)
    assert 0 < plan.rehearsed.sample_cpu_s < plan.rehearsed.took_s
    assert plan.num_workers * plan.prefetch_factor == 4
    assert "by a few samples that were tried" in plan.reasons["num_workers"].text
    assert "x 0.00763 MiB measured" in plan.warnings[0]
    assert planned(num_workers=2).rehearsed is None, "nothing is tried for a number of the user's"


def test_data_in_memory_stays_here_unless_its_samples_are_dear(monkeypatch):
    """By its attributes and the rehearsal together."""
    monkeypatch.setattr(workers, "CHEAP_SHARE", 1000.0)
    plan = planned(Rows(), batch_size=4)
    assert plan.num_workers == 0
    assert "the data is in memory (dataset.rows) and cheap" in plan.reasons["num_workers"].text
    assert plan.reasons["num_workers"].source == "measured"
    monkeypatch.setattr(workers, "CHEAP_SHARE", 1e-9)
    assert planned(Rows(), batch_size=4).num_workers == 6


def test_where_the_look_at_the_dataset_ended_is_said(monkeypatch):
    """Whether workers are taken or not; and it is looked at once."""
    seen = []

    def few(parts, start_method=None):
        seen.append(parts)
        return hazards.Survey(stopped_at="dataset.index.tree")

    monkeypatch.setattr(worker_safety, "survey", few)
    words = "not beyond dataset.index.tree"
    assert words in planned().reasons["num_workers"].text
    monkeypatch.setattr(workers, "CHEAP_SHARE", 1e9)
    cheap = planned(Squares())
    assert (cheap.num_workers, words in cheap.reasons["num_workers"].text) == (0, True)
    assert len(seen) == 2


def test_a_dataset_that_was_rehearsed_is_not_kept_alive(monkeypatch):
    """Its collate function may be a method of what holds it."""

    class Holder:
        def __init__(self):
            self.dataset = Squares()

        def collate(self, samples):
            return samples

    holder, times = Holder(), []
    monkeypatch.setattr(worker_safety, "_rehearse", lambda *_: times.append(1) or worker_safety.Rehearsal(samples=2))
    arguments = {"collate_fn": holder.collate}
    for _ in range(2):
        worker_safety.rehearsed(holder.dataset, arguments, traits_of(holder.dataset), "fork")
    alive = weakref.ref(holder.dataset)
    del holder, arguments
    gc.collect()
    assert times == [1]
    assert alive() is None


def test_a_large_dataset_is_not_pickled_for_a_rehearsal(monkeypatch):
    """Where processes are not forked each gets a copy: beyond a tenth of the free memory there are no workers."""
    monkeypatch.setattr(factory, "rehearsed", lambda *arguments: pytest.fail("rehearsed"))
    monkeypatch.setattr(factory, "spawn_problem", lambda parts, reduce=None: None)
    roomy = Hardware(cpu_limits=EIGHT.cpu_limits, ram_available_bytes=2**36)
    monkeypatch.setattr(factory, "probe", lambda *, local_world_size=None: roomy)
    monkeypatch.setattr(factory, "PICKLED_SHARE", 90_000 / 2**36)
    plan = planned(Rows(), multiprocessing_context="spawn")
    assert plan.num_workers == 0
    assert "under spawn the dataset is pickled for each worker" in plan.reasons["num_workers"].text
    monkeypatch.setattr(factory, "rehearsed", lambda *arguments: None)
    assert planned(Rows(), multiprocessing_context="fork").reasons["num_workers"].source == "hardware"


# The loader


def test_it_is_a_dataloader_that_was_planned_and_shuffled():
    """Torch's class, the plan's workers, our order."""
    loader = auto_dataloader(Squares(), split="train", batch_size=4)
    assert isinstance(loader, DataLoader)
    assert (loader.num_workers, loader.batch_size, loader.persistent_workers) == (6, 4, True)
    assert isinstance(loader.sampler, EpochSampler)


@pytest.mark.parametrize("split", ["val", "test", "predict"])
def test_evaluation_is_not_shuffled(split):
    """Only training is, unless asked for."""
    assert not isinstance(auto_dataloader(Squares(), split=split).sampler, EpochSampler)
    assert isinstance(auto_dataloader(Squares(), split=split, shuffle=True).sampler, EpochSampler)
    assert not isinstance(auto_dataloader(Squares(), split="train", shuffle=False).sampler, EpochSampler)


def test_rank_epoch_and_seed_reach_the_loader():
    """A resumed run goes on in its order; ranks draw different seeds for their workers."""
    wanted = {"split": "train", "seed": 9}
    one = auto_dataloader(Squares(), trainer=FakeTrainer(current_epoch=3), **wanted)
    assert (int(one.sampler.seed), one.sampler.epoch) == (9, 3)
    two = auto_dataloader(Squares(), trainer=FakeTrainer(current_epoch=3, global_rank=1, world_size=2), **wanted)
    assert list(one.sampler) == list(two.sampler)
    seeds = [loader.determinism.worker_seeds(3).initial_seed() for loader in (one, one, two)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_training_beside_validation_shares_the_budget():
    """Within a fit that validates, both together take no more than what one alone could."""
    trainer = FakeTrainer()
    train, val = (auto_dataloader(Squares(), trainer=trainer, split=split) for split in ("train", "val"))
    assert train.num_workers + val.num_workers <= 7
    alone = auto_dataloader(Squares(), trainer=FakeTrainer(fn="validate"), split="val")
    assert alone.num_workers == 6


def test_several_loaders_of_one_hook_share_the_budget():
    """As those that FastDataModule makes itself; in evaluation they follow each other, so one pool is alive."""
    assert [auto_dataloader(Squares(), loaders=loaders).num_workers for loaders in (1, 2, 7)] == [6, 3, 0]
    val = auto_dataloader(Squares(), split="val", loaders=2)
    assert (val.num_workers, val.persistent_workers) == (6, False)
    assert auto_dataloader(Squares(), loaders=2, num_workers=5).num_workers == 5


def test_batches_of_the_users_own():
    """With a batch_sampler, here one that repeats a few samples, neither length nor batch_size tells how many."""
    loader = auto_dataloader([1, 2, 3], batch_sampler=BatchSampler([0, 1, 2] * 20, 2, False))
    assert len(loader) == 30
    assert loader.num_workers == 6


def plans_in(caplog):
    return [record.getMessage() for record in caplog.records if "Data loading for" in record.getMessage()]


def test_a_plan_is_logged_once_for_a_trainer(caplog):
    """A Trainer that reloads its loaders every epoch does not repeat itself; another run logs its own."""
    import lightning.pytorch  # noqa: F401 (its logger is the one that is used)

    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    trainer = FakeTrainer(reload_dataloaders_every_n_epochs=1)
    for epoch in range(3):
        trainer.current_epoch = epoch
        auto_dataloader(Squares(), trainer=trainer)
    assert len(plans_in(caplog)) == 1
    assert "num_workers=6" in plans_in(caplog)[0]
    auto_dataloader(Squares(), trainer=FakeTrainer())
    assert len(plans_in(caplog)) == 2


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"split": "training"}, "split='training'"),
        ({"num_worker": 2}, "'num_worker'"),
        ({"dataset": []}, "the dataset (list) has 0 samples"),
        ({"loaders": 0}, "loaders=0"),
        ({"deterministic": 1}, "deterministic=1"),
        ({"seed": -1}, "seed=-1"),
        ({"num_workers": 0, "prefetch_factor": 2}, "num_workers=0 together with prefetch_factor=2"),
        ({"batch_size": 101, "drop_last": True}, "only 100 samples"),
    ],
)
def test_what_cannot_work_is_refused(kwargs, words):
    """Before the first batch, with the value."""
    with pytest.raises(FastDataError) as caught:
        auto_dataloader(kwargs.pop("dataset", Squares()), **kwargs)
    assert words in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize(("batch_size", "refused"), [(50, False), (51, True)])
def test_dropping_the_only_batch_of_all_ranks_is_refused(batch_size, refused):
    """101 samples for two ranks: 51 would fill one rank's batch, not both."""
    trainer = FakeTrainer(world_size=2, num_devices=2, distributed_sampler_kwargs={"num_replicas": 2, "rank": 0})
    kwargs = {"trainer": trainer, "batch_size": batch_size, "drop_last": True, "num_workers": 0}
    if refused:
        with pytest.raises(FastDataError, match="only 50 samples per rank"):
            auto_dataloader(range(101), **kwargs)
    else:
        loader = auto_dataloader(range(101), **kwargs)
        loader.attach_trainer(trainer)  # as a real one does with the loaders that it takes
        assert [len(batch) for batch in loader] == [50]


def two_ranks(**attributes):
    dealt = {"num_replicas": 2, "rank": 0}
    return FakeTrainer(world_size=2, num_devices=2, distributed_sampler_kwargs=dealt, **attributes)


@pytest.mark.parametrize(
    ("length", "kwargs", "option"),
    [
        (16, {}, None),
        (17, {}, "drop_last=True"),
        (19, {}, "drop_last=True"),
        (17, {"split": "val"}, "eval_repeats=False"),
        (18, {}, None),
        (17, {"drop_last": True}, None),
        (19, {"split": "val", "eval_repeats": False}, None),
        (17, {"split": "predict"}, None),
        (17, {"sampler": list(range(17))}, None),
    ],
)
def test_repeated_samples_are_said_with_the_plan(caplog, length, kwargs, option):
    """The one thing that a number of ranks changes; not where a user's sampler leaves the dealing to Lightning."""
    import lightning.pytorch  # noqa: F401 (its logger is the one that is used)

    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    auto_dataloader(
        range(length), **{"trainer": two_ranks(), "batch_size": 4, "num_workers": 0, "split": "train"} | kwargs
    )
    (plan,) = plans_in(caplog)
    expected = f"1 of {length} samples repeat, so that 2 ranks get equally many; not with {option}"
    assert plan.splitlines()[-1].strip() == expected if option else "repeat" not in plan


@pytest.mark.parametrize(("length", "batch_size"), [(17, 2), (17, 4), (17, 8), (9, 1), (1, 4)])
def test_without_repeats_every_rank_of_a_fit_makes_equally_many_steps(length, batch_size):
    """One sample is left for two ranks. The value that the error names works; only in a fit does DDP synchronize."""
    wanted = {"split": "val", "num_workers": 0}
    with pytest.raises(FastDataError, match=rf"eval_repeats=False with {length} samples") as caught:
        auto_dataloader(range(length), trainer=two_ranks(), batch_size=batch_size, eval_repeats=False, **wanted)
    fix = str(caught.value).split("eval_batch_size=")[1:]
    other = {"batch_size": int(fix[0].split()[0]), "eval_repeats": False} if fix else {"batch_size": batch_size}
    assert len(auto_dataloader(range(length), trainer=two_ranks(), **other, **wanted))
    beside = {"trainer": two_ranks(fn="test"), "eval_repeats": False, **wanted}
    assert len(auto_dataloader(range(length), batch_size=batch_size, **beside))


def test_a_context_object_is_taken_as_torch_takes_it():
    """Its start method says all of it."""
    import multiprocessing

    loader = auto_dataloader(Squares(), multiprocessing_context=multiprocessing.get_context("fork"), num_workers=1)
    assert loader.multiprocessing_context.get_start_method() == "fork"


# Iterable datasets


def test_what_cannot_be_promised_for_a_stream_is_said_once():
    """Order, random numbers and resume are its own affair; the warning names it and the way out."""
    with pytest.warns(UserWarning, match=r"Stream is an IterableDataset.*shard\(\)") as warned:
        auto_dataloader(Stream(), batch_size=2)
    assert len(warned) == 1
    with pytest.warns(UserWarning, match="each of the 2 ranks reads all of it"):
        auto_dataloader(Stream(), trainer=FakeTrainer(world_size=2, num_devices=2))


def engine(module, name, base=IterableDataset):
    return type(name, (base,), {"__module__": module, "__iter__": lambda self: iter(range(4))})


@pytest.mark.filterwarnings("ignore:.*is an IterableDataset")
@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (Stream, "num_workers=2 if it gives each worker a part of its own (shard())"),
        (engine("datasets.iterable_dataset", "IterableDataset"), "num_workers up to its num_shards"),
        (engine("litdata.streaming.dataset", "StreamingDataset"), "LitData's StreamingDataLoader"),
        (engine("streaming.base.dataset", "StreamingDataset"), "MosaicML Streaming gives each worker"),
        (engine("webdataset.compat", "WebDataset"), "up to the number of shards"),
        (engine("mine", "Mine", engine("webdataset.compat", "WebDataset")), "up to the number of shards"),
        (IterableWrapper, "sharding_filter()"),
        (engine("mine", "StreamingDataset"), "shard()"),
    ],
)
def test_no_stream_gets_workers_by_itself(kind, advice, monkeypatch):
    """Another number of workers gives other batches; the reason says which may be set, by the engine's rules."""
    monkeypatch.setenv("LIGHTNING_FASTDATA_NUM_CPUS", "8")
    plan = planned(kind(range(4)) if kind is IterableWrapper else kind())
    assert (plan.num_workers, plan.prefetch_factor) == (0, None)
    assert advice in str(plan.reasons["num_workers"])


def test_messages_without_lightning(monkeypatch, caplog):
    """In a script that never imports it, its functions for rank 0 would raise an error."""
    monkeypatch.delattr(rank_zero_only, "rank", raising=False)
    caplog.set_level(logging.INFO, "lightning_fastdata")
    with pytest.warns(UserWarning, match="Stream is an IterableDataset"):
        assert [batch.tolist() for batch in auto_dataloader(Stream(), batch_size=5, num_workers=0)][1:] == [
            [5, 6, 7, 8, 9]
        ]
    assert "Data loading for this loader" in caplog.text


def test_evaluation_on_a_stream_is_only_warned_of_repeats(recwarn):
    """One process reads it once, so there is nothing to say; two workers would read it twice."""
    auto_dataloader(Stream(), batch_size=2, split="val", num_workers=0)
    assert not [warning for warning in recwarn if "IterableDataset" in str(warning.message)]
    with pytest.warns(UserWarning, match="2 workers reads all of it"):
        auto_dataloader(Stream(), batch_size=2, split="val", num_workers=2)


@pytest.mark.filterwarnings("ignore:.*is an IterableDataset")
def test_workers_of_a_stream_know_their_share():
    """A spawned worker knows neither torch.distributed nor its rank."""
    trainer = FakeTrainer(world_size=2, global_rank=1)
    loader = auto_dataloader(Stream(), trainer=trainer, batch_size=2, num_workers=2)
    assert loader.worker_init_fn == SetShard(1, 2)
    assert auto_dataloader(Stream(), trainer=FakeTrainer(), batch_size=2, num_workers=2).worker_init_fn is None
