"""Token files inside real Trainer runs: the blocks of the order, exact resume, checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from resume_cases import Net, copied, every_step, fit, rest

from lightning_fastdata import DataWaitMonitor, TokenDataModule
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.order import epoch_order

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*ckpt_path"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:Total length of `list`"),
]

BLOCKS, LENGTH, VOCABULARY = 11, 8, 50


class Bigram(Net):
    """Predicts a token from the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(VOCABULARY, VOCABULARY)

    def learn(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, copied(batch)))
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.loss(batch))

    def loss(self, batch):
        logits = self.dropout(self.table(batch["input_ids"]))
        return torch.nn.functional.cross_entropy(logits.view(-1, VOCABULARY), batch["targets"].view(-1))


def write(path: Path) -> Path:
    """Blocks whose first token is their number."""
    ids = np.random.default_rng(0).integers(11, VOCABULARY, BLOCKS * LENGTH + 1)
    ids[: BLOCKS * LENGTH : LENGTH] = np.arange(BLOCKS)
    ids.astype(np.uint16).tofile(path)
    return path


def data(path: Path, workers: int = 0, **kwargs) -> TokenDataModule:
    options = {"block_length": LENGTH, "vocab_size": VOCABULARY, "batch_size": 2, "num_workers": workers, "seed": 7}
    return TokenDataModule(path, path, **{**options, **kwargs})


def blocks_seen(run) -> list[list[int]]:
    """Numbers of the blocks of each epoch."""
    seen = [[], []]
    for epoch, _, batch in run.model.seen:
        seen[epoch] += batch["input_ids"][:, 0].tolist()
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fit_sees_every_block_once_an_epoch(tmp_path, workers):
    """In the order of (seed, epoch), whatever the workers; the monitor counts samples and batches as anywhere."""
    monitor = DataWaitMonitor(summary=False, warn_above=None)
    run = fit(data(write(tmp_path / "a.bin"), workers), model=Bigram, callbacks=[monitor])
    assert blocks_seen(run) == [epoch_order(7, epoch, BLOCKS).tolist() for epoch in (0, 1)]
    assert [record.samples for record in monitor.records()] == 2 * [2, 2, 2, 2, 2, 1]


def test_every_cut_resumes_exactly(tmp_path):
    """From any step of two epochs, with other workers: the rest of the batches, bitwise, and the same weights."""
    path = write(tmp_path / "a.bin")
    whole = fit(data(path), model=Bigram, callbacks=[every_step(tmp_path / "cuts")])
    for step in range(1, 13):
        again = fit(data(path, 2 * (step % 4 == 1)), model=Bigram, path=tmp_path / "cuts" / f"step={step}.ckpt")
        assert rest(again, 0) == rest(whole, step), step


def test_a_file_of_another_length_is_not_resumed_from(tmp_path):
    """The checkpoint knows how many blocks there were."""
    path = write(tmp_path / "a.bin")
    fit(data(path), model=Bigram, callbacks=[every_step(tmp_path / "cuts")])
    np.fromfile(path, np.uint16)[: 9 * LENGTH + 1].tofile(path)
    with pytest.raises(FastDataError, match="11"):
        fit(data(path), model=Bigram, path=tmp_path / "cuts" / "step=3.ckpt")


def test_a_checkpoint_gives_the_module_back(tmp_path):
    """Its arguments are in the checkpoint, in plain values."""
    path = write(tmp_path / "a.bin")
    callback = ModelCheckpoint(tmp_path, filename="last")
    fit(data(path), model=Bigram, callbacks=[callback], max_epochs=1)
    again = TokenDataModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert (again.train, again.block_length, again.vocab_size) == (str(path), LENGTH, VOCABULARY)
