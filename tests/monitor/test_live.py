"""monitor.live: what a warning says."""

import pytest

from lightning_fastdata.monitor.live import LiveReport
from lightning_fastdata.monitor.meter import Window


class MainRank:
    """All a warning asks of a Trainer."""

    is_global_zero = True


@pytest.mark.parametrize(
    ("num_workers", "at_the_limit", "words"),
    [
        (0, False, "num_workers > 0"),
        (2, False, r"more workers \(now 2\)"),
        (2, True, "cheaper transforms.*more CPU cores"),
        (0, True, "cheaper transforms.*more CPU cores"),
        (None, False, "more workers,"),
    ],
)
def test_advice_fits_what_is_known(num_workers, at_the_limit, words):
    """More workers are advised only where the plan has not already taken all that the machine allows."""
    live = LiveReport(prog_bar=False, warn_above=0.2, max_warnings=3)
    window = Window(steps=10, wait_s=0.5, wait_s_max=0.1, train_s=1.0)
    live.warn_if_slow(MainRank(), window, num_workers, at_the_limit=at_the_limit)  # the first window is warm-up
    with pytest.warns(UserWarning, match=words) as caught:
        live.warn_if_slow(MainRank(), window, num_workers, at_the_limit=at_the_limit)
    assert "50 %" in str(caught[0].message)
    assert "50.0 ms a step" in str(caught[0].message)
