"""ImageFolderDataModule(cache=...) in real runs: the same batches, cold, in part, warm, or with nothing kept."""

import json
import logging
import os
import signal
from pathlib import Path

import programs
import pytest
import torch
from cache_cases import TRAIN, VAL, Digests, data_module, digests, write_images
from datamodule_cases import quiet_trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torchvision.transforms import v2

from lightning_fastdata import FastDataError
from lightning_fastdata.datamodules.images.sources import FileSource

SCRIPT = Path(__file__).with_name("cache_cases.py")
ALL = 2 * (TRAIN + VAL)
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "photos")


@pytest.fixture
def own_root(tmp_path):
    """A folder that a test may change."""
    return write_images(tmp_path / "photos")


@pytest.fixture(scope="module")
def nothing_kept(root, tmp_path_factory):
    """What two epochs see when every sample takes the format's way and none is kept."""
    folder = tmp_path_factory.mktemp("nothing")
    return {
        kind: digests(root, cache="disk", cache_dir=folder, cache_bytes=0, cache_format=kind)[0]
        for kind in ("original", "jpeg", "raw")
    }


@pytest.fixture
def no_file_is_read(monkeypatch):
    """After a call, reading an image file fails, also in workers: they are forked."""

    def forbid():
        monkeypatch.setattr(FileSource, "read", lambda self, index: pytest.fail("a file was read"))

    return forbid


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["original", "jpeg", "raw"])
def test_a_disk_cache_changes_no_batch(kind, workers, root, nothing_kept, tmp_path, no_file_is_read):
    """Cold and warm epochs of one run, then a run of another number of workers that reads no file at all."""
    cached = {"cache": "disk", "cache_dir": tmp_path, "cache_format": kind}
    seen, module = digests(root, num_workers=workers, **cached)
    assert seen == nothing_kept[kind]
    assert f"{ALL} of {ALL} samples are cached" in module._cache.lines()[0]
    no_file_is_read()
    seen, module = digests(root, num_workers=2 - workers if workers else 0, **cached)
    assert seen == nothing_kept[kind]
    assert module.cache_plan.held.entries == ALL


def test_original_files_are_what_no_cache_gives(root, nothing_kept):
    """The default format changes nothing; the others do, which is why they are the user's to choose."""
    assert digests(root)[0] == nothing_kept["original"]
    assert len({json.dumps(seen) for seen in nothing_kept.values()}) == 3


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_first_epoch_reads_each_file_once(workers, root, nothing_kept, tmp_path, monkeypatch):
    """Whatever worker read a sample: no file is read twice, and batches are the same."""
    reads = torch.zeros(ALL, dtype=torch.int32).share_memory_()
    read = FileSource.read

    def counted(self, index):
        reads[index + (len(self.paths) == 2 * VAL) * 2 * TRAIN] += 1
        return read(self, index)

    monkeypatch.setattr(FileSource, "read", counted)
    monkeypatch.setattr("lightning_fastdata.datamodules.images.cache.image_cache.estimated_bytes", lambda *arguments: 1)
    seen, _ = digests(root, num_workers=workers, cache="disk", cache_dir=tmp_path, cache_format="raw")
    assert seen == nothing_kept["raw"]
    assert reads.tolist() == [1] * ALL


def test_a_part_of_the_cache_is_served(root, nothing_kept, tmp_path):
    """A budget for some samples: the others are read again in every epoch, the same way."""
    seen, module = digests(root, cache="disk", cache_dir=tmp_path, cache_bytes=3_000_000, cache_format="raw")
    assert seen == nothing_kept["raw"]
    held = module._cache._file.held()
    assert 0 < held.entries < ALL
    assert held.file_bytes <= 3_000_000
    assert "entries beyond its budget were not kept" in module._cache.lines()


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_that_resumes_in_mid_epoch_sees_the_rest(root, nothing_kept, tmp_path):
    """Stopped by an exception in a cold epoch, resumed with what was cached till then."""
    cached = {"cache": "disk", "cache_dir": tmp_path / "caches", "cache_format": "jpeg"}

    def stop():
        raise InterruptedError

    first = Digests((0, 4), stop)
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", "stopped", every_n_train_steps=1, save_on_exception=True)
    trainer = quiet_trainer(num_sanity_val_steps=0, callbacks=[checkpoint], enable_checkpointing=True)
    with pytest.raises(InterruptedError):
        trainer.fit(first, datamodule=data_module(root, **cached))
    rest, module = Digests(), data_module(root, **cached)
    trainer = quiet_trainer(num_sanity_val_steps=0)
    trainer.fit(rest, datamodule=module, ckpt_path=checkpoint.best_model_path or checkpoint.last_model_path)
    assert 0 < module.cache_plan.held.entries < ALL
    assert {**first.seen, **rest.seen} == nothing_kept["jpeg"]
    assert len(rest.seen) < len(nothing_kept["jpeg"])


@pytest.mark.slow
def test_a_killed_run_leaves_a_cache_that_serves(root, nothing_kept, tmp_path):
    """SIGKILL to a training process whose two workers are filling: the next run goes on with what is there."""
    assert programs.run(SCRIPT, "kill", root, tmp_path, tmp_path).returncode == -signal.SIGKILL
    seen, module = digests(root, cache="disk", cache_dir=tmp_path, cache_format="raw")
    assert module.cache_plan.held.entries >= 4 * 4
    assert seen == nothing_kept["raw"]
    assert not module._cache.notes.lines()


@pytest.mark.slow
def test_two_ranks_fill_and_serve_one_cache(root, tmp_path):
    """After an epoch it holds what both have read, and global batches hold what they should."""
    done = programs.run(SCRIPT, "ddp", root, tmp_path / "caches", tmp_path)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    for rank in ranks:
        assert f"{ALL} of {ALL} samples are cached" in rank["lines"][0]
        assert rank["lines"][1:] == []
    assert ranks[0]["seen"].keys() == ranks[1]["seen"].keys()
    assert not set(ranks[0]["seen"].values()) & set(ranks[1]["seen"].values())


def test_images_that_change_between_runs_are_seen(own_root, tmp_path):
    """The whole cache is replaced: an old image is never served."""
    cached = {"cache": "disk", "cache_dir": tmp_path / "caches", "cache_format": "raw"}
    digests(own_root, epochs=1, **cached)
    Image.new("RGB", (300, 300), "red").save(own_root / "train" / "cat" / "00.jpg")
    seen, module = digests(own_root, epochs=1, **cached)
    assert module.cache_plan.held.entries == 0
    assert seen == digests(own_root, epochs=1, **{**cached, "cache_dir": tmp_path / "fresh"})[0]
    assert len(list((tmp_path / "caches").glob("photos-*"))) == 1


def test_a_damaged_cache_is_mended_and_reported(root, nothing_kept, tmp_path, caplog):
    """Bits flipped all over the blob: not one wrong batch."""
    cached = {"cache": "disk", "cache_dir": tmp_path, "cache_format": "jpeg"}
    digests(root, epochs=1, **cached)
    (blob,) = tmp_path.glob("*/entries.bin")
    spoilt = bytearray(blob.read_bytes())
    for place in range(0, len(spoilt), len(spoilt) // 10):
        spoilt[place] ^= 4
    blob.write_bytes(spoilt)
    with caplog.at_level(logging.INFO):
        seen, _ = digests(root, **cached)
    assert seen == nothing_kept["jpeg"]
    assert "damaged entries were found and replaced" in caplog.text


@pytest.mark.parametrize("kind", ["original", "raw"])
def test_without_a_place_for_it_training_goes_on(kind, root, nothing_kept, tmp_path, caplog):
    """The reason is logged, and batches are those of the format."""
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.INFO):
        seen, module = digests(root, cache="disk", cache_dir=tmp_path / "file", cache_format=kind)
    assert seen == nothing_kept[kind]
    assert module.cache_plan.kind is None
    assert f'no cache, though cache="disk": cache_dir={str(tmp_path / "file")!r}' in caplog.text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_is_reported_and_training_goes_on(root, nothing_kept, tmp_path, monkeypatch, caplog):
    """The system's own error, out of a real write."""
    pwrite, left = os.pwrite, [6]

    def until_it_is_full(descriptor, data, offset):
        left[0] -= 1
        if left[0] >= 0:
            return pwrite(descriptor, data, offset)
        with open("/dev/full", "wb", buffering=0) as full:
            return full.write(data)

    monkeypatch.setattr(os, "pwrite", until_it_is_full)
    with caplog.at_level(logging.INFO):
        seen, _ = digests(root, cache="disk", cache_dir=tmp_path, cache_format="raw")
    assert seen == nothing_kept["raw"]
    # Six writes are three entries, or two whole ones where two threads were at theirs when the disk was full.
    assert f"3 of {ALL} samples are cached" in caplog.text or f"2 of {ALL} samples are cached" in caplog.text
    assert "no more was kept after: No space left on device" in caplog.text


def test_the_reason_is_logged_once_with_the_bytes(root, tmp_path, caplog):
    """Of one DataModule through fit and validate; the cache stays open."""
    module = data_module(root, cache="disk", cache_dir=tmp_path, cache_format="raw", batch_size=8)
    with caplog.at_level(logging.INFO):
        trainer = quiet_trainer(max_epochs=1, num_sanity_val_steps=0)
        trainer.fit(Digests(), datamodule=module)
        trainer.validate(Digests(), datamodule=module, verbose=False)
    logged = [record.message for record in caplog.records if "cache=" in record.message]
    assert len(logged) == 1
    for part in ("all samples need about", "on that disk are free", str(tmp_path)):
        assert part in logged[0]
    assert caplog.text.count(f"{ALL} of {ALL} samples are cached") == 1


def test_parts_that_are_held_out_share_the_cache(root, tmp_path, no_file_is_read):
    """Another split of the same files reads no file again."""
    cached = {"cache": "disk", "cache_dir": tmp_path, "cache_format": "raw"}
    digests(root / "train", epochs=1, val_split=0.25, **cached)
    no_file_is_read()
    seen, module = digests(root / "train", epochs=1, val_split=0.5, split_seed=1, **cached)
    assert len(seen) == 2 * TRAIN // 4
    assert module.cache_plan.samples == 2 * TRAIN


def test_transforms_of_the_user_get_what_is_cached(root, tmp_path, no_file_is_read):
    """A PIL image of the size that is kept."""
    sizes = []

    def transform(image):
        sizes.append(image.size)
        return v2.functional.pil_to_tensor(image.resize((8, 8))).float()

    own = {"train_transform": transform, "eval_transform": transform}
    for kind in ("jpeg", "raw"):
        cached = {"cache": "disk", "cache_dir": tmp_path, "cache_format": kind}
        cold, _ = digests(root, epochs=1, **own, **cached)
        assert {min(size) for size in sizes} == {256}
    no_file_is_read()
    assert digests(root, epochs=1, **own, **cached)[0] == cold


@pytest.mark.parametrize("kind", ["original", "raw"])
def test_unreadable_images_are_left_out_of_cold_and_warm_runs(kind, own_root, tmp_path):
    """With on_error="skip"; what cannot be decoded is never cached as pixels."""
    broken = own_root / "train" / "dog" / "03.jpg"
    broken.write_bytes(b"no image")
    cached = {"cache": "disk", "cache_dir": tmp_path / "caches", "cache_format": kind, "on_error": "skip"}
    with pytest.warns(UserWarning, match="left out"):
        cold, module = digests(own_root, epochs=1, **cached)
    with pytest.warns(UserWarning, match="left out"):
        assert digests(own_root, epochs=1, **cached)[0] == cold
    assert module.unreadable["train"] == [str(broken)]


def test_larger_models_get_larger_entries(root, tmp_path):
    """Images of 384 are not blown up from 256 because of a cache."""
    for image_size, short_side_px in ((288, 329), (32, 256)):
        module = data_module(root, image_size=image_size, cache="disk", cache_dir=tmp_path, cache_format="raw")
        module.setup("fit")
        assert module._cache.options.entry_format.short_side_px == short_side_px


def test_hyperparameters_hold_the_options(root, tmp_path):
    """Not what became of it on this machine."""
    module = data_module(root, cache="disk", cache_dir=tmp_path, cache_bytes=5, cache_format="jpeg")
    module.setup("fit")
    names = ("cache", "cache_dir", "cache_bytes", "cache_format")
    assert [module.hparams[name] for name in names] == ["disk", str(tmp_path), 5, "jpeg"]
    assert [data_module(root).hparams[name] for name in names] == [None, None, None, "original"]
    assert data_module(root).cache_plan is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache": "memory"}, "cache='memory'"),
        ({"cache": True}, "cache=True"),
        ({"cache": "disk", "cache_format": "webp"}, "cache_format='webp'"),
        ({"cache": "disk", "cache_bytes": -1}, "cache_bytes=-1"),
        ({"cache": "disk", "cache_bytes": 1.5}, "cache_bytes=1.5"),
        ({"cache": "disk", "cache_bytes": True}, "cache_bytes=True"),
        ({"cache_format": "raw"}, "cache_format='raw' without a cache"),
        ({"cache_dir": "/tmp/x"}, "cache_dir='/tmp/x' without a cache"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, words, root):
    """When the DataModule is made."""
    with pytest.raises(FastDataError) as caught:
        data_module(root, **options)
    assert words in str(caught.value)


def test_a_cache_in_memory_is_refused_before_the_first_batch(root):
    """With what the images take and what is free, whatever else is asked for."""
    module = data_module(root, cache="ram", cache_format="raw", cache_bytes=5)
    with pytest.raises(FastDataError, match=r'cache="ram" was removed: all samples need about \d+\.\d MiB; .*/dev/shm'):
        module.setup("fit")
