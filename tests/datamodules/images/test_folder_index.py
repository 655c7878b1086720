"""Finding the images of a folder, and saying exactly what is wrong with one."""

import os
import socket

import pytest

from lightning_fastdata.datamodules.images.folder_index import index_images, split_folders
from lightning_fastdata.errors import FastDataError


def refusal(function, *args):
    with pytest.raises(FastDataError) as caught:
        function(*args)
    assert caught.value.expected
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize("name", ["valid", "validation", "Val", "VALID"])
def test_other_names_of_validation(make_folder, name):
    """The usual spellings, in any case, are validation."""
    root = make_folder({"train": 1, name: 1})
    assert split_folders(root)["val"] == root / name


def test_a_missing_folder_names_it_and_the_nearest(tmp_path):
    """The path, and how far it exists."""
    error = refusal(split_folders, tmp_path / "a" / "b")
    assert str(tmp_path / "a" / "b") in error.what
    assert "there is no such folder" in error.what
    assert f"the nearest that exists is {tmp_path}." in error.fix


def test_a_file_in_place_of_the_folder(make_image, tmp_path):
    """An archive or an image instead of the folder."""
    assert "it is a file" in refusal(split_folders, make_image(tmp_path / "cat.jpg")).what


def test_validation_without_training(make_folder):
    """A val folder alone names what is missing."""
    assert "has val, but no train folder" in refusal(split_folders, make_folder({"val": 1})).what


def test_the_images_in_a_fixed_order(photos):
    """Classes sorted, files sorted within, the label is the position of the class."""
    index = index_images(photos / "train")
    assert index.classes == ("cat", "dog")
    assert index.labels == (0,) * 6 + (1,) * 6
    assert list(index.paths) == [str(photos / "train" / name / f"{n}.jpg") for name in ("cat", "dog") for n in range(6)]


def test_only_images_count_and_they_may_lie_deeper(make_folder, make_image):
    """Upper-case endings and subfolders count; other files, hidden folders and folders named like images do not."""
    root = make_folder({"": 1}, classes=("cat",))
    make_image(root / "cat" / "more" / "x.JPG")
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "cat" / "folder.png").mkdir()
    (root / ".cache").mkdir()
    make_image(root / "cat" / ".ipynb_checkpoints" / "y.jpg")
    make_image(root / "cat" / "z.gif")
    index = index_images(root)
    assert index.classes == ("cat",)
    assert [path.rsplit("/", 1)[1] for path in index.paths] == ["0.jpg", "x.JPG"]
    assert index.left_out == "2 files of other types left out: .gif 1, .txt 1; hidden folders left out: 1"


def test_links_to_folders_are_followed_and_loops_end(make_folder, make_image):
    """Images behind a linked folder within a class come; a link to a folder above does not go round."""
    root = make_folder({"": 1}, classes=("cat",))
    make_image(root.parent / "disk" / "more" / "x.jpg")
    (root / "cat" / "linked").symlink_to(root.parent / "disk")
    (root / "cat" / "again").symlink_to(root)
    (root.parent / "disk" / "up").symlink_to("..")
    found = sorted(os.path.relpath(path, root / "cat") for path in index_images(root).paths)
    assert found[:1] == ["0.jpg"]
    assert "linked/more/x.jpg" in found
    assert len(found) < 10


def make_no_file(path, kind):
    if kind == "link":
        path.symlink_to("/not-mounted/0.jpg")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))


@pytest.mark.parametrize("kind", ["link", "pipe", "socket"])
def test_an_image_that_is_no_file_is_refused(make_folder, kind):
    """A disk that is not mounted, or a pipe, which would be waited for; "skip" goes on, and a lost link counts."""
    root = make_folder({"": 1}, classes=("cat",))
    made = root / "cat" / "1.jpg"
    make_no_file(made, kind)
    error = refusal(index_images, root)
    assert f"1 names of images lead to no file, {made} for one" in error.what
    index = index_images(root, on_error="skip")
    assert len(index.paths) == (2 if kind == "link" else 1)
    assert ("no files" in index.left_out) == (kind != "link")


def test_a_class_may_be_named_like_a_split(make_image, tmp_path):
    """Images directly in "train" beside other folders: a class, not a split."""
    for name in ("train", "car", "test"):
        make_image(tmp_path / name / "0.jpg")
    assert split_folders(tmp_path) == {}
    assert index_images(tmp_path).classes == ("car", "test", "train")


def test_images_without_class_folders_are_counted(make_image, tmp_path):
    """An empty folder, or loose images: how many, and where they should be."""
    assert f"{tmp_path}: no class folders." in refusal(index_images, tmp_path).what
    for number in range(3):
        make_image(tmp_path / f"{number}.png")
    error = refusal(index_images, tmp_path)
    assert "3 images lie directly in it" in error.what
    assert "folder per class" in error.fix


def test_an_empty_class_is_named(photos):
    """A class folder without an image, with its path and name."""
    (photos / "train" / "emu").mkdir()
    error = refusal(index_images, photos / "train")
    assert str(photos / "train" / "emu") in error.what
    assert "0 images of class 'emu'" in error.what
    assert ".jpg" in error.expected


def test_classes_that_differ_are_named(make_folder):
    """What is missing and what is too much, by name and folder."""
    root = make_folder({"": 1}, classes=("cat", "cow"))
    error = refusal(index_images, root, ("ant", "cat", "dog"))
    assert str(root) in error.what
    assert "lacks ant, dog and adds cow" in error.what
