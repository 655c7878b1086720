"""A tuning in words."""

import pytest
from rich.console import Console

from lightning_fastdata.report.tuning import arguments_line, trial_line, tuning_view
from lightning_fastdata.results.tuning import Consumer, Probe, Trial, TuneResult

PROBE = Probe(8, 0.0841, 0.08, 0.05, 0.0005, 3 * 2**20, 2, None, 0.31, disk_bytes=2**20)
RESULT = TuneResult(
    4,
    2,
    "a batch takes one worker 84.1 ms",
    probe=PROBE,
    consumer=Consumer(0.02),
    cpus=7.5,
    batch_size=64,
    trials=(
        Trial(0, None, 0.104, 0.1041, 0.084, steps=9),
        Trial(4, 2, 0.0213, 0.0212, 0.0011, steps=20, started_s=0.4, verdict="taken"),
        Trial(6, 2, None, 0.0205, verdict="the worker process died"),
    ),
    notes=("The machine is busy.",),
    dataset="Photos, 1,000 samples",
)


def shown(result, **more):
    console = Console(width=110, record=True, **more)
    with console.capture() as captured:
        console.print(tuning_view(result))
    return captured.get()


def test_everything_that_was_found_is_there():
    """What was measured, tried, predicted and decided; the decision last."""
    text = shown(RESULT)
    for words in (
        "84.1 ms, 80.0 ms of CPU",
        "3.0 MiB, 1.0 MiB of it from a disk",
        "not measured",
        "7.5",
        "9.6",
        "46.9",
    ):
        assert words in text
    assert "the worker process died" in text
    assert "Note: The machine is busy." in text
    assert text.rstrip().endswith("Take: num_workers=4, prefetch_factor=2, persistent_workers=True")


def test_what_is_not_known_is_not_made_up():
    """A result without a number has nothing to paste, and says why."""
    text = shown(TuneResult(None, None, "nothing was measured: the worker process died", interrupted=True))
    assert "Take" not in text
    assert "Nothing was measured: the worker process died." in text
    assert "Interrupted" in text


def test_a_ceiling_is_told():
    """Where more workers will not do."""
    result = TuneResult(2, 2, "x", throughput_limit="2 cores can give at most 25 batches/s")
    assert "More workers will not do: 2 cores can give at most 25 batches/s." in shown(result)


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\nb", "[bold]x[/bold]"])
def test_text_from_elsewhere_is_shown_as_it_is(text):
    """Neither escapes nor markup of a dataset's name or an exception do anything."""
    found = shown(TuneResult(None, None, text, dataset=text, notes=(text,)), force_terminal=False)
    assert "\x1b[31m" not in found
    assert text.replace("\n", "\\n").replace("\x1b", "\\x1b") in found


def test_lines_for_logs():
    """One each."""
    assert trial_line(RESULT.trials[1]) == "4 workers x 2: 21.3 ms a step, 5.2 % of it waiting"
    assert trial_line(RESULT.trials[2]) == "6 workers x 2: the worker process died"
    assert arguments_line(TuneResult(0, None, "")) == "num_workers=0"
