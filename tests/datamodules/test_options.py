"""The options that all DataModules share, as a type checker and a user who misspells one see them."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import lightning_fastdata
from lightning_fastdata import FastDataError, FastDataModule, ImageFolderDataModule
from lightning_fastdata.datamodules.options import PLAIN_OPTIONS, FastDataModuleOptions, UnsplitOptions
from lightning_fastdata.loaders.factory import SPLITS

CLASSES = ("FastDataModule", "ImageFolderDataModule", "TensorDataModule", "TokenDataModule", "TorchvisionDataModule")
REQUIRED = {"ImageFolderDataModule": ["photos"], "TorchvisionDataModule": ["MNIST", "data"]}


@pytest.mark.parametrize("name", CLASSES)
def test_a_misspelled_argument_names_the_users_class(name):
    """A TypeError as from any constructor, with the argument that was meant."""
    mine = type("MyData", (getattr(lightning_fastdata, name),), {})
    with pytest.raises(TypeError, match=r"^MyData: unknown argument batch_sise\.") as caught:
        mine(*REQUIRED.get(name, []), batch_sise=32)
    assert isinstance(caught.value, FastDataError)
    assert caught.value.fix == "did you mean batch_size?"


def test_what_a_misspelled_argument_is_compared_with():
    """Arguments of the class itself and of the user's; nothing where nothing is near."""

    class MyData(ImageFolderDataModule):
        def __init__(self, color_space="RGB", **kwargs):
            super().__init__("photos", **kwargs)

    for argument, fix in (("image_sise", "image_size"), ("colour_space", "color_space")):
        with pytest.raises(TypeError, match=f"did you mean {fix}"):
            MyData(**{argument: 1})
    with pytest.raises(TypeError, match="remove it"):
        MyData(parrots=5)


def test_type_checkers_know_the_options_of_the_base():
    """Those of its constructor, with the same types."""
    parameters = inspect.signature(FastDataModule).parameters.values()
    named = {each.name: each.annotation for each in parameters if each.kind is not each.VAR_KEYWORD}
    assert get_type_hints(FastDataModuleOptions) == named
    assert named.keys() - get_type_hints(UnsplitOptions).keys() == {"val_split"}


def test_a_checkpoint_keeps_all_options_with_plain_values():
    """A new one must not be forgotten."""
    objects = {"collate_fn", "dataloader_kwargs", *(f"{split}_dataset" for split in SPLITS)}
    assert set(PLAIN_OPTIONS) == get_type_hints(FastDataModuleOptions).keys() - objects


PROPERTIES = """
from functools import cached_property
from typing import Any
class Lazy(FastDataModule):
    shuffle = False
    @property
    def batch_size(self) -> int:
        return 4
    @cached_property
    def val_dataset(self) -> list[int]:
        return [1]
    def collate_fn(self, samples: list[int]) -> int:
        return len(samples)
    def seed(self) -> None:
        self.num_workers = 4
"""


@pytest.mark.slow
def test_mypy_refuses_what_is_misspelled_or_of_another_type(tmp_path):
    """And takes what is right, also through the constructor of a class of the user's, and a property for an option."""
    lines = [f"from lightning_fastdata import {', '.join(CLASSES)}", "class MyData(FastDataModule): ..."]
    wrong, right = ("batch_sise=32", 'batch_size="32"'), "batch_size=32, num_workers='auto', seed=None, val_split=0.1"
    for name in (*CLASSES, "MyData"):
        required = "".join(f"{value!r}, " for value in REQUIRED.get(name, []))
        lines += [f"{name}({required}{right})", *(f"{name}({required}{each})" for each in wrong)]
    lines += PROPERTIES.splitlines()
    (tmp_path / "snippet.py").write_text("\n".join(lines))
    root = Path(lightning_fastdata.__file__).parents[1]  # with the settings of the project, and its cache
    command = [sys.executable, "-m", "mypy", str(tmp_path / "snippet.py")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    refused = {int(number) for number in re.findall(r"snippet\.py:(\d+): error", done.stdout)}
    assert refused == {number for number in range(3, 3 + 3 * 6) if number % 3}, done.stdout
