"""A folder is the cache of these very files, or it is replaced."""

import json
import os
import stat

import pytest

from lightning_fastdata import FastDataError
from lightning_fastdata.datamodules.images.cache.blob_file import CacheFile
from lightning_fastdata.datamodules.images.cache.folder import (
    CacheHeader,
    clear_folders,
    file_stamps,
    find_folders,
    fingerprint_of,
    open_folder,
    read_header,
)

SETTINGS = {"format": "jpeg", "quality": 90}


@pytest.fixture
def images(tmp_path):
    """Three files to make a cache of."""
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(3):
        (root / f"{number}.jpg").write_bytes(b"image" * (number + 1))
    return root


def header_of(root, settings=SETTINGS):
    paths = sorted(str(path) for path in root.iterdir())
    return CacheHeader(
        str(root), len(paths), settings, fingerprint_of(str(root), settings, file_stamps(paths, str(root)))
    )


def opened(cache_dir, header):
    return CacheFile(open_folder(cache_dir, header, 2**20))


def test_a_cache_is_found_again(images, tmp_path):
    """Made for this user alone; its header is JSON."""
    cache_dir = tmp_path / "deep" / "caches"
    opened(cache_dir, header_of(images)).put(1, b"entry")
    assert bytes(opened(cache_dir, header_of(images)).get(1)) == b"entry"
    (folder,) = find_folders(cache_dir)
    assert folder.name.startswith("photos-")
    assert json.loads((folder / "header.json").read_text())["settings"] == SETTINGS
    for path in (cache_dir, folder, *folder.iterdir(), cache_dir / ".lock"):
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "1.jpg").write_bytes(b"other bytes"),
        lambda root: os.utime(root / "1.jpg", ns=(5, 5)),
        lambda root: (root / "1.jpg").unlink(),
        lambda root: (root / "9.jpg").write_bytes(b"new"),
        lambda root: (root / "1.jpg").rename(root / "11.jpg"),
    ],
    ids=["size", "time", "removed", "added", "renamed"],
)
def test_a_cache_of_files_that_changed_is_replaced(change, images, tmp_path):
    """In its own place, so that old caches do not fill the disk."""
    opened(tmp_path, header_of(images)).put(1, b"entry")
    change(images)
    cache = opened(tmp_path, header_of(images))
    assert cache.held().entries == 0
    assert list(find_folders(tmp_path).values()) == [header_of(images)]


def test_other_settings_and_other_folders_have_caches_of_their_own(images, tmp_path):
    """To change between two formats does not build them each time."""
    opened(tmp_path, header_of(images)).put(1, b"jpeg")
    opened(tmp_path, header_of(images, {"format": "raw"})).put(1, b"raw")
    assert bytes(opened(tmp_path, header_of(images)).get(1)) == b"jpeg"
    assert len(find_folders(tmp_path)) == 2


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: os.truncate(folder / "table.bin", 30),
        lambda folder: os.truncate(folder / "header.json", 20),
        lambda folder: (folder / "header.json").write_text("[" * 100_000),
        lambda folder: (folder / "header.json").write_text('{"format": "another"}'),
        lambda folder: (folder / "header.json").unlink(),
        lambda folder: (folder / "entries.bin").unlink(),
        lambda folder: folder.chmod(0o777),
    ],
    ids=["table", "half a header", "no end", "foreign", "no header", "no blob", "all may write"],
)
def test_a_folder_that_is_not_a_whole_cache_is_replaced(harm, images, tmp_path):
    """Found before anything is read of it, and replaced."""
    opened(tmp_path, header_of(images)).put(1, b"entry")
    (folder,) = find_folders(tmp_path)
    harm(folder)
    cache = opened(tmp_path, header_of(images))
    assert cache.get(1) is None
    assert cache.put(1, b"again")
    assert bytes(opened(tmp_path, header_of(images)).get(1)) == b"again"
    assert not folder.stat().st_mode & 0o077


def test_a_link_in_its_place_is_not_followed(images, tmp_path):
    """What it points to does not change."""
    header, elsewhere = header_of(images), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "entries.bin").write_bytes(b"precious")
    (tmp_path / header.name).symlink_to(elsewhere)
    assert opened(tmp_path, header).put(1, b"entry")
    assert (elsewhere / "entries.bin").read_bytes() == b"precious"
    assert [path.name for path in elsewhere.iterdir()] == ["entries.bin"]


def test_a_name_cannot_lead_out_of_the_folder(tmp_path):
    """Whatever the image folder is called."""
    for root in ("/", "/a/..", "/data/büro und\nmehr", "/data/" + "x" * 255):
        name = CacheHeader(root, 1, SETTINGS, "0" * 64).name
        assert name == os.path.basename(name)
        assert name.isascii()
        assert name.isprintable()
        assert not name.startswith(".")
        assert len(name) < 80


def test_what_a_killed_process_left_is_swept(images, tmp_path):
    """Folders half made or half deleted; those of other caches are left alone."""
    header = header_of(images)
    for left in (f"{header.name}.new-abc", f"{header.name}.old-abc", "other.new-abc"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "table.bin").write_bytes(b"half")
    opened(tmp_path, header)
    assert sorted(path.name for path in tmp_path.iterdir() if "." in path.name[1:]) == ["other.new-abc"]


def test_a_run_goes_on_with_a_cache_that_is_cleared(images, tmp_path):
    """What it has mapped stays readable; the next one finds an empty cache."""
    cache = opened(tmp_path, header_of(images))
    cache.put(1, b"entry")
    entry = cache.get(1)
    assert clear_folders(find_folders(tmp_path)) > 0
    assert bytes(entry) == bytes(cache.get(1)) == b"entry"
    cache.put(2, b"more")
    assert not find_folders(tmp_path)
    assert opened(tmp_path, header_of(images)).held().entries == 0


def test_a_folder_that_cannot_be_made_says_so(images, tmp_path):
    """With the three lines of every error of ours."""
    (tmp_path / "file").write_text("")
    with pytest.raises(FastDataError, match="cache_dir") as caught:
        opened(tmp_path / "file", header_of(images))
    assert "cache=None" in caught.value.fix


def test_a_read_only_disk_serves_the_cache_it_holds(images, tmp_path, monkeypatch):
    """Its lock file cannot be opened for writing; nor can a cache be made there."""
    opened(tmp_path, header_of(images)).put(1, b"entry")
    system_open = os.open

    def read_only(path, flags, *mode, **more):
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(30, "Read-only file system")
        return system_open(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", read_only)
    cache = opened(tmp_path, header_of(images))
    assert bytes(cache.get(1)) == b"entry"
    assert not cache.put(2, b"more")
    with pytest.raises(FastDataError, match="Read-only"):
        opened(tmp_path, header_of(images, {"format": "raw"}))


def test_whatever_else_lies_there_is_no_cache(images, tmp_path):
    """To clear caches never deletes anything else."""
    cache_dir = tmp_path / "caches"
    opened(cache_dir, header_of(images))
    (folder,) = find_folders(cache_dir)
    (cache_dir / "notes").mkdir()
    folder.rename(cache_dir / "renamed")
    assert find_folders(cache_dir) == {}
    assert find_folders(tmp_path / "nowhere") == {}
    with pytest.raises(FileNotFoundError):
        read_header(cache_dir / "notes")
