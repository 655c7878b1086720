"""The images of one split as torch datasets: with a transform of the user's, or with the crops that we make."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate

from lightning_fastdata.datamodules.images.batch_decoder import BatchDecoder, empty_batch
from lightning_fastdata.datamodules.images.crops import CenterCrop, RandomCrop
from lightning_fastdata.datamodules.images.decoder import open_rgb
from lightning_fastdata.datamodules.images.folder_index import ImageIndex
from lightning_fastdata.datamodules.images.normalize import Normalizer, PixelBatch
from lightning_fastdata.datamodules.images.sources import FileSource, Source, raw_pixels
from lightning_fastdata.errors import FastDataError

__all__ = [
    "BatchCropDataset",
    "CropDataset",
    "ImageDataset",
    "ImageFiles",
    "SkippedSample",
    "Transform",
    "collate_readable",
]

Transform = Callable[[Any], Any]
OnError = Literal["raise", "skip"]
T = TypeVar("T")


class ImageFiles(Dataset[Any]):
    """Images of one split: their paths, labels and bytes.

    ``paths`` and ``targets`` are read-only sequences over memory that all workers share.

    Args:
        index: All images of the folder.
        indices: Which images of the index belong to this split; None = all.
        source: Gives the images' bytes, by their place in the index; None = the files.
        on_error: "raise" names the file and stops; "skip" leaves the image out of its batch and counts it.
    """

    def __init__(
        self,
        index: ImageIndex,
        *,
        indices: Sequence[int] | None = None,
        source: Source | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self.classes = list(index.classes)
        self.class_to_idx = {name: label for label, name in enumerate(index.classes)}
        self.paths = index.paths if indices is None else index.paths.take(indices)
        self.targets = index.labels if indices is None else index.labels.take(indices)
        self.source: Source = FileSource(index.paths) if source is None else source
        self.on_error = on_error
        # Shared with the workers: each marks what it could not read, the training process reports it.
        self.unreadable = torch.zeros(len(self.paths), dtype=torch.bool)
        self.unreadable.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.paths)

    def unreadable_paths(self) -> list[str]:
        """Files that could not be read so far, with ``on_error="skip"``."""
        return [self.paths[number] for number in self.unreadable.nonzero().flatten().tolist()]

    def first_readable(self, number: int, load: Callable[[int], T | "SkippedSample"]) -> T:
        """The first sample after one that can be read, going round the dataset once.

        Args:
            number: The one that cannot be read.
            load: Gives a sample by its number, or a ``SkippedSample``.

        Raises:
            FastDataError: Not one image can be read.
        """
        for step in range(1, len(self)):
            sample = load((number + step) % len(self))
            if not isinstance(sample, SkippedSample):
                return sample
        raise FastDataError(
            f"none of the {len(self)} images can be read, {self.paths[0]} for one.",
            expected="image files that Pillow can decode.",
            fix="look at the files.",
        )

    def leave_out(self, number: int, error: Exception) -> "SkippedSample":
        """What becomes of an image that could not be read.

        Args:
            number: Its place in the dataset.
            error: Why not.

        Raises:
            FastDataError: Under "raise", with the file's name.
        """
        if self.on_error == "raise":
            raise FastDataError(
                f"cannot read the image {self.paths[number]}: {type(error).__name__}: {error}",
                expected="an image file that Pillow can decode.",
                fix='mend or remove the file, or pass on_error="skip" to leave such files out and count them.',
            ) from error
        self.unreadable[number] = True
        return SkippedSample(self, number)


class ImageDataset(ImageFiles):
    """Images of one split, decoded and transformed on demand.

    Args:
        index: All images of the folder.
        transform: Takes a PIL image (RGB), returns what the model gets.
        indices: Which images of the index belong to this split; None = all.
        **which: Arguments of ``ImageFiles``: which images, where their bytes are, and what a broken one does.
    """

    def __init__(self, index: ImageIndex, transform: Transform, **which: Any) -> None:
        super().__init__(index, **which)
        self.transform = transform

    def __getitem__(self, number: int) -> Any:
        try:
            data = self.source.read(self.paths.position(number))
            image = Image.fromarray(raw_pixels(data)) if self.source.kind == "raw" else open_rgb(data)
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ... for broken files
            return self.leave_out(number, error)
        return self.transform(image), self.targets[number]


class CropDataset(ImageFiles):
    """Images of one split as crops of one size, decoded one by one: float32, normalized.

    A sample is a pair of the image, float32, shape (3, size, size), and its label. Its crop and its flip follow from
    one number of torch's global generator.

    Args:
        index: All images of the folder.
        crop: What is wanted of each image.
        **which: Arguments of ``ImageFiles``: which images, where their bytes are, and what a broken one does.
    """

    as_pixels = False
    """Whether batches are uint8; set on a loader's own copy of a dataset that makes batches."""

    def __init__(self, index: ImageIndex, crop: RandomCrop | CenterCrop, **which: Any) -> None:
        super().__init__(index, **which)
        self.crop = crop
        self.normalize = Normalizer()
        self.decoder = BatchDecoder(self.source, crop)

    @property
    def sample_bytes(self) -> int:
        """Size of one sample of a batch (bytes)."""
        return 3 * self.crop.size**2 * (1 if self.as_pixels else 4)

    def __getitem__(self, number: int) -> Any:
        # An image that is always cut alike moves no generator.
        seed = int(torch.randint(1 << 62, ())) if isinstance(self.crop, RandomCrop) else 0
        decoded = self._decode_one(number, seed)
        if isinstance(decoded, SkippedSample):
            return decoded
        return self.normalize(decoded[0])[0], self.targets[number]

    def _decode_one(self, number: int, seed: int) -> "tuple[torch.Tensor, list[int]] | SkippedSample":
        """Pixels of one image, as a batch of one, and its number."""
        pixels = empty_batch(1, self.crop.size)
        failed = self.decoder.decode([self.paths.position(number)], [seed], pixels)
        return self.leave_out(number % len(self), failed[0]) if failed else (pixels, [number])


class BatchCropDataset(CropDataset):
    """Images of one split as crops of one size, a whole batch at a time; takes what ``CropDataset`` takes.

    A loader of ours asks for a batch and hands over one seed for each sample. It gets normalized floats, or, where
    ``as_pixels`` is set, a ``PixelBatch``, which is to be normalized on the device. torch's own DataLoader gets the
    samples of ``CropDataset`` from it.
    """

    batched_fetch = True
    accepts_seeds = True
    uses_global_rng = False

    decode_threads = 1
    """Threads that decode a batch (count)."""

    def __getitems__(self, indices: Sequence[int], seeds: Any = None) -> Any:
        """A whole batch.

        Args:
            indices: Which samples: a list, or, from a loader of ours, int64, shape (batch,).
            seeds: A seed for each, uint64, shape (batch,); None, as from torch, gives a list of single samples.

        Returns:
            A list of images (float32, shape (batch, 3, size, size)) and labels, or a ``PixelBatch``. Images that
            cannot be read are missing in it under ``on_error="skip"``.

        Raises:
            FastDataError: An image cannot be read, under "raise"; or not one of all can be.
        """
        if seeds is None:
            return [self[index] for index in indices]
        pixels, numbers = self._decoded([int(index) for index in indices], seeds.tolist())
        labels = self.targets.take(numbers).tensor()
        return PixelBatch(pixels, labels) if self.as_pixels else [self.normalize(pixels), labels]

    def finish_unhooked(self, batch: Any) -> Any:
        """A batch as the model gets it, for whoever reads a loader without the Trainer's hooks; a loader calls it."""
        return [self.normalize(batch.images), batch.labels] if isinstance(batch, PixelBatch) else batch

    def _decoded(self, indices: list[int], seeds: list[int]) -> tuple[torch.Tensor, list[int]]:
        """Pixels of those images that could be read, and which they are."""
        pixels = empty_batch(len(indices), self.crop.size)
        positions = [self.paths.position(index) for index in indices]
        failed = self.decoder.decode(positions, seeds, pixels, self.decode_threads)
        if not failed:
            return pixels, indices
        for row in sorted(failed):
            self.leave_out(indices[row] % len(self), failed[row])
        kept = [row for row in range(len(indices)) if row not in failed]
        if kept:
            return pixels[kept], [indices[row] for row in kept]
        return self.first_readable(indices[0], lambda number: self._decode_one(number, seeds[0]))


class SkippedSample(NamedTuple):
    """Stands for an image that could not be read; it never leaves the process that tried."""

    dataset: ImageFiles
    """Where it belongs."""
    number: int
    """Its place in the dataset (index)."""


def collate_readable(samples: list[Any], collate_fn: Callable[[list[Any]], Any] = default_collate) -> Any:
    """Collate the samples that could be read.

    A batch of which nothing could be read (a single broken image at the end, say) becomes the next image that can:
    a run that asked to skip must not end on it.

    Args:
        samples: Samples of a batch, some of which may be left out.
        collate_fn: Puts the others together; torch's default unless the user has one.

    Returns:
        What ``collate_fn`` returns.

    Raises:
        FastDataError: Not one image of the dataset can be read.
    """
    readable = [sample for sample in samples if not isinstance(sample, SkippedSample)]
    skipped = samples[0]
    return collate_fn(readable or [skipped.dataset.first_readable(skipped.number, skipped.dataset.__getitem__)])
