"""DataWaitMonitor without a Trainer: its arguments and its identity."""

import math

import pytest

from lightning_fastdata import DataWaitMonitor
from lightning_fastdata.errors import FastDataError


@pytest.mark.parametrize(
    "arguments",
    [
        {"log_every_n_steps": 0},
        {"log_every_n_steps": 2.5},
        {"log_every_n_steps": True},
        {"warn_above": -0.1},
        {"warn_above": 20},
        {"warn_above": math.nan},
        {"warn_above": "0.2"},
        {"max_warnings": -1},
        {"max_warnings": 1.5},
        {"save_to": ""},
        {"save_to": 3},
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_with_their_name(arguments):
    (name,) = arguments
    with pytest.raises(FastDataError, match=name) as caught:
        DataWaitMonitor(**arguments)
    assert "Expected:" in str(caught.value)
    assert "Fix:" in str(caught.value)


def test_monitors_that_differ_have_different_keys_and_the_usual_one_a_short_key():
    """Another file is the same monitor: a run that goes on from a checkpoint is given a new one."""
    keys = {
        DataWaitMonitor(**arguments).state_key
        for arguments in ({}, {"prog_bar": False}, {"warn_above": None}, {"log_every_n_steps": 5})
    }
    assert len(keys) == 4
    assert DataWaitMonitor(warn_above=0.2, save_to="a").state_key == "DataWaitMonitor"


def test_nothing_of_ours_is_named_log():
    """Trap 24: Lightning overwrites these two on every callback."""
    assert not hasattr(DataWaitMonitor(), "log")
    assert not hasattr(DataWaitMonitor(), "log_dict")


def test_no_step_ends_before_the_optimizer_did():
    """Trap 33: on_before_zero_grad comes before backward, and is not listened to."""
    assert "on_before_zero_grad" not in vars(DataWaitMonitor)


def test_hooks_without_a_run_do_nothing():
    monitor = DataWaitMonitor()
    monitor.on_train_batch_end(None, None, None, None, 0)
    monitor.on_exception(None, None, KeyboardInterrupt())
    monitor.teardown(None, None, "fit")
    assert monitor.state_dict() == {}
    monitor.load_state_dict({"steps": 3})
