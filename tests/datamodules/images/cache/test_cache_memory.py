"""One cache in memory for the processes of a node, gone with the last of them."""

import gc
import json
import os
import pickle
import subprocess
import sys

import pytest

from lightning_fastdata import FastDataError
from lightning_fastdata.datamodules.images.cache import cache_memory
from lightning_fastdata.datamodules.images.cache.blob_file import CacheFile
from lightning_fastdata.datamodules.images.cache.cache_memory import SharedMemory, meeting_folder
from lightning_fastdata.datamodules.images.cache.folder import CacheHeader

HEADER = CacheHeader("/data/photos", 5, {"format": "raw"}, "ab" * 32)
pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system has no memfd_create")


def test_processes_of_a_node_meet_in_one_memory(tmp_path):
    """What one rank stores, the other serves; a cache of other files has other memory."""
    first, second = SharedMemory(HEADER, tmp_path), SharedMemory(HEADER, tmp_path)
    assert first.shared_with_ranks
    CacheFile(first.files(2**20)).put(3, b"entry")
    assert bytes(CacheFile(second.files(0)).get(3)) == b"entry"
    other = SharedMemory(CacheHeader(HEADER.root, 5, HEADER.settings, "cd" * 32), tmp_path)
    assert CacheFile(other.files(0)).held().entries == 0


@pytest.mark.slow
def test_another_process_joins_and_its_workers_read(tmp_path):
    """By the word that was left, from a process that was started apart."""
    memory = SharedMemory(HEADER, tmp_path)
    CacheFile(memory.files(2**20)).put(3, b"entry")
    code = (
        "import sys; from pathlib import Path\n"
        "from lightning_fastdata.datamodules.images.cache.blob_file import CacheFile\n"
        "from lightning_fastdata.datamodules.images.cache.folder import CacheHeader\n"
        "from lightning_fastdata.datamodules.images.cache.cache_memory import SharedMemory\n"
        f"memory = SharedMemory({HEADER!r}, Path(sys.argv[1]))\n"
        "cache = CacheFile(memory.files(2**20))\n"
        "print(bytes(cache.get(3)).decode(), cache.put(4, b'from the other'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["entry", "True"]
    assert bytes(CacheFile(memory.files(0)).get(4)) == b"from the other"


def test_memory_is_gone_with_the_last_who_held_it(tmp_path):
    """No file is left that would keep it."""
    first, second = SharedMemory(HEADER, tmp_path), SharedMemory(HEADER, tmp_path)
    CacheFile(first.files(2**20)).put(3, b"entry")
    first.close()
    assert bytes(CacheFile(second.files(0)).get(3)) == b"entry"
    assert CacheFile(SharedMemory(HEADER, tmp_path).files(0)).held().entries == 1, "the second left word, too"
    del second
    gc.collect()
    assert CacheFile(SharedMemory(HEADER, tmp_path).files(0)).held().entries == 0


@pytest.mark.parametrize(
    "word",
    ["", "[]", '{"pid": 1}', '{"pid": "x", "descriptors": [0, 1]}', '{"pid": %d, "descriptors": [0, 1]}', "[" * 5000],
)
def test_a_word_that_leads_nowhere_is_not_followed(word, tmp_path):
    """Of a process that is gone, of one that holds other files, or no word at all."""
    note = tmp_path / f"{HEADER.name}.json"
    note.write_text(word % os.getpid() if "%d" in word else word)
    memory = SharedMemory(HEADER, tmp_path)
    assert CacheFile(memory.files(2**20)).put(0, b"entry")
    assert json.loads(note.read_text())["pid"] == os.getpid()


def test_without_a_place_to_meet_each_has_its_own(tmp_path):
    """The run goes on, and the plan says so."""
    memory = SharedMemory(HEADER, tmp_path / "missing")
    assert not memory.shared_with_ranks
    assert CacheFile(memory.files(2**20)).put(0, b"entry")


def test_a_meeting_folder_that_others_can_write_to_is_none(tmp_path, monkeypatch):
    """Somebody may have made it before us."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = meeting_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(PermissionError):
        meeting_folder()


def test_a_worker_that_gets_it_by_pickle_holds_no_memory(tmp_path):
    """Else a worker that lives on would keep it."""
    assert pickle.loads(pickle.dumps(SharedMemory(HEADER, tmp_path))) is None


def test_a_system_without_it_says_what_to_do(monkeypatch, tmp_path):
    """There is no memfd_create on macOS."""
    monkeypatch.delattr(cache_memory.os, "memfd_create")
    with pytest.raises(FastDataError, match="ram"):
        SharedMemory(HEADER, tmp_path)
