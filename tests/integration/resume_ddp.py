"""Two ranks on the CPU: every scenario in one script, because starting Lightning is what takes the time.

``resume_ddp.py <folder>`` expects ``one-<n>.ckpt``, written by one process, and leaves the checkpoints
``two-<n>.ckpt`` of two ranks. What each rank saw is in ``<folder>/<scenario>-<rank>.pt``: for each batch its epoch and
its rows, and what the model drew from torch's generator first.
"""

import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback
from resume_cases import Net, data, every_step, fit

LENGTH, STEPS = 21, 6
"""Two epochs of three global batches of eight, the last of them five."""


class SampleRng(Net):
    """Notes a random number of each step, as dropout would draw it."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = []

    def on_train_batch_start(self, batch, batch_idx):
        state = torch.get_rng_state()
        self.drawn.append(torch.rand(()).item())
        torch.set_rng_state(state)


class Report(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_end(self, trainer, model) -> None:
        seen = [(epoch, batch) for epoch, _, batch in model.seen]
        torch.save({"seen": seen, "drawn": model.drawn}, f"{self.path}-{trainer.global_rank}.pt")


def run(name, folder, workers=0, callbacks=(), batch_size=4, devices=2, **kwargs):
    """One run; with two devices it is two processes that report through files."""
    ranks = {"devices": devices, "strategy": "ddp_fork"} if devices > 1 else {}
    module = data(workers, LENGTH, batch_size=batch_size, dataloader_kwargs={"val": {"num_workers": 0}})
    return fit(module, model=SampleRng, callbacks=[*callbacks, Report(folder / name)], **ranks, **kwargs)


def main(folder: Path) -> None:
    run("two", folder, workers=1, callbacks=[every_step(folder, filename="two-{step}")])
    for step in range(1, STEPS + 1):
        run(f"one-to-two-{step}", folder, path=folder / f"one-step={step}.ckpt")
        run(f"two-to-two-{step}", folder, path=folder / f"two-step={step}.ckpt")
    try:
        run("refused", folder, path=folder / "one-step=2.ckpt", batch_size=8)
    except Exception as caught:  # torch's own, with the traceback of the rank in its text
        (folder / "refused.txt").write_text(str(caught))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
