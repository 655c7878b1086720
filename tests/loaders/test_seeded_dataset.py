"""Random numbers of a sample that only (seed, epoch, index) decides."""

import pickle
import random
import types

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_fastdata.datamodules.splits import SplitView
from lightning_fastdata.loaders import rng, seeded_dataset
from lightning_fastdata.loaders.order import BATCH, sample_seed, stream
from lightning_fastdata.loaders.planned import identity_collate
from lightning_fastdata.loaders.rng import (
    load_generators,
    random_state,
    save_generators,
    seed_generators,
    set_random_state,
)
from lightning_fastdata.loaders.sample_keys import sample_number
from lightning_fastdata.loaders.seeded_dataset import BatchRequest, SeededDataset
from lightning_fastdata.loaders.splitmix import mix


def draw():
    """One number of each global generator."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))


class Noise(Dataset):
    """A sample is what the three generators give while it is loaded."""

    classes = ("even", "odd")

    def __init__(self, length=20):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return draw()


def view(dataset=None, collate_fn=identity_collate, seed=7, batched=True):
    return SeededDataset(Noise() if dataset is None else dataset, collate_fn, seed, batched=batched)


def load(asked, indices, epoch=0, cycle=0, number=0, occurrences=None):
    return asked[BatchRequest(epoch, cycle, number, list(indices), occurrences)].batch


@pytest.fixture
def in_worker(monkeypatch):
    """As if this process were a worker."""
    monkeypatch.setattr(seeded_dataset, "get_worker_info", lambda: types.SimpleNamespace(id=0))


def numbers_of(word):
    seed_generators(word)
    return draw()


# Seeding


def test_numpy_and_torch_get_different_halves():
    """Both are a Mersenne Twister that takes 32 bits: seeded alike they would give the very same numbers."""

    def shared():
        words = np.random.randint(0, 2**32, 1000, dtype=np.uint32)
        return len(set((words % 2**31).tolist()).intersection(torch.randint(0, 2**31, (100,)).tolist()))

    seed_generators((5 << 32) + 5)
    assert shared() == 100  # so it matters
    seed_generators(sample_seed(stream(1, 0), 3))
    assert shared() == 0


def test_seeding_forgets_numbers_kept_back():
    """Gaussian numbers come in pairs, and a generator keeps the second: it must not reach the next sample."""

    def gaussians():
        return random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))

    seed_generators(9)
    first = gaussians()  # leaves one kept back in each generator
    seed_generators(9)
    assert gaussians() == first


def test_the_samples_numbers_are_a_promise():
    """These may never change: a run resumed under a newer release has to draw the same augmentations."""

    class Seeds(Noise):
        def __getitem__(self, index):
            return random.random(), float(np.random.rand()), torch.initial_seed()

    ((python, numpy, torchs),) = load(view(Seeds()), [5], epoch=1)
    assert (python, numpy) == (0.020140666970643428, 0.9823860617072175)
    assert torchs == sample_seed(stream(7, 1), 5) & 0xFFFFFFFF == 1735001511


def test_a_sample_is_seeded_by_its_formula():
    """From seed, epoch, cycle, index and occurrence, nothing else."""
    asked = view(seed=7)
    assert load(asked, [4, 9], epoch=3, cycle=1) == [numbers_of(sample_seed(stream(7, 3, 1), n)) for n in (4, 9)]
    assert load(asked, [4], occurrences=[2]) == [numbers_of(sample_seed(stream(7, 0), 4, 2))]


def test_a_samples_numbers_do_not_depend_on_its_batch():
    """Neither on its place in the batch, nor on its neighbours, nor on the number of the batch, nor on what ran."""
    asked = view()
    (alone,) = load(asked, [4])
    draw()
    assert load(asked, [9, 2, 4], number=6)[2] == alone


# The caller's generators


def test_the_training_process_gets_its_generators_back():
    """Exactly: also numbers kept back by Gaussians, on which dropout and initialization depend."""
    random.gauss(0, 1), np.random.randn(), torch.randn(())  # each keeps one back
    before = random_state()
    load(view(), [1, 2, 3])
    expected = [random.gauss(0, 1), *np.random.randn(3), *torch.randn(3).tolist(), *draw()]
    set_random_state(before)
    assert [random.gauss(0, 1), *np.random.randn(3), *torch.randn(3).tolist(), *draw()] == expected


@pytest.mark.parametrize("place", ["dataset", "collate"])
def test_they_are_put_back_after_an_error(place):
    """A sample that cannot be loaded is caught by some users."""

    def fail(*_):
        draw()
        raise OSError("no such picture")

    class Broken(Noise):
        __getitem__ = fail

    asked = view(Broken()) if place == "dataset" else view(collate_fn=fail)
    seed_generators(1)
    with pytest.raises(OSError, match="no such picture"):
        load(asked, [1, 2])
    assert draw() == numbers_of(1)


@pytest.mark.parametrize("batched", [True, False])
def test_without_a_seed_all_generators_are_left_alone(batched):
    """``deterministic=False``: samples draw on from the process's generators."""
    seed_generators(1)
    batches = [load(view(seed=None, batched=batched), [index]) for index in (1, 1)]
    found = [batch[0] if batched else batch for batch in batches]
    seed_generators(1)
    assert found == [draw(), draw()]


# Collating


def test_the_collate_functions_numbers_depend_on_the_first_sample_only():
    """Not on how many random numbers the samples drew, nor on the rest of the batch."""

    def collate(samples):
        return draw()

    class Plain(Noise):
        def __getitem__(self, index):
            return index

    asked = view(collate_fn=collate)
    numbers = load(asked, [4, 5])
    assert numbers == load(asked, [4, 9, 1]) == load(view(Plain(), collate), [4])
    assert numbers == numbers_of(mix(sample_seed(stream(7, 0), 4) + BATCH))
    assert numbers not in (load(asked, [5, 4]), load(asked, [4, 5], epoch=1), load(view(), [4])[0])


def test_the_collate_function_gets_the_samples():
    """A list of them, or without batching the one sample; the batch's number comes back with it."""
    delivered = view(range(20), lambda samples: ("collated", samples))[BatchRequest(0, 0, 6, [3, 4], None)]
    assert delivered[:2] == (6, ("collated", [3, 4]))
    assert load(view(range(20), lambda sample: ("as is", sample), batched=False), [3]) == ("as is", 3)


def test_without_batching_an_index_may_be_a_list():
    """``batch_size=None`` with a BatchSampler as sampler: the dataset is asked for the list, seeded by all of it."""

    class Rows(Noise):
        def __getitem__(self, index):
            return index, draw()

    asked = view(Rows(), batched=False)
    (first, numbers), (second, others) = load(asked, [[1, 2]]), load(asked, [[1, 3]])
    assert (first, second) == ([1, 2], [1, 3])
    assert numbers != others


# Kinds of datasets


class WholeNoise(Noise):
    """Loads a batch at a time."""

    def __getitems__(self, indices):
        return [(index, draw()) for index in indices]


@pytest.mark.parametrize("subset", [False, True])
def test_a_dataset_that_loads_whole_batches_is_seeded_once(subset):
    """By the batch's first sample, as it does not say where one sample ends; a Subset hands the call on."""
    dataset = Subset(WholeNoise(), range(20)) if subset else WholeNoise()
    found = load(view(dataset), [4, 9])
    seed_generators(sample_seed(stream(7, 0), 4))
    assert found == [(4, draw()), (9, draw())]
    assert load(view(dataset, seed=None), [3])[0][0] == 3


def test_a_view_of_a_part_is_seeded_by_the_parts_numbering():
    """Index 1 of a Subset is its second sample, whatever its number in the whole."""
    for part in (Subset(Noise(), [5, 6]), SplitView(Noise(), [5, 6]), ConcatDataset([Noise(1), Noise(1)])):
        assert load(view(part), [1]) == load(view(), [1])


class TransformedPart(Subset):
    """As torch's documentation of Subset says how to."""

    def __getitem__(self, index):
        return super().__getitem__(index)[0] + torch.rand(())

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def test_a_part_with_transforms_of_its_own_is_seeded():
    """Sample by sample, though torch would ask it for whole batches."""
    part = TransformedPart(TensorDataset(torch.zeros(4)), [3, 2])
    seed_generators(sample_seed(stream(7, 0), 1))
    assert load(view(part), [0, 1])[1] == torch.rand(())


# The view itself


def test_a_view_answers_for_its_dataset():
    """A worker_init_fn finds it as ``get_worker_info().dataset``, and may open a file there."""
    dataset = Noise(5)
    asked = view(dataset)
    assert (len(asked), asked.classes, asked.length) == (5, ("even", "odd"), 5)
    asked.length = 7
    asked.handle = "open"
    assert (len(asked), dataset.length, dataset.handle) == (7, 7, "open")
    with pytest.raises(AttributeError, match="nothing"):
        _ = asked.nothing


@pytest.mark.parametrize("dataset", [Noise(5), Subset(Noise(5), [1]), SplitView(Noise(5), [1]), range(5)])
def test_a_view_pickles(dataset):
    """Spawned workers receive it that way."""
    asked = view(dataset)
    again = pickle.loads(pickle.dumps(asked))
    assert len(again) == len(asked)
    assert load(again, [0]) == load(asked, [0])


# Generators in a checkpoint


def test_generators_survive_a_checkpoint(tmp_path):
    """Saved as integers and tensors, so that ``torch.load(weights_only=True)`` takes them; Gaussians included."""
    seed_generators(3)
    random.gauss(0, 1), np.random.randn(), torch.randn(())
    torch.save(save_generators(2), tmp_path / "a.ckpt")

    def follow():
        return [random.gauss(0, 1), *np.random.randn(3), *torch.randn(3).tolist(), *draw()]

    expected = follow()
    seed_generators(4)
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    load_generators(saved)
    assert follow() == expected
    assert saved["rank"] == 2
    assert "cuda" not in saved


def test_saving_generators_moves_none():
    """A checkpoint must not change the run."""
    seed_generators(3)
    save_generators(0)
    assert draw() == numbers_of(3)


@pytest.fixture
def fake_cuda(monkeypatch):
    """A CUDA generator for each device, by name."""
    states = {"cuda:0": torch.tensor([0], dtype=torch.uint8), "cuda:1": torch.tensor([1], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[str(device)])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({str(device): state}))
    return states


def test_the_models_own_cuda_generator_is_saved(fake_cuda):
    """Dropout on a GPU draws from it; that of another device is left alone."""
    saved = save_generators(0, torch.device("cuda:1"))
    fake_cuda["cuda:1"] = torch.tensor([9], dtype=torch.uint8)
    load_generators(saved, torch.device("cuda:1"))
    assert {name: state.tolist() for name, state in fake_cuda.items()} == {"cuda:0": [0], "cuda:1": [1]}


@pytest.mark.usefixtures("fake_cuda")
def test_a_cpu_run_continues_a_cuda_checkpoint_and_the_reverse(fake_cuda):
    """What the device lacks is left out."""
    load_generators(save_generators(0, torch.device("cuda:1")), torch.device("cpu"))
    load_generators(save_generators(0, torch.device("cpu")), torch.device("cuda:1"))
    load_generators(save_generators(0, torch.device("cuda:1")))
    assert {name: state.tolist() for name, state in fake_cuda.items()} == {"cuda:0": [0], "cuda:1": [1]}


def test_a_part_that_fetches_batches_its_own_way_is_asked_for_them():
    """Torch calls the ``__getitems__`` of a Subset's subclass; so does the view."""

    class Negated(Subset):
        def __getitems__(self, indices):
            return [-self.dataset[self.indices[index]] for index in indices]

    assert load(view(Negated(range(10), [3, 4])), [0, 1]) == [-3, -4]


def test_names_of_the_view_hide_none_of_the_dataset():
    """``get_worker_info().dataset.seed`` is the dataset's; a Subset's ``dataset`` is what it is a part of."""
    noise = Noise()
    noise.seed = 99
    asked = view(Subset(noise, [1, 2]))
    assert asked.dataset is noise
    asked = view(noise)
    assert asked.seed == 99
    asked.seed = 7
    assert noise.seed == asked.seed == 7
    assert type(view([5, 6])[1]) is int


# Datasets that take seeds


class Seeded(Noise):
    """Hands back what it was asked for."""

    batched_fetch = True
    accepts_seeds = True
    uses_global_rng = False

    def __getitems__(self, indices, seeds):
        assert seeds.dtype == np.uint64
        return np.asarray(indices).tolist(), seeds.tolist(), draw()


def with_seeds(dataset):
    """As a loader of the run with seed 7 makes it."""
    return SeededDataset(dataset, identity_collate, 7, batched=True, source=7)


def test_a_dataset_that_takes_seeds_gets_one_for_each_sample():
    """Those that would have been put into the generators, which stay untouched."""
    start = stream(7, 2, 1)
    indices, seeds, _ = load(with_seeds(Seeded()), [4, 1, -1], epoch=2, cycle=1)
    assert indices == [4, 1, -1]
    assert seeds == [sample_seed(start, number) for number in indices]
    _, seeds, _ = load(with_seeds(Seeded()), [4, 4], epoch=2, cycle=1, occurrences=[0, 1])
    assert seeds == [sample_seed(start, 4), sample_seed(start, 4, 1)]
    key = sample_number("name") & (2**64 - 1)
    assert load(with_seeds(Seeded()), ["name"], epoch=2, cycle=1)[1] == [sample_seed(start, key)]
    seed_generators(3)
    assert load(with_seeds(Seeded()), [1])[2] == numbers_of(3), "the generators are where they were"


def test_a_part_of_a_dataset_that_takes_seeds_takes_them():
    """The seed is that of the number that the sampler drew, as everywhere."""
    part = Subset(SplitView(Seeded(), [9, 8, 7]), [2, 0])
    assert load(with_seeds(part), [0, 1])[:2] == ([7, 9], [sample_seed(stream(7, 0), number) for number in (0, 1)])


def test_seeds_follow_from_the_run_whatever_becomes_of_the_generators():
    """With ``deterministic=False`` the generators are left alone; seeds that are not drawn cost nothing."""

    def seeds(source):
        asked = SeededDataset(Seeded(), identity_collate, None, batched=True, source=source)
        return load(asked, [1, 2], epoch=3)[1]

    assert seeds(5) == [sample_seed(stream(5, 3), number) for number in (1, 2)]
    assert seeds(5) != seeds(6)


@pytest.mark.parametrize(
    ("dataset", "batched", "collates_own"),
    [(ConcatDataset([Seeded(), Seeded()]), True, False), (Seeded(), False, False), (Seeded(), True, True)],
    ids=["sample by sample", "without batching", "a collate function of the user's"],
)
def test_generators_are_seeded_where_seeds_do_not_reach(dataset, batched, collates_own):
    def collate(samples):
        return draw()

    asked = SeededDataset(dataset, collate if collates_own else identity_collate, 7, batched=batched)
    found = []
    for word in (1, 2):
        seed_generators(word)
        found.append(load(asked, [3]))
    assert repr(found[0]) == repr(found[1])


# Times


@pytest.fixture
def clock(monkeypatch):
    """Time passes only where a test says so; the list has every reading."""
    clock = types.SimpleNamespace(now=100.0, readings=[])

    def read():
        clock.readings.append(clock.now)
        return clock.now

    monkeypatch.setattr(seeded_dataset, "perf_counter", read)
    return clock


class Slowly(Noise):
    """Each sample takes as many seconds as its number says."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def __getitem__(self, index):
        self.clock.now += index
        return index


@pytest.mark.parametrize("seed", [7, None])
def test_a_batch_says_when_and_how_long_it_was_loaded(clock, seed):
    """Its collating included; and which sample took longest, the first of equals."""

    def collate(samples):
        clock.now += 50
        return samples

    output = view(Slowly(clock), collate, seed)[BatchRequest(0, 0, 6, [1, 4, 2, 4], None)]
    assert output.times == (100.0, 161.0, 4, 1, 4.0, -1)
    assert len(clock.readings) == 3 + 4  # one for each sample, three for the batch


class Together(Slowly):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


@pytest.mark.parametrize(
    ("kind", "indices", "batched", "times"),
    [
        (Slowly, [0, 0], True, (100.0, 100.0, 2, 0, 0.0, -1)),
        (Slowly, [3], False, (100.0, 103.0, 1, 0, 3.0, -1)),
        (Together, [3, 4], True, (100.0, 107.0, 2, -1, 0.0, -1)),  # of whole batches no sample is known
    ],
    ids=["no time", "without batching", "together"],
)
@pytest.mark.parametrize("seed", [7, None])
def test_the_slowest_sample_is_known_where_samples_are_loaded_one_by_one(clock, kind, indices, batched, times, seed):
    assert view(kind(clock), seed=seed, batched=batched)[BatchRequest(0, 0, 0, indices, None)].times == times
    if kind is Slowly:
        assert view(kind(clock), seed=None)[BatchRequest(0, 0, 0, [], None)].times[2:] == (0, -1, 0.0, -1)


@pytest.mark.usefixtures("in_worker")
def test_a_worker_names_itself_and_does_not_pay_for_putting_back():
    """Its generators are its own."""
    seed_generators(1)
    assert view()[BatchRequest(0, 0, 0, [1, 2], None)].times.worker == 0
    assert draw() != numbers_of(1)


def test_the_first_samples_time_does_not_hold_what_the_batch_costs(clock, monkeypatch):
    """In the training process the generators' states are taken down first."""
    state = rng.random_state

    def slow_state():
        clock.now += 9
        return state()

    monkeypatch.setattr(rng, "random_state", slow_state)
    assert view(Slowly(clock))[BatchRequest(0, 0, 0, [1, 2], None)].times == (100.0, 112.0, 2, 1, 2.0, -1)


def test_a_batch_and_its_times_come_through_a_queue(clock):
    """Pickled as one; every protocol gives back what went in."""
    delivered = view(Slowly(clock))[BatchRequest(0, 0, 6, [1, 4], None)]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(delivered, protocol))
        assert back == delivered
        assert (type(back), type(back.times)) == (seeded_dataset.WorkerOutput, seeded_dataset.LoadTimes)


def test_pinning_leaves_the_times_as_they_are(clock):
    """What torch does to a batch on its way: it goes through named tuples and pins what can be pinned."""

    class Pinnable:
        def pin_memory(self):
            return "pinned"

    delivered = view(Slowly(clock), lambda samples: [Pinnable()])[BatchRequest(0, 0, 6, [1, 4], None)]
    pinned = torch.utils.data._utils.pin_memory.pin_memory(delivered)
    assert pinned == (6, ["pinned"], delivered.times)
    assert (type(pinned), type(pinned.times)) == (seeded_dataset.WorkerOutput, seeded_dataset.LoadTimes)
    assert list(map(type, pinned.times)) == [float, float, int, int, float, int]
