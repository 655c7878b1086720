"""Building, looking at and deleting caches as a person types it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lightning_fastdata.cli import main


@pytest.fixture
def photos(tmp_path):
    """Two classes in train and one image each in val."""
    root = tmp_path / "photos"
    for split, count in (("train", 4), ("val", 1)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(10 * label + number).integers(0, 256, (300, 400, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return root


@pytest.fixture
def cache(tmp_path, capsys):
    """``cache("build", ...)`` runs the command with a cache folder of its own: (exit code, output, errors)."""

    def run(action, *arguments):
        code = main.main(["cache", action, *map(str, arguments), "--cache-dir", str(tmp_path / "caches")])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def caches(cache, *arguments):
    code, out, _ = cache("info", *arguments, "--json")
    assert code == 0
    return json.loads(out)["caches"]


def test_build_fills_info_tells_clear_deletes(cache, photos, tmp_path):
    """All splits go into one cache; another format has one of its own."""
    code, out, err = cache("build", photos, "--format", "jpeg")
    assert (code, err) == (0, "")
    assert "all samples need about" in out
    assert "10 of 10 samples are cached" in out
    cache("build", photos, "--format", "raw", "--threads", 2)
    found = {entry["settings"]["format"]: entry for entry in caches(cache)}
    assert {name: entry["cached_samples"] for name, entry in found.items()} == {"jpeg": 10, "raw": 10}
    assert found["raw"]["cached_bytes"] == 10 * (4 + 3 * 256 * 341)
    _, out, _ = cache("info")
    assert "10 of 10" in out
    assert str(photos) in out
    code, out, _ = cache("clear", photos)
    assert (code, out.split(" in ")[0]) == (0, "Deleted 2 caches")
    assert caches(cache) == []
    assert "No caches" in cache("info")[1]
    assert sorted(path.name for path in (tmp_path / "caches").iterdir()) == [".lock"]


def test_a_second_build_has_nothing_to_do(cache, photos, monkeypatch):
    """Images are not decoded again."""
    cache("build", photos, "--format", "raw")
    monkeypatch.setattr("lightning_fastdata.datamodules.images.cache.entry_format.EntryFormat.encode", pytest.fail)
    code, out, err = cache("build", photos, "--format", "raw")
    assert (code, err) == (0, "")
    assert "all 10 are there already" in out


def test_info_says_whether_training_would_use_it(cache, photos):
    """A file that has changed since makes the whole cache old; for all caches at once it is not looked up."""
    cache("build", photos, "--format", "original")
    assert [entry["up_to_date"] for entry in caches(cache)] == [None]
    assert [entry["up_to_date"] for entry in caches(cache, photos)] == [True]
    os.utime(photos / "train" / "cat" / "0.jpg", ns=(1, 1))
    assert [entry["up_to_date"] for entry in caches(cache, photos)] == [False]
    assert "have changed" in cache("info", photos)[1]


def test_what_cannot_be_read_is_named(cache, photos):
    """The rest is cached; the exit code tells a script."""
    broken = photos / "train" / "dog" / "2.jpg"
    broken.write_bytes(b"no image")
    code, out, err = cache("build", photos, "--format", "raw")
    assert code == 1
    assert "9 of 10 samples are cached" in out
    assert err.startswith(f"Cannot be read: {broken}: UnidentifiedImageError")


def test_a_budget_is_kept(cache, photos):
    """As a person types it; what does not fit is told."""
    _, out, _ = cache("build", photos, "--format", "raw", "--cache-bytes", "1MiB")
    assert "may be used (cache_bytes=1048576)" in out
    assert "4 of 10 samples are cached" in out
    assert "entries beyond its budget were not kept" in out


@pytest.mark.parametrize(
    ("text", "size"),
    [("5", 5), ("20GB", 20 * 10**9), ("1.5 GiB", 3 * 2**29), ("2k", 2000), ("3MIB", 3 * 2**20), ("7b", 7)],
)
def test_sizes_as_people_type_them(text, size):
    """Units of 1000 and of 1024."""
    from lightning_fastdata.cli.cache import _size

    assert _size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-5", "nan", "1e999", "5 parrots", "20GB20"])
def test_what_is_no_size_is_refused(text, cache, photos, capsys):
    """With the option's name and an example."""
    with pytest.raises(SystemExit):
        cache("build", photos, "--format", "raw", f"--cache-bytes={text}")
    assert "such as 20GB" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["somewhere", "--all"]])
def test_clear_wants_to_know_what(arguments, cache, photos):
    """All caches only if that was said."""
    cache("build", photos, "--format", "original")
    code, _, err = cache("clear", *arguments)
    assert code == 2
    assert "  Fix: " in err
    assert len(caches(cache)) == 1
    assert cache("clear", "--all")[0] == 0
    assert caches(cache) == []


def test_no_folder_and_no_place_are_told(cache, photos, tmp_path):
    """As three lines, exit code 2."""
    assert cache("build", tmp_path / "nowhere", "--format", "raw")[0] == 2
    (tmp_path / "caches").write_text("a file")
    code, _, err = cache("build", photos, "--format", "raw")
    assert code == 2
    assert "Traceback" not in err
    assert str(tmp_path / "caches") in err


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_there(cache, photos, tmp_path):
    """A real SIGINT to a real build, as soon as something is cached; the next build ends what it began."""
    slow = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored under nohup and behind "&"
        "from lightning_fastdata.datamodules.images.cache.blob_file import CacheFile\n"
        "put = CacheFile.put\n"
        "def slowly(self, number, entry):\n"
        "    time.sleep(0.1)\n"
        "    return put(self, number, entry)\n"
        "CacheFile.put = slowly\n"
        "from lightning_fastdata.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    def cached(cache_dir):
        """Whether an entry is in; a folder that is still being made goes by another name and may vanish."""
        tables = [path for path in cache_dir.glob("*/table.bin") if ".new-" not in path.parent.name]
        return any(any(path.read_bytes()) for path in tables)

    def interrupted(cache_dir):
        arguments = ["cache", "build", str(photos), "--format", "raw", "--threads", "1", "--cache-dir", str(cache_dir)]
        process = subprocess.Popen(
            [sys.executable, "-c", slow, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and not cached(cache_dir):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        process.send_signal(signal.SIGINT)
        return process, *process.communicate(timeout=60)

    # About once in ten the interpreter, with torch's threads in it, is aborted at its exit: what was printed is lost.
    for _ in range(3):
        process, out, err = interrupted(tmp_path / "caches")
        if process.returncode != -signal.SIGABRT:
            break
        shutil.rmtree(tmp_path / "caches")
    assert process.returncode == 130, err
    assert "Stopped: " in out
    assert "continues from here" in out
    assert "Traceback" not in err
    kept = int(out.split("Stopped: ")[1].split(" of 10")[0])
    assert 1 <= kept < 10
    _, out, _ = cache("build", photos, "--format", "raw")
    assert f"{kept} of 10 samples are there already" in out
    assert "10 of 10 samples are cached" in out
