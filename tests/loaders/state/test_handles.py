"""Files that libraries hold open, and how a worker gets its own of each."""

import io
import os
import pickle
import sqlite3
import sys
import zipfile
from multiprocessing.reduction import ForkingPickler

import h5py
import lmdb
import numpy as np
import pytest
from handle_cases import SAMPLES, Slotted, in_memory, write_files
from torch.utils.data import ConcatDataset, Dataset, Subset

from lightning_fastdata import FastDataError
from lightning_fastdata.loaders.seeded_dataset import SeededDataset
from lightning_fastdata.loaders.state.handles import OwnDescriptors, handle_of, reopen
from lightning_fastdata.loaders.state.hazards import survey
from lightning_fastdata.loaders.state.snapshot import changed_between, take_snapshot

linux = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks Linux what a process has open")


class Holds(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return index


class MyFile(h5py.File):
    pass


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path)
    return tmp_path


def h5(folder, mode="r", **options):
    return h5py.File(folder / "a.h5", mode, **options)


def replaced(folder):
    file = h5(folder)
    (folder / "b").write_bytes((folder / "a.h5").read_bytes())
    (folder / "b").rename(folder / "a.h5")
    return file


def deleted(folder):
    archive = zipfile.ZipFile(folder / "a.zip")
    (folder / "a.zip").unlink()
    return archive


def close(value):
    if isinstance(value, zipfile.ZipFile) and value.fp is not None:
        value.fp.close()  # one that was handed in stays open otherwise
    value.file.close() if isinstance(value, (h5py.Dataset, h5py.Group, Slotted)) else value.close()


@pytest.mark.parametrize(
    ("make", "fork", "spawn"),
    [
        (lambda p: h5(p), True, True),
        (lambda p: h5(p)["group"], True, True),
        (lambda p: h5(p)["group/x"], True, True),
        (lambda p: zipfile.ZipFile(p / "a.zip"), True, True),
        (lambda p: zipfile.ZipFile(open(p / "a.zip", "rb")), True, True),  # noqa: SIM115
        (lambda p: lmdb.open(str(p / "lmdb"), readonly=True, lock=False), True, True),
        (lambda p: lmdb.open(str(p / "lmdb"), readonly=True), False, True),
        (lambda p: lmdb.open(str(p / "lmdb")), False, False),
        (lambda p: h5(p, "r+"), False, False),
        (lambda p: h5(p, driver="core"), False, False),
        (lambda p: MyFile(p / "a.h5", "r"), False, False),
        (lambda p: replaced(p), False, False),
        (lambda p: deleted(p), False, False),
        (lambda p: in_memory(p), False, False),
        (lambda p: zipfile.ZipFile(p / "a.zip", "a"), False, False),
        (lambda p: sqlite3.connect(f"file:{p / 'd'}?mode=rwc", uri=True), False, False),
        (lambda p: open(p / "a.zip", "rb"), False, False),  # noqa: SIM115
    ],
)
def test_what_can_be_opened_anew(make, fork, spawn, folder):
    """What is open for reading by a path that still leads to it; another loader than ours reopens nothing."""
    value = make(folder)
    for start_method, expected in (("fork", fork), ("spawn", spawn)):
        found = survey({"dataset": Holds([{"a": value}])}, start_method)
        assert found.reopened_files == (("dataset.x[0]['a']",) if expected else ())
        assert bool(found.hazards) != expected
    without_locks = isinstance(value, lmdb.Environment) and not value.flags()["lock"]
    assert bool(survey({"dataset": Holds(value)}).hazards) != without_locks
    assert survey({"dataset": Holds(0), "sampler": [value]}, "spawn").hazards or without_locks
    close(value)


def test_a_closed_file_is_none(folder):
    """Its header was read in ``__init__``; and one that is opened later is not there yet."""
    file, archive = h5(folder), zipfile.ZipFile(folder / "a.zip")
    close(file)
    close(archive)
    found = survey({"dataset": Holds([file, archive, None])}, "fork")
    assert (found.hazards, found.reopened_files) == ((), ())


def test_every_one_of_many_is_seen(folder):
    """Also beyond the items of a list that are looked at otherwise, and beside long lists of plain values."""
    shards = [Slotted(zipfile.ZipFile(folder / "a.zip")) for _ in range(150)]
    table = [(f"{number}.jpg", {"label": number}) for number in range(30_000)]
    held = Subset(ConcatDataset([Holds(shards), Holds(table)]), range(3))
    found = survey({"dataset": held}, "fork")
    assert found.hazards == ()
    assert len(found.reopened_files) == len(OwnDescriptors.of(held, "fork").handles) == 150
    shards[140].file.close()
    shards[140].file = zipfile.ZipFile(io.BytesIO((folder / "a.zip").read_bytes()))
    assert "[140].file is open (ZipFile)" in survey({"dataset": held}, "fork").against_workers
    shards[140].file = None
    odd = Holds([Slotted(0) for _ in range(30_000)])
    assert "there may be more" in survey({"dataset": [held, odd]}, "fork").against_workers
    for shard in shards:
        shard.file and shard.file.close()


@linux
@pytest.mark.parametrize("own", [True, False])
def test_a_forked_process_reads_from_a_position_of_its_own(own, folder):
    """HDF5 and zipfile go on, with a descriptor that no other process moves; without it the position is shared."""
    archive, file = zipfile.ZipFile(folder / "a.zip"), h5(folder)
    x = file["group/x"]
    descriptors = archive.fp.fileno(), file.id.get_vfd_handle()
    files = OwnDescriptors.of(Holds((archive, x)), "fork")
    before = [os.lseek(one, 7, os.SEEK_SET) for one in descriptors]
    child = os.fork()
    if child == 0:
        try:
            if own:
                files(0)
            assert [os.lseek(one, 0, os.SEEK_CUR) for one in descriptors] == before
            for one in descriptors:
                os.lseek(one, 1000, os.SEEK_SET)
            right = all(np.frombuffer(archive.read(str(n)), dtype=np.int64)[-1] == x[n, 0] == n for n in range(SAMPLES))
            os._exit(0 if right else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    after = [os.lseek(one, 0, os.SEEK_CUR) for one in descriptors]
    assert (after == before) == own
    close(archive)
    close(file)


def test_a_file_travels_as_its_path(folder, monkeypatch):
    """The same object stays one object; the user's own is neither closed nor moved."""
    archive, file = zipfile.ZipFile(folder / "a.zip"), h5(folder, rdcc_nbytes=4096)
    archive.setpassword(b"secret")
    held = Holds([archive, archive, file, file["group/x"]])
    sent = SeededDataset(held, len, None, batched=True)
    with pytest.raises(TypeError):
        ForkingPickler.dumps(held)
    packed = ForkingPickler.dumps(sent)
    monkeypatch.chdir("/")
    arrived = pickle.loads(packed)
    first, second, copy, x = arrived.x
    assert first is second
    assert first is not archive
    assert (first.pwd, first.filename) == (b"secret", str(folder / "a.zip"))
    assert copy.id.get_access_plist().get_cache()[2] == 4096
    assert x[5, 0] == np.frombuffer(first.read("5"), dtype=np.int64)[0] == 5
    assert first.fp.fileno() != archive.fp.fileno()
    assert held.x[0] is archive
    assert archive.fp is not None
    for one in (first, copy, file, archive):
        close(one)


def test_a_file_that_was_replaced_on_the_way_is_an_error(folder):
    """Rather than samples of another one."""
    file = h5(folder)
    handle = handle_of(file)
    (folder / "b").write_bytes((folder / "a.h5").read_bytes())
    (folder / "b").rename(folder / "a.h5")
    with pytest.raises(FastDataError, match="was deleted or replaced"):
        reopen(handle)
    close(file)


def test_a_file_is_compared_by_what_its_path_leads_to(folder):
    """So workers live on; a file that was written to, and another object in it, are changes."""
    held = Holds(h5(folder))
    before = take_snapshot({"dataset": held})
    assert before.unseen is None
    close(held.x)
    held.x = h5(folder)
    assert changed_between(before, take_snapshot({"dataset": held})) == ()
    os.utime(folder / "a.h5", (1, 1))
    assert changed_between(before, take_snapshot({"dataset": held})) == ("dataset.x",)
    before, held.x = take_snapshot({"dataset": Holds(held.x["/"])}), held.x["group"]
    assert changed_between(before, take_snapshot({"dataset": held})) == ("dataset.x",)
    close(held.x)
    assert take_snapshot({"dataset": held}).unseen == "dataset.x"


def test_nothing_is_imported(monkeypatch):
    """A dataset of a program without these libraries costs no import of them."""
    for name in ("h5py", "lmdb"):
        monkeypatch.setitem(sys.modules, name, None)
    assert survey({"dataset": Holds(type("File", (), {})())}, "fork").hazards == ()
