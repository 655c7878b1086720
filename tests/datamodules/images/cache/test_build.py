"""Filling a cache before training."""

import threading

import torch

from lightning_fastdata.datamodules.images.cache.build import build_cache


def test_progress_can_be_watched_while_threads_read():
    """What cannot be read is named; torch has its threads back at the end."""
    watched = threading.Event()

    class Source:
        def read(self, index):
            assert torch.get_num_threads() == 1
            watched.wait(10)
            if index == 1:
                raise OSError("broken")

    before = torch.get_num_threads()
    done = build_cache([(Source(), ["a", "b", "c"])], 2, watch=lambda progress: watched.set())
    assert (done.done, done.unreadable) == (3, ["b: OSError: broken"])
    assert torch.get_num_threads() == before
