"""Open files that a dataset holds, found without running its code."""

import io
import sqlite3
import zipfile

import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lightning_fastdata.loaders.open_handles import open_handle


class Holds:
    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __getitem__(self, index):
        raise AssertionError("no sample may be loaded here")

    def __len__(self):
        return 10


@pytest.fixture
def file(tmp_path):
    with open(tmp_path / "data.bin", "wb+") as opened:
        yield opened


def test_a_file_is_found_wherever_a_view_leads(file):
    """In the dataset itself, in a list of its, and beneath torch's views."""
    held = Holds(data=file)
    assert open_handle(held) == "dataset.data"
    assert open_handle(Holds(parts=[None, file])) == "dataset.parts[1]"
    assert open_handle(Subset(held, [0])) == "dataset.dataset.data"
    assert open_handle(ConcatDataset([TensorDataset(torch.ones(2)), held])) == "dataset.datasets[1].data"


def test_archives_and_databases_are_files_too(tmp_path):
    """They are no Python files, and no two processes may use them at once."""
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        assert open_handle(Holds(archive=archive)) == "dataset.archive"
    connection = sqlite3.connect(":memory:")
    assert open_handle(Holds(base=connection)) == "dataset.base"
    connection.close()


def test_what_is_closed_or_in_memory_is_none(file):
    """Neither has a position that anybody shares."""
    file.close()
    assert open_handle(Holds(data=file, memory=io.BytesIO(b"x"), paths=["a", "b"])) is None
    assert open_handle(TensorDataset(torch.ones(2))) is None


def test_a_dataset_in_a_circle_comes_to_an_end():
    """Attributes may lead back."""
    held = Holds()
    held.itself = held
    assert open_handle(held) is None
