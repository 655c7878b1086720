"""Audits as text."""

from rich.console import Console

from lightning_fastdata.report.audit import audit_table, comparison_line
from lightning_fastdata.results.audit_compare import Comparison, Difference
from lightning_fastdata.results.audit_file import EpochDigest


def told(difference=None, *, more=(0, 0), from_batch=(), **changes):
    values = {"aspects": ("order", "content"), "epochs": 2, "batches": 50, "samples": 400, **changes}
    return comparison_line(Comparison(difference=difference, more=more, from_batch=from_batch, **values))


def test_the_same():
    assert told() == "same: 2 epochs, 50 global batches, 400 samples (order and content)"
    assert told(epochs=1, batches=1, samples=1, aspects=("order",)) == "same: 1 epoch, 1 global batch, 1 sample (order)"
    assert told(samples=None) == "same: 2 epochs, 50 global batches (order and content)"
    assert told(batches=12345).startswith("same: 2 epochs, 12,345 global batches")


def test_as_far_as_both_go():
    start = "same as far as both go: 2 epochs, 50 global batches, 400 samples (order and content); "
    assert told(more=(1, 0)) == start + "A has 1 epoch more"
    assert told(more=(0, 3)) == start + "B has 3 epochs more"
    assert told(from_batch=((1, 24),)) == start + "epoch 1 only from global batch 24 on"


def test_different():
    assert told(Difference(1, ("order",), 32, 39)) == "differs: first in epoch 1, global batches 32 to 39 (order)"
    assert told(Difference(0, ("content",), 7, 7)) == "differs: first in epoch 0, global batch 7 (content)"
    lengths = "differs: epoch 1 has 1 global batch in A and 50 global batches in B"
    assert told(Difference(1, ("order",), 0, 0, (1, 50))) == lengths
    assert told(Difference(1, ("order",), 1, 1, (1, 50))) == lengths + "; the first 1 are the same (order)"


def test_other_rules_are_named():
    """They may be why; where the runs are the same, nobody needs to know."""
    differs = told(Difference(0, ("content",), 7, 7), rules=(1, 2))
    assert differs.endswith("global batch 7 (content); A was made by rules 1 and B was made by rules 2")
    assert told(rules=(1, 2)) == told()


def test_the_runs_have_names():
    comparison = Comparison(("order",), 1, 1, 1, None, (0, 1), ())
    assert comparison_line(comparison, ("old.jsonl", "new.jsonl")).endswith("; new.jsonl has 1 epoch more")


def test_the_table_of_one_run():
    """A row an epoch; what was not measured says so."""
    epochs = [
        EpochDigest(0, 0, 1250, 10000, "0123456789abcdef", None, 16, (), ()),
        EpochDigest(1, 20, 30, None, None, "fedcba9876543210", 1, (), ()),
    ]
    console = Console(width=120)
    with console.capture() as capture:
        console.print(audit_table(epochs))
    rows = [line.split() for line in capture.get().splitlines()]
    assert ["0", "1,250", "10,000", "0123456789abcdef", "not", "measured"] in rows
    assert ["1", "30", "(from", "20)", "not", "measured", "not", "measured", "fedcba9876543210"] in rows
