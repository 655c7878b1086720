"""Random generators that a dataset holds: found wherever they are, seeded for each sample, and given back."""

import functools
import pickle
import random
from collections import deque

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, RandomSampler

from lightning_fastdata import auto_dataloader
from lightning_fastdata.loaders.rng import seed_generators
from lightning_fastdata.loaders.state import held_generators
from lightning_fastdata.loaders.state.held_generators import HeldGenerators, find_generators
from lightning_fastdata.loaders.state.snapshot import changed_between, take_snapshot
from lightning_fastdata.loaders.state.worker_lifetime import WorkerLifetime

BITS = (np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64, np.random.MT19937)
KINDS = {
    "Python": lambda seed: random.Random(seed),
    "torch": lambda seed: torch.Generator().manual_seed(seed),
    "RandomState": lambda seed: np.random.RandomState(seed),
    "a bit generator": lambda seed: np.random.PCG64(seed),
    **{kind.__name__: functools.partial(lambda kind, seed: np.random.Generator(kind(seed)), kind) for kind in BITS},
}
"""How each kind of generator is made from a seed."""


def draw(generator):
    """Numbers of several sorts: an odd count of Gaussians and of small integers leaves a half of something over."""
    if isinstance(generator, random.Random):
        return generator.random(), generator.gauss(0, 1), generator.getrandbits(64)
    if isinstance(generator, torch.Generator):
        return tuple(torch.randn(3, generator=generator).tolist())
    if isinstance(generator, np.random.RandomState):
        return generator.rand(), generator.randn(), int(generator.randint(0, 2**31))
    if isinstance(generator, np.random.BitGenerator):
        return tuple(generator.random_raw(2).tolist())
    return generator.random(), generator.standard_normal(), int(generator.integers(0, 2**31, dtype=np.int32))


class Data(Dataset):
    """Sixteen samples, each what its generators give."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return [draw(one) for one in vars(self).values()]


def found(dataset, **parts):
    return find_generators({"dataset": dataset, **parts})


def paths(dataset, **parts):
    return [one.path for one in found(dataset, **parts).derived]


def of_a_pass(dataset):
    held = HeldGenerators({"dataset": dataset})
    held.follow(0, 0, 0)
    return held


def samples(dataset, **options):
    loader = auto_dataloader(dataset, **{"seed": 7, "num_workers": 0, "batch_size": 2, "collate_fn": list, **options})
    return [sample for batch in loader for sample in batch]


# Each kind


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_its_numbers_follow_from_the_word(make):
    """Not from a seed of its own, nor from what it gave before; other words give others."""
    one, other = Data(rng=make(1)), Data(rng=make(2))
    draw(other.rng)
    drawn = []
    for dataset in (one, other):
        held = of_a_pass(dataset)
        for word in (5, 6, 5 + (1 << 40)):
            held.seed(word)
            drawn.append(draw(dataset.rng))
    assert drawn[:3] == drawn[3:]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("fails", [False, True], ids=["", "after an exception"])
def test_it_is_given_back(make, fails):
    """With the half of a pair that it had kept."""
    dataset, twin = Data(rng=make(1)), make(1)
    draw(dataset.rng), draw(twin)
    held = of_a_pass(dataset)
    try:
        with held.kept():
            held.seed(5)
            draw(dataset.rng)
            assert not fails
    except AssertionError:
        pass
    assert [draw(dataset.rng) for _ in range(3)] == [draw(twin) for _ in range(3)]


def test_the_numbers_are_a_promise():
    """A run that is resumed under another release goes on with the same ones."""
    dataset = Data(
        numpy=np.random.default_rng(0).bit_generator,
        philox=np.random.Philox(0),
        sfc=np.random.SFC64(0),
        old=np.random.RandomState(0),
        python=random.Random(0),
        torch=torch.Generator(),
    )
    of_a_pass(dataset).seed(5)
    drawn = [int(bits.random_raw()) for bits in (dataset.numpy, dataset.philox, dataset.sfc)]
    more = dataset.old.tomaxint(), dataset.python.getrandbits(64), dataset.torch.initial_seed()
    assert (*drawn, *more) == PROMISED


PROMISED = (
    *(5399015205860431319, 2251973643152612158, 13829502191574055657),
    *(8185454826097778862, 5652163213168655371, 12849238668969291817),
)


# Each place

IN_A_CLOSURE, IN_A_GLOBAL, IN_A_DEFAULT, OTHER_DEFAULT = (random.Random(number) for number in range(4))


class Slotted:
    __slots__ = ("rng",)

    def __init__(self):
        self.rng = random.Random(0)


class OfTheClass:
    R = np.random.RandomState(0)


class OfALibrary:
    R = np.random.RandomState(0)


OfALibrary.__module__ = "json.somewhere"


class ReadsGlobal:
    def __call__(self, sample):
        return IN_A_GLOBAL.random()


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator()


def closure():
    generator = random.Random(0)
    return lambda sample: generator.random()


def with_defaults(sample, one=IN_A_DEFAULT, other=OTHER_DEFAULT):
    return one.random() + other.random()


PLACES = {
    "dataset.t[0]": lambda: [random.Random(0)],
    "dataset.t['a']": lambda: {"a": np.random.default_rng(0)},
    "dataset.t[1][0]": lambda: (1, deque([random.Random(0)])),
    "dataset.t.rng": Slotted,
    "dataset.t (OfTheClass).R": OfTheClass,
    "dataset.t (OfALibrary).R": OfALibrary,
    "dataset.t (ReadsGlobal).__call__ (global IN_A_GLOBAL)": ReadsGlobal,
    "dataset.t (closure over generator)": closure,
    "dataset.t._modules['0'].generator": lambda: torch.nn.Sequential(Module()),
    "dataset.t.keywords['rng']": lambda: functools.partial(int, rng=random.Random(0)),
}


@pytest.mark.parametrize("path", PLACES)
def test_it_is_found(path):
    """Attributes, slots, items, closures, globals, classes, modules and arguments."""
    assert paths(Data(t=PLACES[path]())) == [path]


def test_the_collate_function_and_defaults_are_looked_at():
    """Two defaults have one path, and still numbers of their own."""
    parts = found(Data(), collate_fn=with_defaults).derived
    assert [one.path for one in parts] == ["collate_fn (a default)", "collate_fn (a default)'"]
    assert len({one.word for one in parts}) == 2


def test_one_object_has_one_place():
    """The first path to it, also where two generators share what makes their bits."""
    generator = np.random.default_rng(0)
    shared = Data(a=generator, b=[generator], c=np.random.Generator(generator.bit_generator))
    assert paths(shared) == ["dataset.a"]


def test_the_global_generators_are_none():
    """They have a rule of their own, which is older."""
    bits = np.random.get_bit_generator()
    held = Data(a=torch.default_generator, b=np.random.mtrand._rand, c=random._inst, d=np.random.Generator(bits))
    assert found(held) == found(None)


def test_another_generator_changes_nothing_for_the_first():
    """Its numbers follow from its own place, not from the order of places."""
    one, two = Data(rng=random.Random(0)), Data(more=np.random.default_rng(0), rng=random.Random(0))
    for dataset in (one, two):
        of_a_pass(dataset).seed(5)
    assert draw(one.rng) == draw(two.rng)


class Engine(random.Random):
    def seed(self, a=None, version=2):
        pass


class OwnBits(np.random.PCG64):
    pass


def test_one_with_ways_of_its_own_is_named():
    """And one in a set, whose order is another in every process."""
    held = Data(
        a=random.SystemRandom(), b=Engine(), c=np.random.Generator(OwnBits(0)), d={random.Random(0)}, e=random.Random(0)
    )
    held.f = np.random.RandomState(np.random.PCG64(0))
    kinds = ("a (SystemRandom)", "b (Engine)", "c (Generator)", "d[0] (Random)", "f (RandomState)")
    assert sorted(found(held).left_alone) == [f"dataset.{kind}" for kind in kinds]
    assert paths(held) == ["dataset.e"]
    assert "dataset.a (SystemRandom), dataset.b (Engine)" in found(held).lines()[1]


def test_what_was_not_searched_is_named():
    """A long list that holds some, and what lies too deep; not every long list."""
    deep = random.Random(0)
    for _ in range(12):
        deep = [deep]
    held = Data(paths=[("a", 1)] * 1000, rngs=[random.Random(0) for _ in range(200)], deep=deep)
    assert found(held).not_searched[0] == "dataset.rngs"
    assert found(held).not_searched[1].startswith("dataset.deep[0]")
    assert len(found(held).not_searched) == 2


# In a loader


def test_no_two_draw_alike():
    """Sixteen samples, a generator of each kind, all made from one seed, and twice the same kind."""
    dataset = Data(**{name: make(0) for name, make in KINDS.items()}, again=random.Random(0))
    numbers = [number for sample in samples(dataset) for drawn in sample for number in drawn]
    assert len(set(numbers)) == len(numbers)


def test_nothing_is_left_of_a_pass():
    """The generators of the training process are as they were; a pass is the same the second time it is the first."""
    dataset = Data(**{name: make(0) for name, make in KINDS.items()})
    before = take_snapshot({"dataset": dataset})
    first = samples(dataset)
    assert changed_between(before, take_snapshot({"dataset": dataset})) == ()
    assert samples(dataset) == first


class Watched(Data):
    def __getitem__(self, index):
        self.order.append(index)
        return self.rng.random() if isinstance(self.rng, random.Random) else draw(self.rng)


@pytest.mark.parametrize("shared", [False, True], ids=["of its own", "shared with the dataset"])
def test_a_generator_of_the_sampler_goes_on_as_it_would(shared):
    """Its orders are those without any dataset."""
    generator = torch.Generator().manual_seed(3)
    sampler = RandomSampler(range(16), generator=generator)
    orders = [*sampler, *sampler]
    generator.manual_seed(3)
    watched = Watched(order=[], rng=generator if shared else random.Random(0))
    loader = auto_dataloader(watched, num_workers=0, batch_size=5, sampler=sampler, collate_fn=list)
    numbers = [number for _ in range(2) for batch in loader for number in batch]
    assert watched.order == orders
    assert len(set(numbers)) == 32


class Lazy(Data):
    """Makes its generator where it is first used, as one does for workers."""

    rng = None

    def __getitem__(self, index):
        if self.rng is None:
            self.rng = np.random.default_rng(0)
        return self.rng.random()


def test_one_that_the_first_sample_makes():
    """The batch that made it is loaded once more: the first number is no other than that of a later process."""
    made = Lazy()
    first = samples(made)
    assert len(set(first)) == 16
    assert samples(made) == first


def test_the_batch_that_is_loaded_once_more_is_the_same():
    """Also where a dataset of whole batches writes to the indices that it gets."""

    class Writes(Lazy):
        batched_fetch = True

        def __getitems__(self, indices):
            drawn = [self[index] for index in indices], indices.tolist()
            indices += 100
            return drawn

    loader = auto_dataloader(Writes(), num_workers=0, batch_size=8, shuffle=False)
    assert [indices for _, indices in loader] == [list(range(8)), list(range(8, 16))]


class LazyQueue(Data):
    """Gives away what it has, and makes a generator of its own."""

    def __getitem__(self, index):
        if self.rng is None:
            self.rng = random.Random(0)
        return self.left.pop(0)


def test_a_batch_that_changes_the_dataset_is_not_loaded_once_more():
    """In the training process nothing is given away twice."""
    dataset = LazyQueue(rng=None, left=list(range(16)))
    loader = auto_dataloader(dataset, batch_size=4, shuffle=False, num_workers=0)
    assert torch.cat(list(loader)).tolist() == list(range(16))


def test_one_that_a_pass_replaces():
    """Looked for in each pass."""
    dataset = Data(rng=random.Random(0))
    loader = auto_dataloader(dataset, seed=7, num_workers=0, batch_size=16, collate_fn=list, shuffle=False)
    first = next(iter(loader))
    dataset.rng = random.Random(9)
    second = next(iter(loader))
    other = Data(rng=random.Random(5))
    again = auto_dataloader(other, seed=7, num_workers=0, batch_size=16, collate_fn=list, shuffle=False)
    assert [next(iter(again)), next(iter(again))] == [first, second]


def test_a_collate_function_draws_too():
    """From the seed of its batch."""
    generator = np.random.default_rng(0)

    def mixed(batch):
        return generator.random()

    def run():
        return list(auto_dataloader(Data(), seed=7, num_workers=0, batch_size=2, collate_fn=mixed))

    first = run()
    assert len(set(first)) == 8
    assert run() == first


def test_whole_batches_have_one_seed():
    """As they have it for the global generators."""

    class Whole(Data):
        def __getitems__(self, indices):
            return [self.rng.random() for _ in indices]

    drawn = samples(Whole(rng=random.Random(0)), batch_size=4)
    assert len(set(drawn)) == 16
    assert samples(Whole(rng=random.Random(1)), batch_size=4) == drawn


def test_a_dataset_that_says_it_draws_nothing_global():
    """``uses_global_rng = False`` says nothing of what it holds."""

    class Quiet(Data):
        uses_global_rng = False

    assert samples(Quiet(rng=random.Random(0))) == samples(Quiet(rng=random.Random(1)))


def test_deterministic_false_leaves_it_alone():
    """Its own seed has an effect, and it goes on."""
    dataset, twin = Data(rng=random.Random(0)), random.Random(0)
    drawn = samples(dataset, deterministic=False, shuffle=False)
    assert drawn == [[draw(twin)] for _ in range(16)]
    assert draw(dataset.rng) == draw(twin)


def test_the_plan_says_so(caplog):
    """Which generators, and that their seeds have no effect."""
    with caplog.at_level("INFO"):
        auto_dataloader(Data(rng=random.Random(0)), num_workers=0)
        auto_dataloader(Data(rng=random.Random(0)), num_workers=0, deterministic=False)
        auto_dataloader(Data(), num_workers=0)
    assert caplog.text.count("dataset.rng: seed, epoch and sample decide the numbers") == 1


@pytest.mark.parametrize(("deterministic", "counts"), [(True, False), (False, True)])
def test_drawing_in_the_training_process_starts_no_new_workers(deterministic, counts):
    """What theirs gives follows from the seed; else their copy would be another one."""
    dataset = Data(rng=np.random.default_rng(0))
    lifetime = WorkerLifetime.of(auto_dataloader(dataset, num_workers=1, deterministic=deterministic))
    assert lifetime.may_keep()
    draw(dataset.rng)
    assert lifetime.has_changed() == counts


# What it costs


def test_nothing_is_done_where_there_is_none(monkeypatch):
    """Two looks a pass, none for a batch or a sample; what seeds is what seeded before."""
    looks = []

    def look(parts, **options):
        looks.append(options)
        return find_generators(parts, **options)

    monkeypatch.setattr(held_generators, "find_generators", look)
    held = HeldGenerators({"dataset": Data()})
    for epoch in range(3):
        for number in (0, 4, 8):
            held.follow(epoch, 0, number)
            assert not (held.looks_again and held.has_more())
    for _ in range(2):  # validation is of epoch 0 each time
        held.follow(0, 0, 0)
    assert held.seed is seed_generators
    assert held.derived == ()
    assert [look.get("most") for look in looks] == [None, held_generators.LATER_OBJECTS, None, None, None, None]


def test_every_process_finds_its_own():
    """What a spawned worker gets is where to look."""
    held = of_a_pass(Data(rng=random.Random(0)))
    copy = pickle.loads(pickle.dumps(held))
    copy.follow(0, 0, 0)
    copy.seed(5)
    held.seed(5)
    assert draw(copy.parts["dataset"].rng) == draw(held.parts["dataset"].rng)
