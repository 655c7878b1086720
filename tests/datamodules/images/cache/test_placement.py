"""Where a cache lies, how large it may become, and why."""

import os
import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest

from lightning_fastdata.datamodules.file_lock import file_lock
from lightning_fastdata.datamodules.images.cache import folder, placement
from lightning_fastdata.datamodules.images.cache.folder import CacheHeader
from lightning_fastdata.datamodules.images.cache.placement import (
    bytes_text,
    cache_in_memory_error,
    default_cache_dir,
    open_cache,
)

MIB = 2**20
HEADER = CacheHeader("/data/photos", 10, {"format": "raw"}, "ab" * 32)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free_disk(monkeypatch, tmp_path):
    """``free_disk(bytes)`` sets what is free; gives the cache_dir."""

    def set_free(count):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, count))
        return tmp_path

    return set_free


@pytest.mark.parametrize(
    ("requested", "free", "budget", "source", "words"),
    [
        (None, 100 * MIB, 90 * MIB, "hardware", "all of them fit"),
        (None, 20 * MIB, 18 * MIB, "hardware", "about 45% of them fit"),
        (10 * MIB, 100 * MIB, 10 * MIB, "user", "about 25% of them fit"),
        (1000 * MIB, 20 * MIB, 18 * MIB, "hardware", "about 45% of them fit"),
        (0, 100 * MIB, 0, "user", "about 0% of them fit"),
    ],
)
def test_the_disk_is_never_filled_up(requested, free, budget, source, words, free_disk):
    """A tenth of what is free is left, whatever the user allows; needed and free bytes are in the reason."""
    opened = open_cache(HEADER, needed=lambda: 40 * MIB, cache_dir=free_disk(free), cache_bytes=requested)
    plan = opened.plan
    assert abs(plan.budget_bytes - budget) <= 1
    assert (plan.kind, plan.reason.source, plan.free_bytes) == ("disk", source, free)
    for part in (words, "need about 40.0 MiB", f"{bytes_text(free)} on that disk are free"):
        assert part in plan.reason.text
    assert opened.file.files.budget_bytes == plan.budget_bytes


def test_what_the_cache_holds_already_is_no_more_needed(free_disk):
    """A full disk with a full cache on it: nothing to add, all to serve. Nothing is encoded to find that out."""
    cache_dir = free_disk(100 * MIB)
    opened = open_cache(HEADER, needed=lambda: 1, cache_dir=cache_dir)
    for number in range(10):
        opened.file.put(number, b"x" * MIB)
    free_disk(0)
    plan = open_cache(HEADER, needed=pytest.fail, cache_dir=cache_dir).plan
    assert plan.held.entries == 10
    assert plan.needed_bytes == 10 * MIB == plan.budget_bytes
    assert "all 10 are there already" in plan.reason.text


def test_a_part_of_a_cache_is_counted(free_disk):
    """And the room it takes is counted into the budget."""
    cache_dir = free_disk(100 * MIB)
    open_cache(HEADER, needed=lambda: 1, cache_dir=cache_dir).file.put(0, b"x" * MIB)
    plan = open_cache(HEADER, needed=pytest.fail, cache_dir=cache_dir).plan
    assert "1 of 10 samples are there already" in plan.reason.text
    assert plan.budget_bytes == 91 * MIB
    assert plan.needed_bytes == 10 * MIB


@pytest.mark.parametrize(
    ("shm", "available", "free", "offered"),
    [
        (100 * MIB, 900 * MIB, "100.0 MiB of memory are free in /dev/shm", True),
        (100 * MIB, None, "100.0 MiB of memory are free in /dev/shm", True),
        (64 * MIB, 900 * MIB, "64.0 MiB of memory are free in /dev/shm", False),
        (900 * MIB, 50 * MIB, "50.0 MiB of memory are free in /dev/shm", False),
        (None, 900 * MIB, "/dev/shm has no room", False),
    ],
)
def test_a_cache_in_memory_is_refused_with_both_figures(shm, available, free, offered):
    """The disk is the answer; /dev/shm only where it has room, with the word that its memory stays in use."""
    hardware = SimpleNamespace(shm_free_bytes=shm, ram_available_bytes=available)
    error = cache_in_memory_error(80 * MIB, hardware)
    assert f"all samples need about 80.0 MiB; {free}." in error.what
    assert 'cache="disk"' in error.fix
    assert ("stays in use until `lightning-fastdata cache clear" in error.fix) == offered
    assert ("/dev/shm/" in error.fix) == offered


def test_a_folder_that_cannot_be_used_leaves_the_run_without_a_cache(tmp_path):
    """With the reason, the path and what to do."""
    (tmp_path / "file").write_text("")
    opened = open_cache(HEADER, needed=lambda: MIB, cache_dir=tmp_path / "file")
    assert (opened.plan.kind, opened.file) == (None, None)
    assert str(tmp_path / "file") in opened.plan.reason.text


def test_a_lock_that_is_not_given_leaves_the_run_without_a_cache(monkeypatch, tmp_path):
    """The holder is named."""
    monkeypatch.setattr(folder, "LOCK_WAIT_S", 0.01)
    with file_lock(tmp_path / ".lock", 1):
        opened = open_cache(HEADER, needed=lambda: MIB, cache_dir=tmp_path)
    assert opened.file is None
    assert f"by process {os.getpid()} on " in opened.plan.reason.text


def test_a_system_without_users_and_locks_goes_without_a_cache(monkeypatch, tmp_path):
    """Windows: the run goes on."""
    monkeypatch.setattr(placement, "CAN_ADD", False)
    opened = open_cache(HEADER, needed=lambda: MIB, cache_dir=tmp_path, cache_bytes=MIB)
    assert opened.file is None
    assert "expected" not in opened.plan.reason.text
    assert "Leave cache out" in opened.plan.reason.text


def test_the_default_folder_is_the_users_cache(monkeypatch):
    """As the XDG base directories say."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(default_cache_dir()) == "/somewhere/lightning_fastdata/cache"
