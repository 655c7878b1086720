"""lightning_fastdata.datamodules.images.batch_decoder within torch's inference mode, in which Lightning validates."""

import io

import numpy as np
import torch
from PIL import Image

from lightning_fastdata.datamodules.images.batch_decoder import BatchDecoder, empty_batch
from lightning_fastdata.datamodules.images.crops import CenterCrop


class OneImage:
    """A source of the same image over and over."""

    kind = "original"

    def __init__(self):
        file = io.BytesIO()
        Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(file, "JPEG")
        self.data = file.getvalue()

    def read(self, index):
        return self.data


def test_a_decoder_serves_in_and_out_of_inference_mode():
    """The mode is the calling thread's alone; memory made in it could not be written to by the other threads."""
    decoder = BatchDecoder(OneImage(), CenterCrop(32, 40))
    for mode in (True, False, True):
        for _ in range(5):
            with torch.inference_mode(mode):
                out = empty_batch(32, 32)
                assert decoder.decode(range(32), [0] * 32, out, threads=3) == {}
