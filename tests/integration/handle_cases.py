"""Datasets that opened files in ``__init__``, as many do; in a module that workers of any start method can import."""

import io
import zipfile
from types import SimpleNamespace

import h5py
import lmdb
import numpy as np
import torch
from torch.utils.data import Dataset

SAMPLES = 32


class Slotted:
    __slots__ = ("file",)

    def __init__(self, file):
        self.file = file


def write_files(folder):
    """The numbers from 0 on in a file of each library; every read of an archive takes several reads of its file."""
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("group/x", data=np.arange(SAMPLES * 8).reshape(SAMPLES, 8) // 8, chunks=(1, 8))
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for number in range(SAMPLES):
            archive.writestr(str(number), np.full(8192, number).tobytes())
    with lmdb.open(str(folder / "lmdb"), map_size=2**20, max_dbs=1) as environment:
        named = environment.open_db(b"named")
        with environment.begin(write=True, db=named) as transaction:
            for number in range(SAMPLES):
                transaction.put(str(number).encode(), str(number).encode())
        environment.sync()


class OpenedInInit(Dataset):
    """Files of all three libraries: in attributes, a list, a dictionary, a slot, a nested object."""

    def __init__(self, folder):
        self.file = h5py.File(folder / "a.h5", "r", rdcc_nbytes=4096)
        self.table = torch.arange(SAMPLES)
        self.shards = [{"x": self.file["group"]["x"]}, {"x": self.file["group/x"]}]
        self.same = self.file
        self.archive = zipfile.ZipFile(folder / "a.zip")
        self.read = self.archive.read
        self.transform = SimpleNamespace(steps=[Slotted(zipfile.ZipFile(folder / "a.zip"))])
        self.environment = lmdb.open(str(folder / "lmdb"), readonly=True, lock=False, max_dbs=1)

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        numbers = [self.table[index], *(shard["x"][index, 0] for shard in self.shards), self.same["group/x"][index, 7]]
        for archive in (self.archive, self.transform.steps[0].file):
            numbers += np.frombuffer(archive.read(str(index)), dtype=np.int64)[::1000].tolist()
        numbers.append(np.frombuffer(self.read(str(index)), dtype=np.int64)[0])
        with self.environment.begin(db=self.environment.open_db(b"named", create=False)) as transaction:
            numbers.append(int(transaction.get(str(index).encode())))
        assert len(set(map(int, numbers))) == 1, numbers
        return torch.tensor([float(numbers[-1])])

    def close(self):
        for one in (self.file, self.archive, self.transform.steps[0].file, self.environment):
            one.close()


class ClosesOver(Dataset):
    """An archive that only a closure knows."""

    def __init__(self, folder):
        archive = zipfile.ZipFile(folder / "a.zip")
        self.read = lambda index: archive.read(str(index))
        self.close = archive.close

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return torch.tensor([float(np.frombuffer(self.read(index), dtype=np.int64)[-1])])


def in_memory(folder):
    """An archive whose bytes lie in memory: nothing to open again."""
    return zipfile.ZipFile(io.BytesIO((folder / "a.zip").read_bytes()))
