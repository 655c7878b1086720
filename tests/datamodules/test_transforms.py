"""Transforms of whole batches: what they do, and that each sample gets the same in any batch."""

import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import Dataset, IterableDataset
from torchvision.transforms import v2

from lightning_fastdata import TensorDataModule
from lightning_fastdata.datamodules.transforms import RandomCrop, RandomHorizontalFlip, SampleRandom, ToFloat
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.dataset_traits import traits_of
from lightning_fastdata.loaders.order import sample_seeds, stream
from lightning_fastdata.loaders.transformed_dataset import TransformedDataset

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
IMAGES = torch.randint(0, 256, (30, 3, 8, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(30)
ALL = (RandomCrop(7, padding=2), RandomHorizontalFlip(), ToFloat((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))


def random_of(count=30):
    return SampleRandom(sample_seeds(stream(5, 0), np.arange(count)))


def noise(batch, random):
    images, labels = batch
    return images + random.uniform(size=3).view(-1, 3, 1, 1), labels


noise.uses_global_rng = False


def epoch(transform=ALL, epochs=1, **kwargs):
    """All images of an epoch, in the order of the labels."""
    module = TensorDataModule((IMAGES, LABELS), train_transform=transform, **{"batch_size": 30, "seed": 42, **kwargs})
    loader = module.train_dataloader()
    for _ in range(epochs):
        batches = list(loader)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert sorted(labels.tolist()) == LABELS.tolist()
    return images[labels.argsort()]


# The ready-made ones


@pytest.mark.parametrize("shape", [(30, 3, 8, 10), (30, 8, 10), (30, 2, 3, 8, 10)])
def test_a_crop_is_a_window_of_the_padded_image(shape):
    """Every place comes, no other window, one for all channels; in any number of dimensions."""
    images = torch.arange(int(np.prod(shape)), dtype=torch.int32).view(shape) + 1
    random, same = random_of(), random_of()
    found = RandomCrop(7, padding=2)(images, random)
    top, left = same.integers(0, 6).tolist(), same.integers(0, 8).tolist()
    padded = functional.pad(images, (2, 2, 2, 2))
    for number in range(30):
        y, x = top[number], left[number]
        assert torch.equal(found[number], padded[number, ..., y : y + 7, x : x + 7])
    assert set(top) == set(range(6))
    assert len(set(left)) > 5


def test_a_crop_without_a_border():
    """The whole image where the size is its own; not contiguous images too."""
    square = IMAGES[..., :8]
    assert not square.is_contiguous()
    assert torch.equal(RandomCrop(8)(square, random_of()), square)


def test_about_half_of_the_images_are_flipped():
    """As a whole each, and the array they came from does not change."""
    before = IMAGES.clone()
    found = RandomHorizontalFlip()(IMAGES, random_of())
    flipped = [torch.equal(one, image.flip(-1)) for one, image in zip(found, IMAGES, strict=True)]
    kept = [torch.equal(one, image) for one, image in zip(found, IMAGES, strict=True)]
    assert all(one != other for one, other in zip(flipped, kept, strict=True))
    assert 5 <= sum(flipped) <= 25
    assert torch.equal(IMAGES, before)
    assert torch.equal(RandomHorizontalFlip(1)(IMAGES, random_of()), IMAGES.flip(-1))
    assert torch.equal(RandomHorizontalFlip(0)(IMAGES, random_of()), IMAGES)


def test_conversion_is_that_of_torchvision():
    """Up to rounding, with and without mean and standard deviation."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    plain = v2.functional.to_dtype(IMAGES, torch.float32, scale=True)
    torch.testing.assert_close(ToFloat()(IMAGES, random_of()), plain, atol=1e-6, rtol=0)
    expected = v2.functional.normalize(plain, list(mean), list(std))
    torch.testing.assert_close(ToFloat(mean, std)(IMAGES, random_of()), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("make", [tuple, list])
def test_only_the_inputs_are_changed(make):
    """The first part of a batch; its type stays."""
    found = RandomHorizontalFlip(1)(make((IMAGES, LABELS)), random_of())
    assert type(found) is make
    assert torch.equal(found[0], IMAGES.flip(-1))
    assert found[1] is LABELS


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda: RandomCrop(20)(IMAGES, random_of()), "of images of 8 x 10 pixels"),
        (lambda: RandomCrop(2)(LABELS, random_of()), r"shape \(30,\)"),
        (lambda: RandomHorizontalFlip()({"x": IMAGES}, random_of()), "type dict"),
        (lambda: RandomHorizontalFlip(1.5), "p=1.5"),
        (lambda: ToFloat((0.5,)), "mean="),
        (lambda: ToFloat((0.5,), (0.0,)), "std="),
        (lambda: ToFloat()(IMAGES.float(), random_of()), "torch.float32"),
        (lambda: ToFloat((0.5,), (0.2,))(IMAGES, random_of()), r"\(30, 3, 8, 10\)"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(attempt, words):
    with pytest.raises(FastDataError, match=words) as caught:
        attempt()
    assert caught.value.expected
    assert caught.value.fix


# In a DataModule


@pytest.mark.parametrize("transform", [ALL, noise], ids=["ready-made", "own"])
def test_a_sample_is_augmented_alike_in_any_batch(transform):
    """Byte for byte, whatever the batch size, the order of the batches, and the workers."""
    whole = epoch(transform)
    for kwargs in ({"batch_size": 7}, {"batch_size": 1}, {"shuffle": False, "batch_size": 4}, {"num_workers": 1}):
        assert torch.equal(epoch(transform, **kwargs), whole), kwargs


def test_seed_and_epoch_decide_the_augmentation():
    """Another epoch, another seed: other numbers; the same ones: the same."""
    first, second, other = epoch(noise), epoch(noise, epochs=2), epoch(noise, seed=3)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(epoch(noise, epochs=2), second)


def test_evaluation_has_a_transform_of_its_own():
    """The same numbers at every pass; held-out rows of the same array are not augmented as in training."""
    module = TensorDataModule(
        (IMAGES, LABELS), val_split=10, batch_size=4, train_transform=noise, eval_transform=ToFloat()
    )
    loader = module.val_dataloader()
    for images, labels in loader:
        torch.testing.assert_close(images, IMAGES[labels].float() / 255)
    assert all(images.max() > 1 for images, _ in module.train_dataloader())
    noisy = TensorDataModule(val=(IMAGES, LABELS), batch_size=30, eval_transform=noise).val_dataloader()
    assert torch.equal(next(iter(noisy))[0], next(iter(noisy))[0])


def test_a_transform_gets_what_the_collate_function_made():
    """Samples are then fetched one by one, and drawn for by their index all the same."""

    def together(samples):
        return [torch.stack(parts) for parts in zip(*samples, strict=True)]

    assert torch.equal(epoch(noise, collate_fn=together), epoch(noise))


def test_a_transform_that_uses_the_global_generators():
    """It is seeded once a batch, and the training process's own states are put back."""

    def global_noise(batch, random):
        return batch[0] + torch.rand(()), batch[1]

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = epoch(global_noise)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(epoch(global_noise), first)


class Whole(Dataset):
    """A user's own dataset: it says that it gives batches."""

    batched_fetch = True
    in_memory = True
    note = "mine"

    def __len__(self):
        return 30

    def __getitems__(self, indices):
        assert indices.dtype == np.int64
        return IMAGES[indices], LABELS[indices]


def test_a_dataset_of_ones_own():
    """Whole batches of it are transformed likewise, and it still answers for itself."""
    module = TensorDataModule(train_dataset=Whole(), batch_size=8, seed=42, train_transform=ALL)
    loader = module.train_dataloader()
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(images[labels.argsort()], epoch())
    assert loader.dataset.note == "mine"
    assert loader.num_workers == 0


def test_the_view_of_a_dataset_answers_for_it():
    """Also after pickling, as for a worker that is spawned."""
    view = pickle.loads(pickle.dumps(TransformedDataset(Whole(), ALL[:1])))
    assert (view.note, len(view), traits_of(view).batched_fetch, traits_of(view).in_memory) == ("mine", 30, True, True)
    with pytest.raises(AttributeError):
        view.nothing  # noqa: B018


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


def test_what_cannot_be_transformed_is_refused():
    """No function; a stream, whose samples have no index."""
    for wrong in (3, [noise, 3]):
        with pytest.raises(FastDataError, match="train_transform="):
            TensorDataModule(IMAGES, train_transform=wrong)
    module = TensorDataModule(train_dataset=Stream(), train_transform=noise)
    with pytest.raises(FastDataError, match="Stream"):
        module.train_dataloader()
