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


class Connector:
    """Where Lightning logs its rows."""

    def __init__(self, trainer):
        self.trainer = trainer

    def log_metrics(self, metrics, step=None):
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(metrics), step=step)


class Rows:
    """A logger that keeps its rows, and may refuse some."""

    def __init__(self, refuses=()):
        self.rows, self.refuses = [], refuses

    def log_metrics(self, metrics, step=None):
        if set(metrics) & set(self.refuses):
            raise KeyError("data_wait/train_s")
        self.rows.append((step, sorted(metrics)))


class LoggingTrainer:
    is_global_zero, global_step = True, 10

    def __init__(self, **options):
        self.loggers = [Rows(**options)]
        self._logger_connector = Connector(self)
        self.callback_metrics, self.progress_bar_metrics = {}, {}


WINDOW = Window(steps=10, wait_s=0.5, wait_s_max=0.1, train_s=1.0)
OURS = ["data_wait/train_s", "data_wait/train_s_max", "data_wait/train_share"]


def test_the_figures_go_into_the_rows_that_lightning_logs():
    """No row of our own, which would move the step of a logger that counts rows; the last one where none came."""
    trainer, live = LoggingTrainer(), LiveReport(prog_bar=False, warn_above=None, max_warnings=0)
    live.report_window(trainer, WINDOW, to_loggers=True)
    trainer._logger_connector.log_metrics({"loss": 1.0}, step=10)
    trainer._logger_connector.log_metrics({"loss": 1.0}, step=20)
    assert trainer.loggers[0].rows == [(10, [*OURS, "loss"]), (20, ["loss"])]
    live.report_window(trainer, WINDOW, to_loggers=True)
    live.close(trainer)
    assert trainer.loggers[0].rows[2:] == [(10, OURS)]
    assert "log_metrics" not in vars(trainer._logger_connector)


def test_a_model_that_logs_nothing_gets_rows_of_ours():
    """One for each report, at the step of its own."""
    trainer, live = LoggingTrainer(), LiveReport(prog_bar=False, warn_above=None, max_warnings=0)
    for step in (10, 20, 30):
        trainer.global_step = step
        live.report_window(trainer, WINDOW, to_loggers=True)
    live.close(trainer)
    assert trainer.loggers[0].rows == [(10, OURS), (20, OURS), (30, OURS)]


def test_a_logger_that_refuses_the_figures_still_gets_the_models():
    """One warning, and no more of ours."""
    trainer, live = LoggingTrainer(refuses=OURS), LiveReport(prog_bar=False, warn_above=None, max_warnings=0)
    live.report_window(trainer, WINDOW, to_loggers=True)
    with pytest.warns(UserWarning, match="a logger refused the data wait"):
        trainer._logger_connector.log_metrics({"loss": 1.0}, step=10)
    live.report_window(trainer, WINDOW, to_loggers=True)
    live.close(trainer)
    assert trainer.loggers[0].rows == [(10, ["loss"])]


@pytest.mark.filterwarnings("error")
def test_a_warning_of_ours_never_ends_a_run(caplog):
    """Where warnings are errors it is logged."""
    live = LiveReport(prog_bar=False, warn_above=0.2, max_warnings=1)
    for _ in range(2):
        live.warn_if_slow(MainRank(), WINDOW, lambda: "num_workers=6 (now 4).")
    assert "num_workers=6 (now 4)." in caplog.text


def test_a_silent_monitor_reports_nothing(monkeypatch):
    """It belongs to another callback, which reads it."""
    monkeypatch.setattr("lightning_fastdata.callbacks.monitor.live_metrics.publish_metrics", pytest.fail)
    live = LiveReport(prog_bar=True, warn_above=None, max_warnings=0, silent=True)
    live.report_window(MainRank(), Window(steps=10, wait_s=0.5, train_s=1.0), to_loggers=True)
