"""The one error type: what is wrong, what was expected, what to do."""

import copy
import pickle

import pytest

from lightning_fastdata.errors import FastDataError


def test_the_message_has_one_line_each_and_ends_with_the_thing_to_do():
    """The last thing in a terminal is what the user has to do."""
    error = FastDataError("num_workers=-1.", expected="0 or more.", fix="pass 0.")
    assert str(error).splitlines() == ["num_workers=-1.", "  Expected: 0 or more.", "  Fix: pass 0."]


def test_parts_that_were_not_given_take_no_line():
    """A bare message stays a bare message."""
    assert str(FastDataError("gone.")) == "gone."
    assert str(FastDataError("gone.", fix="look.")) == "gone.\n  Fix: look."


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_the_error_crosses_process_borders_whole(again):
    """A rank or a worker sends it by pickle; no part is lost."""
    error = again(FastDataError("what", expected="expected", fix="fix"))
    assert isinstance(error, FastDataError)
    assert (error.what, error.expected, error.fix) == ("what", "expected", "fix")


def test_torch_can_raise_it_again_from_a_worker():
    """Torch makes the worker's error anew from its text alone; an error that needs more would hide its cause."""
    from torch._utils import ExceptionWrapper

    try:
        raise FastDataError("cannot read cat.jpg", expected="an image", fix="remove it")
    except FastDataError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(FastDataError, match=r"(?s)worker process 0.*cannot read cat\.jpg.*Fix: remove it"):
        wrapped.reraise()
