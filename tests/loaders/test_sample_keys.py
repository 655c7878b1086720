"""Keys of samples as numbers."""

import numpy as np
import pytest
import torch

from lightning_fastdata.loaders.sample_keys import sample_number

LONG = np.arange(2000)


def changed(array):
    """A copy that differs in its middle, which ``repr`` leaves out."""
    other = array.copy()
    other[len(array) // 2] += 1
    return other


@pytest.mark.parametrize(
    "kinds",
    [
        [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.int32)],
        [-1, np.int64(-1), torch.tensor(-1)],
        [0.5, np.float64(0.5), np.array(0.5), torch.tensor(0.5)],
        ["cat.jpg", np.str_("cat.jpg"), np.array("cat.jpg")],
        [(3, "a"), (np.int64(3), "a"), (torch.tensor(3), np.str_("a")), [3, "a"]],
        [LONG, LONG.copy(), torch.from_numpy(LONG)],
        [["a", None], np.array(["a", None], dtype=object)],
    ],
    ids=lambda kinds: str(kinds[0])[:12],
)
def test_a_key_counts_by_its_content_not_its_type(kinds):
    assert len({sample_number(key) for key in kinds}) == 1


@pytest.mark.parametrize(
    "keys",
    [
        [LONG, changed(LONG), LONG[:-1], LONG.astype(np.int32)],
        [torch.from_numpy(LONG), torch.from_numpy(changed(LONG)), torch.from_numpy(LONG).reshape(2, -1)],
        [("a", LONG), ("a", changed(LONG))],
        [0.2, 0.7, "0.2", b"0.2", None],
        [("a", 1), ("a", 2), ("a",), [["a"], 1]],
    ],
    ids=["arrays", "tensors", "within a tuple", "names", "tuples"],
)
def test_other_keys_have_other_numbers(keys):
    assert len({sample_number(key) for key in keys}) == len(keys)


def test_whole_numbers_are_themselves():
    """Of any size and sign; negative indices have seeds of their own."""
    for number in (0, 3, -1, 2**63, -(2**70)):
        assert sample_number(number) == number
    assert sample_number(torch.tensor(-1)) == -1


def test_the_digest_is_a_promise():
    """Pinned, for a resumed run has to draw the same numbers; Python's own hash of a text differs by process."""
    assert sample_number("cat.jpg") == 9726438736694266298
    assert sample_number(("a", 1)) == 11051005939416817609
    assert sample_number(np.arange(3)) == 15945165947494991566
