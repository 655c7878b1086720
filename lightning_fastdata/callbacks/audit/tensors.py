"""The bytes of a tensor, for ``content``."""

from typing import Any

import torch

from lightning_fastdata.callbacks.audit.content import Block, block_of
from lightning_fastdata.callbacks.audit.digest import NotMeasured

__all__ = ["tensor_block"]


def tensor_block(leaf: Any) -> Block | None:
    """The bytes of a tensor, or of what ``content.block_of`` knows; None for anything else.

    Args:
        leaf: Part of a batch. A tensor on a device is copied to the CPU, which waits for the device.

    Raises:
        NotMeasured: A sparse, nested or quantised tensor, whose bytes stand elsewhere.
    """
    if not isinstance(leaf, torch.Tensor):
        return block_of(leaf)
    if leaf.layout != torch.strided or leaf.is_nested or leaf.is_quantized:
        raise NotMeasured(f"a batch holds a tensor that is sparse, nested or quantised ({leaf.layout}, {leaf.dtype})")
    # Subclasses, as torchvision's, may answer the calls below with more of themselves.
    plain = leaf.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg().cpu().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy()
    return Block(str(plain.dtype).removeprefix("torch."), tuple(plain.shape), data)
