"""From the user's options and the machine's limits to one decided value per loader option, each with its reason.

Pure arithmetic on frozen data: no torch, no Trainer, no file is read here. A plan never decides anything that
changes results: batch size, ``drop_last`` and order are not its business.
"""

from dataclasses import dataclass, replace
from typing import Any

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.hardware.detect import Hardware
from lightning_fastdata.planning.options import (
    NEED_WORKERS,
    PINNING_DEVICES,
    LoaderOptions,
    LoaderPlan,
    Reason,
    Rehearsed,
    Split,
    Workload,
    needs_workers,
)
from lightning_fastdata.planning.workers import decide_workers

__all__ = ["LoaderOptions", "LoaderPlan", "Planning", "Reason", "Rehearsed", "Split", "Workload", "make_plan"]


@dataclass(frozen=True)
class Planning:
    """What a loader's plan was made from, so that another one can be made with numbers that were measured."""

    options: LoaderOptions
    """What the user asked for."""
    hardware: Hardware
    """What the process may use."""
    workload: Workload
    """What the loader has to do."""

    def plan(self) -> LoaderPlan:
        """The plan by the rules; see ``make_plan``."""
        return make_plan(self.options, self.hardware, self.workload)

    def without_persistence(self, why: str) -> "Planning":
        """The same with workers that "auto" does not keep, from now on.

        Args:
            why: A sentence fragment.
        """
        return replace(self, workload=replace(self.workload, persistence_problem=why))

    def measured(self, num_workers: int, prefetch_factor: int | None, why: str) -> LoaderPlan:
        """The plan with measured numbers for what is "auto"; the rest follows from them by the same rules.

        Args:
            num_workers: Worker processes (count).
            prefetch_factor: Batches per worker prepared ahead (count); None without workers.
            why: What was measured, one sentence for a person.

        Returns:
            The plan. The user's own values stay.

        Raises:
            FastDataError: See ``make_plan``.
        """
        values = {"num_workers": num_workers, "prefetch_factor": prefetch_factor}
        measured: dict[str, Any] = {
            name: value for name, value in values.items() if getattr(self.options, name) == "auto" and value is not None
        }
        plan = make_plan(replace(self.options, **measured), self.hardware, self.workload)
        return replace(plan, reasons={**plan.reasons, **dict.fromkeys(measured, Reason("measured", why))})


def make_plan(options: LoaderOptions, hardware: Hardware, workload: Workload) -> LoaderPlan:
    """Decide every open loader option by written rules.

    A user's value always wins over "auto". "auto" never yields a combination known to be bad; docs/plan.md has the
    rules in words.

    Args:
        options: What the user asked for.
        hardware: What this process may use.
        workload: What the loader has to do.

    Returns:
        The plan, with a reason for every option.

    Raises:
        FastDataError: Two of the user's values cannot go together, or one would be fatal on this machine.
    """
    _check_pairs(options)
    context, context_reason = _decide_context(options, workload)
    start_method = context or workload.start_method
    workers, prefetch, workers_reason, prefetch_reason, warnings = decide_workers(
        options, hardware, workload, start_method
    )
    if workers and workload.reopened_files:
        workers_reason = replace(workers_reason, text=f"{workers_reason.text}; {workload.reopened_files}")
    if workers == 0:
        set_by_user = f"you set {context!r}, but " if context_reason.source == "user" and context else ""
        context, context_reason = None, Reason("rule", f"{set_by_user}no worker processes are started")
    pin, pin_reason = _decide_pinning(options, workload, workers)
    persistent, persistent_reason = _decide_persistence(options, workload, workers, pin)
    return LoaderPlan(
        num_workers=workers,
        prefetch_factor=prefetch,
        pin_memory=pin,
        persistent_workers=persistent,
        multiprocessing_context=context,
        reasons={
            "num_workers": workers_reason,
            "prefetch_factor": prefetch_reason,
            "pin_memory": pin_reason,
            "persistent_workers": persistent_reason,
            "multiprocessing_context": context_reason,
        },
        warnings=warnings,
        rehearsed=workload.rehearsed,
    )


def _check_pairs(options: LoaderOptions) -> None:
    """Refuse two values of the user that torch would refuse later, or ignore."""
    if options.num_workers != 0:
        return
    for name in NEED_WORKERS:
        if needs_workers(options, name):
            raise FastDataError(
                f"num_workers=0 together with {name}={getattr(options, name)!r}.",
                expected=f"{name} only with worker processes: with 0 workers there is nothing it could apply to.",
                fix=f'pass num_workers="auto" (or at least 1), or leave {name} at "auto".',
            )


def _decide_context(options: LoaderOptions, workload: Workload) -> tuple[str | None, Reason]:
    requested = options.multiprocessing_context
    if requested != "auto":
        return requested, Reason("user", "set by you" if requested else "set by you: the platform's default")
    if workload.start_method == "fork" and workload.fork_problem and not workload.spawn_problem:
        return "forkserver", Reason("rule", f"forkserver: {workload.fork_problem}")
    return None, Reason("rule", f"{workload.start_method}, the default here")


def _decide_pinning(options: LoaderOptions, workload: Workload, workers: int) -> tuple[bool, Reason]:
    device = workload.device_type
    if options.pin_memory != "auto":
        useless = options.pin_memory and device is not None and device not in PINNING_DEVICES
        return options.pin_memory, Reason("user", f"set by you; no effect on {device}" if useless else "set by you")
    if device is None:
        return False, Reason("rule", "without a Trainer the device is not known; pass pin_memory=True for CUDA")
    if device not in PINNING_DEVICES:
        return False, Reason("rule", f"the Trainer runs on {device}, which does not copy from page-locked memory")
    if workers == 0:
        return False, Reason("rule", "without workers the pinning copy would run in the training process")
    if options.persistent_workers is True and workload.reload_every_n_epochs > 0:
        return False, Reason("rule", "your persistent workers, reloaded loaders and pinning may leak (pytorch#91252)")
    return True, Reason("rule", f"the Trainer runs on {device}: copies from page-locked memory do not block")


def _decide_persistence(options: LoaderOptions, workload: Workload, workers: int, pin: bool) -> tuple[bool, Reason]:
    reload = workload.reload_every_n_epochs
    if options.persistent_workers != "auto":
        risky = options.persistent_workers and pin and reload > 0
        text = "set by you; with pinning and reloaded loaders torch may leak (pytorch#91252)" if risky else "set by you"
        return options.persistent_workers, Reason("user", text)
    if workers == 0:
        return False, Reason("rule", "no workers to keep")
    if reload > 0 and (pin or reload == 1):
        why = "with pinning that leaks (pytorch#91252)" if pin else "they would serve a single epoch"
        return False, Reason("rule", f"the Trainer makes new loaders every {reload} epochs: {why}")
    if workload.single_pass:
        return False, Reason("rule", "the loader is read once")
    if workload.split != "train" and workload.loaders > 1:
        return False, Reason("rule", f"{workload.loaders} loaders follow each other: only one pool should be alive")
    if workload.persistence_problem:
        return False, Reason("rule", workload.persistence_problem)
    return True, Reason("rule", "workers live on: no restart at every epoch")
