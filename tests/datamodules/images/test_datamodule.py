"""Images in folders: layouts, decoding, transforms, and every way a folder can be wrong."""

import builtins
import os
import pickle
import random
import warnings

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from lightning_fastdata import ImageFolderDataModule
from lightning_fastdata.datamodules.images.datamodule import ImageDataset
from lightning_fastdata.datamodules.images.datasets import BatchCropDataset
from lightning_fastdata.errors import FastDataError


def module(root, **kwargs):
    made = ImageFolderDataModule(root, **{"image_size": 16, "batch_size": 4, "num_workers": 0, **kwargs})
    made.setup("fit")
    return made


def refusal(root, **kwargs):
    with pytest.raises(FastDataError) as caught:
        module(root, **kwargs)
    assert caught.value.expected
    assert caught.value.fix
    return caught.value


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


# What one gets


def test_the_splits_of_a_folder(photos):
    """train, val and test, with their classes and sizes; two folders for one of them are refused."""
    made = module(photos)
    assert [len(getattr(made, f"{split}_dataset")) for split in ("train", "val", "test")] == [12, 6, 4]
    assert (made.classes, made.num_classes) == (["cat", "dog"], 2)
    assert made.predict_dataset is None
    (photos / "valid").mkdir()
    assert "has both val and valid" in refusal(photos).what


def test_a_test_folder_without_classes_matters_in_test(photos, caplog):
    """``fit`` goes on with one line; ``test`` says what is wrong with it."""
    for name in ("cat", "dog"):
        (photos / "test" / name).rename(photos / name)
    with caplog.at_level("INFO"):
        made = module(photos)
    assert made.test_dataset is None
    assert len(made.val_dataset) == 6
    assert "no class folders" in caplog.text
    with pytest.raises(FastDataError, match="no class folders"):
        made.setup("test")


def test_labels_are_those_of_the_folders(photos):
    """Each sample's label is the position of its class folder; a batch has them as integers."""
    made = module(photos)
    images, labels = next(iter(made.train_dataloader()))
    assert (images.shape, images.dtype, labels.dtype) == ((4, 3, 16, 16), torch.float32, torch.int64)
    dataset = made.val_dataset
    assert [label for _, label in (dataset[n] for n in range(6))] == [0, 0, 0, 1, 1, 1]
    assert dataset.class_to_idx == {"cat": 0, "dog": 1}
    assert dataset.targets == [0, 0, 0, 1, 1, 1]


def test_training_is_augmented_and_evaluation_is_not(photos):
    """The same training image differs from look to look, a validation image never."""
    made = module(photos)
    assert not torch.equal(made.train_dataset[0][0], made.train_dataset[0][0])
    assert torch.equal(made.val_dataset[0][0], made.val_dataset[0][0])


def test_own_transforms_win(photos):
    """They replace everything: what they return is what the model gets."""
    made = module(photos, train_transform=lambda image: image.size, eval_transform=lambda image: image.mode)
    assert made.train_dataset[0] == ((40, 30), 0)
    assert made.val_dataset[0] == ("RGB", 0)
    only_train = module(photos, train_transform=lambda image: 7)
    assert only_train.train_dataset[0] == (7, 0)
    assert only_train.val_dataset[0][0].shape == (3, 16, 16)


# One folder, held-out parts


def test_one_folder_with_held_out_parts(flat):
    """Every file in exactly one part; held-out images are not augmented and know the classes."""
    made = module(flat, val_split=0.2, test_split=3)
    parts = [made.train_dataset, made.val_dataset, made.test_dataset]
    assert [len(part) for part in parts] == [13, 4, 3]
    assert len({path for part in parts for path in part.paths}) == 20
    assert all(part.classes == ["cat", "dog"] for part in parts)
    assert torch.equal(made.val_dataset[0][0], made.val_dataset[0][0])
    assert made.train_dataloader().dataset.classes == ["cat", "dog"]


def test_the_split_depends_on_split_seed_alone(flat):
    """Not on the run's seed, the batch size or a second setup; without one, everything is trained on."""
    made = module(flat, val_split=0.3)
    first = made.val_dataset.paths
    made.setup("validate")
    assert made.val_dataset.paths == first
    assert module(flat).val_dataloader() == []
    assert module(flat, val_split=0.3, seed=99, batch_size=2).val_dataset.paths == first
    assert module(flat, val_split=0.3, split_seed=1).val_dataset.paths != first


def test_it_pickles_before_and_after_setup(photos):
    """ddp_spawn carries it to the ranks."""
    for made in (ImageFolderDataModule(photos, num_workers=0), module(photos)):
        again = pickle.loads(pickle.dumps(made))
        again.setup("fit")
        assert again.classes == ["cat", "dog"]


def test_the_plan_knows_the_size_of_a_sample(photos):
    """Default transforms give a known size, own ones an unknown one."""
    assert module(photos).train_dataset.sample_bytes == 3 * 16 * 16 * 4
    assert not hasattr(module(photos, train_transform=len).train_dataset, "sample_bytes")


def test_nothing_is_decoded_in_setup(photos, monkeypatch):
    """A large folder is listed, not read: no file is opened, whichever library would decode it."""
    opened, original = [], {"open": builtins.open, "os.open": os.open}

    def watched(name):
        return lambda path, *args, **kwargs: opened.append(str(path)) or original[name](path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", watched("open"))
    monkeypatch.setattr("io.open", watched("open"))  # as pathlib calls it
    monkeypatch.setattr("os.open", watched("os.open"))
    made = module(photos)
    assert not [path for path in opened if path.startswith(str(photos))]
    made.train_dataset[0]
    assert [path for path in opened if path.startswith(str(photos))]  # so it would have been seen


# What can be wrong


def test_classes_that_differ_between_train_and_val(photos):
    """Both sides by name, with the folder that differs."""
    (photos / "val" / "dog").rename(photos / "val" / "wolf")
    what = refusal(photos).what
    assert str(photos / "val") in what
    assert "lacks dog and adds wolf" in what


def test_a_held_out_part_beside_a_folder_for_it(photos):
    """Two options that cannot go together."""
    error = refusal(photos, val_split=0.2)
    assert "val_split=0.2" in error.what
    assert str(photos / "val") in error.what


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"image_size": 0}, "image_size=0"),
        ({"image_size": (32, 32)}, "image_size=(32, 32)"),
        ({"decode_threads": 257}, "decode_threads=257"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"val_split": 0.6, "test_split": 0.6}, "sum to 1.2"),
    ],
)
def test_wrong_arguments_are_refused_before_the_folder_is_looked_at(kwargs, words):
    """When the module is made."""
    with pytest.raises(FastDataError) as caught:
        ImageFolderDataModule("/nowhere", **kwargs)
    assert words in caught.value.what


def test_classes_before_setup_say_what_to_do(photos):
    """They are not known yet."""
    with pytest.raises(FastDataError, match="setup"):
        _ = ImageFolderDataModule(photos).classes


# Unreadable files


def damage(path, how):
    if how == "truncated":
        truncate(path)
    else:
        path.write_bytes({"empty": b"", "text": b"<html>not found</html>"}[how])


@pytest.mark.parametrize(
    ("how", "workers"),
    [("truncated", 0), ("empty", 0), ("text", 0), pytest.param("truncated", 1, marks=pytest.mark.slow)],
)
def test_an_unreadable_image_is_named(photos, how, workers):
    """The file's path is in the error, also out of a worker process."""
    bad = photos / "train" / "dog" / "3.jpg"
    damage(bad, how)
    with pytest.raises(FastDataError) as caught:
        list(module(photos, num_workers=workers).train_dataloader())
    assert str(bad) in str(caught.value)
    assert 'on_error="skip"' in str(caught.value)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_counted_and_reported_once(photos, workers):
    """The batch is smaller by the bad image, the run goes on, one warning at the end names the file."""
    bad = truncate(photos / "train" / "dog" / "3.jpg")
    made = module(photos, on_error="skip", num_workers=workers, shuffle=False)
    for _ in range(2):
        labels = torch.cat([labels for _, labels in made.train_dataloader()])
        assert labels.tolist() == [0] * 6 + [1] * 5
    assert made.unreadable == {"train": [str(bad)], "val": [], "test": []}
    with pytest.warns(UserWarning, match="1 images of split 'train' could not be read") as caught:
        made.teardown("fit")
    assert str(bad) in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.teardown("fit")


def test_what_was_skipped_is_remembered_over_the_next_setup(photos):
    """trainer.test after trainer.fit runs setup again; the count of training must not be lost, nor reported twice."""
    truncate(photos / "train" / "dog" / "3.jpg")
    made = module(photos, on_error="skip")
    list(made.train_dataloader())
    with pytest.warns(UserWarning, match="1 images"):
        made.teardown("fit")
    made.setup("test")
    assert len(made.unreadable["train"]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.teardown("test")


def test_a_batch_without_a_readable_image_takes_the_next_that_is(photos):
    """A run that asked to skip must not end on a single broken image at the end of its data."""
    for number in range(5):
        truncate(photos / "train" / "cat" / f"{number}.jpg")
    data = module(photos, on_error="skip", shuffle=False)
    sizes = [len(labels) for _, labels in data.train_dataloader()]
    assert sizes[0] == 1
    assert len(data.unreadable["train"]) == 5


def test_data_of_the_users_own_is_kept(photos):
    """A val_dataset that was passed is not replaced by the folder."""
    own = [(torch.zeros(3, 8, 8), 0)] * 3
    data = module(photos, val_dataset=own)
    assert data.val_dataset is own


def test_hyperparameters_keep_auto_and_rebuild_the_module(photos):
    """A checkpoint holds the options, not this machine's numbers, and no objects."""
    data = module(photos, num_workers="auto", train_transform=lambda image: image)
    assert data.hparams["num_workers"] == "auto"
    assert "train_transform" not in data.hparams
    again = ImageFolderDataModule(**data.hparams)
    assert (again.root, again.image_size, again.num_workers) == (data.root, data.image_size, "auto")


@pytest.mark.parametrize("per_split", [False, True])
def test_a_collate_function_of_ones_own_never_sees_a_skipped_image(photos, per_split):
    """It gets samples only, however it was given."""
    truncate(photos / "train" / "cat" / "0.jpg")
    own = {"dataloader_kwargs": {"train": {"collate_fn": list}}} if per_split else {"collate_fn": list}
    found = list(module(photos, on_error="skip", shuffle=False, **own).train_dataloader())
    assert [len(samples) for samples in found] == [3, 4, 4]
    assert all(sample is not None for samples in found for sample in samples)


def test_an_error_in_a_transform_is_the_users(photos):
    """It is raised unchanged, never counted as an unreadable file."""

    def broken(image):
        raise ZeroDivisionError("mine")

    made = module(photos, on_error="skip", train_transform=broken)
    with pytest.raises(ZeroDivisionError, match="mine"):
        list(made.train_dataloader())


# Pictures


def test_show_batch_is_a_picture_and_moves_no_random_state(photos):
    """A PIL image of some samples; torch, NumPy and random are left unchanged."""
    made = ImageFolderDataModule(photos, image_size=16)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    shown = made.show_batch(count=5)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert isinstance(shown, Image.Image)
    assert min(shown.size) > 16
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("split", ["predict", "training"])
def test_show_batch_of_a_split_without_data(photos, split):
    """Names the split, whether it is empty or does not exist."""
    with pytest.raises(FastDataError, match=repr(split)):
        module(photos).show_batch(split)


def test_show_batch_leaves_out_what_cannot_be_read(photos):
    """With "skip" one bad image costs one tile; more samples than there are may be asked for."""
    truncate(photos / "train" / "cat" / "0.jpg")
    assert isinstance(module(photos, on_error="skip").show_batch(count=100), Image.Image)


# Real photographs


def test_the_dataset_can_be_used_alone(photos):
    """It is a plain torch dataset."""
    from lightning_fastdata.datamodules.images.folder_index import index_images

    dataset = ImageDataset(index_images(photos / "val"), np.asarray, indices=[0, 5])
    assert (len(dataset), dataset[1][1]) == (2, 1)
    assert dataset[0][0].shape == (30, 40, 3)


# Memory


def private_mib_of_the_worker(root, epochs):
    """What the one worker's memory holds for itself alone after each epoch, MiB."""
    made = module(root, image_size=128, batch_size=12, num_workers=1)  # a batch: 12 x 3 x 128 x 128 floats, 2.25 MiB
    loader, found = made.train_dataloader(), []
    for _ in range(epochs):
        for _ in loader:
            pass
        (worker,) = loader._iterator._workers
        found.append(psutil.Process(worker.pid).memory_full_info().uss / 2**20)
    return found


@pytest.mark.slow
def test_a_workers_own_memory_stays_flat(photos):
    """Ten epochs: a batch kept in each of the last eight would be 18 MiB."""
    found = private_mib_of_the_worker(photos, 10)
    assert found[9] - found[1] < 9, found


@pytest.mark.slow
def test_a_batch_kept_in_every_epoch_is_seen_in_a_workers_memory(photos, monkeypatch):
    """The measure of the test above."""
    kept, honest = [], BatchCropDataset.__getitems__

    def keeps(self, indices, seeds):
        kept.append(honest(self, indices, seeds))
        return kept[-1]

    monkeypatch.setattr(BatchCropDataset, "__getitems__", keeps)
    found = private_mib_of_the_worker(photos, 10)
    assert found[9] - found[1] > 9, found
