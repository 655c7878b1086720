"""Datasets that make whole batches: asked once a batch, with packed indices, by the loader itself."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, Dataset, RandomSampler, Subset, WeightedRandomSampler

from lightning_fastdata import auto_dataloader
from lightning_fastdata.datamodules.splits import SplitView, split_dataset
from lightning_fastdata.loaders.batch_fetch import as_array
from lightning_fastdata.loaders.batch_requests import InlineBatches
from lightning_fastdata.loaders.order import epoch_order, sample_seed, stream

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Numbers(Dataset):
    """Gives the indices it was asked for, as a batch, and keeps how it was asked."""

    batched_fetch = True
    uses_global_rng = False

    def __init__(self, length=10):
        self.length, self.asked = length, []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        raise AssertionError("asked for a sample")

    def __getitems__(self, indices):
        self.asked.append(indices)
        return torch.as_tensor(np.array(indices))


class Cut(Subset):
    """As torch's documentation says how to change samples."""

    def __getitem__(self, index):
        return super().__getitem__(index)

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def make(dataset, **kwargs):
    size = {} if "batch_sampler" in kwargs else {"batch_size": 4}
    return auto_dataloader(dataset, **{"split": "train", **size, "seed": 7, "num_workers": 0, **kwargs})


def test_indices_come_as_one_array():
    """int64, in the order of the epoch, and the loader says which samples it gave."""
    data = Numbers()
    loader = make(data)
    found = [(batch.tolist(), loader.last_served.indices) for batch in loader]
    assert {(type(asked), str(asked.dtype)) for asked in data.asked} == {(np.ndarray, "int64")}
    assert [len(batch) for batch, _ in found] == [4, 4, 2]
    assert all(batch == given and type(given) is list for batch, given in found)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_the_batches_are_those_of_the_order(shuffle, drop_last, workers):
    """Two epochs, with and without workers, the last batch kept or not."""
    loader = make(Numbers(), shuffle=shuffle, drop_last=drop_last, num_workers=workers)
    for epoch in range(2):
        order = epoch_order(7, epoch, 10).tolist() if shuffle else list(range(10))
        expected = [order[:4], order[4:8], order[8:]][: 2 if drop_last else 3]
        assert [batch.tolist() for batch in loader] == expected
        assert len(loader) == len(expected)


@pytest.mark.parametrize(
    "view",
    [
        lambda data: Subset(data, [9, 3, 5, 1]),
        lambda data: Subset(data, torch.tensor([9, 3, 5, 1])),
        lambda data: SplitView(data, np.array([9, 3, 5, 1])),
        lambda data: Subset(SplitView(data, [0, 9, 3, 5, 1]), range(1, 5)),
    ],
    ids=["list", "tensor", "array", "nested"],
)
def test_views_are_looked_through(view):
    """A part of the data is asked with one array as well, of the numbers in the whole."""
    data = Numbers()
    assert [batch.tolist() for batch in make(view(data), shuffle=False, batch_size=3)] == [[9, 3, 5], [1]]
    assert {type(asked) for asked in data.asked} == {np.ndarray}


def test_held_out_parts_are_packed():
    """8 bytes a sample, and Python's integers for a dataset that gives samples one by one."""
    view = split_dataset(range(1000), {"val": 0.1}, 42)["train"]
    assert memoryview(view.indices).nbytes == 8 * 900
    assert type(view[3]) is type(view.__getitems__([3])[0]) is int


class Seeded(Numbers):
    """Wants a seed for each sample."""

    accepts_seeds = True
    uses_global_rng = False

    def __getitems__(self, indices, seeds):
        assert seeds.dtype == np.uint64
        return list(zip(indices.tolist(), seeds.tolist(), strict=True))


@pytest.mark.parametrize("view", [lambda data: data, lambda data: Subset(data, range(10))], ids=["whole", "part"])
def test_seeds_are_handed_over(view):
    """Each sample's own of the epoch, the same in any batch; no generator is touched, in this process or by it."""
    torch.manual_seed(4)
    before = torch.get_rng_state()
    loader = make(view(Seeded()), batch_size=3, shuffle=False)
    for epoch in range(2):
        start = stream(7, epoch)
        assert [row for batch in loader for row in batch] == [(row, sample_seed(start, row)) for row in range(10)]
    assert torch.equal(torch.get_rng_state(), before)
    repeated = [row for batch in make(Seeded(), sampler=[3, 3, 1], shuffle=None) for row in batch]
    assert repeated == [(3, sample_seed(stream(7, 0), 3, n)) for n in (0, 1)] + [(1, sample_seed(stream(7, 0), 1))]


@pytest.mark.parametrize("keys", [["a", "b"], [(1, 2), (3, 4)], [1.5, 2.5], [None, 1]])
def test_keys_of_another_kind_stay_a_list(keys):
    assert as_array(keys) is None
    data = Numbers()
    data.__class__ = type("Keys", (Numbers,), {"__getitems__": lambda self, keys: list(keys)})
    assert list(make(data, sampler=keys, shuffle=None, batch_size=2)) == [keys]


def test_a_sampler_of_the_users_is_packed_batch_by_batch():
    """Repeats and all; a batch sampler too."""
    data = Numbers()
    for kwargs in (
        {"sampler": WeightedRandomSampler([1.0] * 10, 10)},
        {"batch_sampler": BatchSampler(RandomSampler(range(10)), 4, False)},
    ):
        drawn = [batch.tolist() for batch in make(data, **kwargs)]
        assert [len(batch) for batch in drawn] == [4, 4, 2]
    assert {type(asked) for asked in data.asked} == {np.ndarray}


def test_a_dataset_may_do_with_its_array_what_it_likes():
    """The loader's own record is another array."""

    class Sorts(Numbers):
        def __getitems__(self, indices):
            indices.sort()
            return torch.from_numpy(indices)

    loader = make(Sorts())
    order = epoch_order(7, 0, 10).tolist()
    assert [loader.last_served.indices for _ in loader] == [order[:4], order[4:8], order[8:]]


def test_passes_beside_each_other():
    """Without workers each reads for itself; one that is left in the middle is freed at once."""
    loader = make(Numbers(), shuffle=False)
    one, other = iter(loader), iter(loader)
    assert [next(one).tolist(), next(other).tolist(), next(one).tolist()] == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert type(one.inner) is InlineBatches
    left = weakref.ref(one.inner)
    gc.disable()
    try:
        del one
        assert left() is None
    finally:
        gc.enable()


def test_the_loaders_generator_moves_as_with_torch():
    """A sampler of the user's may draw from the same one."""
    orders = []
    for workers in (0, 1):
        generator = torch.Generator().manual_seed(5)
        loader = make(
            Numbers(), sampler=RandomSampler(range(10), generator=generator), generator=generator, num_workers=workers
        )
        orders.append([[batch.tolist() for batch in loader] for _ in range(2)])
    assert orders[0] == orders[1]
