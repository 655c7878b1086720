"""The one error type, and the checks of arguments: what is wrong, what was expected, what to do."""

import copy
import pickle

import numpy as np
import pytest

from lightning_fastdata.errors import FastDataError, check_bool, check_int, check_share


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
    """Torch rebuilds the error of a worker from its text alone; an error that needs more would hide its cause."""
    from torch._utils import ExceptionWrapper

    try:
        raise FastDataError("cannot read cat.jpg", expected="an image", fix="remove it")
    except FastDataError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(FastDataError, match=r"(?s)worker process 0.*cannot read cat\.jpg.*Fix: remove it"):
        wrapped.reraise()


WHOLE, TWO_OR_MORE = {"minimum": 1, "maximum": 8}, {"minimum": 2}


@pytest.mark.parametrize(
    ("check", "value", "more", "returned"),
    [
        (check_int, 1, WHOLE, 1),
        (check_int, np.int64(8), WHOLE, 8),
        (check_int, "auto", {**WHOLE, "allow": ("auto",)}, "auto"),
        (check_int, None, {**TWO_OR_MORE, "allow": ("auto", None)}, None),
        (check_int, 10**9, TWO_OR_MORE, 10**9),
        (check_bool, False, {}, False),
        (check_bool, "auto", {"allow": ("auto",)}, "auto"),
        (check_share, 0, {}, 0),
        (check_share, 1.0, {}, 1.0),
        (check_share, None, {"allow": (None,)}, None),
    ],
)
def test_arguments_that_can_be_meant_are_returned(check, value, more, returned):
    """Whole numbers of NumPy's become Python's, for a DataLoader takes no others."""
    found = check("name", value, **more)
    assert found == returned
    assert type(found) is type(returned)


@pytest.mark.parametrize(
    ("check", "value", "more", "expected"),
    [
        (check_int, 0, WHOLE, "a whole number from 1 to 8."),
        (check_int, 9, WHOLE, "a whole number from 1 to 8."),
        (check_int, True, WHOLE, "a whole number from 1 to 8."),
        (check_int, 2.0, TWO_OR_MORE, "a whole number >= 2."),
        (check_int, None, TWO_OR_MORE, "a whole number >= 2."),
        (check_int, "auto", TWO_OR_MORE, "a whole number >= 2."),
        (check_int, np.zeros(2), {**TWO_OR_MORE, "allow": ("auto",)}, 'a whole number >= 2 or "auto".'),
        (check_int, 1, {**TWO_OR_MORE, "allow": ("auto", None)}, 'a whole number >= 2, "auto" or None.'),
        (check_bool, 1, {}, "True or False."),
        (check_bool, "yes", {"allow": ("auto",)}, 'True, False or "auto".'),
        (check_share, 1.5, {}, "a share from 0 to 1 (0.2 is 20 %)."),
        (check_share, -0.1, {"allow": (None,)}, "a share from 0 to 1 (0.2 is 20 %) or None."),
        (check_share, float("nan"), {}, "a share from 0 to 1 (0.2 is 20 %)."),
        (check_share, True, {}, "a share from 0 to 1 (0.2 is 20 %)."),
        (check_share, "0.2", {}, "a share from 0 to 1 (0.2 is 20 %)."),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(check, value, more, expected):
    """The message has the name, the value and what to do; a fix of the caller's own replaces the general one."""
    with pytest.raises(FastDataError) as caught:
        check("name", value, **more)
    assert (caught.value.what, caught.value.expected) == (f"name={value!r}.", expected)
    automatic = "auto" in more.get("allow", ())
    assert caught.value.fix == ('pass name="auto".' if automatic else "change name, or leave it out.")
    with pytest.raises(FastDataError, match="Fix: pass name=3"):
        check("name", value, **more, fix="pass name=3.")
