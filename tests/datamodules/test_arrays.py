"""Tensors and arrays in memory: batches equal plain indexing."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset

from lightning_fastdata import TensorDataModule
from lightning_fastdata.datamodules.array_dataset import ArrayDataset
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.order import epoch_order

X = torch.arange(40, dtype=torch.float32).reshape(10, 4)
Y = torch.arange(10)


def train(module):
    return list(module.train_dataloader())


def test_batches_equal_plain_indexing():
    """Rows in order, cut into batches, as a tuple of tensors."""
    loader = TensorDataModule(train=(X, Y), batch_size=4, shuffle=False).train_dataloader()
    found = list(loader)
    assert [len(x) for x, _ in found] == [4, 4, 2]
    for number, (x, y) in enumerate(found):
        assert torch.equal(x, X[4 * number : 4 * number + 4])
        assert torch.equal(y, Y[4 * number : 4 * number + 4])
        assert isinstance(found[number], tuple)


def test_shuffled_batches_are_the_rows_of_the_order():
    """Both tensors are cut by the same order, every row once."""
    loader = TensorDataModule(train=(X, Y), batch_size=3, seed=42).train_dataloader()
    order = epoch_order(42, 0, len(X)).tolist()
    found = list(loader)
    assert torch.equal(torch.cat([y for _, y in found]), Y[order])
    assert torch.equal(torch.cat([x for x, _ in found]), X[order])
    assert order != sorted(order)


def test_a_bare_array_gives_bare_batches():
    """No tuple around a single tensor; a tuple of one stays a tuple."""
    (bare,) = train(TensorDataModule(train=X, batch_size=10, shuffle=False))
    ((in_tuple,),) = train(TensorDataModule(train=(X,), batch_size=10, shuffle=False))
    assert torch.equal(bare, X)
    assert torch.equal(in_tuple, X)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64", "uint16"]
)
def test_numpy_types_are_kept(dtype):
    """No array is turned into another type on the way."""
    (found,) = train(TensorDataModule(train=np.arange(6).astype(dtype), batch_size=6, shuffle=False))
    assert str(found.dtype).removeprefix("torch.") == dtype
    assert np.array_equal(found.numpy(), np.arange(6).astype(dtype))


@pytest.mark.parametrize(
    "make",
    [
        lambda array: array[::-1],
        lambda array: array[:, ::-1],
        lambda array: array.astype(">f4"),
        lambda array: np.asfortranarray(array),
        lambda array: array[::2],
        lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
    ],
    ids=["rows reversed", "columns reversed", "byte order", "fortran", "every other", "read-only"],
)
def test_views_of_any_layout(make):
    """What torch refuses or warns of (reversed, of foreign byte order, read-only as a memory map) arrives all the same.

    Labels may be a tensor beside features in an array.
    """
    array = make(X.numpy().copy())
    ((found, labels),) = train(TensorDataModule(train=(array, Y[: len(array)]), batch_size=10, shuffle=False))
    assert np.array_equal(found.numpy(), array)
    assert torch.equal(labels, Y[: len(array)])


def test_writable_arrays_are_not_copied():
    """A large array must not take its size twice; batches are copies of rows all the same."""
    array = X.numpy().copy()
    module = TensorDataModule(train=array, batch_size=10, shuffle=False)
    array[0] = -1
    (found,) = train(module)
    assert found[0].tolist() == [-1] * 4
    found[1] = 77
    assert array[1].tolist() == X[1].tolist()


def test_all_splits_and_the_batch_size_of_evaluation():
    """train, val, test and predict, each its own arrays."""
    module = TensorDataModule(X, X[:6], X[:4], X[:2], batch_size=5, eval_batch_size=3)
    sizes = {name: [len(x) for x in getattr(module, f"{name}_dataloader")()] for name in ("val", "test", "predict")}
    assert sizes == {"val": [3, 3], "test": [3, 1], "predict": [2]}


@pytest.mark.parametrize("shares", [{"val_split": 0.3}, {"val_split": 3, "test_split": 0.2}])
def test_held_out_parts_are_fetched_in_whole_batches_too(shares, monkeypatch):
    """Every row is in exactly one part, and one index operation makes a batch."""
    asked = []
    original = ArrayDataset.__getitems__
    monkeypatch.setattr(
        ArrayDataset, "__getitems__", lambda self, rows: asked.append(len(rows)) or original(self, rows)
    )
    module = TensorDataModule(train=(X, Y), batch_size=4, **shares)
    parts = [module.train_dataloader(), module.val_dataloader()]
    if "test_split" in shares:
        parts.append(module.test_dataloader())
    rows = [y for part in parts for _, ys in part for y in ys.tolist()]
    assert sorted(rows) == list(range(10))
    assert len(rows) == sum(asked)
    assert max(asked) > 1


def test_no_workers_for_arrays():
    """They would only copy; the plan says so."""
    module = TensorDataModule(train=X, val_split=0.2)
    loaders = module.train_dataloader(), module.val_dataloader()
    assert [loader.num_workers for loader in loaders] == [0, 0]
    assert "in memory" in module.plans["train"].reasons["num_workers"].text


# Collate functions


def as_dict(samples):
    assert isinstance(samples, list)
    return {"x": torch.stack([x for x, _ in samples]), "n": len(samples)}


def test_a_collate_function_gets_a_list_of_samples():
    """As anywhere else in torch: one entry per sample."""
    (first, *_) = train(TensorDataModule(train=(X, Y), batch_size=4, shuffle=False, collate_fn=as_dict))
    assert torch.equal(first["x"], X[:4])
    assert first["n"] == 4


def test_a_collate_function_of_a_bare_array_gets_bare_rows():
    """Rows, not tuples of one, as the batches of a bare array would suggest."""
    module = TensorDataModule(train=X, batch_size=4, shuffle=False, collate_fn=torch.stack)
    assert torch.equal(train(module)[0], X[:4])


@pytest.mark.parametrize("val", [{"val": (X, Y)}, {"val_split": 0.3}])
def test_a_collate_function_of_one_split_only(val):
    """dataloader_kwargs per split: that split gets samples, the other batches as always."""
    kwargs = {"val": {"collate_fn": as_dict}}
    module = TensorDataModule(train=(X, Y), batch_size=3, shuffle=False, dataloader_kwargs=kwargs, **val)
    first = next(iter(module.val_dataloader()))
    assert first["n"] == 3
    x, y = next(iter(module.train_dataloader()))
    assert torch.equal(x, X[y])


class Pairs(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return X[index], index


def test_another_dataset_is_collated_as_torch_does():
    """from_datasets and train_dataset= may bring a dataset that gives samples, not batches."""
    for module in (
        TensorDataModule.from_datasets(Pairs(), batch_size=3),
        TensorDataModule(train_dataset=Pairs(), batch_size=3),
    ):
        x, y = train(module)[0]
        assert torch.equal(x, X[y])


# What cannot be


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ((X, Y[:5]), "arrays of shapes (10, 4), (5,)"),
        (X[:0], "arrays of shapes (0, 4)"),
        ((X, [1, 2, 3]), "list"),
        ("data.npy", "str"),
        ({"x": X}, "dict"),
        (np.array(["a", "b"]), "dtype <U1"),
        (np.array(3.0), "dtype float64"),
        (np.ones(3, dtype=np.longdouble), "longdouble"),
        (torch.tensor(3.0), "Tensor"),
        ((), "no arrays"),
    ],
    ids=str,
)
def test_what_is_no_array_is_refused(arrays, words):
    """Which split, what it was, what is expected; when the module is made."""
    with pytest.raises(FastDataError) as caught:
        TensorDataModule(train=X, val=arrays)
    assert "TensorDataModule val" in caught.value.what
    assert words.replace("longdouble", str(np.dtype(np.longdouble))) in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize(
    "targets", [Y, Y.numpy(), torch.zeros(10, 1), X.long()], ids=["1-d", "numpy", "column", "type"]
)
def test_targets_given_as_validation_data_are_refused(targets):
    """``TensorDataModule(X, y)``: y would be validated on, in silence."""
    with pytest.raises(FastDataError, match="val has shape") as caught:
        TensorDataModule(X, targets)
    assert "TensorDataModule((X, y))" in caught.value.fix


def test_validation_data_like_the_training_data_is_taken():
    """Fewer rows, or other rows of the same kind."""
    assert len(TensorDataModule(X, X[:3]).val_dataset) == 3
    assert len(TensorDataModule(X, X.clone()).val_dataset) == 10


def test_the_size_of_a_sample():
    """What the plan reckons with: bytes of one row over all tensors."""
    assert ArrayDataset([X, Y]).sample_bytes == 4 * 4 + 8


@pytest.mark.parametrize("wrap", [lambda data: [data, data], lambda data: Subset(data, range(len(data)))])
def test_batches_are_whole_however_the_rows_are_wrapped(wrap):
    """A list of datasets or torch's Subset must not have its finished batches collated once more."""
    module = TensorDataModule(train=(X, Y), batch_size=3, shuffle=False)
    module.val_dataset = wrap(module.train_dataset)
    loaders = module.val_dataloader()
    x, y = next(iter(loaders[0] if isinstance(loaders, list) else loaders))
    assert torch.equal(x, X[:3])
    assert torch.equal(y, Y[:3])
