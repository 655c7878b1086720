"""Messages on rank 0: through Lightning's functions, which raise an error where no Lightning package is imported."""

import logging
import warnings

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

__all__ = ["log_rank_zero", "warn_rank_zero"]


def log_rank_zero(text: str) -> None:
    """Log a message on rank 0."""
    if _knows_rank():
        rank_zero_info(text)
    else:
        logging.getLogger(__name__).info(text)


def warn_rank_zero(text: str) -> None:
    """Warn on rank 0, of what the caller of the calling function did."""
    if _knows_rank():
        rank_zero_warn(text, stacklevel=5)
    else:
        warnings.warn(text, stacklevel=3)


def _knows_rank() -> bool:
    return getattr(rank_zero_only, "rank", None) is not None
