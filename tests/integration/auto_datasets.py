"""The datasets of auto_cases.py: a module of torch alone, which spawned workers import in a second."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

TABLE = {"level": 0}
"""A global that a dataset reads."""


def loaded(number):
    """A sample that takes longer than handing it over, so that "auto" takes workers."""
    time.sleep(0.002)
    return torch.tensor([float(number)])


class Numbers(Dataset):
    def __init__(self, length=16):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return loaded(index)


class Level(Numbers):
    """An attribute that the run sets between epochs."""

    level = 0

    def __getitem__(self, index):
        return loaded(self.level)


class GlobalLevel(Numbers):
    def __getitem__(self, index):
        return loaded(TABLE["level"])


class ClassLevel(Numbers):
    level = 0

    def __getitem__(self, index):
        return loaded(self.level)


class FollowsTrainer(Numbers):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def __getitem__(self, index):
        return torch.tensor([float(self.module.trainer.current_epoch)])


class Growing(Dataset):
    def __init__(self):
        self.values = list(range(8))

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return loaded(self.values[index])


class Played(IterableDataset):
    """Asks a function of the model for each sample."""

    def __init__(self, play):
        self.play = play

    def __iter__(self):
        for _ in range(16):
            yield self.play()


class Continues(IterableDataset):
    """A long stream, of which each epoch reads a part."""

    def __init__(self):
        self.source = itertools.count()

    def __iter__(self):
        for number in self.source:
            yield torch.tensor([float(number)])


class Repairs(Numbers):
    repaired = 0

    def __getitem__(self, index):
        self.repaired += index % 4 == 0
        return super().__getitem__(index)


class Caches(Numbers):
    def __init__(self, length):
        super().__init__(length)
        self.cache = {}

    def __getitem__(self, index):
        if index not in self.cache:
            self.cache[index] = super().__getitem__(index)
        return self.cache[index]


class Encoded(Numbers):
    def __init__(self):
        super().__init__()
        self.scale = torch.ones(1, requires_grad=True)

    def __getitem__(self, index):
        return self.scale * index


class NoMoreError(Exception):
    """Takes two arguments, and keeps one of them only."""

    def __init__(self, code, where):
        super().__init__(f"{code} at {where}")
        self.code = code


class Ends(Numbers):
    def __getitem__(self, index):
        if index == 5:
            raise NoMoreError(429, index)
        return super().__getitem__(index)


class Stops(Numbers):
    def __getitem__(self, index):
        if index == 3:
            breakpoint()
        return super().__getitem__(index)


class Pooled(Numbers):
    def __init__(self):
        super().__init__()
        self.pool = ThreadPoolExecutor(2)

    def __getitem__(self, index):
        return torch.tensor([float(sum(self.pool.map(abs, [index])))])


class Opened(Numbers):
    """Reads a record in two parts from a file that was opened with the dataset."""

    def __init__(self, folder):
        super().__init__()
        path = Path(folder, "records")
        path.write_bytes(b"".join(bytes([number]) * 16 for number in range(16)))
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115

    def __getitem__(self, index):
        self.file.seek(16 * index)
        head, rest = self.file.read(1), self.file.read(15)
        return torch.tensor([float(set(head + rest) == {index})])


class Texts(Numbers):
    """Very many Python objects."""

    def __init__(self):
        super().__init__()
        self.texts = [str(number) for number in range(400_000)]

    def __getitem__(self, index):
        return torch.tensor([float(self.texts[index])])


class Reopened(Numbers):
    handle = None

    def reopen(self):
        self.handle = 1000

    def __getitem__(self, index):
        return loaded(index + (self.handle or 0))


def reopen(worker_id):
    """Asks for the dataset as torch's documentation shows it."""
    dataset = get_worker_info().dataset
    if isinstance(dataset, Reopened) and "length" in vars(dataset):
        dataset.reopen()


def with_undo(samples):
    mean = torch.stack(samples).mean()
    return {"x": torch.stack(samples) - mean, "undo": lambda x: x + mean}


class PatchQueue(Dataset):
    """As TorchIO's Queue: patches of volumes, from a list that an inner loader fills and that reading empties.

    Each volume gives ``patches`` patches; the index only counts.
    """

    def __init__(self, volumes=8, patches=2, num_workers=0):
        self.volumes, self.patches, self.num_workers = volumes, patches, num_workers
        self.waiting, self.source = [], None

    def __len__(self):
        return self.volumes * self.patches

    def __getitem__(self, index):
        if not self.waiting:
            self.fill()
        return self.waiting.pop()

    def fill(self):
        for _ in range(self.volumes // 2):
            if self.source is None:
                self.source = iter(DataLoader(Numbers(self.volumes), batch_size=None, num_workers=self.num_workers))
            try:
                volume = next(self.source)
            except StopIteration:
                self.source = iter(DataLoader(Numbers(self.volumes), batch_size=None, num_workers=self.num_workers))
                volume = next(self.source)
            self.waiting += [volume] * self.patches
