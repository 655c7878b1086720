"""What a loader's own plan says already is not asked again."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import Dataset

from lightning_fastdata import auto_dataloader
from lightning_fastdata.callbacks.tuner import eligibility
from lightning_fastdata.callbacks.tuner.eligibility import reason_untunable

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:This DataLoader will create")]


class Numbers(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.tensor([float(index)])


def test_the_rehearsal_of_the_plan_is_not_repeated(monkeypatch):
    """Its finding decides here too; a loader without a plan is rehearsed."""
    monkeypatch.setenv("LIGHTNING_FASTDATA_NUM_CPUS", "6")
    loader = auto_dataloader(Numbers(), batch_size=4)
    asked = []
    monkeypatch.setattr(eligibility, "rehearsed", lambda *arguments: asked.append(arguments))
    assert loader.planning.workload.rehearsed.samples == 8
    assert reason_untunable(loader) is None
    assert asked == []
    problem = replace(loader.planning.workload, worker_problem="dataset.count changes")
    loader.planning = replace(loader.planning, workload=problem)
    assert reason_untunable(loader) == "dataset.count changes"
    foreign = torch.utils.data.DataLoader(Numbers(), batch_size=4, num_workers=1, multiprocessing_context="spawn")
    assert reason_untunable(foreign) is None
    assert [arguments[3] for arguments in asked] == ["spawn"]
