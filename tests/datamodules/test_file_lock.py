"""Locks that end their wait, and say who holds them."""

import json
import os
import subprocess
import sys

import pytest

from lightning_fastdata.datamodules.file_lock import file_lock
from lightning_fastdata.errors import FastDataError


def test_a_wait_that_ends_names_the_holder(tmp_path):
    """Host, process and since when; the note goes with the lock."""
    path = tmp_path / "a.lock"
    with file_lock(path, 1):
        note = json.loads((tmp_path / "a.lock.holder").read_text())
        assert note["pid"] == os.getpid()
        with pytest.raises(FastDataError) as caught, file_lock(path, 0.01):
            pass
    for word in (str(path), "0.01 s", *map(str, note.values())):
        assert word in caught.value.what
    assert [found.name for found in tmp_path.iterdir()] == ["a.lock"]
    with file_lock(path, 0.01):
        pass


@pytest.mark.parametrize("left", ["not JSON", "[]", "{}", None])
def test_a_holder_without_a_readable_note(left, tmp_path):
    """An older note, or none: the error is the same but for the name."""
    with file_lock(tmp_path / "lock", 1):
        (tmp_path / "lock.holder").unlink()
        if left is not None:
            (tmp_path / "lock.holder").write_text(left)
        with pytest.raises(FastDataError, match="left no note"), file_lock(tmp_path / "lock", 0.01):
            pass


def test_the_note_of_a_killed_holder_is_replaced_and_no_link_is_followed(tmp_path):
    """The lock of a killed process is free."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock.holder").symlink_to(tmp_path / "precious")
    with file_lock(tmp_path / "lock", 1):
        assert json.loads((tmp_path / "lock.holder").read_text())["pid"] == os.getpid()
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(("folder", "file"), [(0o700, 0o600), (0o755, 0o644), (0o775, 0o664), (0o777, 0o666)])
def test_whoever_may_write_to_the_folder_may_lock(folder, file, tmp_path):
    """A folder that a group shares has a lock that the group can take."""
    tmp_path.chmod(folder)
    with file_lock(tmp_path / "lock", 1):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == file


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path):
    """So is a file system without locks."""
    with pytest.raises(OSError, match="nowhere"), file_lock(tmp_path / "nowhere" / "lock", 1):
        pass


def test_a_file_system_without_locks_is_an_error_of_the_system(tmp_path, monkeypatch):
    """Older versions of filelock have an error of another kind for it."""

    def refuse(self, timeout):
        raise NotImplementedError("no flock")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(OSError, match="no flock"), file_lock(tmp_path / "lock", 1):
        pass


@pytest.mark.slow
def test_image_folders_work_without_fcntl(tmp_path):
    """As on Windows: the classes can be imported, and a cache says why there is none."""
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from PIL import Image\n"
        "from lightning_fastdata import ImageFolderDataModule, TorchvisionDataModule\n"
        "from pathlib import Path\n"
        "for name in ('cat', 'dog'):\n"
        "    Path(name).mkdir(); Image.new('RGB', (40, 40)).save(f'{name}/0.png')\n"
        "data = ImageFolderDataModule('.', image_size=8, cache='disk', cache_dir='c')\n"
        "data.setup('fit'); print(data.cache_plan, len(data.train_dataset))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no cache" in done.stdout
    assert done.stdout.endswith(" 2\n")
