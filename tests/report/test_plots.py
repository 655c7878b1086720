"""The figure of a run: it draws every kind of run, with the run's numbers, and says what to install where it cannot."""

import builtins
import dataclasses
import itertools
import pickle
import runpy
from pathlib import Path

import pytest

from lightning_fastdata.errors import FastDataError
from lightning_fastdata.report.plots import plot_run
from lightning_fastdata.report.units import milliseconds
from lightning_fastdata.results.stats import ACCOUNTS

RUNS = runpy.run_path(str(Path(__file__).parent / "html" / "recorded_runs.py"))["RUNS"]


def panels_of(name):
    pytest.importorskip("matplotlib", reason="needs matplotlib, which .[plots] installs")
    summary, records = RUNS[name]()
    figure = plot_run(summary, records)
    return summary, records, figure


def words_of(panel):
    legend = panel.get_legend()
    named = [text.get_text() for text in legend.get_texts()] if legend is not None else []
    return [panel.get_title(loc="left"), *named, *(text.get_text() for text in panel.texts)]


@pytest.mark.parametrize("name", RUNS)
def test_every_run_can_be_drawn(name):
    """Down to the pixels, without a warning."""
    _, _, figure = panels_of(name)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_figure_shows_the_numbers_of_the_run():
    """The ledger's bars sum to the total, the percentiles stand at their values."""
    summary, records, figure = panels_of("input_bound")
    ledger, waits, histogram, queue = figure.axes
    bars = [bar.get_width() for bar in ledger.patches]
    assert sum(bars) == pytest.approx(summary.total_s)
    assert bars == pytest.approx([summary.ledger[name] for name in ACCOUNTS if summary.ledger[name]])
    assert [bar.get_x() for bar in ledger.patches][1:] == pytest.approx(list(itertools.accumulate(bars))[:-1])
    assert f"Waiting for data {summary.ledger['wait_s']:.2f} s (25.3 %)" in words_of(ledger)
    places = [line.get_xdata()[0] for line in histogram.lines]
    assert places == pytest.approx([s * 1000 for s in (summary.wait_s_median, summary.wait_s_p95, summary.wait_s_p99)])
    heights = sum(bar.get_height() for container in waits.containers for bar in container)
    assert heights / 1000 == pytest.approx(sum(record.wait_s for record in records))
    assert queue.lines[0].get_ydata()[0] == summary.waits.queue_capacity
    said = " ".join(figure._suptitle.get_text().split())
    verdict = summary.verdict
    assert said.startswith(verdict.text.partition(". ")[0] + f". Cause: {verdict.cause}")
    assert said.endswith(f"Try first: {verdict.try_first}")


def test_without_a_cause_the_title_is_one_sentence():
    summary, _, figure = panels_of("healthy")
    assert not summary.verdict.try_first
    said = figure._suptitle.get_text()
    assert "Cause:" not in said
    assert "Try first:" not in said


def test_the_axis_of_time_reaches_the_end_of_the_run():
    """For the waits and the queue alike, so that one stands below the other."""
    summary, _, figure = panels_of("input_bound")
    _, waits, _, queue = figure.axes
    assert waits.get_xlim() == queue.get_xlim()
    assert waits.get_xlim()[1] == pytest.approx(summary.total_s)
    summary, records, _ = panels_of("without_new_fields")  # an axis of steps has no such end
    figure = plot_run(dataclasses.replace(summary, total_s=500.0), records)
    assert figure.axes[1].get_xlim() == (0, len(records))


def test_columns_beyond_the_top_are_marked():
    """With a triangle each, and the value beside the largest; without such columns there is none."""
    _, records, figure = panels_of("input_bound")
    waits = figure.axes[1]
    (marks,) = (line for line in waits.lines if line.get_marker() == "^")
    beyond = [record for record in records if record.wait_s * 1000 > waits.get_ylim()[1]]
    assert len(marks.get_xdata()) == len(beyond) > 0
    assert [text.get_text() for text in waits.texts] == [milliseconds(max(record.wait_s for record in records))]
    assert "Beyond the top" in words_of(waits)
    assert not [line for line in panels_of("one_step")[2].axes[1].lines if line.get_marker() == "^"]


def test_epochs_are_marked_above_the_columns():
    _, _, figure = panels_of("input_bound")
    waits = figure.axes[1]
    epochs = [line for line in waits.lines if line.get_linestyle() == ":"]
    assert len(epochs) == 3
    assert min(line.get_zorder() for line in epochs) > max(bar.get_zorder() for bar in waits.patches)


def test_without_a_queue_the_histogram_takes_its_place():
    """And the axis above says that it was not measured."""
    _, _, figure = panels_of("inline")
    _, waits, histogram = figure.axes
    figure.draw_without_rendering()
    assert histogram.get_position().width > 0.9 * waits.get_position().width
    assert "prefetch queue: not measured" in waits.get_xlabel()
    assert "not measured" not in panels_of("input_bound")[2].axes[1].get_xlabel()


def test_of_many_steps_the_mean_and_the_largest_are_drawn():
    _, records, figure = panels_of("long_run")
    waits = figure.axes[1]
    assert "Largest wait in the column" in words_of(waits)
    largest = max(bar.get_height() for bar in waits.containers[0])
    assert largest == pytest.approx(1000 * max(record.wait_s for record in records))


def test_what_was_not_measured_reads_so():
    _, _, figure = panels_of("waits_not_measured")
    assert [words_of(panel)[-1] for panel in figure.axes] == [
        "Where the time went: not measured",
        "Data wait of each step: not measured",
        "Distribution of the data wait: not measured",
    ]


def test_a_figure_can_be_pickled_and_leaves_no_global_state():
    """No window, no entry in pyplot's list of open figures, which would keep it and show it twice."""
    _, _, figure = panels_of("one_step")
    assert pickle.loads(pickle.dumps(figure))._repr_png_().startswith(b"\x89PNG")
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    original = builtins.__import__

    def without(name, *more, **named):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return original(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FastDataError, match=r'pip install "lightning_fastdata\[plots\]"'):
        plot_run(*RUNS["one_step"]())
