"""Iterable datasets in real loaders, and as ``docs/iterable.md`` shows them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datamodule_cases import Recorder, quiet_trainer
from torch.utils.data import DataLoader, IterableDataset

from lightning_fastdata import shard
from lightning_fastdata.loaders.sharding import SetShard

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # torch counts CPUs; three workers are meant
    pytest.mark.filterwarnings("ignore:.*is an IterableDataset"),
]

PAGE = Path(__file__).parent.parent.parent / "docs" / "iterable.md"


class Numbers(IterableDataset):
    """Deals out its numbers; the rank is whatever ``shard`` finds."""

    def __init__(self, length, **kwargs):
        self.length, self.kwargs = length, kwargs

    def __iter__(self):
        return shard(range(self.length), **self.kwargs)


class Wrapper(IterableDataset):
    """Another dataset around it."""

    def __init__(self, inner):
        self.inner = inner

    def __iter__(self):
        return iter(self.inner)


# Real loaders


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_every_element_once_from_real_workers(workers):
    """Three ranks, a length that nothing divides, two epochs of workers that stay alive."""
    keep = {"persistent_workers": True} if workers else {}
    loaders = [DataLoader(Numbers(23, share=(r, 3)), batch_size=4, num_workers=workers, **keep) for r in range(3)]
    for _ in range(2):
        seen = [sorted(n for batch in loader for n in batch.tolist()) for loader in loaders]
        assert seen == [list(range(rank, 23, 3)) for rank in range(3)]


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_even_ranks_make_the_same_steps(workers):
    """The numbers of batches agree, which is what DDP needs."""
    loaders = [DataLoader(Numbers(23, share=(r, 3), even=True), batch_size=2, num_workers=workers) for r in range(3)]
    seen = [[batch.tolist() for batch in loader] for loader in loaders]
    assert len({len(batches) for batches in seen}) == 1
    assert sorted(n for batches in seen for batch in batches for n in batch) == list(range(21))


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_unbatched_order_does_not_depend_on_workers(workers):
    """What the page promises for batch_size=None."""
    loader = DataLoader(Numbers(23, share=(1, 2)), batch_size=None, num_workers=workers)
    assert list(loader) == list(range(1, 23, 2))


@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_workers_hear_of_the_rank(start):
    """Through any wrapper, and in every epoch of workers that stay alive; this process' own copy is left alone."""
    dataset = Wrapper(Numbers(12))
    loader = DataLoader(
        dataset,
        batch_size=3,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=start,
        worker_init_fn=SetShard(1, 2),
    )
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[1, 5, 9], [3, 7, 11]]
    assert not hasattr(dataset, "fastdata_share")


# The page


@pytest.fixture(scope="module")
def page():
    """The names that the page's programs define."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("workers", [0, 2])
def test_the_pages_files_and_streams(page, tmp_path, workers):
    """Every line once; the stream in order, as it is not batched."""
    for part in range(5):
        (tmp_path / f"{part}.txt").write_text("".join(f"{10 * part + n}\n" for n in range(3)))
    lines = DataLoader(page["Lines"](tmp_path), batch_size=2, num_workers=workers)
    assert sorted(int(n) for batch in lines for n in batch) == [10 * part + n for part in range(5) for n in range(3)]
    stream = DataLoader(page["Stream"](tmp_path / "1.txt"), batch_size=None, num_workers=workers)
    assert list(stream) == [10.0, 11.0, 12.0]


def in_order(epoch):
    return np.random.default_rng([42, epoch]).permutation(12).tolist()


@pytest.mark.parametrize(
    ("workers", "persistent", "reload"), [(0, False, 0), (2, False, 0), (2, True, 0), (2, False, 1)]
)
def test_the_pages_epochs(page, tmp_path, workers, persistent, reload):
    """Each epoch has an order of its own, kept workers hear of it, and a resumed run goes on with the right one."""

    def run(epochs, **kwargs):
        data = page["Data"](page["Shuffled"](torch.arange(12.0)), num_workers=workers, persistent_workers=persistent)
        data.batch_size = None  # one sample at a time: the order is then that of the dataset
        model = Recorder()
        callbacks = [] if reload else [page["SetEpoch"]()]
        more = {"limit_val_batches": 0, "reload_dataloaders_every_n_epochs": reload}
        trainer = quiet_trainer(max_epochs=epochs, callbacks=callbacks, **more)
        trainer.fit(model, datamodule=data, **kwargs)
        return model.samples(), trainer

    seen, trainer = run(3)
    assert seen == [in_order(epoch) for epoch in range(3)]
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert run(5, ckpt_path=tmp_path / "end.ckpt")[0] == [in_order(epoch) for epoch in (3, 4)]
