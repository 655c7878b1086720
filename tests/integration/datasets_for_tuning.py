"""Datasets for the tuner's tests; workers of every start method can import them."""

import os
import time

import numpy as np
import torch
from torch.utils.data import Dataset


class Slow(Dataset):
    """Waits, and gives its number; ``tensor`` gives something to measure."""

    def __init__(self, length=2000, wait_s=0.002, cpu_s=0.0, size=16):
        self.length, self.wait_s, self.cpu_s, self.size = length, wait_s, cpu_s, size

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if self.wait_s:
            time.sleep(self.wait_s)
        ends = time.thread_time() + self.cpu_s
        while self.cpu_s and time.thread_time() < ends:
            np.sort(np.arange(2000)[::-1])
        return torch.full((self.size,), float(index))


class Raises(Slow):
    def __getitem__(self, index):
        raise ValueError(f"sample {index} is broken")


class Dies(Slow):
    def __getitem__(self, index):
        os._exit(7)


class OpensFile(Slow):
    def __init__(self, path):
        super().__init__(100)
        self.file = open(path, "rb")  # noqa: SIM115


class Random(Slow):
    """Draws from torch's global generator."""

    def __getitem__(self, index):
        return torch.rand(4) + super().__getitem__(index)[:4]
