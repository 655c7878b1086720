"""Records: sums, percentiles, the verdict, and the way to a file and back."""

import dataclasses
import itertools
import json
import random
import statistics
import subprocess
import sys

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.results import records
from lightning_fastdata.results.records import StageWait, StepRecord
from lightning_fastdata.results.summary import RunSummary, Totals, summarize
from lightning_fastdata.results.verdict import judge


def record(step=0, wait_s=0.5, *, epoch=0, samples=4, first=False):
    return StepRecord(epoch, step, samples, wait_s, 0.1, 0.3, 0.1, first, 1, 1, 0)


def test_records_need_neither_torch_nor_lightning():
    code = (
        "import lightning_fastdata.results.records, sys; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("cls", [StepRecord, StageWait, Totals, records.Verdict, RunSummary])
def test_every_field_says_what_it_means(cls):
    """A docstring line below each field."""
    import ast
    import inspect

    body = ast.parse(inspect.getsource(cls)).body[0].body
    for field, after in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr), field.target.id
            assert isinstance(after.value, ast.Constant), field.target.id


def test_a_step_goes_to_a_dict_and_back():
    step = record()
    assert StepRecord.from_dict({**step.to_dict(), "from_the_future": 1}) == step
    with pytest.raises(AttributeError):
        step.wait_s = 1.0


def test_a_summary_goes_through_json_and_back():
    stage = StageWait("val", 2, 10, 1.0, 0.4, 4.0)
    summary = dataclasses.replace(
        summarize([record(first=True), record(1)], stages=[stage], num_workers=2), notes=("a note",), host="here"
    )
    assert RunSummary.from_dict(json.loads(json.dumps(summary.to_dict()))) == summary


def test_the_loaders_of_a_stage_go_with_it():
    parts = (StageWait("val/0", 2, 6, 0.2, 0.1, 1.0), StageWait("val/1", 2, 4, None, None, 2.5))
    summary = summarize([], stages=[StageWait("val", 2, 10, 1.0, 0.4, 4.0, parts)])
    written = json.loads(json.dumps(summary.to_dict()))
    assert written == summary.to_dict()
    assert written["stages"][0]["loaders"][0]["wait_share"] == 0.2
    assert RunSummary.from_dict(written) == summary


def test_a_summary_from_before_there_were_loaders_can_be_read():
    """Of the same schema: a reader of either age passes over what it does not know."""
    written = summarize([], stages=[StageWait("val", 2, 10, 1.0, 0.4, 4.0)]).to_dict()
    del written["stages"][0]["loaders"]
    assert RunSummary.from_dict(written).stages[0].loaders == ()


def test_a_summary_of_a_later_layout_is_refused():
    with pytest.raises(FastDataError, match="schema 3"):
        RunSummary.from_dict({**summarize([]).to_dict(), "schema": 3})


def test_the_parts_add_up_and_the_share_is_a_ratio_of_sums():
    summary = summarize([record(0, 0.5), record(1, 1.5)])
    assert summary.wait_s == 2.0
    assert summary.train_s == pytest.approx(3.0)
    assert summary.wait_share == pytest.approx(2 / 3)
    assert summary.samples_per_s == pytest.approx(8 / 3)


def test_percentiles_show_the_bursts_that_a_mean_hides():
    """Trap 34: with four workers the pattern is one slow, three fast."""
    summary = summarize([record(step, 0.4 if step % 4 == 0 else 0.0) for step in range(100)])
    assert (summary.wait_s_median, summary.wait_s_p95, summary.wait_s_max) == (0.0, 0.4, 0.4)


def test_percentiles_agree_with_the_standard_library():
    waits = [random.Random(0).random() for _ in range(101)]
    summary = summarize([record(step, wait) for step, wait in enumerate(waits)])
    assert summary.wait_s_median == statistics.median(waits)
    assert summary.wait_s_p95 == pytest.approx(statistics.quantiles(waits, n=20, method="inclusive")[-1])


def test_totals_count_what_is_no_longer_kept_and_the_summary_says_so():
    totals = Totals(steps=50_000, epochs=5, samples=None, wait_s=100.0, compute_s=300.0, wait_s_max=9.0)
    summary = summarize([record(wait_s=0.1)] * 10, totals=totals)
    assert (summary.steps, summary.wait_s, summary.wait_share, summary.wait_s_max) == (50_000, 100.0, 0.25, 9.0)
    assert summary.percentile_steps == 10


def test_without_a_measured_wait_nothing_is_claimed():
    summary = summarize([record(wait_s=None)] * 30)
    assert (summary.wait_s, summary.wait_share, summary.wait_s_median) == (None, None, None)
    assert summary.timing_source == "not measured"
    assert summary.verdict.level == "unknown"


def test_an_empty_run_has_a_summary_too():
    summary = summarize([])
    assert (summary.steps, summary.wait_share, summary.verdict.text) == (0, None, "No training step was measured.")


def test_an_evaluation_alone_gets_its_own_verdict():
    summary = summarize([], stages=[StageWait("test", 1, 40, 3.0, 0.4, 4.0)])
    assert summary.verdict.text.startswith("Input-bound: 75 % of the test time was spent waiting for data;")
    assert summary.timing_source == "fetch"


def test_first_batches_are_found_by_epoch():
    summary = summarize([record(0, 0.9, first=True), record(1), record(2, 0.7, epoch=1, first=True)])
    assert summary.first_batch_wait_s == ((0, 0.9), (1, 0.7))
    assert summary.epochs == 2


@pytest.mark.parametrize(
    ("share", "arguments", "level", "text"),
    [
        (0.0, {}, "fine", "Not input-bound: 0.0 % of the training time was spent waiting for data."),
        (0.049, {}, "fine", "Not input-bound: 5 % of the training time was spent waiting for data."),
        (
            0.05,
            {},
            "moderate",
            "Moderately input-bound: 5 % of the training time was spent waiting for data; an instant loader would make"
            " this run at most 1.05x faster.",
        ),
        (
            0.38,
            {},
            "input-bound",
            "Input-bound: 38 % of the training time was spent waiting for data; an instant loader would make this run"
            " at most 1.61x faster.",
        ),
        (
            0.38,
            {"num_workers": 0},
            "input-bound",
            "Input-bound: 38 % of the training time was spent waiting for data (num_workers=0: the training process"
            " itself loads it); an instant loader would make this run at most 1.61x faster.",
        ),
        (
            0.02,
            {"steps": 7},
            "fine",
            "Not input-bound: 2 % of the training time was spent waiting for data; the figure rests on only 7 steps.",
        ),
        (
            None,
            {},
            "unknown",
            "The data wait was not measured, so nothing can be said about the loader.",
        ),
    ],
)
def test_the_verdict_is_one_plain_sentence(share, arguments, level, text):
    verdict = judge(share, **{"steps": 100, **arguments})
    assert (verdict.level, verdict.text) == (level, text)


def test_nothing_but_waiting_gives_a_bound_and_no_division_by_zero():
    assert "more than" in judge(1.0, 100).text
