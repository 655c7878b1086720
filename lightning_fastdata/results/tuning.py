"""What a tuner measured and decided, as plain data, and its file: one JSON object.

Times are in seconds, shares lie in 0..1; what was not measured is None, never 0. All times "a batch" are of one batch
of one rank.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results.files import explained
from lightning_fastdata.results.json_fields import parse, with_new_names

__all__ = ["SCHEMA", "Consumer", "Probe", "Trial", "TuneResult", "is_tuning", "read_tuning", "write_tuning"]

SCHEMA = 2
"""Version of the file; goes up when an older reader would misread something."""
_NAMES_OF_SCHEMA_1 = {"ceiling": "throughput_limit", "handoff_s": "worker_transfer_s"}
_KIND = "lightning_fastdata tuning"
_MOST_BYTES = 1 << 24


@dataclass(frozen=True)
class Probe:
    """What one worker process needed for a batch, with no other worker beside it."""

    batches: int
    """Batches behind the figures; the first one, which imports and opens files, is left out (count)."""
    batch_s: float
    """Mean time of loading and collating a batch (s)."""
    batch_cpu_s: float
    """CPU time of it, all threads of the worker together (s)."""
    batch_s_cv: float
    """Standard deviation of the time of a batch over its mean; near 0 means regular, above 1 means bursts (ratio)."""
    worker_transfer_s: float
    """What the training process needs to take over a batch that is ready (s): worker-to-main transfer."""
    batch_bytes: int
    """Tensors and arrays of a batch (bytes)."""
    batch_tensors: int
    """Tensors in a batch, each of which holds a file descriptor on its way (count)."""
    worker_bytes: int | None
    """Private memory of the worker (bytes); None where the system does not say."""
    start_s: float
    """From starting the worker to its first batch (s)."""
    disk_bytes: int | None = None
    """Read from a disk, not from the page cache, for a batch (bytes); None where the system does not say."""
    kept_waiting_share: float | None = None
    """Share of its time in which the worker could have run and got no CPU, because others had it or a quota was used
    up (0..1); None where the system does not say."""


@dataclass(frozen=True)
class Consumer:
    """What the training takes, without any data wait."""

    step_s: float
    """Time of a batch without its exposed data wait (s); 0 stands for "as fast as data comes"."""
    cpu_s: float = 0.0
    """CPU time of the training process for a batch, loading left out (s)."""


@dataclass(frozen=True)
class Trial:
    """One setting, tried or predicted."""

    num_workers: int
    """Worker processes (count)."""
    prefetch_factor: int | None
    """Batches per worker prepared ahead (count); None without workers."""
    step_s: float | None
    """Mean time of a step, data wait included (s); None where it was not measured."""
    predicted_step_s: float | None
    """What ``throughput_model`` had predicted (s)."""
    wait_s: float | None = None
    """Mean data wait of a step (s)."""
    steps: int = 0
    """Steps behind it (count); 0 = predicted from the probe, not tried."""
    step_s_error: float | None = None
    """Standard error of ``step_s`` (s)."""
    started_s: float | None = None
    """From asking for the first batch to having it (s)."""
    verdict: str = ""
    """What became of it: "taken", "kept", "rolled back", or why it ended early."""

    @property
    def wait_share(self) -> float | None:
        """``wait_s / step_s``: near 0 means the data was ready."""
        if self.wait_s is None or not self.step_s:
            return None
        return min(1.0, self.wait_s / self.step_s)

    @property
    def name(self) -> str:
        """The setting in short: ``4 workers x 2``."""
        if not self.num_workers:
            return "0 workers"
        return f"{self.num_workers} worker{'s' if self.num_workers > 1 else ''} x {self.prefetch_factor}"


@dataclass(frozen=True)
class TuneResult:
    """A decision, the figures it rests on, and what was predicted and then measured."""

    num_workers: int | None
    """Worker processes to take (count); None where nothing could be decided."""
    prefetch_factor: int | None
    """Batches per worker to prepare ahead (count); None without workers."""
    reason: str
    """Why, in a sentence with the figures."""
    probe: Probe | None = None
    """The one worker's figures; None where it gave none."""
    consumer: Consumer | None = None
    """What the training takes; None where that is not known."""
    cpus: float | None = None
    """CPUs that this rank may use (count)."""
    throughput_limit: str | None = None
    """Where no number of workers is enough: what the CPUs can give at most, and what would help; else None."""
    batch_size: int | None = None
    """Samples of a batch (count); None where that is not known."""
    trials: tuple[Trial, ...] = ()
    """Everything that was tried, in order."""
    notes: tuple[str, ...] = ()
    """What a reader has to know: measurements that could not be made, doubts."""
    took_s: float | None = None
    """Time that tuning itself took (s)."""
    dataset: str = ""
    """What was loaded: the class of the dataset and its length."""
    host: str = ""
    """Name of the machine."""
    date: str = ""
    """When, ISO 8601 with time zone."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of what ran."""
    interrupted: bool = False
    """Whether you ended it early (Ctrl-C); then it is the best of what was known by then."""

    @property
    def chosen(self) -> Trial | None:
        """The trial of the setting that was decided on, the latest of several; None where it was not tried."""
        setting = (self.num_workers, self.prefetch_factor)
        same = [trial for trial in self.trials if (trial.num_workers, trial.prefetch_factor) == setting]
        return same[-1] if same else None

    def arguments(self) -> dict[str, Any]:
        """The decided arguments of a DataLoader or a FastDataModule.

        Returns:
            ``{"num_workers": 4, "prefetch_factor": 2, "persistent_workers": True}``; without workers only
            ``num_workers``; empty where nothing was decided.
        """
        if self.num_workers is None:
            return {}
        workers = {"prefetch_factor": self.prefetch_factor, "persistent_workers": True} if self.num_workers else {}
        return {"num_workers": self.num_workers, **workers}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TuneResult":
        """What ``to_dict`` gave, also after JSON; entries it does not know are ignored.

        Raises:
            ValueError: An entry is missing, or of another type.
        """
        return msgspec.convert(dict(values), cls)


def write_tuning(path: str | os.PathLike[str], result: TuneResult) -> None:
    """Write the file of a tuning.

    Args:
        path: The file; an existing one is replaced.
        result: What goes into it.

    Raises:
        FastDataError: The file cannot be written.
    """
    values = {"kind": _KIND, "schema": SCHEMA, **result.to_dict()}
    expected = "a file path in an existing folder that can be written."
    with explained(f"{os.fspath(path)!r} cannot be written", expected=expected, fix="choose another path."):
        Path(path).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def is_tuning(path: str | os.PathLike[str]) -> bool:
    """Whether a file says at its beginning that it is one of a tuning.

    Args:
        path: Any file, or a path without one.
    """
    try:
        with open(path, "rb") as file:
            return _KIND.encode() in file.read(200)
    except OSError:
        return False


def read_tuning(path: str | os.PathLike[str]) -> TuneResult:
    """Read what ``write_tuning`` wrote.

    Args:
        path: The file.

    Returns:
        The result.

    Raises:
        FastDataError: It cannot be read, is damaged, or was written by a newer version.
    """
    name = os.fspath(path)
    try:
        with explained(f"{name!r} cannot be read", fix="look at the path."), open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        return _result_of(name, parse(text) if len(text) <= _MOST_BYTES else None)
    except ValueError as error:
        raise FastDataError(
            f"{name!r} is damaged ({error}).", expected="a whole file of a tuning.", fix="tune again."
        ) from error


def _result_of(name: str, values: Any) -> TuneResult:
    if not isinstance(values, dict) or values.get("kind") != _KIND:
        raise FastDataError(f"{name!r} is no file of a tuning.", expected=f'"kind": "{_KIND}".')
    schema = values.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise FastDataError(
            f"{name!r} has schema {schema!r}.",
            expected=f"a schema up to {SCHEMA}.",
            fix="read it with the version of lightning_fastdata that wrote it, or a newer one.",
        )
    return TuneResult.from_dict(values if schema == SCHEMA else with_new_names(values, _NAMES_OF_SCHEMA_1))
