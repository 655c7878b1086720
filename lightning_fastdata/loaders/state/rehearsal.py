"""One child process loads a few samples as a worker would, before any worker is trusted with them.

The child runs the user's code, so that this process opens nothing that workers would then share. What is known by
looking alone (``state.hazards``) is asked first; a rehearsal runs only where nothing was found there.
"""

import contextlib
import faulthandler
import io
import itertools
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing  # its reducers send tensors through shared memory, as workers do

from lightning_fastdata.compat.torch_internals import pretend_worker
from lightning_fastdata.loaders.footprint import sizes_of
from lightning_fastdata.loaders.seeded_dataset import BatchRequest, SeededDataset
from lightning_fastdata.loaders.state.file_positions import FilePositions
from lightning_fastdata.loaders.state.handles import CarriesFiles, OwnDescriptors
from lightning_fastdata.loaders.state.lasting_changes import generator_states, lasting_changes
from lightning_fastdata.loaders.state.snapshot import Snapshot, held_by_name, take_snapshot
from lightning_fastdata.planning.options import Rehearsed

__all__ = ["BY_NAME", "LONGEST_S", "Rehearsal", "RehearsalSetup", "rehearse", "spread_indices"]

MOST_SAMPLES = 8
"""Samples that are loaded at most (count)."""
FEWEST_SAMPLES = 2
"""Samples that are always loaded (count): what changes with every sample shows at the second."""
LONG_ENOUGH_S = 1.0
"""Time after which no further sample is begun (s)."""
STUCK_S = 5.0
"""Time without CPU or reading after which a child that stands in a lock, a queue or a future is hung (s)."""
QUIET_S = 60.0
"""The same for any other wait (s): a slow server is no fault."""
LONGEST_S = 300.0
"""The longest rehearsal (s): a dataset that polls for what a child does not have never stands still."""
LOGGED_S = 5.0
"""Time after which one line says what is waited for (s)."""
WAITING_FILES = ("threading.py", "queue.py", "concurrent/futures", "multiprocessing/")
"""Where the stack of a process stands that waits for another thread or process."""


@dataclass(frozen=True)
class Rehearsal(Rehearsed):
    """What one child process found when it loaded samples as a worker would, beside what that took."""

    problem: str | None = None
    """Why workers would not give what this process gives, a sentence fragment; None = nothing was found."""
    remedy: str = ""
    """What to do about it."""


@dataclass(frozen=True)
class RehearsalSetup(CarriesFiles):
    """What the child is given."""

    loading: SeededDataset
    """Loads samples, without collating them."""
    dataset: Any
    """The user's dataset within it."""
    length: int
    """Its samples (count)."""
    collate_fn: Callable[[Any], Any] | None
    """Makes a batch of samples; None where what is loaded needs none."""
    batch_size: int | None
    """Samples of a real batch (count); None = not known."""
    sampler: Iterable[Any] | None
    """A sampler of the user's; None = indices spread over the dataset."""
    samples_in_batches: bool
    """Whether that one gives batches."""
    worker_init_fn: Callable[[int], Any] | None
    by_name: Mapping[str, Any] = field(default_factory=dict)
    """What the child gets by name only (see ``held_by_name``), by its content here; empty where it inherits all."""
    stack_file: str = ""
    longest_s: float = LONGEST_S
    files: OwnDescriptors | None = None
    """Gives the child its own of the files that this process has open."""


def spread_indices(length: int) -> list[int]:
    """Indices for a rehearsal, spread over a dataset.

    Args:
        length: Its samples (count), >= 1.

    Returns:
        At most ``MOST_SAMPLES`` indices, the first and the last among them.
    """
    count = min(length, MOST_SAMPLES)
    return [round(place * (length - 1) / max(1, count - 1)) for place in range(count)]


def rehearse(
    setup: RehearsalSetup,
    *,
    start_method: str = "fork",
    longest_s: float = LONGEST_S,
    clock: Callable[[], float] = time.perf_counter,
    log: Callable[[str], None] = lambda text: None,
) -> Rehearsal:
    """Load a few samples in one child process, and send a batch back as a worker would.

    Args:
        setup: What is loaded, and how.
        start_method: How workers will be started.
        longest_s: The longest that it may take (s).
        clock: Gives the time (s).
        log: Gets one line where it takes long.

    Returns:
        What was found. The random generators of this process are as before, and so are the positions of its files.
    """
    began = clock()
    with FilePositions(start_method) as positions, tempfile.NamedTemporaryFile(prefix="lightning_fastdata_") as stack:
        files = OwnDescriptors.of((setup.dataset, setup.collate_fn), start_method)
        by_name = {} if start_method == "fork" else held_by_name(_parts(setup))
        setup = replace(setup, by_name=by_name, stack_file=stack.name, longest_s=longest_s, files=files)
        found = _in_child(setup, start_method, clock, log)
    if positions.moved:
        path = positions.moved[0]
        found = Rehearsal(f"reading a sample moves the position of {path}, which workers would share", SHARED_FILE)
    return replace(found, took_s=clock() - began)


SHARED_FILE = "open the file in __getitem__, where each worker has one of its own"


def _in_child(
    setup: RehearsalSetup, start_method: str, clock: Callable[[], float], log: Callable[[str], None]
) -> Rehearsal:
    context: Any = multiprocessing.get_context(start_method)
    answers, answer_end = context.Pipe(duplex=False)
    taken_end, taken = context.Pipe(duplex=False)
    child = context.Process(target=_perform, args=(setup, answer_end, taken_end), daemon=True)
    try:
        child.start()
    except Exception as error:
        return Rehearsal(f"a worker process cannot be started ({_in_words(error)})", "num_workers=0 loads here")
    finally:
        answer_end.close()  # so that a child that dies ends the pipe
        taken_end.close()
    try:
        return _answer_of(child, answers, setup, clock, log)
    finally:
        with contextlib.suppress(OSError):
            taken.send_bytes(b"taken")  # a forked child holds this end open, too: closing it says nothing
        taken.close()
        _end(child)
        answers.close()


def _answer_of(
    child: Any, answers: Any, setup: RehearsalSetup, clock: Callable[[], float], log: Callable[[str], None]
) -> Rehearsal:
    """Wait for the child for as long as it gets anywhere."""
    began = since = clock()
    activity, asked, logged = None, False, False
    while not answers.poll(0.02):
        now = clock()
        if (busy := _activity(child.pid)) != activity:
            activity, since, asked = busy, now, False
        elif now - since > STUCK_S + 0.2 and _waits_for_another(setup.stack_file):
            return Rehearsal(f"loading a sample hangs in a worker process {_last_line(setup.stack_file)}", NO_WORKERS)
        elif now - since > STUCK_S and not asked:
            asked = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGUSR1)  # faulthandler writes the stack
        if now - since > QUIET_S or now - began > setup.longest_s:
            return Rehearsal(f"loading a few samples in a worker process took over {now - began:.0f} s", NO_WORKERS)
        if now - began > LOGGED_S and not logged:
            logged = True
            log("trying a few samples in a worker process, which decides whether workers are taken")
    try:
        received = clock()
        answer: Rehearsal = ForkingPickler.loads(answers.recv_bytes())[0]
        return replace(answer, transfer_s=clock() - received)
    except EOFError:
        child.join(1.0)
        return Rehearsal(f"loading a sample ended the process ({_exit_in_words(child.exitcode)})", NO_WORKERS)
    except Exception as error:  # the batch does not come out of the pipe
        return Rehearsal(f"a batch does not arrive from a worker ({_in_words(error)})", CROSS)


CROSS = "return tensors, arrays and numbers, detached; num_workers=0 hands on anything"
NO_WORKERS = "num_workers=4 takes workers all the same"


def _perform(setup: RehearsalSetup, answer: Any, taken: Any) -> None:
    """The child: set up as torch sets up a worker, load, collate, send."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
    with open(setup.stack_file, "w") as stack, pretend_worker(setup.dataset), contextlib.redirect_stdout(io.StringIO()):
        faulthandler.register(signal.SIGUSR1, file=stack, all_threads=True)
        torch.set_num_threads(1)
        try:
            found = _load(setup)
        except BaseException:  # KeyboardInterrupt, SystemExit, bdb.BdbQuit: a worker would die of them
            last = traceback.format_exc().splitlines()[-1]
            found = Rehearsal(f"a sample raises in a worker ({last})", RAISES), None
        try:
            sent = ForkingPickler.dumps(found)
        except Exception as error:
            problem = f"a batch cannot be sent ({_in_words(error)})"
            sent = ForkingPickler.dumps((replace(found[0], problem=problem, remedy=CROSS), None))
        answer.send_bytes(sent)
        taken.poll(30.0)  # tensors on their way live as long as their process


BY_NAME = "keep it in an attribute of the dataset, or set it in worker_init_fn"
RAISES = "with no workers the error comes where the sample is read, of its own type"


def _load(setup: RehearsalSetup) -> tuple[Rehearsal, Any]:
    if setup.files is not None:
        setup.files(0)
    differs = _different_here(setup)
    if setup.worker_init_fn is not None:
        setup.worker_init_fn(0)
    if differs := [path for path in differs if path in _different_here(setup)]:  # it may be what sets them
        what = f"{differs[0]} was set by this program, and workers, which import its module again, have another value"
        return Rehearsal(what, BY_NAME), None
    on_cuda = _uses_cuda()
    samples: list[Any] = []
    walls: list[float] = []
    cpus: list[float] = []
    pictures = [_picture(setup)]
    keys, positions = _keys(setup), generator_states(_parts(setup))
    for number, key in enumerate(keys):
        if number >= FEWEST_SAMPLES and sum(walls) > LONG_ENOUGH_S:
            break
        began, began_cpu = time.perf_counter(), time.process_time()
        samples.append(_sample(setup, key))
        walls.append(time.perf_counter() - began)
        cpus.append(time.process_time() - began_cpu)
        if number < FEWEST_SAMPLES:
            pictures.append(_picture(setup))
    pictures.append(_picture(setup))
    found = Rehearsal(
        samples=len(samples),
        sample_wall_s=statistics.mean(walls[1:] or walls or [0.0]),
        sample_cpu_s=statistics.mean(cpus[1:] or cpus or [0.0]),
        quickest_s=min(walls, default=None),
    )
    changes = lasting_changes(
        pictures,
        load_again=lambda which: _sample(setup, keys[: len(samples)][which]),
        look=lambda: _picture(setup),
        generators=positions,
        parts=_parts(setup),
    )
    if changes:
        what = f"{changes[0]} changes while samples are loaded, and workers would change copies of it"
        return replace(found, problem=what, remedy=f"num_workers=4 if {changes[0]} is not needed"), None
    batch, collated = _collated(setup, samples)
    if any(one.device.type != "cpu" for one in _tensors(batch)) or (_uses_cuda() and not on_cuda):
        return replace(found, problem="samples lie on an accelerator", remedy="load them on the CPU"), None
    batch_bytes, tensors = _whole_sizes(setup, samples, batch, collated)
    return replace(found, batch_bytes=batch_bytes, batch_tensors=tensors), batch


def _whole_sizes(setup: RehearsalSetup, samples: list[Any], batch: Any, collated: int) -> tuple[int | None, int | None]:
    """Bytes and tensors of a whole batch; None where nothing is seen of it, or a sampler decides how large it is."""
    batch_bytes, tensors = sizes_of(batch)
    if not batch_bytes or setup.samples_in_batches:
        return None, None
    size, more = setup.batch_size or collated, 0.0
    if setup.collate_fn is not None and 1 < collated < size:  # lists of samples have more tensors the longer they are
        try:
            more = (tensors - sizes_of(setup.collate_fn(samples[:1]))[1]) / (collated - 1)
        except Exception:
            return batch_bytes * size // collated, None
    return batch_bytes * size // collated, tensors + round(more * (size - collated))


def _sample(setup: RehearsalSetup, key: Any) -> Any:
    return setup.loading[BatchRequest(0, 0, 0, [key], None)].batch


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _collated(setup: RehearsalSetup, samples: list[Any]) -> tuple[Any, int]:
    """The samples as a batch, and how many; a collate function may refuse one that is smaller than a real one."""
    if setup.collate_fn is None:
        return samples[-1:], 1
    if setup.batch_size is None or len(samples) >= setup.batch_size:
        return setup.collate_fn(samples[: setup.batch_size]), len(samples[: setup.batch_size])
    try:
        return setup.collate_fn(samples), len(samples)
    except Exception:
        return None, 1


def _keys(setup: RehearsalSetup) -> list[Any]:
    """Indices of a few samples: of the child's own copy of a user's sampler, else spread over the dataset."""
    if setup.sampler is None:
        return spread_indices(setup.length)
    first = list(itertools.islice(setup.sampler, MOST_SAMPLES))
    return [key for batch in first for key in batch][:MOST_SAMPLES] if setup.samples_in_batches else first


def _parts(setup: RehearsalSetup) -> dict[str, Any]:
    return {"dataset": setup.dataset, "collate_fn": setup.collate_fn}


def _picture(setup: RehearsalSetup) -> Snapshot:
    return take_snapshot(_parts(setup), generators=False, last_draws=False)


def _different_here(setup: RehearsalSetup) -> list[str]:
    here = held_by_name(_parts(setup)) if setup.by_name else {}
    return [path for path, value in here.items() if setup.by_name.get(path, value) != value]


def _tensors(value: Any, depth: int = 6) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, dict):
        yield from (one for item in dict.values(value) for one in _tensors(item, depth - 1))
    elif depth and isinstance(value, (list, tuple)):
        yield from (one for item in value for one in _tensors(item, depth - 1))


def _activity(pid: int) -> tuple[int, int] | None:
    """CPU time and bytes read of a process and its children; None where the system does not say."""
    cpu = read = 0
    try:
        for one in [pid, *_children(pid)]:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            cpu += sum(map(int, fields[11:15]))
            read += int(Path(f"/proc/{one}/io").read_text().split("rchar: ")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return None
    return cpu, read


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _waits_for_another(stack_file: str) -> bool:
    """Whether the main thread of the child stands in a lock, a queue or a future."""
    return any(file in _first_frame(stack_file) for file in WAITING_FILES)


def _first_frame(stack_file: str) -> str:
    lines = [
        line
        for line in Path(stack_file).read_text(errors="replace").split("Current thread")[-1].splitlines()
        if "File" in line
    ]
    return lines[0] if lines else ""


def _last_line(stack_file: str) -> str:
    return f"({' '.join(_first_frame(stack_file).split())})"


def _end(child: Any) -> None:
    child.join(0.5)
    if child.is_alive():
        child.terminate()
        child.join(2.0)
    if child.is_alive():
        child.kill()
        child.join(1.0)


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no message'}"


def _exit_in_words(code: int | None) -> str:
    return f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
