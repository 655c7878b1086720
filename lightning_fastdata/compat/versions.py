"""The version of this package, without an import of the package's own names."""

import sys

__all__ = ["own_version"]


def own_version() -> str:
    """The installed version; in a checkout that is not installed, the one that the code names."""
    from importlib import metadata  # 20 ms that only those pay who ask

    try:
        return metadata.version("lightning_fastdata")
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get("lightning_fastdata"), "__version__", "unknown"))
