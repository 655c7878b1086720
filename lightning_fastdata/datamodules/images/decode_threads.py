"""How many threads decode, beside the processes that the plan has chosen."""

from lightning_fastdata.planning.options import Reason

__all__ = ["MOST_THREADS", "decide_threads"]

MOST_THREADS = 16
"""Most threads "auto" takes in one process: SPDL's measurements rise up to 16 to 24 (docs/images.md), where the
interpreter's lock becomes the limit."""


def decide_threads(requested: int | str, workers: int, cpus: float, busy_cpus: float = 0.0) -> tuple[int, Reason]:
    """Threads that decode in each process that loads.

    Processes come first, one for each core: they share no lock. Threads are for the cores that processes leave over; on
    two cores one process with two threads loads about as much as two processes (benchmarks/README.md).

    Args:
        requested: The user's ``decode_threads``.
        workers: Worker processes (count); 0 = the training process loads.
        cpus: CPUs of this rank.
        busy_cpus: Of these, how many training itself computes with while workers load.

    Returns:
        Threads (count), and why.
    """
    if requested != "auto":
        return int(requested), Reason("user", "set by you")
    if workers == 0:
        threads = min(MOST_THREADS, max(1, int(cpus)))
        return threads, Reason("hardware", f"{cpus:.3g} usable cores, idle while the training process loads")
    threads = min(MOST_THREADS, max(1, int((cpus - busy_cpus) / workers)))
    cores, text = f"{cpus:.3g} usable cores", f"{workers} worker process{'es' if workers > 1 else ''}"
    if busy_cpus:
        cores += f", {busy_cpus:.3g} of them computing"
    if threads == 1:
        return 1, Reason("rule", f"{text} on {cores}: one each")
    return threads, Reason("hardware", f"{cores} for {text}, which may use what training leaves of the last one")
