"""What batches and loaders tell about themselves."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_fastdata.monitor.batches import fetches_for_itself, overrides, samples_in, workers_of

X = torch.zeros(6, 3)


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (X, 6),
        (np.zeros((5, 2)), 5),
        ((X, torch.zeros(6)), 6),
        ([X, "names"], 6),
        ({"text": ["a"], "x": X}, 6),
        ({"a": (X, X), "b": (torch.zeros(2), X)}, 6),
        (torch.tensor(1.0), None),
        ([[X, X], [X, X]], None),
        (None, None),
        ("text", None),
        ((), None),
        (object(), None),
    ],
)
def test_samples_are_counted_only_where_there_is_no_doubt(batch, samples):
    assert samples_in(batch) == samples


def test_workers_of_one_loader_or_of_many():
    two, none = SimpleNamespace(num_workers=2), SimpleNamespace(num_workers=0)
    assert workers_of(two) == 2
    assert workers_of([none, two]) == 2
    assert workers_of({"a": none}) == 0
    assert workers_of(SimpleNamespace(flattened=[none, two])) == 2
    assert workers_of(SimpleNamespace(flattened=[SimpleNamespace(flattened=[two])])) == 2
    assert workers_of(SimpleNamespace(pipeline=[two, len])) == 2  # WebDataset's WebLoader
    assert workers_of(SimpleNamespace(pipeline="text")) is None
    assert workers_of(object()) is None
    assert workers_of(None) is None


def test_steps_that_fetch_are_told_from_those_that_are_given_a_batch():
    class Fetching:
        def validation_step(self, dataloader_iter):
            pass

        def test_step(self, batch, batch_idx, dataloader_idx=0):
            pass

    assert fetches_for_itself(Fetching().validation_step)
    assert not fetches_for_itself(Fetching().test_step)
    assert not fetches_for_itself(None)


def test_hooks_of_ones_own_are_told_from_lightnings():
    from lightning.pytorch import LightningDataModule, LightningModule

    class Augmenting(LightningModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch

    assert overrides("on_after_batch_transfer", None, Augmenting())
    assert overrides("on_after_batch_transfer", Augmenting(), LightningDataModule())
    assert not overrides("transfer_batch_to_device", Augmenting(), LightningDataModule(), None)
