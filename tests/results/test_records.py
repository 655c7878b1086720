"""Records: sums, percentiles, the verdict, and the way to a file and back."""

import ast
import dataclasses
import inspect
import itertools
import json
import random
import statistics
from types import MappingProxyType

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results import RunSummary, StageWait, StepRecord, Verdict
from lightning_fastdata.results.summary import Totals, summarize
from lightning_fastdata.results.verdict import judge


def record(step=0, wait_s=0.5, *, epoch=0, samples=4, first=False):
    return StepRecord(epoch, step, samples, wait_s, 0.1, 0.3, 0.1, first, 1, 1, 0)


@pytest.mark.parametrize("cls", [StepRecord, StageWait, Totals, Verdict, RunSummary])
def test_every_field_says_what_it_means(cls):
    """A docstring line below each field."""
    body = ast.parse(inspect.getsource(cls)).body[0].body
    for field, after in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr), field.target.id
            assert isinstance(after.value, ast.Constant), field.target.id


def test_a_step_goes_to_a_dict_and_back():
    step = record()
    assert StepRecord.from_dict({**step.to_dict(), "from_the_future": 1}) == step
    with pytest.raises(ValueError, match="wait_s"):
        StepRecord.from_dict({**step.to_dict(), "wait_s": "long"})


def test_a_summary_goes_through_json_and_back():
    """With the loaders of its stages; what an older version did not write has its default."""
    parts = (StageWait("val/0", 2, 6, 0.2, 0.1, 1.0), StageWait("val/1", 2, 4, None, None, 2.5))
    stages = [StageWait("val", 2, 10, 1.0, 0.4, 4.0, parts), StageWait("test", 1, 1, 1.0, 0.4, 4.0)]
    summary = summarize([record(first=True), record(1)], stages=stages, num_workers=2)
    summary = dataclasses.replace(
        summary, notes=("a note",), host="here", plans=MappingProxyType({"train": {"dataset": object}})
    )
    written = summary.to_dict()
    assert json.loads(json.dumps(written)) == written
    assert written["stages"][0]["loaders"][0]["wait_share"] == 0.2
    assert written["plans"] == {"train": {"dataset": str(object)}}
    del written["stages"][1]["loaders"]
    assert RunSummary.from_dict(written) == dataclasses.replace(summary, plans=written["plans"])


def test_a_summary_of_a_later_schema_is_refused():
    with pytest.raises(FastDataError, match="schema 3"):
        RunSummary.from_dict({**summarize([]).to_dict(), "schema": 3})


def test_the_parts_add_up_and_the_share_is_a_ratio_of_sums():
    summary = summarize([record(0, 0.5, first=True), record(1, 1.5, epoch=1, first=True)])
    assert (summary.epochs, summary.first_batch_wait_s) == (2, ((0, 0.5), (1, 1.5)))
    assert summary.wait_s == 2.0
    assert summary.train_s == pytest.approx(3.0)
    assert summary.wait_share == pytest.approx(2 / 3)
    assert summary.samples_per_s == pytest.approx(8 / 3)


def test_percentiles_show_the_bursts_that_a_mean_hides():
    """Trap 34: with four workers the pattern is one slow, three fast. They agree with the standard library's."""
    summary = summarize([record(step, 0.4 if step % 4 == 0 else 0.0) for step in range(100)])
    assert (summary.wait_s_median, summary.wait_s_p95, summary.wait_s_max) == (0.0, 0.4, 0.4)
    waits = [random.Random(0).random() for _ in range(101)]
    summary = summarize([record(step, wait) for step, wait in enumerate(waits)])
    assert summary.wait_s_median == statistics.median(waits)
    assert summary.wait_s_p95 == pytest.approx(statistics.quantiles(waits, n=20, method="inclusive")[-1])


def test_totals_count_what_is_no_longer_kept_and_the_summary_says_so():
    totals = Totals(steps=50_000, epochs=5, samples=None, wait_s=100.0, compute_s=300.0, wait_s_max=9.0)
    summary = summarize([record(wait_s=0.1)] * 10, totals=totals, first_waits=[(0, 9.0)])
    assert (summary.steps, summary.wait_s, summary.wait_share, summary.wait_s_max) == (50_000, 100.0, 0.25, 9.0)
    assert (summary.percentile_steps, summary.first_batch_wait_s) == (10, ((0, 9.0),))


def test_without_a_measured_wait_nothing_is_claimed():
    summary = summarize([record(wait_s=None)] * 30)
    assert (summary.wait_s, summary.wait_share, summary.wait_s_median) == (None, None, None)
    assert (summary.timing_source, summary.verdict.level) == ("not measured", "unknown")
    empty = summarize([])
    assert (empty.steps, empty.wait_share, empty.verdict.text) == (0, None, "No training step was measured.")


def test_an_evaluation_alone_gets_its_own_verdict():
    summary = summarize([], stages=[StageWait("test", 1, 9, 3.0, 0.4, 4.0)])
    assert summary.verdict.text == (
        "Input-bound: 75 % of the test time was data wait. Max speedup at zero data wait: 4.00x. The figure rests on"
        " only 9 batches."
    )
    assert summary.timing_source == "fetch"


@pytest.mark.parametrize(
    ("share", "arguments", "level", "text"),
    [
        (0.0, {}, "fine", "Not input-bound: 0.0 % of the training time was data wait."),
        (0.049, {}, "fine", "Not input-bound: 5 % of the training time was data wait."),
        (0.05, {}, "moderate", "Moderately input-bound: 5 % of the training time was data wait. {}1.05x."),
        (0.38, {}, "input-bound", "Input-bound: 38 % of the training time was data wait. {}1.61x."),
        (1.0, {}, "input-bound", "Input-bound: 100 % of the training time was data wait. {}about 100x or more."),
        (0.38, {"num_workers": 0}, "input-bound", "was data wait (num_workers=0: the main process loads). {}1.61x."),
        (0.02, {"steps": 1}, "fine", "was data wait. The figure rests on only 1 step."),
        (None, {}, "unknown", "The data wait was not measured, so nothing can be said about the loader."),
    ],
)
def test_the_verdict_is_plain(share, arguments, level, text):
    verdict = judge(share, **{"steps": 100, **arguments})
    assert verdict.level == level
    assert verdict.text.endswith(text.format("Max speedup at zero data wait: "))
