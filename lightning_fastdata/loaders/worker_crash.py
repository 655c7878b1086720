"""Why a worker died: what the machine's own counters say, and the flag to change."""

import errno
import re

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware
from lightning_fastdata.planning.preflight import FILES_FIX, RAM_FIX, SHM_FIX, amount

__all__ = ["WorkerDiedError", "diagnose_crash"]

FULL_SHARE = 0.1
"""Less of /dev/shm free than this share counts as full: what the dead worker had begun is already free again."""


class WorkerDiedError(FastDataError, RuntimeError):
    """Worker processes ended for want of memory, shared memory or open files; torch's own error is its cause."""


def diagnose_crash(error: BaseException, loader: str, before: Hardware | None, now: Hardware) -> WorkerDiedError | None:
    """Why a worker died, where the machine shows it.

    Args:
        error: What torch raised in the training process.
        loader: The loader's options, for the message.
        before: The machine when the workers were started; None = not known.
        now: The machine after the error.

    Returns:
        An error to raise from torch's; None for any other error, such as one of the dataset's own.
    """
    text = str(error)
    if getattr(error, "errno", None) == errno.EMFILE or "ancdata" in text or "Too many open files" in text:
        what, fix = _files(before, now), f"{FILES_FIX}, fewer workers or a smaller prefetch_factor"
    elif "unable to allocate shared memory" in text or "Bus error" in text:
        what, fix = _shm(now), f"{SHM_FIX}, or a smaller prefetch_factor"
    elif re.search(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)", text):
        kills = _oom_kills(before, now)
        if kills:
            limit = f" ({now.ram_limit_source})" if now.ram_limit_source else ""
            what = (
                f"the kernel has killed {kills} process{'es' * (kills != 1)} of this cgroup for want of memory{limit}"
            )
            fix = f"fewer workers, a smaller prefetch_factor, or {RAM_FIX}"
        elif _is_full(now):
            what, fix = _shm(now), f"{SHM_FIX}, or a smaller prefetch_factor"
        else:
            return None
    else:
        return None
    first = text.strip().splitlines()[-1] if text.strip() else type(error).__name__
    return WorkerDiedError(f"A worker of the loader ({loader}) was lost: {what}. torch says: {first}", fix=fix)


def _files(before: Hardware | None, now: Hardware) -> str:
    limit = now.open_file_limit or (before.open_file_limit if before else None)  # at the limit, not even /proc opens
    return f"the limit of {limit} open files was reached" if limit else "the limit on open files was reached"


def _shm(now: Hardware) -> str:
    if now.shm_free_bytes is None or now.shm_total_bytes is None:
        return "/dev/shm was full"
    return f"/dev/shm was full ({amount('shm', now.shm_free_bytes)} of {amount('shm', now.shm_total_bytes)} free now)"


def _is_full(now: Hardware) -> bool:
    free, total = now.shm_free_bytes, now.shm_total_bytes
    return free is not None and total is not None and free < FULL_SHARE * total


def _oom_kills(before: Hardware | None, now: Hardware) -> int:
    if before is None or before.oom_kills is None or now.oom_kills is None:
        return 0
    return max(0, now.oom_kills - before.oom_kills)
