"""Plan + dataset -> torch DataLoader: order, random state, arguments."""

import gc
import inspect
import weakref

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.datapipes.iter import IterableWrapper

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.build import LoaderRequest, build_loader, check_kwargs
from lightning_fastdata.loaders.order import epoch_order
from lightning_fastdata.loaders.planned import PlannedDataLoader
from lightning_fastdata.loaders.trainer_context import TrainerContext
from lightning_fastdata.planning.options import FIELDS, LoaderPlan, Reason


class Squares(Dataset):
    classes = ("even", "odd")

    def __init__(self, length=20):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index


class Noise(Squares):
    def __getitem__(self, index):
        return torch.rand(())


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(10))


def plan(workers=0, persistent=False, source="rule", **changes):
    values = {
        "num_workers": workers,
        "prefetch_factor": 2 if workers else None,
        "pin_memory": False,
        "persistent_workers": persistent,
        "multiprocessing_context": None,
        "reasons": {name: Reason(source, "test") for name in FIELDS},
    }
    return LoaderPlan(**{**values, **changes})


def build(dataset=None, decided=None, *, seed=42, deterministic=True, epoch=0, rank=0, share=None, **arguments):
    """A loader of training data in the order of the data, with torch's batch size."""
    context = TrainerContext(epoch=epoch, rank=rank, share=share)
    arguments = {"shuffle": False, **arguments}
    request = LoaderRequest(
        dataset or Squares(), arguments=arguments, seed=seed, deterministic=deterministic, context=context
    )
    return build_loader(request, decided or plan())


def indices(loader):
    return [index for batch in loader for index in batch.tolist()]


def epochs(loader, numbers):
    found = []
    for epoch in numbers:
        loader.sampler.set_epoch(epoch)
        found.append(indices(loader))
    return found


# Order


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")  # torch's, on two cores
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (3, True)])
def test_seed_and_epoch_decide_the_order_whatever_the_workers(workers, persistent):
    """None, or 3 that are kept alive: the same batches in the same order, epoch by epoch."""
    loader = build(Squares(), plan(workers, persistent), batch_size=4, shuffle=True, seed=3)
    expected = [epoch_order(3, epoch, 20).tolist() for epoch in range(3)]
    assert epochs(loader, range(3)) == expected
    assert expected[0] != expected[1]


# Random state


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, True)])
def test_torchs_global_random_state_is_not_used_up(workers, persistent):
    """Otherwise dropout and initialization would depend on settings that should change nothing."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    loader = build(Squares(), plan(workers, persistent), batch_size=4, shuffle=True)
    for _ in range(2):
        indices(loader)
    assert torch.equal(torch.get_rng_state(), before)


def drawn(rank=0, seed=1, epoch=0, workers=1, dataset=None, **kwargs):
    loader = build(
        dataset or Noise(4), plan(workers), batch_size=4, shuffle=True, seed=seed, rank=rank, epoch=epoch, **kwargs
    )
    return sorted(next(iter(loader)).tolist())


def test_a_samples_random_numbers_depend_on_seed_and_epoch_alone():
    """The same in a worker, in the training process and on every rank; others in another epoch or with another seed."""
    assert drawn() == drawn() == drawn(workers=0) == drawn(rank=1)
    assert len({tuple(found) for found in (drawn(), drawn(epoch=1), drawn(seed=2))}) == 3
    assert len(set(drawn())) == 4


def test_undetermined_workers_draw_other_numbers_on_other_ranks_and_epochs():
    """``deterministic=False``: equal augmentations on every rank would waste the ranks; two runs of one seed agree."""

    def free(**kwargs):
        return tuple(drawn(deterministic=False, **kwargs))

    assert free() == free()
    assert len({free(), free(rank=1), free(epoch=1), free(seed=2)}) == 4


def add_noise(samples):
    """Collates as MixUp does: with random numbers."""
    return torch.stack([sample[0] for sample in samples]) + torch.rand(len(samples))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_collate_function_of_the_users_is_seeded_whatever_the_data(workers):
    """Tensors in memory draw nothing, a collate function may."""
    tensors = TensorDataset(torch.zeros(4))
    torch.manual_seed(workers)
    found = drawn(workers=workers, dataset=tensors, collate_fn=add_noise)
    assert found == drawn(workers=0, dataset=tensors, collate_fn=add_noise)
    assert found != drawn(workers=0, dataset=tensors, collate_fn=add_noise, epoch=1)


def test_data_that_draws_nothing_is_not_seeded():
    """Seeding costs time, for rows of a tensor more than loading them."""
    unseeded = [TensorDataset(torch.zeros(4)), Subset(TensorDataset(torch.zeros(4)), [1])]
    assert [build(data).determinism.seeds_samples for data in unseeded] == [False, False]
    assert build(Noise()).determinism.seeds_samples
    for collate_fn in (None, torch.utils.data.default_collate):
        assert not build(unseeded[0], collate_fn=collate_fn).determinism.seeds_samples


def test_a_loader_left_in_mid_epoch_is_freed_at_once():
    """Without waiting for the garbage collector, which takes torch's queues apart before it shuts workers down.

    Those then miss their last message, and the training process waits 5 s for each of them.
    """
    loader = build(batch_size=4, shuffle=True)
    freed, batches = weakref.ref(loader), iter(loader)
    next(batches)
    gc.disable()
    try:
        del loader, batches
        assert freed() is None
    finally:
        gc.enable()


# Arguments


def test_the_plan_arrives_in_the_loader():
    """The decided options are those of the loader; it is a torch DataLoader."""
    loader = build(Squares(), plan(2, True, prefetch_factor=5), batch_size=4)
    assert isinstance(loader, DataLoader)
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (2, 5, True)


def test_the_loader_takes_every_argument_of_torchs():
    """Lightning builds it again from its arguments, by name or by position."""
    known = set(inspect.signature(DataLoader.__init__).parameters)
    assert {"num_workers", "sampler", "in_order"} <= known
    again = PlannedDataLoader(Squares(), 4, False, num_workers=0, timeout=0)
    assert (again.batch_size, len(again)) == (4, 5)
    assert set(vars(again)) - set(vars(DataLoader(Squares()))) == {"determinism"}, "no state of its own"


def test_a_sampler_of_the_users_replaces_shuffling():
    """A WeightedRandomSampler that knows only sample 3 gives only sample 3."""
    weights = [float(index == 3) for index in range(20)]
    sampler = WeightedRandomSampler(weights, 6)
    loader = build(batch_size=2, shuffle=True, sampler=sampler)
    assert loader.sampler is sampler
    assert indices(loader) == [3] * 6


class ShuffledBatches(BatchSampler):
    """Batches of neighbours in random order, as for sequences of like length."""

    def __iter__(self):
        batches = list(super().__iter__())
        return iter([batches[number] for number in torch.randperm(len(batches)).tolist()])


class WithoutLength(Sampler):
    """It may go on for ever, so it cannot be drawn in advance."""

    def __iter__(self):
        for _ in range(20):
            yield int(torch.randint(20, ()))


@pytest.mark.parametrize(
    "own",
    [
        {"sampler": RandomSampler(range(20)), "batch_size": 4},
        {"sampler": WithoutLength(), "batch_size": 4},
        {"batch_sampler": BatchSampler(RandomSampler(range(20)), 4, False)},
        {"batch_sampler": ShuffledBatches(SequentialSampler(range(20)), 2, False)},
    ],
    ids=["sampler", "without length", "batches of it", "batch sampler"],
)
def test_a_sampler_of_the_users_draws_from_generators_of_its_own(own):
    """The global ones, seeded for the epoch and put back: its order is the same in every run, and dropout as well."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        loader = build(seed=5, **own)
        found.append([indices(loader), indices(loader)])
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]
    assert indices(build(seed=6, **own)) != found[0][0]


def test_a_batch_sampler_of_the_users_replaces_batching():
    """batch_size, shuffle and drop_last step aside, as torch demands."""
    batches = BatchSampler(range(6), batch_size=3, drop_last=False)
    loader = build(batch_size=7, shuffle=True, drop_last=True, batch_sampler=batches)
    assert [batch.tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5]]


def test_an_iterable_is_read_as_it_comes():
    """Nothing is injected; it cannot be shuffled from outside, which torch says."""
    for given in ({"shuffle": False}, {"shuffle": None}):
        loader = build(Stream(), batch_size=5, **given)
        assert [batch.tolist() for batch in loader] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    with pytest.raises(ValueError, match="expected unspecified shuffle option, but got shuffle=True"):
        build(Stream(), batch_size=5, shuffle=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("shuffle", [None, False, True])
def test_a_datapipe_is_shuffled_as_torch_does_it(shuffle):
    """Its shuffler is told; without a word it shuffles as it was made."""

    def samples(make):
        torch.manual_seed(0)
        given = {"shuffle": shuffle}  # torch's default is None
        pipe = IterableWrapper(range(20)).shuffle(buffer_size=8)
        return [int(sample) for batch in make(pipe, batch_size=4, **given) for sample in batch]

    ours, plain = samples(build), samples(DataLoader)
    assert (ours == list(range(20))) is (plain == list(range(20))) is (shuffle is False)


def test_a_generator_of_the_users_is_kept():
    """dataloader_kwargs win."""
    generator = torch.Generator()
    assert build(generator=generator).generator is generator


def test_a_timeout_does_not_stop_a_loader_without_workers():
    """With "auto" the machine decides whether there are workers; a timeout for them must not crash without any."""
    assert indices(build(Squares(4), timeout=60)) == [0, 1, 2, 3]
    assert build(Squares(4), plan(1), timeout=60).timeout == 60


def test_a_timeout_with_no_workers_of_the_users_is_refused():
    """Two values of the user that cannot go together."""
    with pytest.raises(FastDataError, match="num_workers=0 together with timeout=60"):
        build(Squares(4), plan(source="user"), timeout=60)


def test_shuffling_data_without_a_length_is_refused():
    """Without a length there is no order to shuffle; torch would say that object has no len()."""

    class Endless(Dataset):
        def __getitem__(self, index):
            return index

    with pytest.raises(FastDataError, match="Endless has no length"):
        build(Endless(), shuffle=True)
    assert indices(build(Endless(), sampler=[5, 6])) == [5, 6]


@pytest.mark.parametrize(
    ("kwargs", "words", "fix"),
    [
        ({"num_worker": 1}, "'num_worker'", "num_workers"),
        ({"batchsize": 1}, "'batchsize'", "batch_size"),
        ({"dataset": []}, "'dataset'", ""),
        ({"completely_unknown": 1}, "'completely_unknown'", "remove it"),
        ({"sampler": [1], "shuffle": True}, "sampler together with shuffle=True", ""),
        ({"batch_sampler": [[1]], "batch_size": 4}, "batch_sampler together with batch_size=4", ""),
        ({"batch_sampler": [[1]], "shuffle": True}, "batch_sampler together with shuffle=True", ""),
        ({"batch_sampler": [[1]], "drop_last": True}, "batch_sampler together with drop_last=True", ""),
        ({"batch_sampler": [[1]], "sampler": [1]}, "batch_sampler together with sampler=", ""),
        ({"batch_size": 0}, "batch_size=0", ""),
        ({"batch_size": -4}, "batch_size=-4", ""),
        ({"batch_size": True}, "batch_size=True", ""),
        ({"batch_size": 2.5}, "batch_size=2.5", ""),
        ({"timeout": -1}, "timeout=-1", ""),
        ({"num_workers": -1}, "num_workers=-1", ""),
        ({"prefetch_factor": 0}, "prefetch_factor=0", ""),
        ({"pin_memory": "yes"}, "pin_memory='yes'", ""),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(kwargs, words, fix):
    """One FastDataError with the value, before any data is read, not torch's own; a mistyped name gets the nearest."""
    with pytest.raises(FastDataError) as caught:
        check_kwargs(kwargs)
    assert words in caught.value.what
    assert caught.value.fix
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"sampler": [1], "shuffle": False},
        {"sampler": None, "shuffle": True},
        {"batch_sampler": [[1]], "shuffle": False, "drop_last": False},
        {"batch_size": None},
        {"num_workers": "auto", "timeout": 60, "in_order": False},
    ],
)
def test_arguments_that_work_are_taken(kwargs):
    """What torch takes together is not refused."""
    check_kwargs(kwargs)


def test_a_plain_batch_sampler_under_several_ranks_is_refused():
    """Lightning would rebuild the plain class as batches of one; a subclass is rebuilt well."""

    class Mine(BatchSampler):
        pass

    plain, mine = (kind(RandomSampler(Squares()), 4, False) for kind in (BatchSampler, Mine))
    check_kwargs({"batch_sampler": plain}, world_size=1)
    check_kwargs({"batch_sampler": mine}, world_size=2)
    with pytest.raises(FastDataError, match="BatchSampler on 2 ranks"):
        check_kwargs({"batch_sampler": plain}, world_size=2)
