"""LiveReport: what a warning says."""

import pytest

from lightning_fastdata.callbacks.monitor.live_metrics import LiveReport
from lightning_fastdata.callbacks.monitor.wait_stats import Window


class MainRank:
    """All a warning asks of a Trainer."""

    is_global_zero = True


def test_a_warning_says_what_to_try_first_and_asks_only_when_there_is_one():
    """The same advice as the verdict's at the end; it takes some milliseconds to find."""
    asked = []

    def advice():
        asked.append(1)
        return "num_workers=6 (now 4)."

    live = LiveReport(prog_bar=False, warn_above=0.2, max_warnings=1)
    slow = Window(steps=10, wait_s=0.5, wait_s_max=0.1, train_s=1.0)
    live.warn_if_slow(MainRank(), slow, advice)  # the first window is warm-up
    live.warn_if_slow(MainRank(), Window(steps=10, wait_s=0.01, wait_s_max=0.1, train_s=1.0), advice)
    assert asked == []
    with pytest.warns(UserWarning, match=r"num_workers=6 \(now 4\)") as caught:
        live.warn_if_slow(MainRank(), slow, advice)
    assert "50 %" in str(caught[0].message)
    assert "50.0 ms a step" in str(caught[0].message)
    live.warn_if_slow(MainRank(), slow, advice)
    assert asked == [1]


def test_a_silent_monitor_reports_nothing(monkeypatch):
    """It belongs to another callback, which reads it."""
    monkeypatch.setattr("lightning_fastdata.callbacks.monitor.live_metrics.publish_metrics", pytest.fail)
    live = LiveReport(prog_bar=True, warn_above=None, max_warnings=0, silent=True)
    live.report_window(MainRank(), Window(steps=10, wait_s=0.5, train_s=1.0), to_loggers=True)
