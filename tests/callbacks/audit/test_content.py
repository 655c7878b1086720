"""The bytes of a batch: one word a sample, whatever its structure."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lightning_fastdata.callbacks.audit.content import content_words
from lightning_fastdata.callbacks.audit.digest import NotMeasured, sum_of_words

PAIR = namedtuple("PAIR", "x y")


@dataclass
class Sample:
    x: torch.Tensor
    y: torch.Tensor


def words(batch, samples=0):
    return content_words(batch, samples)[0].tolist()


def total(batch, samples=0):
    return sum_of_words((0,), content_words(batch, samples)[0])


def images(rows=range(4)):
    return torch.stack([torch.full((2, 3), float(row)) for row in rows])


def labels(rows=range(4)):
    return torch.tensor([10 * row for row in rows])


def test_golden_values():
    """Files that were written years apart can be compared: these numbers never change."""
    batch = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.array([1, 2]), "name": ["a", "b"], "scale": 0.5}
    assert total(batch) == 17247992988453386482


@pytest.mark.parametrize(
    "make",
    [
        lambda rows: images(rows),
        lambda rows: [images(rows), labels(rows)],
        lambda rows: {"x": images(rows), "y": [labels(rows), {"z": images(rows)}]},
        lambda rows: PAIR(images(rows), labels(rows)),
        lambda rows: Sample(images(rows), labels(rows)),
        lambda rows: [images(rows), [f"name {row}" for row in rows]],
        lambda rows: {"x": images(rows), "id": list(rows)},
        lambda rows: [images(rows), [{"box": torch.full((row + 1, 4), row)} for row in rows]],
        lambda rows: images(rows).numpy(),
        lambda rows: np.array([f"name {row}" for row in rows]),
        lambda rows: [f"name {row}" for row in rows],
    ],
    ids=["tensor", "pair", "nested", "namedtuple", "dataclass", "text", "numbers", "boxes", "array", "texts", "list"],
)
def test_each_structure_is_hashed_by_sample(make):
    """A word a sample; two parts together have the words of the whole; the order within the batch does not matter."""
    whole = words(make(range(6)))
    assert len(set(whole)) == len(whole) == 6
    assert sorted(words(make(range(4))) + words(make((4, 5)))) == sorted(whole)
    assert total(make((3, 1, 5, 0, 2, 4))) == total(make(range(6)))
    assert total(make((0, 1, 2, 3, 4, 7))) != total(make(range(6)))


def test_a_swapped_label_shows():
    """The fields of a sample are hashed together."""
    assert total([images(), labels((1, 0, 2, 3))]) != total([images(), labels()])


@pytest.mark.parametrize(
    "other",
    [
        {"y": images()},
        {"x": images().double()},
        {"x": images().reshape(4, 3, 2)},
        {"x": images().int().view(torch.float32)},
        {"x": [images()]},
        {"x": images(), "y": None},
        {"x": images().index_fill(0, torch.tensor(3), 3.0000002)},
    ],
    ids=["key", "dtype", "shape", "bits", "structure", "more", "one bit"],
)
def test_what_else_shows(other):
    assert total(other) != total({"x": images()})


def test_what_does_not_show():
    """Memory layout, gradients, the order of keys, the kind of mapping, NumPy or torch, list or tuple."""
    batch = {"x": images(), "y": labels()}
    strided = images().permute(2, 1, 0).contiguous().permute(2, 1, 0)
    for other in (
        OrderedDict(y=labels(), x=images()),
        {"x": strided, "y": labels()},
        {"x": images().requires_grad_(), "y": labels()},
        {"x": images().numpy(), "y": labels().numpy()},
        {"x": torch.stack([images(), images()], dim=1)[:, 0], "y": labels()},
    ):
        assert total(other) == total(batch)
    assert total((images(), labels())) == total([images(), labels()])


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.bool, torch.uint8, torch.complex64, torch.float8_e4m3fn]
)
def test_every_dtype(dtype):
    """Also those NumPy does not know."""
    tensor = images().to(dtype)
    assert len(words(tensor)) == 4
    assert total(tensor) != total(images())


def test_views_that_are_computed_lazily():
    """A conjugate or negative view shares its memory with what it was made from."""
    tensor = images().to(torch.complex64) * 1j
    assert total(tensor.conj()) == total(tensor.conj().resolve_conj()) != total(tensor)


def test_what_belongs_to_no_sample_is_hashed_whole():
    """A scalar, a weight per class: one more word, in which the order counts."""
    weights = torch.arange(10.0)
    assert len(words([images(), weights, torch.tensor(0.5), 3, "text"])) == 5
    assert total([images(), weights.flip(0)]) != total([images(), weights])
    assert words(torch.tensor(1.0)) != words(torch.tensor(2.0))
    assert len(words(None)) == 1


def test_a_pair_of_two_samples_is_a_pair():
    """[inputs, labels] with a batch size of 2 is not mistaken for a list of two samples."""
    pair = [images((0, 1)), labels((0, 1))]
    swapped = [images((1, 0)), labels((1, 0))]
    assert total(pair) == total(swapped)
    assert total(pair) != total(pair[::-1])


def test_lists_of_samples_when_their_number_is_known():
    """Tensors of different size, as detection has them, given by a loader that tells how many there are."""
    boxes = [torch.full((row + 1, 4), float(row)) for row in range(5)]
    assert len(words(boxes, 5)) == 5
    assert total([boxes, boxes], 5) == total([boxes[::-1], boxes[::-1]], 5)


def test_repeats_are_left_out():
    """The last sample of three came only so that ranks get equally many; of the loader's own it is no part."""
    repeated, kept = [images((0, 1, 0)), labels((0, 1, 0))], [images((0, 1)), labels((0, 1))]
    assert content_words(repeated, 2, 1)[1] == 2
    assert content_words(repeated, 2, 1)[0].tolist() == words(kept)


@pytest.mark.parametrize(
    ("batch", "samples"),
    [([images(), labels()], 4), (["a", "b", "c"], 3), (3.5, None), (np.zeros((0, 3)), 0), (torch.zeros(3, 0), 3)],
)
def test_samples_are_counted(batch, samples):
    """By the first array or list of texts; none of no bytes is lost."""
    assert content_words(batch)[1] == samples
    assert samples is None or len(words(batch)) == samples


def test_a_batch_with_fewer_samples_than_were_asked_for():
    """A sample that could not be read may have been left out."""
    assert words([images(), labels()], 5) == words([images(), labels()], 4)


def test_objects_are_hashed_by_what_they_hold():
    """An object without a repr of its own would show its address, which differs from run to run."""

    class Graph:
        def __init__(self, x):
            self.x = x

    assert total(Graph(images())) == total(Graph(images())) != total(Graph(images() + 1))
    assert total([images(), {"b", "a", "c"}]) == total([images(), {"c", "b", "a"}])


@pytest.mark.parametrize("part", [object(), lambda: 0, torch.eye(3).to_sparse()], ids=["object", "function", "sparse"])
def test_what_cannot_be_hashed_says_so(part):
    with pytest.raises(NotMeasured, match="holds a"):
        words([images(), part])


def test_tensors_of_torchvision():
    """A subclass of Tensor is its bytes."""
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    image = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert total(tv_tensors.Image(image)) == total(image)
