"""Whether workers live on: what they hold, beside what the dataset is now; the clock is the test's own."""

import itertools
import warnings

import pytest
import torch

from lightning_fastdata.loaders.state.worker_lifetime import WorkerLifetime, part_that_hides

LOOK_S = 0.010


class Data:
    def __init__(self, **attributes):
        vars(self).update(attributes)


class Clock:
    """Every look takes 10 ms."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += LOOK_S
        return self.now


def lifetime(data, *, automatic=True, took_workers=True):
    lines = []
    made = WorkerLifetime({"dataset": data}, automatic, lines.append, took_workers, clock=Clock())
    return made, lines


def test_workers_live_on_while_the_dataset_is_the_same():
    """And no longer; one line names the attribute."""
    data = Data(level=0)
    made, lines = lifetime(data)
    assert made.may_keep()
    assert made.is_worth(1.0)
    assert not made.has_changed()
    data.level = 1
    assert made.has_changed()
    assert made.has_changed()
    assert lines == ["dataset.level has changed since the workers started: new ones are started"]


@pytest.mark.parametrize(("start_s", "worth"), [(0.061, True), (0.059, False)])
def test_looking_may_cost_a_third_of_a_start(start_s, worth):
    """Two looks of 10 ms in each pass, so 60 ms; a start that once was too quick decides for the run."""
    made, _ = lifetime(Data())
    made.may_keep()
    assert made.is_worth(start_s) is worth
    assert made.is_worth(10.0) is worth
    assert "takes 10 ms" in made.cost


def test_what_cannot_be_seen_ends_it_with_its_name():
    """State in a C object; asked without reading an array, large ones included."""
    made, lines = lifetime(Data(hidden=iter([1])))
    assert not made.may_keep()
    assert lines == ["workers start again for each pass: dataset.hidden may change unseen"]
    assert part_that_hides({"dataset": Data(hidden=iter([1]))}) == "dataset.hidden"
    assert (
        part_that_hides({"dataset": Data(seen=torch.zeros(3), sparse=torch.zeros(3).to_sparse())}) == "dataset.sparse"
    )
    assert part_that_hides({"dataset": Data(huge=torch.empty(1).expand(2**28 + 1))}) == "dataset.huge"
    assert part_that_hides({"dataset": Data(seen=torch.zeros(3))}) is None


def test_persistence_of_the_users_is_warned_of_once():
    """It stays, whatever a look costs."""
    data = Data(level=0)
    made, lines = lifetime(data, automatic=False, took_workers=False)
    assert made.may_keep()
    assert made.is_worth(0.0)
    data.level = 1
    with pytest.warns(UserWarning, match=r"dataset.level has changed, but your persistent_workers=True") as caught:
        assert not any(made.has_changed() for _ in range(2))
    assert len(caught) == 1
    assert lines == []


@pytest.mark.parametrize(("took_workers", "wanted"), list(itertools.product([True, False], [True, False])))
def test_a_change_in_mid_epoch_is_warned_of_once(took_workers, wanted):
    """Workers that "auto" took follow it no more; a number of the user's stays, and so does Lightning's default."""
    data = Data(level=0)
    made, _ = lifetime(data, took_workers=took_workers)
    assert made.may_keep(wanted) is wanted
    made.is_worth(1.0)
    data.level = 1
    if not took_workers and not wanted:
        made.end_pass()  # nothing was looked at: torch's own loader does the same
        assert not made.follows
        return
    with pytest.warns(UserWarning, match=r"dataset.level has changed in the middle of an epoch") as caught:
        [made.end_pass() for _ in range(2)]
    assert len(caught) == 1
    assert made.follows is took_workers


def test_no_second_look_where_looking_is_dear():
    """The bound holds for the end of a pass as well."""
    data = Data(level=0)
    made, _ = lifetime(data)
    made.may_keep(False)
    made.is_worth(0.001)
    data.level = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.end_pass()
    assert not made.may_keep(False)
    assert made._held is None
