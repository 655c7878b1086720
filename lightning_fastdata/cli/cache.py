"""``lightning-fastdata cache build|info|clear``: image caches before and after training."""

import argparse
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_fastdata.cli.output import make_console, print_json
from lightning_fastdata.errors import FastDataError

if TYPE_CHECKING:
    from rich.console import Console

    from lightning_fastdata.datamodules.images.cache.folder import CacheHeader
    from lightning_fastdata.datamodules.images.cache.image_cache import ImageCache

__all__ = ["add_cache"]

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C has ended, as shells have it."""


def add_cache(commands: Any) -> None:
    """Add ``cache`` to the parser.

    Args:
        commands: What ``add_subparsers`` gave.
    """
    cache = commands.add_parser("cache", help="caches of image folders: build one before training, list, delete")
    cache.set_defaults(run=lambda arguments: cache.print_help() or 0)
    actions = cache.add_subparsers(title="commands", metavar="ACTION")

    build = actions.add_parser(
        "build",
        help="fill the cache of an image folder, as the first epoch of training would",
        epilog="Ctrl-C keeps the images cached so far; the next build or training continues. Training uses it with"
        ' cache="disk", the same cache_format and cache_dir. Exit codes: 0; 1 where images could not be read; 2 where'
        " there is no cache; 130 after Ctrl-C.",
    )
    build.add_argument("root", help="the image folder, as given to ImageFolderDataModule")
    build.add_argument(
        "--format",
        choices=("original", "jpeg", "raw"),
        required=True,
        help="what is kept: the original files, JPEGs of quality 90 with a short side of at most 256, or such"
        " images as pixels; the last two change what the model sees",
    )
    build.add_argument(
        "--image-size",
        type=_count,
        default=224,
        metavar="PIXELS",
        help="as given to ImageFolderDataModule (default: 224); above it, images are kept larger than 256",
    )
    _add_cache_dir(build)
    build.add_argument("--cache-bytes", type=_size, metavar="SIZE", help="what it may grow to, such as 20GB or 20GiB")
    build.add_argument(
        "--threads", type=_count, metavar="N", help="threads that decode at once (default: the usable CPUs)"
    )
    build.set_defaults(run=_build)

    info = actions.add_parser("info", help="list the caches: of which folder, and how full")
    info.add_argument("root", nargs="?", help="only those of this image folder; says whether they are up to date")
    _add_cache_dir(info)
    info.add_argument("--json", action="store_true", help="print JSON, nothing else")
    info.set_defaults(run=_info)

    clear = actions.add_parser("clear", help="delete the caches of an image folder, or all")
    clear.add_argument("root", nargs="?", help="only those of this image folder")
    _add_cache_dir(clear)
    clear.add_argument("--all", action="store_true", help="the caches of all image folders")
    clear.set_defaults(run=_clear)


def _add_cache_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where caches are (default: $XDG_CACHE_HOME/lightning_fastdata/cache, or in ~/.cache)",
    )


def _size(text: str) -> int:
    """A number of bytes, as a person types it."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]+)?)\s*(?:([kmgt])(i?))?b?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 20GB, 1.5GiB or a number of bytes")
    number, letter, binary = match.groups()
    power = 1 + "kmgt".index(letter) if letter else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 10000")
    return int(text)


def _build(arguments: argparse.Namespace) -> int:
    """Fill the cache of an image folder."""
    from lightning_fastdata.datamodules.images.cache.entry_format import EntryFormat
    from lightning_fastdata.datamodules.images.cache.image_cache import CacheOptions, ImageCache, header_of

    root = str(Path(arguments.root).expanduser())
    paths = _files_of(root)
    cache_dir = None if arguments.cache_dir is None else str(arguments.cache_dir)
    entry_format = EntryFormat.for_images(arguments.format, arguments.image_size)
    options = CacheOptions("disk", cache_dir, arguments.cache_bytes, entry_format)
    cache = ImageCache(header_of(root, paths, entry_format), paths, options)
    if cache.plan.kind is None:
        raise FastDataError(f"{arguments.root}: {cache.plan.reason.text}", expected="a cache that can be written.")
    out = make_console()
    out.print(f"Cache {cache.plan.reason.text}", soft_wrap=True)
    try:
        unreadable = _fill(cache, paths, arguments.threads, out)
    except KeyboardInterrupt:
        out.print(
            f"Stopped: {'; '.join(cache.lines())}. The next build or training continues from here.", soft_wrap=True
        )
        return INTERRUPTED
    out.print(f"{'; '.join(cache.lines())}.", soft_wrap=True)
    for problem in unreadable[:5]:
        sys.stderr.write(f"Cannot be read: {problem}\n")
    if len(unreadable) > 5:
        sys.stderr.write(f"Cannot be read: {len(unreadable) - 5} more\n")
    return 1 if unreadable else 0


def _fill(cache: "ImageCache", paths: Mapping[str, Any], threads: int | None, console: "Console") -> list[str]:
    """Fill it behind a progress bar; gives what could not be read."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lightning_fastdata.datamodules.images.cache.build import build_cache
    from lightning_fastdata.hardware.detect import probe

    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("images")),
        TimeRemainingColumn(),
    )
    sources = [(cache.source(name, listed), listed) for name, listed in paths.items()]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Caching", total=cache.header.samples)
        done = build_cache(
            sources,
            threads or max(1, round(probe().usable_cpus)),
            watch=lambda progress: bar.update(task, completed=progress.done),
        )
    cache.sync()
    return done.unreadable


def _files_of(root: str) -> dict[str, Any]:
    """The files of an image folder by the name of what they are listed from, as ImageFolderDataModule lists them."""
    from lightning_fastdata.datamodules.images.folder_index import index_images, split_folders

    folder = Path(root)
    folders = split_folders(folder) or {"train": folder}
    return {name: index_images(path).paths for name, path in folders.items()}


def _info(arguments: argparse.Namespace) -> int:
    """Print the caches."""
    from rich.table import Table

    from lightning_fastdata.datamodules.images.cache.folder import cache_of
    from lightning_fastdata.datamodules.images.cache.placement import bytes_text

    cache_dir, caches = _selected_caches(arguments)
    rows: list[dict[str, Any]] = []
    for folder, header in caches.items():
        held = cache_of(folder, header).held()
        rows.append(
            {
                "root": header.root,
                "settings": header.settings,
                "samples": header.samples,
                "cached_samples": held.entries,
                "cached_bytes": held.entry_bytes,
                "file_bytes": held.file_bytes,
                "up_to_date": None
                if arguments.root is None
                else _is_up_to_date(str(Path(arguments.root).expanduser()), header),
                "folder": str(folder),
            }
        )
    if arguments.json:
        print_json({"cache_dir": str(cache_dir), "caches": rows})
        return 0
    if not rows:
        of = "" if arguments.root is None else f" of {arguments.root}"
        make_console().print(f"No caches{of} in {cache_dir}.", soft_wrap=True)
        return 0
    table = Table(title=f"Caches in {cache_dir}", title_justify="left")
    for heading in ("images", "format", "cached", "size", "state"):
        table.add_column(heading, overflow="fold")
    states = {True: "up to date", False: "of files that have changed", None: "-"}
    for row in rows:
        cached = f"{row['cached_samples']:,} of {row['samples']:,}"
        size = bytes_text(row["file_bytes"])
        table.add_row(row["root"], str(row["settings"].get("format")), cached, size, states[row["up_to_date"]])
    make_console().print(table)
    return 0


def _is_up_to_date(root: str, header: "CacheHeader") -> bool:
    """Whether training would use it: the files, the settings and the decoders are still the same."""
    from lightning_fastdata.datamodules.images.cache.entry_format import SHORT_SIDE_PX, EntryFormat
    from lightning_fastdata.datamodules.images.cache.image_cache import header_of

    settings = header.settings
    try:
        entry_format = EntryFormat(settings.get("format", ""), settings.get("short_side_px", SHORT_SIDE_PX))
        return header_of(root, _files_of(root), entry_format) == header
    except FastDataError:
        return False


def _clear(arguments: argparse.Namespace) -> int:
    """Delete caches."""
    from lightning_fastdata.datamodules.images.cache.folder import clear_folders
    from lightning_fastdata.datamodules.images.cache.placement import bytes_text

    if (arguments.root is None) != arguments.all:
        raise FastDataError(
            "cache clear " + ("with a folder and --all." if arguments.all else "without a folder."),
            expected="an image folder, or --all.",
            fix="lightning-fastdata cache clear FOLDER",
        )
    cache_dir, caches = _selected_caches(arguments)
    freed = clear_folders(caches)
    count = "1 cache" if len(caches) == 1 else f"{len(caches)} caches"
    sys.stdout.write(f"Deleted {count} in {cache_dir}, {bytes_text(freed)} on the disk.\n")
    return 0


def _selected_caches(arguments: argparse.Namespace) -> tuple[Path, "dict[Path, CacheHeader]"]:
    """The folder of all caches, and the headers of those that the arguments select, by folder."""
    from lightning_fastdata.datamodules.images.cache.folder import find_folders
    from lightning_fastdata.datamodules.images.cache.placement import default_cache_dir

    cache_dir = arguments.cache_dir or default_cache_dir()
    caches = find_folders(cache_dir)
    if arguments.root is not None:
        root = os.path.abspath(os.path.expanduser(arguments.root))
        caches = {folder: header for folder, header in caches.items() if header.root == root}
    return cache_dir, caches
