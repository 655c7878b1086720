"""Token files: blocks equal plain slicing, and files that cannot be meant are refused before the first batch."""

import gzip
import json
import os
import pickle

import numpy as np
import pytest
import torch

from lightning_fastdata import TokenDataModule
from lightning_fastdata.datamodules import token_files
from lightning_fastdata.datamodules.token_dataset import BlockDataset, TokenDataset, documents
from lightning_fastdata.datamodules.token_files import check_ids, find_token_files, open_token_file
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.order import epoch_order

LENGTH = 8


def write(path, ids, dtype="uint16"):
    """A file of raw tokens."""
    np.asarray(ids).astype(np.dtype(dtype).newbyteorder("<")).tofile(path)
    return path


@pytest.fixture
def shards(tmp_path):
    """Three files whose ids say where they are from: 5, 1 and 3 blocks, and some tokens that fill none."""
    lengths = {"a.bin": 5 * LENGTH + 4, "b.bin": LENGTH + 1, "c.bin": 4 * LENGTH}
    ids = {name: 1000 * (number + 1) + np.arange(n) for number, (name, n) in enumerate(lengths.items())}
    return [write(tmp_path / name, found) for name, found in ids.items()], list(ids.values())


def module(train, **kwargs):
    made = TokenDataModule(train, **{"block_length": LENGTH, "batch_size": 4, "num_workers": 0, **kwargs})
    made.setup("fit")
    return made


def batches(made, split="train"):
    return list(getattr(made, f"{split}_dataloader")())


def joined(found, name="input_ids"):
    return torch.cat([batch[name] for batch in found]).tolist()


def blocks_of(ids):
    """The blocks of one file by plain slicing: inputs and targets."""
    count = (len(ids) - 1) // LENGTH
    inputs = [ids[k * LENGTH : (k + 1) * LENGTH].tolist() for k in range(count)]
    targets = [ids[k * LENGTH + 1 : (k + 1) * LENGTH + 1].tolist() for k in range(count)]
    return inputs, targets


def dataset(path, dtype="uint16", **kwargs):
    return TokenDataset([open_token_file("test", path, dtype, 0, LENGTH)], LENGTH, **kwargs)


# What a batch is


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("form", ["raw", "npy", "npy, version 2"])
def test_batches_equal_plain_slicing(tmp_path, dtype, form):
    """Every block in its order, targets one further, int64 and contiguous, whatever the file stores."""
    ids = np.random.default_rng(0).integers(0, min(np.iinfo(dtype).max, 2**20), 100).astype(dtype)
    path = tmp_path / ("ids.bin" if form == "raw" else "ids.npy")
    if form == "raw":
        write(path, ids, dtype)
    else:
        with path.open("wb") as file:
            np.lib.format.write_array(file, ids, version=(2, 0) if "2" in form else None)
    kwargs = {"dtype": dtype} if form == "raw" else {}  # a .npy file says it itself
    found = batches(module(path, shuffle=False, **kwargs))
    inputs, targets = blocks_of(ids)
    assert joined(found) == inputs
    assert joined(found, "targets") == targets
    for batch in found:
        assert list(batch) == ["input_ids", "targets"]
        assert all(rows.dtype == torch.int64 and rows.is_contiguous() for rows in batch.values())


def test_a_shuffled_epoch_has_every_block_of_every_file_once(shards):
    """In the order of (seed, epoch); no block mixes two files."""
    paths, ids = shards
    found = batches(module(paths, seed=3))
    every = [block for file in ids for block in blocks_of(file)[0]]
    assert joined(found) == [every[number] for number in epoch_order(3, 0, len(every)).tolist()]
    assert all(len({token // 1000 for token in block}) == 1 for block in joined(found))
    assert torch.equal(torch.cat([b["targets"] for b in found]), torch.cat([b["input_ids"] for b in found]) + 1)


@pytest.mark.parametrize("files", [1, 3])
def test_a_sample_is_a_row_of_the_batch(shards, files):
    """``dataset[i]``, from either end, and one batch of the same."""
    paths, _ = shards
    whole = module(paths[:files]).train_dataset
    rows = whole.__getitems__(list(range(len(whole))))
    assert len(whole) == (5, 5, 9)[files - 1]
    for index in range(-len(whole), len(whole)):
        assert {name: row.tolist() for name, row in whole[index].items()} == {
            name: row[index].tolist() for name, row in rows.items()
        }
    with pytest.raises(IndexError):
        whole[len(whole)]
    assert len(list(whole)) == len(whole)


def test_a_batch_can_be_written_to(shards):
    """It is a copy: the file, and the next batch, do not change."""
    made = module(shards[0][0], shuffle=False)
    batch = batches(made)[0]
    batch["targets"][batch["input_ids"] == 1003] = -100
    batch["input_ids"].fill_(7)
    assert batch["targets"][0].tolist() == [1001, 1002, 1003, -100, 1005, 1006, 1007, 1008]
    assert batches(made)[0]["input_ids"][0].tolist() == list(range(1000, 1008))


def test_files_of_different_types_together(tmp_path):
    """A shard of small ids as uint16 beside one as uint32: values, not bytes, are put together."""
    np.save(tmp_path / "small.npy", np.arange(17, dtype=np.uint16))
    np.save(tmp_path / "large.npy", np.arange(100_000, 100_017, dtype=np.uint32))
    found = batches(module([tmp_path / "small.npy", tmp_path / "large.npy"], shuffle=False))
    assert [block[0] for block in joined(found)] == [0, 8, 100_000, 100_008]


def test_a_header_is_left_out(tmp_path):
    """llm.c writes 256 integers before the tokens."""
    path = tmp_path / "fineweb.bin"
    path.write_bytes(np.zeros(256, np.int32).tobytes() + np.arange(20, dtype=np.uint16).tobytes())
    assert joined(batches(module(path, header_bytes=1024, shuffle=False))) == blocks_of(np.arange(20))[0]


# Documents


def test_documents_of_a_block_are_numbered(tmp_path):
    """The last token of a document belongs to it; a block begins at 0, also in the midst of a document."""
    ids = [5, 5, 0, 6, 6, 6, 6, 0, 7, 0, 0, 8, 8, 8, 8, 8, 8]
    batch = batches(module(write(tmp_path / "d.bin", ids), end_of_document=0, shuffle=False))[0]
    assert batch["document_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 2, 2, 2, 2, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 0, 0, 1, 2, 3, 4]]
    assert batch["targets"].tolist() == [[5, 0, 6, 6, 6, 6, 0, 7], [0, 0, 8, 8, 8, 8, 8, 8]]
    assert all(rows.dtype == torch.int64 and rows.is_contiguous() for rows in batch.values())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 1), (6, 40)])
def test_documents_against_a_loop(share, shape):
    """Any pattern of ends: the fast way and the obvious one agree."""
    ends = np.random.default_rng(1).random(shape) < share
    found = documents(ends)
    for row, row_ends in enumerate(ends):
        document = position = 0
        for column, end in enumerate(row_ends):
            assert found["document_ids"][row, column] == document
            assert found["position_ids"][row, column] == position
            document, position = (document + 1, 0) if end else (document, position + 1)


# Splits, workers, other ways to use it


def test_splits_have_their_own_files(shards):
    """Files by stage: what a stage does not read need not exist."""
    (a, b, c), ids = shards
    made = TokenDataModule("nowhere.bin", b, c, block_length=LENGTH, batch_size=2, num_workers=0)
    made.setup("validate")
    assert joined(batches(made, "val")) == blocks_of(ids[1])[0]
    made.setup("test")
    assert joined(batches(made, "test")) == blocks_of(ids[2])[0]
    with pytest.raises(FastDataError, match="no such file"):
        made.setup("fit")
    made.train = str(a)
    made.setup()
    assert len(made.train_dataset) == 5


def test_a_held_out_part_shares_no_block_with_training(shards, monkeypatch):
    """val_split cuts blocks; both parts come in whole batches, for a later test as well."""
    asked = []
    original = TokenDataset.__getitems__
    monkeypatch.setattr(
        TokenDataset, "__getitems__", lambda self, rows: asked.append(len(rows)) or original(self, rows)
    )
    paths, ids = shards
    made = TokenDataModule(paths, block_length=LENGTH, batch_size=4, num_workers=0, val_split=3, test_split=2)
    made.setup("test")
    parts = [joined(batches(made, split)) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [4, 3, 2]
    assert sorted(parts[0] + parts[1] + parts[2]) == sorted(block for file in ids for block in blocks_of(file)[0])
    assert asked == [4, 3, 2]


def test_a_pattern_gives_files_sorted_by_name(shards, monkeypatch):
    """Whatever order the folder has them in; a file with such a name comes first."""
    paths, _ = shards
    folder = paths[0].parent
    folder_order = token_files.glob.glob
    monkeypatch.setattr(token_files.glob, "glob", lambda *args, **kw: sorted(folder_order(*args, **kw), reverse=True))
    assert find_token_files("test", str(folder / "?.bin")) == paths
    assert find_token_files("test", [folder / "c.bin", str(folder / "[ab].bin")]) == [paths[2], *paths[:2]]
    odd = folder / "[ab].bin"
    odd.write_bytes(b"1234")
    assert find_token_files("test", odd) == [odd]


def test_paths_do_not_depend_on_the_folder(shards, monkeypatch):
    """A worker started elsewhere finds the file."""
    paths, ids = shards
    monkeypatch.chdir(paths[0].parent)
    made = module("a.bin", shuffle=False)
    monkeypatch.chdir("/")
    assert joined(batches(made)) == blocks_of(ids[0])[0]


def test_a_collate_function_gets_a_list_of_samples(shards):
    """As anywhere else in torch."""

    def first_tokens(samples):
        assert isinstance(samples, list)
        return [int(sample["input_ids"][0]) for sample in samples]

    made = module(shards[0][0], shuffle=False, collate_fn=first_tokens)
    assert type(made.train_dataset) is BlockDataset
    assert batches(made) == [[1000, 1008, 1016, 1024], [1032]]


def test_what_is_pickled_is_the_path(tmp_path):
    """Never the tokens, also after the file has been read here."""
    data = dataset(write(tmp_path / "big.bin", np.arange(100_000) % 1000))
    before = data[3]
    pickled = pickle.dumps(data)
    assert len(pickled) < 2000
    again = pickle.loads(pickled)
    assert {name: row.tolist() for name, row in again[3].items()} == {n: row.tolist() for n, row in before.items()}


def test_no_generator_is_seeded_for_it(shards):
    """Nothing is drawn in loading a block, and the training process's generators stay as they are."""
    state = torch.get_rng_state()
    loader = module(shards[0], seed=7).train_dataloader()
    list(loader)
    assert not loader.determinism.seeds_samples
    assert torch.equal(torch.get_rng_state(), state)


def test_the_size_of_a_sample(tmp_path):
    """What the plan reckons with is what a batch has."""
    path = write(tmp_path / "a.bin", np.arange(30))
    for kwargs in ({}, {"end_of_document": 3}):
        data = dataset(path, **kwargs)
        assert data.sample_bytes == sum(row.nbytes for row in data[0].values())


def test_hyperparameters_are_plain_values(tmp_path):
    """A checkpoint keeps paths as text, and neither datasets nor a subclass's own arguments."""

    class Mine(TokenDataModule):
        def __init__(self, secret, **kwargs):
            super().__init__(**kwargs)

    made = Mine(object(), train=[tmp_path / "a.bin"], val=tmp_path / "b.bin", batch_size=3)
    assert made.hparams["train"] == [str(tmp_path / "a.bin")]
    assert made.hparams["val"] == str(tmp_path / "b.bin")
    assert made.hparams["batch_size"] == 3
    assert "secret" not in made.hparams
    assert made.hparams["num_workers"] == "auto"


def test_paths_from_hydra(shards):
    """OmegaConf's lists become plain ones."""
    config = pytest.importorskip("omegaconf").OmegaConf.create({"train": [str(path) for path in shards[0]]})
    made = module(config.train)
    assert type(made.hparams["train"]) is list
    assert len(made.train_dataset) == 9


# What cannot be


def refused(train, stage="fit", **kwargs):
    made = TokenDataModule(train, **{"block_length": LENGTH, **kwargs})
    with pytest.raises(FastDataError) as caught:
        made.setup(stage)
    assert caught.value.what.startswith("TokenDataModule")
    assert caught.value.expected
    assert caught.value.fix
    return caught.value


def test_a_file_that_is_not_there(tmp_path):
    """The path, and how far it exists; for a folder the pattern that was probably meant."""
    error = refused(tmp_path / "deep" / "train.bin")
    assert str(tmp_path / "deep" / "train.bin") in error.what
    assert error.fix.endswith(f"the nearest folder that exists is {tmp_path}.")
    error = refused(tmp_path / "deep" / "*.bin")
    assert "no file fits the pattern" in error.what
    assert str(tmp_path) in error.fix
    error = refused(tmp_path)
    assert "it is a folder" in error.what
    assert str(tmp_path / "*.bin") in error.fix


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    """Said in setup, not by the first batch; tests may run as root, who may read anything."""
    path = write(tmp_path / "a.bin", np.arange(99))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    assert "a.bin cannot be read: [Errno 13] Permission denied" in refused(path).what


@pytest.mark.parametrize(
    ("size", "kwargs", "words"),
    [
        (0, {}, "a.bin is empty"),
        (101, {}, "has 101 bytes, which is no whole number of uint16 tokens"),
        (102, {"dtype": "uint32"}, "has 102 bytes, which is no whole number of uint32 tokens"),
        (80, {"header_bytes": 100}, "after 100 bytes of header"),
        (80, {"header_bytes": 3}, "after 3 bytes of header"),
    ],
)
def test_a_length_that_cannot_be(tmp_path, size, kwargs, words):
    """What a full disk leaves: nothing, or a file cut off in a token; or another type or header."""
    (tmp_path / "a.bin").write_bytes(bytes(size))
    error = refused(tmp_path / "a.bin", **kwargs)
    assert words in error.what
    assert "write" in error.fix


@pytest.mark.parametrize(("tokens", "fits"), [(LENGTH, False), (LENGTH + 1, True)])
def test_too_short_for_a_block(tmp_path, tokens, fits):
    """A block needs one token more, for its last target; with several files each must have one."""
    path, good = write(tmp_path / "short.bin", np.arange(tokens)), write(tmp_path / "good.bin", np.arange(99))
    if fits:
        assert len(module([good, path]).train_dataset) == 13
        return
    error = refused([good, path])
    assert "short.bin has 8 tokens, block_length=8" in error.what
    assert "at least 9" in error.expected


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 20), np.uint16), "shape (2, 20)"),
        (np.zeros(20, np.int64), "dtype int64"),
        (np.zeros(20, ">u2"), "dtype >u2"),
        (np.zeros(20, np.float32), "dtype float32"),
    ],
    ids=str,
)
def test_an_array_of_another_kind(tmp_path, array, words):
    """With a line that saves it rightly."""
    np.save(tmp_path / "a.npy", array)
    error = refused(tmp_path / "a.npy")
    assert words in error.what
    assert "np.save" in error.fix


def test_an_array_that_was_cut_off(tmp_path):
    """Its header says how much there should be."""
    path = tmp_path / "a.npy"
    np.save(path, np.arange(100, dtype=np.uint16))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    error = refused(path)
    assert f"has {len(whole) - 1} bytes, but its header says 100 tokens" in error.what
    assert error.expected == f"{len(whole)} bytes."
    path.write_bytes(whole[:20])
    assert "does not begin like a .npy file" in refused(path).what
    path.write_bytes(b"tokens" * 10)
    assert "does not begin like a .npy file" in refused(path).what


@pytest.mark.parametrize("files", [1, 3])
def test_an_id_beyond_the_vocabulary_in_setup(shards, files):
    """Which file, which token, which value; the largest allowed id passes."""
    paths, _ = shards
    made = TokenDataModule(paths[0], block_length=LENGTH, vocab_size=1044)
    made.setup("fit")
    if files == 1:
        error = refused(paths[0], vocab_size=1043)
        assert error.what == f"TokenDataModule train: {paths[0]} has token id 1043 at position 43, vocab_size=1043."
    else:
        assert f"{paths[2]} has token id 3000 at position 0" in refused(paths, vocab_size=3000).what
    assert "tokenizer" in refused(paths, vocab_size=5).fix


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("position", [41, 48, 80])
def test_an_id_beyond_what_setup_reads_is_found_in_its_batch(tmp_path, monkeypatch, position, files):
    """As an input or as a block's last target; the message is as exact."""
    monkeypatch.setattr(token_files, "CHECKED_BYTES", 40)
    monkeypatch.setattr(token_files, "LEAST_CHECKED_BYTES", 40)
    ids = np.zeros(81, np.uint16)
    ids[position] = 99
    paths = [write(tmp_path / "good.bin", np.zeros(33)), write(tmp_path / "bad.bin", ids)][-files:]
    made = module(paths, vocab_size=99, shuffle=False, batch_size=3)
    with pytest.raises(FastDataError) as caught:
        batches(made)
    assert caught.value.what == f"{paths[-1]} has token id 99 at position {position}, vocab_size=99."


IDS = np.random.default_rng(0).integers(1, 50_000, 4000)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", IDS.astype("<u2").tobytes(), "it ends in .txt"),
        ("a.bin", b"To be, or not to be, that is the question:\n" * 40, "it is text"),
        ("a.bin", "Wer reitet so spät durch Nacht und Wind? ".encode() * 40, "it is text"),
        ("a.bin", json.dumps({"text": "x" * 400}).encode() + b"  ", "it is text"),
        ("a.dat", gzip.compress(b"abc" * 999 + b"\n") + b"\0" * 2, "it begins like gzip"),
        ("a.bin", IDS.astype("<i8").tobytes(), "its ids look like int64"),
        ("a.bin", IDS.astype("<i4").tobytes(), "its ids look like int32"),
        ("a.bin", b"\x93NUMPY" + IDS.astype("<u2").tobytes(), "a NumPy array"),
    ],
    ids=["txt", "text", "umlauts", "json", "gzip", "int64", "int32", "npy"],
)
@pytest.mark.parametrize("vocab_size", [None, 60_000])
def test_a_file_of_something_else_is_refused(tmp_path, name, content, words, vocab_size):
    """It would train in silence on numbers that are no ids."""
    path = tmp_path / name
    path.write_bytes(content[: len(content) // 2 * 2])
    assert words in refused(path, vocab_size=vocab_size).what


def test_pairs_of_ids_read_as_one_are_refused(tmp_path):
    """A file of uint16 under dtype="uint32"; bytes of a text are ids under "uint8"."""
    path = tmp_path / "a.bin"
    path.write_bytes(IDS.astype("<u2").tobytes())
    assert "read in pairs" in refused(path, dtype="uint32").what
    text = tmp_path / "a.txt"
    text.write_bytes(b"To be, or not to be, that is the question:\n" * 40)
    assert len(dataset(text, "uint8")) > 0


@pytest.mark.parametrize(("dtype", "vocab_size", "fitting"), [("uint16", 65_537, "uint32"), ("uint8", 257, "uint16")])
def test_a_vocabulary_that_the_dtype_cannot_hold(dtype, vocab_size, fitting):
    """Its larger ids have become smaller ones."""
    with pytest.raises(FastDataError, match=f"vocab_size={vocab_size} with dtype='{dtype}'") as caught:
        TokenDataModule("train.bin", dtype=dtype, vocab_size=vocab_size)
    assert f"dtype='{fitting}'" in caught.value.fix
    TokenDataModule("train.bin", dtype=dtype, vocab_size=vocab_size - 1)


def test_the_check_in_setup_reads_no_more_than_it_says(tmp_path, monkeypatch):
    """A share of each file; files shorter than theirs in full."""
    path = write(tmp_path / "a.bin", [*range(50), 99])
    (file,) = [open_token_file("test", path, "uint16", 0, LENGTH)]
    monkeypatch.setattr(token_files, "LEAST_CHECKED_BYTES", 2)
    for share, finds in ((100, False), (102, True), (1000, True)):
        monkeypatch.setattr(token_files, "CHECKED_BYTES", 2 * share)
        if finds:
            with pytest.raises(FastDataError, match="99 at position 50"):
                check_ids("test", [file, file], 99)
        else:
            check_ids("test", [file, file], 99)


def test_a_file_that_became_shorter(tmp_path):
    """Reading behind its end would kill the process; before, and after it was mapped."""
    path = write(tmp_path / "a.bin", np.arange(100))
    data = dataset(path)
    data[0]
    os.truncate(path, 150)
    for broken in (data, pickle.loads(pickle.dumps(data))):
        with pytest.raises(FastDataError, match=r"a\.bin has become shorter: 150 bytes, 200 when it was opened"):
            broken[0]
    path.unlink()
    gone = pickle.loads(pickle.dumps(data))
    with pytest.raises(FastDataError, match="cannot be mapped into memory"):
        gone[0]


def test_a_file_that_is_replaced_or_grows_is_none_of_ours(tmp_path):
    """Renamed over: the old one is still mapped. Appended to: the blocks are where they were."""
    path = write(tmp_path / "a.bin", np.arange(100))
    data = dataset(path)
    before = data[0]["input_ids"].tolist()
    os.replace(write(tmp_path / "b.bin", np.zeros(40)), path)
    assert data[0]["input_ids"].tolist() == before
    grown = dataset(write(tmp_path / "c.bin", np.arange(100)))
    with (tmp_path / "c.bin").open("ab") as file:
        file.write(bytes(7))
    assert grown[0]["input_ids"].tolist() == before


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"block_length": 0}, "block_length=0"),
        ({"vocab_size": "50257"}, "vocab_size='50257'"),
        ({"end_of_document": -1}, "end_of_document=-1"),
        ({"header_bytes": -1}, "header_bytes=-1"),
        ({"dtype": "int16"}, "dtype='int16'"),
        ({"dtype": np.uint16}, "dtype="),
        ({"vocab_size": 100, "end_of_document": 100}, "end_of_document=100, vocab_size=100"),
        ({"train_dataset": [1]}, "together with train_dataset"),
        ({"val": "v.bin", "val_dataset": [1]}, "together with val_dataset"),
        ({"val": "v.bin", "val_split": 0.1}, "together with val_split"),
        ({"test": "t.bin", "test_split": 5}, "together with test_split"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_meant(kwargs, words):
    """When the DataModule is made, before any file is looked at."""
    with pytest.raises(FastDataError, match=words):
        TokenDataModule("nowhere.bin", **kwargs)


@pytest.mark.parametrize("given", [[], 5, [1, 2], {"a": "b"}, b"train.bin"], ids=str)
def test_what_is_no_path(given):
    """In setup, like a path that is wrong."""
    assert "TokenDataModule train=" in refused(given).what
