"""Reading the small files in which a system describes itself, below any root, trusting none of them."""

import os
import re

__all__ = ["SystemFiles", "parse_cpu_list", "parse_fields", "parse_int", "plain"]

_MAX_BYTES = 64 * 1024
_MAX_ENTRIES = 4096
_MAX_CPUS = 65536


class SystemFiles:
    """The files below ``root``; with a temporary folder as root the whole probe runs on a made-up machine.

    A missing file is an ordinary answer. One that is there and cannot be read leaves a line in ``notes``, because
    a limit that could not be read may be the one that binds.

    Args:
        root: "/" for the machine itself, or a folder that holds copies of its /proc and /sys.
    """

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self.root = os.path.realpath(root)
        self.is_real = self.root == os.path.realpath("/")
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep one line for people; the same line is kept once."""
        if text not in self.notes:
            self.notes.append(text)

    def path(self, name: str) -> str:
        """Where ``name`` ("/proc/self/status") lies below the root; a link that leads out of the root is cut off."""
        path = os.path.join(self.root, name.lstrip("/"))
        if self.is_real:
            return path
        path = os.path.realpath(path)
        inside = path == self.root or path.startswith(self.root + os.sep)
        return path if inside else os.path.join(self.root, "outside the root")

    def read(self, name: str, max_bytes: int = _MAX_BYTES) -> str | None:
        """The first ``max_bytes`` of a file as text without outer white space, or None."""
        try:
            with open(self.path(name), "rb", opener=_open_without_waiting) as file:
                return (file.read(max_bytes) or b"").decode(errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self.note(f"{plain(name)} could not be read ({reason}); a limit it holds is not known.")
            return None

    def names(self, folder: str) -> list[str]:
        """The sorted names in a folder; none if it cannot be listed."""
        try:
            with os.scandir(self.path(folder)) as entries:
                return sorted(entry.name for entry, _ in zip(entries, range(_MAX_ENTRIES), strict=False))
        except OSError:
            return []

    def exists(self, name: str) -> bool:
        """Whether a file or folder is there and can be seen."""
        return os.path.exists(self.path(name))


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a named pipe would wait for a writer for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def parse_cpu_list(text: str | None) -> frozenset[int] | None:
    """The CPUs of a kernel list such as ``0-3,8``; None if it is missing, empty or not such a list."""
    cpus: set[int] = set()
    for part in (text or "").split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})(?:-([0-9]{1,6}))?\s*", part)
        if match is None:
            return None
        first = int(match[1])
        last = int(match[2] or first)
        if not first <= last < _MAX_CPUS:
            return None
        cpus.update(range(first, last + 1))
    return frozenset(cpus)


def parse_fields(text: str | None, separator: str = ":") -> dict[str, str]:
    """The lines ``key: value`` of a file, or those with another separator, without outer white space."""
    pairs = (line.partition(separator) for line in (text or "").splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def parse_int(text: str | None) -> int | None:
    """A whole number in plain ASCII digits; None for everything else that ``int`` would take or refuse."""
    text = (text or "").strip()
    return int(text) if re.fullmatch(r"-?[0-9]{1,30}", text) else None


def plain(text: str, max_chars: int = 300) -> str:
    """Foreign text made safe for a terminal: printable ASCII, of a bounded length."""
    safe = "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text[:max_chars])
    return safe if len(text) <= max_chars else f"{safe}..."
