"""machine.sysfiles: bounded, untrusting reading below a root."""

import os

import pytest

from lightning_fastdata.hardware.sysfiles import SystemFiles, parse_cpu_list, parse_int, plain


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", {0}),
        ("0-3", {0, 1, 2, 3}),
        ("0-1,8,10-11", {0, 1, 8, 10, 11}),
        (" 4 , 6 ", {4, 6}),
        ("", None),
        (None, None),
        ("3-1", None),
        ("0-", None),
        ("all", None),
        ("0-999999", None),
    ],
)
def test_cpu_lists(text, cpus):
    """Kernel lists are read; anything else, also a list that would fill the memory, is None."""
    assert parse_cpu_list(text) == (None if cpus is None else frozenset(cpus))


@pytest.mark.parametrize(
    ("text", "number"), [("12", 12), (" -1 ", -1), ("1_000", None), ("１", None), ("", None), ("9" * 5000, None)]
)
def test_whole_numbers(text, number):
    """Only plain digits count as a number; what int() takes beyond them does not."""
    assert parse_int(text) == number


def test_missing_files_are_ordinary(tmp_path):
    """A file that is not there is None, without a note."""
    files = SystemFiles(tmp_path)
    assert files.read("/proc/self/status") is None
    assert files.names("/proc/self/task") == []
    assert files.notes == []


def test_unreadable_files_leave_one_note(tmp_path):
    """A file that is there and cannot be read is None, and is said once however often it is asked for."""
    (tmp_path / "cpu.max").mkdir()
    files = SystemFiles(tmp_path)
    assert files.read("/cpu.max") is None
    assert files.read("/cpu.max") is None
    assert len(files.notes) == 1
    assert "/cpu.max could not be read" in files.notes[0]


def test_reading_is_bounded_and_replaces_bad_bytes(tmp_path):
    """Of a huge file only the start is read; bytes that are no text do not raise."""
    (tmp_path / "huge").write_bytes(b"\xff" + b"x" * 1_000_000)
    text = SystemFiles(tmp_path).read("/huge")
    assert text is not None
    assert len(text) == 64 * 1024
    assert text.startswith("\N{REPLACEMENT CHARACTER}x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_block(tmp_path):
    """A pipe without a writer is read as empty instead of waiting for ever."""
    os.mkfifo(tmp_path / "pipe")
    assert SystemFiles(tmp_path).read("/pipe") == ""


def test_nothing_outside_the_root_is_read(tmp_path):
    """Neither a link nor a path with dots leads out of the root."""
    (tmp_path / "secret").write_text("42")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "inner").symlink_to("file")
    (root / "file").write_text("inside")
    files = SystemFiles(root)
    assert files.read("/link") is None
    assert files.read("/../secret") is None
    assert files.read("/inner") == "inside"


def test_only_the_real_root_is_real(tmp_path):
    """The machine's own root is told from every other folder."""
    assert SystemFiles("/").is_real
    assert not SystemFiles(tmp_path).is_real


def test_foreign_text_is_made_plain():
    """Control characters cannot reach the terminal, and the length is bounded."""
    assert plain("a\x1b[31mb\n") == "a\\x1b[31mb\\n"
    assert plain("x" * 500, 10) == "x" * 10 + "..."
