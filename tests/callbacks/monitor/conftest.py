import pytest


class FakeClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> float:
        self.now += seconds
        return self.now


@pytest.fixture
def fake_clock():
    return FakeClock()


@pytest.fixture(autouse=True)
def gaps_of_any_length(monkeypatch):
    """These tests count in whole seconds; a gap of the loop may be that long but in the test of that bound."""
    monkeypatch.setattr("lightning_fastdata.callbacks.monitor.accounts._LONGEST_LOOP_GAP_S", 1e9)
