"""Entries that many processes add, and that survive whatever happens to a file."""

import multiprocessing
import os
import pickle
import random
import signal
import zlib

import pytest

from lightning_fastdata.datamodules.images.cache.blob_file import LINE_BYTES, CacheFile, StoredFiles
from lightning_fastdata.datamodules.images.cache.folder import make_files

SAMPLES = 200


def entry_of(number: int) -> bytes:
    """What every process stores for a sample: its number decides length and bytes."""
    return random.Random(number).randbytes(1 + number * 37 % 5000)


@pytest.fixture
def make_file(tmp_path):
    """``make_file(budget)`` opens one and the same empty cache."""
    make_files(tmp_path, SAMPLES)

    def opened(budget_bytes=2**30, **more):
        paths = str(tmp_path / "entries.bin"), str(tmp_path / "table.bin")
        return CacheFile(StoredFiles(*paths, SAMPLES, 0x1234, budget_bytes, **more))

    return opened


def filled(cache, numbers=range(SAMPLES)):
    for number in numbers:
        assert cache.put(number, entry_of(number))
    return cache


def assert_never_wrong(cache):
    """Whatever is served is what was stored; gives how much is."""
    entries = {number: cache.get(number) for number in range(SAMPLES)}
    found = {number: bytes(entry) for number, entry in entries.items() if entry is not None}
    assert all(entry == entry_of(number) for number, entry in found.items())
    return len(found)


def test_what_was_put_is_what_comes_back(make_file):
    """In the process that put it, in one that opens the files afterwards, and after a pickle."""
    cache = make_file()
    assert cache.get(3) is None
    filled(cache, [3, 0, 199])
    for other in (cache, make_file(), pickle.loads(pickle.dumps(cache))):
        assert [bytes(other.get(number)) for number in (0, 3, 199)] == [entry_of(n) for n in (0, 3, 199)]
        assert other.get(4) is None
    held = make_file().held()
    assert (held.entries, held.entry_bytes) == (3, sum(len(entry_of(n)) for n in (0, 3, 199)))


def test_a_reader_sees_what_another_adds_later(make_file):
    """Workers of the second epoch serve what other workers stored in the first."""
    reader, writer = make_file(), make_file()
    filled(writer, [0])
    first = reader.get(0)
    filled(writer, range(1, SAMPLES))
    assert assert_never_wrong(reader) == SAMPLES
    assert bytes(first) == entry_of(0), "a view into the map before stays valid"


def test_a_number_that_is_none_of_the_samples_is_an_error(make_file):
    """Not the line of another one, and not silence."""
    for number in (-1, SAMPLES):
        with pytest.raises(IndexError):
            make_file().get(number)
        assert make_file().held().entries == 0


def test_the_budget_is_kept_and_smaller_entries_still_fit(make_file):
    """Entries beyond it are not kept; that is no problem of the cache's."""
    cache = make_file(budget_bytes=1000)
    assert cache.put(0, b"a" * 900)
    assert not cache.put(1, b"b" * 200)
    assert cache.put(2, b"c" * 100)
    assert (cache.get(1), cache.problem, cache.held().file_bytes) == (None, None, 1000)


def test_what_cannot_be_written_to_still_serves(make_file):
    """A read-only disk that holds a cache."""
    filled(make_file(), [7])
    cache = make_file(writable=False)
    assert bytes(cache.get(7)) == entry_of(7)
    assert not cache.put(8, b"new")
    assert make_file().get(8) is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_ends_the_adding_with_its_reason(make_file, monkeypatch):
    """The system's own error, out of a real write; what was stored before is still served."""
    cache = filled(make_file(), [1])
    pwrite = os.pwrite

    def to_a_full_disk(descriptor, data, offset):
        with open("/dev/full", "wb", buffering=0) as full:
            return pwrite(full.fileno(), data, offset)

    monkeypatch.setattr(os, "pwrite", to_a_full_disk)
    assert not cache.put(2, b"entry")
    monkeypatch.undo()
    assert "No space left" in str(cache.problem)
    assert not cache.put(3, b"entry"), "it does not try again for every sample"
    assert bytes(cache.get(1)) == entry_of(1)
    assert make_file().get(2) is None


def test_every_flipped_bit_is_found(make_file, tmp_path):
    """In any byte of the blob or of the table: the entry is not served, the others are; and it can be stored again."""
    filled(make_file())
    files = {name: (tmp_path / name).read_bytes() for name in ("entries.bin", "table.bin")}
    for name, whole in files.items():
        for place in random.Random(1).sample(range(len(whole)), 20):
            spoilt = bytearray(whole)
            spoilt[place] ^= 1 << place % 8
            (tmp_path / name).write_bytes(spoilt)
            cache = make_file()
            # The four bytes of a line that are spare are part of its sum, too.
            assert assert_never_wrong(cache) == SAMPLES - 1, (name, place)
            (number,) = (number for number in range(SAMPLES) if cache.is_damaged(number))
            assert cache.put(number, entry_of(number))
            assert assert_never_wrong(make_file()) == SAMPLES
            for changed, before in files.items():
                (tmp_path / changed).write_bytes(before)


def test_a_blob_that_was_cut_off_serves_what_is_left(make_file, tmp_path):
    """No read reaches beyond its end, which would end the process."""
    filled(make_file())
    path = tmp_path / "entries.bin"
    whole = path.read_bytes()
    before = SAMPLES
    for size in (len(whole) - 1, len(whole) // 2, 10, 0):
        os.truncate(path, size)
        held = assert_never_wrong(make_file())
        assert held < before
        assert held == make_file().held().entries
        before = held


def test_a_table_that_was_cut_off_is_an_error(make_file, tmp_path):
    """The folder's check finds it first and replaces the cache; here it must not be mapped."""
    os.truncate(tmp_path / "table.bin", SAMPLES * LINE_BYTES - 1)
    with pytest.raises(OSError, match="shorter"):
        make_file().get(0)


def test_files_of_another_cache_are_not_served(make_file, tmp_path):
    """A line holds for its fingerprint and its sample alone, a sum for its entry alone."""
    filled(make_file())
    paths = str(tmp_path / "entries.bin"), str(tmp_path / "table.bin")
    assert CacheFile(StoredFiles(*paths, SAMPLES, 0x1235, 0)).held().entries == 0
    table = (tmp_path / "table.bin").read_bytes()
    (tmp_path / "table.bin").write_bytes(table[LINE_BYTES:] + table[:LINE_BYTES])
    assert assert_never_wrong(make_file()) == 0


def test_an_entry_is_summed_once_in_a_process(make_file, monkeypatch):
    """The sum of 200 KiB takes as long as decoding a small image does."""
    filled(make_file(), [5])
    cache = make_file()
    sums = []
    monkeypatch.setattr(
        zlib, "crc32", lambda data, *start, crc32=zlib.crc32: sums.append(len(data)) or crc32(data, *start)
    )
    cache.get(5)
    cache.get(5)
    assert sums.count(len(entry_of(5))) == 1


def add(files, numbers, seed):
    cache, order = CacheFile(files), list(numbers)
    random.Random(seed).shuffle(order)
    for number in order:
        if cache.get(number) is None:
            cache.put(number, entry_of(number))


@pytest.mark.slow
def test_several_processes_add_at_once(make_file):
    """Forked from a process that has the files open; none overwrites another's entry, and the budget holds."""
    cache = filled(make_file(), [0])
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=add, args=(cache.files, range(SAMPLES), seed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert assert_never_wrong(cache) == SAMPLES
    assert assert_never_wrong(make_file()) == SAMPLES


def test_threads_add_at_once(make_file):
    """Decoding threads of one worker share a cache."""
    from concurrent.futures import ThreadPoolExecutor

    cache = make_file()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda number: cache.put(number, entry_of(number)), range(SAMPLES)))
    assert assert_never_wrong(make_file()) == SAMPLES


def fill_until_killed(files, moment):
    """In a forked process: kill it at one of the calls that reserve room, write and look at the files."""
    calls, last_call = 0, random.Random(moment).randrange(1, 120)

    def killed_within(name, function):
        def call(*arguments):
            nonlocal calls
            calls += 1
            if calls == last_call:
                if name == "pwrite" and moment % 2:  # in the middle of a write
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return call

    for name in ("pwrite", "ftruncate", "fstat"):
        setattr(os, name, killed_within(name, getattr(os, name)))
    add(files, range(SAMPLES), moment)


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_nothing_wrong(tmp_path):
    """SIGKILL at 60 moments of the filling, 20 each on the same files.

    After each, what is served is right, the lock is free, and what the next one adds is kept.
    """
    paths = str(tmp_path / "entries.bin"), str(tmp_path / "table.bin")
    files = StoredFiles(*paths, SAMPLES, 0x1234, 2**30)
    counts = []
    for moment in range(60):
        if moment % 20 == 0:  # begin with empty files again
            for path in tmp_path.iterdir():
                path.unlink()
            make_files(tmp_path, SAMPLES)
        child = os.fork()
        if child == 0:
            fill_until_killed(files, moment)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        counts.append(assert_never_wrong(CacheFile(files)))
        assert CacheFile(files).put(moment, entry_of(moment)), "the lock of a killed process is free"
        assert bytes(CacheFile(files).get(moment)) == entry_of(moment)
        assert os.WIFSIGNALED(status) or counts[-1] == SAMPLES
    assert max(counts) > 60
    assert len(set(counts)) > 20, "they were killed at different moments"
