"""A hook's own fault, and whatever else may be raised in one."""

import pytest

from lightning_fastdata.callbacks.guard import guarded


class Monitor:
    def __init__(self):
        self.faults = []

    @guarded
    def on_train_end(self, trainer, *, error=None):
        """What Lightning calls."""
        if error is not None:
            raise error
        return trainer

    def _give_up(self, error):
        self.faults.append(error)


def test_a_hook_without_a_fault_is_called_as_it_stands():
    monitor = Monitor()
    assert monitor.on_train_end("trainer") == "trainer"
    assert monitor.faults == []
    assert (Monitor.on_train_end.__name__, Monitor.on_train_end.__doc__) == ("on_train_end", "What Lightning calls.")


def test_a_fault_goes_to_the_callback_and_no_further():
    monitor, error = Monitor(), ValueError("mine")
    assert monitor.on_train_end("trainer", error=error) is None
    assert monitor.faults == [error]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_whoever_stops_the_program_stops_it(error):
    monitor = Monitor()
    with pytest.raises(type(error)):
        monitor.on_train_end("trainer", error=error)
    assert monitor.faults == []
