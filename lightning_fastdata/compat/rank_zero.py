"""Messages on rank 0: through Lightning's functions, which raise an error where no Lightning package is imported."""

import logging

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only

from lightning_fastdata.errors import warn

__all__ = ["log_rank_zero", "warn_rank_zero"]


def log_rank_zero(text: str) -> None:
    """Log a message on rank 0."""
    if getattr(rank_zero_only, "rank", None) is not None:
        rank_zero_info(text)
    else:
        logging.getLogger(__name__).info(text)


def warn_rank_zero(text: str) -> None:
    """Warn on rank 0, of what the caller of the calling function did."""
    if getattr(rank_zero_only, "rank", None) in (None, 0):
        warn(text, stacklevel=3)
