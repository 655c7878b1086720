"""A language model on token files: blocks of a memory-mapped file, boundaries of documents, workers as planned.

python examples/tokens.py

The text is Python's own standard library, byte by byte; with a tokenizer only ``write_tokens`` would differ.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import nn

from lightning_fastdata import DataWaitMonitor, TokenDataModule

END = 256
"""Id after the last byte of each document."""


def write_tokens(path: Path, documents: Iterable[Path]) -> None:
    """One document after the other, 16 bits a token, as nanoGPT writes its files."""
    ids = [np.append(np.frombuffer(document.read_bytes(), np.uint8), np.uint16(END)) for document in documents]
    np.concatenate(ids).astype(np.uint16).tofile(path)


class TinyModel(L.LightningModule):
    """One layer of attention, in which a token sees the earlier tokens of its own document."""

    def __init__(self, block_length: int, width: int = 64) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(END + 1, width), nn.Embedding(block_length, width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, END + 1)

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        x = self.token(batch["input_ids"]) + self.position(batch["position_ids"])
        query, key, value = self.mix(x).chunk(3, dim=-1)
        documents = batch["document_ids"]
        sees = (documents[:, :, None] == documents[:, None, :]).tril()
        x = x + nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=sees)
        # The first token of the next document cannot be predicted, so it is not part of the loss.
        targets = batch["targets"].masked_fill(batch["input_ids"] == END, -100)
        return nn.functional.cross_entropy(self.out(x).flatten(0, 1), targets.flatten())

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.loss(batch)

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    torch.set_num_threads(1)  # so small a model gains nothing from more, and a worker gets a core
    texts = sorted(Path(os.__file__).parent.glob("*.py"))[:40]
    with tempfile.TemporaryDirectory() as folder:
        train, val = Path(folder) / "train.bin", Path(folder) / "val.bin"
        write_tokens(train, texts[:-4])
        write_tokens(val, texts[-4:])
        data = TokenDataModule(
            train, val, block_length=128, vocab_size=END + 1, end_of_document=END, batch_size=16, seed=1
        )
        trainer = L.Trainer(
            max_steps=100,
            limit_val_batches=20,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            callbacks=[DataWaitMonitor()],
        )
        trainer.fit(TinyModel(block_length=128), datamodule=data)
        print(f"{len(data.train_dataset)} blocks of {data.block_length} tokens.")
        print(f"Workers: {data.plans['train'].num_workers}, because {data.plans['train'].reasons['num_workers'].text}.")
        loss = trainer.validate(datamodule=data, model=trainer.lightning_module, verbose=False)[0]["val_loss"]
        print(f"Validation: {loss:.2f} nats a byte; {np.log(END + 1):.2f} would be guessing.")
