"""A plan in words."""

from lightning_fastdata.planning.options import NEED_WORKERS, LoaderPlan

__all__ = ["plan_lines"]


def plan_lines(split: str, plan: LoaderPlan) -> list[str]:
    """The plan of one loader, one line per option that has an effect, per limit that is near, and for a rehearsal.

    Args:
        split: The name to put in the heading, such as "train".
        plan: The decided options.

    Returns:
        Lines for a terminal or a log, without color.
    """
    lines = [f"Data loading for {split}:"]
    for name, value in plan.as_kwargs().items():
        reason = plan.reasons[name]
        if plan.num_workers == 0 and name in NEED_WORKERS and reason.source != "user":
            continue
        by = " [you]" if reason.source == "user" else ""
        lines.append(f"  {name + '=' + str(value):<30}{reason.text}{by}")
    tried = [] if plan.rehearsed is None else [f"  {plan.rehearsed}"]
    return [*lines, *tried, *(f"  {line}" for line in plan.warnings)]
