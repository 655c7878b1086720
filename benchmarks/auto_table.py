"""Claim: of 20 common datasets those get workers whose samples depend on their index alone.

Small stand-ins of each kind, or the library's own class where it is installed; "auto" with six CPUs. Printed: the
workers, and the reason where there are none.
"""

import io
import os
import sqlite3
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["LIGHTNING_FASTDATA_NUM_CPUS"] = "6"  # before anything asks how many there are

import albumentations
import h5py
import harness
import lmdb
import numpy as np
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_fastdata import FastDataModule

COUNT = 64


class Base(Dataset[Any]):
    def __init__(self, **held: Any) -> None:
        vars(self).update(held)

    def __len__(self) -> int:
        return COUNT


class Paths(Base):
    """A list of (path, label) and a transform."""

    def __getitem__(self, index: int) -> Any:
        path, label = self.items[index]
        return self.transform(Image.open(path).convert("RGB")), label


class Rows(Base):
    """Columns held in memory, as of a CSV file."""

    def __getitem__(self, index: int) -> Any:
        return {name: column[index] for name, column in self.columns.items()}


class Table(Base):
    """As Hugging Face's: rows of a table that is mapped into memory, formatted on their way out."""

    def __getitem__(self, index: int) -> Any:
        return self.format(self.table[self.indices[index]])


class Graphs(Base):
    """As PyTorch Geometric's in memory: a list of objects that hold tensors."""

    def __getitem__(self, index: int) -> Any:
        return self.graphs[index].x.sum()


class Graph:
    def __init__(self, nodes: int) -> None:
        self.x, self.edge_index = torch.zeros(nodes, 3), torch.zeros(2, nodes, dtype=torch.long)


class Lazy(Base):
    """Opens its file at the first sample."""

    handle = None

    def __getitem__(self, index: int) -> Any:
        if self.handle is None:
            self.handle = self.open(self.path)
        return self.read(self.handle, index)


class Opened(Base):
    """Opens its file when it is made."""

    def __getitem__(self, index: int) -> Any:
        return self.read(self.handle, index)


class Augmented(Base):
    def __getitem__(self, index: int) -> Any:
        return self.transform(image=self.images[index])["image"]


class Mapped(Base):
    def __getitem__(self, index: int) -> Any:
        return torch.from_numpy(np.array(self.array[index]))


class Arrays(Base):
    """As CIFAR10: one array of images, a transform of each."""

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(self.data[index]))


class Tokenized(Base):
    def __getitem__(self, index: int) -> Any:
        return torch.tensor(self.tokenizer(self.texts[index]))


class Tokenizer:
    def __init__(self) -> None:
        self.vocabulary = {f"word{number}": number for number in range(1000)}

    def __call__(self, text: str) -> list[int]:
        return [self.vocabulary.get(word, 0) for word in text.split()]


class Cached(Base):
    """Keeps what it has loaded."""

    def __getitem__(self, index: int) -> Any:
        if index not in self.cache:
            self.cache[index] = torch.tensor([float(index)])
        return self.cache[index]


class Locked(Base):
    def __getitem__(self, index: int) -> Any:
        with self.lock:
            return torch.tensor([float(index)])


class Steps:
    """As MONAI's: transforms of a dictionary, one after the other."""

    def __init__(self, *steps: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.steps = steps

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        for step in self.steps:
            sample = step(sample)
        return sample


class Scaled:
    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys, self.random = keys, np.random.RandomState(0)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, **{key: sample[key] * self.random.uniform(0.9, 1.1) for key in self.keys}}


class Dictionaries(Base):
    def __getitem__(self, index: int) -> Any:
        return self.transform({"image": np.full((4, 4), float(index)), "label": index})


class Shards(IterableDataset[Any]):
    """As WebDataset's: samples out of archives, one after the other."""

    def __iter__(self) -> Any:
        yield from (torch.tensor([float(number)]) for number in range(COUNT))


def random_flip(image: Any) -> torch.Tensor:
    """A transform of the user's own."""
    array = torch.from_numpy(np.array(image))
    return array.flip(0) if torch.rand(()) < 0.5 else array


def datasets(folder: Path) -> dict[str, Callable[[], Any]]:
    """What makes each dataset, by its name."""
    images = np.zeros((COUNT, 8, 8, 3), np.uint8)
    items, archive = [], folder / "images.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for number in range(COUNT):
            path = folder / "images" / str(number % 2) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number]).save(path)
            items.append((str(path), number % 2))
            zipped.write(path, f"{number}.png")
    np.save(folder / "array.npy", images)
    with h5py.File(folder / "images.h5", "w") as file:
        file["images"] = images
    with lmdb.open(str(folder / "lmdb")) as environment, environment.begin(write=True) as transaction:
        for number in range(COUNT):
            transaction.put(str(number).encode(), images[number].tobytes())
    with sqlite3.connect(folder / "rows.db") as database:
        database.execute("create table samples (id integer primary key, value real)")
        database.executemany("insert into samples values (?, ?)", [(number, 1.0) for number in range(COUNT)])
    database.close()
    composed = v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    columns = {"a": np.arange(COUNT), "b": np.random.default_rng(0).random(COUNT)}

    def of_lmdb(environment: Any, index: int) -> Any:
        return np.frombuffer(environment.begin().get(str(index).encode()), np.uint8).copy()

    def of_zip(zipped: Any, index: int) -> Any:
        return np.array(Image.open(io.BytesIO(zipped.read(f"{index}.png"))))

    def of_sqlite(database: Any, index: int) -> Any:
        return database.execute("select value from samples where id = ?", (index,)).fetchone()[0]

    def of_h5py(file: Any, index: int) -> Any:
        return file["images"][index]

    mapped = np.load(folder / "array.npy", mmap_mode="r")
    return {
        "list of (path, label), torchvision transforms": lambda: Paths(items=items, transform=composed),
        "ImageFolder, a transform of the user's": lambda: ImageFolder(str(folder / "images"), random_flip),
        "arrays as CIFAR10's, transforms": lambda: Arrays(data=images, transform=composed),
        "Hugging Face's kind: mapped table, a format": lambda: Table(
            table=mapped, indices=np.arange(COUNT), format=torch.tensor
        ),
        "graphs in a list (PyG)": lambda: Graphs(graphs=[Graph(number + 1) for number in range(COUNT)]),
        "h5py, opened at the first sample": lambda: Lazy(path=folder / "images.h5", open=h5py.File, read=of_h5py),
        "LMDB, opened at the first sample": lambda: Lazy(
            path=str(folder / "lmdb"), open=lambda path: lmdb.open(path, readonly=True, lock=False), read=of_lmdb
        ),
        "sqlite3, opened at the first sample": lambda: Lazy(
            path=folder / "rows.db", open=sqlite3.connect, read=of_sqlite
        ),
        "zip, opened in __init__": lambda: Opened(handle=zipfile.ZipFile(archive), read=of_zip),
        "albumentations": lambda: Augmented(
            images=images,
            transform=albumentations.Compose([albumentations.HorizontalFlip(), albumentations.Normalize()]),
        ),
        "columns of a CSV, in memory": lambda: Rows(columns=columns),
        "np.memmap": lambda: Mapped(array=np.memmap(folder / "array.npy", np.uint8, "r", 128, (COUNT, 8, 8, 3))),
        "texts and a tokenizer": lambda: Tokenized(texts=["word1 word2"] * COUNT, tokenizer=Tokenizer()),
        "dictionaries, composed transforms (MONAI)": lambda: Dictionaries(transform=Steps(Scaled(("image",)), dict)),
        "TensorDataset": lambda: TensorDataset(torch.zeros(COUNT, 3)),
        "Subset of a list of paths": lambda: Subset(Paths(items=items, transform=composed), list(range(0, COUNT, 2))),
        "ConcatDataset of lists of paths": lambda: ConcatDataset([Paths(items=items, transform=composed)] * 2),
        "fills a cache in a dict": lambda: Cached(cache={}),
        "holds a lock that is free": lambda: Locked(lock=threading.Lock()),
        "stream of archives (WebDataset)": Shards,
    }


def main() -> None:
    parser = harness.parser(__doc__)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures, rows = {}, []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, make in datasets(Path(folder)).items():
            data = FastDataModule(make(), batch_size=8)
            loader = data.train_dataloader()
            assert sum(1 for _ in loader), name
            reason = "" if loader.num_workers else data.plans["train"].reasons["num_workers"].text
            figures[name] = {"num_workers": loader.num_workers, "reason": reason}
            rows.append([name, str(loader.num_workers), reason[:80]])
    harness.print_table("Workers under auto, six CPUs", ["dataset", "workers", "why none"], rows)
    harness.write_json(arguments.json, {"datasets": figures})


if __name__ == "__main__":
    main()
