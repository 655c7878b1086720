"""Packed lists: sequences like any other, at a few bytes an entry."""

import io
import tracemalloc
from multiprocessing.reduction import ForkingPickler
from pickle import loads

import numpy as np
import pytest
import torch

from lightning_fastdata.datamodules.images.folder_index import index_images
from lightning_fastdata.datamodules.images.packed_lists import PackedLabels, PathsBuilder


def packed(*paths, root="/r"):
    builder = PathsBuilder(root)
    assert builder.extend(paths) == len(paths)
    return builder.finish()


@pytest.fixture
def paths():
    return packed("a/0.jpg", "a/ü.jpg", "b/\udcff.png", "b/x")


def test_paths_are_a_sequence(paths):
    """Also of names that are no text, as file systems have them."""
    expected = ["/r/a/0.jpg", "/r/a/ü.jpg", "/r/b/\udcff.png", "/r/b/x"]
    assert list(paths) == expected
    assert paths == expected
    assert paths != expected[:3]
    assert paths != [*expected[:3], "y"]
    assert (paths[-1], paths[np.int64(1)], len(paths)) == (expected[3], expected[1], 4)
    assert list(paths[1:3]) == expected[1:3]
    assert expected[2] in paths
    assert paths.index(expected[2]) == 2
    assert list(reversed(paths)) == expected[::-1]


@pytest.mark.parametrize("number", [4, -5])
def test_there_is_an_end(paths, number):
    with pytest.raises(IndexError, match="of 4"):
        paths[number]


def test_a_choice_of_a_choice(paths):
    """Places are those of the whole list."""
    chosen = paths.take([3, 1, 0]).take(np.array([2, 0]))
    assert list(chosen) == ["/r/a/0.jpg", "/r/b/x"]
    assert [chosen.position(number) for number in (0, 1, -1)] == [0, 3, 3]
    assert chosen == ["/r/a/0.jpg", "/r/b/x"]
    assert chosen == paths[::3]


def test_labels_are_numbers():
    labels = PackedLabels(torch.tensor([0, 0, 1, 2], dtype=torch.int32))
    assert labels == [0, 0, 1, 2]
    assert type(labels[2]) is int
    assert np.bincount(labels).tolist() == [2, 1, 1]
    assert np.asarray(labels, dtype=np.float32).dtype == np.float32
    assert list(labels[[2, 3]]) == list(labels[np.array([False, False, True, True])]) == [1, 2]
    assert labels.take([3, 0]).tensor().tolist() == [2, 0]
    assert torch.tensor(labels).tolist() == [0, 0, 1, 2]


def test_spawned_workers_share_the_memory(paths):
    """Torch hands the tensors over, it does not copy them."""
    buffer = io.BytesIO()
    ForkingPickler(buffer).dump(paths)
    again = loads(buffer.getvalue())
    assert again == paths
    assert all(tensor.is_shared() for tensor in (*paths._tensors(), *again._tensors()))


def test_nothing_at_all():
    assert list(packed()) == []


def test_a_million_paths_in_200_mb():
    """While they are packed, too; as strings they would be some 150 MB more, and in every worker."""
    builder = PathsBuilder("/data/train")
    tracemalloc.start()
    for name in range(10):
        builder.extend(f"n{name:08d}/n{name:08d}_{number}.JPEG" for number in range(10_000))
    paths = builder.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(paths) == 100_000
    assert 10 * (peak + 8 * len(paths) + 4 * len(paths)) < 200e6
    assert 10 * sum(tensor.nbytes for tensor in paths._tensors()) < 50e6
    assert paths[99_999] == "/data/train/n00000009/n00000009_9999.JPEG"


def test_a_folder_is_packed_in_the_order_of_its_paths(tmp_path):
    """Images deeper down stand where their paths do."""
    for name in ("a/2.jpg", "a/10.jpg", "a/1/z.png", "b/.jpg", "b/x.jpeg", "b/y.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    index = index_images(tmp_path)
    expected = sorted(str(tmp_path / name) for name in ("a/2.jpg", "a/10.jpg", "a/1/z.png", "b/x.jpeg"))
    assert index.paths == expected
    assert index.labels == [0, 0, 0, 1]
