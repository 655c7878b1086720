"""The positions of open files, which a forked process shares with the one that forked it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["FilePositions"]


class FilePositions:
    """The positions of the regular files that this process has open; a forked child reads from the same ones."""

    def __init__(self, start_method: str) -> None:
        self._inherited = start_method == "fork"
        self.moved: list[str] = []
        self._before: dict[int, tuple[str, int]] = {}

    def __enter__(self) -> "FilePositions":
        self._before = dict(self._now()) if self._inherited else {}
        return self

    def __exit__(self, *_: Any) -> None:
        for descriptor, (path, position) in self._now():
            before = self._before.get(descriptor)
            if before is not None and before[0] == path and before[1] != position:
                os.lseek(descriptor, before[1], os.SEEK_SET)
                self.moved.append(path)

    @staticmethod
    def _now() -> Iterator[tuple[int, tuple[str, int]]]:
        try:
            names = os.listdir("/proc/self/fd")
        except OSError:
            return  # not Linux: nothing to look at
        for name in names:
            with contextlib.suppress(OSError, ValueError, IndexError):
                path = os.readlink(f"/proc/self/fd/{name}")
                if path.startswith("/") and os.path.isfile(path):
                    flags = Path(f"/proc/self/fdinfo/{name}").read_text().split()
                    if int(flags[3], 8) & os.O_ACCMODE != os.O_WRONLY:
                        yield int(name), (path, int(flags[1]))
