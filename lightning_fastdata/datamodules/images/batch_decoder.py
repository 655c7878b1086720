"""A whole batch of crops, decoded by one thread or several, into memory that needs no copy on its way."""

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import get_worker_info

from lightning_fastdata.compat.torch_internals import shared_bytes
from lightning_fastdata.datamodules.images.crops import CenterCrop, RandomCrop
from lightning_fastdata.datamodules.images.decoder import CropDecoder
from lightning_fastdata.datamodules.images.sources import Source

__all__ = ["BatchDecoder", "empty_batch"]


def empty_batch(samples: int, size: int) -> torch.Tensor:
    """Memory for a batch of images, in a worker's case where the training process finds it.

    Args:
        samples: Images (count).
        size: Height and width (pixels).

    Returns:
        uint8, shape (samples, 3, size, size), in channels_last memory: so the resizing writes it, and so a device
        reads it for either format.
    """
    count = samples * size * size * 3
    # Validation runs in inference mode, which is a thread's own: others could not write into such a tensor.
    with torch.inference_mode(False):
        memory = torch.empty(count, dtype=torch.uint8) if get_worker_info() is None else shared_bytes(count)
        return memory.view(samples, size, size, 3).permute(0, 3, 1, 2)


class BatchDecoder:
    """Reads and decodes images of a source, each with its own seed, so that threads cannot change what comes out.

    It may be copied to other processes: threads and scratch memory are made where they are first needed.

    Args:
        source: Gives the bytes.
        crop: What is wanted of each image.
    """

    def __init__(self, source: Source, crop: RandomCrop | CenterCrop) -> None:
        self.source = source
        self.crop = crop
        self._decoders: list[CropDecoder] = []
        self._pool: ThreadPoolExecutor | None = None
        self._pool_of = (0, 0)  # process and threads

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_decoders": [], "_pool": None}

    def decode(
        self, indices: Sequence[int], seeds: Sequence[int], out: torch.Tensor, threads: int = 1
    ) -> dict[int, Exception]:
        """Decode images into a batch.

        Args:
            indices: Which images of the source.
            seeds: A seed for each.
            out: uint8, shape (images, 3, size, size), from ``empty_batch``.
            threads: Threads that work on it, this one included (count).

        Returns:
            For each place of the batch that could not be filled, why.
        """
        threads = max(1, min(threads, len(indices)))
        while len(self._decoders) < threads:
            self._decoders.append(CropDecoder(self.crop, self.source.kind))
        failed: dict[int, Exception] = {}
        positions = deque(range(len(indices)))

        def work(decoder: CropDecoder) -> None:
            while True:
                try:
                    position = positions.popleft()  # whoever is free takes the next: images differ in size
                except IndexError:
                    return
                try:
                    image = decoder.load(self.source.read(indices[position]), seeds[position])
                except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ...
                    failed[position] = error
                else:  # a fault here would be ours, and no image to leave out
                    decoder.write(image, out[position : position + 1])

        others = [self._threads(threads).submit(work, decoder) for decoder in self._decoders[1:threads]]
        work(self._decoders[0])
        for other in others:
            other.result()
        return failed

    def _threads(self, threads: int) -> ThreadPoolExecutor:
        """The pool of this process; one that a fork has brought along has no threads here."""
        if self._pool is None or self._pool_of != (os.getpid(), threads):
            self._pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="fastdata-decode")
            self._pool_of = (os.getpid(), threads)
        return self._pool
