"""The private names that are leaned on: there today, missed aloud tomorrow."""

import gc
import sys
from types import ModuleType, SimpleNamespace

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loops import evaluation_loop, fit_loop, prediction_loop

from lightning_fastdata.compat import lightning_monitoring

MODULES = (fit_loop, evaluation_loop, prediction_loop)


@pytest.fixture
def trainer():
    return Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1
    )


@pytest.fixture
def untouched():
    before = [module._select_data_fetcher for module in MODULES]
    yield
    assert [module._select_data_fetcher for module in MODULES] == before


class Counter:
    """Counts the calls around ``next``, by stage."""

    def __init__(self):
        self.calls = []

    def __call__(self, stage):
        return lambda: self.calls.append((stage, "start")), lambda: self.calls.append((stage, "stop"))


class Unsized:
    def __iter__(self):
        import torch

        return iter(torch.zeros(3, 1, 32))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fetches_before_the_first_label_are_seen_once(trainer, untouched):
    """Loaders without a length: one batch ahead in training, one in the validation, and no labeled fetch again."""
    counter = Counter()
    undo = lightning_monitoring.watch_fetchers(trainer, counter)
    trainer.fit(BoringModel(), Unsized(), Unsized())
    assert counter.calls == [("train", "start"), ("train", "stop"), ("validate", "start"), ("validate", "stop")]
    undo()
    undo()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_only_the_given_trainer_is_watched_and_several_may_watch(trainer, untouched):
    first, second, other = Counter(), Counter(), Counter()
    stranger = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    undo = [
        lightning_monitoring.watch_fetchers(owner, counter)
        for owner, counter in ((trainer, first), (trainer, second), (stranger, other))
    ]
    trainer.fit(BoringModel(), Unsized())
    for each in (undo[1], undo[0], undo[2]):
        each()
    assert first.calls == second.calls == [("train", "start"), ("train", "stop")]
    assert other.calls == []


def test_a_watch_does_not_keep_its_trainer_alive(untouched):
    import weakref

    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    undo = lightning_monitoring.watch_fetchers(trainer, Counter())
    gone = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert gone() is None
    undo()


def test_a_foreign_wrapper_on_top_is_left_alone(trainer, monkeypatch):
    undo = lightning_monitoring.watch_fetchers(trainer, Counter())
    ours = fit_loop._select_data_fetcher
    foreign = lambda *args: ours(*args)  # noqa: E731
    monkeypatch.setattr(fit_loop, "_select_data_fetcher", foreign)
    undo()
    assert fit_loop._select_data_fetcher is foreign
    monkeypatch.undo()
    fit_loop._select_data_fetcher = sys.modules["lightning.pytorch.loops.utilities"]._select_data_fetcher


def test_a_missing_name_is_told_by_the_return_value(trainer, monkeypatch):
    monkeypatch.delattr(fit_loop, "_select_data_fetcher")
    assert lightning_monitoring.watch_fetchers(trainer, Counter()) is None
    assert lightning_monitoring.watch_fetchers(SimpleNamespace(), Counter()) is None


def test_a_fetcher_of_another_make_is_handed_on_untouched(monkeypatch):
    module = ModuleType("other_loops")
    loop = type("Loop", (), {"__module__": "other_loops"})
    fetcher = object()
    module._select_data_fetcher = lambda trainer, stage: fetcher
    monkeypatch.setitem(sys.modules, "other_loops", module)

    class Other:
        fit_loop = validate_loop = test_loop = predict_loop = loop()

    trainer = Other()
    undo = lightning_monitoring.watch_fetchers(trainer, Counter())
    assert module._select_data_fetcher(trainer, "train") is fetcher
    undo()


def test_the_loggers_step_falls_back_to_the_public_one(trainer):
    assert lightning_monitoring.logger_step(trainer) == 0
    assert lightning_monitoring.logger_step(SimpleNamespace(global_step=7)) == 7


def test_published_metrics_are_read_as_lightnings_own(trainer):
    lightning_monitoring.publish_metrics(trainer, {"wait": 1.0}, {"bar": 2.0})
    assert trainer.callback_metrics["wait"] == 1.0
    assert trainer.progress_bar_metrics["bar"] == 2.0


def test_publishing_falls_back_to_the_public_names():
    stranger = SimpleNamespace(callback_metrics={}, progress_bar_metrics={})
    lightning_monitoring.publish_metrics(stranger, {"wait": 1.0}, {"bar": 2.0})
    assert (stranger.callback_metrics, stranger.progress_bar_metrics) == ({"wait": 1.0}, {"bar": 2.0})
