"""The version of this package, without an import of the package's own names."""

import sys

__all__ = ["own_version"]


def own_version() -> str:
    """The version that the code names, which is the one that is installed."""
    return str(sys.modules["lightning_fastdata"].__version__)
