"""Actions that another process has written into the slot."""

import numpy as np
import pytest
from gymnasium import spaces

from aiosampler.collectors.served_actions import RecordedActions


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("n", [1, 3])
def test_discrete_actions_are_numbers_in_the_dtype_of_the_slot_whatever_their_number(n, dtype):
    """Also those that are not in the space: the environment is the one to refuse them."""
    space = spaces.Discrete(3, start=2)
    rows = np.array([2, 3, 4, 1, 0, 5, 100])[:, None] + np.zeros(n, np.int64)
    slots = [{"action": rows.astype(dtype)}, {"action": rows[::-1].astype(dtype)}]
    source = RecordedActions(space, slots, np.zeros(8, np.int64))
    for slot in (0, 1):
        source.begin(slot)
        for t, row in enumerate(slots[slot]["action"]):
            given = source.given(t)
            assert list(given) == row.tolist()
            assert {type(action) for action in given} == {dtype}


def test_actions_that_an_environment_keeps_stay_as_they_were():
    slot = {"action": np.zeros((2, 1), np.int64)}
    source = RecordedActions(spaces.Discrete(2), [slot], np.zeros(8, np.int64))
    (kept,) = source.given(0)
    slot["action"][...] = 1
    assert kept == 0
    assert source.given(0) == (1,)
