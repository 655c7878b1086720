"""What to say, and to do, when a dataset of torchvision is not there."""

import errno
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lightning_fastdata.datamodules.file_lock import file_lock
from lightning_fastdata.datamodules.torchvision.registry import DatasetSpec
from lightning_fastdata.errors import FastDataError

__all__ = ["absent", "one_at_a_time", "undownloaded"]

UNWRITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST),
    errno.ENAMETOOLONG,
}
DOWNLOAD_WAIT_S = 6 * 3600.0
"""How long to wait for another process that downloads (s): the largest dataset has more than 200 GB."""


@contextmanager
def one_at_a_time(root: str, name: str) -> Iterator[None]:
    """Let one process after the other download a dataset into a folder, also where nodes share a disk.

    Without it two of them would write the same archive at once. The lock goes with the process that holds it.

    Args:
        root: The folder.
        name: The dataset.

    Raises:
        FastDataError: Another process still downloads it after ``DOWNLOAD_WAIT_S``.
    """
    path = Path(root) / f".{name}.lock"
    with ExitStack() as held:
        with suppress(OSError):  # a folder that can only be read, or a file system without locks
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(file_lock(path, DOWNLOAD_WAIT_S))
        yield
    with suppress(OSError):  # whoever waited for it finds the dataset complete
        path.unlink()


def undownloaded(name: str, spec: DatasetSpec, root: str, error: Exception) -> FastDataError:
    """What to say of a download that failed.

    Args:
        name: The dataset.
        spec: What is known of it.
        root: Where it was to go.
        error: What torchvision said.

    Returns:
        The error to raise.
    """
    known = _package_or_argument(name, error)
    if known is not None:
        return known
    what = f"{name} could not be downloaded into {root}: {_said(error)}"
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return FastDataError(
            what, expected="a folder that can be written, with room for it.", fix="pass another root, or make room."
        )
    return FastDataError(
        what,
        expected=f"access to the internet, or its files in {_paths(spec, root)}.",
        fix=f"try again where there is a network, on the login node for one (python -c 'from lightning_fastdata import "
        f'TorchvisionDataModule as M; M("{name}", "{root}").prepare_data()\'); or {_manual_download(spec)} and pass '
        "download=False. If an earlier download was interrupted, first remove what it left.",
    )


def absent(name: str, spec: DatasetSpec, root: str, error: Exception, *, download: bool) -> FastDataError:
    """What to say of a dataset that cannot be opened.

    Args:
        name: The dataset.
        spec: What is known of it.
        root: Where it was looked for.
        error: What torchvision said.
        download: Whether the user wanted it downloaded.

    Returns:
        The error to raise.
    """
    known = _package_or_argument(name, error)
    if known is not None:
        return known
    present = [file for file in spec.files if (Path(root) / file).exists()]
    if present:
        again = "let it be downloaded again" if spec.download else "put it there again"
        return FastDataError(
            f"{name} in {root} cannot be read: {_said(error)}",
            expected=f"complete files in {_paths(spec, root)}.",
            fix=f"add what is missing ({spec.page}), or remove all of it and {again}.",
        )
    if not spec.download:
        fix = f"torchvision cannot download it: {_manual_download(spec)}."
    elif download:
        fix = "without a Trainer call datamodule.prepare_data() before setup(); with one, look whether all nodes see "
        fix += "the same folder."
    else:
        fix = f"pass download=True, or {_manual_download(spec)}."
    return FastDataError(
        f"{name} is not in {root}: {_said(error)}", expected=f"its files in {_paths(spec, root)}.", fix=fix
    )


def _package_or_argument(name: str, error: Exception) -> FastDataError | None:
    """Errors that have nothing to do with the files."""
    package = _missing_package(error)
    if package is not None:
        return FastDataError(
            f"{name} needs the package {package}, which is not installed.",
            expected=f"{package}, with which torchvision reads or downloads its files.",
            fix=f"pip install {package}",
        )
    # verify_str_arg of torchvision, which checks such arguments, says so in these words.
    if isinstance(error, ValueError) and "Unknown value" in str(error):
        return FastDataError(
            f"torchvision refuses the arguments of {name}: {_said(error)}",
            expected="values that the dataset knows.",
            fix="correct dataset_kwargs.",
        )
    return None


def _missing_package(error: Exception) -> str | None:
    if isinstance(error, ImportError):
        return (error.name or "").partition(".")[0] or None
    # torchvision hides some ImportErrors behind a RuntimeError that names the package.
    match = re.search(r"pip install ([\w-]+)", str(error))
    return match.group(1) if match else None


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{'...' if len(text) > 300 else ''}"


def _paths(spec: DatasetSpec, root: str) -> str:
    return ", ".join(str(Path(root) / file) for file in spec.files) or root


def _manual_download(spec: DatasetSpec) -> str:
    """The way without a download; the error names the paths as what is expected."""
    page = f" from {spec.page}" if spec.page else ""
    note = f" ({spec.note})" if spec.note else ""
    return f"get it{page}{note} and put it there, unpacked"
